//! Records that carry another record: a replayed one, and a dead letter itself.
//!
//! Such a record is the other one with headers of the host behind its own. Whoever packs, forwards or copies it must see the other one: its own
//! headers and its own timestamp, and the plugin its first position. What commits offsets and keeps positions goes by the carrier's.

use super::ffi::Message;
use crate::dead_letter::{self, Original};

/// The record that a message carries.
pub(crate) struct StandsFor {
    own_headers: usize,
    /// None: the host's headers are damaged, and nothing more is known than that they are not the record's own.
    original: Option<Original>,
}

impl Message {
    /// Takes a record of a replay topic for the one that was replayed. A record without the host's mark stays as it is.
    pub(crate) fn stand_for_replayed(&mut self) {
        let Some(mark) = dead_letter::parse_mark(self.headers()) else {
            return;
        };
        self.stands_for = Some(Box::new(StandsFor {
            own_headers: mark.own_headers,
            original: mark.original,
        }));
    }

    /// Takes a dead letter for the record that it holds.
    pub(crate) fn stand_for(&mut self, own_headers: usize, original: Original) {
        self.stands_for = Some(Box::new(StandsFor {
            own_headers,
            original: Some(original),
        }));
    }

    /// Where the carried record was read first; none where the message carries no other.
    pub(crate) fn original(&self) -> Option<&Original> {
        self.stands_for.as_ref()?.original.as_ref()
    }

    /// Milliseconds since the epoch; none where the record has no timestamp.
    pub(crate) fn timestamp_ms(&self) -> Option<i64> {
        match self.original() {
            Some(original) => original.timestamp_ms,
            None => self.written_timestamp_ms(),
        }
    }

    /// How many of the headers are the record's own.
    pub(super) fn own_headers(&self) -> usize {
        self.stands_for
            .as_ref()
            .map_or(usize::MAX, |stands_for| stands_for.own_headers)
    }
}
