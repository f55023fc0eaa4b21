//! What the proxy saw: every bulk with its items, when it was there, and what was answered; and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Bulk;
use super::bulk::Item;

/// A bulk that the proxy has seen.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) items: Vec<Item>,
    /// What the proxy did to it.
    pub(crate) fault: &'static str,
    /// Places in the order of all beginnings and ends.
    began: usize,
    ended: Option<usize>,
    /// Status of the answer, where the client got a whole one.
    pub(crate) status: Option<u16>,
    /// Status of each item, in their order, where the answer has them.
    pub(crate) statuses: Vec<u16>,
}

impl Record {
    /// The items with what was answered for them; nothing where that is not known to the client.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&Item, u16)> {
        self.items.iter().zip(self.statuses.iter().copied())
    }
}

#[derive(Default)]
pub(super) struct Recorder(Mutex<(usize, Vec<Record>)>);

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, (usize, Vec<Record>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bulk whose number is that of no other; numbers come in any order.
    pub(super) fn began(&self, bulk: &Bulk, fault: &'static str) {
        let (tick, records) = &mut *self.lock();
        *tick += 1;
        let record = Record {
            items: bulk.items.clone(),
            fault,
            began: *tick,
            ended: None,
            status: None,
            statuses: Vec::new(),
        };
        if records.len() <= bulk.number {
            let nothing = Record {
                items: Vec::new(),
                ended: Some(*tick),
                ..record.clone()
            };
            records.resize(bulk.number + 1, nothing);
        }
        records[bulk.number] = record;
    }

    pub(super) fn answered(&self, number: usize, status: u16, statuses: Vec<u16>) {
        let record = &mut self.lock().1[number];
        record.status = Some(status);
        record.statuses = statuses;
    }

    /// The first call counts.
    pub(super) fn ended(&self, number: usize) {
        let (tick, records) = &mut *self.lock();
        *tick += 1;
        records[number].ended.get_or_insert(*tick);
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.lock().1.clone()
    }
}

/// Whether an item of this status is sent again.
fn is_again(status: u16) -> bool {
    matches!(status, 401 | 403 | 429 | 500 | 502 | 503 | 504)
}

/// Fails if two bulks with the same document were ever under way at once.
#[track_caller]
pub(crate) fn assert_one_bulk_at_a_time(records: &[Record]) {
    let mut by_document: BTreeMap<(String, String), Vec<(usize, usize)>> = BTreeMap::new();
    for record in records {
        let documents: BTreeSet<_> = record.items.iter().map(Item::document).collect();
        for document in documents {
            let ended = record.ended.unwrap_or(usize::MAX);
            by_document.entry(document).or_default().push((record.began, ended));
        }
    }
    for (document, mut times) in by_document {
        times.sort_unstable();
        let overlapping = times.windows(2).find(|pair| pair[1].0 < pair[0].1);
        assert!(overlapping.is_none(), "two bulks with {document:?} at once");
    }
}

/// Fails if an item was sent again after it had been answered for good, unless an earlier item of its document, in the same bulk, had to be: then
/// both come again, in their order. Items are told apart by their bytes, so a test that asks this sends nothing twice.
#[track_caller]
pub(crate) fn assert_only_failed_items_came_again(records: &[Record]) {
    let mut done: BTreeMap<&Item, u16> = BTreeMap::new();
    for record in in_order(records) {
        for item in &record.items {
            if let Some(status) = done.get(item) {
                panic!("{} {} came again after {status}", item.action, item.id);
            }
        }
        let mut held = BTreeSet::new();
        for (item, status) in record.outcomes() {
            if is_again(status) {
                held.insert(item.document());
            } else if !held.contains(&item.document()) {
                done.insert(item, status);
            }
        }
    }
}

/// Fails if the last times that the items of a document were applied are not in their order. `order` tells an item's place in it.
#[track_caller]
pub(crate) fn assert_applied_in_order(records: &[Record], order: impl Fn(&Item) -> u64) {
    let mut last: BTreeMap<(String, String), BTreeMap<u64, usize>> = BTreeMap::new();
    let records = in_order(records).into_iter();
    let outcomes = records
        .flat_map(Record::outcomes)
        .filter(|(_, status)| !is_again(*status));
    for (time, (item, _)) in outcomes.enumerate() {
        last.entry(item.document()).or_default().insert(order(item), time);
    }
    for (document, times) in last {
        let times: Vec<_> = times.into_iter().collect();
        let wrong = times.windows(2).find(|pair| pair[1].1 < pair[0].1);
        assert!(
            wrong.is_none(),
            "{document:?}: {wrong:?} were applied in the wrong order"
        );
    }
}

fn in_order(records: &[Record]) -> Vec<&Record> {
    let mut records: Vec<&Record> = records.iter().collect();
    records.sort_by_key(|record| record.began);
    records
}

#[cfg(test)]
mod tests {
    use super::{Recorder, assert_applied_in_order, assert_one_bulk_at_a_time, assert_only_failed_items_came_again};
    use crate::support::es_proxy::Bulk;
    use crate::support::es_proxy::bulk::parse;

    fn bulk(number: usize, ids: &[u64]) -> Bulk {
        let line = |id: &u64| {
            format!(
                "{{\"delete\":{{\"_index\":\"i\",\"_id\":\"{}\",\"version\":{id}}}}}\n",
                id % 10
            )
        };
        let body: String = ids.iter().map(line).collect();
        Bulk {
            number,
            bytes: body.len(),
            items: parse(body.as_bytes(), None),
        }
    }

    /// Each bulk with the statuses of its items, one after the other.
    fn told(bulks: &[(&[u64], &[u16])]) -> Recorder {
        let recorder = Recorder::default();
        for (number, (ids, statuses)) in bulks.iter().enumerate() {
            recorder.began(&bulk(number, ids), "passed");
            recorder.answered(number, 200, statuses.to_vec());
            recorder.ended(number);
        }
        recorder
    }

    #[test]
    fn retries_of_what_failed_pass() {
        let records = told(&[(&[1, 2, 3], &[200, 429, 200]), (&[2, 12], &[200, 200])]).records();
        assert_one_bulk_at_a_time(&records);
        assert_only_failed_items_came_again(&records);
        assert_applied_in_order(&records, |item| item.version.unwrap());
    }

    #[test]
    #[should_panic(expected = "came again after 200")]
    fn a_retry_of_what_was_applied_is_found() {
        assert_only_failed_items_came_again(&told(&[(&[1, 2], &[200, 429]), (&[1, 2], &[200, 200])]).records());
    }

    /// The later one is applied at once, the earlier one behind it: then the later one has to come again.
    #[test]
    fn an_item_behind_a_failed_one_of_its_document_comes_again() {
        let records = told(&[(&[2, 12], &[429, 200]), (&[2, 12], &[200, 200])]).records();
        assert_only_failed_items_came_again(&records);
        assert_applied_in_order(&records, |item| item.version.unwrap());
    }

    #[test]
    #[should_panic(expected = "in the wrong order")]
    fn an_item_that_overtakes_another_is_found() {
        let records = told(&[(&[2, 12], &[429, 200]), (&[2], &[200])]).records();
        assert_applied_in_order(&records, |item| item.version.unwrap());
    }

    #[test]
    #[should_panic(expected = "at once")]
    fn two_bulks_with_one_document_at_once_are_found() {
        let recorder = Recorder::default();
        for number in 0..2 {
            recorder.began(&bulk(number, &[1]), "passed");
        }
        assert_one_bulk_at_a_time(&recorder.records());
    }
}
