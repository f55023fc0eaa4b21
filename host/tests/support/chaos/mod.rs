//! Exactly once under violence: a load, a fleet of hosts that is killed and frozen all along, brokers that are, and a checker.
//!
//! The chaos itself is the host's feature of that name: it kills itself at named points and tells what it does in a log.

pub(crate) mod checker;
pub(crate) mod events;
pub(crate) mod fleet;
pub(crate) mod load;
pub(crate) mod outages;

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use self::checker::{Committed, Numbered, Place, Seen, Violation};
use self::events::EventLog;
use self::fleet::{Fleet, Hazards};
use self::load::Load;
use self::outages::Outages;
use super::cluster::Cluster;
use super::guests::guest;
use super::host::{Invocation, Pipeline};
use super::kafka::Kafka;
use super::{offsets_log, unique};

pub(crate) const PARTITIONS: i32 = 6;

/// What the broker takes for the output at most; larger batches than that of small records are not to be expected.
const OUTPUT_BYTES_MAX: usize = 500_000;

/// What a full run must have met at least once, or it proves less than it says.
pub(crate) const ALL_AIMS: &[&str] = &[
    "killed inside an open transaction",
    "killed after-produce",
    "killed after-offsets-sent",
    "killed during-commit",
    "killed after-commit",
    "abort",
    "rewind",
    "fenced",
    "unknown outcome, committed",
    "unknown outcome, discarded",
    "removed",
];

/// Counted by the load, not by the fleet; in a run without it there were no records to skip.
const ABORTED_BY_OTHERS: &str = "transactions aborted by other senders";

/// One run.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// It goes on for as long again while an aim has not been met.
    pub(crate) duration: Duration,
    /// What must have happened at least once, by the names of [`Report::counts`].
    pub(crate) aims: Vec<&'static str>,
    pub(crate) records_per_second: u64,
    /// How often one comes that the output refuses.
    pub(crate) refused_every: Duration,
    pub(crate) processes: usize,
    pub(crate) hazards: Hazards,
    /// The one to run on, and to kill brokers of; none: on the broker of most tests, which stays alive.
    pub(crate) cluster: Option<Arc<Cluster>>,
}

/// What happened, and what was wrong with it.
pub(crate) struct Report {
    pub(crate) sent: usize,
    /// By the name of what was counted.
    pub(crate) counts: BTreeMap<String, usize>,
    /// Aims that were not met.
    pub(crate) missed: Vec<&'static str>,
    /// Processes that ended though nobody had asked or killed them.
    pub(crate) fell: Vec<String>,
    pub(crate) violations: Vec<Violation>,
}

/// A pipeline of one stage, `copy`, with topics of its own.
#[derive(Clone)]
pub(crate) struct Topics {
    pub(crate) kafka: Kafka,
    pub(crate) app: String,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) letters: String,
}

impl Topics {
    pub(crate) fn create(name: &str) -> Self {
        Self::create_on(Kafka::shared(), name)
    }

    pub(crate) fn create_on(kafka: Kafka, name: &str) -> Self {
        Self::create_with(kafka, name, &[])
    }

    /// With these settings of the output's topic.
    pub(crate) fn create_with(kafka: Kafka, name: &str, settings: &[(&str, &str)]) -> Self {
        let app = unique(name);
        let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
        kafka.create_topic(&input, PARTITIONS, &[]);
        let limit = OUTPUT_BYTES_MAX.to_string();
        let settings = [&[("max.message.bytes", limit.as_str())], settings].concat();
        kafka.create_topic(&output, PARTITIONS, &settings);
        kafka.create_topic(&letters, 1, &[]);
        Self {
            kafka,
            app,
            input,
            output,
            letters,
        }
    }

    pub(crate) fn pipeline(&self, workers: usize) -> Pipeline {
        Pipeline::on(&self.kafka, &self.app)
            .stage("copy", &guest("identity"), json!({}), &self.input, &self.output)
            .set(&["stages", "copy", "workers"], workers)
    }

    pub(crate) fn group(&self) -> String {
        format!("{}.copy", self.app)
    }

    /// Lets two healthy processes finish what is left.
    pub(crate) fn catch_up(&self) {
        let pipeline = self.pipeline(3);
        let path = pipeline.write();
        let hosts: Vec<_> = (0..2)
            .map(|slot| {
                Invocation::catch_up(&path)
                    .env("WASMILL_INSTANCE", &format!("slot-{slot}"))
                    .start()
            })
            .collect();
        for mut host in hosts {
            host.exits(0, Duration::from_secs(180));
        }
    }

