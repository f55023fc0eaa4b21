//! Documents a second that `wasmill run` writes into Elasticsearch, against a plain bulk loader on the same server.
//!
//! Both read the same topic and send the same bulks: so many documents each, so many in flight, with external versions. The loader does nothing
//! else: no plugin, no dead letters, no commits. The two take turns, the first of every other round being the host, after a round that is not counted. Time
//! runs from the first documents that are acknowledged to the last ones, so that a start counts for neither. It ends with 1 when a document is missing;
//! the numbers are for people to judge.
//!
//! `cargo bench -p wasmill --features real --bench elasticsearch -- [--documents N] [--rounds N] [--lanes N] [--bulk N] [--json]`
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(
    unused_imports,
    dead_code,
    reason = "the tests inside `support` are left out without a harness"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use support::bench::{is_given, number};
use support::elastic::Elastic;
use support::guests::guest;
use support::host::{Invocation, Pipeline};
use support::kafka::{self, Record};
use support::{PATIENCE, admin, unique, wait_for};

const PARTITIONS: u64 = 4;
const VALUE_BYTES: usize = 300;
const LOOK: Duration = Duration::from_millis(5);

struct Wanted {
    documents: u64,
    rounds: u64,
    lanes: u64,
    bulk: u64,
    is_json: bool,
}

/// Documents that were acknowledged by a time.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    documents: u64,
}

/// Documents a second between two marks.
fn rate(from: Mark, to: Mark) -> f64 {
    (to.documents - from.documents) as f64 / (to.at - from.at).as_secs_f64()
}

fn main() -> ExitCode {
    let wanted = Wanted {
        documents: number("--documents", 150_000),
        rounds: number("--rounds", 3),
        lanes: number("--lanes", 2),
        bulk: number("--bulk", 1_000),
        is_json: is_given("--json"),
    };
    let elastic = Elastic::shared();
    let topic = unique("bench.in");
    fill(&topic, wanted.documents);
    let mut rounds = Vec::new();
    // The first one warms the server up.
    for round in 0..=wanted.rounds {
        let (host, loader) = match round % 2 {
            0 => {
                let host = host(&wanted, &elastic, &topic);
                (host, loader(&wanted, &elastic, &topic))
            }
            _ => {
                let loader = loader(&wanted, &elastic, &topic);
                (host(&wanted, &elastic, &topic), loader)
            }
        };
        if round > 0 {
            rounds.push((host, loader));
        }
    }
    report(&wanted, &rounds);
    ExitCode::SUCCESS
}

fn report(wanted: &Wanted, rounds: &[(f64, f64)]) {
    let mut ratios: Vec<f64> = rounds.iter().map(|(host, loader)| host / loader).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let Wanted {
        documents, lanes, bulk, ..
    } = wanted;
    if wanted.is_json {
        let rounds: Vec<Value> = rounds
            .iter()
            .map(|(host, loader)| json!({"host": host, "loader": loader, "ratio": host / loader}))
            .collect();
        println!(
            "{}",
            json!({"documents": documents, "lanes": lanes, "bulk": bulk, "rounds": rounds, "median_ratio": median})
        );
        return;
    }
    println!(
        "{documents} documents of {VALUE_BYTES} bytes, {bulk} a bulk, {lanes} bulks in flight; documents a second"
    );
    println!("{:<8}{:>10}{:>10}{:>8}", "round", "wasmill", "loader", "ratio");
    for (number, (host, loader)) in rounds.iter().enumerate() {
        println!("{number:<8}{host:>10.0}{loader:>10.0}{:>8.2}", host / loader);
    }
    println!("median ratio {median:.2}");
}

fn fill(topic: &str, documents: u64) {
    kafka::create_topic(topic, PARTITIONS as i32, &[]);
    let sender = kafka::Kafka::shared().sender();
    for number in 0..documents {
        let text = "x".repeat(VALUE_BYTES - 80);
        let value = format!(
            "{{\"number\":{number:>10},\"station\":\"US-{}\",\"temperature\":{},\"text\":\"{text}\"}}",
            number % 97,
            number % 40
        );
        sender.send(
            topic,
            Some((number % PARTITIONS) as i32),
            &Record::new(format!("{number}"), value),
        );
    }
    sender.flush();
}

fn index(elastic: &Elastic) -> String {
    let index = unique("bench");
    let mappings = json!({"properties": {"number": {"type": "long"}, "station": {"type": "keyword"},
        "temperature": {"type": "float"}, "text": {"type": "keyword", "index": false, "doc_values": false}}});
    elastic.create_index(&index, mappings, json!({"refresh_interval": "-1"}));
    index
}

