//! The engine that compiles and runs plugins, and the clock that interrupts them.
//!
//! One engine serves the process. Compiled code is kept in the runtime's own cache; machine code that the host did not make is never
//! loaded. A thread advances the engine's epoch every 10 ms: at each tick a running guest's CPU time is compared with its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use wasmtime::component::Linker;
use wasmtime::{Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, WasmBacktraceDetails};

use super::imports::{self, Guest};

/// How often running guests are looked at; a deadline is kept to within this.
const TICK: Duration = Duration::from_millis(10);
/// A guest's own stack. Deep enough for recursive parsers, and small beside the memory limit.
const WASM_STACK_BYTES: usize = 512 * 1024;
/// The stack on which guest and host functions run together; must exceed the guest's part by what host functions need.
const ASYNC_STACK_BYTES: usize = 2 * 1024 * 1024;

/// The engine and what every plugin is linked with.
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
    stopping: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the engine and its clock.
    ///
    /// # Errors
    /// When this machine cannot run the compiler's code, or the clock's thread cannot be started.
    pub(crate) fn new() -> Result<Self> {
        let cache = Cache::new(CacheConfig::new());
        if let Err(error) = &cache {
            tracing::warn!(
                error = format!("{error:#}"),
                "compiled plugins are not cached, so every start compiles them"
            );
        }
        Self::start(cache.ok())
    }

    /// As `new`, without the cache: for many components that are compiled once.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn uncached() -> Result<Self> {
        Self::start(None)
    }

    fn start(cache: Option<Cache>) -> Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            // Nothing here runs guests concurrently in one store, and the support costs 400 ns a call.
            .concurrency_support(false)
            .epoch_interruption(true)
            .wasm_backtrace_details(WasmBacktraceDetails::Enable)
            .max_wasm_stack(WASM_STACK_BYTES)
            .async_stack_size(ASYNC_STACK_BYTES)
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .cache(cache);
        let engine = Engine::new(&config)
            .map_err(anyhow::Error::from)
            .context("start the WebAssembly engine")?;
        let linker = imports::linker(&engine)
            .map_err(anyhow::Error::from)
            .context("link host functions")?;
        let stopping = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::Builder::new()
            .name("epoch".to_owned())
            .spawn({
                let (engine, stopping) = (engine.clone(), Arc::clone(&stopping));
                move || {
                    while !stopping.load(Ordering::Relaxed) {
                        std::thread::sleep(TICK);
                        engine.increment_epoch();
                    }
                }
            })
            .context("start the epoch thread")?;
        Ok(Self {
            engine,
            linker,
            stopping,
            ticker: Some(ticker),
        })
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
