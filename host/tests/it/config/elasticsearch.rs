//! The `elasticsearch` section and outputs that write documents: what is accepted, and what each mistake is answered with.

use std::path::Path;
use std::time::Duration;

use wasmill::config::{Broker, BulkDelivery, Credentials, DocumentAction, DocumentId, Versions};

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
fn an_output_can_write_documents() {
    let text = r#"app: shop
kafka: {bootstrap.servers: 'k:9092'}
elasticsearch:
  url: ['https://localhost:9200', 'https://localhost:9201/search']
  username: host
  password: ${PASSWORD}
  ca-file: certs/ca.pem
stages:
  catalogue:
    plugin: p.wasm
    input: products
    outputs:
      products: {elasticsearch: {index: catalogue}}
      log:
        elasticsearch:
          index: "log-{yyyy.MM.dd}"
          id: position
          action: create
          routing: key
          pipeline: geo
          versions: none
          epoch: 3
          bulk: {documents: 10, bytes: 1MiB, age: 1s}
          lanes: 7
          timeout: 5s
"#;
    let pipeline = check(text).unwrap_or_else(|errors| panic!("{errors}"));
    let section = pipeline.elasticsearch.as_ref().unwrap();
    let urls: Vec<&str> = section.urls.iter().map(|url| url.as_str()).collect();
    assert_eq!(urls, ["https://localhost:9200/", "https://localhost:9201/search"]);
    let Credentials::Basic { username, password } = &section.credentials else {
        panic!("{:?}", section.credentials)
    };
    assert_eq!((username.as_str(), password.expose()), ("host", "hunter2"));
    assert!(!format!("{pipeline:?}").contains("hunter2"));
    assert_eq!(
        section.ca_file.as_ref().unwrap().value,
        Path::new("pipelines/certs/ca.pem")
    );
    let outputs: Vec<_> = pipeline.stages[0].outputs.indices().collect();
    let [plain, full] = outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(plain.index.as_str(), "catalogue");
    assert!(plain.id.is_none() && plain.action.is_none() && plain.versions.is_none() && !plain.is_data_stream);
    let delivery = BulkDelivery {
        documents: 1_000,
        bytes: 4 << 20,
        age: Duration::from_millis(50),
        lanes: 4,
        timeout: Duration::from_secs(60),
    };
    assert_eq!((plain.epoch, plain.delivery), (0, delivery));
    assert_eq!(full.index.at(Some(0)).as_deref(), Some("log-1970.01.01"));
    assert_eq!(full.id.unwrap().value, DocumentId::Position);
    assert_eq!(full.action.unwrap().value, DocumentAction::Create);
    assert_eq!(full.versions.unwrap().value, Versions::None);
    assert!(full.is_routed_by_key && full.pipeline.as_ref().unwrap().as_str() == "geo" && full.epoch == 3);
    let delivery = BulkDelivery {
        documents: 10,
        bytes: 1 << 20,
        age: Duration::from_secs(1),
        lanes: 7,
        timeout: Duration::from_secs(5),
    };
    assert_eq!(full.delivery, delivery);
    assert_eq!(pipeline.stages[0].outputs.topics().count(), 0);
}

#[test]
fn every_mistake_about_documents_names_the_thing_and_what_is_allowed() {
    let mut answers = String::new();
    for (title, text) in mistakes() {
        let answer = check(&text).expect_err(title);
        assert!(!answer.contains(CREDENTIALS), "{answer}");
        let numbered = text.lines().enumerate().skip(2);
        let numbered: String = numbered
            .map(|(index, line)| format!("{:>3} | {}\n", index + 1, line.replace(CREDENTIALS, "..")))
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
