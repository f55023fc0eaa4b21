//! One running copy of a plugin, called batch by batch under its limits.
//!
//! Three bounds hold a call: the guest's CPU time and the clock, which the epoch looks at while the guest computes, and a budget for the time
//! in which the call waits inside the host, where no epoch comes. After a fault the instance must be thrown away: the runtime never
//! lets a component that has trapped be entered again. Making a fresh one costs tens of microseconds and its `configure`.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::bounds::{Passed, thread_cpu_time};
use super::component::Plugin;
use super::contract::{Batch, Description, Processor, Replies};
use super::imports::{Guest, HANDLES_MAX, cut};
use super::limits::{CallTime, Limit};
use super::slots::Seat;
use crate::fault::{Fault, Kind};
use crate::metrics::PluginMetrics;

/// How much is kept of what `configure` or `self-test` says against a configuration.
const REFUSAL_BYTES_MAX: usize = 4096;
/// Threads that read what a guest wants of its folders; one that is stuck cannot be ended.
const BLOCKING_THREADS_MAX: usize = 8;

/// Runs guest calls on the calling thread.
pub(crate) struct Executor {
    /// There until it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Executor {
    /// # Errors
    /// When the operating system refuses what a timer needs.
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs a guest call that began now; none when it waited inside the host for longer than its deadline, all its waits together.
    ///
    /// Only the time in which the call is pending counts. A call that never waits sets no timer. It holds a slot while it is not pending.
    fn run<T>(&self, time: CallTime, now: Began, seat: &Seat, call: impl Future<Output = T>) -> Option<T> {
        self.runtime.as_ref()?.block_on(async {
            let mut call = pin!(call);
            let mut left = time.deadline;
            let mut cpu_now = Some(now.cpu);
            let mut waiting: Option<(Instant, Pin<Box<tokio::time::Sleep>>)> = None;
            std::future::poll_fn(|context| {
                if let Some((since, _)) = waiting.take() {
                    left = left.saturating_sub(since.elapsed());
                }
                let slot = seat.sit(cpu_now.take().unwrap_or_else(thread_cpu_time));
                let polled = call.as_mut().poll(context);
                drop(slot);
                if let Poll::Ready(done) = polled {
                    return Poll::Ready(Some(done));
                }
                let by_the_clock = now.clock.elapsed().saturating_sub(seat.waited());
                let wait = left.min(time.wall.saturating_sub(by_the_clock));
                let mut over = Box::pin(tokio::time::sleep(wait));
                if wait.is_zero() || over.as_mut().poll(context).is_ready() {
                    return Poll::Ready(None);
                }
                waiting = Some((Instant::now(), over));
                Poll::Pending
            })
            .await
        })
    }
}

impl Drop for Executor {
    /// Does not wait for what a guest has begun in a folder of its: to open a pipe that nobody writes to never ends.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// When a call began.
#[derive(Clone, Copy)]
struct Began {
    cpu: Duration,
    clock: Instant,
}

/// A copy of a plugin, configured and ready for batches.
pub(crate) struct Instance {
    store: Store<Guest>,
    bindings: Processor,
    /// What the bindings call; an optional interface is looked up in it.
    exports: wasmtime::component::Instance,
    executor: Arc<Executor>,
    plugin: Arc<Plugin>,
    seat: Arc<Seat>,
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
        let time = instance.plugin.limits.of_batch();
        let configured = instance.call(time, async |store, bindings| {
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
        let guest = Guest::new(&plugin.stage, limits, &plugin.grants, line_rate, metrics)
            .map_err(|error| Fault::new(Kind::Trap, format!("{error:#}")))?;
        let mut store = Store::new(plugin.prepared.engine(), guest);
        store.limiter(|guest| &mut guest.room);
        store.set_hostcall_fuel(limits.answer.transfer_bytes(0));
        let seat = Seat::new(plugin.share.clone());
        let looking = Arc::clone(&seat);
        store.epoch_deadline_callback(move |mut context| {
            let cpu_now = thread_cpu_time();
            looking.look(cpu_now);
            if context.data_mut().deadline.check(cpu_now, looking.waited()) {
                Ok(UpdateDeadline::Interrupt)
            } else {
                Ok(UpdateDeadline::Continue(1))
            }
        });
        let (bindings, exports) = bounded(&mut store, &executor, &seat, limits.of_batch(), async |store| {
            let exports = plugin.prepared.instance_pre().instantiate_async(&mut *store).await?;
            Ok((Processor::new(&mut *store, &exports)?, exports))
        })?;
        Ok(Self {
            store,
            bindings,
            exports,
            executor,
            plugin,
            seat,
        })
    }

    /// Goes on under another thread's executor.
    pub(crate) fn adopt(&mut self, executor: Arc<Executor>) {
        self.executor = executor;
    }

    /// Lets a configured copy try itself out, where the plugin can.
    ///
    /// # Errors
    /// A fault, or the plugin's own words as a `Reject`.
    pub(crate) fn self_test(&mut self) -> Result<(), Fault> {
        let Some(export) = self.plugin.self_test else {
            return Ok(());
        };
        let function = self
            .exports
            .get_typed_func::<(), (Result<(), String>,)>(&mut self.store, export)
            .map_err(|error| Fault::new(Kind::Malformed, format!("`self-test` has another type: {error:#}")))?;
        let time = self.plugin.limits.of_batch();
        let (tested,) = self.call(time, async |store, _| function.call_async(store, ()).await)?;
        tested.map_err(|text| Fault::new(Kind::Reject, cut(&text, REFUSAL_BYTES_MAX)))
    }

    pub(crate) fn describe(&mut self) -> Result<Description, Fault> {
        let time = self.plugin.limits.of_batch();
        self.call(time, async |store, bindings| {
            bindings.wasmill_plugin_process().call_describe(store).await
        })
    }

    /// Calls the guest with a batch. The answer is as the guest gave it, not checked yet.
    ///
    /// # Errors
    /// A fault; the instance must not be used again.
    pub(crate) fn process(&mut self, batch: &Batch) -> Result<Replies, Fault> {
        let limits = &self.plugin.limits;
        let time = if batch.entries.len() == 1 {
            limits.of_record()
        } else {
            limits.of_batch()
        };
        self.store
            .set_hostcall_fuel(limits.answer.transfer_bytes(batch.entries.len()));
        self.call(time, async |store, bindings| {
            bindings.wasmill_plugin_process().call_process(store, batch).await
        })
    }

    /// Bytes of all the guest's memories together.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().room.bytes()
    }

