//! Pipelines whose plugins do not fit them: every mistake at its place, and exit code 2.

use super::pipeline;
use crate::program::{Place, Ran};

fn place() -> Place {
    let place = Place::new();
    for (file, crate_folder) in [
        ("filter.wasm", "plugins/filter-station"),
        ("freeze.wasm", "plugins/detect-freeze"),
        ("wide.wasm", "host/tests/guests/wide-ports"),
        ("misbehave.wasm", "host/tests/guests/misbehave"),
        ("documents.wasm", "host/tests/guests/document-port"),
    ] {
        place.plugin(file, crate_folder);
    }
    place.write("text.wasm", "#!/bin/sh\n");
    place.write("core.wasm", b"\0asm\x01\0\0\0");
    place.write("folder/README.md", "no crate\n");
    place
}

const MISTAKES: [(&str, &str); 21] = [
    (
        "an unknown port",
        "plugin: wide.wasm\ninput: a\noutputs:\n  a: x\n  b: y\n  other: z\n  c: q",
    ),
    (
        "a misspelt port",
        "plugin: wide.wasm\ninput: a\noutputs: {a: x, b: y, othr: z}",
    ),
    (
        "a port without a topic",
        "plugin: wide.wasm\ninput: a\noutputs: {a: x, b: y}",
    ),
    ("one output for many ports", "plugin: wide.wasm\ninput: a\noutput: x"),
    (
        "a config of the wrong type",
        "plugin: filter.wasm\ninput: a\noutput: b\nconfig:\n  country: 1\n  state: AZ",
    ),
    (
        "a config without a field",
        "plugin: filter.wasm\ninput: a\noutput: b\nconfig: {country: US}",
    ),
    (
        "a config with an unknown field",
        "plugin: filter.wasm\ninput: a\noutput: b\nconfig: {country: US, state: AZ, stat: NE}",
    ),
    (
        "a config with a value too short",
        "plugin: filter.wasm\ninput: a\noutput: b\nconfig: {country: '', state: AZ}",
    ),
    (
        "a config with several mistakes",
        "plugin: freeze.wasm\ninput: a\noutput: b\nconfig:\n  station: ''\n  threshold_celsius: '10'\n  mail: a",
    ),
    ("no config", "plugin: filter.wasm\ninput: a\noutput: b"),
    (
        "a config for a plugin without one",
        "plugin: wide.wasm\ninput: a\noutputs: {a: x, b: y, other: z}\nconfig: {a: 1}",
    ),
    (
        "a config that the plugin refuses",
        "plugin: misbehave.wasm\ninput: a\noutput: b\nconfig: {fail: configure}",
    ),
    (
        "a config that makes the plugin panic",
        "plugin: misbehave.wasm\ninput: a\noutput: b\nconfig: {fail: panic}",
    ),
    (
        "a plugin that gives documents",
        "plugin: documents.wasm\ninput: a\noutput: b",
    ),
    ("a file that is not there", "plugin: no-such.wasm\ninput: a\noutput: b"),
    ("a folder that is not there", "plugin: no-such\ninput: a\noutput: b"),
    ("a folder without a crate", "plugin: folder\ninput: a\noutput: b"),
    ("a text", "plugin: text.wasm\ninput: a\noutput: b"),
    ("a core module", "plugin: core.wasm\ninput: a\noutput: b"),
    (
        "too little memory",
        "plugin: misbehave.wasm\ninput: a\noutput: b\nlimits: {memory: 1MiB}",
    ),
    (
        "a file of two stages with mistakes",
        "plugin: text.wasm\ninput: a\noutput: b\n_",
    ),
];

#[test]
fn every_plugin_that_does_not_fit_is_told_at_its_place() {
    let place = place();
    let mut answers = String::new();
    for (title, stage) in MISTAKES {
        let text = pipeline(9092, stage).replace(
            "    _\n",
            "  t: {plugin: filter.wasm, input: a, output: b, config: {}}\n",
        );
        place.write("pipeline.yaml", &text);
        let Ran { stdout, stderr, .. } = place.run(&["check", "pipeline.yaml"]).exits(2);
        assert_eq!(stdout, "", "{title}");
        let numbered = text.lines().enumerate().skip(4);
        let numbered: String = numbered
            .map(|(index, line)| format!("{:>3} | {line}\n", index + 1))
            .collect();
        answers.push_str(&format!("## {title}\n{numbered}{stderr}\n"));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(answers) });
}

