//! What a good stage's records notice of evil stages in the same process: their latency from end to end, alone and beside eight evil ones.
//!
//! Both halves run after each other against the same Kafka. Each record carries the time at which it was due, so a sender that falls behind
//! counts as latency. It ends with 1 when output is missing, doubled or out of order; the numbers are for people to judge.
//!
//! `cargo bench -p wasmill --features real --bench neighbours -- [--seconds N] [--rate RECORDS-A-SECOND] [--json]`
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(
    unused_imports,
    dead_code,
    reason = "the tests inside `support` are left out without a harness"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use support::bench::{is_given, number, quantile_ms};
use support::component::poison;
use support::guests::guest;
use support::host::{Invocation, Pipeline};
use support::kafka::{self, Kafka, Record};
use support::{PATIENCE, unique};

/// The evil ones, by the misdeed that their poison is.
const DEEDS: [&str; 8] = [
    "loop",
    "memory",
    "recurse",
    "stdout-flood",
    "huge-panic",
    "pollables",
    "panic",
    "huge",
];
/// What the evil stages get: records a second, and how many of them are followed by one of poison.
const EVIL_RATE: u64 = 100;
const POISON_EVERY: u64 = 10;
/// Records before the measured ones: the group is joined and the plugin warm when they are through.
const WARM_UP: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 200;

struct Wanted {
    seconds: u64,
    rate: u64,
    is_json: bool,
}

struct Measured {
    sent: u64,
    arrived: u64,
    in_order: bool,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Measured {
    fn is_complete(&self) -> bool {
        self.sent == self.arrived && self.in_order
    }

    fn ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latencies, quantile)
    }
}

fn main() -> ExitCode {
    let wanted = wanted();
    let alone = measure(&wanted, &[]);
    let beside = measure(&wanted, &DEEDS);
    report(&wanted, &alone, &beside);
    if alone.is_complete() && beside.is_complete() {
        ExitCode::SUCCESS
    } else {
        eprintln!("the good stage's output is not complete, in order, once");
        ExitCode::FAILURE
    }
}

/// Cargo adds `--bench`, which says nothing here.
fn wanted() -> Wanted {
    Wanted {
        seconds: number("--seconds", 20),
        rate: number("--rate", 2_000),
        is_json: is_given("--json"),
    }
}

fn report(wanted: &Wanted, alone: &Measured, beside: &Measured) {
    let ratio = |quantile| beside.ms(quantile) / alone.ms(quantile);
    if wanted.is_json {
        let told = |measured: &Measured| {
            json!({"sent": measured.sent, "arrived": measured.arrived, "in_order": measured.in_order,
                "p50_ms": measured.ms(0.5), "p99_ms": measured.ms(0.99), "max_ms": measured.ms(1.0)})
        };
        let ratios = json!({"p50": ratio(0.5), "p99": ratio(0.99)});
        let text = json!({"rate": wanted.rate, "seconds": wanted.seconds, "evil": DEEDS, "alone": told(alone), "beside": told(beside), "ratio": ratios});
        println!("{text}");
        return;
    }
    println!(
        "{} records a second for {} s, end to end in ms; evil: {}",
        wanted.rate,
        wanted.seconds,
        DEEDS.join(", ")
    );
    println!(
        "{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "good stage", "sent", "arrived", "p50", "p99", "max"
    );
    for (name, measured) in [("alone", alone), ("beside 8 evil", beside)] {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| measured.ms(quantile));
        println!(
            "{name:<14}{:>10}{:>10}{p50:>10.1}{p99:>10.1}{max:>10.1}",
            measured.sent, measured.arrived
        );
    }
    println!("{:<34}{:>10.2}{:>10.2}", "ratio", ratio(0.5), ratio(0.99));
}

fn measure(wanted: &Wanted, deeds: &[&str]) -> Measured {
    let app = unique("neighbours");
    let [input, output, evil_input, letters] =
        ["in", "out", "evil-in", "dead-letters"].map(|name| format!("{app}.{name}"));
    for topic in [&input, &output, &evil_input, &letters] {
        kafka::create_topic(topic, 1, &[]);
    }
    let mut pipeline = Pipeline::new(&app).stage("good", &guest("identity"), json!({}), &input, &output);
    for deed in deeds {
        let evil_output = format!("{app}.{deed}");
        kafka::create_topic(&evil_output, 1, &[]);
        let name = format!("evil-{deed}");
        pipeline = pipeline.stage(
            &name,
            &guest("misbehave"),
            json!({"deed": deed}),
            &evil_input,
            &evil_output,
        );
    }
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    let began = Instant::now();
    let warm = WARM_UP.as_secs() * wanted.rate;
    let sent = warm + wanted.seconds * wanted.rate;
    let is_over = AtomicBool::new(false);
    let (arrivals, in_order) = thread::scope(|scope| {
        if !deeds.is_empty() {
            scope.spawn(|| send_evil(&evil_input, began, &is_over));
        }
        scope.spawn(|| send(&input, began, wanted.rate, sent));
        let arrivals = read(&output, began, sent, Duration::from_secs(wanted.seconds) + PATIENCE);
        is_over.store(true, Ordering::Relaxed);
        arrivals
    });
    host.terminate();
    host.exits(0, PATIENCE);
    let due = |number: u64| Duration::from_secs_f64(number as f64 / wanted.rate as f64);
    let measured = arrivals.iter().filter(|(number, _)| *number >= warm);
    let mut latencies: Vec<Duration> = measured.map(|(number, at)| at.saturating_sub(due(*number))).collect();
    latencies.sort();
    Measured {
        sent,
        arrived: arrivals.len() as u64,
        in_order,
        latencies,
    }
}

/// Sends numbered records, each when it is due.
fn send(topic: &str, began: Instant, rate: u64, count: u64) {
    let sender = Kafka::shared().sender();
    let mut number = 0;
    while number < count {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while number <= due && number < count {
            let mut value = vec![b'.'; VALUE_BYTES];
            value[..8].copy_from_slice(&number.to_le_bytes());
            sender.send(topic, None, &Record::new(number.to_le_bytes(), value));
            number += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    sender.flush();
}

fn send_evil(topic: &str, began: Instant, is_over: &AtomicBool) {
    let sender = Kafka::shared().sender();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * EVIL_RATE as f64) as u64;
        while number <= due {
            let value = if number % POISON_EVERY == 0 {
                poison()
            } else {
                b"good".to_vec()
            };
            sender.send(topic, None, &Record::new("k", value));
            number += 1;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Reads until so many records have arrived or the time is up; each with its number and when it came, and whether they came in order.
fn read(topic: &str, began: Instant, count: u64, patience: Duration) -> (Vec<(u64, Duration)>, bool) {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka::bootstrap())
        .set("group.id", "wasmill-neighbours")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "5")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut arrivals: Vec<(u64, Duration)> = Vec::new();
    let mut in_order = true;
    while (arrivals.len() as u64) < count && began.elapsed() < patience {
        let Some(message) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let at = began.elapsed();
        let message = message.unwrap();
        let number = u64::from_le_bytes(message.payload().unwrap()[..8].try_into().unwrap());
        in_order &= number == arrivals.len() as u64;
        arrivals.push((number, at));
    }
    (arrivals, in_order)
}
