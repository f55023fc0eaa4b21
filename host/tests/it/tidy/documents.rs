//! What the documents say is what the code does: names, keys, defaults, tests and links are compared with their sources.

use std::collections::BTreeSet;
use std::path::Path;

use wasmill::config::{self, Broker, Pipeline};

use super::source::{File, files, names, none, read, rust_files};

/// What stands between quotes after each `before`, up to `until`.
fn listed(text: &str, before: &str, until: &str) -> Vec<String> {
    let parts = text.split(before).skip(1);
    let lists = parts.map(|part| part.split(until).next().unwrap_or_default());
    lists
        .flat_map(|list| list.split('"').skip(1).step_by(2).map(str::to_owned))
        .collect()
}

/// What stands between backticks in a line.
fn spans(text: &str) -> BTreeSet<&str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// The page for operators.
const OPERATING: &str = "host/README.md";

#[test]
fn the_operators_page_names_every_metric_and_no_other() {
    let source = [read("host/src/metrics.rs"), read("host/src/metrics/exits.rs")].concat();
    let registered: Vec<String> = ["= family(", "= told("]
        .iter()
        .flat_map(|call| source.split(call).skip(1))
        .filter_map(|call| Some(format!("wasmill_{}", call.split('"').nth(1)?)))
        .collect();
    assert!(registered.len() > 20, "{registered:?}");
    let readme = read(OPERATING);
    let is_metric =
        |span: &&str| span.starts_with("wasmill_") && !span.contains(|c: char| !c.is_ascii_lowercase() && c != '_');
    let named: BTreeSet<&str> = spans(&readme)
        .into_iter()
        .filter(is_metric)
        .map(|span| span.strip_suffix("_total").unwrap_or(span))
        .collect();
    let registered: BTreeSet<&str> = registered.iter().map(String::as_str).collect();
    assert_eq!(named, registered);
}

#[test]
fn the_readme_names_every_key_of_the_pipeline_file() {
    let readme = read("README.md");
    let sources: Vec<File> = rust_files().filter(|file| file.is_in(&["host/src/config/"])).collect();
    let keys = |list: &str| -> BTreeSet<String> {
        let sections = sources
            .iter()
            .flat_map(|file| file.text.split(": Keys = Keys {").skip(1));
        sections
            .filter_map(|section| section.split("};").next())
            .flat_map(|section| listed(section, &format!("{list}: &["), "]"))
            .collect()
    };
    let (allowed, later) = (keys("allowed"), keys("later"));
    assert!(allowed.len() > 25 && later.len() > 10, "{allowed:?} {later:?}");
    let is_there = |key: &&String| !readme.lines().any(|line| names(line, &format!("{key}:")));
    none("the README has every key", allowed.iter().filter(is_there).cloned());
    let spans = spans(&readme);
    let is_named = |key: &&String| {
        !spans
            .iter()
            .any(|span| span == key || span.ends_with(&format!(".{key}")))
    };
    none(
        "the README has every reserved key",
        later.iter().filter(is_named).cloned(),
    );
}

#[test]
fn the_operators_page_names_every_header_and_kind_of_a_dead_letter() {
    let readme = read(OPERATING);
    let spans = spans(&readme);
    let mut words: Vec<String> = [
        "host/src/dead_letter.rs",
        "host/src/dead_letter/mark.rs",
        "host/src/sink.rs",
    ]
    .iter()
    .flat_map(|path| read(path).split('"').map(str::to_owned).collect::<Vec<_>>())
    .filter(|word| word.starts_with("wasmill.") && !word.contains(char::is_whitespace))
    .collect();
    words.extend(listed(&read("host/src/fault.rs"), " => ", ","));
    assert!(words.len() > 18, "{words:?}");
    none(
        "the page has it",
        words.into_iter().filter(|word| !spans.contains(word.as_str())),
    );
}

#[test]
fn the_readme_s_pipeline_file_is_right_and_shows_the_defaults() {
    let readme = read("README.md");
    let block = readme
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let parse = |text: &str| {
        let environment = |name: &str| (name == "ADMIN_TOKEN").then(|| "secret".to_owned());
        config::parse(text, "README.md".as_ref(), &environment, Broker::Configured)
            .unwrap_or_else(|errors| panic!("{errors}"))
    };
    let shown = parse(block);
    let least = parse(
        "app: shop\nkafka: {bootstrap.servers: 'localhost:9092'}\nstages:\n  dear:\n    \
         plugin: filter-price.wasm\n    input: products\n    output: dear-products\n",
    );
    let defaults = |pipeline: &Pipeline| {
        let stage = &pipeline.stages[0];
        let own = (&stage.on_fault, &stage.group, stage.workers, stage.guarantee);
        let bounds = (
            stage.commit_interval,
            &stage.batch,
            &stage.limits,
            stage.swap,
            stage.stamp,
        );
        format!("{:#?}", (&pipeline.instance, &pipeline.topics, own, bounds))
    };
    assert_eq!(defaults(&shown), defaults(&least));
}

#[test]
fn the_readme_s_plugin_is_the_one_that_the_sdk_tests() {
    let sdk = read("plugins/sdk/src/lib.rs");
    let tested: BTreeSet<&str> = sdk.lines().map(|line| line.trim_start_matches("//!").trim()).collect();
    let readme = read("README.md");
    let block = readme
        .split("```rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let others = block
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("use wasmill_plugin::"));
    none(
        "the README's plugin is that of the SDK's documentation",
        others.filter(|line| !tested.contains(line)).map(str::to_owned),
    );
}

#[test]
fn the_map_names_every_module_and_only_tests_that_are_there() {
    let map = read("ARCHITECTURE.md");
    let spans = spans(&map);
    let library = read("host/src/lib.rs");
    let modules = library
        .lines()
        .filter_map(|line| line.strip_suffix(';')?.split("mod ").nth(1));
    none(
        "the map has every module",
        modules.filter(|module| !spans.contains(module)).map(str::to_owned),
    );
    let tests: BTreeSet<String> = rust_files()
        .flat_map(|file| file.text.split("fn ").skip(1).map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|rest| Some(rest.split_once('(')?.0.to_owned()))
        .collect();
    let is_test =
        |span: &&&str| span.matches('_').count() >= 3 && !span.contains(|c: char| !c.is_ascii_lowercase() && c != '_');
    let named: Vec<&&str> = spans.iter().filter(is_test).collect();
    assert!(named.len() > 5, "{named:?}");
    none(
        "a test that the map names is there",
        named
            .into_iter()
            .filter(|name| !tests.contains(**name))
            .map(|name| (*name).to_owned()),
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut broken = Vec::new();
    for file in files().into_iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root.join(&file.path).parent().unwrap().to_owned();
        for link in file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !path.is_empty() && !folder.join(path).exists() {
                broken.push(format!("{}: {link}", file.path));
            }
        }
    }
    none("a link leads to a file", broken);
}
