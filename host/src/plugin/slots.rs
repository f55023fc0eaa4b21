//! Shares the machine's cores between stages: a guest runs only while it holds one of as many slots as there are cores.
//!
//! Each stage has a *virtual time*, the CPU time that its guests have used. A free slot goes to the waiting stage that has used the least, and
//! within a stage to whoever came first. A guest that runs while a stage waits that has used less gives its slot up at the next look, which a
//! new arrival brings about at once. A stage that was idle is put to where the others are, so that nobody saves up a claim to all cores;
//! one look's worth of it is kept, so that short pauses between calls cost nothing. A call that waits inside the host holds no slot.
//!
//! Some of what a guest does cannot be interrupted: filling a large memory is one instruction. A stage that has used less than those who run
//! does not wait for its end: after a moment it is lent a slot, and the operating system shares the cores. The loan is paid back by the first
//! of those ahead who looks or leaves.
//! `Queue` decides and knows neither clock nor threads; the rest is waiting.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::bounds::thread_cpu_time;

/// How far behind the others a stage may begin that was idle.
const CREDIT: Duration = Duration::from_millis(10);
/// How far ahead of a waiting stage a guest must be to give its slot up; changing threads for less would cost more than it gives.
const AHEAD: Duration = Duration::from_millis(1);
/// How long a guest that is made to look may take until it does; one that takes longer cannot be interrupted now.
const MOMENT: Duration = Duration::from_millis(1);
/// The longest time between two attempts to borrow a slot.
const PATIENCE_MAX: Duration = Duration::from_millis(8);

/// Who holds slots and who waits for one; `T` is how somebody who waits is told.
struct Queue<T> {
    slots: usize,
    free: usize,
    /// Slots beyond those that there are, in use.
    lent: usize,
    stages: Vec<Stage<T>>,
    /// The least virtual time of the stages that were active of late; it never goes back.
    clock: Duration,
    waiting: usize,
}

struct Stage<T> {
    name: String,
    used: Duration,
    running: usize,
    waiting: VecDeque<T>,
}

impl<T> Queue<T> {
    fn new(slots: usize) -> Self {
        Self {
            slots,
            free: slots,
            lent: 0,
            stages: Vec::new(),
            clock: Duration::ZERO,
            waiting: 0,
        }
    }

    /// The number of a stage; the same for the same name.
    fn stage(&mut self, name: &str) -> usize {
        let known = self.stages.iter().position(|stage| stage.name == name);
        known.unwrap_or_else(|| {
            self.stages.push(Stage {
                name: name.to_owned(),
                used: Duration::ZERO,
                running: 0,
                waiting: VecDeque::new(),
            });
            self.stages.len() - 1
        })
    }

    /// Somebody of a stage wants a slot. False: there is none, and the ticket waits.
    fn arrive(&mut self, stage: usize, ticket: impl FnOnce() -> T) -> bool {
        let clock = self.clock;
        let arrived = &mut self.stages[stage];
        if arrived.running == 0 && arrived.waiting.is_empty() {
            arrived.used = arrived.used.max(clock.saturating_sub(CREDIT));
        }
        if self.free > 0 {
            self.free -= 1;
            arrived.running += 1;
            return true;
        }
        arrived.waiting.push_back(ticket());
        self.waiting += 1;
        false
    }

    /// More calls of the stage wait than there are slots, so the next one will wait for several others to end.
    fn is_crowded(&self, stage: usize) -> bool {
        self.stages[stage].waiting.len() > self.slots
    }

    /// Somebody of a stage gives a slot back after so much CPU time; the ticket is that of whom it goes to.
    fn leave(&mut self, stage: usize, used: Duration) -> Option<T> {
        self.charge(stage, used);
        self.stages[stage].running -= 1;
        if self.lent > 0 {
            self.lent -= 1;
            return None;
        }
        let next = self.next();
        if next.is_none() {
            self.free += 1;
        }
        next
    }

