//! The `ingest` section: where records come in by HTTP, for which topics, and within which limits.
//!
//! The section is whole or not there: without it nothing listens. Every limit has a default that is on and a range; none can be
//! switched off.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use super::errors::{At, quoted};
use super::kafka::Kafka;
use super::model::Stage;
use super::secret::{self, Secret};
use super::section::{Field, Keys, Section};
use super::values::{self, duration, integer, show_duration, show_size, size};
use super::yaml::Key;
use crate::{pointer, topics};

const INGEST: Keys = Keys {
    allowed: &[
        "listen",
        "token",
        "topics",
        "body",
        "records",
        "memory",
        "connections",
        "timeout",
        "client-timeout",
        "idempotency",
    ],
    later: &[],
};
const TOPIC: Keys = Keys {
    allowed: &["key"],
    later: &[],
};
const IDEMPOTENCY: Keys = Keys {
    allowed: &["keep", "memory"],
    later: &[],
};

/// Nobody outside of the machine reaches it.
const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a remembered idempotency key takes at most, and what each record of its request takes besides.
pub(crate) const KEY_BYTES: u64 = 320 + 512;
pub(crate) const KEY_RECORD_BYTES: u64 = 64;

/// The listener that writes what it is sent to topics.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// The address and port; 127.0.0.1:8080 by default.
    pub listen: At<SocketAddr>,
    /// What a caller has to show; there is always one where other machines reach the listener.
    pub token: Option<At<Secret>>,
    /// The topics that may be written, in the order of the file; never empty.
    pub topics: Vec<IngestTopic>,
    /// The largest body of a request, in bytes: 1 KiB to 64 MiB, 1 MiB by default.
    pub body_bytes: At<u64>,
    /// The most records of a request: 1 to 100,000, 1,000 by default.
    pub records: At<u32>,
    /// What all requests together may hold, in bytes: 1 MiB to 4 GiB, 64 MiB by default. A request holds twice its body, and 1 KiB for each record.
    pub memory_bytes: At<u64>,
    /// Connections at a time: 1 to 100,000, 1,000 by default.
    pub connections: At<u32>,
    /// How long the brokers may take to acknowledge a record: 1 s to 5 min, 10 s by default.
    pub timeout: At<Duration>,
    /// How long a client may take to send a head, to send a body, and to take some of an answer: 1 s to 5 min, 10 s by default.
    pub client_timeout: At<Duration>,
    /// How long an idempotency key is remembered after its answer: 1 s to 24 h, 10 min by default.
    pub idempotency_keep: At<Duration>,
    /// What remembered keys may hold, in bytes: 1 MiB to 4 GiB, 64 MiB by default.
    pub idempotency_bytes: At<u64>,
}

/// A topic that may be written by HTTP.
#[derive(Clone, Debug)]
pub struct IngestTopic {
    /// Its name.
    pub name: At<String>,
    /// Where the record's key stands in a value, as the steps of a JSON pointer; without it keys are null.
    pub key: Option<At<Vec<String>>>,
}

