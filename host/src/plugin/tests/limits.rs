//! Each limit twice: a guest that obeys it and one that breaks it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter as _;

use super::super::imports::{Deadline, Guest};
use super::{MEMORY, Stand, patient, record, records};
use crate::fault::{Fault, Kind};
use crate::metrics::PluginMetrics;
use crate::plugin::component::Limits;

const MIB: usize = 1024 * 1024;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Limits whose deadlines are told apart by their numbers.
fn hasty() -> Limits {
    Limits {
        deadline: ms(120),
        deadline_record: ms(60),
        ..patient()
    }
}

/// The fault that these values in one batch cause.
#[track_caller]
fn fault(limits: Limits, values: &[&str]) -> Fault {
    Stand::misbehave(limits).answers(values).unwrap_err()
}

#[track_caller]
fn faults(limits: Limits, values: &[&str], kind: Kind, words: &str) {
    let fault = fault(limits, values);
    assert_eq!((fault.kind, fault.message.as_str()), (kind, words));
}

#[track_caller]
fn obeys(limits: Limits, values: &[&str]) {
    let answers = Stand::misbehave(limits).answers(values);
    assert_eq!(
        answers.as_deref(),
        Ok(&vec!["forward to 0".to_owned(); values.len()][..])
    );
}

#[test]
fn memory_within_the_limit_is_given() {
    let _heavy = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::misbehave(Limits {
        memory_bytes: 32 * MIB,
        ..patient()
    });
    let mut instance = stand.instance();
    let answers = stand.ask(&mut instance, &[record(Some(&vec![b'x'; 8 * MIB]))]);
    assert_eq!(answers.unwrap(), ["forward to 0"]);
    assert!(
        (8 * MIB..32 * MIB).contains(&instance.memory_bytes()),
        "{}",
        instance.memory_bytes()
    );
}

#[test]
fn memory_beyond_the_limit_is_a_fault_whoever_wants_it() {
    let _heavy = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = Limits {
        memory_bytes: 32 * MIB,
        ..patient()
    };
    let words = "wanted more memory than its limit of 33554432 bytes";
    faults(limits.clone(), &["memory"], Kind::Memory, words);
    let stand = Stand::misbehave(limits);
    let fault = stand
        .ask(&mut stand.instance(), &[record(Some(&vec![b'x'; 40 * MIB]))])
        .unwrap_err();
    assert_eq!((fault.kind, fault.message.as_str()), (Kind::Memory, words));
}

#[test]
fn too_little_memory_for_an_instance_is_said_when_it_is_loaded() {
    let executor = Arc::new(crate::plugin::instance::Executor::new().unwrap());
    let binary = crate::plugin::component::Binary::read(&super::built("host/tests/guests/misbehave")).unwrap();
    let wanted = crate::plugin::component::Wanted {
        stage: "under-test",
        sha256: None,
        config: "{}".to_owned(),
        limits: Limits {
            memory_bytes: 64 * 1024,
            ..patient()
        },
    };
    let error = crate::plugin::component::load(super::runtime(), &binary, wanted, &executor)
        .err()
        .unwrap();
    assert_eq!(
        format!("{error:#}"),
        "`describe` failed, raise `limits: memory`: wanted more memory than its limit of 65536 bytes"
    );
}

#[test]
fn tables_are_bounded() {
    let mut guest = Guest::new("under-test", MIB, Arc::default(), PluginMetrics::unheard());
    assert!(guest.memory.table_growing(0, 100_000, None).unwrap());
    assert!(!guest.memory.refused);
    assert!(!guest.memory.table_growing(0, 100_001, None).unwrap());
    assert!(guest.memory.refused);
}

#[test]
fn all_memories_of_an_instance_count_together() {
    let mut guest = Guest::new("under-test", 3 * MIB, Arc::default(), PluginMetrics::unheard());
    assert!(guest.memory.memory_growing(0, 2 * MIB, None).unwrap());
    assert!(guest.memory.memory_growing(0, MIB, None).unwrap());
    assert!(!guest.memory.memory_growing(MIB, MIB + 1, None).unwrap());
    assert_eq!(guest.memory.bytes(), 3 * MIB);
}

#[test]
fn work_within_the_deadline_is_done() {
    let limits = Limits {
        deadline: ms(5_000),
        deadline_record: ms(1),
        ..patient()
    };
    obeys(limits, &["slow", "slow", "slow"]);
}

#[test]
fn a_batch_that_computes_past_its_deadline_is_stopped() {
    let start = Instant::now();
    faults(
        hasty(),
        &["ok", "loop"],
        Kind::Deadline,
        "ran past its deadline of 120 ms",
    );
    assert!(start.elapsed() >= ms(120), "not before its time");
}

#[test]
fn a_batch_that_waits_past_its_deadline_is_stopped() {
    let words = "waited inside the host past its deadline of 120 ms";
    faults(hasty(), &["sleep", "ok"], Kind::Deadline, words);
}

