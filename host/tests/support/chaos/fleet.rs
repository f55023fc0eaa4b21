//! Several host processes that are killed, stopped, ended and started all along.
//!
//! Each process has a slot with a stable instance name, so that the next one in it ends what the last one left open. Slots differ:
//! in an even one a transaction times out while its process is frozen, so that the process comes back fenced; in an odd one it
//! does not, so that the process comes back to partitions that are no longer its own and has to abort.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Topics;
use super::events::{self, EventLog};
use crate::support::host::{Host, Invocation, Pipeline, was_killed};
use crate::support::rng::Rng;
use crate::support::wait_for;

/// The points at which a host kills itself, each in turn for one process, and one process that does not.
const POINTS: [Option<&str>; 5] = [
    Some("after-produce"),
    Some("after-offsets-sent"),
    Some("during-commit"),
    Some("after-commit"),
    None,
];

/// Longer than the session (6 s) and than an even slot's transaction timeout.
const FREEZE: Duration = Duration::from_secs(9);

/// Transactions that are begun between two actions, and the time after which an action is taken without them.
const WORK: usize = 10;
const STANDSTILL_MAX: Duration = Duration::from_secs(8);

/// How hosts are made to fail.
#[derive(Clone, Copy)]
pub(crate) struct Hazards {
    /// The probability of a kill at the process's named point, each time it gets there.
    pub(crate) kill: f64,
    /// The probability that a commit's answer counts as lost.
    pub(crate) unknown: f64,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Kill,
    Freeze { parity: usize },
    Remove,
}

#[derive(Default)]
struct Slot {
    /// The file of the latest process; kept, because it goes away with its owner.
    pipeline: Option<Pipeline>,
    host: Option<Host>,
    frozen_since: Option<Instant>,
    /// It was asked to end, so an exit code of 0 is right.
    leaving: bool,
    /// None: at once.
    next_start: Option<Instant>,
}

pub(crate) struct Fleet {
    topics: Topics,
    hazards: Hazards,
    rng: Rng,
    log: EventLog,
    slots: Vec<Slot>,
    starts: usize,
    next_action: Instant,
    /// Transactions begun when the last action was taken.
    begun_before: usize,
    /// What is left of this round of actions; each round has all of them, in a new order.
    round: Vec<Action>,
    killed: BTreeSet<u32>,
    killed_from_outside: usize,
    frozen: usize,
    removed: usize,
    /// Processes that ended though nobody had asked or killed them.
    pub(crate) fell: Vec<String>,
}

impl Fleet {
    pub(crate) fn new(topics: &Topics, processes: usize, hazards: Hazards, log: EventLog, seed: u64) -> Self {
        Self {
            topics: topics.clone(),
            hazards,
            rng: Rng::new(seed),
            log,
            slots: (0..processes).map(|_| Slot::default()).collect(),
            starts: 0,
            next_action: Instant::now() + Duration::from_secs(1),
            begun_before: 0,
            round: Vec::new(),
            killed: BTreeSet::new(),
            killed_from_outside: 0,
            frozen: 0,
            removed: 0,
            fell: Vec::new(),
        }
    }

    /// Looks after the processes and does what is due.
    pub(crate) fn step(&mut self) {
        for slot in 0..self.slots.len() {
            self.reap(slot);
            self.thaw(slot, FREEZE);
            if self.slots[slot].host.is_none() && self.slots[slot].next_start.is_none_or(|due| Instant::now() >= due) {
                self.start(slot);
            }
        }
        if self.is_due() {
            self.act();
            self.begun_before = self.begun();
            self.next_action = Instant::now() + self.rng.between_ms(300, 1500);
        }
    }

