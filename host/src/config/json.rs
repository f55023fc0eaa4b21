//! Turns a stage's `config` into the JSON that the plugin's `configure` gets.
//!
//! Plain scalars follow YAML's core schema, so `NO` and `on` stay text. What JSON or a 64-bit number
//! cannot hold as it was written (infinities, huge integers, numbers with leading zeros, keys that
//! are no text) is a mistake, never silently another value. The place of every value is kept under
//! its JSON pointer, so that a violation of the plugin's schema can point to the line that caused it.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value as Json};

use super::errors::{Location, quoted};
use super::model::{PluginConfig, Shape};
use super::section::Field;
use super::yaml::{Key, Node, Scalar, Value};

/// Reads the whole `config` map.
pub(super) fn read(field: &Field<'_>) -> Option<PluginConfig> {
    if field.is_null() {
        return Some(PluginConfig::empty(field.at()));
    }
    if !field.is_map() {
        return field.wrong_kind("a map");
    }
    let mut reader = Reader {
        field,
        places: BTreeMap::new(),
        failed: false,
    };
    let value = reader.value(field.node(), "");
    (!reader.failed).then_some(PluginConfig {
        value,
        at: field.at(),
        places: reader.places,
    })
}

/// The whole file as it came out of interpolation, for telling which keys of two files differ. Scalars stay text.
pub(super) fn shape(node: &Node) -> Shape {
    Shape(plain(node))
}

fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) => Json::String(scalar.text.clone()),
        Value::List(nodes) => Json::Array(nodes.iter().map(plain).collect()),
        Value::Map(entries) => {
            let entry = |(key, node): &(Key, Node)| (key.scalar.text.clone(), plain(node));
            Json::Object(entries.iter().map(entry).collect())
        }
        Value::Broken => Json::Null,
    }
}

struct Reader<'f> {
    field: &'f Field<'f>,
    places: BTreeMap<String, Location>,
    failed: bool,
}

impl Reader<'_> {
    fn value(&mut self, node: &Node, pointer: &str) -> Json {
        self.places.insert(pointer.to_owned(), node.at);
        match &node.value {
            Value::Scalar(scalar) => resolve(scalar).unwrap_or_else(|mistake| self.fail(node.at, pointer, &mistake)),
            Value::List(nodes) => {
                let item = |(index, node)| self.value(node, &format!("{pointer}/{index}"));
                Json::Array(nodes.iter().enumerate().map(item).collect())
            }
            Value::Map(entries) => {
                let mut object = Map::new();
                for (key, node) in entries {
                    let text = &key.scalar.text;
                    if !matches!(resolve(&key.scalar), Ok(Json::String(_))) {
                        let name = quoted(text);
                        self.fail(key.at, pointer, &format!("key {name} is no text; quote it: \"{text}\""));
                    }
                    let escaped = text.replace('~', "~0").replace('/', "~1");
                    object.insert(text.clone(), self.value(node, &format!("{pointer}/{escaped}")));
                }
                Json::Object(object)
            }
            Value::Broken => {
                self.failed = true;
                Json::Null
            }
        }
    }

    fn fail(&mut self, at: Location, pointer: &str, mistake: &str) -> Json {
        self.failed = true;
        let place = if pointer.is_empty() {
            String::new()
        } else {
            format!("{}: ", quoted(pointer))
        };
        self.field.report(at, format!("{place}{mistake}"));
        Json::Null
    }
}

/// A scalar's value by YAML 1.2's core schema.
fn resolve(scalar: &Scalar) -> Result<Json, String> {
    let text = scalar.text.as_str();
    if scalar.is_null() {
        return Ok(Json::Null);
    }
    if !scalar.plain {
        return Ok(Json::String(text.to_owned()));
    }
    match text {
        "true" | "True" | "TRUE" => return Ok(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Json::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return Err(format!("JSON has no {}", quoted(text))),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Err(format!("JSON has no {}", quoted(text)));
    }
    match (unsigned.get(..2), unsigned.len() == text.len()) {
        (Some("0x"), true) => radix(text, 16),
        (Some("0o"), true) => radix(text, 8),
        _ if unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') => decimal(text, unsigned),
        _ => Ok(Json::String(text.to_owned())),
    }
}

/// Text that only looks like a number in another base stays text.
fn radix(text: &str, radix: u32) -> Result<Json, String> {
    let digits = text.get(2..).unwrap_or_default();
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Ok(Json::String(text.to_owned()));
    }
    u64::from_str_radix(digits, radix)
        .map(Json::from)
        .map_err(|_| too_large(text))
}

fn decimal(text: &str, unsigned: &str) -> Result<Json, String> {
    let zero_padded = unsigned.len() > 1 && unsigned.starts_with('0');
    if unsigned.chars().all(|digit| digit.is_ascii_digit()) {
        if zero_padded {
            let name = quoted(text);
            return Err(format!(
                "{name} is read differently by different YAML readers; quote it: \"{text}\""
            ));
        }
        let number = text
            .parse::<u64>()
            .map(Json::from)
            .or_else(|_| text.parse::<i64>().map(Json::from));
        return number.map_err(|_| too_large(text));
    }
    if !is_float(unsigned) {
        return Ok(Json::String(text.to_owned()));
    }
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number.map(Json::Number).ok_or_else(|| too_large(text))
}

fn too_large(text: &str) -> String {
    format!(
        "{} is too large for a 64-bit number; quote it to pass it as text",
        quoted(text)
    )
}

/// `1.5`, `1.`, `.5`, each with an exponent or without.
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}
