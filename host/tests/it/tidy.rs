//! The house rules that a machine can check, those of `CONTRIBUTING.md`.
//!
//! A test lists everything that breaks its rule, as `file:line`. Nothing here builds or runs anything.

mod documents;
mod source;

use std::collections::BTreeSet;

use source::{File, code, files, none, read, rust_files, uses};

const LINES_MAX: usize = 500;
const PLUGIN_LINES_MAX: usize = 120;

/// Hosts that a file may name. A registry's mirror is none of them.
const HOSTS: [&str; 10] = [
    "HOST",
    "example.com",
    "json-schema.org",
    "kafka",
    "localhost",
    "127.0.0.1",
    "github.com",
    "maven.apache.org",
    "rustup.rs",
    "www.apache.org",
];

/// Modules of `host/src` that compute and touch nothing; a folder with its slash.
const PURE: [&str; 16] = [
    "batch.rs",
    "rights.rs",
    "breaker.rs",
    "positions.rs",
    "route.rs",
    "refusal.rs",
    "work.rs",
    "reply.rs",
    "dead_letter.rs",
    "dead_letter/",
    "external/pending.rs",
    "elasticsearch/answer.rs",
    "elasticsearch/document.rs",
    "elasticsearch/version.rs",
    "fixture.rs",
    "config/",
];

