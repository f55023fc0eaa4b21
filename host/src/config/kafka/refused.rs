//! The librdkafka properties that a pipeline may not set, each with its reason and what to do
//! instead.
//!
//! Some would break a guarantee (a consumer that commits by itself, another isolation level), some
//! have a key of their own in the pipeline file, some load foreign native code, some do nothing in
//! this build. They are refused whatever the value, the host's own included, so that a pipeline never
//! seems to decide what it does not. Everything else is passed through.

use super::properties::{self, Kind};

/// Why a pipeline may not set this property; `None` when it may, or when there is no such property.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    let listed = REFUSED.iter().find(|(names, _)| names.contains(&name));
    if let Some((_, reason)) = listed {
        return Some(reason);
    }
    if name.starts_with("sasl.kerberos.") {
        return Some("this build has no Kerberos; use `sasl.mechanism` PLAIN or SCRAM-SHA-512");
    }
    let needs_http = [
        "https.",
        "sasl.oauthbearer.assertion.",
        "sasl.oauthbearer.client.",
        "sasl.oauthbearer.metadata.",
    ];
    if needs_http.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(NO_HTTP_CLIENT);
    }
    let code = properties::find(name).is_some_and(|known| matches!(known.kind, Kind::Code));
    code.then_some("it is set by code, not by a text; leave it out")
}

/// Why a pipeline may not give this value, which librdkafka itself would take.
pub(super) fn value_reason(name: &str, text: &str) -> Option<String> {
    match name {
        "bootstrap.servers" => bootstrap_mistake(text),
        "max.in.flight" | "max.in.flight.requests.per.connection" => {
            let in_order = text.parse::<i64>().is_ok_and(|requests| requests <= MAX_IN_FLIGHT);
            (!in_order).then(|| {
                format!(
                    "more than {MAX_IN_FLIGHT} requests at once can change the order of records; \
                     allowed: 1 to {MAX_IN_FLIGHT}"
                )
            })
        }
        "message.timeout.ms" | "delivery.timeout.ms" => (text == "0").then(|| {
            "0 waits for ever, so a transaction would end before a delivery does; \
             allowed: 1 up to `transaction.timeout.ms`"
                .to_owned()
        }),
        "sasl.mechanism" | "sasl.mechanisms" => {
            let known = SASL_MECHANISMS.contains(&text);
            (!known).then(|| format!("this build does not have it; allowed: {}", SASL_MECHANISMS.join(", ")))
        }
        _ => None,
    }
}

/// Whether the property's value is a secret however it is given.
pub(super) fn is_secret(name: &str) -> bool {
    SECRETS.contains(&name)
}

const SECRETS: &[&str] = &[
    "sasl.password",
    "sasl.oauthbearer.config",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
];

/// What an idempotent producer keeps in order (RD_KAFKA_IDEMP_MAX_INFLIGHT in librdkafka).
const MAX_IN_FLIGHT: i64 = 5;

/// What librdkafka has without Cyrus SASL and libcurl.
const SASL_MECHANISMS: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];

const NO_HTTP_CLIENT: &str = "this build has no HTTP client for tokens; use `sasl.mechanism` PLAIN or SCRAM-SHA-512";

const NO_EFFECT: &str = "it has no effect in this version of librdkafka; leave it out";

const OFFSETS: &str = "offsets are committed by the host, in the transaction that holds their output; leave it out";

const OLD_BROKERS: &str = "transactions need brokers that tell their versions; leave it out";

