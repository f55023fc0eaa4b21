//! A table of mistakes, each with its file and the answer to it in one snapshot.

use super::{check, with_kafka_lines, with_stage_lines};

#[test]
fn every_mistake_names_the_thing_and_what_is_allowed() {
    let tables = [
        whole_files(),
        sections(),
        kafka(),
        stages(),
        routes(),
        plugin_configs(),
        later(),
    ];
    let mut answers = String::new();
    let mut count = 0;
    for (title, text) in tables.into_iter().flatten() {
        let answer = check(&text).expect_err(title);
        let numbered = text
            .lines()
            .enumerate()
            .map(|(index, line)| format!("{:>3} | {line}\n", index + 1));
        answers.push_str(&format!("## {title}\n{}{answer}\n\n", numbered.collect::<String>()));
        count += 1;
    }
    assert!(count >= 40, "{count} mistakes");
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(answers) });
}

type Mistake = (&'static str, String);

fn whole_files() -> Vec<Mistake> {
    let stages = "stages: {s: {plugin: p.wasm, input: a, output: b}}\n";
    let kafka = "kafka: {bootstrap.servers: 'localhost:9092'}\n";
    vec![
        ("an empty file", String::new()),
        (
            "not YAML",
            "app: noaa\nkafka: {bootstrap.servers: localhost:9092\nstages: {}\n".to_owned(),
        ),
        (
            "a reference without quotes inside braces",
            "app: noaa\nkafka: {bootstrap.servers: ${BROKERS}}\n".to_owned(),
        ),
        (
            "a tab as indentation",
            "app: noaa\nkafka:\n\tbootstrap.servers: localhost:9092\n".to_owned(),
        ),
        ("two documents", format!("app: noaa\n{kafka}{stages}---\napp: other\n")),
        ("a list instead of a map", "- app: noaa\n".to_owned()),
        ("nothing but an unknown key", "pipeline: noaa\n".to_owned()),
        (
            "a misspelt top-level key",
            format!("app: noaa\n{kafka}stage: {{}}\n{stages}"),
        ),
        ("a repeated key", format!("app: noaa\n{kafka}app: other\n{stages}")),
        (
            "an app that Kafka cannot take",
            format!("app: noaa weather\n{kafka}{stages}"),
        ),
        ("an empty app", format!("app: ''\n{kafka}{stages}")),
        (
            "an app that is too long",
            format!("app: {}\n{kafka}{stages}", "n".repeat(101)),
        ),
        (
            "an instance that Kafka cannot take",
            format!("app: noaa\ninstance: host/1\n{kafka}{stages}"),
        ),
        ("a variable that is not set", format!("app: ${{APP}}\n{kafka}{stages}")),
        (
            "a reference that is not closed",
            format!("app: ${{APP\n{kafka}{stages}"),
        ),
        (
            "a reference in another shell's form",
            format!("app: ${{APP:?required}}\n{kafka}{stages}"),
        ),
        (
            "a merge key",
            format!("app: noaa\n{kafka}stages:\n  a: &a {{plugin: p.wasm, input: x, output: y}}\n  b: {{<<: *a}}\n"),
        ),
        ("a tag", format!("app: !name noaa\n{kafka}{stages}")),
        ("no stages", format!("app: noaa\n{kafka}stages: {{}}\n")),
        (
            "stages as a list",
            format!("app: noaa\n{kafka}stages:\n  - plugin: p.wasm\n"),
        ),
    ]
}

fn sections() -> Vec<Mistake> {
    let stages = "stages: {s: {plugin: p.wasm, input: a, output: b}}\n";
    let kafka = "kafka: {bootstrap.servers: 'localhost:9092'}\n";
    vec![
        (
            "an admin address without a port",
            format!("app: noaa\n{kafka}admin: {{listen: 127.0.0.1}}\n{stages}"),
        ),
        (
            "an admin address by name",
            format!("app: noaa\n{kafka}admin: {{listen: 'localhost:9180', tokn: x}}\n{stages}"),
        ),
        (
            "a secret file that is not there",
            format!("app: noaa\n{kafka}admin:\n  listen: 127.0.0.1:9180\n  token: {{file: no/such/token}}\n{stages}"),
        ),
        (
            "a secret variable that is not set",
            format!("app: noaa\n{kafka}admin:\n  listen: 127.0.0.1:9180\n  token: {{env: ADMIN_TOKEN}}\n{stages}"),
        ),
        (
            "an empty secret",
            format!("app: noaa\n{kafka}admin:\n  listen: 127.0.0.1:9180\n  token: {{env: EMPTY}}\n{stages}"),
        ),
        (
            "a secret with a misspelt key",
            format!("app: noaa\n{kafka}admin:\n  listen: 127.0.0.1:9180\n  token: {{flie: token}}\n{stages}"),
        ),
        (
            "a misspelt rule for topics",
            format!("app: noaa\n{kafka}topics: requird\n{stages}"),
        ),
        (
            "topics that cannot be created",
            format!(
                "app: noaa\n{kafka}topics:\n  create: {{partitions: 0, replication: two, configs: {{}}}}\n{stages}"
            ),
        ),
        ("many mistakes at once", MANY.to_owned()),
    ]
}

const MANY: &str = "\
app: noaa
kafka:
  bootstrap.server: localhost:9092
  isolation.level: read_uncommitted
stages:
  az-filter:
    plugin: filter.wasm
    input: noaa-json
    ouput: noaa-json-az
    workers: 0
    batch: {bytes: 64}
  Daily Sums:
    plugin: sums.wasm
    input: [noaa-json, 'noaa json']
    outputs: {sums: noaa-sums}
    windw: 1d
";

const KAFKA_LINES: &[(&str, &str)] = &[
    ("a misspelt property", "  sesion.timeout.ms: 10000\n"),
    (
        "a property of another client library",
        "  key.deserializer: StringDeserializer\n",
    ),
    ("a property with a unit", "  session.timeout.ms: 10s\n"),
    ("a property out of range", "  fetch.min.bytes: 0\n"),
    ("a property with an unknown word", "  compression.type: zstandard\n"),
    ("a boolean property", "  check.crcs: yes please\n"),
    ("a property without a value", "  client.id:\n"),
    ("a nested property", "  sasl: {mechanism: PLAIN}\n"),
    ("a list as a value", "  client.rack: a\n  client.id: [x]\n"),
    ("another isolation level", "  isolation.level: read_uncommitted\n"),
    (
        "automatic commits",
        "  enable.auto.commit: true\n  enable.auto.offset.store: true\n",
    ),
    ("a transactional id", "  transactional.id: noaa-1\n"),
    (
        "no idempotence",
        "  enable.idempotence: false\n  acks: 1\n  retries: 3\n",
    ),
    ("too many requests at once", "  max.in.flight: 10\n"),
    ("a group id", "  group.id: noaa\n  group.instance.id: noaa-1\n"),
    ("the new group protocol", "  group.protocol: consumer\n"),
    ("another assignment", "  partition.assignment.strategy: roundrobin\n"),
    ("a starting offset for all", "  auto.offset.reset: latest\n"),
    ("another partitioner", "  partitioner: random\n"),
    (
        "foreign code",
        "  plugin.library.paths: monitoring.so\n  dr_msg_cb: report\n",
    ),
    (
        "what this build does not have",
        "  security.protocol: sasl_ssl\n  sasl.mechanism: GSSAPI\n  sasl.kerberos.keytab: k\n",
    ),
    (
        "a delivery that outlasts its transaction",
        "  transaction.timeout.ms: 30000\n  delivery.timeout.ms: 120000\n",
    ),
    ("a delivery that waits for ever", "  message.timeout.ms: 0\n"),
    (
        "a transaction shorter than a revocation",
        "  transaction.timeout.ms: 5000\n",
    ),
    (
        "a transaction shorter than its stage needs",
        "  session.timeout.ms: 6000\n  transaction.timeout.ms: 2000\n",
    ),
    (
        "two names of one property",
        "  linger.ms: 5\n  queue.buffering.max.ms: 10\n",
    ),
    (
        "polls rarer than a call lasts",
        "  session.timeout.ms: 1000\n  heartbeat.interval.ms: 300\n  max.poll.interval.ms: 1500\n",
    ),
    (
        "polls rarer than a session lasts",
        "  session.timeout.ms: 60000\n  max.poll.interval.ms: 30000\n",
    ),
    ("a password that nothing uses", "  sasl.password: {env: PASSWORD}\n"),
    (
        "a user without a mechanism",
        "  security.protocol: sasl_ssl\n  sasl.username: me\n",
    ),
    ("a number from a secret", "  session.timeout.ms: {env: PASSWORD}\n"),
];

fn kafka() -> Vec<Mistake> {
    let no_brokers = "app: noaa\nkafka: {client.id: noaa}\nstages: {s: {plugin: p.wasm, input: a, output: b}}\n";
    let mut mistakes = vec![("no brokers", no_brokers.to_owned())];
    mistakes.push((
        "a broker without a port",
        with_kafka_lines("").replace("localhost:9092", "kafka-1:9092,kafka-2:port"),
    ));
    mistakes.extend(
        KAFKA_LINES
            .iter()
            .map(|(title, lines)| (*title, with_kafka_lines(lines))),
    );
    mistakes
}

const STAGE_LINES: &[(&str, &str)] = &[
    ("a misspelt key of a stage", "    comit-interval: 1s\n"),
    ("a duration without a unit", "    commit-interval: 100\n"),
    ("a duration with an unknown unit", "    commit-interval: 5 parsecs\n"),
    ("a duration out of range", "    commit-interval: 1m\n"),
    ("a size without a unit", "    limits: {memory: 134217728}\n"),
    ("a size that is none", "    limits: {memory: plenty}\n"),
    ("a size out of range", "    batch: {bytes: 1GiB}\n"),
    ("too many records in a batch", "    batch: {records: 1000000}\n"),
    ("a misspelt limit", "    limits: {memroy: 64MiB}\n"),
    (
        "a record's deadline beyond the batch's",
        "    limits: {deadline: 1s, deadline-record: 2s}\n",
    ),
    (
        "limits out of range",
        "    limits: {stack: 1KiB, table-elements: 0, instances: 5000, file: 1B, answer-bytes: 2GiB, answer-emissions: 0, answer-headers: -1, header-bytes: 63B, log-line: 1MiB, log-rate: 0, metric-names: many}\n",
    ),
    (
        "grants that cannot be given",
        "    grants: {env: {'': a, 'A=B': b, NOTHING: , ELSEWHERE: {env: NOT_SET}}, files: {data: ./d, /a/../b: ./d, //c: ./d, /e/: ./d, /f: ''}}\n",
    ),
    ("grants of another kind", "    grants: {env: [A], files: ./data}\n"),
    (
        "a grant of the network",
        "    grants: {http: [api.example], sockets: true}\n",
    ),
    ("no worker", "    workers: 0\n"),
    ("a worker count in words", "    workers: many\n"),
    ("workers from an injecting variable", "    workers: ${INJECTION}\n"),
    ("a misspelt guarantee", "    guarantee: exactly-ones\n"),
    ("a group that Kafka cannot take", "    group: my group\n"),
    ("limits as a list", "    limits: [memory]\n"),
    (
        "a deadline that outlasts the transaction",
        "    limits: {deadline: 45s}\n",
    ),
    ("a misspelt policy", "    on-fault: {policy: dead-leter}\n"),
    (
        "a breaker without its window",
        "    on-fault: {breaker: {failures: 3}}\n",
    ),
    (
        "a breaker that can never open",
        "    on-fault: {breaker: {failures: 10, of: 10}}\n",
    ),
    (
        "retries without a bound",
        "    on-fault: {retry: {limit: 5000, backoff: 1m}}\n",
    ),
    ("a rollback that is a word", "    swap: {rollback: sometimes}\n"),
    ("a watch that is no yes or no", "    swap: {watch: maybe}\n"),
    ("a stamp that is no yes or no", "    stamp: always\n"),
];

fn stages() -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = STAGE_LINES
        .iter()
        .map(|(title, lines)| (*title, with_stage_lines(lines)))
        .collect();
    let dotted = with_stage_lines("").replace("az-filter", "az.filter");
    mistakes.push(("a stage's name with a dot", dotted));
    mistakes
}

