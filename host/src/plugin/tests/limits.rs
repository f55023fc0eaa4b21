//! Each limit twice: a guest that obeys it and one that breaks it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter as _;

use super::super::bounds::{Deadline, Passed, Room, thread_cpu_time};
use super::{MEMORY, Stand, patient, record, records};
use crate::fault::{Fault, Kind};
use crate::metrics::{Metrics, PluginMetrics};
use crate::plugin::component::{self, Binary, Wanted};
use crate::plugin::grants::Grants;
use crate::plugin::instance::Executor;
use crate::plugin::limits::{CallTime, Limit, Limits};

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

/// A deadline that is passed while the guest computes; on a busy machine the clock's bound can come first, and says so behind these words.
#[track_caller]
fn late(limits: Limits, values: &[&str], limit: Limit, words: &str) {
    let fault = fault(limits, values);
    assert_eq!((fault.kind, fault.limit), (Kind::Deadline, Some(limit)));
    assert!(fault.message.starts_with(words), "{fault}");
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
    let words = "wanted more memory than its limit of 33554432 bytes (`limits.memory`)";
    faults(limits.clone(), &["memory"], Kind::Memory, words);
    let stand = Stand::misbehave(limits);
    let fault = stand
        .ask(&mut stand.instance(), &[record(Some(&vec![b'x'; 40 * MIB]))])
        .unwrap_err();
    assert_eq!((fault.kind, fault.message.as_str()), (Kind::Memory, words));
}

/// What is said of a plugin for whose loading these limits are too tight.
fn said_when_loaded(limits: Limits) -> String {
    let executor = Arc::new(Executor::new().unwrap());
    let binary = Binary::read(&super::built("host/tests/guests/misbehave"), super::FILE_BYTES_MAX).unwrap();
    let wanted = Wanted {
        stage: "under-test",
        sha256: None,
        config: "{}".to_owned(),
        limits,
        grants: Grants::default(),
    };
    let loaded = component::load(super::runtime(), &binary, wanted, &executor);
    format!("{:#}", loaded.err().unwrap())
}

#[test]
fn what_is_too_little_for_any_instance_is_said_when_it_is_loaded() {
    let memory_bytes = said_when_loaded(Limits {
        memory_bytes: 64 * 1024,
        ..patient()
    });
    insta::assert_snapshot!(memory_bytes, @"`describe` failed, raise `limits.memory`: wanted more memory than its limit of 65536 bytes (`limits.memory`)");
    let table_elements = said_when_loaded(Limits {
        table_elements: 10,
        ..patient()
    });
    insta::assert_snapshot!(table_elements, @"`describe` failed, raise `limits.table-elements`: wanted more than 10 table elements (`limits.table-elements`)");
    let instances = said_when_loaded(Limits {
        instances: 1,
        ..patient()
    });
    insta::assert_snapshot!(instances, @"`describe` failed, raise `limits.instances`: resource limit exceeded: instance count too high at 2 (`limits.instances`)");
}

#[test]
fn all_tables_of_an_instance_count_together() {
    let mut room = Room::new(&patient());
    assert!(room.table_growing(0, 60_000, None).unwrap());
    assert!(room.table_growing(0, 40_000, None).unwrap());
    assert_eq!(room.refusal(), None);
    assert!(!room.table_growing(40_000, 40_001, None).unwrap());
    let words = "wanted more than 100000 table elements (`limits.table-elements`)".to_owned();
    assert_eq!(room.refusal(), Some((Limit::TableElements, words)));
}

#[test]
fn all_memories_of_an_instance_count_together() {
    let mut room = Room::new(&Limits {
        memory_bytes: 3 * MIB,
        ..patient()
    });
    assert!(room.memory_growing(0, 2 * MIB, None).unwrap());
    assert!(room.memory_growing(0, MIB, None).unwrap());
    assert!(!room.memory_growing(MIB, MIB + 1, None).unwrap());
    assert_eq!(room.bytes(), 3 * MIB);
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
    late(
        hasty(),
        &["ok", "loop"],
        Limit::Deadline,
        "ran past its deadline of 120 ms (`limits.deadline`)",
    );
    assert!(start.elapsed() >= ms(120), "not before its time");
}

#[test]
fn a_batch_that_waits_past_its_deadline_is_stopped() {
    let words = "waited inside the host past its deadline of 120 ms (`limits.deadline`)";
    faults(hasty(), &["sleep", "ok"], Kind::Deadline, words);
}

#[test]
fn a_wait_within_the_deadline_is_granted() {
    obeys(
        Limits {
            deadline: ms(5_000),
            deadline_record: ms(5_000),
            ..patient()
        },
        &["nap", "nap", "ok"],
    );
}

