//! Forwards every record; or, with `copy: true`, sends a copy of it that has gone through the
//! plugin, for tests and measurements.
//!
//! A record with a header name that is not UTF-8 can be forwarded but not copied: it is rejected
//! then, because a plugin may not return such a name.

use serde::Deserialize;
use wasmill_plugin::{MessagePort, Output, Port, Processor, Record, Rejection};

const OUT: MessagePort = MessagePort::new(0, "out");

/// Whether to copy, which is also the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    #[serde(default)]
    copy: bool,
}

impl Processor for Identity {
    type Config = Identity;
    const PORTS: &'static [Port] = &[Port::Message(OUT)];
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {
            "copy": {"type": "boolean", "default": false, "description": "send copies that went through the plugin"}
        },
        "additionalProperties": false
    }"#;

    fn configure(config: Identity) -> Result<Identity, String> {
        Ok(config)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        if self.copy {
            return copy(record, out);
        }
        out.forward(OUT);
        Ok(())
    }
}

fn copy(record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
    let mut message = out.message(OUT).replace_headers();
    message = match record.key() {
        Some(key) => message.key(key),
        None => message.null_key(),
    };
    message = match record.value() {
        Some(value) => message.value(value),
        None => message.null_value(),
    };
    for header in record.headers() {
        let name = std::str::from_utf8(header.name)
            .map_err(|error| Rejection::new(format!("a header's name cannot be copied: {error}")))?;
        message = match header.value {
            Some(value) => message.header(name, value),
            None => message.null_header(name),
        };
    }
    if let Some(timestamp_ms) = record.timestamp_ms() {
        message = message.timestamp_ms(timestamp_ms);
    }
    message.send();
    Ok(())
}

wasmill_plugin::processor!(Identity);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::Identity;

    fn record() -> Input {
        Input::value("v")
            .key("")
            .header("h", "1")
            .header("h", "")
            .null_header("n")
            .timestamp_ms(-1)
    }

    fn copied(record: &Input) -> Reply {
        Plugin::<Identity>::new(r#"{"copy": true}"#).unwrap().process(record)
    }

    #[test]
    fn a_record_is_forwarded() {
        let mut plugin = Plugin::<Identity>::new("{}").unwrap();
        assert_eq!(plugin.process(&record().header([0xff], "")), Reply::forwarded("out"));
        assert_eq!(plugin.process(&Input::tombstone()), Reply::forwarded("out"));
    }

    #[test]
    fn a_copy_keeps_every_part() {
        let copy = copied(&record()).into_message();
        assert_eq!((copy.key.as_deref(), copy.text()), (Some(b"".as_slice()), "v"));
        let header =
            |name: &str, value: Option<&str>| (name.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()));
        assert_eq!(
            copy.headers,
            [header("h", Some("1")), header("h", Some("")), header("n", None)]
        );
        assert_eq!(copy.timestamp_ms, Some(-1));
    }

    #[test]
    fn a_copy_of_nulls_is_nulls() {
        let copy = copied(&Input::tombstone()).into_message();
        assert_eq!(
            (copy.key, copy.value, copy.headers, copy.timestamp_ms),
            (None, None, vec![], None)
        );
    }

    #[test]
    fn a_header_name_that_is_not_utf8_cannot_be_copied() {
        let Reply::Rejected(reason) = copied(&record().header([0xff], "")) else {
            panic!("not rejected")
        };
        assert!(
            reason.starts_with("a header's name cannot be copied: invalid utf-8"),
            "{reason}"
        );
    }
}