/// Reads the section.
pub(super) fn read(field: &Field<'_>) -> Option<Ingest> {
    let section = field.section(&INGEST)?;
    let usual = |value| At::new(value, field.at());
    let listen = match section.get("listen") {
        Some(field) => values::address(&field, "127.0.0.1:8080"),
        None => Some(At::new(LISTEN, field.at())),
    };
    let token = section
        .get("token")
        .map_or(Some(None), |field| secret::read(&field).map(Some));
    let topics = topics_of(&section);
    let sized = |key, default, range| {
        section
            .get(key)
            .map_or(Some(usual(default)), |field| size(&field, range))
    };
    let body_bytes = sized("body", MIB, KIB..=64 * MIB);
    let memory_bytes = sized("memory", 64 * MIB, MIB..=4 * GIB);
    let counted = |key, default, range| {
        let usual = At::new(default, field.at());
        section
            .get(key)
            .map_or(Some(usual), |field| integer::<u32>(&field, range))
    };
    let records = counted("records", 1_000, 1..=100_000);
    let connections = counted("connections", 1_000, 1..=100_000);
    let timed = |key, default| {
        let usual = At::new(Duration::from_secs(default), field.at());
        let range = Duration::from_secs(1)..=Duration::from_secs(300);
        section.get(key).map_or(Some(usual), |field| duration(&field, range))
    };
    let timeout = timed("timeout", 10);
    let client_timeout = timed("client-timeout", 10);
    let idempotency = idempotency(&section, field);
    let ingest = Ingest {
        listen: listen?,
        token: token?,
        topics: topics?,
        body_bytes: body_bytes?,
        records: records?,
        memory_bytes: memory_bytes?,
        connections: connections?,
        timeout: timeout?,
        client_timeout: client_timeout?,
        idempotency_keep: idempotency?.0,
        idempotency_bytes: idempotency?.1,
    };
    if ingest.token.is_none() && !ingest.listen.ip().is_loopback() {
        let message = format!(
            "other machines reach {}, so whoever writes has to show a token; \
             set `token: {{file: PATH}}`, or listen on 127.0.0.1",
            ingest.listen.value
        );
        return field.fail_at(ingest.listen.at, message);
    }
    largest_fits(field, &ingest)?;
    keys_fit(field, &ingest)?;
    Some(ingest)
}

/// A request that nothing else competes with has to find room.
fn largest_fits(field: &Field<'_>, ingest: &Ingest) -> Option<()> {
    let needed = ingest.body_bytes.value * 2 + u64::from(ingest.records.value) * KIB;
    if needed <= ingest.memory_bytes.value {
        return Some(());
    }
    let message = format!(
        "`memory` ({}) is less than one request of `body` ({}) with `records` ({}) needs, which is twice the body and 1KiB a record; \
         allowed: at least {}",
        show_size(ingest.memory_bytes.value),
        show_size(ingest.body_bytes.value),
        ingest.records.value,
        show_size(needed.next_multiple_of(MIB)),
    );
    let largest = [ingest.memory_bytes.at, ingest.body_bytes.at, ingest.records.at];
    // Whichever stands in the file; the places of the others are that of the section.
    let at = largest.into_iter().max().unwrap_or(field.at());
    field.fail_at(at, message)
}

/// The same for a request with an `Idempotency-Key`: without room for one it would be refused for ever.
fn keys_fit(field: &Field<'_>, ingest: &Ingest) -> Option<()> {
    let needed = KEY_BYTES + u64::from(ingest.records.value) * KEY_RECORD_BYTES;
    if needed <= ingest.idempotency_bytes.value {
        return Some(());
    }
    let message = format!(
        "`idempotency.memory` ({}) is less than one key of a request with `records` ({}) takes, which is 64 bytes a record and a little more; \
         allowed: at least {}, or fewer records",
        show_size(ingest.idempotency_bytes.value),
        ingest.records.value,
        show_size(needed.next_multiple_of(MIB)),
    );
    let at = ingest.idempotency_bytes.at.max(ingest.records.at);
    field.fail_at(at, message)
}

fn idempotency(section: &Section<'_>, ingest: &Field<'_>) -> Option<(At<Duration>, At<u64>)> {
    let keep = At::new(Duration::from_secs(600), ingest.at());
    let bytes = At::new(64 * MIB, ingest.at());
    let Some(field) = section.get("idempotency") else {
        return Some((keep, bytes));
    };
    let inner = field.section(&IDEMPOTENCY)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    let keep = inner.get("keep").map_or(Some(keep), |field| duration(&field, range));
    let bytes = inner
        .get("memory")
        .map_or(Some(bytes), |field| size(&field, MIB..=4 * GIB));
    Some((keep?, bytes?))
}