#[test]
fn all_waits_of_a_call_count_together() {
    let words = "waited inside the host past its deadline of 120 ms (`limits.deadline`)";
    faults(hasty(), &["nap"; 100], Kind::Deadline, words);
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
    late(
        hasty(),
        &["loop"],
        Limit::DeadlineRecord,
        "ran past its deadline of 60 ms (`limits.deadline-record`)",
    );
    let words = "waited inside the host past its deadline of 60 ms (`limits.deadline-record`)";
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
    let mut values = ["slow"; 11];
    values[10] = "nap";
    let answers = stand.ask(&mut instance, &records(&values));
    assert_eq!(answers.unwrap().len(), 11, "nor one that waits a moment after that");
    let fault = stand.ask(&mut instance, &records(&["loop"; 2])).unwrap_err();
    assert_eq!(
        fault.limit,
        Some(Limit::Deadline),
        "a guilty one is stopped all the same: {fault}"
    );
}

#[test]
fn the_wall_clock_is_an_outer_bound() {
    let time = |deadline_ms, wall_ms| CallTime {
        deadline: ms(deadline_ms),
        wall: ms(wall_ms),
        limit: Limit::Deadline,
    };
    let mut deadline = Deadline::default();
    deadline.start(time(10_000, 10_000), thread_cpu_time(), Instant::now());
    assert!(!deadline.check(thread_cpu_time(), ms(0)));
    deadline.start(time(10_000, 0), thread_cpu_time(), Instant::now() - ms(1));
    assert!(
        !deadline.check(thread_cpu_time(), ms(60_000)),
        "time that is excused does not count"
    );
    assert!(deadline.check(thread_cpu_time(), ms(0)));
    assert_eq!(deadline.passed, Some(Passed::Wall));
    deadline.start(time(10, 10_000), thread_cpu_time(), Instant::now());
    assert_eq!(deadline.passed, None, "each call begins anew");
    assert!(deadline.check(thread_cpu_time() + ms(11), ms(0)));
    assert_eq!(deadline.passed, Some(Passed::Cpu));
}

#[test]
fn a_stack_within_the_limit_is_given() {
    let limits = Limits {
        stack_bytes: 16 * MIB,
        ..patient()
    };
    obeys(limits, &["deep"]);
    let fault = fault(patient(), &["deep"]);
    assert_eq!((fault.kind, fault.limit), (Kind::Trap, Some(Limit::Stack)), "{fault}");
}

#[test]
fn a_stack_that_overflows_is_a_trap() {
    let fault = fault(patient(), &["recurse"]);
    assert_eq!(
        (fault.kind, fault.message.as_str()),
        (Kind::Trap, "wasm trap: call stack exhausted (`limits.stack`)")
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

#[test]
fn lists_that_together_exceed_every_limit_are_not_copied() {
    let _heavy = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let mut limits = patient();
    limits.answer.emissions = 100;
    limits.answer.headers = 100;
    limits.answer.bytes = 98 * MIB;
    obeys(limits.clone(), &["ok"]);
    let stand = |bytes| {
        limits.answer.bytes = bytes;
        Stand::misbehave(limits.clone())
    };
    // The guest answers 100,000,000 bytes.
    let mut stands = [100_000_000, 90 * MIB].map(stand).into_iter();
    assert_eq!(
        stands.next().unwrap().answers(&["ok", "huge"]).unwrap(),
        ["forward to 0"; 2]
    );
    let fault = stands.next().unwrap().answers(&["ok", "huge"]).unwrap_err();
    assert_eq!((fault.kind, fault.limit), (Kind::Malformed, Some(Limit::AnswerBytes)));
    assert!(fault.message.ends_with("exhausted (`limits.answer-bytes`)"), "{fault}");
}

#[test]
fn what_was_hit_is_counted_by_its_key() {
    let stand = Stand::misbehave(Limits {
        memory_bytes: 32 * MIB,
        ..hasty()
    });
    let metrics = Metrics::new();
    let counted = stand.plugin.metrics(&metrics.stage("under-test"));
    for poison in ["memory", "loop", "sleep", "recurse", "panic", "ok"] {
        let mut instance = stand.try_instance(Arc::clone(&counted)).unwrap();
        let _ = stand.ask(&mut instance, &records(&[poison]));
    }
    let _batch = stand.ask(
        &mut stand.try_instance(Arc::clone(&counted)).unwrap(),
        &records(&["loop"; 2]),
    );
    let text = metrics.text();
    for (key, hits) in [
        ("memory", 1),
        ("deadline-record", 2),
        ("stack", 1),
        ("deadline", 1),
        ("file", 0),
    ] {
        let line = format!(r#"wasmill_limit_hits_total{{stage="under-test",limit="{key}"}} {hits}"#);
        assert!(text.contains(&line), "{line}\n{text}");
    }
    let cpu_seconds = counted.cpu_seconds.get();
    assert!(
        (0.18..1.0).contains(&cpu_seconds),
        "two loops to their deadlines: {cpu_seconds}"
    );
    assert_eq!(counted.instances_live.get(), 0);
    let _alive = stand.try_instance(Arc::clone(&counted)).unwrap();
    assert_eq!(counted.instances_live.get(), 1);
}
