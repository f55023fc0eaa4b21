//! Exactly once under violence: a load, a fleet of hosts that is killed and frozen all along, and a checker.
//!
//! The chaos itself is the host's feature of that name: it kills itself at named points and tells what it does in a log.

pub(crate) mod checker;
pub(crate) mod events;
pub(crate) mod fleet;
pub(crate) mod load;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use self::checker::{Committed, Seen, Violation};
use self::events::EventLog;
use self::fleet::{Fleet, Hazards};
use self::load::Load;
use super::guests::guest;
use super::host::{Invocation, Pipeline};
use super::{kafka, offsets_log, unique};

const PARTITIONS: i32 = 6;

/// What a full run must have met at least once, or it proves less than it says.
pub(crate) const ALL_AIMS: [&str; 12] = [
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
    "transactions aborted by other senders",
];

/// One run.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) records_per_second: u64,
    pub(crate) hazards: Hazards,
}

/// What happened, and what was wrong with it.
pub(crate) struct Report {
    pub(crate) sent: usize,
    /// By the name of what was counted.
    pub(crate) counts: BTreeMap<String, usize>,
    /// Processes that ended though nobody had asked or killed them.
    pub(crate) fell: Vec<String>,
    pub(crate) violations: Vec<Violation>,
}

/// A pipeline of one stage, `copy`, with topics of its own.
#[derive(Clone)]
pub(crate) struct Topics {
    pub(crate) app: String,
    pub(crate) input: String,
    pub(crate) output: String,
}

impl Topics {
    pub(crate) fn create(name: &str) -> Self {
        let app = unique(name);
        let (input, output) = (format!("{app}-in"), format!("{app}-out"));
        kafka::create_topic(&input, PARTITIONS, &[]);
        kafka::create_topic(&output, PARTITIONS, &[]);
        kafka::create_topic(&format!("{app}.dead-letters"), 1, &[]);
        Self { app, input, output }
    }

    pub(crate) fn pipeline(&self, workers: usize) -> Pipeline {
        Pipeline::new(&self.app)
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

    /// Compares what came out, and every offset that was ever committed, with what was sent.
    pub(crate) fn verdict(&self, sent: &[checker::Numbered]) -> Vec<Violation> {
        let seen: Vec<Seen> = kafka::read_committed(&self.output)
            .into_iter()
            .map(|placed| Seen {
                partition: placed.partition,
                text: placed.record.value_text().to_owned(),
            })
            .collect();
        let committed: Vec<Committed> = offsets_log::commits(&self.group())
            .into_iter()
            .filter(|commit| commit.topic == self.input)
            .map(|commit| Committed {
                partition: commit.partition,
                offset: commit.offset,
            })
            .collect();
        checker::check(sent, &seen, &committed)
    }
}

/// Runs it and looks at what came out.
pub(crate) fn run(name: &str, plan: &Plan) -> Report {
    let topics = Topics::create(name);
    let folder = TempDir::new().unwrap();
    let log = EventLog::new(folder.path().join("events"));
    guest("identity");

    let start = Instant::now();
    let load = Load::start(&topics.input, PARTITIONS, plan.records_per_second, plan.seed);
    let mut fleet = Fleet::new(&topics, plan.hazards, log, plan.seed);
    while start.elapsed() < plan.duration {
        fleet.step();
        // The rhythm of the harness; nothing waits for it.
        std::thread::sleep(Duration::from_millis(20));
    }
    let (sent, aborted_by_others) = load.finish();
    let (mut log, killed, tally) = fleet.end();
    topics.catch_up();

    let mut counts = events::count(log.events(), &killed);
    counts.insert("processes started".to_owned(), tally.started);
    counts.insert("killed from outside".to_owned(), tally.killed_from_outside);
    counts.insert("frozen".to_owned(), tally.frozen);
    counts.insert("removed".to_owned(), tally.removed);
    counts.insert("transactions aborted by other senders".to_owned(), aborted_by_others);
    let report = Report {
        sent: sent.len(),
        counts,
        fell: tally.fell,
        violations: topics.verdict(&sent),
    };
    report.print(name, plan.seed, start.elapsed());
    report
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
    pub(crate) fn assert_clean(&self, aims: &[&str]) {
        assert!(
            self.fell.is_empty(),
            "{} processes ended by themselves; the first:\n{}",
            self.fell.len(),
            self.fell[0]
        );
        let first: Vec<_> = self.violations.iter().take(20).collect();
        assert!(
            first.is_empty(),
            "{} violations, of which the first are {first:#?}",
            self.violations.len()
        );
        for aim in aims {
            assert!(
                self.counts.get(*aim).is_some_and(|count| *count > 0),
                "never happened: {aim}"
            );
        }
    }
}
