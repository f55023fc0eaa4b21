//! What a process remembers of its stages across restarts: the last good bytes of each plugin, what was refused, what was paused, and the
//! history of versions.
//!
//! A folder for each app in `state: {dir: ..}`: `plugins/DIGEST.wasm` has the bytes, `stages/STAGE.json` what is to run, `history.jsonl` one
//! line an event. Every file is written beside and renamed, so a crash leaves the old or the new one; the bytes of a version are kept
//! before anything names them. Several processes may share the folder, if each has an `instance` of its own.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::plugin::component::Binary;
use crate::version::Trial;

/// How many versions of a stage can be gone back to.
const VERSIONS_KEPT: usize = 10;
/// Bytes that nothing names are left alone for this long: another stage or process may be about to name them.
const UNNAMED_KEPT: Duration = Duration::from_secs(60);
/// When the history is longer, its older half goes.
const HISTORY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a stage is to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// The version that ran last, by digest.
    pub(crate) active: Option<String>,
    /// The plugin file's digest when it was last looked at: as long as the file has it, the file is no news.
    pub(crate) file: Option<String>,
    /// Why the file is not what runs.
    pub(crate) refused: Option<String>,
    /// The versions that ran, the latest last, each once.
    #[serde(default)]
    pub(crate) versions: Vec<String>,
    /// The active version is on trial.
    #[serde(default)]
    pub(crate) trial: Option<OnTrial>,
}

/// What a version on trial is held to, and which one takes its place if it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnTrial {
    pub(crate) trial: Trial,
    /// A digest.
    pub(crate) before: String,
}

impl Remembered {
    /// A version runs from now on.
    pub(crate) fn activate(&mut self, digest: &str) {
        self.active = Some(digest.to_owned());
        self.versions.retain(|known| known != digest);
        self.versions.push(digest.to_owned());
        let over = self.versions.len().saturating_sub(VERSIONS_KEPT);
        self.versions.drain(..over);
    }

    /// The version `from` had to give way to `to`.
    pub(crate) fn roll_back(&mut self, from: &str, to: &str, reason: &str) {
        self.versions.retain(|digest| digest != from);
        self.activate(to);
        self.refused = Some(reason.to_owned());
        self.trial = None;
    }

    /// The versions to try, the one that ran last first.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &String> {
        let others = self.versions.iter().rev();
        self.active
            .iter()
            .chain(others.filter(|digest| Some(*digest) != self.active.as_ref()))
    }

    /// The version that ran before the present one.
    pub(crate) fn previous(&self) -> Option<&String> {
        self.versions
            .iter()
            .rev()
            .find(|digest| Some(*digest) != self.active.as_ref())
    }
}

/// What happened to the version of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    /// The process started with it.
    Started,
    /// It took the place of another.
    Swapped,
    /// The same plugin got another configuration.
    Configured,
    /// It was not taken.
    Refused,
    /// The version before took its place again.
    RolledBack,
}

impl Change {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Change::Started => "started",
            Change::Swapped => "swapped",
            Change::Configured => "configured",
            Change::Refused => "refused",
            Change::RolledBack => "rolled-back",
        }
    }
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) stage: String,
    pub(crate) change: Change,
    /// What brought it: `start`, `file`, `command`, `pipeline file`, `failures`.
    pub(crate) by: String,
    /// The digest that ran before; none at a start.
    pub(crate) from: Option<String>,
    /// The digest that it is about; none where a file could not even be read.
    pub(crate) digest: Option<String>,
    /// Name and version that the plugin gives itself; none for what could not be asked.
    pub(crate) plugin: Option<String>,
    pub(crate) reason: Option<String>,
}

/// The folder of one app.
pub(crate) struct Store {
    dir: PathBuf,
    instance: Option<String>,
}

