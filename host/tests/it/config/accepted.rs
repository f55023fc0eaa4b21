//! Files that are accepted, and what they become.

use std::time::Duration;

use serde_json::json;
use wasmill::config::{
    self, Broker, FaultPolicy, Guarantee, Outputs, Pipeline, PluginSource, Retry, Share, Stage, Start, Swap, Topics,
};

use super::{check, check_with, topic_of, with_kafka_lines, with_stage_lines};

/// The example of the documentation, without what later versions bring.
const EXAMPLE: &str = r#"
app: noaa                                   # prefix of consumer groups and transactional ids
instance: ${WASMILL_INSTANCE:-}             # stable and unique per process; empty: random
kafka:
  bootstrap.servers: ${KAFKA_BOOTSTRAP:-localhost:9092}
  compression.type: zstd
admin: {listen: 127.0.0.1:9180}
state: {dir: /var/lib/noaa}
topics: {create: {partitions: 4, replication: 1, config: {retention.ms: -1}}}
stages:
  az-filter:
    plugin: ../plugins/filter-station
    input: noaa-json
    config: {country: US, state: AZ}
    output: noaa-json-us-az
    on-fault: {policy: stop, dead-letter: noaa.failed, breaker: {failures: 100, of: 1000}, retry: {limit: 0, backoff: 2s}}
    swap: {watch: false, rollback: never}
    stamp: true
  freeze:
    plugin: {file: detect.wasm, sha256: 00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF}
    input: {topics: [noaa-json, noaa-json-2], start: 2024-05-01T00:00:00.5Z}
    outputs: {alerts: noaa-alerts, others: noaa-others}
    group: freeze-watch
    workers: 4
    guarantee: at-least-once
    commit-interval: 1s
    batch: {records: 1000, bytes: 64KiB, wait: 0ms}
    limits: {memory: 64MiB, deadline: 2s, deadline-record: 500ms}
"#;