/// `[TOPIC, ..]`, or `{TOPIC: {key: POINTER}, ..}`.
fn topics_of(section: &Section<'_>) -> Option<Vec<IngestTopic>> {
    let field = section.required(
        "topics",
        "the topics that may be written: [TOPIC, ..] or {TOPIC: {key: /FIELD}, ..}",
    )?;
    let topics: Vec<Option<IngestTopic>> = if field.is_map() {
        let entries = field.entries()?;
        entries.iter().map(|(name, value)| keyed(name, value)).collect()
    } else if field.is_list() {
        let plain = |field: &Field<'_>| {
            let name = values::topic(field)?;
            Some(IngestTopic { name, key: None })
        };
        field.list()?.iter().map(plain).collect()
    } else {
        return field.wrong_kind("a list of topics or a map of them");
    };
    let topics: Vec<IngestTopic> = topics.into_iter().collect::<Option<_>>()?;
    if topics.is_empty() {
        return field.fail("nothing could be written; list at least one topic");
    }
    for (index, topic) in topics.iter().enumerate() {
        if topics[..index].iter().any(|other| other.name.value == topic.name.value) {
            return field.fail_at(topic.name.at, format!("{} is listed twice", quoted(&topic.name)));
        }
    }
    Some(topics)
}

fn keyed(name: &Key, value: &Field<'_>) -> Option<IngestTopic> {
    let topic = &name.scalar.text;
    if let Some(mistake) = values::topic_mistake(topic) {
        return value.fail_at(name.at, format!("{} is no topic name: {mistake}", quoted(topic)));
    }
    let name = At::new(topic.clone(), name.at);
    // `retail-product:` alone and `{}` both say that there is no key.
    if value.is_null() {
        return Some(IngestTopic { name, key: None });
    }
    let section = value.section(&TOPIC)?;
    let key = section.get("key").map_or(Some(None), |field| key(&field).map(Some));
    Some(IngestTopic { name, key: key? })
}

/// The steps of a JSON pointer (RFC 6901).
fn key(field: &Field<'_>) -> Option<At<Vec<String>>> {
    let text = field.text()?;
    if !text.starts_with('/') {
        let (text, meant) = (quoted(text), quoted(&format!("/{text}")));
        return field.fail(format!(
            "{text} is no JSON pointer; write {meant} for the field of that name"
        ));
    }
    Some(At::new(pointer::steps(text).collect(), field.at()))
}

/// Reports what the section must not do to stages, and what does not fit the clients; `root` is the whole file.
pub(super) fn check(root: &Field<'_>, ingest: &Ingest, app: Option<&str>, stages: &[Stage], kafka: Option<&Kafka>) {
    for topic in &ingest.topics {
        let name = &topic.name.value;
        let is_replay = |stage: &&Stage| app.is_some_and(|app| topics::replay_name(app, &stage.name) == *name);
        if let Some(stage) = stages.iter().find(is_replay) {
            let stage = &stage.name.value;
            let message = format!(
                "`ingest.topics`: topic `{name}` is the replay topic of stage `{stage}`, which only `dlq replay` writes; use another topic"
            );
            root.report(topic.name.at, message);
        }
        if let Some(stage) = stages.iter().find(|stage| stage.on_fault.dead_letter.value == *name) {
            let stage = &stage.name.value;
            let message = format!(
                "`ingest.topics`: topic `{name}` is the dead-letter topic of stage `{stage}`, which holds failures only; use another topic"
            );
            root.report(topic.name.at, message);
        }
    }
    let Some(linger) = kafka.map(Kafka::linger) else { return };
    let timeout = ingest.timeout;
    if linger >= timeout.value {
        let message = format!(
            "`ingest.timeout`: {} is over before a record is sent; allowed: more than `kafka.linger.ms` ({})",
            show_duration(timeout.value),
            linger.as_millis(),
        );
        root.report(timeout.at, message);
    }
}
