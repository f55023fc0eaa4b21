//! Components that are made to do harm: each gets what it has coming, in time, and what it leaves behind is nothing.
//!
//! The list is `host/tests/support/evil.rs`; here each is loaded and called in this process, so that its memory and its time are known.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{MEMORY, Stand, checkout, record};
use crate::fault::Fault;
use crate::metrics::PluginMetrics;
use crate::plugin::component::Binary;
use crate::plugin::limits::Limits;
use crate::plugin::runtime::Runtime;
use component::poison;
use rows::{DEEDS, Fate, MODULES};

#[path = "../../../tests/support/component.rs"]
pub(super) mod component;
#[path = "../../../tests/support/evil.rs"]
mod rows;

const MIB: usize = 1024 * 1024;
/// What one of them may make the process grow by, at any time: its memory, once as its own and once as what the host takes from it.
const GROWTH_MAX: usize = 2 * 128 * MIB + 64 * MIB;

fn limits() -> Limits {
    Limits {
        memory_bytes: 128 * MIB,
        deadline: Duration::from_millis(400),
        deadline_record: Duration::from_millis(200),
        ..super::patient()
    }
}

/// Bytes of this process that are in memory: the most that it ever was since `reset_peak`.
fn peak() -> usize {
    status("VmHWM:")
}

fn resident() -> usize {
    status("VmRSS:")
}

fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// What becomes of it in the library's terms: words of a refusal, a fault, or none.
enum Became {
    Refused(String),
    Faulted(Fault),
    Bore,
}

/// Loads a plugin and gives it poison between good records, then good records alone.
fn run(runtime: &Runtime, binary: &Binary, config: &str) -> Became {
    let stand = match Stand::load(runtime, binary, config, limits()) {
        Ok(stand) => stand,
        Err(error) => return Became::Refused(format!("{error:#}")),
    };
    if let Some(text) = schema_error(&stand) {
        return Became::Refused(text);
    }
    let mut instance = match stand.try_instance(PluginMetrics::unheard()) {
        Ok(instance) => instance,
        Err(fault) => return Became::Refused(fault.message),
    };
    let records = [&b"good"[..], &poison(), b"good"].map(|value| record(Some(value)));
    let answers = stand.ask(&mut instance, &records);
    let alone = stand.ask(&mut stand.instance(), &records[1..2]);
    assert_eq!(
        stand.answers(&["good", "good"]).unwrap(),
        ["forward to 0", "forward to 0"],
        "a fresh instance is as good as new"
    );
    match (answers, alone) {
        (Ok(answers), Ok(alone)) => {
            assert_eq!((answers.len(), alone.len()), (3, 1));
            let rejected = answers.iter().find_map(|answer| answer.strip_prefix("reject: "));
            match rejected {
                Some(reason) => Became::Faulted(Fault::new(crate::fault::Kind::Reject, reason)),
                None => Became::Bore,
            }
        }
        (Err(first), Err(alone)) => {
            assert_eq!(first.kind, alone.kind, "{first} / {alone}");
            Became::Faulted(alone)
        }
        (among, alone) => panic!("among others {among:?}, alone {alone:?}"),
    }
}

/// What is said of its schema, and of a configuration by it.
fn schema_error(stand: &Stand) -> Option<String> {
    let text = &stand.plugin.description.config_schema;
    if text.is_empty() {
        return None;
    }
    let checked = crate::prepare::Schema::read(text).and_then(|schema| schema.mistakes(&serde_json::json!({})));
    match checked {
        Ok(mistakes) => mistakes.into_iter().next().map(|(_, words)| words),
        Err(error) => Some(format!("the config schema of plugin `evil` cannot be used: {error:#}")),
    }
}

fn check(name: &str, fate: Fate, became: &Became) {
    match (fate, became) {
        (Fate::Bears, Became::Bore) => {}
        (Fate::Refused(words), Became::Refused(said)) => {
            assert!(said.contains(words), "{name}: `{words}` is not in `{said:.500}`");
            assert!(said.len() < 10_000, "{name}: {} bytes are said", said.len());
        }
        (Fate::Costs(kind, words), Became::Faulted(fault)) => {
            let said = &fault.message;
            assert_eq!(fault.kind.as_str(), kind, "{name}: {said:.500}");
            assert!(said.contains(words), "{name}: `{words}` is not in `{said:.500}`");
            assert!(said.len() < 10_000, "{name}: {} bytes are said", said.len());
        }
        (fate, Became::Refused(said)) => panic!("{name}: wanted {fate:?}, was refused: {said:.500}"),
        (fate, Became::Faulted(fault)) => panic!("{name}: wanted {fate:?}, {}: {fault:.500}", fault.kind),
        (fate, Became::Bore) => panic!("{name}: wanted {fate:?}, bore it"),
    }
}

#[test]
fn every_evil_plugin_gets_what_it_has_coming_and_nothing_else_is_harmed() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = Runtime::uncached().unwrap();
    let misbehave = Binary::read(&super::built("host/tests/guests/misbehave"), u64::MAX).unwrap();
    let modules = MODULES
        .iter()
        .map(|(name, module, fate)| (*name, Binary::new(module.component()), "{}".to_owned(), *fate));
    let deeds = DEEDS.iter().map(|(deed, fate)| {
        let same = Binary::new(misbehave.bytes.clone());
        (*deed, same, format!(r#"{{"deed": "{deed}"}}"#), *fate)
    });
    let mut wrong = Vec::new();
    let modules = modules.map(|module| (&runtime, module));
    // All of them are one file, so its compiled code is kept.
    let deeds = deeds.map(|deed| (super::runtime(), deed));
    for (runtime, (name, binary, config, fate)) in modules.chain(deeds) {
        reset_peak();
        let (before, began) = (resident(), Instant::now());
        let became = run(runtime, &binary, &config);
        let (took, grown) = (began.elapsed(), peak().saturating_sub(before));
        println!("{name}: {took:?}, {} MiB", grown / MIB);
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(name, fate, &became);
            assert!(grown < GROWTH_MAX, "{name}: grew by {grown} bytes");
        }));
        if checked.is_err() {
            wrong.push(name);
        }
    }
    assert_eq!(wrong, [""; 0], "these are told above");
}

#[test]
fn there_are_evil_plugins_of_every_fate() {
    let fates = MODULES
        .iter()
        .map(|(_, _, fate)| fate)
        .chain(DEEDS.iter().map(|(_, fate)| fate));
    let (mut refused, mut costs, mut bears) = (0, 0, 0);
    for fate in fates {
        match fate {
            Fate::Refused(_) => refused += 1,
            Fate::Costs(..) => costs += 1,
            Fate::Bears => bears += 1,
        }
    }
    assert!(refused >= 20 && costs >= 20 && bears >= 5, "{refused} {costs} {bears}");
    assert!(checkout("wit/world.wit").exists());
}
