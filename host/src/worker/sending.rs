//! What a worker does with a checked answer where its stage has outputs that are no topics: items first, the transaction behind them.
//!
//! Records are answered ahead of their acknowledgements, up to a bound, and stay in hand in order. When every item of a record is acknowledged,
//! what it sends to topics, or its dead letter, goes into the transaction, and its position moves. At the bound the worker neither reads nor calls
//! the plugin; it goes on serving its group, however long an output takes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{POLL, Place, Worker, delivery};
use crate::assignment::Slot;
use crate::chaos::{self, Point, Sabotage};
use crate::dead_letter::{Origin, Original};
use crate::external::pending::Pending;
use crate::external::{Claim, ExitKind, Exits, Parcel, Ticket};
use crate::fault::{Fault, Kind};
use crate::kafka::consumer::TopicPartition;
use crate::kafka::ffi::Message;
use crate::metrics::StageMetrics;
use crate::reply::{Checked, Verdict};
use crate::route::{Routes, Way};
use crate::sink::Failure;
use crate::work::Work;

/// What may be answered and not acknowledged: it bounds memory, and what a failure repeats.
const PENDING_RECORDS_MAX: usize = 100_000;
const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long reading waits where acknowledgements can come.
pub(super) const RECEIPT_POLL: Duration = Duration::from_millis(2);

/// The exits of a worker, and the records that wait for them.
pub(super) struct Outgoing {
    pub(super) exits: Exits,
    pub(super) pending: Pending<Answered>,
    /// The offset up to which records of a partition were sent before, by this worker.
    sent: HashMap<TopicPartition, i64>,
    /// What metrics know of records and bytes that wait.
    told: (usize, usize),
    /// It was told that partitions were added under versions.
    has_told_of_partitions: bool,
}

/// A record whose verdict is known.
pub(super) struct Answered {
    message: Message,
    attempts: u32,
    /// Why it failed before anything of it was sent.
    fault: Option<Fault>,
    /// What it sends to topics: the answer, and its place in it.
    answer: Option<(Arc<Checked>, usize)>,
}

/// What one record sends.
#[derive(Default)]
struct Sending {
    parcels: Vec<Parcel>,
    /// What goes to topics; it stays in hand too.
    delivery_bytes: usize,
}

impl Outgoing {
    pub(super) fn new(exits: Exits) -> Self {
        Self {
            exits,
            pending: Pending::default(),
            sent: HashMap::new(),
            told: (0, 0),
            has_told_of_partitions: false,
        }
    }

    /// Tells what waits; the numbers of a stage are those of all its workers together.
    pub(super) fn tell(&mut self, metrics: &StageMetrics) {
        let before = self.told;
        self.told = (self.pending.records(), self.pending.bytes());
        metrics.pending(before, self.told);
    }
}

impl Worker {
    /// Whether records wait for acknowledgements.
    pub(super) fn is_waiting(&self) -> bool {
        self.outgoing
            .as_ref()
            .is_some_and(|outgoing| !outgoing.pending.is_empty())
    }

    /// Whether another batch may be taken in hand. A change of version and the end of a refused record come when nothing is left of before.
    pub(super) fn has_room(&self) -> bool {
        let Some(outgoing) = &self.outgoing else {
            return true;
        };
        let pending = &outgoing.pending;
        if pending.is_empty() {
            return true;
        }
        let is_full = pending.records() >= PENDING_RECORDS_MAX || pending.bytes() >= PENDING_BYTES_MAX;
        !is_full && !self.task.current.is_newer_than(self.publication.number) && !self.is_condemned_next()
    }

    fn is_condemned_next(&self) -> bool {
        let next = self.work.as_ref().and_then(|(slot, work)| {
            let partition = self.assignment.partition(*slot)?;
            self.condemned_in(partition, work)
        });
        next == Some(0)
    }

