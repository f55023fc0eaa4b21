//! What a worker does with a checked answer: verdict by verdict, in the order of the records, into the open transaction.

use std::sync::Arc;
use std::time::Instant;

use super::{LastOutput, RECORD_OUTPUT_BYTES_MAX, Worker};
use crate::assignment::Slot;
use crate::fault::{Fault, Kind};
use crate::kafka::consumer::TopicPartition;
use crate::kafka::ffi::Message;
use crate::reply::{Checked, Verdict};
use crate::route::Delivery;
use crate::sink::{Failure, Refusal, Sink};
use crate::work::Work;

/// The bytes of all that one record sends.
///
/// # Errors
/// The fault of a record whose outputs cannot be written.
pub(crate) fn check<'a>(
    sink: &Sink,
    message: &Message,
    deliveries: impl Iterator<Item = Delivery<'a>>,
    checked: &Checked,
) -> Result<usize, Fault> {
    let mut bytes = 0_usize;
    for delivery in deliveries {
        let size = sink.check(message, checked, &delivery);
        bytes = bytes.saturating_add(size.map_err(|Refusal(text)| Fault::new(Kind::Refused, text))?);
        check_size(bytes)?;
    }
    Ok(bytes)
}

/// # Errors
/// The fault of a record whose outputs come to so many bytes, where those are too many.
pub(super) fn check_size(bytes: usize) -> Result<(), Fault> {
    if bytes <= RECORD_OUTPUT_BYTES_MAX {
        return Ok(());
    }
    let text = format!("the outputs of one record exceed {RECORD_OUTPUT_BYTES_MAX} bytes");
    Err(Fault::new(Kind::Malformed, text))
}

impl Worker {
    pub(super) fn deliver(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        checked: &Checked,
    ) -> Result<(), Failure> {
        let routes = Arc::clone(&self.publication.version.routes);
        for index in 0..checked.len() {
            if self.is_full() {
                self.commit()?;
            }
            let verdict = checked.verdict(index);
            self.count(&verdict);
            let Some(message) = work.part().and_then(<[Message]>::first) else {
                return Ok(());
            };
            let fault = match verdict {
                Verdict::Skip => None,
                Verdict::Forward { .. } | Verdict::Emit(_) => {
                    self.send(slot, message, || routes.deliveries(checked, &verdict), checked)?
                }
                Verdict::Reject(reason) => Some(Fault::new(Kind::Reject, reason)),
                Verdict::Retry(reason) => {
                    if work.hold(Instant::now(), self.task.on_fault.retry) {
                        return Ok(());
                    }
                    // The answers behind it are thrown away: the plugin gave them for a stream in which this record came first.
                    return self.fail_first(slot, partition, work, &Fault::new(Kind::Retry, reason), true);
                }
            };
            match fault {
                None => {
                    self.passed();
                    self.finish(slot, work);
                }
                Some(fault) => self.fail_first(slot, partition, work, &fault, true)?,
            }
        }
        Ok(())
    }

    pub(super) fn count(&self, verdict: &Verdict<'_>) {
        let kind = match verdict {
            Verdict::Skip => 0,
            Verdict::Forward { .. } => 1,
            Verdict::Emit(_) => 2,
            Verdict::Reject(_) => 3,
            Verdict::Retry(_) => 4,
        };
        self.metrics.replies[kind].inc();
    }

    /// Writes what a verdict sends; a fault where the record cannot be written at all.
    pub(super) fn send<'a, D: Iterator<Item = Delivery<'a>>>(
        &mut self,
        slot: Slot,
        message: &Message,
        deliveries: impl Fn() -> D,
        checked: &Checked,
    ) -> Result<Option<Fault>, Failure> {
        let bytes = match check(&self.sink, message, deliveries(), checked) {
            Ok(bytes) => bytes,
            Err(fault) => return Ok(Some(fault)),
        };
        if bytes == 0 {
            // Emitted nothing: every delivery has some bytes.
            return Ok(None);
        }
        self.sink.begin(Instant::now())?;
        self.output(slot, message.offset(), None, None);
        for delivery in deliveries() {
            self.sink.write(message, checked, &delivery)?;
        }
        Ok(None)
    }

    pub(super) fn output(&mut self, slot: Slot, offset: i64, dead_letter_cut: Option<bool>, fault: Option<Fault>) {
        self.outputs += 1;
        self.last_output = Some(LastOutput {
            slot,
            offset,
            dead_letter_cut,
            fault,
        });
    }

    /// The first record in hand is done.
    pub(super) fn finish(&mut self, slot: Slot, work: &mut Work<Message>) {
        let Some(offset) = work.part().and_then(<[Message]>::first).map(Message::offset) else {
            return;
        };
        self.assignment.positions.finished(&slot, offset);
        work.advance(1);
        self.mark_dirty();
    }
}
