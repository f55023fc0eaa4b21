//! Exactly once, from Kafka to Kafka, whatever is killed.

use std::time::Duration;

use tempfile::TempDir;

use crate::support::chaos::checker::Violation;
use crate::support::chaos::events::EventLog;
use crate::support::chaos::fleet::{Hazards, freeze_in_transaction};
use crate::support::chaos::load::Load;
use crate::support::chaos::{ALL_AIMS, Plan, Topics, run};
use crate::support::host::{Host, Invocation};
use crate::support::{PATIENCE, kafka, rng, wait_for};

#[test]
fn records_arrive_exactly_once_and_in_order_whatever_is_killed() {
    let report = run(
        "chaos",
        &Plan {
            seed: rng::seed(),
            duration: Duration::from_secs(60),
            aims: ALL_AIMS.to_vec(),
            records_per_second: 500,
            refused_every: Duration::from_secs(15),
            processes: 4,
            hazards: Hazards {
                kill: 0.1,
                unknown: 0.05,
            },
            cluster: None,
        },
    );
    report.assert_clean();
}

/// One process with hazards of its own, a load until `enough`, and healthy processes for what is left.
fn violations_of(environment: &[(&str, &str)], enough: impl Fn(&mut Host, &mut EventLog) -> bool) -> Vec<Violation> {
    let topics = Topics::create("sabotaged");
    let folder = TempDir::new().unwrap();
    let mut log = EventLog::new(folder.path().join("events"));
    let pipeline = topics.pipeline(1);
    let path = pipeline.write();
    let mut invocation = Invocation::run(&path).env("WASMILL_CHAOS_LOG", log.path().to_str().unwrap());
    for (name, value) in environment {
        invocation = invocation.env(name, value);
    }
    let mut host = invocation.start();
    let load = Load::start(&topics, 500, 1);
    wait_for("the host to do its damage", PATIENCE, || {
        enough(&mut host, &mut log).then_some(())
    });
    let (sent, _) = load.finish();
    drop(host);
    topics.catch_up();
    topics.verdict(&sent)
}

/// What is in hand when the producer fails is read again after the way back, and must not be answered twice.
#[test]
fn a_host_that_keeps_what_it_read_before_the_way_back_is_found_out() {
    let went_on = |_: &mut Host, log: &mut EventLog| {
        let mut events = log.events().iter();
        let rewound = events.by_ref().filter(|event| event.name == "rewind").nth(20);
        rewound.is_some() && events.any(|event| event.name == "commit")
    };
    let chaos = ("WASMILL_CHAOS", "commit-unknown=0.5");
    assert_eq!(violations_of(&[chaos], went_on), [], "a host in order passes");
    let found = violations_of(&[chaos, ("WASMILL_SABOTAGE", "keep-stale")], went_on);
    assert!(
        found
            .iter()
            .any(|violation| matches!(violation, Violation::Doubled(..))),
        "no record was doubled: the checker or the sabotage does not work: {found:?}"
    );
}

fn lost(violations: &[Violation]) -> usize {
    violations
        .iter()
        .filter(|violation| matches!(violation, Violation::Lost(_)))
        .count()
}

/// A commit that was never sent is discarded, and its records are to be read again.
#[test]
fn a_host_that_does_not_rewind_is_found_out() {
    // Only a later commit makes the loss final.
    let went_on = |_: &mut Host, log: &mut EventLog| {
        let mut events = log.events().iter();
        events.any(|event| event.name == "unknown" && event.detail.starts_with("discarded"))
            && events.any(|event| event.name == "commit")
    };
    let chaos = ("WASMILL_CHAOS", "commit-unknown=0.5");
    assert_eq!(violations_of(&[chaos], went_on), [], "a host in order passes");
    let found = violations_of(&[chaos, ("WASMILL_SABOTAGE", "no-rewind")], went_on);
    assert!(
        lost(&found) > 0,
        "no record was lost: the checker or the sabotage does not work: {found:?}"
    );
}

/// Killed between the offsets and the records.
#[test]
fn a_host_that_commits_offsets_outside_the_transaction_is_found_out() {
    let killed = |host: &mut Host, _: &mut EventLog| host.exited().is_some();
    let chaos = ("WASMILL_CHAOS", "after-offsets-sent=1");
    assert_eq!(violations_of(&[chaos], killed), [], "a host in order passes");
    let found = violations_of(&[chaos, ("WASMILL_SABOTAGE", "offsets-outside")], killed);
    assert!(
        lost(&found) > 0,
        "no record was lost: the checker or the sabotage does not work: {found:?}"
    );
}

#[test]
fn a_process_frozen_past_its_session_is_fenced_and_writes_nothing() {
    let topics = Topics::create("frozen");
    let folder = TempDir::new().unwrap();
    let mut log = EventLog::new(folder.path().join("events"));
    let pipeline = topics.pipeline(2).set(&["kafka", "transaction.timeout.ms"], 5_000);
    let path = pipeline.write();
    let start = |instance: &str| {
        let log = log.path().to_str().unwrap();
        Invocation::run(&path)
            .env("WASMILL_INSTANCE", instance)
            .env("WASMILL_CHAOS_LOG", log)
            .start()
    };
    let mut frozen = start("frozen");
    let mut other = start("other");
    frozen.ready();
    other.ready();

    let load = Load::start(&topics, 500, 1);
    assert!(
        freeze_in_transaction(&frozen, &mut log, PATIENCE),
        "the process never had a transaction open"
    );
    assert!(
        !log.events()
            .iter()
            .any(|event| event.pid == frozen.pid() && event.name == "fenced")
    );
    // Its partitions go to the other process, and everything that comes in meanwhile goes out.
    wait_for("the other process to have all partitions", PATIENCE, || {
        (kafka::members(&topics.group())?.len() == 2).then_some(())
    });
    let (sent, _) = load.finish();
    kafka::read_at_least(&topics.output, sent.len(), PATIENCE);
    let before = kafka::read_committed(&topics.output);

    frozen.thaw();
    wait_for("the process to find itself fenced", PATIENCE, || {
        log.events()
            .iter()
            .any(|event| event.pid == frozen.pid() && event.name == "fenced")
            .then_some(())
    });
    end(&mut frozen);
    end(&mut other);
    assert_eq!(
        kafka::read_committed(&topics.output),
        before,
        "the process wrote after it had been fenced"
    );
    assert_eq!(topics.verdict(&sent), []);
}

fn end(host: &mut Host) {
    host.terminate();
    host.exits(0, Duration::from_secs(30));
}
