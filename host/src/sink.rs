//! Writes one worker's deliveries, dead letters and offsets, all in one transaction or, at least once, one after the other.
//!
//! A transaction is begun with its first record. Offsets go into it last, with the worker's name and the transaction's number as their
//! metadata, so that after an unknown outcome the committed offsets tell whether it was applied. After an error whose outcome is not known
//! the producer is thrown away: a new one ends whatever the old one left open before the committed offsets are read.

mod failure;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use prometheus_client::metrics::counter::Counter;

pub(crate) use self::failure::Failure;
use self::failure::{denied, failure_of, of_delivery};
use crate::chaos::{self, Point, Sabotage};
use crate::kafka::consumer::{Consumer, TopicPartition, offsets_to_commit};
use crate::kafka::ffi::{CallError, Headers, Message, Produce};
use crate::kafka::producer::{Blame, DeliveryFailure, Producer, blame};
use crate::kafka::{Code, Offsets, Properties};
use crate::reply::Checked;
use crate::rights::Right;
use crate::route::{Bytes, Delivery};

/// What a record of the v2 format can cost beyond its parts, as librdkafka reckons it.
const RECORD_OVERHEAD_BYTES: usize = 36;
/// What a header can cost beyond its name and value: two lengths of at most 5 bytes.
const HEADER_OVERHEAD_BYTES: usize = 10;
/// How long a full producer queue is waited for before it is looked at again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);
/// A delivery report comes some moments after the call that fails for it.
const REPORT_WAIT: Duration = Duration::from_millis(50);
/// How long acknowledgements are waited for before a look at whether one of them was a refusal.
const FLUSH_STEP: Duration = Duration::from_millis(20);
/// How long acknowledgements are waited for without a transaction; longer than any `message.timeout.ms` in use.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// How offsets and outputs are tied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guarantee {
    ExactlyOnce,
    AtLeastOnce,
}

/// A topic that the stage writes.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    /// Records and bytes written.
    pub(crate) written: (Counter, Counter),
}

/// Why one delivery cannot be written; nothing of it has been.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

/// The writing side of a worker.
pub(crate) struct Sink {
    name: String,
    config: Properties,
    guarantee: Guarantee,
    destinations: Vec<Destination>,
    record_bytes_max: usize,
    producer: Option<Producer>,
    /// Counts transactions; together with `name` it marks the committed offsets.
    number: u64,
    began: Option<Instant>,
    bytes: usize,
    records: usize,
    /// The open transaction was aborted already, to learn why it failed.
    aborted: bool,
    /// A record of the open transaction was not delivered. What the client does about sequence numbers then can stall for the
    /// whole message timeout, so such a producer is not used again.
    undelivered: bool,
}

