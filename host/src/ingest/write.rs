//! Writes the records of a request, once for each idempotency key, and answers when the brokers have.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::answer::{self, Refusal, Told};
use super::body::Body;
use super::idempotency::Begun;
use super::memory::Held;
use super::request::REPLAYED;
use super::status::Over;
use super::{Shared, Topic};
use crate::kafka::Code;
use crate::kafka::producer::{Blame, blame};
use crate::kafka::publisher::{Publish, Report, Unacknowledged, Written};

/// The record's header that names it; sinks and readers know a repeated record by it.
const MESSAGE_ID: &str = "wasmill.message-id";

/// The longest part of a record's name that its message id repeats.
const NAME_BYTES_MAX: usize = 256;

/// Hands the records over. What comes back sees the request to its end, whether or not anybody waits for it.
pub(super) fn write(
    shared: &Arc<Shared>,
    topic: &Topic,
    key: Option<&str>,
    bytes: &[u8],
    body: Body<'_>,
    held: Held,
) -> Result<JoinHandle<Response>, Refusal> {
    let (count, is_array) = (body.records.len(), body.is_array);
    let mut again = false;
    let mut turn = None;
    let known = match key {
        None => vec![None; count],
        Some(key) => match Turn::begin(shared, topic, key, bytes, count)? {
            Begin::Write(mine, known) => {
                turn = Some(mine);
                known
            }
            Begin::Again(known) => {
                again = true;
                known
            }
        },
    };
    let mut steps = Vec::with_capacity(count);
    for ((index, record), known) in body.records.into_iter().enumerate().zip(known) {
        let unique = key.map_or_else(Uuid::new_v4, |key| derived(topic, key, index, record.value));
        let message_id = message_id(record.name.as_deref(), unique);
        let stage = match known {
            Some(written) => Stage::Known(written),
            None => {
                let publish = Publish {
                    topic: &topic.name,
                    key: record.key.as_deref(),
                    value: record.value,
                    headers: &[(MESSAGE_ID, &message_id)],
                };
                let handed = shared.publisher.publish(&publish);
                handed.map_or_else(Stage::Refused, |report| Stage::Handed(report, record.value.len()))
            }
        };
        steps.push((record.name, message_id, stage));
    }
    let (shared, topic) = (Arc::clone(shared), topic.name.clone());
    Ok(tokio::spawn(async move {
        let told = finish(&shared, &topic, steps).await;
        if let Some(turn) = turn {
            turn.end(told.iter().map(|told| told.outcome.ok()).collect());
        }
        let mut response = answer::of(&topic, is_array, &told, held);
        if again {
            response
                .headers_mut()
                .insert(REPLAYED, HeaderValue::from_static("true"));
            shared.metrics.repeated();
        }
        response
    }))
}

/// Where a record is on its way.
enum Stage {
    /// An earlier request with the same key has written it.
    Known(Written),
    /// Its value has so many bytes.
    Handed(Report, usize),
    Refused(Unacknowledged),
}

/// Waits for every report, and counts what is new.
async fn finish(shared: &Shared, topic: &str, steps: Vec<(Option<String>, String, Stage)>) -> Vec<Told> {
    let mut all = Vec::with_capacity(steps.len());
    let (mut records, mut bytes) = (0, 0);
    for (name, message_id, stage) in steps {
        let outcome = match stage {
            Stage::Known(written) => Ok(written),
            Stage::Refused(failure) => Err(failure),
            Stage::Handed(report, len) => {
                // A producer that ends without a report leaves what it had undecided.
                let undecided = Unacknowledged {
                    code: Code::Fail,
                    is_unwritten: false,
                };
                let outcome = report.await.unwrap_or(Err(undecided));
                if outcome.is_ok() {
                    records += 1;
                    bytes += len as u64;
                }
                outcome
            }
        };
        if let Err(failure) = &outcome
            && let Some(over) = trouble(failure.code)
        {
            shared.status.fails(topic, failure.to_string(), over);
        }
        all.push(Told {
            name,
            message_id,
            outcome,
        });
    }
    if records > 0 {
        shared.metrics.acknowledged(topic, records, bytes);
        if all.iter().all(|told| told.outcome.is_ok()) {
            shared.status.succeeds(topic);
        }
    }
    all
}

/// What a failure says of the topic: nothing where it is the record's own, or of a crowd in this process.
fn trouble(code: Code) -> Option<Over> {
    match (code, blame(code)) {
        (Code::QueueFull, _) | (_, Blame::Record) => None,
        // Brokers that are asked for it tell whether it is there.
        (Code::UnknownTopic | Code::UnknownTopicOrPartition, _) => Some(Over::WhenReached),
        (_, Blame::Operator) => Some(Over::WhenAcknowledged),
        (_, Blame::Passing) => Some(Over::WhenReached),
    }
}

/// A request whose idempotency key nobody else may use until it has ended.
struct Turn {
    shared: Arc<Shared>,
    key: String,
    written: Vec<Option<Written>>,
}

enum Begin {
    Write(Turn, Vec<Option<Written>>),
    Again(Vec<Option<Written>>),
}

impl Turn {
    fn begin(shared: &Arc<Shared>, topic: &Topic, key: &str, body: &[u8], records: usize) -> Result<Begin, Refusal> {
        // A topic's name holds no such character.
        let key = format!("{}\n{key}", topic.name);
        let begun = {
            let mut keys = shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let begun = keys.begin(Instant::now(), &key, Sha256::digest(body).into(), records);
            shared.show_keys(&keys);
            begun
        };
        match begun {
            Begun::Write(known) => {
                let turn = Self {
                    shared: Arc::clone(shared),
                    key,
                    written: Vec::new(),
                };
                Ok(Begin::Write(turn, known))
            }
            Begun::Again(known) => Ok(Begin::Again(known.into_iter().map(Some).collect())),
            Begun::InFlight => Err(Refusal::in_flight()),
            Begun::Differs => Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key belongs to a request with another body; use a key of its own",
            )),
            Begun::Full => Err(Refusal::crowded(
                "idempotency",
                "no more Idempotency-Keys can be remembered (`ingest.idempotency.memory`); nothing was written, send it again later",
            )),
        }
    }

    fn end(mut self, written: Vec<Option<Written>>) {
        self.written = written;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut keys = self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.end(Instant::now(), &self.key, std::mem::take(&mut self.written));
        self.shared.show_keys(&keys);
    }
}

/// `NAME_UUID`, or `UUID` of a record without a name.
fn message_id(name: Option<&str>, unique: Uuid) -> String {
    let Some(name) = name else {
        return unique.to_string();
    };
    format!("{}_{unique}", &name[..name.floor_char_boundary(NAME_BYTES_MAX)])
}

/// The same for the same record of the same request, in any process and after any restart: what is written twice can be told.
fn derived(topic: &Topic, key: &str, index: usize, value: &str) -> Uuid {
    let mut hash = Sha256::new();
    for part in [
        topic.name.as_bytes(),
        key.as_bytes(),
        index.to_string().as_bytes(),
        value.as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_of_the_topic_what_it_can() {
        for (code, over) in [
            (Code::QueueFull, None),
            (Code::MessageSizeTooLarge, None),
            (Code::NotEnoughReplicas, Some(Over::WhenReached)),
            (Code::MessageTimedOut, Some(Over::WhenReached)),
            (Code::UnknownTopicOrPartition, Some(Over::WhenReached)),
            (Code::TopicAuthorizationFailed, Some(Over::WhenAcknowledged)),
        ] {
            assert_eq!(trouble(code), over, "{code:?}");
        }
    }
}
