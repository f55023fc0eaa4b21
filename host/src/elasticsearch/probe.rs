//! What `check --connect` asks Elasticsearch: whether it is there, lets the host in, and would take the documents of each output.
//!
//! Nothing is written. What could not be proven is said, so that nobody takes silence for proof.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer;
use super::client::{Answered, Client};
use crate::config::{ConfigError, DocumentAction, Elasticsearch, IndexOutput, Pipeline};

/// How long one answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";

#[derive(Deserialize)]
struct Root {
    version: Version,
}

#[derive(Deserialize)]
struct Version {
    number: String,
    /// None: Elasticsearch itself.
    distribution: Option<String>,
}

#[derive(Deserialize)]
struct Templates {
    index_templates: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    index_template: Template,
}

#[derive(Deserialize)]
struct Template {
    index_patterns: Vec<String>,
    data_stream: Option<Value>,
}

/// Asks for all that the pipeline writes; one line for each thing that was found.
///
/// # Errors
/// What would not work, at its place in the pipeline file.
pub(crate) async fn check(pipeline: &Pipeline, now_ms: i64) -> Result<Vec<String>> {
    let Some(section) = &pipeline.elasticsearch else {
        return Ok(Vec::new());
    };
    let at_section = |error: anyhow::Error| {
        let mistake = ConfigError::at(section.at, format!("`elasticsearch`: {error:#}"));
        pipeline.report(vec![mistake])
    };
    let client = match Client::new(section) {
        Ok(client) => client,
        Err(error) => return at_section(error).map(|()| Vec::new()).map_err(Into::into),
    };
    let probe = Probe { client };
    let mut lines = match probe.servers(section).await {
        Ok(lines) => lines,
        Err(error) => return at_section(error).map(|()| Vec::new()).map_err(Into::into),
    };
    let mut mistakes = Vec::new();
    let mut seen: Vec<&IndexOutput> = Vec::new();
    for stage in &pipeline.stages {
        for output in stage.outputs.indices() {
            let is_same = |known: &&IndexOutput| {
                let action = |output: &IndexOutput| output.action.map(|action| action.value);
                known.index.value == output.index.value
                    && known.is_data_stream == output.is_data_stream
                    && action(known) == action(output)
            };
            if seen.iter().any(is_same) {
                continue;
            }
            seen.push(output);
            match probe.output(output, now_ms).await {
                Ok(line) => lines.push(line),
                Err(error) => {
                    let text = format!("index `{}`: {error:#}", output.index.value);
                    mistakes.push(stage.error(output.index.at, text));
                }
            }
        }
    }
    pipeline.report(mistakes)?;
    Ok(lines)
}

struct Probe {
    client: Client,
}

