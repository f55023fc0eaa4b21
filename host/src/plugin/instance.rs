//! One running copy of a plugin, called batch by batch under its limits.
//!
//! Calls go through `call_async` under a timeout, because epochs do not stop a guest that waits inside a host call; a guest that
//! computes is stopped by the epoch and judged by CPU time. After a fault the instance must be thrown away: the runtime never
//! lets a component that has trapped be entered again. Making a fresh one costs tens of microseconds and its `configure`.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::component::Plugin;
use super::contract::{Batch, Description, Processor, Replies};
use super::imports::{Guest, cut};
use crate::fault::{Fault, Kind};
use crate::metrics::PluginMetrics;

/// How much is kept of what `configure` says against a configuration.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Runs guest calls on the calling thread.
pub(crate) struct Executor {
    runtime: tokio::runtime::Runtime,
}

impl Executor {
    /// # Errors
    /// When the operating system refuses what a timer needs.
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(Self { runtime })
    }

    /// Waits for a guest call; none when it waited inside the host for longer than `deadline`.
    fn run<T>(&self, deadline: Duration, call: impl Future<Output = T>) -> Option<T> {
        self.runtime
            .block_on(async { tokio::time::timeout(deadline, call).await.ok() })
    }
}

/// A copy of a plugin, configured and ready for batches.
pub(crate) struct Instance {
    store: Store<Guest>,
    bindings: Processor,
    executor: Arc<Executor>,
    plugin: Arc<Plugin>,
}

impl Instance {
    /// Makes a copy and configures it.
    ///
    /// # Errors
    /// A fault in `configure`, or its error text as a `Reject`.
    pub(crate) fn new(
        plugin: Arc<Plugin>,
        executor: Arc<Executor>,
        metrics: Arc<PluginMetrics>,
    ) -> Result<Self, Fault> {
        let mut instance = Self::bare(plugin, executor, metrics)?;
        let config = instance.plugin.config.clone();
        let deadline = instance.plugin.limits.deadline;
        let configured = instance.call(deadline, async |store, bindings| {
            bindings.wasmill_plugin_process().call_configure(store, &config).await
        })?;
        configured.map_err(|text| Fault::new(Kind::Reject, cut(&text, REFUSAL_BYTES_MAX)))?;
        Ok(instance)
    }

    /// Makes a copy that is not configured; good for `describe` alone.
    pub(crate) fn bare(
        plugin: Arc<Plugin>,
        executor: Arc<Executor>,
        metrics: Arc<PluginMetrics>,
    ) -> Result<Self, Fault> {
        let limits = &plugin.limits;
        let line_rate = Arc::clone(&plugin.line_rate);
        let guest = Guest::new(&plugin.stage, limits.memory_bytes, line_rate, metrics);
        let mut store = Store::new(plugin.prepared.engine(), guest);
        store.limiter(|guest| &mut guest.memory);
        store.epoch_deadline_callback(|mut context| {
            if context.data_mut().deadline.check() {
                Ok(UpdateDeadline::Interrupt)
            } else {
                Ok(UpdateDeadline::Continue(1))
            }
        });
        store.set_epoch_deadline(1);
        store.data_mut().deadline.start(limits.deadline);
        let made = executor.run(limits.deadline, plugin.prepared.instantiate_async(&mut store));
        let bindings = match made {
            Some(Ok(bindings)) => bindings,
            Some(Err(error)) => return Err(fault_of(&error, store.data(), limits.deadline)),
            None => return Err(waited(limits.deadline)),
        };
        Ok(Self {
            store,
            bindings,
            executor,
            plugin,
        })
    }

    pub(crate) fn describe(&mut self) -> Result<Description, Fault> {
        let deadline = self.plugin.limits.deadline;
        self.call(deadline, async |store, bindings| {
            bindings.wasmill_plugin_process().call_describe(store).await
        })
    }

    /// Calls the guest with a batch. The answer is as the guest gave it, not checked yet.
    ///
    /// # Errors
    /// A fault; the instance must not be used again.
    pub(crate) fn process(&mut self, batch: &Batch) -> Result<Replies, Fault> {
        let limits = &self.plugin.limits;
        let deadline = if batch.entries.len() == 1 {
            limits.deadline_record
        } else {
            limits.deadline
        };
        self.call(deadline, async |store, bindings| {
            bindings.wasmill_plugin_process().call_process(store, batch).await
        })
    }

    /// Bytes of all the guest's memories together.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory.bytes()
    }

    fn call<T>(
        &mut self,
        deadline: Duration,
        call: impl AsyncFnOnce(&mut Store<Guest>, &Processor) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let guest = self.store.data_mut();
        guest.listen();
        guest.deadline.start(deadline);
        self.store.set_epoch_deadline(1);
        let done = self.executor.run(deadline, call(&mut self.store, &self.bindings));
        self.store.data().finish_lines();
        match done {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(fault_of(&error, self.store.data(), deadline)),
            None => Err(waited(deadline)),
        }
    }
}

fn waited(deadline: Duration) -> Fault {
    let text = format!(
        "waited inside the host past its deadline of {} ms",
        deadline.as_millis()
    );
    Fault::new(Kind::Deadline, text)
}

fn fault_of(error: &wasmtime::Error, guest: &Guest, deadline: Duration) -> Fault {
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .map(|backtrace| backtrace.to_string().trim().to_owned());
    let trap = error.downcast_ref::<Trap>();
    let (kind, message) = if guest.deadline.passed {
        let text = format!("ran past its deadline of {} ms", deadline.as_millis());
        (Kind::Deadline, text)
    } else if guest.memory.refused {
        let text = format!(
            "wanted more memory than its limit of {} bytes",
            guest.memory.bytes_max()
        );
        (Kind::Memory, text)
    } else if error.is::<I32Exit>() {
        // The code is not told: WASI passes on no more than whether it was 0.
        (Kind::Trap, "called exit, which ends its instance".to_owned())
    } else if let Some(trap) = trap {
        (Kind::Trap, guest.last_words().unwrap_or_else(|| trap.to_string()))
    } else if backtrace.is_some() {
        // The host would not do what the guest called it for: arguments that are none, too many handles, too much at once.
        (Kind::Trap, error.root_cause().to_string())
    } else {
        (Kind::Malformed, format!("{:#}", error))
    };
    Fault {
        kind,
        message,
        backtrace,
    }
}
