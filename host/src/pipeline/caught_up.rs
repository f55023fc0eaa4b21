//! Finds out that every input is read to its end and committed, also where stages read what others write.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which stages were found at the ends of their inputs.
///
/// What one stage writes last may reach the next between two looks, so the looks go in rounds, and one round for each stage and one more
/// must find all of them at their ends, each by a look that began in that round.
pub(crate) struct CaughtUp {
    round: AtomicU64,
    /// For each stage the last round in which it was at its end.
    at_end: Vec<AtomicU64>,
    rounds_wanted: u64,
    /// The round since which every one has been complete.
    since: AtomicU64,
}

impl CaughtUp {
    pub(super) fn new(stages: usize) -> Self {
        Self {
            round: AtomicU64::new(1),
            at_end: (0..stages).map(|_| AtomicU64::new(0)).collect(),
            rounds_wanted: stages as u64 + 1,
            since: AtomicU64::new(1),
        }
    }

    pub(super) fn begin_look(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// The look that began in `round` found the stage at its end, or not.
    pub(super) fn end_look(&self, stage: usize, round: u64, at_end: bool) {
        if at_end {
            self.at_end[stage].store(round, Ordering::Release);
        } else {
            self.restart();
        }
    }

    /// All rounds so far count for nothing.
    pub(super) fn restart(&self) {
        let next = self.round.fetch_add(1, Ordering::AcqRel) + 1;
        self.since.store(next, Ordering::Release);
    }

    pub(super) fn is_complete(&self) -> bool {
        let round = self.round.load(Ordering::Acquire);
        if !self.at_end.iter().all(|at_end| at_end.load(Ordering::Acquire) == round) {
            return false;
        }
        if round - self.since.load(Ordering::Acquire) + 1 >= self.rounds_wanted {
            return true;
        }
        // A look that began before now cannot count for the new round; one that fails meanwhile moves it further.
        let _ = self
            .round
            .compare_exchange(round, round + 1, Ordering::AcqRel, Ordering::Acquire);
        false
    }
}
