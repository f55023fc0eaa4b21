//! 38,779 real weather records through two chained stages, compared byte for byte with what an independent script computes.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline};
use crate::support::kafka::{self, Placed, Record};
use crate::support::{PATIENCE, checkout, unique, wait_for};

const STATION: &str = "USW00003103";
const THRESHOLD: &str = "10.0";
const EMAIL: &str = "alerts@example.com";

/// Runs `expected.py`; returns key and value of each line.
fn expected(arguments: &[&str]) -> Vec<(String, String)> {
    let script = checkout("host/tests/data/noaa/expected.py");
    let output = Command::new("python3")
        .arg(&script)
        .args(arguments)
        .output()
        .expect("python3 is installed");
    assert!(
        output.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            line.split_once('\t')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .unwrap()
        })
        .collect()
}

/// The topics of one test, and the pipeline between them.
struct Noaa {
    app: String,
    json: String,
    arizona: String,
    alerts: String,
}

impl Noaa {
    fn create(partitions: i32) -> Self {
        let app = unique("noaa");
        let [json, arizona, alerts, letters] =
            ["json", "json-us-az", "json-alerts", "dead-letters"].map(|name| format!("{app}.{name}"));
        for topic in [&json, &arizona, &alerts, &letters] {
            kafka::create_topic(topic, partitions, &[]);
        }
        Self {
            app,
            json,
            arizona,
            alerts,
        }
    }

    fn pipeline(&self) -> Pipeline {
        let alert = json!({"station": STATION, "threshold_celsius": THRESHOLD.parse::<f64>().unwrap(), "email": EMAIL});
        Pipeline::new(&self.app)
            .stage(
                "az-filter",
                &guest("filter-station"),
                json!({"country": "US", "state": "AZ"}),
                &self.json,
                &self.arizona,
            )
            .stage(
                "freeze-alert",
                &guest("detect-freeze"),
                alert,
                &self.arizona,
                &self.alerts,
            )
    }

    fn dead_letters(&self) -> Vec<Placed> {
        kafka::read_committed(&format!("{}.dead-letters", self.app))
    }
}

fn texts(records: &[Placed]) -> Vec<(String, String)> {
    records
        .iter()
        .map(|placed| {
            (
                placed.record.key_text().to_owned(),
                placed.record.value_text().to_owned(),
            )
        })
        .collect()
}

#[test]
fn both_stages_send_what_the_script_computes() {
    let noaa = Noaa::create(1);
    let input: Vec<Record> = expected(&["records"])
        .into_iter()
        .map(|(key, value)| Record::new(key, value))
        .collect();
    assert_eq!(input.len(), 38_779);
    kafka::produce(&noaa.json, None, &input);

    let pipeline = noaa.pipeline();
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);

    let arizona = expected(&["az"]);
    assert_eq!(arizona.len(), 1_246);
    assert_eq!(texts(&kafka::read_committed(&noaa.arizona)), arizona);
    let alerts = expected(&["alerts", STATION, THRESHOLD, EMAIL]);
    assert_eq!(alerts.len(), 31);
    assert_eq!(texts(&kafka::read_committed(&noaa.alerts)), alerts);
    assert_eq!(noaa.dead_letters(), []);
}

/// The station in place of the record id, so that a key has up to 31 records whose order can be seen.
fn keyed_by_station(records: Vec<(String, String)>) -> Vec<(String, String)> {
    let station = |key: &str| key[..key.len() - "-2017-10-01".len()].to_owned();
    records.into_iter().map(|(key, value)| (station(&key), value)).collect()
}

fn by_key(records: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in records {
        by_key.entry(key).or_default().push(value);
    }
    by_key
}

#[test]
fn order_per_key_is_kept_over_partitions_workers_and_processes() {
    let noaa = Noaa::create(4);
    let pipeline = noaa
        .pipeline()
        .set(&["stages", "az-filter", "workers"], 3)
        .set(&["stages", "freeze-alert", "workers"], 3);
    let path = pipeline.write();
    let mut hosts: Vec<_> = ["a", "b"]
        .iter()
        .map(|instance| Invocation::run(&path).env("WASMILL_INSTANCE", instance).start())
        .collect();
    hosts.iter_mut().for_each(|host| host.ready());
    // Four partitions over six workers, at most one each: with three workers a process, both have work.
    for stage in ["az-filter", "freeze-alert"] {
        wait_for(
            &format!("the workers of {stage} to share the partitions"),
            PATIENCE,
            || {
                let mut members = kafka::members(&format!("{}.{stage}", noaa.app))?;
                members.sort_unstable();
                (members == [0, 0, 1, 1, 1, 1]).then_some(())
            },
        );
    }

    let input = keyed_by_station(expected(&["records"]));
    kafka::produce(
        &noaa.json,
        None,
        &input
            .into_iter()
            .map(|(key, value)| Record::new(key, value))
            .collect::<Vec<_>>(),
    );
    kafka::read_at_least(&noaa.alerts, 31, PATIENCE);
    kafka::read_at_least(&noaa.arizona, 1_246, PATIENCE);
    for host in &mut hosts {
        host.terminate();
        host.exits(0, Duration::from_secs(30));
    }

    let arizona = keyed_by_station(expected(&["az"]));
    assert_eq!(by_key(texts(&kafka::read_committed(&noaa.arizona))), by_key(arizona));
    let alerts = keyed_by_station(expected(&["alerts", STATION, THRESHOLD, EMAIL]));
    assert_eq!(by_key(texts(&kafka::read_committed(&noaa.alerts))), by_key(alerts));
    assert_eq!(noaa.dead_letters(), []);
}
