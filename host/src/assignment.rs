//! The partitions that a worker has, each under a number of its own.
//!
//! A number is never used twice, so what belongs to an earlier assignment of the same partition can never be mistaken for the present one.
//! Positions are kept here too, with the text that was committed beside each offset.

use std::collections::{BTreeMap, HashMap};

use crate::kafka::consumer::{Committed, TopicPartition};
use crate::positions::Positions;

/// Numbers an assigned partition.
pub(crate) type Slot = u64;

struct Assigned {
    partition: TopicPartition,
    /// Where it began when the group had committed nothing.
    start: i64,
    /// What the group has committed with the offset.
    metadata: String,
}

/// All partitions of one worker.
#[derive(Default)]
pub(crate) struct Assignment {
    next: Slot,
    assigned: BTreeMap<Slot, Assigned>,
    by_source: HashMap<(usize, i32), Slot>,
    pub(crate) positions: Positions<Slot>,
}

impl Assignment {
    pub(crate) fn add(&mut self, partition: TopicPartition, start: i64, committed: Committed) {
        let slot = self.next;
        self.next += 1;
        self.positions.begin(slot, start, committed.offset);
        let assigned = Assigned {
            partition,
            start,
            metadata: committed.metadata,
        };
        self.assigned.insert(slot, assigned);
        self.by_source.clear();
    }

    /// Removes a partition and returns its number.
    pub(crate) fn remove(&mut self, partition: &TopicPartition) -> Option<Slot> {
        let slot = self.slot(partition)?;
        self.assigned.remove(&slot);
        self.positions.end(&slot);
        self.by_source.clear();
        Some(slot)
    }

    pub(crate) fn slot(&self, partition: &TopicPartition) -> Option<Slot> {
        self.assigned
            .iter()
            .find(|(_, assigned)| assigned.partition == *partition)
            .map(|(slot, _)| *slot)
    }

    /// The number of the partition that a message came from; `source` identifies it, `name` is asked the first time only.
    pub(crate) fn slot_of(&mut self, source: (usize, i32), name: impl FnOnce() -> TopicPartition) -> Option<Slot> {
        if let Some(slot) = self.by_source.get(&source) {
            return Some(*slot);
        }
        let slot = self.slot(&name())?;
        self.by_source.insert(source, slot);
        Some(slot)
    }

    pub(crate) fn partition(&self, slot: Slot) -> Option<&TopicPartition> {
        self.assigned.get(&slot).map(|assigned| &assigned.partition)
    }

    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.assigned
            .values()
            .map(|assigned| assigned.partition.clone())
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.assigned.is_empty()
    }

    /// The offsets that a commit has to move.
    pub(crate) fn to_commit(&self) -> Vec<(TopicPartition, i64)> {
        self.positions
            .to_commit()
            .into_iter()
            .filter_map(|(slot, offset)| Some((self.partition(slot)?.clone(), offset)))
            .collect()
    }

    /// These offsets were committed, with this text beside them.
    pub(crate) fn committed(&mut self, offsets: &[(TopicPartition, i64)], metadata: &str) {
        for (partition, offset) in offsets {
            let Some(slot) = self.slot(partition) else {
                continue;
            };
            self.positions.committed(&[(slot, *offset)]);
            if let Some(assigned) = self.assigned.get_mut(&slot) {
                metadata.clone_into(&mut assigned.metadata);
            }
        }
    }

    /// The text beside a partition's committed offset.
    pub(crate) fn metadata(&self, partition: &TopicPartition) -> Option<&str> {
        let assigned = self.assigned.get(&self.slot(partition)?)?;
        Some(&assigned.metadata)
    }

    /// Goes back to what the group has committed; returns where to read from.
    pub(crate) fn rewind(&mut self, partition: &TopicPartition, committed: &Committed) -> Option<i64> {
        let slot = self.slot(partition)?;
        let assigned = self.assigned.get_mut(&slot)?;
        assigned.metadata.clone_from(&committed.metadata);
        Some(self.positions.rewind(&slot, committed.offset, assigned.start))
    }
}