    /// After a kill the group stands still until the dead member's session has ended. What happens meanwhile proves nothing, so an
    /// action waits until there is work again to disturb, but not for ever.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        now >= self.next_action
            && (self.begun() >= self.begun_before + WORK || now >= self.next_action + STANDSTILL_MAX)
    }

    fn begun(&mut self) -> usize {
        self.log.events().iter().filter(|event| event.name == "begin").count()
    }

    fn start(&mut self, number: usize) {
        let point = POINTS[self.starts % POINTS.len()]
            .map(|point| format!("{point}={},", self.hazards.kill))
            .unwrap_or_default();
        let chaos = format!("{point}commit-unknown={}", self.hazards.unknown);
        let workers = if number.is_multiple_of(2) {
            1 + self.rng.below(3)
        } else {
            1 + number % 3
        };
        let path = self.write_pipeline(number, workers);
        let invocation = Invocation::run(&path)
            .env("WASMILL_INSTANCE", &format!("slot-{number}"))
            .env("WASMILL_CHAOS", &chaos)
            .env("WASMILL_CHAOS_SEED", &self.rng.next().to_string())
            .env("WASMILL_CHAOS_LOG", self.log.path().to_str().unwrap());
        self.starts += 1;
        self.slots[number].leaving = false;
        self.slots[number].host = Some(invocation.start());
    }

    fn write_pipeline(&mut self, number: usize, workers: usize) -> PathBuf {
        let timeout_ms = if number.is_multiple_of(2) { 5_000 } else { 20_000 };
        let pipeline = self
            .topics
            .pipeline(workers)
            .set(&["kafka", "transaction.timeout.ms"], timeout_ms);
        self.slots[number].pipeline.insert(pipeline).write()
    }

    /// Takes note of a process that has ended.
    fn reap(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        let Some(host) = slot.host.as_mut() else { return };
        let Some(status) = host.exited() else { return };
        let pid = host.pid();
        if was_killed(status) {
            self.killed.insert(pid);
        } else if !(slot.leaving && status.success()) {
            self.fell.push(format!(
                "process {pid} of slot {number} ended by itself: {status}\n{}",
                host.tail()
            ));
        }
        slot.host = None;
        slot.frozen_since = None;
        slot.next_start = Some(Instant::now() + self.rng.between_ms(0, 1500));
    }

    fn thaw(&mut self, number: usize, after: Duration) {
        let slot = &mut self.slots[number];
        if let (Some(since), Some(host)) = (slot.frozen_since, &slot.host)
            && since.elapsed() >= after
        {
            host.thaw();
            slot.frozen_since = None;
        }
    }

    fn act(&mut self) {
        if self.round.is_empty() {
            self.round = vec![
                Action::Kill,
                Action::Kill,
                Action::Remove,
                Action::Freeze { parity: 0 },
                Action::Freeze { parity: 1 },
            ];
            self.rng.shuffle(&mut self.round);
        }
        let Some(action) = self.round.pop() else { return };
        let wanted = |number: usize| match action {
            Action::Freeze { parity } => number % 2 == parity,
            _ => true,
        };
        let able: Vec<usize> = (0..self.slots.len())
            .filter(|number| self.slots[*number].host.is_some() && self.slots[*number].frozen_since.is_none())
            .collect();
        let candidates: Vec<usize> = able.iter().copied().filter(|number| wanted(*number)).collect();
        // The group waits for a frozen member until its session ends; with two of them it would do little else.
        let crowded =
            matches!(action, Action::Freeze { .. }) && self.slots.iter().any(|slot| slot.frozen_since.is_some());
        // At least one process goes on working.
        let done = able.len() > 1 && !crowded && !candidates.is_empty() && {
            let number = *self.rng.pick(&candidates);
            self.apply(action, number)
        };
        if !done {
            self.round.insert(0, action);
        }
    }

    /// Whether it could be done.
    fn apply(&mut self, action: Action, number: usize) -> bool {
        match action {
            Action::Kill => {
                let Some(host) = self.slots[number].host.as_mut() else {
                    return false;
                };
                host.kill();
                self.killed_from_outside += 1;
            }
            Action::Remove => {
                let Some(host) = self.slots[number].host.as_ref() else {
                    return false;
                };
                host.terminate();
                self.slots[number].leaving = true;
                self.removed += 1;
            }
            Action::Freeze { .. } => {
                let Some(host) = self.slots[number].host.as_ref() else {
                    return false;
                };
                if !freeze_in_transaction(host, &mut self.log, Duration::from_secs(1)) {
                    return false;
                }
                self.slots[number].frozen_since = Some(Instant::now());
                self.frozen += 1;
            }
        }
        true
    }

    /// How often each thing has happened so far.
    pub(crate) fn counts(&mut self) -> BTreeMap<String, usize> {
        let mut counts = events::count(self.log.events(), &self.killed);
        counts.insert("processes started".to_owned(), self.starts);
        counts.insert("killed from outside".to_owned(), self.killed_from_outside);
        counts.insert("frozen".to_owned(), self.frozen);
        counts.insert("removed".to_owned(), self.removed);
        counts
    }

    /// Asks all processes to end and waits until they have.
    pub(crate) fn end(&mut self) {
        for number in 0..self.slots.len() {
            self.thaw(number, Duration::ZERO);
            self.slots[number].leaving = true;
            if let Some(host) = self.slots[number].host.as_mut()
                && host.exited().is_none()
            {
                host.terminate();
            }
        }
        for number in 0..self.slots.len() {
            wait_for(
                &format!("slot {number} to end after SIGTERM"),
                Duration::from_secs(60),
                || {
                    self.reap(number);
                    self.slots[number].host.is_none().then_some(())
                },
            );
        }
    }
}

/// Freezes a process while it has a transaction open; false if it had none for so long.
pub(crate) fn freeze_in_transaction(host: &Host, log: &mut EventLog, patience: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        if log.in_transaction(host.pid()) {
            host.freeze();
            // It may have ended the transaction before the signal arrived; now it cannot any more.
            if log.in_transaction(host.pid()) {
                return true;
            }
            host.thaw();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
