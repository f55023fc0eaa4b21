//! Exactly once while brokers of a cluster are killed, frozen and started again.
//!
//! That the checker notices a host that breaks its promise is shown in `exactly_once`, on one broker: checker and verdict are the same here. An
//! outage would not show it: it ends the sessions too, and a partition that is assigned anew begins where its group stands, rewind or not.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::chaos::checker::Violation;
use crate::support::chaos::events::EventLog;
use crate::support::chaos::fleet::Hazards;
use crate::support::chaos::load::Load;
use crate::support::chaos::outages;
use crate::support::chaos::{ALL_AIMS, Plan, Topics, run};
use crate::support::cluster::{Cluster, NODES, cluster};
use crate::support::host::Invocation;
use crate::support::{PATIENCE, rng, wait_for};

#[test]
fn records_arrive_exactly_once_and_in_order_whichever_broker_is_killed() {
    let cluster = cluster();
    let report = run(
        "brokers",
        &Plan {
            seed: rng::seed(),
            duration: Duration::from_secs(90),
            aims: [ALL_AIMS, outages::AIMS].concat(),
            records_per_second: 300,
            refused_every: Duration::from_secs(45),
            processes: 3,
            hazards: Hazards {
                kill: 0.2,
                unknown: 0.15,
            },
            cluster: Some(Arc::clone(&cluster)),
        },
    );
    report.assert_clean();
}

/// Longer than the transactions of the two processes below may last, and than any session of theirs.
const OUTAGE: Duration = Duration::from_secs(15);

/// Two processes under load while all brokers are away; nobody touches the processes.
fn violations_of_an_outage(cluster: &Cluster) -> Vec<Violation> {
    let topics = Topics::create_on(cluster.kafka.clone(), "outage");
    let folder = TempDir::new().unwrap();
    let mut log = EventLog::new(folder.path().join("events"));
    let path = topics.pipeline(2).set(&["kafka", "transaction.timeout.ms"], 5_000);
    let path = path.write();
    let mut hosts: Vec<_> = (0..2)
        .map(|slot| {
            Invocation::run(&path)
                .env("WASMILL_INSTANCE", &format!("slot-{slot}"))
                .env("WASMILL_CHAOS_LOG", log.path().to_str().unwrap())
                .start()
        })
        .collect();
    hosts.iter_mut().for_each(|host| host.ready());
    let load = Load::start(&topics, 300, 1);
    wait_for("both processes to be in a transaction", PATIENCE, || {
        hosts.iter().all(|host| log.in_transaction(host.pid())).then_some(())
    });

    NODES.iter().for_each(|node| cluster.kill(*node));
    let since = Instant::now();
    let before = log.events().len();
    // The outage itself; nothing is waited for.
    thread::sleep(OUTAGE.saturating_sub(since.elapsed()));
    cluster.restart(&NODES);
    cluster.wait_until_whole();

    for host in &hosts {
        wait_for(
            "the process to give up its transaction and commit again",
            PATIENCE,
            || {
                let mut events = log.events()[before..].iter().filter(|event| event.pid == host.pid());
                let given_up = events.any(|event| matches!(event.name.as_str(), "abort" | "fenced" | "unknown"));
                (given_up && events.any(|event| event.name == "commit")).then_some(())
            },
        );
    }
    let (sent, _) = load.finish();
    for host in &mut hosts {
        host.ready();
        host.terminate();
        host.exits(0, PATIENCE);
    }
    topics.catch_up();
    topics.verdict(&sent)
}

#[test]
fn a_stage_goes_on_by_itself_after_an_outage_longer_than_its_transactions_may_last() {
    let cluster = cluster();
    assert_eq!(violations_of_an_outage(&cluster), []);
}