/// Names and reasons. A reason reads on from "`NAME` is refused: ".
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["isolation.level"],
        "the host reads committed records only, or aborted ones would be processed; leave it out",
    ),
    (
        &[
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "offset.store.method",
            "offset.store.path",
            "offset.store.sync.interval.ms",
        ],
        OFFSETS,
    ),
    (
        &["transactional.id"],
        "the host makes it of app, stage, `instance` and worker, so that no two producers share one; set `instance`",
    ),
    (
        &["enable.idempotence"],
        "the host always has it on, or a retry could write a record twice; leave it out",
    ),
    (
        &["acks", "request.required.acks"],
        "the host waits for all replicas in sync, or a failing broker could lose records; set \
         `min.insync.replicas` on the topic",
    ),
    (
        &["message.send.max.retries", "retries"],
        "a delivery is retried until `message.timeout.ms`; fewer attempts would abort transactions \
         for nothing; set that",
    ),
    (
        &["enable.gapless.guarantee"],
        "a failed delivery aborts its transaction, which leaves no gap; leave it out",
    ),
    (
        &["queue.buffering.backpressure.threshold"],
        "an idempotent producer needs it to be 1; leave it out",
    ),
    (
        &["delivery.report.only.error"],
        "the host waits for every delivery report; leave it out",
    ),
    (
        &["queuing.strategy"],
        "records leave in the order in which they were produced; leave it out",
    ),
    (
        &["partitioner"],
        "keys go to the partitions to which Java's producers send them (murmur2_random); another one \
         would part records of one key",
    ),
    (&["group.id"], "each stage has its own group; set `group` in the stage"),
    (
        &["group.instance.id"],
        "the workers of a stage would share it and fence each other; leave it out",
    ),
    (
        &["group.protocol", "group.remote.assignor"],
        "the new group protocol (KIP-848) fences living members in transactions until brokers have \
         KIP-1251; leave it out",
    ),
    (&["group.protocol.type"], "stages are consumer groups; leave it out"),
    (
        &["partition.assignment.strategy"],
        "the host chooses it for the stage's inputs; leave it out",
    ),
    (
        &["auto.offset.reset"],
        "each stage says where it starts; set `input: {topics: [..], start: earliest}` in the stage",
    ),
    (
        &["enable.partition.eof"],
        "the host turns it on where it needs it; leave it out",
    ),
    (
        &["allow.auto.create.topics"],
        "a misspelt topic would be created; set `topics: {create: {partitions: N}}`",
    ),
    (
        &["topic.blacklist"],
        "it hides topics from the stages that name them; leave it out",
    ),
    (
        &["metadata.broker.list"],
        "it is another name of `bootstrap.servers`; use that",
    ),
    (
        &["plugin.library.paths", "ssl.engine.id", "ssl.engine.location"],
        "it loads native code into the host; leave it out",
    ),
    (
        &["ssl.ca.certificate.stores"],
        "it is for Windows only; use `ssl.ca.location`",
    ),
    (
        &["enabled_events"],
        "the host decides what its clients report; leave it out",
    ),
    (
        &["log.queue"],
        "log lines would wait in a queue that nobody reads; leave it out",
    ),
    (
        &["enable.random.seed"],
        "librdkafka seeds its own random numbers; leave it out",
    ),
    (
        &["internal.termination.signal"],
        "signals belong to the host; leave it out",
    ),
    (
        &["builtin.features"],
        "it tells what was built in and changes nothing; leave it out",
    ),
    (
        &[
            "api.version.request",
            "api.version.fallback.ms",
            "broker.version.fallback",
        ],
        OLD_BROKERS,
    ),
    (
        &[
            "consume.callback.max.messages",
            "produce.offset.report",
            "reconnect.backoff.jitter.ms",
            "socket.blocking.max.ms",
            "topic.metadata.refresh.fast.cnt",
        ],
        NO_EFFECT,
    ),
    (
        &[
            "sasl.oauthbearer.extensions",
            "sasl.oauthbearer.grant.type",
            "sasl.oauthbearer.method",
            "sasl.oauthbearer.scope",
            "sasl.oauthbearer.token.endpoint.url",
        ],
        NO_HTTP_CLIENT,
    ),
];

/// `HOST:PORT` separated by commas, ports and an address in brackets included.
fn bootstrap_mistake(text: &str) -> Option<String> {
    let broken = text.split(',').map(str::trim).find(|server| !is_server(server))?;
    let shown = super::quoted(broken);
    Some(format!(
        "{shown} is no broker; allowed: HOST:PORT, several separated by commas, such as `kafka-1:9092,kafka-2:9092`"
    ))
}

fn is_server(server: &str) -> bool {
    // librdkafka takes a protocol in front; `security.protocol` says the same for all brokers.
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (server, None),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    port_fits && !host.is_empty() && !host.contains(|letter: char| letter.is_whitespace() || letter == '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refused_name_is_a_property_of_librdkafka() {
        let names = REFUSED.iter().flat_map(|(names, _)| names.iter()).chain(SECRETS);
        let unknown: Vec<&&str> = names.filter(|name| properties::find(name).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn properties_are_sorted_so_that_they_are_found() {
        assert!(properties::PROPERTIES.is_sorted_by(|left, right| left.name < right.name));
    }
}