impl Probe {
    /// Asks each node what it is, and whether it accepts the credentials.
    async fn servers(&self, section: &Elasticsearch) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        // Nodes are asked in turn.
        for _ in &section.urls {
            let Answered { status, body } = self.ask(Method::Get, "", None).await?;
            if status == 401 {
                bail!("the credentials are not accepted (401); mend `username` and `password`, or `api-key`");
            }
            let root: Root = match (status, serde_json::from_slice(&body)) {
                (200, Ok(root)) => root,
                (403, _) => {
                    lines.push("elasticsearch: reached; what it is may not be read (403)".to_owned());
                    continue;
                }
                _ => bail!(
                    "the answer (status {status}) is none of Elasticsearch; does `url` name one? It begins: {}",
                    answer::shown(&body)
                ),
            };
            let name = root.version.distribution.as_deref().unwrap_or("elasticsearch");
            let line = format!("elasticsearch: {name} {}", root.version.number);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// Asks for the index of an output, its mapping, and the right to write it.
    async fn output(&self, output: &IndexOutput, now_ms: i64) -> Result<String> {
        let name = output.index.at(Some(now_ms)).unwrap_or_default();
        let found = match output.is_data_stream {
            true => self.data_stream(&name).await?,
            false => self.index(&name).await?,
        };
        let rights = self.rights(output, found.is_there).await?;
        let what = if output.is_data_stream { "data stream" } else { "index" };
        Ok(format!("{what} `{name}`: {}, {rights}", found.told))
    }

    async fn index(&self, name: &str) -> Result<Found> {
        let Answered { status, body } = self.ask(Method::Get, &format!("{name}/_mapping"), None).await?;
        match status {
            200 => {}
            404 => return self.is_auto_created(name).await,
            403 => return Ok(Found::there("there, its mapping may not be read (403)")),
            _ => bail!("its mapping cannot be read ({status}): {}", told(&body)),
        }
        let mappings: Value = serde_json::from_slice(&body)?;
        let count = |mapping: &Value| {
            mapping["mappings"]["properties"]
                .as_object()
                .map_or(0, serde_json::Map::len)
        };
        let fields: usize = mappings
            .as_object()
            .into_iter()
            .flat_map(|all| all.values())
            .map(count)
            .sum();
        let block = self.block(name).await?;
        if let Some(block) = block {
            bail!("it takes no writes: `index.blocks.{block}` is set; lift it");
        }
        Ok(Found::there(format!("there, {fields} fields mapped")))
    }

    /// The block that keeps an index from being written.
    async fn block(&self, name: &str) -> Result<Option<String>> {
        let path = format!("{name}/_settings/index.blocks.*?flat_settings=true");
        let Answered { status, body } = self.ask(Method::Get, &path, None).await?;
        if status != 200 {
            return Ok(None);
        }
        let settings: Value = serde_json::from_slice(&body)?;
        let indices = settings.as_object().into_iter().flat_map(|all| all.values());
        let blocks = indices.filter_map(|index| index["settings"].as_object()).flatten();
        let mut set = blocks.filter(|(_, value)| value.as_str() == Some("true"));
        let stops = ["write", "read_only", "read_only_allow_delete"];
        Ok(set.find_map(|(key, _)| {
            let block = key.strip_prefix("index.blocks.")?;
            stops.contains(&block).then(|| block.to_owned())
        }))
    }

    /// Whether the first document would make the index.
    async fn is_auto_created(&self, name: &str) -> Result<Found> {
        let path = "_cluster/settings?include_defaults=true&flat_settings=true";
        let Answered { status, body } = self.ask(Method::Get, path, None).await?;
        if status != 200 {
            return Ok(Found::missing(format!(
                "not there; whether it would be made is not proven, the cluster's settings may not be read ({status})"
            )));
        }
        let settings: Value = serde_json::from_slice(&body)?;
        let value = ["transient", "persistent", "defaults"]
            .iter()
            .find_map(|level| settings[level]["action.auto_create_index"].as_str());
        match value {
            Some("false") => bail!("it is not there, and `action.auto_create_index` is false; create it"),
            Some("true") | None => Ok(Found::missing("not there, made by the first document")),
            Some(patterns) if allows(patterns, name) => Ok(Found::missing("not there, made by the first document")),
            Some(patterns) => {
                bail!("it is not there, and `action.auto_create_index` ({patterns}) does not allow it; create it")
            }
        }
    }

    async fn data_stream(&self, name: &str) -> Result<Found> {
        let Answered { status, .. } = self.ask(Method::Get, &format!("_data_stream/{name}"), None).await?;
        match status {
            200 => return Ok(Found::there("there")),
            404 => {}
            _ => return Ok(Found::missing(format!("whether it is there is not proven ({status})"))),
        }
        let Answered { status, body } = self.ask(Method::Get, "_index_template", None).await?;
        if status != 200 {
            return Ok(Found::missing(format!(
                "not there; whether a template would make it is not proven ({status})"
            )));
        }
        let Templates { index_templates } = serde_json::from_slice(&body)?;
        let mut templates = index_templates.into_iter().map(|named| named.index_template);
        let makes = |template: Template| {
            template.data_stream.is_some() && template.index_patterns.iter().any(|pattern| matches(pattern, name))
        };
        if !templates.any(makes) {
            bail!(
                "there is no such data stream, and no index template with `data_stream` that would make one; create it"
            );
        }
        Ok(Found::missing("not there; an index template matches its name"))
    }

    /// Whether the user may do what the output does.
    async fn rights(&self, output: &IndexOutput, is_there: bool) -> Result<String> {
        let pattern = output.index.wildcard();
        let mut wanted = needed(output);
        if !is_there {
            wanted.push("create_index");
        }
        let question = json!({"index": [{"names": [pattern], "privileges": wanted}]});
        let body = Some(Bytes::from(question.to_string()));
        let Answered { status, body } = self.ask(Method::Post, "_security/user/_has_privileges", body).await?;
        let unproven = |why: &str| Ok(format!("the right to write is not proven: {why}"));
        match status {
            200 => {}
            400 | 404 | 405 | 500 => return unproven("the server has no security, or does not tell of it"),
            401 | 403 => return unproven(&format!("it may not be asked for ({status})")),
            _ => return unproven(&format!("status {status}")),
        }
        let rights: Value = serde_json::from_slice(&body)?;
        let given = rights["index"].as_object().and_then(|index| index.values().next());
        let missing: Vec<&str> = wanted
            .into_iter()
            .filter(|right| given.is_none_or(|given| given[right].as_bool() != Some(true)))
            .collect();
        match missing.as_slice() {
            [] => Ok("may be written".to_owned()),
            missing => bail!(
                "the user has not the rights {} on `{pattern}`; give them",
                missing.join(", ")
            ),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Answered> {
        match self.client.request(method, path, JSON, body, TIMEOUT).await {
            Ok(Some(answered)) => Ok(answered),
            Ok(None) => Err(anyhow!("there is no server")),
            Err(error) => Err(anyhow!(answer::unreachable(&error, TIMEOUT).text)),
        }
    }
}

/// The rights on an index that its documents need. A port for documents may bring any action, and says so nowhere.
fn needed(output: &IndexOutput) -> Vec<&'static str> {
    match output.action.map(|action| action.value) {
        _ if output.is_data_stream => vec!["create_doc"],
        Some(DocumentAction::Create) => vec!["create_doc"],
        Some(DocumentAction::Update | DocumentAction::Upsert) => vec!["index"],
        Some(DocumentAction::Delete) => vec!["delete"],
        Some(DocumentAction::Index) | None => vec!["index", "delete"],
    }
}

struct Found {
    is_there: bool,
    told: String,
}

impl Found {
    fn there(told: impl Into<String>) -> Self {
        Self {
            is_there: true,
            told: told.into(),
        }
    }

    fn missing(told: impl Into<String>) -> Self {
        Self {
            is_there: false,
            told: told.into(),
        }
    }
}

fn told(body: &[u8]) -> String {
    answer::error_of(body).unwrap_or_else(|| answer::shown(body))
}

/// Whether `action.auto_create_index` lets an index be made: the first pattern that matches decides, and a minus forbids.
fn allows(patterns: &str, name: &str) -> bool {
    let mut patterns = patterns.split(',').map(str::trim);
    let decision = patterns.find_map(|pattern| {
        let (is_allowed, pattern) = match pattern.strip_prefix('-') {
            Some(pattern) => (false, pattern),
            None => (true, pattern.strip_prefix('+').unwrap_or(pattern)),
        };
        matches(pattern, name).then_some(is_allowed)
    });
    decision.unwrap_or(false)
}

/// Whether a name fits a pattern with stars.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_matches_decides() {
        assert!(allows("retail-*", "retail-catalogue"));
        assert!(!allows("-retail-*,*", "retail-catalogue"));
        assert!(allows("+retail-*,-*", "retail-catalogue"));
        assert!(!allows("noaa-*", "retail-catalogue"));
        assert!(matches("*a*b", "xaxb") && !matches("*a*b", "xbxa") && matches("*", ""));
    }
}
