//! How a worker follows its group: partitions come and go, and each begins where the group has committed.
//!
//! What is done for a partition is committed before it is given up, and what is in hand of it is dropped: the next owner reads it again.
//! A partition that is lost already belongs to someone else; nothing may be committed for it.

use std::collections::BTreeSet;

use anyhow::{Error, Result, bail};

use super::{PAUSE, Worker};
use crate::assignment::Slot;
use crate::config::Start;
use crate::kafka::consumer::{Committed, Event, TopicPartition};
use crate::kafka::{self, Code};
use crate::rights::{HINT, Operation, Right};
use crate::sink::Failure;

impl Worker {
    /// Subscribes to the inputs, and to the replay topic where it exists.
    pub(super) fn subscribe(&mut self) -> Result<()> {
        let replay = &self.task.replay;
        self.reads_replay = replay.exists();
        let mut topics: Vec<&str> = self.task.topics.iter().map(String::as_str).collect();
        if self.reads_replay && !topics.contains(&replay.name.as_str()) {
            topics.push(&replay.name);
        }
        self.consumer.subscribe(&topics)
    }

    pub(super) fn serve_group(&mut self) -> Result<()> {
        if !self.reads_replay && self.task.replay.exists() {
            // The client alone would look for it every five minutes.
            tracing::info!(
                stage = self.task.stage,
                topic = self.task.replay.name,
                "reading records again"
            );
            self.subscribe()?;
        }
        let mut events = Vec::new();
        self.consumer.poll(&mut events);
        // Every rebalance is answered, even behind an error: a consumer that owes an answer cannot be closed.
        let mut served = Ok(());
        for event in events {
            let outcome = self.serve(event);
            served = served.and(outcome);
        }
        served
    }

    fn serve(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Assigned(partitions) => {
                let assigned = self.assigned(partitions);
                if assigned.is_err() {
                    self.consumer.assign(&[])?;
                }
                assigned
            }
            Event::Revoked { partitions, lost } => self.revoked(&partitions, lost),
            Event::Stray => self.give_up(Failure::Abort("a record arrived out of turn".to_owned())),
            Event::PollExceeded => {
                let text = "the group was not served for max.poll.interval.ms, partitions are lost";
                tracing::warn!(stage = self.task.stage, text);
                Ok(())
            }
            Event::Trouble(text) => {
                tracing::warn!(stage = self.task.stage, error = text, "consumer");
                Ok(())
            }
            Event::Broken(text) => bail!("consumer: {text}"),
        }
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result<()> {
        // What follows waits for brokers; an open transaction would grow old meanwhile, and one whose outcome is not known would hold up the
        // committed offsets that are asked for.
        if let Err(failure) = self.commit() {
            self.give_up(failure)?;
        }
        while !self.sink_is_ready()? {
            if self.is_stopping() {
                return self.consumer.assign(&[]);
            }
            std::thread::sleep(PAUSE);
        }
        let mut starts = Vec::with_capacity(partitions.len());
        let Some(committed) = self.until_answered(&partitions, |worker| worker.consumer.committed(&partitions))? else {
            return self.consumer.assign(&[]);
        };
        for (partition, committed) in partitions.into_iter().zip(committed) {
            let start_of = |worker: &Self| worker.start_of(&partition, &committed);
            let Some(start) = self.until_answered(std::slice::from_ref(&partition), start_of)? else {
                return self.consumer.assign(&[]);
            };
            if partition.partition >= self.partitions_at_start(&partition.topic) {
                self.tell_added(&partition);
            }
            starts.push((partition.clone(), start));
            self.assignment.add(partition, start, committed);
        }
        self.consumer.assign(&starts)?;
        self.mark_dirty();
        self.metrics.rebalance("assigned");
        self.report_assignment();
        Ok(())
    }

