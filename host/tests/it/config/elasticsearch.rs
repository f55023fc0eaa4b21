//! Mistakes of the `elasticsearch` section and of outputs that write documents.

use wasmill::config::Broker;

use super::{check, check_with};

const CREDENTIALS: &str = "u:secret";
const SECTION: &str = "elasticsearch: {url: 'http://localhost:9200'}\n";

/// A file with these first lines and a stage with this input and output.
fn file(head: &str, input: &str, output: &str) -> String {
    let kafka = "kafka: {bootstrap.servers: 'k:9092'}";
    format!("app: a\n{kafka}\n{head}stages:\n  s:\n    plugin: p.wasm\n    input: {input}\n    {output}\n")
}

fn of_section(lines: &str) -> String {
    file(lines, "a", "output: b")
}

fn of_output(keys: &str) -> String {
    file(SECTION, "a", &format!("output: {{elasticsearch: {{{keys}}}}}"))
}

fn mistakes() -> Vec<(&'static str, String)> {
    vec![
        ("no section", file("", "a", "output: {elasticsearch: {index: x}}")),
        ("no url", of_section("elasticsearch: {username: u}\n")),
        ("no urls", of_section("elasticsearch: {url: []}\n")),
        ("no scheme", of_section("elasticsearch: {url: 'localhost:9200'}\n")),
        (
            "another scheme",
            of_section("elasticsearch: {url: 'ftp://localhost'}\n"),
        ),
        (
            "no URL",
            of_section(&format!("elasticsearch: {{url: 'http://{CREDENTIALS}@[::1'}}\n")),
        ),
        (
            "credentials in the URL",
            of_section(&format!("elasticsearch: {{url: 'http://{CREDENTIALS}@localhost'}}\n")),
        ),
        (
            "a query in the URL",
            of_section("elasticsearch: {url: 'http://localhost/?a=b'}\n"),
        ),
        (
            "a name without a password",
            of_section("elasticsearch: {url: 'http://localhost', username: u}\n"),
        ),
        (
            "a password without a name",
            of_section("elasticsearch: {url: 'http://localhost', password: p}\n"),
        ),
        (
            "two kinds of credentials",
            of_section("elasticsearch: {url: 'http://localhost', api-key: k, username: u, password: p}\n"),
        ),
        (
            "a key that is none",
            of_section("elasticsearch: {url: 'http://localhost', api-key: 'id secret'}\n"),
        ),
        (
            "a certificate for http",
            of_section("elasticsearch: {url: 'http://localhost', ca-file: ca.pem}\n"),
        ),
        (
            "a misspelt key of the section",
            of_section("elasticsearch: {url: 'http://localhost', apikey: k}\n"),
        ),
        ("no index", of_output("")),
        ("an upper-case index", of_output("index: Retail")),
        ("a time that is none", of_output("index: 'noaa-{YYYY}'")),
        ("an open brace", of_output("index: 'noaa-{yyyy'")),
        ("a star", of_output("index: 'noaa-*'")),
        ("an unknown id", of_output("index: x, id: value")),
        ("an unknown action", of_output("index: x, action: upsrt")),
        ("an unknown routing", of_output("index: x, routing: id")),
        ("an epoch that is too high", of_output("index: x, epoch: 2048")),
        (
            "versions of updates",
            of_output("index: x, action: upsert, versions: external"),
        ),
        (
            "versions of creates",
            of_output("index: x, action: create, versions: external"),
        ),
        (
            "an ingest pipeline for updates",
            of_output("index: x, action: update, pipeline: p"),
        ),
        (
            "an action that a data stream does not take",
            of_output("index: x, data-stream: true, action: index"),
        ),
        (
            "versions in a data stream",
            of_output("index: x, data-stream: true, versions: external"),
        ),
        (
            "versions of several topics",
            file(
                SECTION,
                "[a, b]",
                "output: {elasticsearch: {index: x, versions: external}}",
            ),
        ),
        (
            "two ways of sending to one index",
            file(
                SECTION,
                "a",
                "outputs: {p: {elasticsearch: {index: x}}, q: {elasticsearch: {index: x, lanes: 3}}}",
            ),
        ),
        (
            "sizes out of range",
            of_output("index: x, bulk: {documents: 0, bytes: 100MiB, age: 11s}, lanes: 65, timeout: 0s"),
        ),
        ("a misspelt key of an output", of_output("index: x, piepline: p")),
        (
            "a misspelt kind of output",
            file(SECTION, "a", "output: {elasticsaerch: {index: x}}"),
        ),
    ]
}

#[test]
fn every_mistake_about_documents_names_the_thing_and_what_is_allowed() {
    let mut answers = String::new();
    for (title, text) in mistakes() {
        let answer = check(&text).expect_err(title);
        assert!(!answer.contains(CREDENTIALS), "{answer}");
        let numbered = text.lines().enumerate().skip(2);
        let numbered: String = numbered
            .map(|(index, line)| format!("{:>3} | {line}\n", index + 1))
            .collect();
        answers.push_str(&format!("## {title}\n{numbered}{answer}\n\n"));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(answers) });
}

#[test]
fn a_run_in_memory_needs_no_elasticsearch() {
    let text = file("", "a", "output: {elasticsearch: {index: x}}");
    assert!(check_with(&text, Broker::Embedded).is_ok());
}
