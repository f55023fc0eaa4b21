//! Uses about everything that the contract 0.1.0 has, by the value of each record.
//!
//! The source of `host/tests/data/golden/golden-0.1.0.wasm`, which is what is tested: that component is never built again. This crate may
//! follow the SDK; the component stays as it is.

use serde::Deserialize;
use wasmill_plugin::log::Level;
use wasmill_plugin::{MessagePort, Output, Port, Processor, Reads, Record, Rejection, log, metrics};

const OUT: MessagePort = MessagePort::new(0, "out");
const SIDE: MessagePort = MessagePort::new(1, "side-door");

/// What the pipeline file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    prefix: String,
}

impl Processor for Golden {
    type Config = Golden;
    const PORTS: &'static [Port] = &[Port::Message(OUT), Port::Message(SIDE)];
    const READS: Reads = Reads::ALL;
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {"prefix": {"type": "string", "description": "what new values begin with"}},
        "required": ["prefix"],
        "additionalProperties": false
    }"#;
    const ATTRIBUTES: &'static [(&'static str, &'static str)] = &[("kept-since", "0.1.0")];

    fn configure(config: Golden) -> Result<Golden, String> {
        if config.prefix.is_empty() {
            return Err("`prefix` is empty; at least one character is needed".to_owned());
        }
        Ok(config)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        metrics::add("records", 1);
        match record.value() {
            None => out.message(SIDE).value("was null").send(),
            Some(b"skip") => {}
            Some(b"forward") => out.forward(SIDE),
            Some(b"both") => {
                out.forward(OUT);
                out.forward(SIDE);
            }
            Some(b"echo") => self.echo(record, out),
            Some(b"nulls") => out
                .message(OUT)
                .null_key()
                .null_value()
                .replace_headers()
                .null_header("only")
                .timestamp_ms(-1)
                .partition(0)
                .send(),
            Some(b"append") => out.message(OUT).header("added", b"\xff\x00").null_header("nil").send(),
            Some(b"log") => say(),
            Some(b"measure") => {
                metrics::set("level", -2.5);
                metrics::observe("size", 0.25);
            }
            Some(b"reject") => return Err(Rejection::new(format!("{} is rejected", record.offset()))),
            Some(b"retry") => return Err(Rejection::retry("another time")),
            Some(b"panic") => panic!("golden panic"),
            Some(b"exit") => std::process::exit(1),
            Some(_) => {
                let number: i64 = record.json()?;
                let value = format!("{}{number}", self.prefix);
                out.message(OUT).key(self.prefix.as_bytes()).json(&value)?.send();
            }
        }
        Ok(())
    }
}

impl Golden {
    /// Everything that the plugin sees of a record, as text.
    fn echo(&self, record: &Record<'_>, out: &mut Output<'_>) {
        let headers: Vec<String> = record
            .headers()
            .map(|header| {
                let value = header.value.map(|value| value.escape_ascii().to_string());
                format!("{}={value:?}", header.name.escape_ascii())
            })
            .collect();
        let text = format!(
            "{} key {:?} headers {headers:?} at {:?} of partition {} offset {}",
            self.prefix,
            record.key().map(|key| key.escape_ascii().to_string()),
            record.timestamp_ms(),
            record.partition(),
            record.offset(),
        );
        out.message(OUT).value(text).send();
    }
}

fn say() {
    println!("golden stdout");
    eprintln!("golden stderr");
    log::write(Level::Warn, "golden line", &[("field", "value")]);
}

wasmill_plugin::processor!(Golden);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::Golden;

    #[test]
    fn a_number_is_prefixed() {
        let mut plugin = Plugin::<Golden>::new(r#"{"prefix": "p"}"#).unwrap();
        let message = plugin.process(&Input::value("-15")).into_message();
        assert_eq!(message.text(), r#""p-15""#);
        assert_eq!(plugin.process(&Input::value("skip")), Reply::Skipped);
        assert_eq!(plugin.process(&Input::value("forward")), Reply::forwarded("side-door"));
    }

    #[test]
    fn an_empty_prefix_is_refused() {
        assert!(Plugin::<Golden>::new(r#"{"prefix": ""}"#).is_err());
    }
}
