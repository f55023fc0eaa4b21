//! Changes the plugin of a stage while it runs, in the background, so that a swap costs the stream nothing.
//!
//! A thread for each stage looks at the plugin's file and takes requests. What it finds is read once, hashed, compiled, checked, configured and
//! self-tested; only then are its bytes kept, remembered, and published to the workers, in this order, so that a restart runs what was published.
//! Whatever does not fit is refused with its reason, and the version that runs runs on. Looking means asking the file system twice a
//! second or so: that sees every way in which a file changes (renames, symlinks that are switched, network folders), where notifications do not.

pub(crate) mod pipeline_file;
pub(crate) mod store;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::oneshot;

use crate::chaos::{self, Point};
use crate::config::PluginConfig;
use crate::metrics::StageMetrics;
use crate::plugin::component::Binary;
use crate::plugin::instance::{Executor, Instance};
use crate::prepare::{self, Place, Prepared};
use crate::status::{PluginReport, StageStatus};
use crate::version::{Current, RolledBack, Version};

use store::{Change, Event, OnTrial, Remembered, Store};
use watch::FileWatch;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What a swapper is asked for.
pub(crate) enum Wish {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The plugin's file, whether it has changed or not.
    File,
    /// The version before, or the one with this digest (or the beginning of it).
    Back(Option<String>),
    /// The present bytes with another configuration.
    Config(PluginConfig),
}

/// A wish, and where its outcome is told.
pub(crate) struct Request {
    pub(crate) wish: Wish,
    pub(crate) answer: oneshot::Sender<Result<PluginReport, String>>,
}

/// What a swapper works with.
pub(crate) struct Swapper {
    pub(crate) place: Place,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) current: Arc<Current<Version>>,
    pub(crate) metrics: StageMetrics,
    pub(crate) status: Arc<StageStatus>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) remembered: Remembered,
    /// The file could not be read at the start, so that it is news when it comes back.
    pub(crate) is_file_unread: bool,
}

/// A version on its way to the workers.
struct Candidate {
    binary: Binary,
    prepared: Prepared,
    change: Change,
    by: &'static str,
}

impl Swapper {
    /// Starts the thread; it ends when `stop` is set.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(mut self, requests: Receiver<Request>, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
        let watched = self.file.clone().filter(|_| self.place.stage.swap.watch);
        let known = self.remembered.file.clone().filter(|_| !self.is_file_unread);
        let bytes_max = self.place.stage.limits.file_bytes.value;
        let mut watch = watched.map(|file| FileWatch::new(file, known, bytes_max));
        std::thread::Builder::new()
            .name(format!("{}-swap", self.name()))
            .spawn(move || {
                let mut next_look = Instant::now() + LOOK;
                while !stop.load(Ordering::Acquire) {
                    let wait = next_look.saturating_duration_since(Instant::now());
                    match requests.recv_timeout(wait) {
                        Ok(request) => {
                            let outcome = self.unharmed(|swapper| swapper.fulfil(request.wish));
                            // Whoever asked may be gone.
                            let _ = request.answer.send(outcome.map_err(|error| format!("{error:#}")));
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
                    }
                    self.follow_rollback();
                    self.end_trial();
                    // However many requests there are: a file has settled when it stays the same for this long.
                    if Instant::now() < next_look {
                        continue;
                    }
                    next_look = Instant::now() + LOOK;
                    if let Some(found) = watch.as_mut().and_then(FileWatch::look) {
                        // What becomes of it is told in the log, the status and the history.
                        let _ = self.unharmed(|swapper| swapper.file_changed(found));
                    }
                }
                self.follow_rollback();
            })
            .context("start a swap thread")
    }

    fn name(&self) -> &str {
        &self.place.stage.name.value
    }

