//! Every offset that a group ever committed, in order, read from Kafka's own `__consumer_offsets`.
//!
//! Asking for the committed offset again and again could miss a step back between two answers; the log cannot.

use super::kafka::{self, Placed};

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// The commits of a group, oldest first, without those of aborted transactions.
pub(crate) fn commits(group: &str) -> Vec<Commit> {
    kafka::read_committed("__consumer_offsets")
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

/// Kafka's encoding: big-endian numbers, strings after their length.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a str> {
        let length = self.i16()?;
        str::from_utf8(self.take(usize::try_from(length).ok()?)?).ok()
    }
}
