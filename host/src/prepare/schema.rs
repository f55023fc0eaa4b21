//! Checks a stage's configuration against the plugin's own schema.
//!
//! The schema is foreign: what it unfolds into is counted before the validator sees it, because by a few references a short text becomes
//! work for hours. So it has no references but to its own parts, no circle of them, and a bounded size when all are unfolded; the product of
//! that size and the configuration's bounds the work. A validator collects mistakes without end, so few of them are told, each cut.

use anyhow::{Context as _, Result, anyhow, bail};
use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use super::allowed;
use crate::config::{ConfigError, Stage};
use crate::plugin::component::Plugin;
use crate::plugin::imports::cut;

/// How many values a schema may have with all its references unfolded.
const PARTS_MAX: usize = 10_000;
/// What a regular expression counts for, because it is compiled.
const PATTERN_PARTS: usize = 100;
/// Bytes that a compiled regular expression may have.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Steps back that a regular expression may take on one text.
const BACKTRACKS_MAX: usize = 100_000;
/// Parts of the schema times values of the configuration: below it, several mistakes are looked for.
const MANY_MISTAKES_WORK_MAX: usize = 1_000_000;
/// The same, below which one mistake is looked for.
const WORK_MAX: usize = 100_000_000;
/// How many mistakes are told.
const MISTAKES_MAX: usize = 20;
/// How much of each is told.
const MISTAKE_BYTES_MAX: usize = 1024;

/// A plugin's schema and what checks values against it.
pub(crate) struct Schema {
    schema: Value,
    validator: Validator,
    parts: usize,
}

impl Schema {
    /// # Errors
    /// When it is no schema, or could be too much work; in words for the plugin's author.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let schema = serde_json::from_str(text).context("it is not JSON")?;
        let mut walk = Walk {
            schema: &schema,
            is_draft_4: schema["$schema"].as_str().is_some_and(|name| name.contains("draft-04")),
            followed: Vec::new(),
            parts: 0,
        };
        walk.visit(&schema, true)?;
        let parts = walk.parts;
        let patterns = PatternOptions::fancy_regex()
            .size_limit(PATTERN_BYTES_MAX)
            .backtrack_limit(BACKTRACKS_MAX);
        let validator = jsonschema::options()
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| anyhow!("{}", cut(&error.to_string(), MISTAKE_BYTES_MAX)))?;
        Ok(Self {
            schema,
            validator,
            parts,
        })
    }

    /// What is wrong with a configuration: each mistake with the pointer to what it is about, in the words in which the rest of the
    /// pipeline file's mistakes are told.
    ///
    /// # Errors
    /// When the check would be too much work.
    pub(crate) fn mistakes(&self, config: &Value) -> Result<Vec<(String, String)>> {
        let work = self.parts.saturating_mul(values_of(config));
        if work > WORK_MAX {
            bail!(
                "{} parts for a configuration of {} values are too much to check; make one of them smaller",
                self.parts,
                values_of(config)
            );
        }
        let told = |error: ValidationError<'_>| {
            let pointer = error.instance_path().to_string();
            let place = match pointer.is_empty() {
                true => String::new(),
                false => format!(" at {pointer}"),
            };
            let about = move |(key, words): (String, String)| {
                let text = format!("`config`{place}: {}", cut(&words, MISTAKE_BYTES_MAX));
                (format!("{pointer}{key}"), text)
            };
            words(&error, &self.schema).into_iter().map(about)
        };
        Ok(match work <= MANY_MISTAKES_WORK_MAX {
            true => self
                .validator
                .iter_errors(config)
                .flat_map(told)
                .take(MISTAKES_MAX)
                .collect(),
            false => self
                .validator
                .validate(config)
                .err()
                .into_iter()
                .flat_map(told)
                .collect(),
        })
    }
}

