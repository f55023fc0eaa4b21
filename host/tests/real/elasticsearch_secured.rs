//! A cluster that asks who is there: TLS, passwords, API keys, rights that are taken and given back; ingest pipelines, and a queue that is full.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::documents::{Act, Documents, Model};
use crate::support::elastic::{Elastic, rights};
use crate::support::host::{Host, Invocation, Pipeline};
use crate::support::{PATIENCE, admin, wait_for};

const ALL: [&str; 5] = ["create_index", "write", "view_index_metadata", "manage", "read"];

/// The pipeline with what lets it in, and the folder that holds its secret.
struct Entry {
    pipeline: Pipeline,
    secret: std::path::PathBuf,
    _folder: TempDir,
}

fn entry(documents: &Documents, credentials: impl Fn(&str) -> Value, secret: &str) -> Entry {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, secret).unwrap();
    let mut section = json!({"url": documents.elastic.url, "ca-file": documents.elastic.ca});
    let credentials = credentials(file.to_str().unwrap());
    section
        .as_object_mut()
        .unwrap()
        .extend(credentials.as_object().unwrap().clone());
    Entry {
        pipeline: documents.pipeline("").set(&["elasticsearch"], section),
        secret: file,
        _folder: folder,
    }
}

fn user(name: &str) -> impl Fn(&str) -> Value {
    move |file| json!({"username": name, "password": {"file": file}})
}

fn acts() -> Vec<Act> {
    (0..500)
        .map(|number| Act::index(format!("{}", number % 60), &json!({"n": number})))
        .collect()
}

#[test]
fn a_user_with_a_password_writes_over_tls() {
    let documents = Documents::new("password", Elastic::secured());
    let name = documents.app.clone();
    documents
        .elastic
        .user(&name, "the user's password", &rights(&documents.index, &ALL));
    documents.send(&acts());
    let entry = entry(&documents, user(&name), "the user's password");
    documents.catches_up(&entry.pipeline);
    documents.assert_holds(&Model::of(&acts()).documents);
}

#[test]
fn an_api_key_writes_over_tls() {
    let documents = Documents::new("key", Elastic::secured());
    let key = documents
        .elastic
        .api_key(&documents.app, &rights(&documents.index, &ALL));
    documents.send(&acts());
    let entry = entry(&documents, |file| json!({"api-key": {"file": file}}), &key);
    documents.catches_up(&entry.pipeline);
    documents.assert_holds(&Model::of(&acts()).documents);
}

/// A server that is known by no certificate is not written to, and is told nothing.
#[test]
fn a_server_that_is_not_trusted_is_an_error_that_says_so() {
    let documents = Documents::new("untrusted", Elastic::secured());
    let mut entry = entry(&documents, user("elastic"), "none of its business");
    entry.pipeline = entry.pipeline.without_key(&["elasticsearch"], "ca-file");
    Invocation::new(&["check", entry.pipeline.write().to_str().unwrap(), "--connect"])
        .exits(2, PATIENCE)
        .says("certificate");
}

/// The host runs and tries again and again; nothing is committed or given up.
#[track_caller]
fn waits(documents: &Documents, entry: &Entry, says: &str) -> Host {
    let mut host = Invocation::run(&entry.pipeline.write()).start();
    let retried = |host: &Host| {
        let (_, metrics) = admin::get(host.admin_port, "/metrics")?;
        admin::metric(&metrics, "wasmill_output_retries_total", &[]).filter(|retried| *retried > 2.0)
    };
    wait_for("documents to be tried again", PATIENCE, || {
        assert!(host.exited().is_none(), "the host ended:\n{}", host.tail());
        retried(&host)
    });
    wait_for("the host to say what is wrong", PATIENCE, || {
        host.printed().stderr.contains(says).then_some(())
    });
    assert!(
        !host
            .printed()
            .stderr
            .contains(&fs::read_to_string(&entry.secret).unwrap()),
        "the secret is in the log"
    );
    assert_eq!(documents.elastic.count(&documents.index), 0);
    assert!(documents.left() > 0, "committed what is not written");
    documents.assert_letters(&[]);
    host
}

