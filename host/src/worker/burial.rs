//! What a worker does with a record that failed: a dead letter in the transaction that holds everything else, or what the stage's policy says.
//!
//! Here too it is decided that too many fail: the breaker stops the stage before the record, and a new version of the plugin gives way to
//! the one before.

use std::time::{Duration, Instant, SystemTime};

use super::sending::origin_of;
use super::{Place, Worker};
use crate::assignment::Slot;
use crate::config::FaultPolicy;
use crate::dead_letter::{self, Culprit};
use crate::fault::Fault;
use crate::kafka::consumer::TopicPartition;
use crate::kafka::ffi::Message;
use crate::sink::Failure;
use crate::work::Work;

/// How often it is said how many records were dropped.
const SKIPS_TOLD: Duration = Duration::from_secs(10);

/// Records that were dropped and not told of yet.
#[derive(Default)]
pub(super) struct Skips {
    untold: u64,
    told: Option<Instant>,
}

impl Worker {
    /// The first record in hand passed.
    pub(super) fn passed(&mut self) {
        self.tally.passed += 1;
        if let Some(breaker) = &mut self.breaker {
            breaker.passed();
        }
    }

    /// The first record in hand failed, and is done with. `whole`: a dead letter may hold the record itself.
    pub(super) fn fail_first(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        fault: &Fault,
        whole: bool,
    ) -> Result<(), Failure> {
        let attempts = 1 + work.retries();
        let Some(message) = work.part().and_then(<[Message]>::first) else {
            return Ok(());
        };
        let place = Place {
            slot,
            partition,
            message,
            attempts,
        };
        self.fail_as(&place, fault, whole)?;
        self.finish(slot, work);
        Ok(())
    }

    /// A record failed; its position is still to be moved.
    pub(super) fn fail(&mut self, place: &Place<'_>, fault: &Fault) -> Result<(), Failure> {
        self.fail_as(place, fault, true)
    }

    fn fail_as(&mut self, place: &Place<'_>, fault: &Fault, whole: bool) -> Result<(), Failure> {
        self.tally.failed += 1;
        if self.publication.is_failing(self.tally) || self.task.current.is_rolled_back(self.publication.number) {
            self.roll_back(fault)?;
        }
        let TopicPartition { topic, partition } = place.partition;
        let position = format!("{topic} partition {partition} offset {}", place.message.offset());
        if let Some(breaker) = &mut self.breaker
            && breaker.failed()
        {
            let limit = self.task.on_fault.breaker.map_or(0, |share| share.failures);
            let text = format!(
                "its breaker opened at {position}: more than {limit} records failed, this one by {}: {fault}; mend the cause and let it go on with `wasmill stage resume`",
                fault.kind
            );
            return self.hold_stage(text);
        }
        match self.task.on_fault.policy.value {
            FaultPolicy::DeadLetter => self.bury(place, fault, whole),
            FaultPolicy::Skip => {
                self.skip(fault, &position);
                Ok(())
            }
            FaultPolicy::Stop => {
                let text = format!(
                    "the record at {position} failed by {}: {fault}; by `on-fault: policy: stop` nothing behind it is read; swap the plugin or change the policy, and let it go on with `wasmill stage resume`",
                    fault.kind
                );
                self.hold_stage(text)
            }
        }
    }

    /// Commits what is done and stops the stage before the record in hand.
    fn hold_stage(&mut self, text: String) -> Result<(), Failure> {
        self.commit()?;
        Err(Failure::Held(text))
    }

    /// The new version of the plugin gives way to the one before, and what it did since the last commit is done again by that one.
    pub(super) fn roll_back(&mut self, fault: &Fault) -> Result<(), Failure> {
        let reason = format!(
            "too many of its first records failed, or it cannot be run; the last failure was {}: {fault}",
            fault.kind
        );
        let number = self.publication.number;
        // Another worker may have been first.
        if self.task.current.roll_back(number, reason) || self.task.current.is_rolled_back(number) {
            let text = "the new version of the plugin is rolled back".to_owned();
            return Err(Failure::Abort(text));
        }
        Ok(())
    }

    fn skip(&mut self, fault: &Fault, place: &str) {
        self.metrics.skipped(fault.kind).inc();
        tracing::debug!(stage = self.task.stage, place, kind = %fault.kind, message = fault.message, "skipped");
        self.skips.untold += 1;
        let now = Instant::now();
        if self.skips.told.is_some_and(|told| now < told + SKIPS_TOLD) {
            return;
        }
        tracing::warn!(
            stage = self.task.stage,
            records = self.skips.untold,
            place,
            kind = %fault.kind,
            message = fault.message,
            "failed records are skipped, as the stage's policy says; this was the last one"
        );
        self.skips = Skips {
            untold: 0,
            told: Some(now),
        };
    }

    fn bury(&mut self, place: &Place<'_>, fault: &Fault, whole: bool) -> Result<(), Failure> {
        if self.is_full() {
            self.commit()?;
        }
        let Place {
            slot,
            partition,
            message,
            attempts,
        } = *place;
        // A replayed record is named by the position at which it was read first.
        let origin = origin_of(partition, message);
        let plugin = &self.publication.version.plugin;
        let culprit = Culprit {
            stage: &self.task.stage,
            plugin: &plugin.description.name,
            version: &plugin.description.version,
            digest: &plugin.digest,
        };
        let headers = dead_letter::headers(origin, culprit, fault, attempts, SystemTime::now());
        self.sink.begin(Instant::now())?;
        self.output(slot, message.offset(), Some(!whole), Some(fault.clone()));
        let cut = self
            .sink
            .write_dead_letter(self.task.dead_letters, message, &headers, whole)?;
        if let Some(last) = &mut self.last_output {
            last.dead_letter_cut = Some(cut);
        }
        self.metrics.dead_letter(fault.kind).inc();
        tracing::debug!(
            stage = self.task.stage,
            topic = partition.topic,
            partition = partition.partition,
            offset = message.offset(),
            kind = %fault.kind,
            message = fault.message,
            "dead letter"
        );
        Ok(())
    }

    /// Where in the next part the condemned record is.
    pub(super) fn condemned_in(&self, partition: &TopicPartition, work: &Work<Message>) -> Option<usize> {
        let condemned = self
            .condemned
            .as_ref()
            .filter(|condemned| condemned.partition == *partition)?;
        work.part()?
            .iter()
            .position(|message| message.offset() == condemned.offset)
    }

    pub(super) fn bury_condemned(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
    ) -> Result<(), Failure> {
        let Some(condemned) = &self.condemned else {
            return Ok(());
        };
        // Alone in its transaction, so that a refusal of the dead letter is known for what it is.
        let (fault, whole) = (condemned.fault.clone(), !condemned.cut);
        if self.outputs > 0 {
            self.commit()?;
        }
        self.fail_first(slot, partition, work, &fault, whole)?;
        self.commit()?;
        self.condemned = None;
        Ok(())
    }
}
