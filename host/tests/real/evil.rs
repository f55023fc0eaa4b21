//! A good stage and all the evil ones in one process, on the same records: the good one notices nothing, and each evil one costs what is its own.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::component::{POISON_BYTES, poison};
use crate::support::evil::{DEEDS, Fate, MODULES};
use crate::support::guests::guest;
use crate::support::host::{Host, Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{unique, wait_for};

const BATCH: usize = 20;
const COUNT: usize = 2 * BATCH;
const POISON_AT: [usize; 3] = [0, BATCH - 6, COUNT - 1];
/// Evil stages in one process; each brings clients with threads of their own, and the broker needs some of the two cores.
const STAGES: usize = 12;
/// Of the whole process: each evil stage may hold its memory limit twice (the plugin's own, and the answer that the host takes from it) while its
/// poison is in hand.
const RESIDENT_BYTES_MAX: u64 = 2 << 30;
/// Each needs a few faults at its deadline.
const TIME_MAX: Duration = Duration::from_secs(120);

/// A plugin, its configuration and what has to become of poison.
type Evil = (std::path::PathBuf, serde_json::Value, Fate);

fn records() -> Vec<Record> {
    (0..COUNT)
        .map(|index| {
            let value = if POISON_AT.contains(&index) {
                poison()
            } else {
                format!("good {index}").into_bytes()
            };
            Record {
                timestamp_ms: Some(1_500_000_000_000 + index as i64),
                ..Record::new(format!("key {index}"), value)
            }
        })
        .collect()
}

/// The stages that get records, by name.
fn stages(folder: &TempDir) -> BTreeMap<String, Evil> {
    let modules = MODULES.iter().map(|(name, module, fate)| {
        let file = folder.path().join(format!("{name}.wasm"));
        fs::write(&file, module.component()).unwrap();
        ((*name).to_owned(), (file, json!({}), *fate))
    });
    let misbehave = guest("misbehave");
    let deeds = DEEDS.iter().map(|(deed, fate)| {
        (
            format!("deed-{deed}"),
            (misbehave.clone(), json!({"deed": deed}), *fate),
        )
    });
    let received = |fate: &Fate| !matches!(fate, Fate::Refused(_));
    modules
        .chain(deeds)
        .filter(|(_, (_, _, fate))| received(fate))
        .collect()
}

fn arrived(topic: &str) -> Vec<Record> {
    kafka::read_committed(topic)
        .into_iter()
        .map(|placed| placed.record)
        .collect()
}

/// The most that the process had in memory so far.
fn peak(host: &Host) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", host.pid())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

#[test]
fn evil_stages_harm_neither_a_good_one_nor_each_other() {
    assert!(poison().len() == POISON_BYTES);
    let folder = TempDir::new().unwrap();
    let mut evil: Vec<(String, Evil)> = stages(&folder).into_iter().collect();
    assert!(evil.len() >= 30, "{} evil stages", evil.len());
    while !evil.is_empty() {
        let together = evil.split_off(evil.len().saturating_sub(STAGES));
        check(&together.into_iter().collect());
    }
}

/// One process with a good stage and these.
fn check(evil: &BTreeMap<String, Evil>) {
    let app = unique("evil");
    let [input, good] = ["in", "good"].map(|name| format!("{app}.{name}"));
    let letters = format!("{app}.dead-letters");
    let output = |name: &str| format!("{app}.{name}");
    for topic in [&input, &good, &letters]
        .into_iter()
        .cloned()
        .chain(evil.keys().map(|name| output(name)))
    {
        kafka::create_topic(&topic, 1, &[]);
    }
    let sent = records();
    kafka::produce(&input, None, &sent);

    let mut pipeline = Pipeline::new(&app).stage("good", &guest("identity"), json!({}), &input, &good);
    for (name, (plugin, config, _)) in evil {
        pipeline = pipeline
            .stage(name, plugin, config.clone(), &input, &output(name))
            .set(&["stages", name, "batch"], json!({"records": BATCH, "wait": "200ms"}))
            .set(
                &["stages", name, "limits"],
                json!({"deadline": "300ms", "deadline-record": "200ms"}),
            );
    }
    let mut host = Invocation::catch_up(&pipeline.write()).start();
    let mut most = 0;
    let status = wait_for("the stages to catch up", TIME_MAX, || {
        most = most.max(peak(&host).unwrap_or(0));
        host.exited()
    });
    assert_eq!(status.code(), Some(0), "{}", host.tail());
    assert!(most < RESIDENT_BYTES_MAX, "{most} bytes in memory");

    assert_eq!(
        arrived(&good),
        sent,
        "the good stage's output is complete, in order, once"
    );
    let healthy: Vec<&Record> = (0..COUNT)
        .filter(|index| !POISON_AT.contains(index))
        .map(|index| &sent[index])
        .collect();
    let mut by_stage: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for letter in arrived(&letters) {
        by_stage
            .entry(letter.header("wasmill.stage").unwrap().to_owned())
            .or_default()
            .push(letter);
    }
    for (name, (_, _, fate)) in evil {
        let out = arrived(&output(name));
        let dead = by_stage.remove(name).unwrap_or_default();
        let Fate::Costs(kind, words) = fate else {
            assert_eq!((out, dead), (sent.clone(), Vec::new()), "{name}");
            continue;
        };
        assert_eq!(
            out.iter().collect::<Vec<_>>(),
            healthy,
            "{name}: the good records arrive, in order, once"
        );
        let offsets: Vec<&str> = dead
            .iter()
            .map(|letter| letter.header("wasmill.offset").unwrap())
            .collect();
        assert_eq!(
            offsets,
            POISON_AT.map(|index| index.to_string()),
            "{name}: one dead letter for each poison record"
        );
        for letter in &dead {
            let [said_kind, message] = ["wasmill.kind", "wasmill.message"].map(|header| letter.header(header).unwrap());
            assert_eq!(said_kind, *kind, "{name}: {message:.300}");
            assert!(message.contains(words), "{name}: `{words}` is not in `{message:.300}`");
        }
    }
    assert_eq!(by_stage.keys().next(), None, "nobody else has dead letters");
    println!("{} evil stages, {} MiB in memory at most", evil.len(), most >> 20);
}