    /// Hands out what a checked answer sends, record by record, and takes the records over from `work`.
    pub(super) fn hand_out(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        checked: Checked,
    ) -> Result<(), Failure> {
        let routes = Arc::clone(&self.publication.version.routes);
        let checked = Arc::new(checked);
        let mut parcels = Vec::new();
        // The last record that keeps the answer, and what is counted of it.
        let mut keeper = None;
        let mut kept_bytes = 0_usize;
        for index in 0..checked.len() {
            if index > 0 && self.is_out_of_bytes() {
                // One answer can send far more than it holds. Those behind it are asked for again when there is room, as many at a time.
                work.split(index);
                break;
            }
            let verdict = checked.verdict(index);
            self.count(&verdict);
            let Some(message) = work.part().and_then(<[Message]>::first) else {
                break;
            };
            let mut is_last = false;
            let sending = match verdict {
                Verdict::Skip => Ok(Sending::default()),
                Verdict::Forward { .. } | Verdict::Emit(_) => {
                    self.sending(partition, message, &routes, &checked, &verdict)
                }
                Verdict::Reject(reason) => Err(Fault::new(Kind::Reject, reason)),
                Verdict::Retry(reason) => {
                    if work.hold(Instant::now(), self.task.on_fault.retry) {
                        break;
                    }
                    // The answers behind it are thrown away: the plugin gave them for a stream in which this record came first.
                    is_last = true;
                    Err(Fault::new(Kind::Retry, reason))
                }
            };
            let bytes = sending.as_ref().map_or(0, |sending| sending.delivery_bytes);
            let ticket = self.keep(slot, partition, work, sending, Some((&checked, index)), &mut parcels);
            if bytes > 0 {
                keeper = ticket;
                kept_bytes = kept_bytes.saturating_add(bytes);
            }
            if is_last {
                break;
            }
        }
        if let Some(outgoing) = &mut self.outgoing {
            if let Some(ticket) = keeper {
                outgoing
                    .pending
                    .charge(ticket, checked.size().saturating_sub(kept_bytes));
            }
            outgoing.exits.send(parcels);
        }
        Ok(())
    }

    /// The first record in hand failed before anything of it was sent.
    pub(super) fn keep_failed(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        fault: Fault,
    ) {
        self.keep(slot, partition, work, Err(fault), None, &mut Vec::new());
    }

    /// What a verdict sends, checked whole before any of it is sent.
    fn sending(
        &self,
        partition: &TopicPartition,
        message: &Message,
        routes: &Routes,
        checked: &Checked,
        verdict: &Verdict<'_>,
    ) -> Result<Sending, Fault> {
        let deliveries = routes.deliveries(checked, verdict);
        let delivery_bytes = delivery::check(&self.sink, message, deliveries, checked)?;
        let mut bytes = delivery_bytes;
        let mut parcels = Vec::new();
        let Some(outgoing) = &self.outgoing else {
            return Ok(Sending {
                parcels,
                delivery_bytes,
            });
        };
        let here = origin_of(partition, message);
        for export in routes.exports(checked, verdict, message.key(), message.value()) {
            if let Some(parcel) = outgoing.exits.exit(export.exit).parcel(&export, here)? {
                bytes = bytes.saturating_add(parcel.bytes);
                delivery::check_size(bytes)?;
                parcels.push(parcel);
            }
        }
        Ok(Sending {
            parcels,
            delivery_bytes,
        })
    }

    fn is_out_of_bytes(&self) -> bool {
        let outgoing = self.outgoing.as_ref();
        outgoing.is_some_and(|outgoing| outgoing.pending.bytes() >= PENDING_BYTES_MAX)
    }

    /// Takes the first record in hand over, to wait for what it sends. Returns what it is known by.
    fn keep(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        sending: Result<Sending, Fault>,
        answer: Option<(&Arc<Checked>, usize)>,
        parcels: &mut Vec<(Parcel, Ticket, Claim, bool)>,
    ) -> Option<Ticket> {
        let attempts = 1 + work.retries();
        let (Some(outgoing), Some(message)) = (&mut self.outgoing, work.take()) else {
            return None;
        };
        let (sending, fault) = match sending {
            Ok(sending) => (sending, None),
            Err(fault) => (Sending::default(), Some(fault)),
        };
        let Sending {
            parcels: own,
            delivery_bytes,
        } = sending;
        let offset = message.offset();
        let reached = outgoing.sent.entry(partition.clone()).or_insert(-1);
        let is_repeated = offset <= *reached || message.original().is_some();
        *reached = offset.max(*reached);
        let own_bytes: usize = own.iter().map(|parcel| parcel.bytes).sum();
        let bytes = crate::pack::bytes_of(&message) + delivery_bytes + own_bytes;
        let open = match chaos::sabotaged(Sabotage::CommitBeforeDocuments) {
            true => 0,
            false => own.len(),
        };
        let (ticket, claim) = outgoing.pending.ticket(slot);
        parcels.extend(
            own.into_iter()
                .map(|parcel| (parcel, ticket, claim.clone(), is_repeated)),
        );
        let record = Answered {
            message,
            attempts,
            fault,
            answer: answer
                .filter(|_| delivery_bytes > 0)
                .map(|(checked, index)| (Arc::clone(checked), index)),
        };
        outgoing.pending.push(slot, record, open, bytes);
        Some(ticket)
    }