fn routes() -> Vec<Mistake> {
    let stage =
        |lines: &str| format!("app: noaa\nkafka: {{bootstrap.servers: 'k:9092'}}\nstages:\n  az-filter:\n{lines}");
    let plain = "    plugin: p.wasm\n    input: a\n    output: b\n";
    vec![
        (
            "replay topics in other places",
            "app: noaa\nkafka: {bootstrap.servers: 'k:9092'}\nstages:\n  first:\n    plugin: p.wasm\n    input: [a, noaa.first.replay]\n    \
             output: noaa.second.replay\n  second:\n    plugin: p.wasm\n    input: b\n    output: c\n    \
             on-fault: {dead-letter: noaa.first.replay}\n"
                .to_owned(),
        ),
        ("a stage with nothing in it", stage("    workers: 2\n")),
        ("a stage without a value", stage("")),
        (
            "a plugin without a file",
            stage("    plugin: {sha256: 12}\n    input: a\n    output: b\n"),
        ),
        (
            "an empty plugin path",
            stage("    plugin: ''\n    input: a\n    output: b\n"),
        ),
        (
            "a topic that Kafka cannot have",
            stage("    plugin: p.wasm\n    input: 'noaa/json'\n    output: ..\n"),
        ),
        (
            "a topic listed twice",
            stage("    plugin: p.wasm\n    input: [a, b, a]\n    output: c\n"),
        ),
        (
            "no input topics",
            stage("    plugin: p.wasm\n    input: {topics: [], start: newest}\n    output: c\n"),
        ),
        (
            "a moment with an offset",
            stage("    plugin: p.wasm\n    input: {topics: a, start: '2024-05-01T00:00:00+02:00'}\n    output: c\n"),
        ),
        (
            "a misspelt key of an input",
            stage("    plugin: p.wasm\n    input: {topic: a}\n    output: c\n"),
        ),
        (
            "output and outputs",
            stage(&format!("{plain}    outputs: {{matched: c}}\n")),
        ),
        ("no output", stage("    plugin: p.wasm\n    input: a\n")),
        (
            "ports under output",
            stage("    plugin: p.wasm\n    input: a\n    output: {matched: b}\n"),
        ),
        (
            "outputs without ports",
            stage("    plugin: p.wasm\n    input: a\n    outputs: b\n"),
        ),
        (
            "a loop",
            stage("    plugin: p.wasm\n    input: [a, b]\n    outputs: {matched: b}\n"),
        ),
        (
            "dead letters as input",
            stage("    plugin: p.wasm\n    input: noaa.dead-letters\n    output: b\n"),
        ),
        (
            "dead letters among the output",
            stage(&format!("{plain}    on-fault: {{dead-letter: b}}\n")),
        ),
        (
            "two stages of one group",
            stage(&format!("{plain}  other:\n{plain}    group: noaa.az-filter\n")),
        ),
    ]
}