    fn call<T>(
        &mut self,
        time: CallTime,
        call: impl AsyncFnOnce(&mut Store<Guest>, &Processor) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let Self {
            store,
            bindings,
            executor,
            seat,
            ..
        } = self;
        bounded(store, executor, seat, time, async |store| call(store, bindings).await)
    }
}

/// Runs what enters the guest, under its bounds.
fn bounded<T>(
    store: &mut Store<Guest>,
    executor: &Executor,
    seat: &Seat,
    time: CallTime,
    call: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<T>,
) -> Result<T, Fault> {
    let began = Began {
        cpu: thread_cpu_time(),
        clock: Instant::now(),
    };
    seat.forget();
    let guest = store.data_mut();
    guest.listen();
    guest.deadline.start(time, began.cpu, began.clock);
    store.set_epoch_deadline(1);
    let done = executor.run(time, began, seat, call(store));
    let guest = store.data();
    guest.finish_lines();
    guest
        .metrics
        .called(seat.charged().saturating_sub(began.cpu), seat.waited());
    let fault = match done {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => fault_of(&error, guest, time),
        None => late("waited inside the host past its deadline of", time),
    };
    guest.metrics.hit(fault.limit);
    Err(fault)
}

fn late(what: &str, time: CallTime) -> Fault {
    let CallTime { deadline, limit, .. } = time;
    Fault::new(Kind::Deadline, format!("{what} {} ms ({limit})", deadline.as_millis())).at(limit)
}

fn fault_of(error: &wasmtime::Error, guest: &Guest, time: CallTime) -> Fault {
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .map(|backtrace| backtrace.to_string().trim().to_owned());
    Fault {
        backtrace,
        ..cause_of(error, guest, time)
    }
}

fn cause_of(error: &wasmtime::Error, guest: &Guest, time: CallTime) -> Fault {
    match guest.deadline.passed {
        Some(Passed::Cpu) => return late("ran past its deadline of", time),
        Some(Passed::Wall) => {
            let fault = late("ran past its deadline of", time);
            let message = format!(
                "{}: not done after {} ms by the clock",
                fault.message,
                time.wall.as_millis()
            );
            return Fault { message, ..fault };
        }
        None => {}
    }
    if let Some((limit, text)) = guest.room.refusal() {
        return Fault::new(Kind::Memory, text).at(limit);
    }
    if error.is::<I32Exit>() {
        // The code is not told: WASI passes on no more than whether it was 0.
        return Fault::new(Kind::Trap, "called exit, which ends its instance");
    }
    match error.downcast_ref::<Trap>() {
        Some(trap @ Trap::StackOverflow) => {
            let limit = Limit::Stack;
            return Fault::new(Kind::Trap, format!("{trap} ({limit})")).at(limit);
        }
        Some(trap) => return Fault::new(Kind::Trap, guest.last_words().unwrap_or_else(|| trap.to_string())),
        None => {}
    }
    // With a backtrace the host would not do what the guest called it for: arguments that are none, too many handles, too much at once. Without
    // one it is the answer that cannot be taken.
    let (kind, text) = match error.is::<WasmBacktrace>() {
        true => (Kind::Trap, error.root_cause().to_string()),
        false => (Kind::Malformed, format!("{error:#}")),
    };
    if text.contains("resource table has no free keys") {
        let text = format!("holds more than {HANDLES_MAX} handles (files, streams, timers) at a time; give them back");
        return Fault::new(kind, text);
    }
    match unnamed_limit(&text) {
        Some(limit) => Fault::new(kind, format!("{text} ({limit})")).at(limit),
        None => Fault::new(kind, text),
    }
}

/// The limits that the runtime itself keeps have no type of error that could be told from others, but words.
fn unnamed_limit(text: &str) -> Option<Limit> {
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        Some(Limit::AnswerBytes)
    } else if text.contains("resource limit exceeded") {
        Some(Limit::Instances)
    } else {
        None
    }
}