    /// Finishes the records whose items are all acknowledged; waits this long for the first acknowledgement.
    pub(super) fn settle(&mut self, wait: Duration) -> Result<(), Failure> {
        let Some(outgoing) = &mut self.outgoing else {
            return Ok(());
        };
        let wait = if outgoing.pending.is_empty() {
            Duration::ZERO
        } else {
            wait
        };
        let receipts = outgoing.exits.receipts(wait);
        if !receipts.is_empty() {
            chaos::kill(Point::DocumentsSent);
        }
        for receipt in receipts {
            outgoing.pending.receive(receipt);
        }
        for slot in outgoing.pending.slots() {
            while let Some((record, refusal)) = self.outgoing.as_mut().and_then(|outgoing| outgoing.pending.take(slot))
            {
                self.conclude(slot, record, refusal)?;
            }
        }
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.tell(&self.metrics);
        }
        Ok(())
    }

    /// Every item of the record is acknowledged or refused: what it sends to topics is written, or its dead letter.
    fn conclude(&mut self, slot: Slot, record: Answered, refusal: Option<String>) -> Result<(), Failure> {
        let Some(partition) = self.assignment.partition(slot).cloned() else {
            return Ok(());
        };
        if self.is_full() {
            self.commit()?;
        }
        let Answered {
            message,
            attempts,
            fault,
            answer,
        } = record;
        let fault = fault.or_else(|| refusal.map(|text| Fault::new(Kind::Refused, text)));
        let fault = match (fault, answer) {
            (Some(fault), _) => Some(fault),
            (None, None) => None,
            (None, Some((checked, index))) => {
                let routes = Arc::clone(&self.publication.version.routes);
                let verdict = checked.verdict(index);
                self.send(slot, &message, || routes.deliveries(&checked, &verdict), &checked)?
            }
        };
        match fault {
            None => self.passed(),
            Some(fault) => {
                let place = Place {
                    slot,
                    partition: &partition,
                    message: &message,
                    attempts,
                };
                self.fail(&place, &fault)?;
            }
        }
        self.assignment.positions.finished(&slot, message.offset());
        self.mark_dirty();
        Ok(())
    }

    /// Waits for the acknowledgements of these partitions, no longer than this. No transaction grows old over it.
    pub(super) fn wait_for(&mut self, slots: &[Slot], budget: Duration) -> Result<(), Failure> {
        let until = Instant::now() + budget;
        let waits = |worker: &Self| {
            let outgoing = worker.outgoing.as_ref();
            outgoing.is_some_and(|outgoing| outgoing.pending.holds(slots))
        };
        self.commit_if_due()?;
        while waits(self) && Instant::now() < until {
            self.settle(POLL)?;
            self.commit_if_due()?;
        }
        Ok(())
    }

    /// Tells that a partition was added while the stage runs, where that makes versions wrong.
    pub(super) fn tell_added(&mut self, partition: &TopicPartition) {
        let version = &self.publication.version;
        let Some(outgoing) = self.outgoing.as_mut().filter(|one| !one.has_told_of_partitions) else {
            return;
        };
        let ports = version.plugin.description.ports.iter();
        let versioned = ports.zip(version.routes.ways()).find_map(|(port, way)| {
            let Way::Exit(exit) = *way else { return None };
            let exit = outgoing.exits.exit(exit);
            let is_versioned = matches!(&exit.kind, ExitKind::Elasticsearch(index) if index.is_versioned(port.kind));
            is_versioned.then(|| exit.name())
        });
        if let Some(output) = versioned {
            outgoing.has_told_of_partitions = true;
            tracing::error!(
                stage = self.task.stage,
                topic = partition.topic,
                partition = partition.partition,
                output,
                "the topic got more partitions: keys have moved to small offsets, and their documents look old; raise `epoch` of this output"
            );
        }
    }

    /// Finishes what is answered before the worker ends, as far as it is acknowledged in time.
    pub(super) fn drain(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + self.task.drain;
        while self.is_waiting() && Instant::now() < until && !self.out_of_sync {
            self.serve_group()?;
            let outcome = self.settle(POLL).and_then(|()| self.commit_if_due());
            if let Err(failure) = outcome {
                self.give_up(failure)?;
            }
        }
        if let Some(outgoing) = self.outgoing.as_ref().filter(|_| self.is_waiting()) {
            tracing::warn!(
                stage = self.task.stage,
                records = outgoing.pending.records(),
                "outputs did not take these records in time; they come again"
            );
        }
        Ok(())
    }
}

/// Where a record was read first.
pub(super) fn origin_of<'a>(partition: &'a TopicPartition, message: &'a Message) -> Origin<'a> {
    let here = Origin {
        topic: &partition.topic,
        partition: partition.partition,
        offset: message.offset(),
        timestamp_ms: message.timestamp_ms(),
        replays: 0,
    };
    message.original().map_or(here, Original::origin)
}
