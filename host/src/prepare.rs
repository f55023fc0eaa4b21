//! Proves that the plugins of a pipeline fit it: file, world, imports, configuration, ports.
//!
//! Every mistake is reported at its place in the pipeline file, and as many at once as can be found. What comes out needs nothing
//! but a broker.

mod origin;
mod schema;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::build;
use crate::config::{ConfigError, ConfigErrors, Guarantee, Outputs, Pipeline, PluginSource, Stage, Target, suggestion};
use crate::external::{Exit, ExitKind};
use crate::fault::{Fault, Kind};
use crate::metrics::PluginMetrics;
use crate::plugin::component::{self, Binary, Plugin, Wanted};
use crate::plugin::contract::PortKind;
use crate::plugin::grants::Grants;
use crate::plugin::instance::{Executor, Instance};
use crate::plugin::limits::Limits;
use crate::plugin::runtime::Runtime;
use crate::route::{Routes, Way};
use crate::swap::store::Store;
use crate::version::Trial;

pub(crate) use origin::{Origin, told};
#[cfg(test)]
pub(crate) use schema::Schema;

/// A plugin that fits its stage.
pub(crate) struct Prepared {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) routes: Arc<Routes>,
}

/// What a plugin has to fit: a stage, and all that it takes to find out.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) stage: Stage,
    /// The topics that the stage writes, each once; the last is the dead-letter topic.
    pub(crate) destinations: Vec<String>,
    /// Its outputs that are no topics, in the order of the file.
    pub(crate) exits: Vec<Exit>,
    wall_max: Duration,
    runtime: Arc<Runtime>,
}

/// A stage with a plugin that fits it.
pub(crate) struct Ready {
    pub(crate) place: Place,
    pub(crate) prepared: Prepared,
    pub(crate) origin: Origin,
    /// The version to go back to, where the one that runs is still on trial.
    pub(crate) before: Option<(Trial, Prepared)>,
}

/// Builds, loads and configures the plugin of every stage. With `store`, a stage whose file is not fit runs what it ran last.
///
/// # Errors
/// All mistakes, with their places in the pipeline file.
pub(crate) fn stages(
    pipeline: &Pipeline,
    runtime: &Arc<Runtime>,
    store: Option<&Store>,
) -> Result<Vec<Ready>, ConfigErrors> {
    let mut mistakes = Vec::new();
    let mut ready = Vec::new();
    for stage in &pipeline.stages {
        let place = Place::new(pipeline, stage, runtime);
        match origin::choose(&place, store) {
            Ok((prepared, origin)) => ready.push(Ready {
                before: origin::before(&place, store, &origin),
                place,
                prepared,
                origin,
            }),
            Err(found) => mistakes.extend(found),
        }
    }
    mistakes.extend(mixed_versions(&ready));
    pipeline.report(mistakes)?;
    Ok(ready)
}

/// What is known of who writes an index.
struct Writer<'a> {
    stage: &'a str,
    is_versioned: bool,
    /// Versions were asked for in the file.
    is_asked_for: bool,
}

/// All outputs to one index have to agree on versions.
fn mixed_versions(ready: &[Ready]) -> Vec<ConfigError> {
    let mut known: BTreeMap<String, Writer<'_>> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for Ready { place, prepared, .. } in ready {
        let ports = &prepared.plugin.description.ports;
        for (port, way) in ports.iter().zip(prepared.routes.ways()) {
            let Way::Exit(exit) = *way else { continue };
            let exit = &place.exits[exit];
            let ExitKind::Elasticsearch(index) = &exit.kind else {
                continue;
            };
            let writer = Writer {
                stage: place.stage.name.as_str(),
                is_versioned: index.is_versioned(port.kind),
                is_asked_for: index.asks_for_versions(),
            };
            match known.entry(index.name()) {
                Entry::Vacant(entry) => {
                    entry.insert(writer);
                }
                Entry::Occupied(first) => {
                    let text = clash(first.get(), &writer, &port.name);
                    mistakes.extend(text.map(|text| place.stage.error(exit.at, text)));
                }
            }
        }
    }
    mistakes
}

