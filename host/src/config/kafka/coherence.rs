//! Compares the properties with each other.
//!
//! librdkafka does the same when it makes a client (`rd_kafka_conf_finalize`), but then the first
//! mistake ends a worker, and its words name no line. Defaults below are librdkafka's.

use super::{Field, Kafka, KafkaProperty, Location, MAX_POLL_INTERVAL_MS, SESSION_TIMEOUT_MS};

/// Two names of one property; librdkafka would take whichever comes last.
const ALIASES: &[(&str, &str)] = &[
    ("compression.codec", "compression.type"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("sasl.mechanism", "sasl.mechanisms"),
];

/// The other name of a property that has two.
pub(crate) fn other_name(name: &str) -> Option<&'static str> {
    ALIASES.iter().find_map(|(one, other)| match name {
        name if name == *one => Some(*other),
        name if name == *other => Some(*one),
        _ => None,
    })
}

/// A property that may not be smaller than another one by more than a margin.
struct AtLeast {
    larger: &'static str,
    larger_default: i64,
    smaller: &'static str,
    smaller_default: i64,
    margin: i64,
}

const ORDERED: &[AtLeast] = &[
    at_least(
        "max.poll.interval.ms",
        MAX_POLL_INTERVAL_MS,
        "session.timeout.ms",
        SESSION_TIMEOUT_MS,
    ),
    // Kafka wants several heartbeats in a session; one is the least that keeps a member.
    at_least("session.timeout.ms", SESSION_TIMEOUT_MS, "heartbeat.interval.ms", 3_000),
    at_least("reconnect.backoff.max.ms", 10_000, "reconnect.backoff.ms", 100),
    at_least("retry.backoff.max.ms", 1_000, "retry.backoff.ms", 100),
    at_least("fetch.max.bytes", 52_428_800, "message.max.bytes", 1_000_000),
    AtLeast {
        margin: 512,
        ..at_least("receive.message.max.bytes", 100_000_000, "fetch.max.bytes", 52_428_800)
    },
];

const fn at_least(larger: &'static str, larger_default: i64, smaller: &'static str, smaller_default: i64) -> AtLeast {
    AtLeast {
        larger,
        larger_default,
        smaller,
        smaller_default,
        margin: 0,
    }
}

/// Reports what does not fit together; `field` is the section.
pub(super) fn check(field: &Field<'_>, kafka: &Kafka) {
    let aliases = ALIASES
        .iter()
        .filter_map(|(one, other)| alias_mistake(kafka, one, other));
    let ordered = ORDERED.iter().filter_map(|rule| order_mistake(kafka, rule));
    for (at, message) in aliases
        .chain(ordered)
        .chain(sasl_mistakes(kafka))
        .chain(plaintext_mistake(kafka))
        .chain(keystore_mistake(kafka))
    {
        field.report(at, message);
    }
}

type Mistake = (Location, String);

fn alias_mistake(kafka: &Kafka, one: &str, other: &str) -> Option<Mistake> {
    let later = kafka.get(one)?.name.at.max(kafka.get(other)?.name.at);
    Some((
        later,
        format!("`{one}` and `{other}` are two names of one property; keep one"),
    ))
}

fn order_mistake(kafka: &Kafka, rule: &AtLeast) -> Option<Mistake> {
    let (larger, smaller, margin) = (rule.larger, rule.smaller, rule.margin);
    // Only what the file sets can be wrong, and these two librdkafka raises by itself.
    let raised = ["fetch.max.bytes", "receive.message.max.bytes"].contains(&larger) && kafka.get(larger).is_none();
    let places = [larger, smaller].map(|name| kafka.get(name).map(|property| property.value.at));
    let at = places.into_iter().flatten().max()?;
    let high = kafka.number(larger).unwrap_or(rule.larger_default);
    let low = kafka.number(smaller).unwrap_or(rule.smaller_default);
    if raised || high >= low.saturating_add(margin) {
        return None;
    }
    let more = if margin > 0 {
        format!(" + {margin}")
    } else {
        String::new()
    };
    Some((
        at,
        format!("`{larger}` ({high}) has to be at least `{smaller}`{more} ({low}{more})"),
    ))
}

fn sasl_mistakes(kafka: &Kafka) -> Vec<Mistake> {
    let protocol = kafka.get("security.protocol");
    let Some(protocol) = protocol.filter(|protocol| protocol.value.expose().starts_with("sasl_")) else {
        let unused = kafka
            .properties
            .iter()
            .find(|property| property.name.starts_with("sasl."));
        return unused.map(unused_mistake).into_iter().collect();
    };
    let missing = |name: &str, meaning: &str| (protocol.value.at, format!("missing key `{name}`: {meaning}"));
    match kafka.text("sasl.mechanism").or(kafka.text("sasl.mechanisms")) {
        // librdkafka's default is Kerberos, which this build does not have.
        None => vec![missing(
            "sasl.mechanism",
            "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        )],
        Some("OAUTHBEARER") => Vec::new(),
        Some(mechanism) => ["sasl.username", "sasl.password"]
            .into_iter()
            .filter(|name| kafka.get(name).is_none())
            .map(|name| missing(name, &format!("{mechanism} needs it")))
            .collect(),
    }
}

fn unused_mistake(unused: &KafkaProperty) -> Mistake {
    let name = &unused.name.value;
    let message = format!("`{name}` has no effect unless `security.protocol` is sasl_ssl or sasl_plaintext");
    (unused.name.at, message)
}

/// Whoever names a certificate means the connection to be encrypted, and would not see that it is not.
fn plaintext_mistake(kafka: &Kafka) -> Option<Mistake> {
    let encrypted = ["ssl", "sasl_ssl"].contains(&kafka.text("security.protocol").unwrap_or("plaintext"));
    let unused = kafka
        .properties
        .iter()
        .find(|property| property.name.starts_with("ssl."));
    unused.filter(|_| !encrypted).map(|unused| {
        let name = &unused.name.value;
        let message = format!("`{name}` has no effect unless `security.protocol` is ssl or sasl_ssl");
        (unused.name.at, message)
    })
}

fn keystore_mistake(kafka: &Kafka) -> Option<Mistake> {
    let keystore = kafka.get("ssl.keystore.location")?;
    let missing = kafka.get("ssl.keystore.password").is_none();
    missing.then(|| {
        (
            keystore.name.at,
            "missing key `ssl.keystore.password`: the keystore is encrypted".to_owned(),
        )
    })
}