#[test]
fn a_record_alone_has_a_deadline_of_its_own() {
    let limits = Limits {
        deadline: ms(1),
        deadline_record: ms(5_000),
        ..patient()
    };
    // A plugin that takes longer than `deadline` to be described would not get as far as its records.
    let stand = Stand::misbehave(Limits {
        deadline: ms(1_000),
        ..limits
    });
    assert_eq!(stand.answers(&["slow"]).unwrap(), ["forward to 0"]);
    faults(hasty(), &["loop"], Kind::Deadline, "ran past its deadline of 60 ms");
    let words = "waited inside the host past its deadline of 60 ms";
    faults(hasty(), &["sleep"], Kind::Deadline, words);
}

/// Spins on every core several times over while it lives.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().unwrap().get();
        let spin = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Self {
            threads: (0..cores * 4).map(spin).collect(),
            stop,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_busy_machine_does_not_fault_an_innocent_plugin() {
    let stand = Stand::misbehave(Limits {
        deadline: ms(250),
        ..patient()
    });
    let mut instance = stand.instance();
    let _busy = Busy::new();
    let start = Instant::now();
    // 500 ms by the clock, of which this thread gets a fifth.
    let answers = stand.ask(&mut instance, &records(&["slow"; 10]));
    assert!(start.elapsed() >= ms(500), "longer than the deadline");
    assert_eq!(answers.unwrap(), ["forward to 0"; 10]);
    let fault = stand.ask(&mut instance, &records(&["loop"; 2])).unwrap_err();
    assert_eq!(
        fault.message, "ran past its deadline of 250 ms",
        "a guilty one is stopped all the same"
    );
}

#[test]
fn the_wall_clock_is_an_outer_bound() {
    let mut deadline = Deadline::default();
    deadline.start(ms(10_000));
    std::thread::sleep(ms(30));
    assert!(!deadline.check());
    deadline.start(ms(3));
    std::thread::sleep(ms(31));
    assert!(deadline.check() && deadline.passed);
    deadline.start(ms(10_000));
    assert!(!deadline.passed, "each call begins anew");
}

#[test]
fn a_stack_that_overflows_is_a_trap() {
    let fault = fault(patient(), &["recurse"]);
    assert_eq!(
        (fault.kind, fault.message.as_str()),
        (Kind::Trap, "wasm trap: call stack exhausted")
    );
    let backtrace = fault.backtrace.unwrap();
    assert!(
        backtrace.contains("recurse") && backtrace.len() < 100_000,
        "{backtrace}"
    );
}

#[test]
fn an_exit_ends_the_instance_and_nothing_else() {
    faults(
        patient(),
        &["ok", "exit"],
        Kind::Trap,
        "called exit, which ends its instance",
    );
}

#[test]
fn a_panic_tells_its_text_its_place_and_the_way_to_it() {
    let fault = fault(patient(), &["panic"]);
    assert_eq!(fault.kind, Kind::Trap);
    let place = fault.message.strip_prefix("poisoned on purpose (at ").unwrap();
    let (file, position) = place.split_once("deed.rs:").unwrap();
    assert!(file.ends_with("misbehave/src/"), "{}", fault.message);
    let numbers = position.strip_suffix(')').unwrap().split(':');
    assert_eq!(
        numbers
            .map(|number| number.parse::<u32>().unwrap())
            .filter(|number| *number > 0)
            .count(),
        2
    );
    let backtrace = fault.backtrace.unwrap();
    assert!(backtrace.contains("misbehave"), "{backtrace}");
}

#[test]
fn what_configure_says_and_does_is_told() {
    let stand = |config: &str| Stand::new("host/tests/guests/misbehave", config, patient());
    let failed = |config: &str| stand(config).try_instance(PluginMetrics::unheard()).err().unwrap();
    let refusal = failed(r#"{"fail": "configure"}"#);
    assert_eq!(
        (refusal.kind, refusal.message.as_str()),
        (Kind::Reject, "`fail` is \"configure\", as the test wanted")
    );
    let panic = failed(r#"{"fail": "panic"}"#);
    assert_eq!(panic.kind, Kind::Trap);
    assert!(
        panic.message.starts_with("configure panicked on purpose (at "),
        "{}",
        panic.message
    );
}

#[test]
fn every_malformed_answer_is_told_in_words() {
    let _heavy = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::misbehave(patient());
    let poisons = [
        "short",
        "long",
        "span",
        "value-span",
        "reason-utf8",
        "port",
        "emit-count",
        "leftover",
        "kind",
        "header-utf8",
        "header-nul",
        "headers-range",
        "huge",
    ];
    let mut told = String::new();
    for poison in poisons {
        let fault = stand.answers(&["ok", poison]).unwrap_err();
        assert_eq!((fault.kind, fault.backtrace), (Kind::Malformed, None), "{poison}");
        told.push_str(&format!("{poison}: {}\n", fault.message));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(told) });
}
