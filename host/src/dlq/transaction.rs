//! The transaction of a replay: its producer, what its errors mean, and how long it may last.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::count;
use crate::config::Pipeline;
use crate::kafka::Code;
use crate::kafka::ffi::CallError;
use crate::kafka::producer::Producer;
use crate::kafka::settings;

/// A transaction may last this long where the brokers allow it: a large replay takes longer than a commit interval, and its open transaction
/// holds up nobody but the replayed records themselves.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Says what an error of a transactional call means for a replay.
pub(super) fn worded(error: CallError, producer: &Producer, topic: &str) -> anyhow::Error {
    match error.code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
            anyhow!("another `dlq replay` of this stage was started later and goes on instead ({error})")
        }
        Code::TransactionalIdAuthorizationFailed => {
            anyhow!("this user may not use the transactional id; give it the rights WRITE and DESCRIBE on it ({error})")
        }
        _ => match producer.take_failure() {
            Some(failure) => anyhow!("write to topic {topic}: {}", failure.code),
            None => anyhow!(error),
        },
    }
}

/// What to do about a transaction that the brokers abort, or are about to: what is written into it must be committed, too.
pub(super) fn overdue(open: Duration, timeout: Duration, written: u64) -> Option<String> {
    if open < timeout * 4 / 5 {
        return None;
    }
    let (seconds, step) = (timeout.as_secs(), (written / 2).max(1));
    Some(format!(
        "a transaction may last {seconds} s, and {} were written in {} s; replay in steps: `--limit {step}`, again and again, until \
         nothing is left (what was replayed is skipped)",
        count(written, "record"),
        open.as_secs()
    ))
}

/// A producer whose transactional id is its own.
pub(super) struct Connected {
    pub(super) producer: Producer,
    pub(super) record_bytes_max: usize,
    /// How long its transaction may be open.
    pub(super) timeout: Duration,
}

/// Makes the producer; the brokers may allow shorter transactions only.
pub(super) fn connect(pipeline: &Pipeline, id: &str, limit: Option<u64>, topics: &[String]) -> Result<Connected> {
    let usual = pipeline.kafka.transaction_timeout();
    let mut config = settings::producer(&pipeline.kafka, Some(id), limit);
    let record_bytes_max = config
        .get("message.max.bytes")
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    for timeout in [TRANSACTION_TIMEOUT.max(usual), usual] {
        config.set("transaction.timeout.ms", timeout.as_millis().to_string());
        let producer = Producer::new(id, &config, topics)?;
        match producer.init_transactions() {
            Ok(()) => {
                return Ok(Connected {
                    producer,
                    record_bytes_max,
                    timeout,
                });
            }
            // Then the pipeline's own, which may be shorter.
            Err(error) if error.code == Code::InvalidTransactionTimeout => {}
            Err(error) => {
                let error = worded(error, &producer, topics.first().map_or("", String::as_str));
                return Err(error.context(format!(
                    "start transactional id `{id}`; a replay is a transaction, whatever the stage's guarantee"
                )));
            }
        }
    }
    bail!(
        "the brokers allow no transaction of {} s; lower `transaction.timeout.ms`",
        usual.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_too_large_for_a_transaction_names_steps_that_fit() {
        let timeout = Duration::from_secs(300);
        assert_eq!(overdue(Duration::from_secs(239), timeout, 100), None);
        let text = overdue(Duration::from_secs(240), timeout, 100).unwrap();
        assert!(
            text.contains("may last 300 s") && text.contains("`--limit 50`"),
            "{text}"
        );
        let text = overdue(timeout, timeout, 0).unwrap();
        assert!(text.contains("`--limit 1`"), "{text}");
    }
}
