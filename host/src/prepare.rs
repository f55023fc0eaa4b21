//! Proves that the plugins of a pipeline fit it: file, world, imports, configuration, ports.
//!
//! Every mistake is reported at its place in the pipeline file, and as many at once as can be found. What comes out needs nothing
//! but a broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use crate::build;
use crate::config::{ConfigError, ConfigErrors, Guarantee, Outputs, Pipeline, PluginSource, Stage, suggestion};
use crate::fault::Kind;
use crate::metrics::PluginMetrics;
use crate::plugin::component::{self, Binary, Plugin, Wanted};
use crate::plugin::contract::PortKind;
use crate::plugin::grants::Grants;
use crate::plugin::instance::{Executor, Instance};
use crate::plugin::limits::Limits;
use crate::plugin::runtime::Runtime;
use crate::route::Routes;

/// A stage whose plugin fits it.
pub(crate) struct Ready {
    pub(crate) stage: Stage,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) file: PathBuf,
    pub(crate) routes: Arc<Routes>,
    /// The topics that the stage writes, each once; the last is the dead-letter topic.
    pub(crate) destinations: Vec<String>,
}

/// Builds, loads and configures the plugin of every stage.
///
/// # Errors
/// All mistakes, with their places in the pipeline file.
pub(crate) fn stages(pipeline: &Pipeline, runtime: &Runtime) -> Result<Vec<Ready>, ConfigErrors> {
    pipeline.check_files()?;
    let mut mistakes = Vec::new();
    let mut ready = Vec::new();
    for stage in &pipeline.stages {
        match prepare(pipeline, stage, runtime) {
            Ok(prepared) => ready.push(prepared),
            Err(found) => mistakes.extend(found),
        }
    }
    pipeline.report(mistakes)?;
    Ok(ready)
}

fn prepare(pipeline: &Pipeline, stage: &Stage, runtime: &Runtime) -> Result<Ready, Vec<ConfigError>> {
    let at_plugin = |error: anyhow::Error| vec![stage.error(stage.plugin.at, format!("`plugin`: {error:#}"))];
    let file = match &stage.plugin.value {
        PluginSource::WasmFile { path, .. } => path.clone(),
        PluginSource::CrateFolder { path } => build::plugin_crate(path).map_err(at_plugin)?,
    };
    let executor = Arc::new(Executor::new().context("start the executor").map_err(at_plugin)?);
    let plugin = Binary::read(&file, stage.limits.file_bytes.value)
        .and_then(|binary| component::load(runtime, &binary, wanted(pipeline, stage), &executor))
        .with_context(|| file.display().to_string())
        .map_err(at_plugin)?;
    let plugin = Arc::new(plugin);
    let mut mistakes = Vec::new();
    let destinations = bind(stage, &plugin, &mut mistakes);
    if check_schema(stage, &plugin, &mut mistakes) {
        let configured = Instance::new(Arc::clone(&plugin), executor, PluginMetrics::unheard());
        if let Err(fault) = configured {
            let name = &plugin.description.name;
            let verdict = match fault.kind {
                Kind::Reject => "refuses it".to_owned(),
                kind => format!("fails on it ({kind})"),
            };
            let text = format!("`config`: plugin `{name}` {verdict}: {fault}");
            mistakes.push(stage.error(stage.config.at, text));
        }
    }
    match destinations {
        Some((routes, destinations)) if mistakes.is_empty() => Ok(Ready {
            stage: stage.clone(),
            plugin,
            file,
            routes: Arc::new(routes),
            destinations,
        }),
        _ => Err(mistakes),
    }
}

fn wanted<'a>(pipeline: &Pipeline, stage: &'a Stage) -> Wanted<'a> {
    let sha256 = match &stage.plugin.value {
        PluginSource::WasmFile { sha256, .. } => *sha256,
        PluginSource::CrateFolder { .. } => None,
    };
    Wanted {
        stage: &stage.name,
        sha256,
        config: stage.config.value.to_string(),
        limits: Limits::new(&stage.limits, wall_max(pipeline, stage)),
        grants: Grants::new(&stage.grants),
    }
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