impl Sink {
    /// Prepares the sink; `ready` connects it. `name` must differ for every incarnation of every worker.
    pub(crate) fn new(name: String, config: Properties, guarantee: Guarantee, destinations: Vec<Destination>) -> Self {
        let record_bytes_max = config
            .get("message.max.bytes")
            .and_then(|text| text.parse().ok())
            .unwrap_or(1_000_000);
        Self {
            name,
            config,
            guarantee,
            destinations,
            record_bytes_max,
            producer: None,
            number: 0,
            began: None,
            bytes: 0,
            records: 0,
            aborted: false,
            undelivered: false,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.producer.is_some()
    }

    /// Makes the producer if there is none. Ends what an earlier producer with the same transactional id left open.
    ///
    /// # Errors
    /// `Stop` where a right is missing; anything else passes, and the call is made again.
    pub(crate) fn ready(&mut self) -> Result<(), Failure> {
        if self.producer.is_some() {
            return Ok(());
        }
        let topics: Vec<String> = self
            .destinations
            .iter()
            .map(|destination| destination.topic.clone())
            .collect();
        let producer =
            Producer::new(&self.name, &self.config, &topics).map_err(|error| Failure::Stop(format!("{error:#}")))?;
        if self.guarantee == Guarantee::ExactlyOnce {
            producer.init_transactions().map_err(failure_of)?;
        }
        self.producer = Some(producer);
        Ok(())
    }

    /// When the open transaction began; none when none is open.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Begins a transaction if none is open.
    ///
    /// # Errors
    /// The producer must be made anew.
    pub(crate) fn begin(&mut self, now: Instant) -> Result<(), Failure> {
        if self.began.is_some() {
            return Ok(());
        }
        let producer = self.producer()?;
        if self.guarantee == Guarantee::ExactlyOnce {
            producer.begin().map_err(failure_of)?;
            chaos::record("begin");
        }
        self.began = Some(now);
        Ok(())
    }

    /// Says whether a delivery can be written at all, and how many bytes it has. Checked for all deliveries of a record before any is written.
    pub(crate) fn check(&self, source: &Message, checked: &Checked, delivery: &Delivery<'_>) -> Result<usize, Refusal> {
        let destination = &self.destinations[delivery.destination];
        let bytes = self.size(source, checked, delivery);
        if bytes > self.record_bytes_max {
            return Err(Refusal(format!(
                "a record of {bytes} bytes for topic {} exceeds message.max.bytes, which is {}",
                destination.topic, self.record_bytes_max
            )));
        }
        if delivery.timestamp_ms.or_else(|| source.timestamp_ms()) == Some(0) {
            return Err(Refusal(
                "a timestamp of 0 cannot be written: the Kafka client replaces it with the current time".to_owned(),
            ));
        }
        match delivery.partition {
            Some(partition) if partition >= destination.partitions => Err(Refusal(format!(
                "partition {partition} of topic {} does not exist, it has {}",
                destination.topic, destination.partitions
            ))),
            _ => Ok(bytes),
        }
    }

    fn size(&self, source: &Message, checked: &Checked, delivery: &Delivery<'_>) -> usize {
        let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let mut bytes = RECORD_OVERHEAD_BYTES
            + len(resolve(delivery.key, source.key()))
            + len(resolve(delivery.value, source.value()));
        if delivery.source_headers {
            for (name, value) in source.headers() {
                bytes += HEADER_OVERHEAD_BYTES + name.len() + len(value);
            }
        }
        for header in delivery.headers {
            let value = header.value.map_or(0, |span| span.len as usize);
            bytes += HEADER_OVERHEAD_BYTES + checked.bytes(header.name).len() + value;
        }
        for (name, value) in delivery.stamp {
            bytes += HEADER_OVERHEAD_BYTES + name.len() + value.len();
        }
        bytes
    }

    /// Writes a delivery that `check` has passed.
    ///
    /// # Errors
    /// The transaction is lost.
    pub(crate) fn write(
        &mut self,
        source: &Message,
        checked: &Checked,
        delivery: &Delivery<'_>,
    ) -> Result<(), Failure> {
        let headers = || {
            let mut headers = match delivery.source_headers {
                true => Headers::copy_of(source),
                false => None,
            };
            if !(delivery.headers.is_empty() && delivery.stamp.is_empty()) {
                let more = delivery.headers.len() + delivery.stamp.len();
                let mut all = headers.or_else(|| Headers::with_capacity(more))?;
                for header in delivery.headers {
                    all.add(
                        checked.bytes(header.name),
                        header.value.map(|value| checked.bytes(value)),
                    );
                }
                for (name, value) in delivery.stamp {
                    all.add(name.as_bytes(), Some(value.as_bytes()));
                }
                headers = Some(all);
            }
            headers
        };
        let bytes = self.size(source, checked, delivery);
        self.produce(delivery.destination, bytes, || Produce {
            partition: delivery.partition,
            key: resolve(delivery.key, source.key()),
            value: resolve(delivery.value, source.value()),
            timestamp_ms: delivery.timestamp_ms.or_else(|| source.timestamp_ms()),
            headers: headers(),
        })
    }

    /// Writes a dead letter: the record as it was with these headers after its own. `whole` false leaves the record's own parts out.
    ///
    /// Returns whether the record was left out, because it would not fit or because the caller asked for it.
    ///
    /// # Errors
    /// The transaction is lost.
    pub(crate) fn write_dead_letter(
        &mut self,
        destination: usize,
        source: &Message,
        headers: &[(&'static str, String)],
        whole: bool,
    ) -> Result<bool, Failure> {
        let extra: usize = headers
            .iter()
            .map(|(name, value)| HEADER_OVERHEAD_BYTES + name.len() + value.len())
            .sum();
        let own = crate::pack::bytes_of(source) + source.headers().count() * HEADER_OVERHEAD_BYTES;
        let whole = whole && RECORD_OVERHEAD_BYTES + own + extra <= self.record_bytes_max;
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let bytes = match whole {
            true => RECORD_OVERHEAD_BYTES + own + extra,
            false => RECORD_OVERHEAD_BYTES + extra,
        };
        self.produce(destination, bytes, || {
            let mut all = match whole {
                true => Headers::copy_of(source),
                false => None,
            }
            .or_else(|| Headers::with_capacity(headers.len() + 1));
            if let Some(all) = &mut all {
                for (name, value) in headers {
                    all.add(name.as_bytes(), Some(value.as_bytes()));
                }
                if !whole {
                    let cut =
                        format!("{own} bytes of key, value and headers are left out, read them at the position above");
                    all.add(b"wasmill.cut", Some(cut.as_bytes()));
                }
            }
            Produce {
                partition: None,
                key: source.key().filter(|_| whole),
                value: source.value().filter(|_| whole),
                // Not the record's own time, which may be what the broker refused.
                timestamp_ms: Some(now_ms),
                headers: all,
            }
        })?;
        Ok(!whole)
    }

    /// `bytes` is the whole size of the record: the transaction holds every part of it in memory.
    fn produce<'a>(
        &mut self,
        destination: usize,
        bytes: usize,
        record: impl Fn() -> Produce<'a>,
    ) -> Result<(), Failure> {
        let parts = loop {
            let record = record();
            let parts = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            match self.producer()?.produce(destination, record) {
                Ok(()) => break parts,
                // Bounded by the message timeout: then deliveries fail and the queue empties.
                Err(error) if error.code == Code::QueueFull => std::thread::sleep(QUEUE_FULL_WAIT),
                Err(error) if blame(error.code) == Blame::Record => {
                    let topic = self.destinations[destination].topic.clone();
                    return Err(Failure::Refused(DeliveryFailure {
                        code: error.code,
                        topic,
                    }));
                }
                Err(error) if error.code == Code::TopicAuthorizationFailed => {
                    return Err(denied(&self.destinations[destination..=destination]));
                }
                // Nothing can be added to a transaction that has failed; why it has is in a delivery report.
                Err(error) => {
                    return Err(self.failed(CallError {
                        requires_abort: !error.fatal,
                        ..error
                    }));
                }
            }
        };
        let (records, volume) = &self.destinations[destination].written;
        records.inc();
        volume.inc_by(parts as u64);
        self.records += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Says why a call has failed. A transaction that must be aborted is aborted here, because only then is every delivery reported; unless a
    /// refused record is known already: then the producer is not used again, and its abort would stall as a commit would.
    fn failed(&mut self, error: CallError) -> Failure {
        let Some(producer) = self.producer.as_ref().filter(|_| error.requires_abort) else {
            return failure_of(error);
        };
        let since = Instant::now();
        while !producer.is_refused() && since.elapsed() < REPORT_WAIT {
            std::thread::sleep(QUEUE_FULL_WAIT);
        }
        if self.guarantee == Guarantee::ExactlyOnce && !producer.is_refused() {
            self.aborted = producer.abort().is_ok();
        }
        match producer.take_failure() {
            Some(failure) => {
                self.undelivered = true;
                of_delivery(failure)
            }
            // The transaction's coordinator does not say which topic it is.
            None if error.code == Code::TopicAuthorizationFailed => denied(&self.destinations),
            None => failure_of(error),
        }
    }

    fn producer(&self) -> Result<&Producer, Failure> {
        self.producer
            .as_ref()
            .ok_or_else(|| Failure::Abort("there is no producer yet".to_owned()))
    }

    /// The text that marks the offsets of the transaction that is open or comes next.
    pub(crate) fn mark(&self) -> String {
        format!("wasmill {} {}", self.name, self.number)
    }

    /// Completes everything since the last commit, offsets included.
    ///
    /// # Errors
    /// Nothing is committed unless the failure is `Unknown`.
    pub(crate) fn commit(&mut self, offsets: &[(TopicPartition, i64)], consumer: &Consumer) -> Result<(), Failure> {
        let list = offsets_to_commit(offsets, &self.mark())
            .context("list offsets")
            .map_err(|error| Failure::Stop(format!("{error:#}")))?;
        match self.guarantee {
            Guarantee::ExactlyOnce => self.commit_transaction(&list, consumer)?,
            Guarantee::AtLeastOnce => self.commit_after_flush(&list, consumer)?,
        }
        self.number += 1;
        self.closed();
        Ok(())
    }

    fn commit_transaction(&mut self, list: &Offsets, consumer: &Consumer) -> Result<(), Failure> {
        chaos::kill(Point::AfterProduce);
        if chaos::sabotaged(Sabotage::OffsetsOutside) {
            let _ = consumer.commit(list);
            // With nothing written nothing would be lost, and nothing found out.
            if self.records > 0 {
                chaos::kill(Point::AfterOffsetsSent);
            }
        } else if list.count() > 0 {
            let sent = self.producer()?.send_offsets(list, consumer.handle());
            sent.map_err(|error| match error.code {
                Code::GroupAuthorizationFailed => Failure::Stop(Right::on_group(consumer.group()).lost()),
                _ => self.failed(error),
            })?;
            chaos::kill(Point::AfterOffsetsSent);
        }
        self.delivered()?;
        let lost = chaos::strikes(Point::CommitUnknown);
        if lost && self.number.is_multiple_of(2) {
            return Err(Failure::Unknown("the commit was never sent (chaos)".to_owned()));
        }
        chaos::kill(Point::DuringCommit);
        match self.producer()?.commit() {
            Ok(()) if lost => Err(Failure::Unknown("the commit's answer was lost (chaos)".to_owned())),
            Ok(()) => {
                chaos::record("commit");
                chaos::kill(Point::AfterCommit);
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Waits until every record is acknowledged, or one is refused. The commit would wait for the others even then: the client sends nothing
    /// more to a transaction that has failed and lets what is queued grow old instead, often until the transaction itself is too old.
    fn delivered(&mut self) -> Result<(), Failure> {
        let producer = self.producer()?;
        while !producer.flush(FLUSH_STEP) && !producer.is_refused() {}
        match producer.take_refusal() {
            None => Ok(()),
            Some(refusal) => {
                self.undelivered = true;
                Err(of_delivery(refusal))
            }
        }
    }

    fn commit_after_flush(&self, list: &Offsets, consumer: &Consumer) -> Result<(), Failure> {
        let producer = self.producer()?;
        if !producer.flush(FLUSH_TIMEOUT) {
            let waiting = producer.in_flight();
            return Err(Failure::Abort(format!("{waiting} records are not acknowledged")));
        }
        if let Some(failure) = producer.take_failure() {
            return Err(of_delivery(failure));
        }
        if list.count() == 0 {
            return Ok(());
        }
        consumer
            .commit(list)
            .map_err(|error| Failure::Abort(format!("commit offsets: {error}")))
    }

    /// Gives up everything since the last commit, as the failure asks for it.
    pub(crate) fn abandon(&mut self, failure: &Failure) {
        let open = self.began.is_some() && self.guarantee == Guarantee::ExactlyOnce;
        // Without a transaction records in flight cannot be taken back, and their failures would be charged to what comes next.
        let reusable = matches!(failure, Failure::Evicted(_) | Failure::Abort(_))
            && !self.undelivered
            && self.guarantee == Guarantee::ExactlyOnce;
        let aborted = match &self.producer {
            Some(producer) if reusable && open && !self.aborted => producer.abort().is_ok(),
            Some(_) => self.aborted || !open,
            None => false,
        };
        if open && !matches!(failure, Failure::Unknown(_) | Failure::Fenced(_)) {
            // Where the abort itself has failed, the next producer ends the transaction before anything else is done.
            chaos::record("abort");
        }
        if let Some(producer) = self.producer.take() {
            if reusable && aborted {
                producer.take_failure();
                self.producer = Some(producer);
            } else {
                // Closing a client takes some 100 ms, and nothing waits for it: the next one fences it.
                std::thread::spawn(move || drop(producer));
            }
        }
        self.number += 1;
        self.closed();
    }

    fn closed(&mut self) {
        self.began = None;
        self.bytes = 0;
        self.records = 0;
        self.aborted = false;
        self.undelivered = false;
    }
}

fn resolve<'a>(part: Bytes<'a>, source: Option<&'a [u8]>) -> Option<&'a [u8]> {
    match part {
        Bytes::Source => source,
        Bytes::Null => None,
        Bytes::New(bytes) => Some(bytes),
    }
}
