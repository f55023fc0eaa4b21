//! Decides which offsets may be committed.
//!
//! A partition's position is the offset behind the last record that is done, with every earlier one done too. Records that a transaction
//! rolled back are done no more: `rewind` says where to begin again. The consumer's own idea of its position is never asked, it moves on
//! errors. Pure: no clock, no I/O.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Partition {
    /// The next offset that may arrive; lower ones were seen.
    expected: i64,
    /// Everything before this is done.
    done: i64,
    /// What the group has committed; none before the first commit.
    committed: Option<i64>,
    /// Records that arrived and are not done.
    outstanding: usize,
}

/// The positions of the partitions that a worker has. `K` names a partition.
#[derive(Debug)]
pub(crate) struct Positions<K> {
    partitions: HashMap<K, Partition>,
}

impl<K> Default for Positions<K> {
    fn default() -> Self {
        Self {
            partitions: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Positions<K> {
    /// Begins a partition at `start`. `committed` is none where the group has none: the start itself is committed then, so that a
    /// start at the end of the topic stays where it was chosen.
    pub(crate) fn begin(&mut self, partition: K, start: i64, committed: Option<i64>) {
        let begun = Partition {
            expected: start,
            done: start,
            committed,
            outstanding: 0,
        };
        self.partitions.insert(partition, begun);
    }

    pub(crate) fn end(&mut self, partition: &K) {
        self.partitions.remove(partition);
    }

    /// A record arrived. False: it was seen before, or the partition is not ours; it must be dropped.
    pub(crate) fn arrived(&mut self, partition: &K, offset: i64) -> bool {
        match self.partitions.get_mut(partition) {
            Some(known) if offset >= known.expected => {
                known.expected = offset + 1;
                known.outstanding += 1;
                true
            }
            _ => false,
        }
    }

    /// Nothing is left before `offset`: what lies between is control records. True: the position has moved.
    pub(crate) fn passed(&mut self, partition: &K, offset: i64) -> bool {
        match self.partitions.get_mut(partition) {
            Some(known) if offset > known.expected => {
                known.expected = offset;
                known.settle();
                true
            }
            _ => false,
        }
    }

    /// The record at `offset` is done, and so are all before it.
    pub(crate) fn finished(&mut self, partition: &K, offset: i64) {
        if let Some(known) = self.partitions.get_mut(partition) {
            known.done = known.done.max(offset + 1);
            known.outstanding = known.outstanding.saturating_sub(1);
            known.settle();
        }
    }

    /// Where the partition stands: everything before is done.
    #[cfg(test)]
    fn done(&self, partition: &K) -> Option<i64> {
        self.partitions.get(partition).map(|known| known.done)
    }

    /// The offsets that a commit has to move.
    pub(crate) fn to_commit(&self) -> Vec<(K, i64)> {
        self.partitions
            .iter()
            .filter(|(_, known)| known.committed != Some(known.done))
            .map(|(partition, known)| (partition.clone(), known.done))
            .collect()
    }

    /// These offsets are committed now.
    pub(crate) fn committed(&mut self, offsets: &[(K, i64)]) {
        for (partition, offset) in offsets {
            if let Some(known) = self.partitions.get_mut(partition) {
                known.committed = Some(*offset);
            }
        }
    }

    /// Begins again behind what the group has committed, or where the partition began if it has committed nothing. Returns the offset to read from.
    pub(crate) fn rewind(&mut self, partition: &K, committed: Option<i64>, start: i64) -> i64 {
        let from = committed.unwrap_or(start);
        self.begin(partition.clone(), from, committed);
        from
    }
}

impl Partition {
    fn settle(&mut self) {
        if self.outstanding == 0 {
            self.done = self.done.max(self.expected);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(start: i64) -> Positions<u8> {
        let mut positions = Positions::default();
        positions.begin(0, start, Some(start));
        positions
    }

    #[test]
    fn a_record_that_is_not_done_holds_the_commit_back() {
        let mut positions = at(10);
        assert!(positions.arrived(&0, 10));
        assert!(positions.arrived(&0, 11));
        positions.finished(&0, 10);
        assert_eq!(positions.to_commit(), [(0, 11)]);
    }

    #[test]
    fn a_record_that_was_seen_is_dropped() {
        let mut positions = at(10);
        assert!(positions.arrived(&0, 10));
        assert!(!positions.arrived(&0, 10));
        assert!(!positions.arrived(&0, 9));
        assert!(!positions.arrived(&1, 10));
    }

    #[test]
    fn control_records_are_passed_once_all_before_them_is_done() {
        let mut positions = at(0);
        assert!(positions.arrived(&0, 0));
        positions.passed(&0, 2);
        assert_eq!(positions.to_commit(), []);
        positions.finished(&0, 0);
        assert_eq!(positions.to_commit(), [(0, 2)]);
    }

    #[test]
    fn a_start_without_a_committed_offset_is_committed() {
        let mut positions = Positions::default();
        positions.begin(0_u8, 7, None);
        assert_eq!(positions.to_commit(), [(0, 7)]);
        positions.committed(&[(0, 7)]);
        assert_eq!(positions.to_commit(), []);
    }

    #[test]
    fn a_rewind_takes_everything_back() {
        let mut positions = at(5);
        assert!(positions.arrived(&0, 5));
        positions.finished(&0, 5);
        assert_eq!(positions.rewind(&0, Some(5), 0), 5);
        assert_eq!(positions.to_commit(), []);
        assert!(positions.arrived(&0, 5));
    }

    proptest! {
        /// However arrivals, ends and gaps mix, no offset is committed before every record below it is done.
        #[test]
        fn nothing_undone_is_ever_committed(steps in prop::collection::vec((0..3u8, 1..4i64), 0..100)) {
            let mut positions = at(0);
            let (mut next, mut arrived, mut done) = (0_i64, std::collections::VecDeque::new(), Vec::new());
            for (step, gap) in steps {
                match step {
                    0 => {
                        next += gap;
                        prop_assert!(positions.arrived(&0, next));
                        arrived.push_back(next);
                        next += 1;
                    }
                    1 => {
                        if let Some(offset) = arrived.pop_front() {
                            positions.finished(&0, offset);
                            done.push(offset);
                        }
                    }
                    _ => {
                        next += gap;
                        positions.passed(&0, next);
                    }
                }
                let position = positions.done(&0).unwrap();
                prop_assert!(arrived.front().is_none_or(|undone| position <= *undone));
                prop_assert!(done.last().is_none_or(|last| position > *last));
            }
        }
    }
}
