//! Real guests of several stages on the cores of this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{FILE_BYTES_MAX, batch, built, patient, records};
use crate::metrics::{Metrics, PluginMetrics};
use crate::plugin::component::{self, Binary, Plugin, Wanted};
use crate::plugin::grants::Grants;
use crate::plugin::instance::{Executor, Instance};
use crate::plugin::limits::Limits;
use crate::plugin::runtime::Runtime;

/// A stage with the misbehaving plugin.
struct Stage {
    plugin: Arc<Plugin>,
    counted: Arc<PluginMetrics>,
}

impl Stage {
    fn new(runtime: &Runtime, metrics: &Arc<Metrics>, name: &str, deadline: Duration) -> Self {
        let binary = Binary::read(&built("host/tests/guests/misbehave"), FILE_BYTES_MAX).unwrap();
        let wanted = Wanted {
            stage: name,
            sha256: None,
            config: "{}".to_owned(),
            limits: Limits {
                deadline_record: deadline,
                ..patient()
            },
            grants: Grants::default(),
        };
        let executor = Arc::new(Executor::new().unwrap());
        let plugin = Arc::new(component::load(runtime, &binary, wanted, &executor).unwrap());
        let counted = plugin.metrics(&metrics.stage(name));
        Self { plugin, counted }
    }

    /// Calls the plugin with this value, each time on a fresh instance, until it is told to end.
    fn call_until(&self, value: &str, mut ended: impl FnMut() -> bool) {
        let executor = Arc::new(Executor::new().unwrap());
        while !ended() {
            let (plugin, counted) = (Arc::clone(&self.plugin), Arc::clone(&self.counted));
            let mut instance = Instance::new(plugin, Arc::clone(&executor), counted).unwrap();
            let _ = instance.process(&batch(&records(&[value])));
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[test]
fn a_stage_with_more_workers_does_not_take_the_cores_of_another() {
    let (runtime, metrics) = (Runtime::new().unwrap(), Metrics::new());
    let stage = |name| Stage::new(&runtime, &metrics, name, Duration::from_millis(60));
    let (many, few) = (stage("many"), stage("few"));
    let ended = AtomicBool::new(false);
    let enough = 0.5 * cores() as f64;
    std::thread::scope(|scope| {
        for _ in 0..4 * cores() {
            scope.spawn(|| many.call_until("loop", || ended.load(Ordering::Relaxed)));
        }
        for _ in 0..cores() {
            scope.spawn(|| {
                few.call_until("loop", || few.counted.cpu_seconds.get() > enough);
                ended.store(true, Ordering::Relaxed);
            });
        }
    });
    let (many, few) = (many.counted.cpu_seconds.get(), few.counted.cpu_seconds.get());
    // By threads alone it would be a fifth.
    assert!(few / (many + few) > 0.33, "{few} s of {} s", many + few);
}

#[test]
fn a_call_that_waits_inside_the_host_holds_no_core() {
    let (runtime, metrics) = (Runtime::new().unwrap(), Metrics::new());
    let asleep = Stage::new(&runtime, &metrics, "asleep", Duration::from_millis(800));
    let awake = Stage::new(&runtime, &metrics, "awake", Duration::from_secs(20));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 * cores() {
            scope.spawn(|| asleep.call_until("sleep", || done.load(Ordering::Relaxed)));
        }
        let mut calls = 0;
        awake.call_until("ok", || {
            calls += 1;
            calls > 200
        });
        done.store(true, Ordering::Relaxed);
    });
    let waited = awake.counted.slot_wait_seconds.get();
    assert!(waited < 0.4, "{waited} s of waiting for sleepers");
}