/// Checks the stage's configuration against the plugin's own schema. False: it does not satisfy it.
pub(super) fn check(stage: &Stage, plugin: &Plugin, mistakes: &mut Vec<ConfigError>) -> bool {
    let text = &plugin.description.config_schema;
    let name = &plugin.description.name;
    if text.trim().is_empty() {
        return true;
    }
    let checked = Schema::read(text).and_then(|schema| schema.mistakes(&stage.config.value));
    let found = match checked {
        Ok(found) => found,
        Err(error) => {
            let text = format!("the config schema of plugin `{name}` cannot be used: {error:#}");
            mistakes.push(stage.error(stage.plugin.at, text));
            return false;
        }
    };
    let good = found.is_empty();
    for (pointer, text) in found {
        let text = format!("{text} (plugin `{name}`)");
        mistakes.push(stage.error(stage.config.place(&pointer), text));
    }
    good
}

/// How many values there are in a value, itself too.
fn values_of(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values_of).sum(),
        Value::Object(members) => members.values().map(values_of).sum(),
        _ => 0,
    }
}

/// Goes over a schema as a validator would, with references unfolded. It does not know where a schema may stand and where only a value, and
/// takes everything for a schema.
struct Walk<'a> {
    schema: &'a Value,
    is_draft_4: bool,
    /// The references that lead to where the walk is.
    followed: Vec<&'a str>,
    parts: usize,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, value: &'a Value, is_root: bool) -> Result<()> {
        self.count(1)?;
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.visit(item, false)),
            Value::Object(members) => self.visit_object(members, is_root),
            _ => Ok(()),
        }
    }

    fn visit_object(&mut self, members: &'a Map<String, Value>, is_root: bool) -> Result<()> {
        let text = |key: &str| members.get(key).and_then(Value::as_str);
        for key in ["$dynamicRef", "$recursiveRef"] {
            if text(key).is_some() {
                bail!("it has a `{key}`, which cannot be bounded; write `\"$ref\": \"#/$defs/NAME\"`");
            }
        }
        // Below the root these would change what a reference means.
        for key in ["$id", "$schema", "id"] {
            if !is_root && text(key).is_some() && (key != "id" || self.is_draft_4) {
                bail!("it has `{key}` below its root; leave it out and refer by `\"$ref\": \"#/$defs/NAME\"`");
            }
        }
        if text("pattern").is_some() {
            self.count(PATTERN_PARTS)?;
        }
        if let Some(Value::Object(patterns)) = members.get("patternProperties") {
            self.count(patterns.len().saturating_mul(PATTERN_PARTS))?;
        }
        // The validator goes once more over everything beside such a keyword, to see what has been looked at.
        let again = ["unevaluatedProperties", "unevaluatedItems"].map(|key| members.contains_key(key));
        let times = 1 + again.into_iter().filter(|again| *again).count();
        for _ in 0..times {
            for member in members.values() {
                self.visit(member, false)?;
            }
            if let Some(reference) = text("$ref") {
                self.follow(reference)?;
            }
        }
        Ok(())
    }

    fn follow(&mut self, reference: &'a str) -> Result<()> {
        let told = cut(reference, 100);
        let pointer = match reference.strip_prefix('#') {
            Some(pointer) if pointer.is_empty() || pointer.starts_with('/') => pointer,
            _ => {
                bail!("it refers to {told:?}, but only its own parts can be referred to: `\"$ref\": \"#/$defs/NAME\"`");
            }
        };
        if pointer.contains('%') {
            bail!("it refers to {told:?}; give the part a name without `%`");
        }
        if self.followed.contains(&pointer) {
            bail!("{told:?} leads back to itself; write what nests out, as deep as it is needed");
        }
        let target = self
            .schema
            .pointer(pointer)
            .with_context(|| format!("it refers to {told:?}, which does not exist"))?;
        self.followed.push(pointer);
        self.visit(target, pointer.is_empty())?;
        self.followed.pop();
        Ok(())
    }

    fn count(&mut self, parts: usize) -> Result<()> {
        self.parts = self.parts.saturating_add(parts);
        if self.parts > PARTS_MAX {
            bail!(
                "it unfolds into more than {PARTS_MAX} parts (a pattern counts for {PATTERN_PARTS}); write it with fewer references or patterns"
            );
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(schema: &Value) -> String {
        Schema::read(&schema.to_string())
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default()
    }

    /// `a0` doubled so many times.
    fn doubled(times: usize, a0: Value) -> Value {
        let mut defs = json!({"a0": a0});
        for n in 1..=times {
            let below = json!({"$ref": format!("#/$defs/a{}", n - 1)});
            defs[format!("a{n}")] = json!({"allOf": [below, below]});
        }
        json!({"$defs": defs, "$ref": format!("#/$defs/a{times}")})
    }

    #[test]
    fn a_schema_that_unfolds_without_measure_is_refused_before_anything_is_done_with_it() {
        for schema in [doubled(20, json!(false)), doubled(40, json!({"type": "object"}))] {
            assert!(
                refusal(&schema).contains("unfolds into more than 10000 parts"),
                "{}",
                refusal(&schema)
            );
        }
        let nested = (0..40).fold(
            json!({}),
            |inner, _| json!({"unevaluatedProperties": false, "allOf": [inner]}),
        );
        assert!(refusal(&nested).contains("unfolds into"), "{}", refusal(&nested));
        let patterns: Vec<Value> = (0..101).map(|n| json!({"pattern": format!("{n}")})).collect();
        assert!(refusal(&json!({"anyOf": patterns})).contains("unfolds into"));
        let large = json!({"pattern": r"(\pL{100}){10}"});
        assert_ne!(refusal(&large), "");
    }

    #[test]
    fn references_that_cannot_be_bounded_are_refused_with_what_to_write() {
        for (schema, words) in [
            (json!({"$dynamicRef": "#x"}), "`$dynamicRef`"),
            (json!({"$recursiveRef": "#"}), "`$recursiveRef`"),
            (
                json!({"$ref": "#x", "$defs": {"a": {"$anchor": "x"}}}),
                "only its own parts",
            ),
            (json!({"$ref": "http://example.com/a"}), "only its own parts"),
            (
                json!({"properties": {"a": {"$id": "b", "$ref": "#/c"}}}),
                "`$id` below its root",
            ),
            (json!({"$ref": "#/%24defs"}), "without `%`"),
            (json!({"$ref": "#/$defs/none"}), "does not exist"),
            (json!({"$ref": "#"}), "leads back to itself"),
            (
                json!({"additionalProperties": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}),
                "leads back to itself",
            ),
        ] {
            assert!(refusal(&schema).contains(words), "{schema}: {}", refusal(&schema));
        }
    }

    #[test]
    fn an_ordinary_schema_with_references_of_every_kind_is_used() {
        let name = json!({"type": "string", "pattern": "^(?!x)[a-z]+$"});
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://example.com/config",
            "$defs": {"name": name, "names": {"type": "array", "items": {"$ref": "#/$defs/name"}}},
            "properties": {"id": {"$ref": "#/$defs/name"}, "$ref": {"type": "integer"}, "all": {"$ref": "#/$defs/names"}},
        });
        let schema = Schema::read(&schema.to_string()).unwrap();
        assert_eq!(
            schema.mistakes(&json!({"id": "a", "$ref": 1, "all": ["b"]})).unwrap(),
            []
        );
        let found = schema.mistakes(&json!({"all": ["b", "xb"]})).unwrap();
        assert_eq!((found.len(), found[0].0.as_str()), (1, "/all/1"));
    }

    #[test]
    fn few_mistakes_are_told_and_each_is_cut() {
        let schema = Schema::read(r#"{"items": {"const": 1}}"#).unwrap();
        let config = vec![json!("x".repeat(10_000)); 100];
        let found = schema.mistakes(&json!(config)).unwrap();
        assert_eq!(found.len(), MISTAKES_MAX);
        assert!(found.iter().all(|(_, text)| text.len() < 2 * MISTAKE_BYTES_MAX));
        let found = schema.mistakes(&json!(vec![0; 400_000])).unwrap();
        assert_eq!(found.len(), 1, "where many would take too much memory");
        let schema = json!({"items": {"enum": vec![1; 9_000]}}).to_string();
        let refused = Schema::read(&schema)
            .unwrap()
            .mistakes(&json!(vec![1; 12_000]))
            .unwrap_err();
        assert!(refused.to_string().contains("too much to check"), "{refused}");
    }
}
