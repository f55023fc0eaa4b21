//! The batch that a worker has in hand, and how it is taken apart when a call fails.
//!
//! A call that faults is repeated in halves until the poisonous record is alone. Parts are done strictly in order, one call at a time, so
//! that the worker can commit and serve the group between any two. Pure: no clock of its own, no I/O.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::config::Retry;

/// What is left of a batch. `T` is a record.
pub(crate) struct Work<T> {
    /// Those that are not done; never written to, so that they lie in one piece.
    records: VecDeque<T>,
    /// How many were done before them.
    done: usize,
    /// Parts still to be called, the next one last.
    parts: Vec<Range<usize>>,
    /// Repetitions that the first record of the next part has asked for.
    retries: u32,
    held_until: Option<Instant>,
}

impl<T> Work<T> {
    pub(crate) fn new(records: Vec<T>) -> Self {
        let whole = 0..records.len();
        Self {
            parts: if records.is_empty() { Vec::new() } else { vec![whole] },
            records: records.into(),
            done: 0,
            retries: 0,
            held_until: None,
        }
    }

    /// The part to call next; none when the batch is done.
    pub(crate) fn part(&self) -> Option<&[T]> {
        let part = self.parts.last()?;
        let (records, _) = self.records.as_slices();
        records.get(part.start - self.done..part.end - self.done)
    }

    /// The next part is not called before this.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// How often the first record of the next part was tried before.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// The first `count` records of the next part are done.
    pub(crate) fn advance(&mut self, count: usize) {
        if count > 0 {
            self.retries = 0;
            self.held_until = None;
        }
        self.records.drain(..count.min(self.records.len()));
        self.done += count;
        self.shorten(count);
    }

    fn shorten(&mut self, count: usize) {
        if let Some(part) = self.parts.last_mut() {
            part.start += count;
            if part.start >= part.end {
                self.parts.pop();
            }
        }
    }

    /// Takes the first record of the next part, which is done with here.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.parts.last()?;
        let record = self.records.pop_front()?;
        self.retries = 0;
        self.held_until = None;
        self.done += 1;
        self.shorten(1);
        Some(record)
    }

    /// The call of the next part failed: calls its halves instead. False: it has one record only.
    pub(crate) fn halve(&mut self) -> bool {
        let Some(part) = self.parts.last() else {
            return false;
        };
        let middle = part.start + part.len() / 2;
        self.split(middle - part.start)
    }

    /// Makes the first `count` records of the next part a part of their own. False: it has no more than that, or `count` is 0.
    pub(crate) fn split(&mut self, count: usize) -> bool {
        match self.parts.pop() {
            Some(part) if count > 0 && part.len() > count => {
                let middle = part.start + count;
                self.parts.push(middle..part.end);
                self.parts.push(part.start..middle);
                true
            }
            Some(part) => {
                self.parts.push(part);
                false
            }
            None => false,
        }
    }

    /// The first record of the next part asks for another try. False: it has had all that it may. Each wait is twice the one before.
    pub(crate) fn hold(&mut self, now: Instant, retry: Retry) -> bool {
        if self.retries >= retry.limit {
            return false;
        }
        let doubled = retry.backoff.saturating_mul(2_u32.saturating_pow(self.retries));
        self.held_until = Some(now + doubled.min(Retry::BACKOFF_MAX));
        self.retries += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_tried_again_a_bounded_number_of_times_and_ever_later() {
        let now = Instant::now();
        let mut work = Work::new(vec![0, 1]);
        let retry = Retry {
            limit: 4,
            backoff: Duration::from_secs(2),
        };
        for seconds in [2, 4, 8, 10] {
            assert!(work.hold(now, retry));
            assert_eq!(work.held_until(), Some(now + Duration::from_secs(seconds)));
        }
        assert!(!work.hold(now, retry));
        work.advance(1);
        assert_eq!(
            (work.part(), work.retries(), work.held_until()),
            (Some(&[1][..]), 0, None)
        );
    }

    proptest! {
        /// Whichever records are poison, each of them is found alone, and all others are done once and in order.
        #[test]
        fn exactly_the_poison_is_isolated(len in 0..300usize, poison in prop::collection::btree_set(0..300usize, 0..5)) {
            let mut work = Work::new((0..len).collect());
            let (mut done, mut dead, mut calls) = (Vec::<usize>::new(), BTreeSet::new(), 0);
            while let Some(part) = work.part().map(<[usize]>::to_vec) {
                calls += 1;
                if !part.iter().any(|record| poison.contains(record)) {
                    done.extend(&part);
                    work.advance(part.len());
                } else if !work.halve() {
                    prop_assert_eq!(part.len(), 1);
                    dead.insert(part[0]);
                    work.advance(1);
                }
            }
            prop_assert!(calls <= 1 + 20 * (poison.len() + 1));
            prop_assert_eq!(dead, poison.into_iter().filter(|record| *record < len).collect::<BTreeSet<_>>());
            prop_assert!(done.is_sorted());
        }
    }
}
