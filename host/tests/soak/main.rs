//! The long forms of what `real` proves: run before a release, not at every change. Needs what `real` needs (`host/tests/servers/README.md`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use support::chaos::fleet::Hazards;
use support::chaos::{ALL_AIMS, Plan, outages, run};
use support::cluster::cluster;
use support::rng;

#[test]
fn a_hundred_thousand_records_arrive_exactly_once_through_ten_minutes_of_kills() {
    let report = run(
        "soak",
        &Plan {
            seed: rng::seed(),
            duration: Duration::from_secs(600),
            aims: ALL_AIMS.to_vec(),
            records_per_second: 200,
            refused_every: Duration::from_secs(15),
            processes: 4,
            hazards: Hazards {
                kill: 0.02,
                unknown: 0.01,
            },
            cluster: None,
        },
    );
    report.assert_clean();
    assert!(report.sent >= 100_000, "only {} records were sent", report.sent);
}

#[test]
fn a_hundred_thousand_records_arrive_exactly_once_through_ten_minutes_of_kills_of_hosts_and_brokers() {
    let cluster = cluster();
    let report = run(
        "soak-brokers",
        &Plan {
            seed: rng::seed(),
            duration: Duration::from_secs(600),
            aims: [ALL_AIMS, outages::AIMS].concat(),
            records_per_second: 200,
            refused_every: Duration::from_secs(15),
            processes: 3,
            hazards: Hazards {
                kill: 0.05,
                unknown: 0.05,
            },
            cluster: Some(Arc::clone(&cluster)),
        },
    );
    report.assert_clean();
    assert!(report.sent >= 100_000, "only {} records were sent", report.sent);
}
