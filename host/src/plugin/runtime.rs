//! The engine that compiles and runs plugins, and the clock that interrupts them.
//!
//! One engine serves all stages with the same size of stack, because the runtime sets that for an engine. Compiled code is kept in the
//! runtime's own cache; machine code that the host did not make is never loaded. A thread advances the epoch of all engines every 10 ms: at
//! each tick a running guest's CPU time is compared with its deadline.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use wasmtime::component::Linker;
use wasmtime::{Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, WasmBacktraceDetails};

use super::imports::{self, Guest};
use super::slots::Slots;

/// How often running guests are looked at; a deadline is kept to within this.
const TICK: Duration = Duration::from_millis(10);
/// What host functions need of the stack on which they run together with the guest.
const HOST_STACK_BYTES: usize = 1536 * 1024;

/// An engine and what plugins are linked with on it.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
}

/// The machines by the size of their guests' stack, in bytes.
#[derive(Default)]
struct Machines(Mutex<BTreeMap<usize, Arc<Machine>>>);

/// What runs the plugins of a process.
pub(crate) struct Runtime {
    machines: Arc<Machines>,
    /// As many as the process has cores.
    pub(crate) slots: Arc<Slots>,
    cache: Option<Cache>,
    stopping: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the clock; engines are started as they are needed.
    ///
    /// # Errors
    /// When the clock's thread cannot be started.
    pub(crate) fn new() -> Result<Self> {
        let cache = Cache::new(CacheConfig::new())
            .inspect_err(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "compiled plugins are not cached, so every start compiles them"
                );
            })
            .ok();
        Self::start(cache)
    }

    /// As `new`, without the cache: for many components that are compiled once.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn uncached() -> Result<Self> {
        Self::start(None)
    }

    fn start(cache: Option<Cache>) -> Result<Self> {
        let machines = Arc::<Machines>::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::Builder::new()
            .name("epoch".to_owned())
            .spawn({
                let (machines, stopping) = (Arc::clone(&machines), Arc::clone(&stopping));
                move || {
                    while !stopping.load(Ordering::Relaxed) {
                        std::thread::sleep(TICK);
                        machines.tick();
                    }
                }
            })
            .context("start the epoch thread")?;
        let slots = Slots::new(std::thread::available_parallelism().map_or(1, usize::from), {
            let machines = Arc::clone(&machines);
            move || machines.tick()
        });
        Ok(Self {
            machines,
            slots,
            cache,
            stopping,
            ticker: Some(ticker),
        })
    }

    /// The machine whose guests have a stack of this size.
    ///
    /// # Errors
    /// When this machine cannot run the compiler's code.
    pub(crate) fn machine(&self, stack_bytes: usize) -> Result<Arc<Machine>> {
        let mut machines = self.machines.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = machines.get(&stack_bytes) {
            return Ok(Arc::clone(machine));
        }
        let machine = Arc::new(Machine::new(stack_bytes, self.cache.clone())?);
        machines.insert(stack_bytes, Arc::clone(&machine));
        Ok(machine)
    }
}

#[cfg(test)]
impl Runtime {
    /// How many plugins were found compiled, and how many had to be.
    pub(crate) fn cached_and_compiled(&self) -> (usize, usize) {
        let cache = self.cache.as_ref();
        cache.map_or((0, 0), |cache| (cache.cache_hits(), cache.cache_misses()))
    }
}

impl Machines {
    /// Makes every running guest be looked at.
    fn tick(&self) {
        let machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        machines.values().for_each(|machine| machine.engine.increment_epoch());
    }
}

impl Machine {
    fn new(stack_bytes: usize, cache: Option<Cache>) -> Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            // Nothing here runs guests concurrently in one store, and the support costs 400 ns a call.
            .concurrency_support(false)
            .epoch_interruption(true)
            .wasm_backtrace_details(WasmBacktraceDetails::Enable)
            .max_wasm_stack(stack_bytes)
            .async_stack_size(stack_bytes + HOST_STACK_BYTES)
            .cache(cache)
            .allocation_strategy(InstanceAllocationStrategy::OnDemand);
        let engine = Engine::new(&config)
            .map_err(anyhow::Error::from)
            .context("start the WebAssembly engine")?;
        let linker = imports::linker(&engine)
            .map_err(anyhow::Error::from)
            .context("link host functions")?;
        Ok(Self { engine, linker })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            // The thread cannot panic, and nothing could be done about it here.
            let _ = ticker.join();
        }
    }
}
