//! The ways out of the host that are no Kafka topic: what is sent is acknowledged first, and only then does the record's transaction begin.
//!
//! A worker turns what a plugin wants sent into [`Item`]s, hands them to the lanes of their output ([`lanes`]), and keeps the record in hand
//! ([`pending`]) until every item of it is acknowledged or refused. A lane sends one request at a time and tries again what passes, in order and
//! without end. To add a kind of output: write a [`Sender`], give it a variant in [`config::Target`](crate::config::Target) and in [`Exit`], and
//! build its items in [`Exit::parcel`]. Nothing here knows Kafka, and nothing here knows what an item is.

mod exits;
mod health;
pub(crate) mod lanes;
pub(crate) mod pending;

pub(crate) use exits::{Clients, Exit, ExitKind, Exits, Parcel};
pub(crate) use health::Health;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What takes items out of the host. The lanes of an output share one.
pub(crate) trait Sender: Send + Sync + 'static {
    /// What an item holds.
    type Content: Send + Sync + 'static;

    /// Tries every item once, in this order, and answers for each, in this order. What stands behind an item that is to be tried again and must
    /// not overtake it need not be sent: it is answered `Again` too. Never waits longer than its own timeout, and never tries again by itself.
    fn send(&self, items: &[Item<Self::Content>]) -> impl Future<Output = Vec<Answer>> + Send;

    /// How many items make a request, and how long is waited.
    fn bounds(&self) -> Bounds;
}

/// What makes a request, and when it is tried again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) items_max: usize,
    /// One larger item is a request of its own.
    pub(crate) bytes_max: usize,
    /// How long the first item waits for others.
    pub(crate) age: Duration,
    /// The first wait before a new try; each is twice the one before, up to some seconds.
    pub(crate) wait: Duration,
}

/// One thing to send.
pub(crate) struct Item<C> {
    pub(crate) content: C,
    /// Items with the same number keep their order.
    pub(crate) order: u64,
    pub(crate) bytes: usize,
    pub(crate) ticket: Ticket,
    pub(crate) claim: Claim,
    /// How often it was tried before by its lane.
    pub(crate) tries: u32,
    /// How often the server failed on this item, where it did.
    pub(crate) failing: Option<Failing>,
    /// The same may have been sent before: its record was read before and came again.
    pub(crate) is_repeated: bool,
}

/// What [`Trouble::kind`] is where the server itself failed on one item, and took or refused others of the request.
pub(crate) const FAILED: &str = "500";

/// The failures of a server on one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failing {
    pub(crate) times: u32,
    /// When the first of them was.
    pub(crate) since: Instant,
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is where it should be; the word is what metrics call it.
    Done(&'static str),
    /// It will never be taken: its record becomes a dead letter with these words.
    Refused(String),
    /// It may be taken later.
    Again(Trouble),
}

/// Why something may only be taken later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// What metrics call it: a status such as `429`, or a word.
    pub(crate) kind: &'static str,
    /// What happened, and what to do about it where a person has to.
    pub(crate) text: String,
}

/// Says for which record an item was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    /// The partition's number, as `assignment` gives it.
    pub(crate) slot: u64,
    /// The record's number among those of the partition.
    pub(crate) record: u64,
}

/// What became of an item, on its way back to the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) ticket: Ticket,
    /// Why it was refused; none where it was taken.
    pub(crate) refusal: Option<String>,
}

/// Whether items are still wanted. Given up when a worker goes back or loses the partition: then what is queued is not sent any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    pub(crate) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn give_up(&self) {
        self.0.store(true, Ordering::Release);
    }
}