    /// A rebalance waits for this worker, so it asks again until the brokers answer; giving up would stop the stage for an outage.
    /// None: the worker has been told to stop.
    ///
    /// # Errors
    /// When a right is missing, which no waiting brings back.
    fn until_answered<T>(&self, of: &[TopicPartition], ask: impl Fn(&Self) -> Result<T>) -> Result<Option<T>> {
        while !self.is_stopping() {
            match ask(self) {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => {
                    if let Some(text) = lost_right(&error, of, self.consumer.group()) {
                        bail!("{text}: {error:#}");
                    }
                    let error = format!("{error:#}");
                    tracing::warn!(stage = self.task.stage, error, "no answer, asking again");
                    std::thread::sleep(PAUSE);
                }
            }
        }
        Ok(None)
    }

    fn start_of(&self, partition: &TopicPartition, committed: &Committed) -> Result<i64> {
        let (low, end) = self.consumer.watermarks(partition)?;
        if let Some(offset) = committed.offset {
            self.tell_lost(partition, offset, low);
            return Ok(offset.max(low));
        }
        // All that stands there was asked for, whatever the inputs start with.
        if partition.topic == self.task.replay.name {
            return Ok(low);
        }
        match self.task.start {
            Start::Earliest => Ok(low),
            // A partition that was added while the stage runs is read whole: its records came after the choice of `latest`.
            Start::Latest if partition.partition >= self.partitions_at_start(&partition.topic) => Ok(low),
            Start::Latest => Ok(end),
            Start::TimestampMs(timestamp_ms) => Ok(self.consumer.offset_at(partition, timestamp_ms)?.unwrap_or(end)),
        }
    }

    pub(super) fn is_replay(&self, slot: Slot) -> bool {
        let partition = self.assignment.partition(slot);
        partition.is_some_and(|partition| partition.topic == self.task.replay.name)
    }

    fn partitions_at_start(&self, topic: &str) -> i32 {
        self.task.partitions.get(topic).copied().unwrap_or(i32::MAX)
    }

    pub(super) fn tell_lost(&self, partition: &TopicPartition, from: i64, low: i64) {
        if from < low {
            tracing::error!(
                stage = self.task.stage,
                topic = partition.topic,
                partition = partition.partition,
                lost = low - from,
                "records were deleted by retention before this stage read them; going on with the oldest that is left"
            );
        }
    }

    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<()> {
        // What is in hand of these partitions is not done; the next owner reads it again.
        let slots: Vec<Slot> = partitions
            .iter()
            .filter_map(|partition| self.assignment.slot(partition))
            .collect();
        for slot in &slots {
            self.batcher.forget(*slot);
            self.work.take_if(|(working, _)| working == slot);
        }
        let committed = match lost {
            true => Err(Failure::Evicted("the partitions are lost".to_owned())),
            false => self
                .wait_for(&slots, self.task.revoke_wait)
                .and_then(|()| self.commit()),
        };
        if let Some(outgoing) = &mut self.outgoing {
            slots.iter().for_each(|slot| outgoing.pending.forget(*slot));
        }
        self.metrics.rebalance(if lost { "lost" } else { "revoked" });
        // Given up before the partitions are: what was done for them must not be committed any more.
        let given_up = committed.map_err(|failure| self.give_up(failure));
        self.consumer.unassign(partitions)?;
        for partition in partitions {
            self.assignment.remove(partition);
        }
        self.report_assignment();
        given_up.or_else(|outcome| outcome)
    }

    fn report_assignment(&self) {
        let partitions = self.assignment.partitions();
        tracing::info!(
            stage = self.task.stage,
            partitions = partitions.len(),
            "assignment changed"
        );
        self.status.assigned(&partitions);
    }
}

/// The words for a right without which the brokers refuse to answer; `of` is what they were asked of.
fn lost_right(error: &Error, of: &[TopicPartition], group: &str) -> Option<String> {
    match kafka::code_of(error)? {
        Code::GroupAuthorizationFailed => Some(Right::on_group(group).lost()),
        Code::TopicAuthorizationFailed => {
            let topics: BTreeSet<&str> = of.iter().map(|partition| partition.topic.as_str()).collect();
            let lost = topics
                .iter()
                .map(|topic| Right::on_topic(Operation::Read, topic).to_string());
            Some(format!("{} is missing; {HINT}", lost.collect::<Vec<_>>().join(" or ")))
        }
        Code::ClusterAuthorizationFailed => Some(format!("a right is missing; {HINT}")),
        _ => None,
    }
}