    /// Somebody of a stage has used so much CPU time and would go on.
    fn look(&mut self, stage: usize, used: Duration, ticket: impl FnOnce() -> T) -> Turn<T> {
        self.charge(stage, used);
        let least_waiting = self.least_waiting().map(|least| self.stages[least].used);
        let runs_for_less = || {
            let running = self.stages.iter().filter(|stage| stage.running > 0);
            running.map(|stage| stage.used).min()
        };
        let pays_back = self.lent > 0 && runs_for_less().is_some_and(|least| self.is_ahead(stage, least));
        if !pays_back && !least_waiting.is_some_and(|least| self.is_ahead(stage, least)) {
            return Turn::GoesOn;
        }
        self.stages[stage].running -= 1;
        let next = match pays_back {
            true => {
                self.lent -= 1;
                None
            }
            false => self.next(),
        };
        self.stages[stage].waiting.push_back(ticket());
        self.waiting += 1;
        Turn::GivesUp(next)
    }

    /// A stage waits although who runs was made to look. Some: it has used less than they and less than all others who wait, and this ticket of it
    /// is lent a slot.
    fn borrow(&mut self, stage: usize) -> Option<T> {
        if self.lent == self.slots || self.least_waiting() != Some(stage) {
            return None;
        }
        let used = self.stages[stage].used;
        let all_ahead = |other: usize| self.stages[other].running == 0 || self.is_ahead(other, used);
        if !(0..self.stages.len()).all(all_ahead) {
            return None;
        }
        self.lent += 1;
        self.next()
    }

    fn is_ahead(&self, stage: usize, used: Duration) -> bool {
        self.stages[stage].used > used + AHEAD
    }

    fn charge(&mut self, stage: usize, used: Duration) {
        self.stages[stage].used += used;
        let active = self
            .stages
            .iter()
            .filter(|stage| stage.running > 0 || !stage.waiting.is_empty());
        if let Some(least) = active.map(|stage| stage.used).min() {
            self.clock = self.clock.max(least);
        }
    }

    fn least_waiting(&self) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let waiting = self
            .stages
            .iter()
            .enumerate()
            .filter(|(_, stage)| !stage.waiting.is_empty());
        waiting.min_by_key(|(_, stage)| stage.used).map(|(index, _)| index)
    }

    /// Takes the ticket whose turn it is; its stage runs from now on.
    fn next(&mut self) -> Option<T> {
        let least = self.least_waiting()?;
        let stage = &mut self.stages[least];
        let ticket = stage.waiting.pop_front()?;
        stage.running += 1;
        self.waiting -= 1;
        Some(ticket)
    }
}

/// What becomes of a guest that runs.
#[derive(Debug, PartialEq, Eq)]
enum Turn<T> {
    GoesOn,
    /// It waits for its next turn; the slot goes to this ticket, or back to whom it was lent by.
    GivesUp(Option<T>),
}

/// How a thread that waits is told that the slot is its own.
struct Ticket {
    thread: Thread,
    granted: AtomicBool,
}

impl Ticket {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            thread: std::thread::current(),
            granted: AtomicBool::new(false),
        })
    }

    fn grant(&self) {
        self.granted.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Waits for so long at the most; true when the slot is granted.
    fn wait(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        while !self.granted.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(left);
        }
        true
    }
}

/// The slots of a process.
pub(crate) struct Slots {
    queue: Mutex<Queue<Arc<Ticket>>>,
    /// Makes all running guests look whether they go on.
    nudge: Box<dyn Fn() + Send + Sync>,
}

