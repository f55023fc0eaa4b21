//! A test guest whose outputs name the version that made them.
//!
//! A version is told by a label inside the component. A test makes as many versions as it wants by writing other labels over it, which is much
//! cheaper than compiling. The label's first word is also what the version does to every record, or at its start; a version called
//! `mended` does not do what the records demand.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Deserialize;
use wasmill_plugin::{MessagePort, Output, Port, Processor, Record, Rejection};

const OUT: MessagePort = MessagePort::new(0, "out");

/// `version-label:` and 34 characters, filled up with spaces.
static LABEL: [u8; 48] = *b"version-label:first                             ";

/// The configuration, with the label.
pub struct Versioned {
    label: String,
    config: Config,
}

/// What can be configured.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Takes the label's place in outputs.
    label: Option<String>,
    /// Records are forwarded as they are, and say nothing of the version.
    #[serde(default)]
    forward: bool,
    /// Outputs say where the record is seen, as `TOPIC/PARTITION/OFFSET`, and nothing else; the record demands nothing.
    #[serde(default)]
    position: bool,
}

impl Processor for Versioned {
    type Config = Config;
    const NAME: Option<&'static str> = Some("versioned");
    const PORTS: &'static [Port] = &[Port::Message(OUT)];

    fn configure(config: Config) -> Result<Versioned, String> {
        // Not what the compiler knows of it, but what the component holds when it runs.
        let label = black_box(&LABEL).get(14..).unwrap_or_default();
        let label = String::from_utf8_lossy(label).trim_end().to_owned();
        match (&config.label, label.as_str()) {
            (Some(label), _) if label == "unwelcome" => Err("`label` is \"unwelcome\", as the test wanted".to_owned()),
            (_, "no-configure") => Err("this version takes no configuration, as the test wanted".to_owned()),
            _ => Ok(Versioned { label, config }),
        }
    }

    fn self_test(&mut self) -> Result<(), String> {
        match self.label.as_str() {
            "no-self-test" => Err("this version does not pass its own test, as the test wanted".to_owned()),
            _ => Ok(()),
        }
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        if self.config.position {
            let position = format!("{}/{}/{}", record.topic(), record.partition(), record.offset());
            out.message(OUT).value_of([position.as_bytes()]).send();
            return Ok(());
        }
        let value = record.value().unwrap_or_default();
        let value = std::str::from_utf8(value)?;
        let own = self.label.split(' ').next().unwrap_or_default();
        let demand = value.split(' ').next().unwrap_or_default();
        for deed in [own, demand] {
            match deed {
                _ if own == "mended" => {}
                "reject" => return Err(Rejection::new(format!("rejected by {}", self.label))),
                "retry" => return Err(Rejection::retry(format!("not yet, says {}", self.label))),
                "panic" => panic!("poisoned for {}", self.label),
                "slow" => work(Duration::from_millis(200)),
                _ => {}
            }
        }
        if self.config.forward {
            out.forward(OUT);
            return Ok(());
        }
        let label = self.config.label.as_ref().unwrap_or(&self.label);
        out.message(OUT)
            .value_of([label.as_bytes(), b": ", value.as_bytes()])
            .send();
        Ok(())
    }
}

fn work(duration: Duration) {
    let start = Instant::now();
    let mut sum = 0_u64;
    while start.elapsed() < duration {
        for number in 0..10_000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
}

wasmill_plugin::processor!(Versioned);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::Versioned;

    fn answer(config: &str, value: &str) -> Reply {
        Plugin::<Versioned>::new(config).unwrap().process(&Input::value(value))
    }

    #[test]
    fn outputs_name_the_version() {
        assert_eq!(answer("{}", "1").into_message().text(), "first: 1");
        assert_eq!(answer(r#"{"label": "new"}"#, "1").into_message().text(), "new: 1");
        assert_eq!(answer(r#"{"forward": true}"#, "1"), Reply::forwarded("out"));
    }

    #[test]
    fn records_fail_on_demand() {
        assert!(matches!(answer("{}", "reject 1"), Reply::Rejected(_)));
        assert!(Plugin::<Versioned>::new(r#"{"label": "unwelcome"}"#).is_err());
    }
}