    /// The compiler and the check of schemas are given foreign bytes: should they panic, the bytes are refused and the thread goes on.
    fn unharmed<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(self)));
        done.unwrap_or_else(|_| {
            let error = anyhow!("the host panicked on it, which is a defect of the host; its message is in the log");
            Err(self.refuse(None, "command", error))
        })
    }

    fn fulfil(&mut self, wish: Wish) -> Result<PluginReport> {
        self.follow_rollback();
        match wish {
            Wish::Bytes(bytes) => {
                let bytes_max = self.place.stage.limits.file_bytes.value;
                match Binary::received(bytes, bytes_max) {
                    Ok(binary) => self.take(binary, Change::Swapped, "command"),
                    Err(error) => Err(self.refuse(None, "command", error)),
                }
            }
            Wish::File => {
                let file = self
                    .file
                    .as_ref()
                    .ok_or_else(|| anyhow!("the stage has no plugin file: its crate could not be built"))?;
                let found = Binary::read(file, self.place.stage.limits.file_bytes.value)
                    .with_context(|| file.display().to_string());
                self.take_file(found)
            }
            Wish::Back(digest) => self.go_back(digest),
            Wish::Config(config) => self.configure(config),
        }
    }

    /// The watch has found another file.
    fn file_changed(&mut self, found: Result<Binary>) -> Result<()> {
        let digest = found.as_ref().ok().map(|binary| &binary.digest);
        if digest.is_some() && digest == self.remembered.file.as_ref() && digest != self.remembered.active.as_ref() {
            // It was tried before, by command or before the file went away, and is still what it was then.
            self.status.set_refused(self.remembered.refused.clone());
            return Ok(());
        }
        self.take_file(found).map(|_| ())
    }

    /// The file is to run.
    fn take_file(&mut self, found: Result<Binary>) -> Result<PluginReport> {
        let binary = match found {
            Ok(binary) => binary,
            Err(error) => return Err(self.refuse(None, "file", error)),
        };
        let digest = binary.digest.clone();
        if self.remembered.active.as_deref() == Some(&digest) {
            // Back to what runs: nothing is refused any more.
            self.remembered.file = Some(digest);
            self.remembered.refused = None;
            self.remember();
            self.status.set_refused(None);
            return self.status.plugin().context("no plugin runs");
        }
        self.remembered.file = Some(digest);
        self.take(binary, Change::Swapped, "file")
    }

    fn go_back(&mut self, digest: Option<String>) -> Result<PluginReport> {
        let store = self.store.as_ref().context("this run keeps no versions")?;
        let wanted = match &digest {
            None => self.remembered.previous().cloned(),
            Some(beginning) => {
                let mut fits = self
                    .remembered
                    .versions
                    .iter()
                    .filter(|known| known.starts_with(beginning.as_str()));
                let found = fits.next().cloned();
                if fits.next().is_some() {
                    bail!("several versions begin with `{beginning}`; give more of the digest");
                }
                found
            }
        };
        let Some(wanted) = wanted else {
            let known: Vec<&str> = self
                .remembered
                .versions
                .iter()
                .map(|digest| &digest[..12.min(digest.len())])
                .collect();
            bail!("there is no such version to go back to; kept are: {}", known.join(", "));
        };
        let binary = store.binary(&wanted)?;
        self.take(binary, Change::RolledBack, "command")
    }

    fn configure(&mut self, config: PluginConfig) -> Result<PluginReport> {
        if config.value == self.place.stage.config.value {
            // Back to what runs: nothing is refused any more.
            self.status.set_refused(self.remembered.refused.clone());
            return self.status.plugin().context("no plugin runs");
        }
        let digest = self.remembered.active.clone().context("no plugin runs")?;
        let binary = match &self.store {
            Some(store) => store.binary(&digest)?,
            None => bail!("this run keeps no versions"),
        };
        let before = std::mem::replace(&mut self.place.stage.config, config);
        let taken = self.take(binary, Change::Configured, "pipeline file");
        if taken.is_err() {
            self.place.stage.config = before;
        }
        taken
    }

    /// Loads, checks and tries out what may become the version that runs, and publishes it.
    fn take(&mut self, binary: Binary, change: Change, by: &'static str) -> Result<PluginReport> {
        let source = match by {
            "file" => self.file.as_ref().map(|file| file.display().to_string()),
            _ => None,
        };
        let source = source.unwrap_or_else(|| format!("version {}", short(&binary.digest)));
        let loaded = self.place.load(&binary, &source);
        let prepared = match loaded {
            Ok(prepared) => prepared,
            Err(mistakes) => {
                let error = anyhow!(prepare::told(&self.place.stage, &mistakes));
                return Err(self.refuse(Some(&binary), by, error));
            }
        };
        chaos::kill(Point::SwapLoaded);
        // What was rolled back while this was loaded is remembered first.
        self.follow_rollback();
        let candidate = Candidate {
            binary,
            prepared,
            change,
            by,
        };
        self.activate(candidate)
    }

    fn activate(&mut self, candidate: Candidate) -> Result<PluginReport> {
        let Candidate {
            binary,
            prepared,
            change,
            by,
        } = candidate;
        let version = match self.version_of(prepared) {
            Ok(version) => version,
            Err(error) => return Err(self.refuse(Some(&binary), by, error)),
        };
        let report = report(&version, self.file.as_ref());
        let share = match change {
            Change::Swapped | Change::Configured => self.place.stage.swap.rollback,
            Change::Started | Change::Refused | Change::RolledBack => None,
        };
        let trial = share.map(|share| self.current.next_trial(share));
        let mut remembered = self.remembered.clone();
        let before = remembered.active.take().filter(|before| *before != binary.digest);
        // The configuration before is not kept, so its trial ends with the process.
        remembered.trial = before.zip(trial).map(|(before, trial)| OnTrial { trial, before });
        remembered.activate(&binary.digest);
        remembered.refused = None;
        if let Err(error) = self.keep(&binary, change, by, &report, &remembered) {
            // A version that a restart could not find again is not published.
            return Err(self.refuse(Some(&binary), by, error.context("the version cannot be kept")));
        }
        chaos::kill(Point::SwapRecorded);
        let rolled_back = self.current.publish(version, trial);
        self.remembered = remembered;
        if let Some(rolled_back) = rolled_back {
            // Its own mark may stand where this version was remembered.
            self.remember();
            self.tell_rolled_back(&rolled_back);
        }
        chaos::kill(Point::SwapPublished);
        chaos::record("swap");
        self.metrics.swap(change.as_str());
        self.metrics.runs(&report.name, &report.version, &report.digest);
        self.status.set_plugin(report.clone());
        self.status.set_refused(None);
        tracing::info!(
            stage = self.name(),
            plugin = report.name,
            version = report.version,
            digest = report.digest,
            by,
            "{} plugin",
            match change {
                Change::Configured => "configured the",
                Change::RolledBack => "went back to another version of the",
                _ => "swapped the",
            }
        );
        Ok(report)
    }

    fn keep(
        &self,
        binary: &Binary,
        change: Change,
        by: &str,
        report: &PluginReport,
        remembered: &Remembered,
    ) -> Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        store.keep(binary)?;
        store.record(&self.event(change, by, Some(report), None))?;
        store.remember(self.name(), remembered)?;
        if let Err(error) = store.tidy(SystemTime::now()) {
            tracing::warn!(error = format!("{error:#}"), "old versions are not cleared away");
        }
        Ok(())
    }

    /// Makes the instances that the workers will call, so that none has to wait for its own.
    fn version_of(&self, prepared: Prepared) -> Result<Arc<Version>> {
        let metrics = prepared.plugin.metrics(&self.metrics);
        let executor = Arc::new(Executor::new().context("start the executor")?);
        let mut spares = Vec::new();
        for _ in 0..self.place.stage.workers.value {
            let made = Instance::new(
                Arc::clone(&prepared.plugin),
                Arc::clone(&executor),
                Arc::clone(&metrics),
            );
            spares.push(made.map_err(|fault| anyhow!("an instance cannot be made ({}): {fault}", fault.kind))?);
            self.metrics.instances.inc();
        }
        Ok(Arc::new(Version {
            plugin: prepared.plugin,
            routes: prepared.routes,
            metrics,
            config: self.place.stage.config.clone(),
            spares: spares.into(),
        }))
    }

    /// Leaves the version that runs, and says why the other one was not taken.
    fn refuse(&mut self, binary: Option<&Binary>, by: &'static str, error: anyhow::Error) -> anyhow::Error {
        let reason = format!("{error:#}");
        let digest = binary.map(|binary| binary.digest.as_str());
        tracing::error!(
            stage = self.name(),
            digest,
            by,
            error = reason,
            "a new version of the plugin is refused; the one before runs on"
        );
        self.metrics.swap(Change::Refused.as_str());
        if by == "file" {
            self.remembered.refused = Some(reason.clone());
            self.remember();
        }
        if let Some(store) = &self.store {
            let mut event = self.event(Change::Refused, by, None, Some(reason.clone()));
            event.digest = digest.map(str::to_owned);
            if let Err(error) = store.record(&event) {
                tracing::warn!(error = format!("{error:#}"), "the history is not written");
            }
        }
        self.status.set_refused(Some(reason));
        error
    }

    /// A worker has gone back to the version before, because the new one failed too often.
    fn follow_rollback(&mut self) {
        let Some(rolled_back) = self.current.take_rolled_back() else {
            return;
        };
        let (from, to) = (&rolled_back.from, &rolled_back.to);
        self.remembered
            .roll_back(&from.plugin.digest, &to.plugin.digest, &rolled_back.reason);
        self.remember();
        self.place.stage.config = to.config.clone();
        let report = self.tell_rolled_back(&rolled_back);
        self.metrics.runs(&report.name, &report.version, &report.digest);
        self.status.set_plugin(report);
        self.status.set_refused(Some(rolled_back.reason));
    }

    /// The first records of the version that runs went well.
    fn end_trial(&mut self) {
        if self.remembered.trial.is_some() && !self.current.get().is_on_trial() {
            self.remembered.trial = None;
            self.remember();
        }
    }

    fn tell_rolled_back(&self, rolled_back: &RolledBack<Version>) -> PluginReport {
        let (from, to) = (&rolled_back.from.plugin, &rolled_back.to);
        let report = report(to, self.file.as_ref());
        tracing::error!(
            stage = self.name(),
            from = from.digest,
            to = report.digest,
            reason = rolled_back.reason,
            "the new version of the plugin is rolled back"
        );
        if let Some(store) = &self.store {
            let event = self.event(
                Change::RolledBack,
                "failures",
                Some(&report),
                Some(rolled_back.reason.clone()),
            );
            if let Err(error) = store.record(&Event {
                from: Some(from.digest.clone()),
                ..event
            }) {
                tracing::warn!(error = format!("{error:#}"), "the history is not written");
            }
        }
        self.metrics.swap(Change::RolledBack.as_str());
        report
    }

    fn event(&self, change: Change, by: &str, report: Option<&PluginReport>, reason: Option<String>) -> Event {
        Event {
            at: store::now(),
            stage: self.name().to_owned(),
            change,
            by: by.to_owned(),
            from: self.remembered.active.clone(),
            digest: report.map(|report| report.digest.clone()),
            plugin: report.map(|report| format!("{} {}", report.name, report.version)),
            reason,
        }
    }

    fn remember(&self) {
        let Some(store) = &self.store else {
            return;
        };
        if let Err(error) = store.remember(self.name(), &self.remembered) {
            let error = format!("{error:#}");
            tracing::error!(stage = self.name(), error, "what the stage runs is not remembered");
        }
    }
}

/// What is told of a version.
pub(crate) fn report(version: &Version, file: Option<&PathBuf>) -> PluginReport {
    let description = &version.plugin.description;
    PluginReport {
        name: description.name.clone(),
        version: description.version.clone(),
        digest: version.plugin.digest.clone(),
        file: file.map(|file| file.display().to_string()).unwrap_or_default(),
    }
}

/// Enough of a digest for people.
pub(crate) fn short(digest: &str) -> &str {
    &digest[..12.min(digest.len())]
}