impl Slots {
    pub(crate) fn new(slots: usize, nudge: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Queue::new(slots)),
            nudge: Box::new(nudge),
        })
    }

    /// The share of a stage; all who ask for the same name share it.
    pub(crate) fn share(self: &Arc<Self>, stage: &str) -> Share {
        let stage = self.locked(|queue| queue.stage(stage));
        Share {
            slots: Arc::clone(self),
            stage,
        }
    }

    fn locked<R>(&self, work: impl FnOnce(&mut Queue<Arc<Ticket>>) -> R) -> R {
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the guests of one stage have of the slots.
#[derive(Clone)]
pub(crate) struct Share {
    slots: Arc<Slots>,
    stage: usize,
}

impl Share {
    /// A call that is made now will wait for long. What is open should be completed before.
    pub(crate) fn is_crowded(&self) -> bool {
        self.slots.locked(|queue| queue.is_crowded(self.stage))
    }
}

/// The place of one instance: where its call holds its slot, and what it has waited for it. Shared between what calls the guest and what looks
/// at it at every tick, on the same thread.
pub(crate) struct Seat {
    share: Share,
    /// CPU time of the thread up to which the stage is charged, in nanoseconds.
    charged_ns: AtomicU64,
    waited_ns: AtomicU64,
}

impl Seat {
    pub(crate) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            share,
            charged_ns: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        })
    }

    /// Waits for a slot, on a thread that has used this much CPU time, and holds it until the guard is dropped.
    pub(crate) fn sit(&self, cpu_now: Duration) -> Sitting<'_> {
        self.charged_ns.store(nanoseconds(cpu_now), Ordering::Relaxed);
        let Share { slots, stage } = &self.share;
        let mut ticket = None;
        let seated = slots.locked(|queue| queue.arrive(*stage, || Arc::clone(ticket.insert(Ticket::new()))));
        if let Some(ticket) = ticket.filter(|_| !seated) {
            (slots.nudge)();
            self.wait(&ticket);
        }
        Sitting(self)
    }

    /// Gives the slot to a stage that waits and has used less, if there is one, and waits for the next turn. To be called while a slot is held.
    pub(crate) fn look(&self, cpu_now: Duration) {
        let Share { slots, stage } = &self.share;
        let used = self.used(cpu_now);
        let mut own = None;
        let turn = slots.locked(|queue| queue.look(*stage, used, || Arc::clone(own.insert(Ticket::new()))));
        if let Turn::GivesUp(Some(next)) = turn {
            next.grant();
        }
        if let Some(own) = own {
            self.wait(&own);
        }
    }

    /// CPU time of the thread when it was looked at last.
    pub(crate) fn charged(&self) -> Duration {
        Duration::from_nanos(self.charged_ns.load(Ordering::Relaxed))
    }

    /// How long this call has waited for its turns, so far.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed))
    }

    /// Begins a new call.
    pub(crate) fn forget(&self) {
        self.waited_ns.store(0, Ordering::Relaxed);
    }

    fn wait(&self, ticket: &Ticket) {
        let Share { slots, stage } = &self.share;
        let began = Instant::now();
        let mut patience = MOMENT;
        while !ticket.wait(patience) {
            (slots.nudge)();
            if ticket.wait(MOMENT) {
                break;
            }
            if let Some(next) = slots.locked(|queue| queue.borrow(*stage)) {
                next.grant();
            }
            patience = PATIENCE_MAX.min(patience * 2);
        }
        self.waited_ns
            .fetch_add(nanoseconds(began.elapsed()), Ordering::Relaxed);
    }

    /// CPU time that the stage is not charged for yet.
    fn used(&self, cpu_now: Duration) -> Duration {
        let now_ns = nanoseconds(cpu_now);
        let charged_ns = self.charged_ns.swap(now_ns, Ordering::Relaxed);
        Duration::from_nanos(now_ns.saturating_sub(charged_ns))
    }
}

/// Holds a slot.
pub(crate) struct Sitting<'a>(&'a Seat);

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        let Share { slots, stage } = &self.0.share;
        let used = self.0.used(thread_cpu_time());
        if let Some(next) = slots.locked(|queue| queue.leave(*stage, used)) {
            next.grant();
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
