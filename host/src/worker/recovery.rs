//! How a worker commits, and how it comes back from what could not be committed.
//!
//! Whatever fails after the last commit is given up as a whole. Then there is one way back for every failure: a producer that works, the
//! group's committed offsets, and a seek to them. An unknown outcome is resolved on that way, by the mark beside the offsets.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{
    Condemned, FENCED_MAX, FENCED_WITHIN, Held, TRANSACTION_BYTES_MAX, TRANSACTION_RECORDS_MAX, UNREADABLE_MAX, Worker,
};
use crate::chaos::{self, Sabotage};
use crate::fault::{Fault, Kind};
use crate::kafka::consumer::TopicPartition;
use crate::refusal::Next;
use crate::sink::Failure;
use crate::version::Tally;

/// A commit whose outcome is not known.
pub(super) struct Attempt {
    mark: String,
    offsets: Vec<(TopicPartition, i64)>,
    previous: Vec<Option<String>>,
}

impl Worker {
    pub(super) fn mark_dirty(&mut self) {
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn commit_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.task.commit_interval)
    }

    pub(super) fn commit_if_due(&mut self) -> Result<(), Failure> {
        let due = self.commit_due().is_some_and(|due| due <= Instant::now());
        if due || self.is_full() { self.commit() } else { Ok(()) }
    }

    /// The open transaction holds all that it may.
    pub(super) fn is_full(&self) -> bool {
        self.sink.bytes() >= TRANSACTION_BYTES_MAX
            || self.sink.records() >= TRANSACTION_RECORDS_MAX
            || self.outputs >= self.halving.limit()
    }

    /// Commits everything that is done: outputs, dead letters and offsets.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        if self.out_of_sync || !self.sink.is_ready() {
            return Ok(());
        }
        let offsets = self.assignment.to_commit();
        if offsets.is_empty() && self.sink.began().is_none() {
            self.dirty_since = None;
            return Ok(());
        }
        let began = Instant::now();
        self.sink.begin(began)?;
        let mark = self.sink.mark();
        self.attempt = Some(Attempt {
            mark: mark.clone(),
            previous: offsets
                .iter()
                .map(|(partition, _)| self.assignment.metadata(partition).map(str::to_owned))
                .collect(),
            offsets,
        });
        let Some(attempt) = &self.attempt else {
            return Ok(());
        };
        self.sink.commit(&attempt.offsets, &self.consumer)?;
        if let Some(attempt) = self.attempt.take() {
            self.assignment.committed(&attempt.offsets, &mark);
        }
        self.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.transaction("committed");
        self.halving.committed(self.outputs);
        self.publication.committed(std::mem::take(&mut self.tally));
        if let Some(breaker) = &mut self.breaker {
            breaker.committed();
        }
        self.closed();
        Ok(())
    }

    pub(super) fn closed(&mut self) {
        self.outputs = 0;
        self.last_output = None;
        self.dirty_since = None;
    }

    /// Gives up everything since the last commit; `in_sync` brings the worker back to where the group stands.
    pub(super) fn give_up(&mut self, failure: Failure) -> Result<()> {
        match &failure {
            Failure::Stop(text) => {
                self.sink.abandon(&failure);
                bail!("{text}");
            }
            Failure::Held(text) => {
                self.sink.abandon(&failure);
                return Err(Held(text.clone()).into());
            }
            Failure::Refused(refused) => self.refused(&refused.code.to_string(), &refused.topic)?,
            Failure::Fenced(_) => self.fenced(&failure)?,
            Failure::Evicted(_) => {
                self.metrics.fenced.inc();
                chaos::record("fenced");
            }
            Failure::Abort(_) | Failure::Unknown(_) => {}
        }
        if !matches!(failure, Failure::Unknown(_) | Failure::Fenced(_)) {
            // The commit was not reached, or it is known to have failed.
            self.attempt = None;
        }
        tracing::warn!(stage = self.task.stage, %failure, "work since the last commit is given up and repeated");
        if self.attempt.is_none() {
            self.metrics.transaction("aborted");
        }
        self.sink.abandon(&failure);
        self.tally = Tally::default();
        if let Some(breaker) = &mut self.breaker {
            breaker.rolled_back();
        }
        self.drop_read();
        self.closed();
        self.out_of_sync = true;
        Ok(())
    }

    pub(super) fn refused(&mut self, code: &str, topic: &str) -> Result<()> {
        if self.halving.refused(self.outputs) == Next::Repeat {
            return Ok(());
        }
        let last = self.last_output.take();
        let partition = last
            .as_ref()
            .and_then(|last| self.assignment.partition(last.slot))
            .cloned();
        let (Some(last), Some(partition)) = (last, partition) else {
            // The partition has gone, and its next owner will find the record.
            return Ok(());
        };
        if last.dead_letter_cut == Some(true) {
            bail!("even the shortest dead letter is refused for topic {topic} ({code}); check the topic's settings");
        }
        self.condemned = Some(Condemned {
            partition,
            offset: last.offset,
            // A refused dead letter keeps its own reason.
            fault: last
                .fault
                .unwrap_or_else(|| Fault::new(Kind::Refused, format!("topic {topic} refuses the record: {code}"))),
            cut: last.dead_letter_cut == Some(false),
        });
        Ok(())
    }

    pub(super) fn fenced(&mut self, failure: &Failure) -> Result<()> {
        self.metrics.fenced.inc();
        chaos::record("fenced");
        let now = Instant::now();
        self.fenced.retain(|then| now.duration_since(*then) < FENCED_WITHIN);
        self.fenced.push(now);
        if self.fenced.len() >= FENCED_MAX {
            let seconds = FENCED_WITHIN.as_secs();
            bail!(
                "{failure}, {FENCED_MAX} times within {seconds} s; does another process run with the same `instance`?"
            );
        }
        Ok(())
    }

    /// Brings producer and positions back to what is committed. False: the brokers do not answer yet.
    pub(super) fn in_sync(&mut self) -> Result<bool> {
        if !self.out_of_sync {
            return Ok(true);
        }
        if self.unreadable.values().any(|times| *times > UNREADABLE_MAX) {
            bail!(
                "a committed offset is beyond the end of its partition: was the topic deleted and made again, or truncated? Stop the stage, reset the group's offsets of that topic, and of no other, and start again"
            );
        }
        if !self.sink_is_ready()? {
            return Ok(false);
        }
        match self.resync() {
            Ok(()) => {
                self.out_of_sync = false;
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(
                    stage = self.task.stage,
                    error = format!("{error:#}"),
                    "cannot go back yet, trying again"
                );
                Ok(false)
            }
        }
    }

    pub(super) fn resync(&mut self) -> Result<()> {
        self.resolve_attempt()?;
        if chaos::sabotaged(Sabotage::NoRewind) {
            return Ok(());
        }
        let partitions = self.assignment.partitions();
        let committed = match self.assignment.is_empty() {
            true => Vec::new(),
            false => self.consumer.committed(&partitions)?,
        };
        let mut positions = Vec::with_capacity(partitions.len());
        for (partition, committed) in partitions.into_iter().zip(&committed) {
            if let Some(from) = self.assignment.rewind(&partition, committed) {
                let (low, _) = self.consumer.watermarks(&partition)?;
                self.tell_lost(&partition, from, low);
                if let Some(slot) = self.assignment.slot(&partition) {
                    self.assignment.positions.passed(&slot, low);
                }
                positions.push((partition, from.max(low)));
            }
        }
        self.consumer.seek(&positions)?;
        // Read before the way back; their offsets are behind the new positions or will come again.
        self.drop_read();
        self.mark_dirty();
        self.metrics.rewinds.inc();
        chaos::record("rewind");
        Ok(())
    }

    /// Drops what is in hand and what was read behind it; it comes again, or is another worker's.
    fn drop_read(&mut self) {
        if chaos::sabotaged(Sabotage::KeepStale) {
            return;
        }
        self.batcher.clear();
        self.work = None;
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.pending.clear();
        }
    }

    /// Finds out what became of a commit whose answer never came.
    pub(super) fn resolve_attempt(&mut self) -> Result<()> {
        let Some(attempt) = &self.attempt else {
            return Ok(());
        };
        let partitions: Vec<TopicPartition> = attempt.offsets.iter().map(|(partition, _)| partition.clone()).collect();
        let outcome = if partitions.is_empty() {
            "unknown-discarded"
        } else {
            let committed = self.consumer.committed(&partitions)?;
            let found: Vec<&str> = committed.iter().map(|committed| committed.metadata.as_str()).collect();
            outcome_of(attempt, &found)
        };
        tracing::info!(stage = self.task.stage, outcome, "an unknown commit is resolved");
        self.metrics.transaction(outcome);
        chaos::record(&format!("unknown {}", outcome.trim_start_matches("unknown-")));
        self.attempt = None;
        Ok(())
    }
}

/// A transaction commits all its offsets or none, so one that carries its mark proves it; otherwise the marks of before prove the
/// contrary, and anything else means that the partitions are another worker's by now.
fn outcome_of(attempt: &Attempt, found: &[&str]) -> &'static str {
    if found.contains(&attempt.mark.as_str()) {
        return "unknown-committed";
    }
    let before = attempt
        .previous
        .iter()
        .zip(found)
        .any(|(previous, found)| previous.as_deref() == Some(*found));
    if before { "unknown-discarded" } else { "unknown-lost" }
}