    /// Compares what came out, and every offset that was ever committed, with what stands in the input, where all of `sent` must be.
    pub(crate) fn verdict(&self, sent: &[Numbered]) -> Vec<Violation> {
        let read = self.kafka.read_committed(&self.input);
        let input: Vec<Numbered> = read
            .iter()
            .filter_map(|placed| Numbered::parse(placed.record.value_text()))
            .collect();
        let arrived: HashSet<&Numbered> = input.iter().collect();
        assert!(
            sent.iter().all(|record| arrived.contains(record)),
            "the sender has lost records"
        );
        if input.len() > sent.len() {
            // The sender is a client as any other, and brokers die under it.
            let doubled = input.len() - sent.len();
            let _ = writeln!(std::io::stderr(), "{doubled} records were doubled by their sender");
        }
        let mut seen = Vec::new();
        for (topic, place) in [
            (&self.output, Place::Output as fn(i32) -> Place),
            (&self.letters, Place::DeadLetters),
        ] {
            seen.extend(self.kafka.read_committed(topic).into_iter().map(|placed| Seen {
                place: place(placed.partition),
                // A version of a plugin may have put its name before it.
                text: unlabelled(placed.record.value_text()).to_owned(),
            }));
        }
        let committed: Vec<Committed> = offsets_log::commits(&self.kafka, &self.group())
            .into_iter()
            .filter(|commit| commit.topic == self.input)
            .map(|commit| Committed {
                partition: commit.partition,
                offset: commit.offset,
            })
            .collect();
        checker::check(&input, &seen, &committed)
    }
}

fn unlabelled(text: &str) -> &str {
    text.split_once(": ").map_or(text, |(_, text)| text)
}

/// Runs it and looks at what came out.
pub(crate) fn run(name: &str, plan: &Plan) -> Report {
    let kafka = plan
        .cluster
        .as_ref()
        .map_or_else(Kafka::shared, |cluster| cluster.kafka.clone());
    let topics = Topics::create_on(kafka, name);
    let folder = TempDir::new().unwrap();
    let log = EventLog::new(folder.path().join("events"));
    guest("identity");

    let start = Instant::now();
    let load = Load::with_refused(&topics, plan.records_per_second, plan.refused_every, plan.seed);
    let outages = plan
        .cluster
        .as_ref()
        .map(|cluster| Outages::start(cluster, &topics, plan.processes, log.path().to_owned(), plan.seed));
    let mut fleet = Fleet::new(&topics, plan.processes, plan.hazards, log, plan.seed);
    let mut counts = BTreeMap::new();
    while start.elapsed() < plan.duration || (start.elapsed() < plan.duration * 2 && !plan.missed(&counts).is_empty()) {
        fleet.step();
        counts = fleet.counts();
        counts.extend(outages.iter().flat_map(Outages::counts));
        // The rhythm of the harness; nothing waits for it.
        std::thread::sleep(Duration::from_millis(20));
    }
    let done_to_brokers = outages.map(Outages::finish).unwrap_or_default();
    let (sent, aborted_by_others) = load.finish();
    fleet.end();
    topics.catch_up();

    let mut counts = fleet.counts();
    counts.extend(done_to_brokers);
    counts.insert(ABORTED_BY_OTHERS.to_owned(), aborted_by_others);
    let report = Report {
        sent: sent.len(),
        missed: plan.missed(&counts),
        counts,
        fell: fleet.fell,
        violations: topics.verdict(&sent),
    };
    report.print(name, plan.seed, start.elapsed());
    report
}

impl Plan {
    /// Aims that have not been met.
    fn missed(&self, counts: &BTreeMap<String, usize>) -> Vec<&'static str> {
        let met = |aim: &&str| counts.get(*aim).is_some_and(|count| *count > 0);
        self.aims.iter().copied().filter(|aim| !met(aim)).collect()
    }
}

impl Report {
    /// Tests capture `println!`; a seed and counters are worth seeing when all is well, too.
    fn print(&self, name: &str, seed: u64, elapsed: Duration) {
        let mut text = format!(
            "{name}: seed {seed} (WASMILL_TEST_SEED), {} records, {:.0} s, {} violations\n",
            self.sent,
            elapsed.as_secs_f64(),
            self.violations.len()
        );
        for (what, count) in &self.counts {
            text += &format!("{count:>8} {what}\n");
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Fails unless exactly once held, under all that it was meant to hold under.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let first: Vec<_> = self.violations.iter().take(20).collect();
        assert!(
            first.is_empty(),
            "{} violations, of which the first are {first:#?}",
            self.violations.len()
        );
        assert!(
            self.counts[ABORTED_BY_OTHERS] > 0,
            "no other sender aborted a transaction"
        );
        let fell = self.fell.len();
        assert!(
            fell == 0,
            "{fell} processes ended by themselves; the first:\n{}",
            self.fell[0]
        );
        assert!(
            self.missed.is_empty(),
            "never happened, so nothing is proved of it: {:?}",
            self.missed
        );
    }
}