const CONFIG_LINES: &[(&str, &str)] = &[
    ("a config that is no map", "    config: [AZ]\n"),
    ("a config key that is no text", "    config: {1: one, true: yes}\n"),
    ("a number with leading zeros", "    config: {station: 00123}\n"),
    (
        "a number beyond 64 bits",
        "    config:\n      nested: [1, 18446744073709551616, 1e999]\n",
    ),
    ("a number that JSON does not have", "    config: {limit: .inf}\n"),
    ("a repeated config key", "    config: {state: AZ, state: NM}\n"),
];

fn plugin_configs() -> Vec<Mistake> {
    CONFIG_LINES
        .iter()
        .map(|(title, lines)| (*title, with_stage_lines(lines)))
        .collect()
}

fn later() -> Vec<Mistake> {
    let top_level = r#"ingest: {listen: '127.0.0.1:8080'}
trust: {keys: []}
tables: {}
"#;
    let stage = r#"    group-by: key
    event-time: {csv: 1}
    window: {tumbling: 1d}
    grants: {http: true}
    swap: {canary: 5, shadow: true}
    deterministic: true
    ttl: 1d
    plugins: [a, b]
"#;
    vec![
        (
            "top-level keys of later versions",
            format!("{top_level}{}", with_stage_lines("")),
        ),
        ("stage keys of later versions", with_stage_lines(stage)),
        (
            "a misspelt key of a later version",
            with_stage_lines("    windw: {tumbling: 1d}\n"),
        ),
    ]
}
