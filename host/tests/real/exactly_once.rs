//! Exactly once, from Kafka to Kafka, whatever is killed.

use std::time::Duration;

use tempfile::TempDir;

use crate::support::chaos::checker::{Numbered, Violation};
use crate::support::chaos::events::EventLog;
use crate::support::chaos::fleet::{Hazards, freeze_in_transaction};
use crate::support::chaos::load::Load;
use crate::support::chaos::{ALL_AIMS, Plan, Report, Topics, run};
use crate::support::host::{Host, Invocation};
use crate::support::{PATIENCE, kafka, rng, wait_for};

#[test]
fn records_arrive_exactly_once_and_in_order_whatever_is_killed() {
    let report = run(
        "chaos",
        &Plan {
            seed: rng::seed(),
            duration: Duration::from_secs(60),
            aims: ALL_AIMS,
            records_per_second: 500,
            hazards: Hazards {
                kill: 0.1,
                unknown: 0.05,
                freeze: true,
                sabotage: None,
            },
        },
    );
    report.assert_clean();
}

/// A short run with a host that is broken on purpose.
fn run_sabotaged(sabotage: &'static str, kill: f64, unknown: f64) -> Report {
    run(
        sabotage,
        &Plan {
            seed: rng::seed(),
            duration: Duration::from_secs(15),
            aims: &[],
            records_per_second: 500,
            hazards: Hazards {
                kill,
                unknown,
                freeze: false,
                sabotage: Some(sabotage),
            },
        },
    )
}

#[test]
fn a_host_that_does_not_rewind_is_found_out() {
    let report = run_sabotaged("no-rewind", 0.0, 0.2);
    let lost = report
        .violations
        .iter()
        .filter(|violation| matches!(violation, Violation::Lost(_)))
        .count();
    assert!(
        lost > 0,
        "no record was lost: the checker or the sabotage does not work"
    );
}

#[test]
fn a_host_that_commits_offsets_outside_the_transaction_is_found_out() {
    let report = run_sabotaged("offsets-outside", 0.2, 0.0);
    let broken = report
        .violations
        .iter()
        .filter(|violation| matches!(violation, Violation::Lost(_) | Violation::Doubled(..)));
    assert!(
        broken.count() > 0,
        "no record was lost or doubled: the checker or the sabotage does not work"
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

    let load = Load::start(&topics.input, 500, 1);
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
    wait_for_all(&topics, &sent);
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

fn wait_for_all(topics: &Topics, sent: &[Numbered]) {
    kafka::read_at_least(&topics.output, sent.len(), PATIENCE);
}

fn end(host: &mut Host) {
    host.terminate();
    host.exits(0, Duration::from_secs(30));
}