/// Why the writer of this port cannot share an index with another. An index gets documents with versions made of positions or others, never
/// both: any other write raises a document's version itself, and the next position would look old. And of two stages with versions the one
/// with the smaller offsets would write nothing where both write an id.
fn clash(first: &Writer<'_>, next: &Writer<'_>, port: &str) -> Option<String> {
    let with = |versioned| if versioned { "with" } else { "without" };
    let other = first.stage;
    if first.is_versioned != next.is_versioned {
        return Some(format!(
            "port `{port}` writes documents {} versions to an index that stage `{other}` writes {} them; give both the same `versions: external` or `none`",
            with(next.is_versioned),
            with(first.is_versioned)
        ));
    }
    let is_meant = first.is_asked_for && next.is_asked_for;
    (next.is_versioned && other != next.stage && !is_meant).then(|| {
        format!(
            "port `{port}` writes documents with versions to an index that stage `{other}` writes with versions of its own; of an id that both write, \
             documents would be dropped: give both `versions: none`, or, where they write different ids, both `versions: external`"
        )
    })
}

/// The plugin's file; a crate is built first.
///
/// # Errors
/// When there is none, at its place in the pipeline file.
fn file_of(stage: &Stage) -> Result<PathBuf, ConfigError> {
    let wrong = |text: String| stage.error(stage.plugin.at, format!("`plugin`: {text}"));
    if let Some(mistake) = stage.plugin.value.mistake() {
        return Err(wrong(mistake));
    }
    match &stage.plugin.value {
        PluginSource::WasmFile { path, .. } => Ok(path.clone()),
        PluginSource::CrateFolder { path } => build::plugin_crate(path).map_err(|error| wrong(format!("{error:#}"))),
    }
}

impl Place {
    fn new(pipeline: &Pipeline, stage: &Stage, runtime: &Arc<Runtime>) -> Self {
        Self {
            stage: stage.clone(),
            destinations: destinations(stage),
            exits: Exit::all(stage),
            wall_max: wall_max(pipeline, stage),
            runtime: Arc::clone(runtime),
        }
    }