#[track_caller]
fn accepted(text: &str) -> Pipeline {
    check(text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn stage(lines: &str) -> Stage {
    accepted(&with_stage_lines(lines)).stages.remove(0)
}

#[test]
fn the_example_is_read_in_full() {
    let pipeline = accepted(EXAMPLE);
    assert_eq!(pipeline.app.value, "noaa");
    assert!(pipeline.instance.is_none());
    let admin = pipeline.admin.as_ref().unwrap();
    assert_eq!(
        (admin.listen.to_string().as_str(), admin.token.is_none()),
        ("127.0.0.1:9180", true)
    );
    let Topics::Create(topic) = &pipeline.topics.value else {
        panic!("{:?}", pipeline.topics)
    };
    assert_eq!((topic.partitions, topic.replication), (4, 1));
    assert_eq!(topic.config["retention.ms"], "-1");

    let names: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["az-filter", "freeze"]);
    let freeze = pipeline.stage("freeze").unwrap();
    let topics: Vec<&str> = freeze.input.topics.iter().map(|topic| topic.as_str()).collect();
    assert_eq!(topics, ["noaa-json", "noaa-json-2"]);
    assert_eq!(freeze.input.start.value, Start::TimestampMs(1_714_521_600_500));
    let Outputs::ByPort(ports) = &freeze.outputs else {
        panic!("{:?}", freeze.outputs)
    };
    let ports: Vec<(&str, &str)> = ports
        .iter()
        .map(|output| (output.port.as_str(), topic_of(&output.target)))
        .collect();
    assert_eq!(ports, [("alerts", "noaa-alerts"), ("others", "noaa-others")]);
    assert_eq!((freeze.group.as_str(), freeze.workers.value), ("freeze-watch", 4));
    assert_eq!(freeze.guarantee.value, Guarantee::AtLeastOnce);
    assert_eq!(freeze.commit_interval.value, Duration::from_secs(1));
    let batch = &freeze.batch;
    assert_eq!(
        (batch.records.value, batch.bytes.value, batch.wait.value),
        (1000, 64 << 10, Duration::ZERO)
    );
    let filter = pipeline.stage("az-filter").unwrap();
    let on_fault = &filter.on_fault;
    assert_eq!(on_fault.policy.value, FaultPolicy::Stop);
    assert_eq!(
        on_fault.breaker,
        Some(Share {
            failures: 100,
            of: 1000
        })
    );
    let retry = Retry {
        limit: 0,
        backoff: Duration::from_secs(2),
    };
    assert_eq!(on_fault.retry, retry);
    assert_eq!(
        (filter.swap.watch, filter.swap.rollback, filter.stamp),
        (false, None, true)
    );
    assert_eq!(pipeline.state_dir.value, std::path::Path::new("/var/lib/noaa"));
    assert_eq!(freeze.limits.memory_bytes.value, 64 << 20);
    assert_eq!(freeze.limits.deadline_record.value, Duration::from_millis(500));
}

#[test]
fn what_is_left_out_has_its_default() {
    let pipeline = accepted(&with_stage_lines(""));
    assert_eq!(pipeline.topics.value, Topics::Require);
    assert!(pipeline.admin.is_none());
    let stage = &pipeline.stages[0];
    assert_eq!(stage.input.start.value, Start::Earliest);
    assert_eq!(stage.config.value, json!({}));
    assert!(matches!(&stage.outputs, Outputs::Single(target) if topic_of(target) == "noaa-json-az"));
    assert_eq!(stage.on_fault.policy.value, FaultPolicy::DeadLetter);
    assert_eq!(stage.on_fault.dead_letter.value, "noaa.dead-letters");
    assert_eq!((stage.on_fault.retry, stage.on_fault.breaker), (Retry::default(), None));
    assert_eq!((stage.swap, stage.stamp), (Swap::default(), false));
    assert_eq!(pipeline.state_dir.value, std::path::Path::new("pipelines/state"));
    assert_eq!((stage.group.as_str(), stage.workers.value), ("noaa.az-filter", 1));
    assert_eq!(stage.guarantee.value, Guarantee::ExactlyOnce);
    assert_eq!(stage.commit_interval.value, Duration::from_millis(100));
    let batch = &stage.batch;
    assert_eq!(
        (batch.records.value, batch.bytes.value, batch.wait.value),
        (500, 128 << 10, Duration::from_millis(5))
    );
    let limits = &stage.limits;
    assert_eq!(limits.memory_bytes.value, 128 << 20);
    assert_eq!(
        (limits.deadline.value, limits.deadline_record.value),
        (Duration::from_secs(1), Duration::from_millis(250))
    );
    let sizes = (
        limits.stack_bytes.value,
        limits.file_bytes.value,
        limits.answer_bytes.value,
    );
    assert_eq!(sizes, (512 << 10, 64 << 20, 64 << 20));
    let counts = (limits.table_elements.value, limits.instances.value);
    assert_eq!(counts, (100_000, 100));
    let answer = (
        limits.answer_emissions.value,
        limits.answer_headers.value,
        limits.header_bytes.value,
    );
    assert_eq!(answer, (1_000_000, 1_000_000, 64 << 10));
    let log = (
        limits.log_line_bytes.value,
        limits.log_lines_per_second.value,
        limits.metric_names.value,
    );
    assert_eq!(log, (1 << 10, 100, 100));
    assert_eq!(pipeline.kafka.transaction_timeout(), Duration::from_secs(15));
}

#[test]
fn an_empty_admin_section_listens_on_the_machine_alone() {
    let pipeline = accepted(&format!("admin: {{}}\n{}", with_stage_lines("")));
    assert_eq!(pipeline.admin.unwrap().listen.to_string(), "127.0.0.1:9180");
}

#[test]
fn the_keys_that_differ_between_two_files_are_named_without_their_values() {
    let before = accepted(&with_stage_lines("    workers: 2\n    config: {limit: 1, secret: a}\n"));
    let after = accepted(&with_stage_lines(
        "    workers: 3\n    config: {limit: 1, secret: b, more: 1}\n",
    ));
    let stage = "stages.az-filter";
    let expected = [
        format!("{stage}.config.more"),
        format!("{stage}.config.secret"),
        format!("{stage}.workers"),
    ];
    let mut found = before.differences(&after);
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(before.differences(&before), Vec::<String>::new());
}

#[test]
fn every_limit_can_be_set() {
    let lines = "    limits:
      memory: 256MiB
      deadline: 2s
      deadline-record: 1s
      stack: 1MiB
      table-elements: 200
      instances: 5
      file: 1MiB
      answer-bytes: 2MiB
      answer-emissions: 3
      answer-headers: 4
      header-bytes: 128B
      log-line: 64B
      log-rate: 6
      metric-names: 7
";
    let limits = stage(lines).limits;
    assert_eq!(
        (limits.memory_bytes.value, limits.stack_bytes.value),
        (256 << 20, 1 << 20)
    );
    assert_eq!((limits.table_elements.value, limits.instances.value), (200, 5));
    assert_eq!((limits.file_bytes.value, limits.answer_bytes.value), (1 << 20, 2 << 20));
    assert_eq!((limits.answer_emissions.value, limits.answer_headers.value), (3, 4));
    assert_eq!((limits.header_bytes.value, limits.log_line_bytes.value), (128, 64));
    assert_eq!((limits.log_lines_per_second.value, limits.metric_names.value), (6, 7));
}

#[test]
fn grants_are_nothing_if_nothing_is_said() {
    let grants = stage("").grants;
    assert!(grants.env.is_empty() && grants.files.is_empty());
}

#[test]
fn granted_values_can_stand_elsewhere_and_are_not_shown() {
    let lines = "    grants:
      env: {CITY: Nuuk, NUMBER: 7, NOTHING: '', PASSWORD: {env: PASSWORD}}
      files: {/data: ./data, /: /srv/shared}
";
    let grants = stage(lines).grants;
    let env: Vec<_> = grants
        .env
        .iter()
        .map(|variable| (variable.name.as_str(), variable.value.expose()))
        .collect();
    let expected = [
        ("CITY", "Nuuk"),
        ("NUMBER", "7"),
        ("NOTHING", ""),
        ("PASSWORD", "hunter2"),
    ];
    assert_eq!(env, expected);
    let files: Vec<_> = grants
        .files
        .iter()
        .map(|granted| (granted.guest_path.as_str(), granted.folder.to_str().unwrap()))
        .collect();
    assert_eq!(files, [("/data", "pipelines/./data"), ("/", "/srv/shared")]);
    let shown = format!("{grants:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("Nuuk"), "{shown}");
}

#[test]
fn a_short_deadline_bounds_the_default_for_one_record() {
    assert_eq!(
        stage("    limits: {deadline: 100ms}\n").limits.deadline_record.value,
        Duration::from_millis(100)
    );
}

#[test]
fn plugin_paths_start_from_the_pipeline_file() {
    let pipeline = accepted(EXAMPLE);
    let folder = PluginSource::CrateFolder {
        path: "pipelines/../plugins/filter-station".into(),
    };
    assert_eq!(pipeline.stages[0].plugin.value, folder);
    let PluginSource::WasmFile { path, sha256 } = &pipeline.stages[1].plugin.value else {
        panic!()
    };
    assert_eq!(path.to_str(), Some("pipelines/detect.wasm"));
    assert_eq!(sha256.unwrap()[..4], [0x00, 0x11, 0x22, 0x33]);
    assert_eq!(sha256.unwrap()[31], 0xff);
}

#[test]
fn plugin_files_are_looked_for_in_a_step_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("crate")).unwrap();
    std::fs::write(folder.path().join("crate/Cargo.toml"), "").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::write(folder.path().join("here.wasm"), "").unwrap();
    let stage = |name: &str, plugin: &str| format!("  {name}: {{plugin: {plugin}, input: a, output: b}}\n");
    let text = ["crate", "here.wasm", "gone.wasm", "empty", "gone", "here.txt"]
        .map(|plugin| stage(&plugin.replace('.', "-"), plugin))
        .concat();
    let file = folder.path().join("pipeline.yaml");
    std::fs::write(folder.path().join("here.txt"), "").unwrap();
    let text = format!(
        "{text}  granted: {{plugin: here.wasm, input: a, output: b, grants: {{files: {{/a: crate, /b: no-data}}}}}}\n"
    );
    std::fs::write(&file, format!("app: noaa\nstages:\n{text}")).unwrap();

    let pipeline = config::load(&file, &|_| None, Broker::Embedded).unwrap();
    let errors = pipeline.check_files().unwrap_err().to_string();
    let shown = errors.replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(shown, @r"
    FOLDER/pipeline.yaml:5:23: stage `gone-wasm`: `plugin`: there is no file FOLDER/gone.wasm
    FOLDER/pipeline.yaml:6:19: stage `empty`: `plugin`: folder FOLDER/empty holds no Cargo.toml, so it is no plugin crate
    FOLDER/pipeline.yaml:7:18: stage `gone`: `plugin`: there is no folder FOLDER/gone
    FOLDER/pipeline.yaml:8:22: stage `here-txt`: `plugin`: FOLDER/here.txt is neither a folder nor named .wasm; write {file: PATH} if it is a component
    FOLDER/pipeline.yaml:9:85: stage `granted`: `grants.files./b`: there is no folder FOLDER/no-data
    ");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = config::load("no/such/pipeline.yaml".as_ref(), &|_| None, Broker::Embedded).unwrap_err();
    insta::assert_snapshot!(
        error,
        @"no/such/pipeline.yaml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn variables_fill_scalars_and_cannot_bring_yaml() {
    let lines = r#"    workers: ${WORKERS}
    config:
      number: ${WORKERS}
      text: "${WORKERS}"
      state: ${STATE}
      both: a-${STATE}-${MISSING:-b}
      empty: ${EMPTY:-fallback}
      none: ${MISSING:-}
      literal: $${STATE} costs $5
      injected: ${INJECTION}
"#;
    let stage = stage(lines);
    assert_eq!(stage.workers.value, 3);
    let expected = json!({
        "number": 3, "text": "3", "state": "NO", "both": "a-NO-b", "empty": "fallback", "none": null,
        "literal": "${STATE} costs $5", "injected": "1}, plugin: evil.wasm, x: {y",
    });
    assert_eq!(stage.config.value, expected);
}

#[test]
fn a_config_reaches_the_plugin_as_it_was_written() {
    let lines = r#"    config:
      big: 18446744073709551615
      small: -9223372036854775808
      float: 1.50
      exponent: 1e3
      hex: 0xFF
      octal: 0o17
      yes: [yes, no, on, off, true, False]
      nothing: [~, null, '', "null"]
      text: [1.2.3, 12:30, 2024-05-01, --, +, 0x, 1e, ., '10']
      block: |
        two
        lines
      tagged: !!str 10
      "1": {}
"#;
    let expected = json!({
        "big": 18_446_744_073_709_551_615_u64, "small": i64::MIN, "float": 1.5, "exponent": 1000.0,
        "hex": 255, "octal": 15, "yes": ["yes", "no", "on", "off", true, false],
        "nothing": [null, null, "", "null"],
        "text": ["1.2.3", "12:30", "2024-05-01", "--", "+", "0x", "1e", ".", "10"],
        "block": "two\nlines\n", "tagged": "10", "1": {},
    });
    assert_eq!(stage(lines).config.value, expected);
}

#[test]
fn a_value_of_the_config_is_found_by_its_json_pointer() {
    let stage = stage("    config:\n      stations:\n        - id: a/b\n          limit: 1\n");
    let place = |pointer: &str| {
        let at = stage.config.place(pointer);
        (at.line, at.column)
    };
    assert_eq!(place("/stations/0/limit"), (11, 18));
    assert_eq!(place("/stations/0/absent"), (10, 11));
    assert_eq!(place(""), (9, 7));
}

#[test]
fn a_mistake_found_later_is_placed_like_one_of_the_loader() {
    let pipeline = accepted(EXAMPLE);
    let stage = pipeline.stage("freeze").unwrap();
    let Outputs::ByPort(ports) = &stage.outputs else {
        panic!()
    };
    let port = &ports[1].port;
    let error = stage.error(
        port.at,
        format!("port `{}` is not one of the plugin's ports: alerts", port.value),
    );
    let errors = pipeline.report(vec![error]).unwrap_err();
    insta::assert_snapshot!(
        errors,
        @"pipelines/pipeline.yaml:22:36: stage `freeze`: port `others` is not one of the plugin's ports: alerts"
    );
    pipeline.report(Vec::new()).unwrap();
}

#[test]
fn properties_go_to_the_clients_that_know_them() {
    let lines = "  session.timeout.ms: 30000\n  linger.ms: 2.5\n  check.crcs: true\n  client.id: \"007\"\n";
    let kafka = accepted(&with_kafka_lines(lines)).kafka;
    let consumer: Vec<_> = kafka.for_consumer().collect();
    let producer: Vec<_> = kafka.for_producer().collect();
    let admin: Vec<_> = kafka.for_admin().collect();
    let (brokers, client) = (("bootstrap.servers", "localhost:9092"), ("client.id", "007"));
    assert_eq!(
        consumer,
        [brokers, ("session.timeout.ms", "30000"), ("check.crcs", "true"), client]
    );
    assert_eq!(producer, [brokers, ("linger.ms", "2.5"), client]);
    assert_eq!(admin, [brokers, client]);
}

#[test]
fn a_secret_is_read_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "open sesame\n").unwrap();
    let lines = r#"  security.protocol: sasl_ssl
  sasl.mechanism: PLAIN
  sasl.username: me
  sasl.password: {env: PASSWORD}
  ssl.key.password: ${PASSWORD}
  client.rack: {env: PASSWORD}
"#;
    let text = format!(
        "{}admin:\n  listen: '[::1]:9180'\n  token: {{file: token}}\n",
        with_kafka_lines(lines)
    );
    let file = folder.path().join("pipeline.yaml");
    let env = |name: &str| (name == "PASSWORD").then(|| "hunter2".to_owned());
    let pipeline = config::parse(&text, &file, &env, Broker::Configured).unwrap();
    let token = pipeline.admin.as_ref().unwrap().token.as_ref().unwrap();
    assert_eq!(token.expose(), "open sesame");
    for name in ["sasl.password", "ssl.key.password", "client.rack"] {
        let property = pipeline.kafka.get(name).unwrap();
        assert_eq!(
            (property.value.expose(), property.value.to_string().as_str()),
            ("hunter2", "(hidden)")
        );
    }
    let shown = format!("{pipeline:?} {token:?} {}", token.value);
    assert!(!shown.contains("hunter2") && !shown.contains("sesame"), "{shown}");
}

