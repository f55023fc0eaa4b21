//! Every offset that a group ever committed, in order, read from Kafka's own `__consumer_offsets`.
//!
//! Asking for the committed offset again and again could miss a step back between two answers; the log cannot.

use super::broker::Fields;
use super::kafka::{Kafka, Placed};

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// The commits of a group, oldest first, without those of aborted transactions.
pub(crate) fn commits(kafka: &Kafka, group: &str) -> Vec<Commit> {
    kafka
        .read_committed("__consumer_offsets")
        .iter()
        .filter_map(|placed| commit(placed, group))
        .collect()
}

fn commit(placed: &Placed, group: &str) -> Option<Commit> {
    let mut key = Fields(placed.record.key.as_deref()?);
    // Versions 0 and 1 are offset commits, 2 is the group's own record, later ones are of other protocols.
    if key.i16()? > 1 || key.string()? != group {
        return None;
    }
    let (topic, partition) = (key.string()?.to_owned(), key.i32()?);
    // No value: the offset expired or was deleted.
    let mut value = Fields(placed.record.value.as_deref()?);
    value.i16()?;
    Some(Commit {
        topic,
        partition,
        offset: value.i64()?,
    })
}
