//! Neither where a batch is cut nor how old an instance is can be seen in what comes out.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use proptest::prelude::*;

use super::{MEMORY, Stand, patient, records};
use crate::fault::{Fault, Kind};
use crate::fixture::Fixture;
use crate::metrics::Metrics;
use crate::plugin::limits::Limits;

/// Observations that `filter-station` and `detect-freeze` tell apart.
const OBSERVATIONS: [&str; 5] = [
    r#"{"station":{"id":"USW00003103","country_code":"US","state_code":"AZ"},"TMIN":1.7}"#,
    r#"{"station":{"id":"USW00003103","country_code":"US","state_code":"AZ"},"TMIN":20}"#,
    r#"{"station":{"id":"USC1","country_code":"US","state_code":"NE"},"TMIN":-3}"#,
    r#"{"station":{"id":"CA1","country_code":"CA"}}"#,
    r#"{"station":{"id":"USW00003103","country_code":"US","state_code":"AZ"},"TMIN":1,"email":"e"}"#,
];

fn any_value() -> impl Strategy<Value = Option<Vec<u8>>> {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    prop_oneof![
        5 => prop::sample::select(OBSERVATIONS.map(text).to_vec()),
        2 => prop::sample::select(["a", "b", "both", "c"].map(|branch| text(&format!(r#"{{"branch":"{branch}"}}"#))).to_vec()),
        2 => prop::sample::select(vec![text(""), text("{"), text("[1]"), None]),
        1 => prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
    ]
}

fn any_record() -> impl Strategy<Value = Fixture> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..6));
    let headers = prop::collection::vec(("[a-z]{0,3}", bytes()), 0..3);
    (bytes(), any_value(), headers, prop::option::of(any::<i64>())).prop_map(|(key, value, headers, timestamp_ms)| {
        Fixture {
            topic: "t".to_owned(),
            key,
            value,
            headers,
            timestamp_ms,
        }
    })
}

/// The batches into which the records are cut: one ends behind each `true`.
fn cut<'a>(records: &'a [Fixture], ends: &[bool]) -> Vec<&'a [Fixture]> {
    let (mut batches, mut start) = (Vec::new(), 0);
    for end in 1..=records.len() {
        if end == records.len() || ends[end - 1] {
            batches.push(&records[start..end]);
            start = end;
        }
    }
    batches
}

fn check(crate_folder: &str, config: &str) {
    let stand = Stand::new(crate_folder, config, patient());
    let old = RefCell::new(stand.instance());
    let cases = ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let ends = prop::collection::vec(any::<bool>(), 30);
    proptest!(cases, |(records in prop::collection::vec(any_record(), 1..30), ends in ends)| {
        let mut old = old.borrow_mut();
        let whole = stand.ask(&mut old, &records).unwrap();
        let batches = cut(&records, &ends);
        let kept: Vec<_> = batches.iter().flat_map(|batch| stand.ask(&mut old, batch).unwrap()).collect();
        prop_assert_eq!(&kept, &whole, "one instance for all batches");
        let fresh: Vec<_> = batches.iter().flat_map(|batch| stand.ask(&mut stand.instance(), batch).unwrap()).collect();
        prop_assert_eq!(&fresh, &whole, "a fresh instance for every batch");
    });
}

#[test]
fn identity_shows_neither() {
    check("plugins/identity", "{}");
}

