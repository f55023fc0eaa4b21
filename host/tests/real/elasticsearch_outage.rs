//! Elasticsearch or the host goes away: outages that no transaction could outlive, kills, and processes that take over from each other.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::support::chaos::events::EventLog;
use crate::support::documents::{Act, Documents, Model, PARTITIONS};
use crate::support::elastic::Elastic;
use crate::support::es_proxy::EsProxy;
use crate::support::host::{Host, Invocation, was_killed};
use crate::support::{PATIENCE, kafka, wait_for};

/// Of the producer, and of the group: an outage lasts longer than both.
const TRANSACTION: Duration = Duration::from_secs(5);
const SESSION: Duration = Duration::from_secs(6);
const OUTAGE: Duration = Duration::from_secs(14);
/// What the host may hold more than before: 64 MiB of records that wait, what was fetched, and a batch and its bulks.
const GROWTH_BYTES_MAX: u64 = 128 << 20;
const FETCHED_KIB_MAX: u64 = 8 << 10;

fn resident_bytes(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

fn numbered(from: usize, to: usize, padding: usize) -> Vec<Act> {
    let text = "x".repeat(padding);
    (from..to)
        .map(|number| Act::index(format!("{}", number % 500), &json!({"n": number, "text": text})))
        .collect()
}

/// `break_off` begins the outage; so many documents of so many bytes are sent during it.
fn an_outage_is_outlived(name: &str, break_off: impl Fn(&EsProxy), did: &str, (backlog, bytes): (usize, usize)) {
    let documents = Documents::new(name, Elastic::shared());
    let proxy = EsProxy::new(&documents.elastic.url);
    let pipeline = documents
        .pipeline(&proxy.url())
        .set(&["kafka", "transaction.timeout.ms"], TRANSACTION.as_millis() as u64)
        .set(&["kafka", "queued.max.messages.kbytes"], FETCHED_KIB_MAX)
        .set(&Documents::key("timeout"), "2s");
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    let mut acts = numbered(0, 5_000, 0);
    documents.send(&acts);
    wait_for("the host to work", PATIENCE, || (documents.left() == 0).then_some(()));
    let before = resident_bytes(&host);
    let members = kafka::members(&documents.group());

    break_off(&proxy);
    let began = Instant::now();
    let more = numbered(5_000, 5_000 + backlog, bytes);
    documents.send(&more);
    acts.extend(more);
    let mut most = before;
    while began.elapsed() < OUTAGE {
        most = most.max(resident_bytes(&host));
        assert!(host.exited().is_none(), "the host ended:\n{}", host.tail());
        // The rhythm of the observation.
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(OUTAGE > TRANSACTION + SESSION);
    assert!(documents.left() > 0, "committed what could not be written");
    assert_eq!(
        kafka::members(&documents.group()),
        members,
        "it has lost its place in the group"
    );
    let grown = most - before;
    println!("{} MiB before, {} MiB more at most", before >> 20, grown >> 20);
    assert!(
        grown < GROWTH_BYTES_MAX,
        "it holds {} MiB more than before",
        grown >> 20
    );
    proxy.did(did);

    proxy.pass();
    documents.is_done(host, PATIENCE * 2);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&[]);
}

#[test]
fn an_outage_longer_than_a_transaction_is_outlived() {
    an_outage_is_outlived("cut-off", EsProxy::cut_off, "cut off", (100_000, 2_000));
}

#[test]
fn a_silence_longer_than_a_transaction_is_outlived() {
    an_outage_is_outlived("silence", EsProxy::fall_silent, "silent", (5_000, 100));
}

/// Until then nobody knew that they were written, so they are written again: the same documents, with the same versions.
#[test]
fn documents_of_a_host_that_was_killed_before_the_commit_are_written_again_unchanged() {
    for versions in ["external", "none"] {
        let documents = Documents::new("killed-before", Elastic::shared());
        let folder = TempDir::new().unwrap();
        let mut log = EventLog::new(folder.path().join("events"));
        let pipeline = documents
            .pipeline(&documents.elastic.url)
            .set(&Documents::key("versions"), versions);
        let path = pipeline.write();
        let mut acts = numbered(0, 800, 0);
        acts.insert(400, Act::new("update", "missing", &json!({"n": 1})));
        if versions == "external" {
            acts.retain(|act| act.action != Some("update"));
        }
        documents.send(&acts);
        let mut host = Invocation::catch_up(&path)
            .env("WASMILL_CHAOS", "documents-sent=1")
            .env("WASMILL_CHAOS_LOG", log.path().to_str().unwrap())
            .start();
        let status = wait_for("the host to kill itself", PATIENCE, || host.exited());
        assert!(was_killed(status), "{status}");
        assert!(
            log.events()
                .iter()
                .any(|event| event.name == "kill" && event.detail == "documents-sent")
        );
        assert!(
            documents.elastic.count(&documents.index) > 0,
            "killed before anything was written"
        );
        assert!(documents.left() > 0, "killed after the commit");
        let first = documents.found();

        documents.catches_up(&pipeline);
        documents.assert_holds(&Model::of(&acts).documents);
        if versions == "external" {
            let second = documents.found();
            let same = first
                .iter()
                .filter(|(id, document)| second.get(*id) == Some(document))
                .count();
            assert!(same > 0, "all documents have changed");
            documents.assert_letters(&[]);
        } else {
            documents.assert_letters(&["missing"]);
        }
    }
}

/// Two processes share the partitions; one is killed at work, comes back, and the other is asked to leave.
#[test]
fn processes_that_take_over_from_each_other_write_the_right_documents() {
    let documents = Documents::new("two", Elastic::shared());
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&["stages", "act", "workers"], 2)
        .set(&Documents::key("bulk"), json!({"documents": 20}));
    let path = pipeline.write();
    let start = |instance: &str| Invocation::run(&path).env("WASMILL_INSTANCE", instance).start();
    let mut one = start("one");
    let mut two = start("two");
    one.ready();
    two.ready();
    wait_for("both to have partitions", PATIENCE, || {
        let members = kafka::members(&documents.group())?;
        (members.len() == 4 && members.iter().sum::<usize>() == PARTITIONS as usize).then_some(())
    });
    let mut acts = Vec::new();
    let mut send = |from: usize, to: usize| {
        let more = numbered(from, to, 0);
        documents.send(&more);
        acts.extend(more);
    };
    send(0, 4_000);
    wait_for("some to be written", PATIENCE, || {
        (documents.elastic.count(&documents.index) > 20).then_some(())
    });
    one.kill();
    send(4_000, 8_000);
    let mut one = start("one");
    one.ready();
    send(8_000, 12_000);
    two.terminate();
    send(12_000, 16_000);
    two.exits(0, PATIENCE);
    documents.is_done(one, PATIENCE * 2);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&[]);
}
