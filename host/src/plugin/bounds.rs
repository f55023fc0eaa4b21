//! The bounds that a guest runs into while it runs: time, memory, tables.
//!
//! Each remembers that it was hit during the current call, because what the runtime then reports is a trap like any other.

use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use super::limits::{CallTime, Limit, Limits};

/// When the current call has run for too long.
///
/// What is judged is the CPU time of the thread, so that a busy machine does not fault an innocent plugin; the wall clock
/// is only an outer bound.
#[derive(Default)]
pub(crate) struct Deadline {
    cpu_until: Option<Duration>,
    wall_until: Option<Instant>,
    /// A call was ended because of it.
    pub(crate) passed: Option<Passed>,
}

/// The bound that a call ran past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    Cpu,
    Wall,
}

impl Deadline {
    /// Begins a call on a thread that has used this much CPU time.
    pub(crate) fn start(&mut self, time: CallTime, cpu_now: Duration, now: Instant) {
        self.cpu_until = Some(cpu_now + time.deadline);
        self.wall_until = Some(now + time.wall);
        self.passed = None;
    }

    /// Called at every tick of the epoch while the guest runs; `excused` is time by the clock that does not count.
    pub(crate) fn check(&mut self, cpu_now: Duration, excused: Duration) -> bool {
        self.passed = if self.cpu_until.is_some_and(|until| cpu_now > until) {
            Some(Passed::Cpu)
        } else if self.wall_until.is_some_and(|until| Instant::now() > until + excused) {
            Some(Passed::Wall)
        } else {
            None
        };
        self.passed.is_some()
    }
}

/// CPU time that this thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Bounds the memories of one instance, all together, its tables, all together, and how many there are of each.
pub(crate) struct Room {
    bytes_max: usize,
    elements_max: usize,
    items_max: usize,
    bytes: usize,
    elements: usize,
    /// A growth was refused during the current call: a trap that follows is a matter of this limit.
    pub(crate) refused: Option<Limit>,
}

impl Room {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes_max: limits.memory_bytes,
            elements_max: limits.table_elements,
            items_max: limits.instances,
            bytes: 0,
            elements: 0,
            refused: None,
        }
    }

    /// Bytes of all memories together.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was wanted too much of, in words.
    pub(crate) fn refusal(&self) -> Option<(Limit, String)> {
        let limit = self.refused?;
        let text = match limit {
            Limit::TableElements => format!("wanted more than {} table elements ({limit})", self.elements_max),
            _ => format!(
                "wanted more memory than its limit of {} bytes ({limit})",
                self.bytes_max
            ),
        };
        Some((limit, text))
    }
}

impl ResourceLimiter for Room {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.bytes.saturating_add(desired.saturating_sub(current));
        if total > self.bytes_max {
            self.refused = Some(Limit::Memory);
            return Ok(false);
        }
        self.bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > self.elements_max {
            self.refused = Some(Limit::TableElements);
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.items_max
    }

    fn tables(&self) -> usize {
        self.items_max
    }

    fn memories(&self) -> usize {
        self.items_max
    }
}
