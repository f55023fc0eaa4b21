//! How a worker makes dead letters, in the transaction that holds everything else.

use std::time::{Instant, SystemTime};

use super::Worker;
use crate::assignment::Slot;
use crate::dead_letter::{self, Culprit, Origin, Original};
use crate::fault::Fault;
use crate::kafka::consumer::TopicPartition;
use crate::kafka::ffi::Message;
use crate::sink::Failure;
use crate::work::Work;

impl Worker {
    /// Makes the first record in hand a dead letter.
    pub(super) fn bury(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        fault: &Fault,
    ) -> Result<(), Failure> {
        self.bury_as(slot, partition, work, fault, true)
    }

    pub(super) fn bury_as(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        fault: &Fault,
        whole: bool,
    ) -> Result<(), Failure> {
        if self.is_full() {
            self.commit()?;
        }
        let attempts = 1 + work.retries();
        let Some(message) = work.part().and_then(<[Message]>::first) else {
            return Ok(());
        };
        let here = Origin {
            topic: &partition.topic,
            partition: partition.partition,
            offset: message.offset(),
            timestamp_ms: message.timestamp_ms(),
            replays: 0,
        };
        // A replayed record is named by the position at which it was read first.
        let origin = message.original().map_or(here, Original::origin);
        let culprit = Culprit {
            stage: &self.task.stage,
            plugin: &self.task.plugin.description.name,
            version: &self.task.plugin.description.version,
            digest: &self.task.plugin.digest,
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
        self.finish(slot, work);
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
        self.bury_as(slot, partition, work, &fault, whole)?;
        self.commit()?;
        self.condemned = None;
        Ok(())
    }
}
