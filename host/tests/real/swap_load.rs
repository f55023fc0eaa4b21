//! Swaps among everything else that happens to a process: load, rebalances, ends, kills.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::support::chaos::Topics;
use crate::support::chaos::checker::Numbered;
use crate::support::chaos::events::EventLog;
use crate::support::chaos::load::Load;
use crate::support::cluster::{NODES, cluster};
use crate::support::host::{Host, was_killed};
use crate::support::kafka::Kafka;
use crate::support::rng::{self, Rng};
use crate::support::swap::{Staged, digest, end, is_subsequence, labels_by_input_partition, resident_bytes, version};
use crate::support::{PATIENCE, kafka, wait_for};

const SWAPS: usize = 1000;
/// Versions to choose from; compiled once each, so that swaps and not compilers are tested.
const VERSIONS: usize = 12;
/// The first swaps fill caches and pools, which are there to stay.
const WARM_UP: usize = 200;
/// What a process may have grown by after all further swaps; a version that stayed would take more than 1 MB each time.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The gaps in ms between one output and the next of the same input partition, sorted, of those that were appended in a span of time.
fn gaps_ms(topics: &Topics, from_ms: i64, until_ms: i64) -> Vec<i64> {
    let mut times: BTreeMap<i32, Vec<(u64, i64)>> = BTreeMap::new();
    for placed in kafka::read_committed(&topics.output) {
        let (_, text) = placed.record.value_text().split_once(": ").unwrap();
        let numbered = Numbered::parse(text).unwrap();
        let appended = placed.record.timestamp_ms.unwrap();
        let times = times.entry(numbered.partition).or_default();
        times.push((numbered.of_partition, appended));
    }
    let mut gaps = Vec::new();
    for mut times in times.into_values() {
        times.sort_unstable();
        let pairs = times.windows(2).map(|pair| (pair[0].1, pair[1].1));
        let inside = pairs.filter(|(before, after)| *before >= from_ms && *after <= until_ms);
        gaps.extend(inside.map(|(before, after)| after - before));
    }
    gaps.sort_unstable();
    gaps
}

fn quantile(sorted: &[i64], share: f64) -> i64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// Puts another version into the file every half second until it is told to end.
fn change_the_file(
    staged: &Arc<Staged>,
    versions: &[Vec<u8>],
    stop: &Arc<AtomicBool>,
    seed: u64,
) -> thread::JoinHandle<()> {
    let (staged, versions, stop) = (Arc::clone(staged), versions.to_vec(), Arc::clone(stop));
    thread::spawn(move || {
        let mut rng = Rng::new(seed ^ 1);
        while !stop.load(Ordering::Relaxed) {
            staged.place(rng.pick::<Vec<u8>>(&versions));
            // The rhythm of whoever changes files; nothing waits for it.
            thread::sleep(rng.between_ms(450, 900));
        }
    })
}

/// Publications in their order, by the label of the version.
fn published(staged: &Staged, host: &Host, labels: &BTreeMap<String, String>) -> Vec<String> {
    let events = staged.history(host).into_iter();
    events
        .filter(|(change, _)| change == "swapped" || change == "started")
        .map(|(_, digest)| labels[&digest].clone())
        .collect()
}