fn is_complete(elastic: &Elastic, index: &str, wanted: &Wanted) {
    let count = elastic.count(index);
    if count != wanted.documents {
        eprintln!("{index} holds {count} documents instead of {}", wanted.documents);
        std::process::exit(1);
    }
    elastic.does("DELETE", index, &Value::Null);
}

/// Documents a second of the host.
fn host(wanted: &Wanted, elastic: &Elastic, topic: &str) -> f64 {
    let index = index(elastic);
    let app = unique("bench");
    kafka::create_topic(&format!("{app}.dead-letters"), 1, &[]);
    let output = json!({"index": index, "id": "key", "versions": "external", "lanes": wanted.lanes, "bulk": {"documents": wanted.bulk}});
    let pipeline = Pipeline::new(&app)
        .stage("load", &guest("identity"), json!({}), topic, "")
        .set(&["elasticsearch"], json!({"url": elastic.url}))
        .set(&["stages", "load", "output"], json!({"elasticsearch": output}));
    let host = Invocation::run(&pipeline.write()).start();
    let mut marks: Vec<Mark> = Vec::new();
    let acknowledged = || {
        let (_, metrics) = admin::get(host.admin_port, "/metrics")?;
        admin::metric(&metrics, "wasmill_output_items_total", &[]).map(|documents| documents as u64)
    };
    let began = Instant::now();
    while marks.last().is_none_or(|mark| mark.documents < wanted.documents) {
        assert!(
            began.elapsed() < 5 * PATIENCE,
            "the host does not get on:\n{}",
            host.tail()
        );
        if let Some(documents) = acknowledged().filter(|documents| *documents > 0) {
            marks.push(Mark {
                at: Instant::now(),
                documents,
            });
        }
        thread::sleep(4 * LOOK);
    }
    let last = marks.iter().find(|mark| mark.documents >= wanted.documents).unwrap();
    let rate = rate(marks[0], *last);
    host.terminated_with(0);
    is_complete(elastic, &index, wanted);
    rate
}

/// Documents a second of threads that do nothing but send what one thread reads.
fn loader(wanted: &Wanted, elastic: &Elastic, topic: &str) -> f64 {
    let index = index(elastic);
    let marks: Arc<Mutex<Vec<Mark>>> = Arc::default();
    // One bulk waits while the others are in flight, as in any loader that does not wait for itself.
    let (bulks, waiting) = sync_channel::<(String, u64)>(1);
    let waiting = Arc::new(Mutex::new(waiting));
    thread::scope(|scope| {
        for _ in 0..wanted.lanes {
            let (waiting, marks) = (Arc::clone(&waiting), Arc::clone(&marks));
            scope.spawn(move || send(elastic, &waiting, &marks));
        }
        read(wanted, topic, &index, &bulks);
        drop(bulks);
    });
    let marks = marks.lock().unwrap();
    let rate = rate(marks[0], *marks.last().unwrap());
    drop(marks);
    is_complete(elastic, &index, wanted);
    rate
}

/// Sends bulks until there are no more.
fn send(elastic: &Elastic, waiting: &Mutex<Receiver<(String, u64)>>, marks: &Mutex<Vec<Mark>>) {
    loop {
        let next = waiting.lock().unwrap().recv();
        let Ok((body, documents)) = next else { return };
        let answer = elastic.does_bulk(&body);
        assert!(
            answer.contains("\"errors\":false"),
            "{}",
            &answer[..300.min(answer.len())]
        );
        let mut marks = marks.lock().unwrap();
        let before = marks.last().map_or(0, |mark| mark.documents);
        marks.push(Mark {
            at: Instant::now(),
            documents: before + documents,
        });
    }
}

/// Reads the topic and makes bulks of it.
fn read(wanted: &Wanted, topic: &str, index: &str, bulks: &SyncSender<(String, u64)>) {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka::bootstrap())
        .set("group.id", "wasmill-bench-loader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        from.add_partition_offset(topic, partition as i32, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&from).unwrap();
    let (mut body, mut count, mut all) = (String::new(), 0, 0);
    while all < wanted.documents {
        let Some(message) = consumer.poll(PATIENCE) else {
            panic!("{topic} ends early")
        };
        let message = message.unwrap();
        let (id, value) = (message.key().unwrap(), message.payload().unwrap());
        let (id, value) = (str::from_utf8(id).unwrap(), str::from_utf8(value).unwrap());
        let version = (message.offset() as u64) << 8;
        writeln!(
            body,
            r#"{{"index":{{"_index":"{index}","_id":"{id}","version":{version},"version_type":"external"}}}}"#
        )
        .unwrap();
        body.push_str(value);
        body.push('\n');
        count += 1;
        all += 1;
        if count == wanted.bulk || all == wanted.documents {
            bulks.send((std::mem::take(&mut body), count)).unwrap();
            count = 0;
        }
    }
}
