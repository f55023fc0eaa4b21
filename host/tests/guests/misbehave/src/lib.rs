//! A test guest that forwards every record to port `out`, unless its value is the name of a
//! misdeed, which it then commits.
//!
//! `deed` lists the misdeeds of a single record: traps, endless work, rejections; `flood` those that
//! ask too much of the host. `answer` lists those of the whole batch: answers that break a rule of
//! `types.wit`. It is written against the bare contract, because the SDK makes no malformed answer.
//!
//! A value that begins with `!` is the misdeed that the configuration names as `deed`, so that
//! stages with one input can each misbehave in their own way.

pub mod bindings;

mod answer;
mod deed;
mod flood;

use std::sync::{Mutex, PoisonError};

use bindings::exports::wasmill::plugin::process::Guest;
use bindings::wasmill::plugin::types::{Batch, Description, Entry, Parts, Port, PortKind, Replies, Reply, Span};

/// What a value that begins with `!` stands for.
static DEED: Mutex<String> = Mutex::new(String::new());

/// The exports.
pub struct Misbehave;

#[cfg(target_family = "wasm")]
bindings::export!(Misbehave with_types_in bindings);

impl Guest for Misbehave {
    fn describe() -> Description {
        Description {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ports: vec![Port {
                name: "out".to_owned(),
                kind: PortKind::Message,
            }],
            config_schema: String::new(),
            state_version: 0,
            reads: Parts::VALUE,
            attributes: Vec::new(),
        }
    }

    fn configure(config: String) -> Result<(), String> {
        tell_panics();
        let config: serde_json::Value = serde_json::from_str(&config).map_err(|error| error.to_string())?;
        if let Some(deed) = config["deed"].as_str() {
            deed.clone_into(&mut DEED.lock().unwrap_or_else(PoisonError::into_inner));
        }
        match config["fail"].as_str() {
            Some("configure") => Err("`fail` is \"configure\", as the test wanted".to_owned()),
            Some("panic") => panic!("configure panicked on purpose"),
            _ => Ok(()),
        }
    }

    fn process(batch: Batch) -> Replies {
        tell_panics();
        let mut replies = Replies {
            data: Vec::new(),
            replies: Vec::new(),
            emissions: Vec::new(),
            headers: Vec::new(),
        };
        for entry in &batch.entries {
            let reply = match deed::commit(&meant(value(&batch, entry))) {
                deed::Outcome::Forward => Reply::Forward(0),
                deed::Outcome::Reject(reason) => Reply::Reject(write(&mut replies.data, &reason)),
                deed::Outcome::Retry(reason) => Reply::Retry(write(&mut replies.data, &reason)),
            };
            replies.replies.push(reply);
        }
        for entry in &batch.entries {
            answer::spoil(&meant(value(&batch, entry)), &mut replies);
        }
        replies
    }
}

fn value<'a>(batch: &'a Batch, entry: &Entry) -> &'a str {
    let bytes = entry.value.map_or(&[][..], |span| {
        let start = span.start as usize;
        &batch.data[start..start + span.len as usize]
    });
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn meant(value: &str) -> String {
    if value.starts_with('!') {
        DEED.lock().unwrap_or_else(PoisonError::into_inner).clone()
    } else {
        value.to_owned()
    }
}

fn write(data: &mut Vec<u8>, text: &str) -> Span {
    let start = data.len() as u32;
    data.extend_from_slice(text.as_bytes());
    Span {
        start,
        len: text.len() as u32,
    }
}

/// Natively a panic is the test's own affair, and there is no host to tell.
fn tell_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        bindings::wasmill::plugin::log::panicked(message, &place);
    }));
}

#[cfg(test)]
mod tests {
    use super::Misbehave;
    use super::bindings::exports::wasmill::plugin::process::Guest;
    use super::bindings::wasmill::plugin::types::{Batch, Entry, Replies, Reply, Span};

    fn process(value: &str) -> Replies {
        let span = Span {
            start: 0,
            len: value.len() as u32,
        };
        let none = Span { start: 0, len: 0 };
        let entry = Entry {
            offset: 0,
            timestamp_ms: None,
            key: None,
            value: Some(span),
            headers: none,
        };
        let data = value.as_bytes().to_vec();
        Misbehave::process(Batch {
            topic: "t".to_owned(),
            partition: 0,
            data,
            entries: vec![entry],
            headers: Vec::new(),
        })
    }

    #[test]
    fn an_ordinary_record_is_forwarded() {
        assert!(matches!(process("hello").replies[..], [Reply::Forward(0)]));
        assert!(matches!(process("slow").replies[..], [Reply::Forward(0)]));
    }

    #[test]
    fn retry_twice_gives_in_the_third_time() {
        assert!(matches!(process("retry-twice").replies[..], [Reply::Retry(_)]));
        assert!(matches!(process("retry-twice").replies[..], [Reply::Retry(_)]));
        assert!(matches!(process("retry-twice").replies[..], [Reply::Forward(0)]));
    }

    #[test]
    fn malformed_answers_are_malformed() {
        assert_eq!(process("short").replies.len(), 0);
        assert_eq!(process("long").replies.len(), 2);
        assert_eq!(process("leftover").emissions.len(), 1);
        assert_eq!(process("huge").data.len(), 100_000_000);
        assert!(matches!(process("port").replies[..], [Reply::Forward(99)]));
        assert!(matches!(process("emit-count").replies[..], [Reply::Emit(5)]));
    }

    #[test]
    #[should_panic(expected = "poisoned on purpose")]
    fn poison_panics() {
        process("panic");
    }

    #[test]
    fn a_configuration_can_fail() {
        assert!(Misbehave::configure("{}".to_owned()).is_ok());
        assert!(Misbehave::configure(r#"{"fail": "configure"}"#.to_owned()).is_err());
    }
}