#[test]
fn a_thousand_swaps_under_load_cost_no_record_no_order_no_standstill_and_no_memory() {
    let seed = rng::seed();
    let mut rng = Rng::new(seed);
    let topics = Topics::create_with(
        Kafka::shared(),
        "thousand",
        &[("message.timestamp.type", "LogAppendTime")],
    );
    let staged = Arc::new(Staged::on(topics).set(&["workers"], 2));
    let names: Vec<String> = (0..VERSIONS).map(|number| format!("v{number}")).collect();
    let versions: Vec<Vec<u8>> = names.iter().map(|name| version(name)).collect();
    let labels = versions.iter().map(|bytes| digest(bytes)).zip(names.iter().cloned());
    let mut labels: BTreeMap<String, String> = labels.collect();
    labels.insert(digest(&version("first")), "first".to_owned());
    let bad = [
        version("no-self-test"),
        versions[0][..1000].to_vec(),
        b"\0asm\x01\0\0\0".to_vec(),
    ];

    let host = staged.start();
    let load = Load::start(&staged.topics, 600, seed);
    kafka::read_at_least(&staged.topics.output, 1000, PATIENCE);
    let calm_from = now_ms();
    // A measurement needs its time.
    thread::sleep(Duration::from_secs(10));
    let calm_until = now_ms();

    let stop = Arc::<AtomicBool>::default();
    let changes = change_the_file(&staged, &versions, &stop, seed);
    let (mut swapped, mut refused, mut warm_bytes) = (0, 0, 0);
    let began = Instant::now();
    let swaps_from = now_ms();
    while swapped < SWAPS {
        if rng.below(10) == 0 {
            let (status, body) = staged.swap(&host, rng.pick::<Vec<u8>>(&bad));
            assert_eq!(status, 409, "{body}");
            refused += 1;
            continue;
        }
        let (status, body) = staged.swap(&host, rng.pick::<Vec<u8>>(&versions));
        assert_eq!(status, 200, "{body}");
        swapped += 1;
        if swapped == WARM_UP {
            warm_bytes = resident_bytes(host.pid());
        }
    }
    let swaps_until = now_ms();
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    changes.join().unwrap();
    let bytes = resident_bytes(host.pid());
    let (sent, _) = load.finish();
    kafka::read_at_least(&staged.topics.output, sent.len(), PATIENCE);
    let published = published(&staged, &host, &labels);
    end(host);

    let (calm, busy) = (
        gaps_ms(&staged.topics, calm_from, calm_until),
        gaps_ms(&staged.topics, swaps_from, swaps_until),
    );
    let shown = |gaps: &[i64]| {
        let of = |share| quantile(gaps, share);
        format!(
            "p50 {} p99 {} p99.9 {} max {} ms",
            of(0.5),
            of(0.99),
            of(0.999),
            of(1.0)
        )
    };
    let _ = writeln!(
        std::io::stderr(),
        "a thousand swaps: seed {seed} (WASMILL_TEST_SEED), {} records, {} published, {refused} refused in {:.1} s; \
         gaps without swaps {}, with swaps {}; memory {} to {} MiB",
        sent.len(),
        published.len(),
        took.as_secs_f64(),
        shown(&calm),
        shown(&busy),
        warm_bytes >> 20,
        bytes >> 20,
    );
    assert_eq!(staged.topics.verdict(&sent), []);
    assert!(
        published.len() > SWAPS + 10,
        "the file was not taken: {}",
        published.len()
    );
    let mut met_in_all = 0;
    for (partition, met) in labels_by_input_partition(&staged.topics) {
        let first = met.iter().position(|label| !published.contains(label));
        assert_eq!(first, None, "partition {partition} met what was never published");
        assert!(
            is_subsequence(&met, &published),
            "partition {partition}: versions interleave: {met:?} of {published:?}"
        );
        met_in_all += met.len();
    }
    assert!(
        quantile(&busy, 0.99) <= quantile(&calm, 0.99) * 3 + 100
            && quantile(&busy, 1.0) <= quantile(&calm, 1.0) * 3 + 1000,
        "swaps hold partitions up: {} instead of {}",
        shown(&busy),
        shown(&calm)
    );
    // Where few of the versions met records, their order says little.
    assert!(
        met_in_all > SWAPS,
        "only {met_in_all} changes of version were met by records"
    );
    assert!(
        bytes <= warm_bytes + GROWTH_BYTES_MAX,
        "memory grew from {warm_bytes} to {bytes} bytes"
    );
}

#[test]
fn swaps_during_rebalances_cost_no_record() {
    let staged = Staged::new("rebalanced").set(&["workers"], 2);
    let host = staged.start();
    let load = Load::start(&staged.topics, 500, 1);
    let versions: Vec<Vec<u8>> = (0..4).map(|number| version(&format!("v{number}"))).collect();
    let mut swaps = 0;
    for round in 0..3 {
        let mut other = staged.invocation().env("WASMILL_INSTANCE", "two").start();
        let members = if round == 1 { 2 } else { 4 };
        if members == 4 {
            wait_for("both processes to have partitions", PATIENCE, || {
                assert_eq!(staged.swap(&host, &versions[swaps % versions.len()]).0, 200);
                swaps += 1;
                let members = kafka::members(&staged.topics.group())?;
                (members.len() == 4 && members.iter().all(|partitions| *partitions > 0)).then_some(())
            });
            other.terminate();
            other.exits(0, PATIENCE);
        } else {
            wait_for("the other process to be there", PATIENCE, || {
                assert_eq!(staged.swap(&host, &versions[swaps % versions.len()]).0, 200);
                swaps += 1;
                (kafka::members(&staged.topics.group())?.len() == 4).then_some(())
            });
            other.kill();
        }
        wait_for("its partitions to come back", PATIENCE, || {
            assert_eq!(staged.swap(&host, &versions[swaps % versions.len()]).0, 200);
            swaps += 1;
            (kafka::members(&staged.topics.group())?.len() == 2).then_some(())
        });
    }
    let (sent, _) = load.finish();
    kafka::read_at_least(&staged.topics.output, sent.len(), PATIENCE);
    end(host);
    assert!(swaps > 20, "only {swaps} swaps");
    assert_eq!(staged.topics.verdict(&sent), []);
}

