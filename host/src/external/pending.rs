//! Records that are answered and wait for their items, partition by partition, in order.
//!
//! A record leaves only when all before it have left and all its items are acknowledged or refused: so offsets never move over an item that is
//! not. After a way back receipts of before find nothing. Pure: no clock, no I/O.

use std::collections::{BTreeMap, VecDeque};

use super::{Claim, Receipt, Ticket};

/// A record and what is still to come for it.
struct Waiting<T> {
    record: T,
    /// Items that are not acknowledged.
    open: usize,
    refusal: Option<String>,
    bytes: usize,
}

/// The records of one partition.
struct Queue<T> {
    /// The number of the first one.
    first: u64,
    waiting: VecDeque<Waiting<T>>,
    claim: Claim,
}

/// All records of a worker that wait. `T` is a record.
pub(crate) struct Pending<T> {
    queues: BTreeMap<u64, Queue<T>>,
    records: usize,
    bytes: usize,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            records: 0,
            bytes: 0,
        }
    }
}

impl<T> Pending<T> {
    /// What the next record of a partition will be known by, and what its items count for.
    pub(crate) fn ticket(&mut self, slot: u64) -> (Ticket, Claim) {
        let queue = self.queue(slot);
        let record = queue.first + queue.waiting.len() as u64;
        (Ticket { slot, record }, queue.claim.clone())
    }

    fn queue(&mut self, slot: u64) -> &mut Queue<T> {
        self.queues.entry(slot).or_insert_with(|| Queue {
            first: 0,
            waiting: VecDeque::new(),
            claim: Claim::default(),
        })
    }

    /// Adds the next record of a partition, which waits for `open` items. `bytes`: what it and they hold.
    pub(crate) fn push(&mut self, slot: u64, record: T, open: usize, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
        self.queue(slot).waiting.push_back(Waiting {
            record,
            open,
            refusal: None,
            bytes,
        });
    }

