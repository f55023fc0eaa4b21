//! What a stream notices of swaps: its latency from end to end without them and with one each second, in turns; and what the compile cache saves
//! at a start.
//!
//! Both halves of a round run one after the other against the same Kafka, the first half of every other round being the one with swaps.
//! Each record carries the time at which it was due, so a sender that falls behind counts as latency. It ends with 1 when output is
//! missing, doubled or out of order; the numbers are for people to judge.
//!
//! `cargo bench -p wasmill --features real --bench swap_latency -- [--seconds N] [--rounds N] [--rate RECORDS-A-SECOND] [--json]`
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(
    unused_imports,
    dead_code,
    reason = "the tests inside `support` are left out without a harness"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use support::bench::{is_given, number, quantile_ms};
use support::chaos::Topics;
use support::host::{Host, Invocation};
use support::kafka::{self, Kafka, Record};
use support::swap::{Staged, version};
use support::{PATIENCE, unique};

const PARTITIONS: u64 = 2;
/// Records before the measured ones: the group is joined and every version compiled when they are through.
const WARM_UP: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 270;
const SWAP_EVERY: Duration = Duration::from_secs(1);
/// Starts of `wasmill check`, cold and warm.
const STARTS: usize = 3;

struct Wanted {
    seconds: u64,
    rounds: u64,
    rate: u64,
    is_json: bool,
}

#[derive(Default)]
struct Measured {
    swaps: u64,
    sent: u64,
    arrived: u64,
    is_disordered: bool,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Measured {
    fn is_complete(&self) -> bool {
        self.sent == self.arrived && !self.is_disordered
    }

    fn ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latencies, quantile)
    }

    fn told(&self) -> serde_json::Value {
        json!({"swaps": self.swaps, "sent": self.sent, "arrived": self.arrived, "in_order": !self.is_disordered,
            "p50_ms": self.ms(0.5), "p99_ms": self.ms(0.99), "p99_9_ms": self.ms(0.999), "max_ms": self.ms(1.0)})
    }

    fn row(&self) -> String {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|quantile| self.ms(quantile));
        format!(
            "{:>8}{:>10}{p50:>10.1}{p99:>10.1}{p999:>10.1}{max:>10.1}",
            self.swaps, self.arrived
        )
    }
}

fn main() -> ExitCode {
    let wanted = wanted();
    let mut rounds = Vec::new();
    for round in 0..wanted.rounds {
        let (calm, swapped) = match round % 2 {
            0 => {
                let calm = measure(&wanted, false);
                (calm, measure(&wanted, true))
            }
            _ => {
                let swapped = measure(&wanted, true);
                (measure(&wanted, false), swapped)
            }
        };
        rounds.push((calm, swapped));
    }
    report(&wanted, &rounds, starts());
    let is_complete = |(calm, swapped): &(Measured, Measured)| calm.is_complete() && swapped.is_complete();
    if rounds.iter().all(is_complete) {
        ExitCode::SUCCESS
    } else {
        eprintln!("the output is not complete, in order, once");
        ExitCode::FAILURE
    }
}

/// Cargo adds `--bench`, which says nothing here.
fn wanted() -> Wanted {
    Wanted {
        seconds: number("--seconds", 15),
        rounds: number("--rounds", 3),
        rate: number("--rate", 2_000),
        is_json: is_given("--json"),
    }
}

fn report(wanted: &Wanted, rounds: &[(Measured, Measured)], (cold, warm): (Duration, Duration)) {
    let ratio = |(calm, swapped): &(Measured, Measured)| swapped.ms(0.99) / calm.ms(0.99);
    let (cold, warm) = (cold.as_secs_f64() * 1000.0, warm.as_secs_f64() * 1000.0);
    if wanted.is_json {
        let rounds: Vec<_> = rounds
            .iter()
            .map(|round| json!({"without": round.0.told(), "with": round.1.told(), "ratio_p99": ratio(round)}))
            .collect();
        let check = json!({"cold_ms": cold, "warm_ms": warm});
        let text = json!({"rate": wanted.rate, "seconds": wanted.seconds, "rounds": rounds, "check": check});
        println!("{text}");
        return;
    }
    println!(
        "{} records a second of {VALUE_BYTES} bytes in {PARTITIONS} partitions for {} s, end to end in ms",
        wanted.rate, wanted.seconds
    );
    println!(
        "{:<16}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "round", "swaps", "arrived", "p50", "p99", "p99.9", "max"
    );
    for (number, round) in rounds.iter().enumerate() {
        println!("{number} without       {}", round.0.row());
        println!("{number} with          {}", round.1.row());
        println!("{number} ratio of p99 {:>38.2}", ratio(round));
    }
    println!(
        "`wasmill check`: {cold:.0} ms with an empty compile cache, {warm:.0} ms with a full one (best of {STARTS})"
    );
}