/// Each broker in turn is killed, or frozen for longer than sessions and transactions last.
#[test]
fn swaps_while_brokers_are_away_cost_no_record() {
    let cluster = cluster();
    let staged = Staged::on(Topics::create_on(cluster.kafka.clone(), "swap-outage")).set(&["workers"], 2);
    let host = staged.start();
    let load = Load::start(&staged.topics, 300, 1);
    let versions: Vec<Vec<u8>> = (0..4).map(|number| version(&format!("v{number}"))).collect();
    let mut swaps = 0;
    let mut swap_for = |outage: Duration| {
        let began = Instant::now();
        while began.elapsed() < outage {
            assert_eq!(staged.swap(&host, &versions[swaps % versions.len()]).0, 200);
            swaps += 1;
        }
    };
    for (index, node) in NODES.into_iter().enumerate() {
        if index == 1 {
            cluster.freeze(node);
            swap_for(Duration::from_secs(8));
            cluster.thaw(node);
        } else {
            cluster.kill(node);
            swap_for(Duration::from_secs(3));
            cluster.restart(&[node]);
        }
        cluster.wait_until_whole();
    }
    let (sent, _) = load.finish();
    staged
        .topics
        .kafka
        .read_at_least(&staged.topics.output, sent.len(), 2 * PATIENCE);
    staged.runs(&host, &digest(&versions[(swaps - 1) % versions.len()]));
    end(host);
    let _ = writeln!(
        std::io::stderr(),
        "swaps while brokers are away: {swaps}, {} records",
        sent.len()
    );
    assert!(swaps > 100, "only {swaps} swaps");
    assert_eq!(staged.topics.verdict(&sent), []);
}

/// The digest that a restart is to run.
fn recorded(staged: &Staged) -> String {
    let folder = staged.pipeline.write().parent().unwrap().to_owned();
    let stages = folder.join("state").join(&staged.topics.app).join("stages");
    let files: Vec<_> = std::fs::read_dir(stages).unwrap().flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let text = std::fs::read_to_string(files[0].path()).unwrap();
    let remembered: serde_json::Value = serde_json::from_str(&text).unwrap();
    remembered["active"].as_str().unwrap().to_owned()
}

#[test]
fn a_swap_that_loads_does_not_hold_an_end_up() {
    let staged = Staged::new("ending");
    let load = Load::start(&staged.topics, 500, 1);
    let mut unanswered = 0;
    for round in 0..4 {
        let host = staged.start();
        // A version that no cache knows yet takes its time.
        let bytes = version(&format!("{round} {}", staged.topics.app));
        thread::scope(|scope| {
            let asked = scope.spawn(|| staged.try_swap(&host, &bytes));
            wait_for("the swap to begin", PATIENCE, || {
                let threads = std::fs::read_dir(format!("/proc/{}/task", host.pid()))
                    .unwrap()
                    .flatten();
                let compiles = |name: &str| name.trim() == "copy-swap";
                threads
                    .filter(|thread| {
                        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| compiles(&name))
                    })
                    .any(|thread| {
                        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                        let state = stat.rsplit(") ").next().unwrap_or_default();
                        asked.is_finished() || state.starts_with('R')
                    })
                    .then_some(())
            });
            host.terminate();
            unanswered += usize::from(asked.join().unwrap().is_none());
        });
        end_of(host);
        let runs = recorded(&staged);
        let host = staged.start();
        staged.runs(&host, &runs);
        end(host);
    }
    let (sent, _) = load.finish();
    staged_catch_up(&staged, sent.len());
    assert_eq!(staged.topics.verdict(&sent), []);
    let _ = writeln!(
        std::io::stderr(),
        "ends while a swap loads: {unanswered} of 4 swaps were cut off"
    );
    assert!(unanswered > 0, "every swap was over before the end");
}

fn end_of(mut host: Host) {
    host.exits(0, PATIENCE);
}

fn staged_catch_up(staged: &Staged, count: usize) {
    let host = staged.start();
    staged
        .topics
        .kafka
        .read_at_least(&staged.topics.output, count, PATIENCE);
    end(host);
}

#[test]
fn a_kill_in_the_middle_of_a_swap_leaves_the_version_that_is_recorded() {
    let staged = Staged::new("killed-swap").set(&["workers"], 2);
    let folder = TempDir::new().unwrap();
    let mut log = EventLog::new(folder.path().join("events"));
    let load = Load::start(&staged.topics, 500, 1);
    let points = ["swap-loaded", "swap-recorded", "swap-published"];
    let mut runs = digest(&version("first"));
    for point in points {
        let mut host = staged
            .invocation()
            .env("WASMILL_CHAOS", &format!("{point}=1"))
            .env("WASMILL_CHAOS_LOG", log.path().to_str().unwrap())
            .start();
        host.ready();
        let bytes = version(point);
        assert_eq!(staged.try_swap(&host, &bytes), None, "{point}: the process lives");
        let status = wait_for("the process to be gone", PATIENCE, || host.exited());
        assert!(was_killed(status), "{point}: {status}");
        let killed = log.events().iter().filter(|event| event.detail == point).count();
        assert_eq!(killed, 1, "{point}");

        // What was loaded and not recorded never was.
        if point != "swap-loaded" {
            runs = digest(&bytes);
        }
        assert_eq!(recorded(&staged), runs, "{point}");
        let host = staged.start();
        staged.runs(&host, &runs);
        end(host);
    }
    let (sent, _) = load.finish();
    staged_catch_up(&staged, sent.len());
    assert_eq!(staged.topics.verdict(&sent), []);
}
