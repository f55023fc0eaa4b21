//! No text at all makes the loader panic, and every answer to it is made of placed lines.

use proptest::prelude::*;

use super::{check, check_with, with_kafka_lines, with_stage_lines};
use wasmill::config::Broker;

/// A file that uses about everything, to be damaged.
fn rich() -> String {
    let stage = r#"    config: {a: [1, 2.5, ~, 'x', "${STATE}"], b: &b {c: d}, e: *b}
    workers: ${WORKERS}
    commit-interval: 100ms
    batch: {records: 10, bytes: 1KiB, wait: 5ms}
    limits: {memory: 64MiB, deadline: 1s, deadline-record: 10ms}
    on-fault: {policy: dead-letter, dead-letter: dead}
    guarantee: exactly-once
  freeze:
    plugin: {file: p.wasm, sha256: '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'}
    input: {topics: [a, b], start: 2024-05-01T00:00:00Z}
    outputs: {alerts: c}
    group: g
"#;
    let head = "admin: {listen: '127.0.0.1:9180', token: {env: PASSWORD}}\n\
                topics: {create: {partitions: 1, replication: -1, config: {retention.ms: 1}}}\n";
    format!("{head}{}", with_stage_lines(stage))
}

fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "${",
        "}",
        "$${",
        "${STATE:-",
        ":",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\n",
        "\n  ",
        "\t",
        "&a ",
        "*a",
        "<<",
        "!!str ",
        "|",
        ">",
        "'",
        "\"",
        "#",
        "~",
        "%YAML 9",
        "---",
        "...",
        "?",
        "0x",
        "1e",
        "-",
        ".inf",
        "999999999999999999999",
        "ms",
        "GiB",
        "\u{feff}",
        "\u{0}",
        "\u{85}",
        "é",
        "🦀",
        "2024-05-01T00:00:00.9é",
        "1e400MiB",
        "9999999999999999y",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        any::<char>().prop_map(String::from)
    ]
}

/// Valid files with some of their characters replaced.
fn damaged() -> impl Strategy<Value = String> {
    let damages = prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, pieces()), 1..6);
    (
        prop::sample::select(vec![
            rich(),
            with_kafka_lines("  linger.ms: 5\n  session.timeout.ms: 30000\n"),
        ]),
        damages,
    )
        .prop_map(|(text, damages)| {
            let mut text: Vec<char> = text.chars().collect();
            for (index, removed, inserted) in damages {
                let start = index.index(text.len().max(1));
                let end = (start + removed).min(text.len());
                text.splice(start.min(end)..end, inserted.chars());
            }
            text.into_iter().collect()
        })
}

/// Whatever stands in the text, its answer is a pipeline or lines that begin with a place in it.
fn answered(text: &str) {
    if let Err(errors) = check(text) {
        let lines = u32::try_from(text.split(['\n', '\r']).count()).unwrap();
        for error in errors.lines() {
            let place = error
                .strip_prefix("pipelines/pipeline.yaml:")
                .unwrap_or_else(|| panic!("{error}"));
            let line: u32 = place.split(':').next().unwrap().parse().unwrap();
            assert!((1..=lines).contains(&line), "{error}");
        }
    }
    let _same = check_with(text, Broker::Embedded);
}

#[test]
fn the_file_to_be_damaged_is_whole() {
    check(&rich()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        answered(&text);
    }

    #[test]
    fn any_yaml_like_text_is_answered(pieces in prop::collection::vec(pieces(), 0..40)) {
        answered(&pieces.concat());
    }

    #[test]
    fn any_damaged_file_is_answered(text in damaged()) {
        answered(&text);
    }

    #[test]
    fn any_value_is_answered(key in prop::sample::select(KEYS.to_vec()), value in any::<String>()) {
        let quoted = serde_json::to_string(&value).unwrap();
        answered(&with_stage_lines(&format!("    {key}: {quoted}\n")));
    }
}

const KEYS: &[&str] = &[
    "workers",
    "commit-interval",
    "group",
    "guarantee",
    "on-fault",
    "batch",
    "limits",
    "config",
    "outputs",
    "swap",
];