impl Store {
    /// Makes the folder where it is missing, and proves that it can be written. `instance`: the process's own name, where it has one.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn open(state_dir: &Path, app: &str, instance: Option<&str>) -> Result<Self> {
        let dir = state_dir.join(app);
        let make = || -> Result<()> {
            fs::create_dir_all(dir.join("plugins"))?;
            fs::create_dir_all(dir.join("stages"))?;
            fs::create_dir_all(dir.join("paused"))?;
            tempfile::NamedTempFile::new_in(&dir)?;
            Ok(())
        };
        make().with_context(|| {
            format!(
                "folder {} cannot be written; it keeps the plugin versions that ran, name another one",
                dir.display()
            )
        })?;
        let store = Self {
            dir,
            instance: instance.map(str::to_owned),
        };
        store.end_torn_line();
        Ok(store)
    }

    /// Processes that share a folder keep apart what each of them runs, where they have names.
    fn own(&self, stage: &str) -> String {
        match &self.instance {
            Some(instance) => format!("{stage}@{instance}"),
            None => stage.to_owned(),
        }
    }

    fn stage_file(&self, stage: &str) -> PathBuf {
        self.dir.join("stages").join(format!("{}.json", self.own(stage)))
    }

    fn pause_file(&self, stage: &str) -> PathBuf {
        self.dir.join("paused").join(self.own(stage))
    }

    fn plugin_file(&self, digest: &str) -> PathBuf {
        self.dir.join("plugins").join(format!("{digest}.wasm"))
    }

    fn history_file(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    /// What is remembered of a stage; nothing for one that never ran.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn remembered(&self, stage: &str) -> Result<Remembered> {
        read(&self.stage_file(stage))
    }

    /// Remembers what a stage is to run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn remember(&self, stage: &str, remembered: &Remembered) -> Result<()> {
        let text = serde_json::to_vec_pretty(remembered).context("word what a stage runs")?;
        replace(&self.stage_file(stage), &text)
    }

    /// Whether the process of this name, or any without a name, has paused the stage.
    pub(crate) fn is_paused(&self, stage: &str) -> bool {
        self.pause_file(stage).exists()
    }

    /// Remembers that a stage is paused, or not.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_paused(&self, stage: &str, paused: bool) -> Result<()> {
        let file = self.pause_file(stage);
        if paused {
            return replace(&file, now().as_bytes());
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the bytes of a version.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn keep(&self, binary: &Binary) -> Result<()> {
        let file = self.plugin_file(&binary.digest);
        if self.binary(&binary.digest).is_err() {
            return replace(&file, &binary.bytes);
        }
        // Nobody clears it away before it is named.
        File::options()
            .write(true)
            .open(&file)
            .and_then(|kept| kept.set_modified(SystemTime::now()))
            .with_context(|| format!("touch {}", file.display()))
    }

    /// The bytes of a version that was kept.
    ///
    /// # Errors
    /// When they are gone or damaged.
    pub(crate) fn binary(&self, digest: &str) -> Result<Binary> {
        let file = self.plugin_file(digest);
        let binary = Binary::new(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
        if binary.digest != digest {
            bail!(
                "{} is damaged: its sha256 is {}; it is written again when a plugin file has the digest of its name",
                file.display(),
                binary.digest
            );
        }
        Ok(binary)
    }

    /// Forgets bytes that no stage can go back to, and that are old enough to be named by now.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn tidy(&self, now: SystemTime) -> Result<()> {
        let mut wanted = Vec::new();
        for entry in fs::read_dir(self.dir.join("stages")).context("list stages")? {
            let path = entry.context("list stages")?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                wanted.extend(read(&path)?.versions);
            }
        }
        for entry in fs::read_dir(self.dir.join("plugins")).context("list plugins")? {
            let path = entry.context("list plugins")?.path();
            let digest = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".wasm"));
            let is_wanted = digest.is_none_or(|digest| wanted.iter().any(|wanted| wanted == digest));
            let modified = fs::metadata(&path).and_then(|found| found.modified());
            let is_old = modified.is_ok_and(|modified| modified + UNNAMED_KEPT < now);
            if !is_wanted && is_old {
                // Another process may have been faster.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Adds a line to the history.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn record(&self, event: &Event) -> Result<()> {
        let file = self.history_file();
        let lock = File::create(self.dir.join("lock")).context("open the state folder's lock")?;
        // Until it is closed. Another process may shorten the file meanwhile.
        lock.lock().context("lock the state folder")?;
        self.shorten(&file)?;
        let mut line = serde_json::to_string(event).context("word an event")?;
        line.push('\n');
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .with_context(|| format!("open {}", file.display()))?;
        // One write of one line: appends of several processes do not mix.
        log.write_all(line.as_bytes())
            .and_then(|()| log.sync_data())
            .with_context(|| format!("write {}", file.display()))
    }

    /// A crash may have left a line without its end, which would swallow the next one.
    fn end_torn_line(&self) {
        let file = self.history_file();
        if fs::read(&file).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'))
            && let Ok(mut log) = OpenOptions::new().append(true).open(&file)
        {
            // Without it one line is lost, no more.
            let _ = log.write_all(b"\n");
        }
    }

    fn shorten(&self, file: &Path) -> Result<()> {
        if fs::metadata(file).map_or(0, |found| found.len()) <= HISTORY_BYTES_MAX {
            return Ok(());
        }
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let later = text.get(text.len() / 2..).unwrap_or_default();
        let end = later.iter().position(|byte| *byte == b'\n');
        let rest = end.and_then(|end| later.get(end + 1..)).unwrap_or_default();
        replace(file, rest)
    }

    /// The history of a stage, the oldest first. A line that cannot be read, the last one of a crash, is left out.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn history(&self, stage: &str) -> Result<Vec<Event>> {
        let file = self.history_file();
        if !file.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| serde_json::from_str::<Event>(line).ok())
            .filter(|event| event.stage == stage)
            .collect())
    }
}

fn read(file: &Path) -> Result<Remembered> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Remembered::default()),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; delete it to begin with the plugin file", file.display()))
}

/// The present time as RFC 3339.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Writes a file whole or not at all.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut beside = tempfile::NamedTempFile::new_in(dir)?;
        beside.write_all(bytes)?;
        beside.as_file().sync_all()?;
        beside.persist(file)?;
        // The new name is not sure to survive a power cut before the folder is written, too.
        File::open(dir)?.sync_all()?;
        Ok(())
    };
    write().with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests;