#[test]
fn a_copying_identity_shows_neither() {
    check("plugins/identity", r#"{"copy": true}"#);
}

#[test]
fn filter_station_shows_neither() {
    check("plugins/filter-station", r#"{"country": "US", "state": "AZ"}"#);
}

#[test]
fn detect_freeze_shows_neither() {
    check(
        "plugins/detect-freeze",
        r#"{"station": "USW00003103", "threshold_celsius": 10.0, "email": "a@example.com"}"#,
    );
}

#[test]
fn wide_ports_shows_neither() {
    check("host/tests/guests/wide-ports", "{}");
}

/// So that the property above is not one of plugins that skip everything.
#[test]
fn the_records_above_get_answers_of_every_kind() {
    let freeze = r#"{"station": "USW00003103", "threshold_celsius": 10, "email": "a"}"#;
    let answers = Stand::new("plugins/detect-freeze", freeze, patient()).answers(&OBSERVATIONS);
    let alert = format!(r#"{},"email":"a"}}"#, OBSERVATIONS[0].strip_suffix('}').unwrap());
    let alert = alert.as_bytes().escape_ascii().to_string();
    assert_eq!(
        answers.unwrap(),
        [
            format!("emit to 0 partition None key unchanged value Some({alert:?}) headers unchanged at None"),
            "skip".to_owned(),
            "skip".to_owned(),
            "skip".to_owned(),
            "reject: the record has a field `email` already".to_owned(),
        ]
    );
}

/// What a real instance that has faulted answers to an ordinary record.
fn after(poison: &[&str]) -> (Fault, Fault) {
    let stand = Stand::misbehave(Limits {
        deadline_record: Duration::from_millis(60),
        memory_bytes: 16 * 1024 * 1024,
        ..patient()
    });
    let mut instance = stand.instance();
    let first = stand.ask(&mut instance, &records(poison)).unwrap_err();
    let second = stand.ask(&mut instance, &records(&["ok"])).unwrap_err();
    assert_eq!(
        stand.answers(&["ok"]).unwrap(),
        ["forward to 0"],
        "a fresh one is as good as new"
    );
    (first, second)
}

#[test]
fn an_instance_that_faulted_answers_nothing_ever_again() {
    for (poison, kind) in [
        ("panic", Kind::Trap),
        ("recurse", Kind::Trap),
        ("exit", Kind::Trap),
        ("loop", Kind::Deadline),
        ("sleep", Kind::Deadline),
        ("memory", Kind::Memory),
    ] {
        let (first, second) = after(&[poison]);
        assert_eq!(first.kind, kind, "{poison}");
        assert!(
            second.message.contains("cannot enter component instance"),
            "{poison}: {second}"
        );
    }
}

/// Bytes of this process: reserved addresses, and memory in use.
fn sizes() -> (usize, usize) {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<usize> = text.split(' ').take(2).map(|number| number.parse().unwrap()).collect();
    (
        pages[0] * rustix::param::page_size(),
        pages[1] * rustix::param::page_size(),
    )
}

#[test]
fn a_storm_of_faults_leaves_nothing_behind() {
    const GIB: usize = 1024 * 1024 * 1024;
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::misbehave(Limits {
        memory_bytes: 8 * 1024 * 1024,
        ..patient()
    });
    let metrics = Metrics::new();
    let counted = stand.plugin.metrics(&metrics.stage("under-test"));
    let poisons = [
        ("panic", Kind::Trap),
        ("exit", Kind::Trap),
        ("recurse", Kind::Trap),
        ("span", Kind::Malformed),
        ("memory", Kind::Memory),
    ];
    let storm = |faults: usize| {
        for fault in 0..faults {
            let (poison, kind) = poisons[fault % poisons.len()];
            let mut instance = stand.try_instance(Arc::clone(&counted)).unwrap();
            let fault = stand.ask(&mut instance, &records(&["ok", poison])).unwrap_err();
            assert_eq!(fault.kind, kind, "{poison}");
        }
    };
    storm(100);
    let before = sizes();
    storm(3_000);
    let after = sizes();
    assert_eq!(counted.instances_live.get(), 0);
    // Each instance reserves 4 GiB of addresses, so even one leak in a hundred would be 120 GiB. Memory in use may grow by 64 MiB: 22 KiB a fault
    // would be more than that.
    assert!(after.0 < before.0 + 100 * GIB, "{before:?} {after:?}");
    assert!(after.1 < before.1 + GIB / 16, "{before:?} {after:?}");
}