#[test]
fn an_embedded_broker_needs_no_kafka_section() {
    let text = "app: demo\nstages: {s: {plugin: p.wasm, input: a, outputs: {}}}\n";
    let pipeline = check_with(text, Broker::Embedded).unwrap();
    assert!(pipeline.kafka.properties.is_empty());
    check(text).unwrap_err();
}

#[test]
fn an_alias_repeats_a_whole_value() {
    let lines = r#"    limits: &limits {memory: 64MiB}
  other:
    plugin: other.wasm
    input: x
    output: y
    limits: *limits
"#;
    let pipeline = accepted(&with_stage_lines(lines));
    assert_eq!(pipeline.stages[1].limits.memory_bytes.value, 64 << 20);
}

#[test]
fn aliases_that_multiply_end_in_a_message() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(
        check(&text).unwrap_err(),
        "pipelines/pipeline.yaml:5:20: the file holds more than 50000 values"
    );
    let recursive = check("a: &a [*a]\n").unwrap_err();
    assert_eq!(
        recursive,
        "pipelines/pipeline.yaml:1:8: this alias stands inside the value that it repeats"
    );
}

#[test]
fn deep_nesting_ends_in_a_message() {
    check(&"[".repeat(100_000)).unwrap_err();
    let block: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let error = check(&block).unwrap_err();
    assert_eq!(
        error,
        "pipelines/pipeline.yaml:65:65: lists and maps are nested deeper than 64 levels"
    );
}