/// All uses of `words` in the product's code under `within`, but for the places in `except`.
fn product_uses(within: &[&str], except: &[&str], words: &[&str]) -> Vec<String> {
    rust_files()
        .filter(|file| file.is_in(within) && !file.is_in(except))
        .flat_map(|file| {
            let text = file.product_code();
            uses(&file.path, &text, words).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn rust_files_are_short_and_say_first_what_they_are() {
    none(
        "a file has fewer than 500 lines",
        rust_files().filter_map(|file| {
            let lines = file.text.lines().count();
            (lines >= LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
        }),
    );
    none(
        "a module opens with `//!`",
        rust_files()
            .filter(|file| !file.text.starts_with("//!"))
            .map(|file| file.path),
    );
}

#[test]
fn foreign_libraries_have_one_place_each() {
    none(
        "only the Kafka modules name rdkafka",
        product_uses(
            &["host/src/"],
            &["host/src/kafka.rs", "host/src/kafka/"],
            &["rdkafka", "rdkafka_sys"],
        ),
    );
    none(
        "only `plugin` names wasmtime",
        product_uses(
            &["host/src/"],
            &["host/src/plugin.rs", "host/src/plugin/"],
            &["wasmtime", "wasmtime_wasi"],
        ),
    );
    none(
        "only `elasticsearch` names its client",
        product_uses(
            &["host/src/"],
            &["host/src/elasticsearch.rs", "host/src/elasticsearch/"],
            &["elasticsearch::http"],
        ),
    );
    none(
        "only `alerts` names what sends them",
        product_uses(
            &["host/src/"],
            &["host/src/alerts.rs", "host/src/alerts/", "host/src/config/mail.rs"],
            &["lettre", "reqwest"],
        ),
    );
    none(
        "only `kafka/ffi.rs` is unsafe",
        product_uses(
            &["host/src/", "plugins/"],
            &["host/src/kafka/ffi.rs", "host/src/kafka/ffi/"],
            &["unsafe"],
        ),
    );
}

#[test]
fn pure_modules_touch_nothing() {
    let pure: Vec<String> = PURE.iter().map(|module| format!("host/src/{module}")).collect();
    let pure: Vec<&str> = pure.iter().map(String::as_str).chain(["host/src/config.rs"]).collect();
    let all = [
        "tokio",
        "rdkafka",
        "wasmtime",
        "Instant::now",
        "SystemTime::now",
        "thread",
        "env::var",
    ];
    none("a pure module has no clock and no I/O", product_uses(&pure, &[], &all));
    // The pipeline file and its secrets are read where their mistakes are worded.
    let readers = ["host/src/config.rs", "host/src/config/"];
    none(
        "a pure module reads no file",
        product_uses(&pure, &readers, &["std::fs", "fs::", "File"]),
    );
}

#[test]
fn the_product_handles_its_errors() {
    let words = [
        ".unwrap()",
        ".expect(",
        ".unwrap_err()",
        ".expect_err(",
        "panic!",
        "unreachable!",
    ];
    none("no `unwrap` in the host", product_uses(&["host/src/"], &[], &words));
}

#[test]
fn nothing_is_left_undone() {
    let words = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
    none(
        "no unfinished code, no test that is never run",
        rust_files().flat_map(|file| uses(&file.path, &code(&file.text), &words).collect::<Vec<_>>()),
    );
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    none(
        "no notes of work to do",
        files()
            .iter()
            .flat_map(|file| uses(&file.path, &file.text, &marks).collect::<Vec<_>>()),
    );
}

#[test]
fn nothing_of_one_machine_is_in_a_file() {
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("../sha", "red"),
    ];
    none(
        "no path of one machine",
        files()
            .iter()
            .flat_map(|file| uses(&file.path, &file.text, &paths).collect::<Vec<_>>()),
    );
    none("no host but the known ones", files().iter().flat_map(foreign_hosts));
    let lock = read("Cargo.lock");
    let sources = lock.lines().filter(|line| line.starts_with("source = "));
    let official = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    none(
        "all crates are from the public registry",
        sources.filter(|line| *line != official).map(str::to_owned),
    );
}

fn foreign_hosts(file: &File) -> Vec<String> {
    let lines = file.text.lines().enumerate();
    let urls = lines.flat_map(|(index, line)| line.split("://").skip(1).map(move |rest| (index + 1, rest)));
    let is_of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    urls.map(|(line, rest)| (line, rest.split(|c| !is_of_host(c)).next().unwrap_or_default()))
        // `PLAINTEXT://$host` and the like name none.
        .filter(|(_, host)| host.contains(|c: char| c.is_ascii_alphabetic()) && !HOSTS.contains(host))
        .map(|(line, host)| format!("{}:{line}: {host}", file.path))
        .collect()
}

#[test]
fn examples_are_complete() {
    let files: BTreeSet<String> = files().into_iter().map(|file| file.path).collect();
    let in_folder = |path: &String| Some(path.strip_prefix("examples/")?.split_once('/')?.0.to_owned());
    let examples: BTreeSet<String> = files.iter().filter_map(in_folder).collect();
    assert!(!examples.is_empty());
    let wanted = ["pipeline.yaml", "README.md", "input.jsonl", "expected.jsonl"];
    let paths = examples
        .iter()
        .flat_map(|example| wanted.map(|name| format!("examples/{example}/{name}")));
    none("an example has four files", paths.filter(|path| !files.contains(path)));
}

#[test]
fn plugins_are_small() {
    let plugins = rust_files().filter(|file| file.is_in(&["plugins/"]) && !file.is_in(&["plugins/sdk/"]));
    none(
        "a plugin has at most 120 lines without its tests",
        plugins.filter_map(|file| {
            let lines = file.product_code().lines().count();
            (lines > PLUGIN_LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
        }),
    );
}

#[test]
fn the_contract_is_documented_and_frozen() {
    let kinds = [
        "interface ",
        "world ",
        "record ",
        "variant ",
        "enum ",
        "flags ",
        "resource ",
    ];
    let mut count = 0;
    let mut bare = Vec::new();
    for file in files().into_iter().filter(|file| file.path.starts_with("wit/")) {
        assert!(
            file.text.starts_with("package wasmill:plugin@0.1.0;\n"),
            "{}",
            file.path
        );
        let mut before = "";
        for (index, line) in file.text.lines().enumerate() {
            let line = line.trim();
            let is_item = kinds.iter().any(|kind| line.starts_with(kind)) || line.contains(": func(");
            count += usize::from(is_item);
            if is_item && !before.starts_with("///") {
                bare.push(format!("{}:{}: {line}", file.path, index + 1));
            }
            before = line;
        }
    }
    assert!(count > 20, "found only {count} items");
    none("every item of the contract says what it is", bare);
}