/// A crate of its own, outside of every workspace.
fn write_crate(place: &Place, manifest: &str, file: &str, source: &str) {
    place.write(
        "own/Cargo.toml",
        format!("[package]\nname = \"own\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n{manifest}"),
    );
    place.write(&format!("own/src/{file}"), source);
    place.write("pipeline.yaml", pipeline(9092, "plugin: own\ninput: a\noutput: b"));
}

/// What `check` says at its end of a plugin crate, after cargo's own words.
fn last_words(ran: &Ran) -> String {
    let start = ran
        .stderr
        .find("error: pipeline.yaml")
        .unwrap_or_else(|| panic!("{ran:#?}"));
    ran.stderr[start..].trim_end().to_owned()
}

#[test]
fn a_crate_that_does_not_compile_shows_what_the_compiler_says() {
    let place = Place::new();
    write_crate(
        &place,
        "[lib]\ncrate-type = ['cdylib']\n",
        "lib.rs",
        "compile_error!(\"on purpose\");\n",
    );
    let ran = place.run(&["check", "pipeline.yaml"]).exits(2);
    assert!(
        ran.stderr.contains("error: on purpose") && ran.stderr.contains("src/lib.rs:1:1"),
        "{}",
        ran.stderr
    );
    insta::assert_snapshot!(last_words(&ran), @"error: pipeline.yaml:5:13: stage `s`: `plugin`: plugin crate [folder]/own does not build; cargo's messages are above");
    let built = place.run(&["build", "own"]).exits(1);
    assert!(built.stderr.contains("error: on purpose"), "{}", built.stderr);
    insta::assert_snapshot!(built.stderr.lines().last().unwrap(), @"error: plugin crate [folder]/own does not build; cargo's messages are above");
}

#[test]
fn a_library_is_told_what_its_manifest_lacks() {
    let place = Place::new();
    write_crate(&place, "", "lib.rs", "");
    insta::assert_snapshot!(last_words(&place.run(&["check", "pipeline.yaml"]).exits(2)), @r#"error: pipeline.yaml:5:13: stage `s`: `plugin`: crate [folder]/own gives no component; its Cargo.toml needs `[lib] crate-type = ["cdylib", "rlib"]`"#);
}

#[test]
fn a_program_is_told_that_it_is_no_plugin() {
    let place = Place::new();
    write_crate(&place, "", "main.rs", "fn main() {}\n");
    let words = last_words(&place.run(&["check", "pipeline.yaml"]).exits(2));
    let (head, tail) = words.split_once("wasi:cli/run@").unwrap();
    let tail = tail.trim_start_matches(|version: char| version == '.' || version.is_ascii_digit());
    insta::assert_snapshot!(format!("{head}wasi:cli/run@VERSION{tail}"), @"error: pipeline.yaml:5:13: stage `s`: `plugin`: [folder]/own/target/wasm32-wasip2/release/own.wasm: the plugin does not export `wasmill:plugin/process` (it exports wasi:cli/run@VERSION); a plugin implements the world `processor` of wasmill:plugin, in Rust by `wasmill_plugin::processor!`");
}

#[test]
fn a_program_that_opens_sockets_is_told_that_they_are_not_granted() {
    let place = Place::new();
    let source = "fn main() { std::net::TcpStream::connect(\"127.0.0.1:1\").unwrap(); }\n";
    write_crate(&place, "", "main.rs", source);
    let words = last_words(&place.run(&["check", "pipeline.yaml"]).exits(2));
    let (head, tail) = words.split_once("wasi:sockets/").unwrap();
    assert!(tail.contains("not granted"), "{head}");
}

#[test]
fn an_index_with_versions_and_without_them_is_told() {
    let place = place();
    let to_index = |keys: &str| format!("output: {{elasticsearch: {{index: x{keys}}}}}");
    let check = |keys: &str| {
        let documents = format!("plugin: documents.wasm\ninput: a\n{}", to_index(""));
        let filter = format!(
            "plugin: filter.wasm, input: a, config: {{country: US, state: AZ}}, {}",
            to_index(keys)
        );
        let section = "elasticsearch: {url: 'http://localhost:9200'}";
        let text = format!("{}  t: {{{filter}}}\n{section}\n", pipeline(9092, &documents));
        place.write("pipeline.yaml", &text);
        place.run(&["check", "pipeline.yaml"])
    };
    let told = check("").exits(2).stderr;
    assert!(
        told.contains(
            "stage `t`: port `matched` writes documents with versions to an index that stage `s` writes without them"
        ),
        "{told}"
    );
    check(", versions: none").exits(0);
}