/// Binds every port to a topic; none where a mistake was found.
fn bind(stage: &Stage, plugin: &Plugin, mistakes: &mut Vec<ConfigError>) -> Option<(Routes, Vec<String>)> {
    let ports = &plugin.description.ports;
    let name = &plugin.description.name;
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let listed = names.join(", ");
    let before = mistakes.len();
    if let Some(port) = ports.iter().find(|port| port.kind == PortKind::Document) {
        let text = format!(
            "port `{}` of plugin `{name}` gives documents; Elasticsearch outputs are not there yet in this version of wasmill",
            port.name
        );
        mistakes.push(stage.error(stage.plugin.at, text));
    }
    let mut topics: Vec<Option<String>> = vec![None; ports.len()];
    match &stage.outputs {
        Outputs::Single(topic) if ports.len() == 1 => topics[0] = Some(topic.value.clone()),
        Outputs::Single(topic) => {
            let text = format!(
                "`output` is for plugins with one port; plugin `{name}` has {listed}: write `outputs: {{PORT: TOPIC, ..}}`"
            );
            mistakes.push(stage.error(topic.at, text));
        }
        Outputs::ByPort(outputs) => {
            for output in outputs {
                match plugin.port(&output.port) {
                    Some(port) => topics[port] = Some(output.topic.value.clone()),
                    None => {
                        let allowed = allowed(&output.port, &names);
                        let text = format!("port `{}` is not one of plugin `{name}`{allowed}", output.port.value);
                        mistakes.push(stage.error(output.port.at, text));
                    }
                }
            }
            for (port, topic) in names.iter().zip(&topics) {
                if topic.is_none() {
                    let text = format!("port `{port}` of plugin `{name}` is bound to no topic; add it to `outputs`");
                    mistakes.push(stage.error(stage.name.at, text));
                }
            }
        }
    }
    if mistakes.len() > before {
        return None;
    }
    Some(number(topics.into_iter().flatten(), &stage.on_fault.dead_letter))
}

/// Lists each topic once and numbers the ports by that list.
fn number(topics: impl Iterator<Item = String>, dead_letters: &str) -> (Routes, Vec<String>) {
    let mut destinations: Vec<String> = Vec::new();
    let by_port = topics
        .map(|topic| {
            destinations
                .iter()
                .position(|known| *known == topic)
                .unwrap_or_else(|| {
                    destinations.push(topic);
                    destinations.len() - 1
                })
        })
        .collect();
    // Last even where a port goes to the same topic: a dead letter is found by its place.
    destinations.push(dead_letters.to_owned());
    (Routes::new(by_port), destinations)
}

/// Checks the stage's configuration against the plugin's own schema. False: it does not satisfy it.
fn check_schema(stage: &Stage, plugin: &Plugin, mistakes: &mut Vec<ConfigError>) -> bool {
    let text = &plugin.description.config_schema;
    let name = &plugin.description.name;
    if text.trim().is_empty() {
        return true;
    }
    let read = || -> Result<(Value, Validator)> {
        let schema = serde_json::from_str(text).context("it is not JSON")?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| anyhow!("{error}"))?;
        Ok((schema, validator))
    };
    let (schema, validator) = match read() {
        Ok(read) => read,
        Err(error) => {
            let text = format!("the config schema of plugin `{name}` cannot be used: {error:#}");
            mistakes.push(stage.error(stage.plugin.at, text));
            return false;
        }
    };
    let before = mistakes.len();
    for error in validator.iter_errors(&stage.config.value) {
        let pointer = error.instance_path().to_string();
        let place = if pointer.is_empty() {
            String::new()
        } else {
            format!(" at {pointer}")
        };
        for (key, words) in words(&error, &schema) {
            let text = format!("`config`{place}: {words} (plugin `{name}`)");
            mistakes.push(stage.error(stage.config.place(&format!("{pointer}{key}")), text));
        }
    }
    mistakes.len() == before
}

/// What is wrong by the schema, in the words in which the rest of the file's mistakes are told; each with the key that it is about (`/key`) or
/// nothing.
fn words(error: &ValidationError<'_>, schema: &Value) -> Vec<(String, String)> {
    // Both kinds stand beside `properties` in the schema.
    let beside = error.schema_path().to_string();
    let beside = beside.rsplit_once('/').map_or("", |(beside, _)| beside);
    let properties = schema
        .pointer(&format!("{beside}/properties"))
        .and_then(Value::as_object);
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let names: Vec<&str> = properties
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str())
                .collect();
            let unknown = |key: &String| {
                (
                    format!("/{key}"),
                    format!("unknown key `{key}`{}", allowed(key, &names)),
                )
            };
            unexpected.iter().map(unknown).collect()
        }
        ValidationErrorKind::Required { property } => {
            let key = property.as_str().unwrap_or_default();
            let description = properties.and_then(|properties| properties.get(key)?.get("description")?.as_str());
            let description = description.map(|text| format!(": {text}")).unwrap_or_default();
            vec![(String::new(), format!("missing key `{key}`{description}"))]
        }
        _ => vec![(String::new(), error.to_string())],
    }
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
