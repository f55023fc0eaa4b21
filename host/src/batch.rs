//! Decides where the stream of a partition is cut into batches: by count, by bytes, and by the age of the oldest record.
//!
//! Records of one partition stay in order and a batch never mixes partitions. Where a cut falls has no meaning for what comes out.
//! Pure: the clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) records_max: usize,
    /// Of keys, values and headers; one record alone may be larger.
    pub(crate) bytes_max: usize,
    /// How long the first record of a batch waits for others.
    pub(crate) wait: Duration,
}

struct Pending<T> {
    items: Vec<T>,
    bytes: usize,
    since: Instant,
}

/// Gathers records by partition until a batch is due. `K` names a partition.
pub(crate) struct Batcher<K, T> {
    bounds: Bounds,
    pending: HashMap<K, Pending<T>>,
    full: VecDeque<(K, Vec<T>)>,
}

impl<K: Copy + Eq + Hash, T> Batcher<K, T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            pending: HashMap::new(),
            full: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, partition: K, item: T, bytes: usize, now: Instant) {
        let pending = self.pending.entry(partition).or_insert_with(|| Pending {
            items: Vec::new(),
            bytes: 0,
            since: now,
        });
        if !pending.items.is_empty() && pending.bytes + bytes > self.bounds.bytes_max {
            let items = std::mem::take(&mut pending.items);
            self.full.push_back((partition, items));
            pending.bytes = 0;
        }
        if pending.items.is_empty() {
            pending.since = now;
        }
        pending.items.push(item);
        pending.bytes += bytes;
        if pending.items.len() >= self.bounds.records_max || pending.bytes >= self.bounds.bytes_max {
            self.full.push_back((partition, std::mem::take(&mut pending.items)));
            pending.bytes = 0;
        }
    }

    /// The next batch that is full or old enough.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(K, Vec<T>)> {
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        let (partition, pending) = self
            .pending
            .iter_mut()
            .filter(|(_, pending)| !pending.items.is_empty())
            .min_by_key(|(_, pending)| pending.since)?;
        if now.saturating_duration_since(pending.since) < self.bounds.wait {
            return None;
        }
        pending.bytes = 0;
        Some((*partition, std::mem::take(&mut pending.items)))
    }

    /// When the oldest record's wait is over; none when nothing waits.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending
            .values()
            .filter(|pending| !pending.items.is_empty())
            .map(|pending| pending.since + self.bounds.wait)
            .min()
    }

    /// Throws away what is held of a partition.
    pub(crate) fn forget(&mut self, partition: K) {
        self.pending.remove(&partition);
        self.full.retain(|(other, _)| *other != partition);
    }

    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.full.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batcher(records_max: usize, bytes_max: usize, wait_ms: u64) -> Batcher<u8, u32> {
        Batcher::new(Bounds {
            records_max,
            bytes_max,
            wait: Duration::from_millis(wait_ms),
        })
    }

    #[test]
    fn a_batch_is_cut_by_count() {
        let now = Instant::now();
        let mut batcher = batcher(2, 1000, 60_000);
        for item in 0..5 {
            batcher.push(0, item, 1, now);
        }
        assert_eq!(batcher.next(now), Some((0, vec![0, 1])));
        assert_eq!(batcher.next(now), Some((0, vec![2, 3])));
        assert_eq!(batcher.next(now), None);
    }

    #[test]
    fn a_batch_is_cut_before_it_exceeds_its_bytes() {
        let now = Instant::now();
        let mut batcher = batcher(100, 10, 60_000);
        for (item, bytes) in [(0, 4), (1, 4), (2, 4), (3, 50), (4, 1)] {
            batcher.push(0, item, bytes, now);
        }
        assert_eq!(batcher.next(now), Some((0, vec![0, 1])));
        assert_eq!(batcher.next(now), Some((0, vec![2])));
        assert_eq!(batcher.next(now), Some((0, vec![3])));
        assert_eq!(batcher.next(now), None);
    }

    #[test]
    fn a_record_waits_no_longer_than_it_may() {
        let now = Instant::now();
        let mut batcher = batcher(100, 1000, 5);
        batcher.push(0, 7, 1, now);
        assert_eq!(batcher.next(now + Duration::from_millis(4)), None);
        assert_eq!(batcher.due(), Some(now + Duration::from_millis(5)));
        assert_eq!(batcher.next(now + Duration::from_millis(5)), Some((0, vec![7])));
        assert_eq!(batcher.due(), None);
    }

    proptest! {
        /// Whatever the bounds, each partition's records come out once and in order, and every batch keeps the bounds.
        #[test]
        fn nothing_is_lost_doubled_or_reordered(
            records in prop::collection::vec((0..3u8, 1..40usize), 0..200),
            records_max in 1..10usize,
            bytes_max in 1..100usize,
        ) {
            let now = Instant::now();
            let mut batcher = batcher(records_max, bytes_max, 0);
            let mut out: HashMap<u8, Vec<u32>> = HashMap::new();
            for (index, (partition, bytes)) in records.iter().enumerate() {
                batcher.push(*partition, u32::try_from(index).unwrap(), *bytes, now);
            }
            while let Some((partition, items)) = batcher.next(now) {
                prop_assert!(!items.is_empty() && items.len() <= records_max);
                let bytes: usize = items.iter().map(|item| records[*item as usize].1).sum();
                prop_assert!(bytes <= bytes_max || items.len() == 1);
                out.entry(partition).or_default().extend(items);
            }
            for partition in 0..3 {
                let expected: Vec<u32> = (0..records.len())
                    .filter(|index| records[*index].0 == partition)
                    .map(|index| u32::try_from(index).unwrap())
                    .collect();
                prop_assert_eq!(out.remove(&partition).unwrap_or_default(), expected);
            }
        }
    }
}
