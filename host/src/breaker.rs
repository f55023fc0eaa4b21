//! Decides when so many records fail that going on does more harm than stopping.
//!
//! It remembers how the last records went, one bit each. Work that is rolled back and repeated is counted once: `rolled_back` forgets what came
//! after the last commit. Pure: no clock, no I/O.

use crate::config::Share;

/// How the last records of one worker went.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    share: Share,
    now: Window,
    committed: Window,
}

#[derive(Debug, Clone)]
struct Window {
    /// True: the record failed.
    records: Vec<bool>,
    next: usize,
    failures: u32,
}

impl Window {
    fn push(&mut self, failed: bool) {
        let place = &mut self.records[self.next];
        self.failures = self.failures - u32::from(*place) + u32::from(failed);
        *place = failed;
        self.next = (self.next + 1) % self.records.len();
    }
}

impl Breaker {
    pub(crate) fn new(share: Share) -> Self {
        let window = Window {
            records: vec![false; share.of.max(1) as usize],
            next: 0,
            failures: 0,
        };
        Self {
            share,
            now: window.clone(),
            committed: window,
        }
    }

    pub(crate) fn passed(&mut self) {
        self.now.push(false);
    }

    /// A record has failed. True: more of the last ones have than may.
    pub(crate) fn failed(&mut self) -> bool {
        self.now.push(true);
        self.now.failures > self.share.failures
    }

    pub(crate) fn committed(&mut self) {
        self.committed.clone_from(&self.now);
    }

    /// What came after the last commit comes again.
    pub(crate) fn rolled_back(&mut self) {
        self.now.clone_from(&self.committed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_opens_at_one_failure_more_than_may_be() {
        let mut breaker = Breaker::new(Share { failures: 2, of: 5 });
        assert!(!breaker.failed());
        assert!(!breaker.failed());
        breaker.passed();
        assert!(breaker.failed());
    }

    #[test]
    fn what_is_repeated_is_counted_once() {
        let mut breaker = Breaker::new(Share { failures: 2, of: 5 });
        for _ in 0..10 {
            assert!(!breaker.failed());
            assert!(!breaker.failed());
            breaker.rolled_back();
        }
        breaker.failed();
        breaker.committed();
        breaker.rolled_back();
        assert!(!breaker.failed());
        assert!(breaker.failed());
    }

    proptest! {
        /// It opens exactly where a look at all of the last records would.
        #[test]
        fn it_counts_the_last_records_and_no_others(
            failures in 0..20u32, more in 1..30u32, records in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let share = Share { failures, of: failures + more };
            let mut breaker = Breaker::new(share);
            for (index, failed) in records.iter().enumerate() {
                let last = &records[(index + 1).saturating_sub(share.of as usize)..=index];
                let expected = last.iter().filter(|failed| **failed).count() > failures as usize;
                if *failed {
                    prop_assert_eq!(breaker.failed(), expected);
                } else {
                    breaker.passed();
                }
            }
        }
    }
}
