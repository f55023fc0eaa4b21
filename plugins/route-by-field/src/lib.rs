//! Sends each record, unchanged, to one of three outputs by the value of a field: `a`, `b`, or `other` for the rest.
//!
//! The configuration lists the values of `a` and those of `b`. A string, an integer or a boolean is equal to its like and to nothing
//! else: `1` is neither `"1"` nor `1.0`. A record without the field, or with a null, an object, an array or a fraction there, goes
//! to `other`, so every record that is JSON goes somewhere.
//!
//! Ports are fixed when a plugin is compiled, and every one has to be bound, so a plugin for any number of branches would leave most
//! of them to be bound to nothing. For more than three, a second stage reads `other`, or a plugin of one's own has a port for each.

use std::collections::HashMap;

use serde::Deserialize;
use wasmill_plugin::json::Pointer;
use wasmill_plugin::{MessagePort, Output, Port, Processor, Reads, Record, Rejection, Text};

const A: MessagePort = MessagePort::new(0, "a");
const B: MessagePort = MessagePort::new(1, "b");
const OTHER: MessagePort = MessagePort::new(2, "other");

/// The stage's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    field: Pointer,
    a: Vec<Value>,
    b: Vec<Value>,
}

/// A value that a record's field can be compared with.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, an integer or a boolean")]
enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// The field, and where each of its values goes.
pub struct RouteByField {
    field: Pointer,
    texts: HashMap<String, MessagePort>,
    /// Integers and booleans, as JSON spells them.
    others: HashMap<String, MessagePort>,
}

impl Processor for RouteByField {
    type Config = Config;
    const PORTS: &'static [Port] = &[Port::Message(A), Port::Message(B), Port::Message(OTHER)];
    const READS: Reads = Reads::VALUE;
    const CONFIG_SCHEMA: &'static str = r##"{
        "type": "object",
        "properties": {
            "field": {"type": "string", "pattern": "^(/([^/~]|~[01])*)+$", "description": "a JSON Pointer, such as /operation"},
            "a": {"$ref": "#/$defs/values", "description": "values of the field that go to the port `a`"},
            "b": {"$ref": "#/$defs/values", "description": "values of the field that go to the port `b`"}
        },
        "required": ["field", "a", "b"],
        "additionalProperties": false,
        "$defs": {"values": {"type": "array", "minItems": 1, "items": {"type": ["string", "integer", "boolean"]}}}
    }"##;

    fn configure(config: Config) -> Result<RouteByField, String> {
        let mut route = RouteByField {
            field: config.field,
            texts: HashMap::new(),
            others: HashMap::new(),
        };
        for (values, port) in [(config.a, A), (config.b, B)] {
            values.into_iter().try_for_each(|value| route.add(value, port))?;
        }
        Ok(route)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let port = match record.at(&self.field)? {
            Some(text) if text.starts_with('"') => {
                let text: Text<'_> = serde_json::from_str(text)?;
                self.texts.get(text.as_str())
            }
            Some(text) => self.others.get(text),
            None => None,
        };
        out.forward(port.copied().unwrap_or(OTHER));
        Ok(())
    }
}

impl RouteByField {
    fn add(&mut self, value: Value, port: MessagePort) -> Result<(), String> {
        let (ports, value) = match value {
            Value::Text(text) => (&mut self.texts, text),
            Value::Integer(number) => (&mut self.others, number.to_string()),
            Value::Boolean(is_true) => (&mut self.others, is_true.to_string()),
        };
        match ports.insert(value.clone(), port) {
            Some(before) if before != port => Err(format!("`b`: {value:?} stands in `a` already")),
            _ => Ok(()),
        }
    }
}

wasmill_plugin::processor!(RouteByField);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::RouteByField;

    fn port_with(config: &str, value: &str) -> String {
        match Plugin::<RouteByField>::new(config)
            .unwrap()
            .process(&Input::value(value))
        {
            Reply::Forwarded(port) => port,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn a_record_goes_where_its_value_is_listed() {
        let config = r#"{"field": "/operation", "a": ["sum", "add"], "b": ["subtract"]}"#;
        for (value, port) in [
            (r#"{"operation":"sum"}"#, "a"),
            (r#"{"x":{"operation":"subtract"},"operation":"add"}"#, "a"),
            (r#"{"operation":"\u0073ubtract"}"#, "b"),
            (r#"{"operation":"Sum"}"#, "other"),
            (r#"{"operation":""}"#, "other"),
            (r#"{"operation":null}"#, "other"),
            (r#"{"operation":["sum"]}"#, "other"),
            ("{}", "other"),
            ("7", "other"),
        ] {
            assert_eq!(port_with(config, value), port, "{value}");
        }
    }

    #[test]
    fn values_are_equal_to_their_like_only() {
        let config = r#"{"field": "/x/0", "a": [1, true, "true"], "b": ["1", false, -9223372036854775808]}"#;
        for (item, port) in [
            ("1", "a"),
            ("true", "a"),
            ("\"true\"", "a"),
            ("\"1\"", "b"),
            ("false", "b"),
            ("-9223372036854775808", "b"),
            ("1.0", "other"),
            ("\"false\"", "other"),
            ("{}", "other"),
        ] {
            assert_eq!(port_with(config, &format!(r#"{{"x":[{item}]}}"#)), port, "{item}");
        }
    }

    #[test]
    fn what_is_no_json_is_rejected_with_the_reason() {
        let mut plugin = Plugin::<RouteByField>::new(r#"{"field": "/f", "a": ["a"], "b": ["b"]}"#).unwrap();
        let Reply::Rejected(text) = plugin.process(&Input::value(r#"{"f":"a""#)) else {
            panic!("not rejected")
        };
        assert!(text.contains("EOF"), "{text}");
        assert_eq!(
            plugin.process(&Input::tombstone()),
            Reply::rejected("the value is null")
        );
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
        let refused = |config: &str| Plugin::<RouteByField>::new(config).err().unwrap();
        assert_eq!(refused(r#"{"field": "/f", "a": ["x"]}"#), "missing field `b`");
        assert_eq!(
            refused(r#"{"field": "/f", "a": ["x", "x"], "b": ["y", "x"]}"#),
            r#"`b`: "x" stands in `a` already"#
        );
        assert_eq!(
            refused(r#"{"field": "/f", "a": [1.5], "b": []}"#),
            "`a[0]`: expected a string, an integer or a boolean"
        );
        let text = refused(r#"{"field": "f", "a": [], "b": []}"#);
        assert!(text.starts_with("`field`: `f` is no JSON Pointer"), "{text}");
    }
}