    /// Proves that a plugin fits: loads it, configures it, binds its ports, lets it try itself out. `source` names the bytes in messages.
    ///
    /// # Errors
    /// What does not fit, each mistake at the place in the pipeline file that it is about.
    pub(crate) fn load(&self, binary: &Binary, source: &str) -> Result<Prepared, Vec<ConfigError>> {
        let stage = &self.stage;
        let at_plugin = |error: anyhow::Error| vec![stage.error(stage.plugin.at, format!("`plugin`: {error:#}"))];
        let executor = Arc::new(Executor::new().context("start the executor").map_err(at_plugin)?);
        let plugin = component::load(&self.runtime, binary, self.wanted(), &executor)
            .with_context(|| source.to_owned())
            .map_err(at_plugin)?;
        let plugin = Arc::new(plugin);
        let mut mistakes = Vec::new();
        let routes = bind(stage, &plugin, &self.destinations, &mut mistakes);
        if schema::check(stage, &plugin, &mut mistakes) {
            mistakes.extend(try_out(stage, &plugin, executor));
        }
        match routes {
            Some(routes) if mistakes.is_empty() => Ok(Prepared {
                plugin,
                routes: Arc::new(routes),
            }),
            _ => Err(mistakes),
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        let sha256 = match &self.stage.plugin.value {
            PluginSource::WasmFile { sha256, .. } => *sha256,
            PluginSource::CrateFolder { .. } => None,
        };
        Wanted {
            stage: &self.stage.name,
            sha256,
            config: self.stage.config.value.to_string(),
            limits: Limits::new(&self.stage.limits, self.wall_max),
            grants: Grants::new(&self.stage.grants),
        }
    }
}

/// Configures an instance and calls its `self-test`.
fn try_out(stage: &Stage, plugin: &Arc<Plugin>, executor: Arc<Executor>) -> Option<ConfigError> {
    let name = &plugin.description.name;
    let verdict = |fault: &Fault, refuses: &str| match fault.kind {
        Kind::Reject => refuses.to_owned(),
        kind => format!("fails on it ({kind})"),
    };
    let mut instance = match Instance::new(Arc::clone(plugin), executor, PluginMetrics::unheard()) {
        Ok(instance) => instance,
        Err(fault) => {
            let verdict = verdict(&fault, "refuses it");
            let text = format!("`config`: plugin `{name}` {verdict}: {fault}");
            return Some(stage.error(stage.config.at, text));
        }
    };
    let fault = instance.self_test().err()?;
    let verdict = verdict(&fault, "does not pass it");
    let text = format!("`plugin`: the self-test of plugin `{name}`: it {verdict}: {fault}");
    Some(stage.error(stage.plugin.at, text))
}

/// The topics that the stage writes, each once, in the order of the file, whatever version of its plugin runs; the dead-letter topic is the last.
fn destinations(stage: &Stage) -> Vec<String> {
    let mut topics: Vec<String> = Vec::new();
    for topic in stage.outputs.topics() {
        if !topics.contains(&topic.value) {
            topics.push(topic.value.clone());
        }
    }
    topics.push(stage.on_fault.dead_letter.value.clone());
    topics
}

/// The most that a call may last by the clock. A worker that is in a call neither polls nor commits: what it has in its open transaction must be
/// committed before the broker gives the transaction up, and the group must not give up the worker. A quarter of the time is left for what
/// comes after the call. The pipeline file's own checks see to it that this is longer than the deadline.
fn wall_max(pipeline: &Pipeline, stage: &Stage) -> Duration {
    let kafka = &pipeline.kafka;
    let polls = kafka.max_poll_interval();
    let most = match stage.guarantee.value {
        Guarantee::AtLeastOnce => polls,
        Guarantee::ExactlyOnce => {
            let interval = stage.commit_interval.value;
            polls.min(kafka.transaction_timeout().saturating_sub(interval * 2))
        }
    };
    most * 3 / 4
}

/// Binds every port to what the file says; none where a mistake was found.
fn bind(stage: &Stage, plugin: &Plugin, destinations: &[String], mistakes: &mut Vec<ConfigError>) -> Option<Routes> {
    let ports = &plugin.description.ports;
    let name = &plugin.description.name;
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let listed = names.join(", ");
    let before = mistakes.len();
    let mut targets: Vec<Option<&Target>> = vec![None; ports.len()];
    match &stage.outputs {
        Outputs::Single(target) if ports.len() == 1 => targets[0] = Some(target),
        Outputs::Single(target) => {
            let text = format!(
                "`output` is for plugins with one port; plugin `{name}` has {listed}: write `outputs: {{PORT: TOPIC, ..}}`"
            );
            mistakes.push(stage.error(target.at(), text));
        }
        Outputs::ByPort(outputs) => {
            for output in outputs {
                match plugin.port(&output.port) {
                    Some(port) => targets[port] = Some(&output.target),
                    None => {
                        let allowed = allowed(&output.port, &names);
                        let text = format!("port `{}` is not one of plugin `{name}`{allowed}", output.port.value);
                        mistakes.push(stage.error(output.port.at, text));
                    }
                }
            }
            for (port, target) in names.iter().zip(&targets) {
                if target.is_none() {
                    let text = format!("port `{port}` of plugin `{name}` is bound to nothing; add it to `outputs`");
                    mistakes.push(stage.error(stage.name.at, text));
                }
            }
        }
    }
    for (port, target) in ports.iter().zip(&targets) {
        let (PortKind::Document, Some(target)) = (port.kind, target) else {
            continue;
        };
        let what = match target {
            Target::Elasticsearch(_) => continue,
            Target::Topic(topic) => format!("`{}` is a topic", topic.value),
            Target::Webhook(_) => "a webhook takes records".to_owned(),
            Target::Smtp(_) => "a mail is made of a record".to_owned(),
        };
        let text = format!(
            "port `{}` of plugin `{name}` gives documents, and {what}; bind it to {{elasticsearch: {{index: ..}}}}",
            port.name
        );
        mistakes.push(stage.error(target.at(), text));
    }
    if mistakes.len() > before {
        return None;
    }
    let exits: Vec<&Target> = stage
        .outputs
        .targets()
        .filter(|target| !matches!(target, Target::Topic(_)))
        .collect();
    let way = |target: &Target| match target {
        Target::Topic(topic) => destinations
            .iter()
            .position(|known| *known == topic.value)
            .map(Way::Topic),
        // Exits are listed in the order of the file.
        exit => exits.iter().position(|known| std::ptr::eq(*known, exit)).map(Way::Exit),
    };
    let by_port: Option<Vec<Way>> = targets.into_iter().map(|target| way(target?)).collect();
    let stamp = match stage.stamp {
        true => vec![
            ("wasmill.plugin", name.clone()),
            ("wasmill.plugin-version", plugin.description.version.clone()),
            ("wasmill.plugin-digest", plugin.digest.clone()),
        ],
        false => Vec::new(),
    };
    Some(Routes::new(by_port?, stamp))
}

/// The end of a message about an unknown name.
fn allowed(unknown: &str, names: &[&str]) -> String {
    let nearest = suggestion(unknown, names.iter().copied());
    let separator = if nearest.is_empty() { ";" } else { "" };
    format!("{nearest}{separator} allowed: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Broker};

    #[test]
    fn writers_of_one_index_agree_on_versions() {
        let writer = |stage, is_versioned, is_asked_for| Writer {
            stage,
            is_versioned,
            is_asked_for,
        };
        let clashes = |first, next| clash(&first, &next, "p").unwrap_or_default();
        assert!(clashes(writer("s", true, false), writer("s", false, false)).contains("writes with them"));
        assert!(clashes(writer("s", true, false), writer("t", true, false)).contains("versions of its own"));
        assert!(clashes(writer("s", true, true), writer("t", true, false)).contains("versions of its own"));
        assert_eq!(clashes(writer("s", true, true), writer("t", true, true)), "");
        assert_eq!(clashes(writer("s", true, false), writer("s", true, false)), "");
        assert_eq!(clashes(writer("s", false, false), writer("t", false, false)), "");
    }

    #[test]
    fn no_call_may_outlast_the_transaction_or_the_polls_around_it() {
        let wall_max = |kafka: &str, stage: &str| {
            let text =
                format!("app: a\nkafka: {{{kafka}}}\nstages: {{s: {{plugin: p.wasm, input: i, output: o{stage}}}}}\n");
            let pipeline = config::parse(&text, "p.yaml".as_ref(), &|_| None, Broker::Embedded);
            let pipeline = pipeline.unwrap_or_else(|errors| panic!("{errors}"));
            super::wall_max(&pipeline, &pipeline.stages[0])
        };
        assert_eq!(wall_max("", ""), Duration::from_millis(11_100));
        assert_eq!(wall_max("", ", commit-interval: 1s"), Duration::from_millis(9_750));
        let shortest = wall_max("transaction.timeout.ms: 9000", ", limits: {deadline: 4400ms}");
        assert_eq!(
            shortest,
            Duration::from_millis(6_600),
            "longer than the deadline, even where that just fits"
        );
        assert_eq!(wall_max("", ", guarantee: at-least-once"), Duration::from_secs(225));
    }
}