#[test]
fn rights_that_are_missing_are_waited_for() {
    let documents = Documents::new("rights", Elastic::secured());
    let name = documents.app.clone();
    documents.elastic.user(
        &name,
        "the user's password",
        &rights(&documents.index, &["read", "view_index_metadata"]),
    );
    documents.send(&acts());
    let entry = entry(&documents, user(&name), "the user's password");
    let host = waits(&documents, &entry, "403");
    documents
        .elastic
        .user(&name, "the user's password", &rights(&documents.index, &ALL));
    documents.is_done(host, PATIENCE);
    documents.assert_holds(&Model::of(&acts()).documents);
    documents.assert_letters(&[]);
}

#[test]
fn a_password_that_is_refused_is_tried_until_it_is_taken() {
    let documents = Documents::new("refused", Elastic::secured());
    let name = documents.app.clone();
    documents
        .elastic
        .user(&name, "another password", &rights(&documents.index, &ALL));
    documents.send(&acts());
    let entry = entry(&documents, user(&name), "the user's password");
    let host = waits(&documents, &entry, "401");
    documents
        .elastic
        .user(&name, "the user's password", &rights(&documents.index, &ALL));
    documents.is_done(host, PATIENCE);
    documents.assert_holds(&Model::of(&acts()).documents);
    documents.assert_letters(&[]);
}

#[test]
fn documents_go_through_the_ingest_pipeline_that_the_file_names() {
    let documents = Documents::new("ingest", Elastic::secured());
    let name = documents.app.clone();
    // The distribution for tests has this processor alone: it says who wrote the document.
    let processors = json!({"processors": [{"set_security_user": {"field": "by", "properties": ["username"]}}]});
    documents
        .elastic
        .does("PUT", &format!("_ingest/pipeline/{name}"), &processors);
    documents
        .elastic
        .user(&name, "the user's password", &rights(&documents.index, &ALL));
    documents.send(&[Act::index("a", &json!({"n": 1})), Act::index("b", &json!({"n": 2}))]);
    let mut entry = entry(&documents, user(&name), "the user's password");
    entry.pipeline = entry.pipeline.set(&Documents::key("pipeline"), name.as_str());
    documents.catches_up(&entry.pipeline);
    let written_by: Vec<Value> = documents
        .found()
        .values()
        .map(|document| document.source["by"].clone())
        .collect();
    assert_eq!(written_by, [json!({"username": name}), json!({"username": name})]);
}

/// The server queues one write at a time, so that most shards of a bulk are refused.
#[test]
fn a_full_write_queue_costs_time_and_nothing_else() {
    for versions in ["external", "none"] {
        let documents = Documents::with(
            "queue",
            Elastic::secured(),
            Value::Null,
            json!({"number_of_shards": 12}),
        );
        let entry = entry(&documents, user("elastic"), crate::support::elastic::PASSWORD);
        let acts: Vec<Act> = (0..3_000)
            .map(|number| Act::index(format!("{}", number % 700), &json!({"n": number})))
            .collect();
        documents.send(&acts);
        let pipeline = entry.pipeline.set(&Documents::key("versions"), versions);
        let mut host = Invocation::run(&pipeline.write()).start();
        host.ready();
        wait_for("all records to be committed", PATIENCE * 2, || {
            (documents.left() == 0).then_some(())
        });
        let (_, metrics) = admin::get(host.admin_port, "/metrics").unwrap();
        let retried = admin::metric(&metrics, "wasmill_output_retries_total", &[]);
        assert!(
            retried.is_some_and(|retried| retried > 0.0),
            "no document was refused: {retried:?}"
        );
        host.terminated_with(0);
        documents.assert_holds(&Model::of(&acts).documents);
        documents.assert_letters(&[]);
    }
}