fn measure(wanted: &Wanted, is_swapped: bool) -> Measured {
    let app = unique("swap-latency");
    let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
    for (topic, partitions) in [(&input, PARTITIONS), (&output, PARTITIONS), (&letters, 1)] {
        kafka::create_topic(topic, partitions as i32, &[]);
    }
    let topics = Topics {
        kafka: Kafka::shared(),
        app,
        input,
        output,
        letters,
    };
    // Forwarded records keep their bytes.
    let staged = Staged::on(topics).set(&["config"], json!({"forward": true}));
    let host = staged.start();
    let versions = [version("one"), version("two")];
    for bytes in &versions {
        assert_eq!(staged.swap(&host, bytes).0, 200);
    }
    let began = Instant::now();
    let sent = (WARM_UP.as_secs() + wanted.seconds) * wanted.rate;
    let until = WARM_UP + Duration::from_secs(wanted.seconds);
    let (swaps, (arrivals, is_disordered)) = thread::scope(|scope| {
        scope.spawn(|| send(&staged.topics.input, began, wanted.rate, sent));
        let swaps = scope.spawn(|| match is_swapped {
            true => swap(&staged, &host, &versions, began, until),
            false => 0,
        });
        let arrivals = read(&staged.topics.output, began, sent, until + PATIENCE);
        (swaps.join().unwrap(), arrivals)
    });
    end(host);
    let warm = WARM_UP.as_secs() * wanted.rate;
    let due = |number: u64| Duration::from_secs_f64(number as f64 / wanted.rate as f64);
    let measured = arrivals.iter().filter(|(number, _)| *number >= warm);
    let mut latencies: Vec<Duration> = measured.map(|(number, at)| at.saturating_sub(due(*number))).collect();
    latencies.sort();
    Measured {
        swaps,
        sent,
        arrived: arrivals.len() as u64,
        is_disordered,
        latencies,
    }
}

fn end(mut host: Host) {
    host.terminate();
    host.exits(0, PATIENCE);
}

fn swap(staged: &Staged, host: &Host, versions: &[Vec<u8>], began: Instant, until: Duration) -> u64 {
    let mut swaps = 0;
    thread::sleep(WARM_UP);
    while began.elapsed() < until {
        let bytes = &versions[swaps as usize % versions.len()];
        assert_eq!(staged.swap(host, bytes).0, 200);
        swaps += 1;
        thread::sleep((WARM_UP + SWAP_EVERY * swaps as u32).saturating_sub(began.elapsed()));
    }
    swaps
}

/// Sends numbered records, each when it is due.
fn send(topic: &str, began: Instant, rate: u64, count: u64) {
    let sender = Kafka::shared().sender();
    let mut number = 0;
    while number < count {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while number <= due && number < count {
            let text = format!("{number} ");
            let partition = number % PARTITIONS;
            // One key for each partition, so that its records stay together on the other side.
            let record = Record::new(partition.to_string(), format!("{text:.<VALUE_BYTES$}"));
            sender.send(topic, Some(partition as i32), &record);
            number += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    sender.flush();
}

/// Reads until so many records have arrived or the time is up; each with its number and when it came, and whether a partition was out of order.
fn read(topic: &str, began: Instant, count: u64, patience: Duration) -> (Vec<(u64, Duration)>, bool) {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka::bootstrap())
        .set("group.id", "wasmill-swap-latency")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "5")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        from.add_partition_offset(topic, partition as i32, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&from).unwrap();
    let mut next: Vec<u64> = (0..PARTITIONS).collect();
    let mut arrivals: Vec<(u64, Duration)> = Vec::new();
    let mut is_disordered = false;
    while (arrivals.len() as u64) < count && began.elapsed() < patience {
        let Some(message) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let at = began.elapsed();
        let message = message.unwrap();
        let text = str::from_utf8(message.payload().unwrap()).unwrap();
        let number: u64 = text.split(' ').next().unwrap().parse().unwrap();
        let next = &mut next[(number % PARTITIONS) as usize];
        is_disordered |= number != *next;
        *next = number + PARTITIONS;
        arrivals.push((number, at));
    }
    (arrivals, is_disordered)
}

/// How long `wasmill check` takes with an empty compile cache and with a full one: the best of some.
fn starts() -> (Duration, Duration) {
    let app = unique("starts");
    let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
    let topics = Topics {
        kafka: Kafka::shared(),
        app,
        input,
        output,
        letters,
    };
    let staged = Staged::on(topics);
    let file = staged.pipeline.write();
    let check = |home: &str| {
        let began = Instant::now();
        let check = Invocation::new(&["check", file.to_str().unwrap()]);
        let check = check.env("HOME", home).env("XDG_CACHE_HOME", home);
        check.exits(0, PATIENCE);
        began.elapsed()
    };
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let home = tempfile::TempDir::new().unwrap();
        let home = home.path().to_str().unwrap();
        cold.push(check(home));
        warm.push(check(home));
    }
    let best = |times: Vec<Duration>| times.into_iter().min().unwrap_or_default();
    (best(cold), best(warm))
}