    /// A record holds so many more bytes than was known when it was added.
    pub(crate) fn charge(&mut self, ticket: Ticket, bytes: usize) {
        if let Some(waiting) = self.waiting(ticket) {
            waiting.bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// The record that a ticket stands for, if it still waits.
    fn waiting(&mut self, Ticket { slot, record }: Ticket) -> Option<&mut Waiting<T>> {
        let queue = self.queues.get_mut(&slot)?;
        let place = usize::try_from(record.checked_sub(queue.first)?).ok()?;
        queue.waiting.get_mut(place)
    }

    /// An item was acknowledged or refused; the first refusal of a record is kept.
    pub(crate) fn receive(&mut self, receipt: Receipt) {
        if let Some(waiting) = self.waiting(receipt.ticket) {
            waiting.open = waiting.open.saturating_sub(1);
            if waiting.refusal.is_none() {
                waiting.refusal = receipt.refusal;
            }
        }
    }

    /// Takes the first record of a partition, if nothing is open for it any more, with why it was refused.
    pub(crate) fn take(&mut self, slot: u64) -> Option<(T, Option<String>)> {
        let queue = self.queues.get_mut(&slot)?;
        let waiting = queue.waiting.pop_front_if(|first| first.open == 0)?;
        queue.first += 1;
        self.records -= 1;
        self.bytes -= waiting.bytes;
        Some((waiting.record, waiting.refusal))
    }

    pub(crate) fn slots(&self) -> Vec<u64> {
        self.queues.keys().copied().collect()
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether records of one of these partitions wait.
    pub(crate) fn holds(&self, slots: &[u64]) -> bool {
        let waits = |slot: &u64| self.queues.get(slot).is_some_and(|queue| !queue.waiting.is_empty());
        slots.iter().any(waits)
    }

    /// Drops all records; they come again. Their items are not sent any more.
    pub(crate) fn clear(&mut self) {
        for queue in self.queues.values_mut() {
            // Later records must not be taken for earlier ones.
            queue.first += queue.waiting.len() as u64;
            queue.waiting.clear();
            std::mem::take(&mut queue.claim).give_up();
        }
        self.records = 0;
        self.bytes = 0;
    }

    /// Drops the records of a partition that is someone else's by now.
    pub(crate) fn forget(&mut self, slot: u64) {
        if let Some(queue) = self.queues.remove(&slot) {
            queue.claim.give_up();
            self.records -= queue.waiting.len();
            self.bytes -= queue.waiting.iter().map(|waiting| waiting.bytes).sum::<usize>();
        }
    }
}

impl<T> Drop for Pending<T> {
    /// Also where its worker panics: nothing is sent of what nobody waits for.
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receipt(ticket: Ticket, refusal: Option<&str>) -> Receipt {
        Receipt {
            ticket,
            refusal: refusal.map(str::to_owned),
        }
    }

    fn push(pending: &mut Pending<u32>, slot: u64, record: u32, open: usize) -> Ticket {
        let (ticket, _) = pending.ticket(slot);
        pending.push(slot, record, open, 10);
        ticket
    }

    #[test]
    fn a_record_waits_for_all_its_items_and_for_those_before_it() {
        let mut pending = Pending::default();
        let first = push(&mut pending, 0, 1, 2);
        let second = push(&mut pending, 0, 2, 1);
        push(&mut pending, 0, 3, 0);
        pending.receive(receipt(second, Some("no")));
        pending.receive(receipt(first, None));
        assert_eq!(pending.take(0), None);
        pending.receive(receipt(first, None));
        assert_eq!(pending.take(0), Some((1, None)));
        assert_eq!(pending.take(0), Some((2, Some("no".to_owned()))));
        assert_eq!(pending.take(0), Some((3, None)));
        assert_eq!((pending.records(), pending.bytes()), (0, 0));
    }

    #[test]
    fn what_a_record_is_charged_leaves_with_it() {
        let mut pending = Pending::default();
        let first = push(&mut pending, 0, 1, 0);
        let second = push(&mut pending, 0, 2, 0);
        pending.charge(second, 100);
        assert_eq!(pending.bytes(), 120);
        pending.take(0);
        pending.charge(first, 1000);
        assert_eq!(pending.bytes(), 110, "what has left is charged nothing");
        pending.take(0);
        assert_eq!(pending.bytes(), 0);
    }

    #[test]
    fn partitions_do_not_wait_for_each_other() {
        let mut pending = Pending::default();
        push(&mut pending, 0, 1, 1);
        push(&mut pending, 1, 2, 0);
        assert_eq!(pending.take(0), None);
        assert_eq!(pending.take(1), Some((2, None)));
        assert!(pending.holds(&[0]) && !pending.holds(&[1, 7]));
    }

    #[test]
    fn a_receipt_of_before_a_way_back_counts_for_nothing() {
        let mut pending = Pending::default();
        let (_, claim) = pending.ticket(0);
        let before = push(&mut pending, 0, 1, 1);
        pending.clear();
        assert!(claim.is_given_up());
        let after = push(&mut pending, 0, 1, 1);
        pending.receive(receipt(before, None));
        assert_eq!(pending.take(0), None);
        pending.receive(receipt(after, None));
        assert_eq!(pending.take(0), Some((1, None)));
        let gone = push(&mut pending, 0, 2, 1);
        pending.forget(0);
        pending.receive(receipt(gone, None));
        assert_eq!((pending.take(0), pending.records(), pending.bytes()), (None, 0, 0));
    }

    proptest! {
        /// However receipts, records and ways back mix, records leave in order and none with an open item.
        #[test]
        fn nothing_leaves_before_its_items(steps in prop::collection::vec((0..4u8, 0..3u64, 0..4usize), 0..200)) {
            let mut pending = Pending::default();
            let mut open: BTreeMap<Ticket, usize> = BTreeMap::new();
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for (step, slot, items) in steps {
                match step {
                    0 | 1 => {
                        let (ticket, _) = pending.ticket(slot);
                        pending.push(slot, ticket, items, items);
                        pending.charge(ticket, items);
                        open.insert(ticket, items);
                    }
                    2 => {
                        let pick = open.iter().filter(|(_, items)| **items > 0).nth(items).map(|(ticket, _)| *ticket);
                        if let Some(ticket) = pick {
                            *open.get_mut(&ticket).unwrap() -= 1;
                            pending.receive(receipt(ticket, None));
                        }
                    }
                    _ if items == 3 => {
                        pending.clear();
                        open.clear();
                    }
                    _ => {}
                }
                for slot in pending.slots() {
                    while let Some((ticket, _)) = pending.take(slot) {
                        prop_assert_eq!(open.remove(&ticket), Some(0));
                        prop_assert!(last.insert(slot, ticket.record).is_none_or(|before| before < ticket.record));
                    }
                }
                prop_assert_eq!(pending.records(), open.len());
                prop_assert_eq!(pending.bytes(), pending.queues.values().flat_map(|queue| &queue.waiting).map(|one| one.bytes).sum::<usize>());
            }
        }
    }
}
