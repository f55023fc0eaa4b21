//! Reads stretches of topics without joining a group, and commits nothing.
//!
//! What is read is what a `read_committed` reader sees. A stretch ends where the partition ended when it was looked at, so reading ends while
//! others go on writing.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::Consumer as _;

use super::Code;
use super::consumer::{Consumer, Event, TopicPartition};
use super::ffi::Message;
use super::settings;
use crate::config::Kafka;

/// How long the queue is waited for before the main queue is served.
const POLL: Duration = Duration::from_millis(100);
/// How long the brokers may send nothing, neither records nor the end.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How many messages are taken at a time.
const MESSAGES_MAX: usize = 1000;

/// A part of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) from: i64,
    /// The offset behind the last one.
    pub(crate) end: i64,
}

impl Stretch {
    /// Offsets in it, records or not.
    pub(crate) fn offsets(&self) -> u64 {
        u64::try_from(self.end - self.from).unwrap_or(0)
    }

    fn place(&self) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition: self.partition,
        }
    }
}

/// A reader of topics.
pub(crate) struct Scan {
    // Messages keep the consumer alive; none outlives a call.
    consumer: Consumer,
}

impl Scan {
    /// `group` is named to the brokers and never joined: a client that reads has to have one.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(crate) fn connect(kafka: &Kafka, group: &str) -> Result<Self> {
        let mut config = settings::consumer(kafka, group, "range");
        config
            .set("enable.partition.eof", "true")
            // What was deleted since it was looked for is passed over.
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", "16384");
        Ok(Self {
            consumer: Consumer::new("reader", &config)?,
        })
    }

    /// All that a partition holds now. `since_ms`: without what is older for sure.
    ///
    /// # Errors
    /// When a broker does not answer in time.
    pub(crate) fn stretch(&self, topic: &str, partition: i32, since_ms: Option<i64>) -> Result<Stretch> {
        let place = TopicPartition {
            topic: topic.to_owned(),
            partition,
        };
        let (low, end) = self.consumer.watermarks(&place)?;
        let from = match since_ms {
            Some(since_ms) => self.consumer.offset_at(&place, since_ms)?.unwrap_or(end),
            None => low,
        };
        Ok(Stretch {
            topic: place.topic,
            partition,
            from: from.max(low),
            end,
        })
    }

    /// Reads a stretch in order; `each` may end it.
    ///
    /// # Errors
    /// When the partition cannot be read, or what `each` says.
    pub(crate) fn read(
        &mut self,
        stretch: &Stretch,
        mut each: impl FnMut(Message) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if stretch.from >= stretch.end {
            return Ok(());
        }
        self.consumer.assign(&[(stretch.place(), stretch.from)])?;
        let read = self.read_assigned(stretch, &mut each);
        self.consumer.unassign(&[stretch.place()])?;
        // The partition stops on librdkafka's own thread; the answer to a question to that thread comes behind it.
        self.consumer.handle().assignment().context("read assignment")?;
        read.with_context(|| format!("read topic {} partition {}", stretch.topic, stretch.partition))
    }

    fn read_assigned(
        &mut self,
        stretch: &Stretch,
        each: &mut impl FnMut(Message) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut heard = Instant::now();
        let (mut messages, mut events) = (Vec::new(), Vec::new());
        loop {
            self.consumer.poll(&mut events);
            for event in events.drain(..) {
                match event {
                    Event::Broken(text) => bail!("{text}"),
                    event => tracing::debug!(?event, "reader"),
                }
            }
            if self.consumer.read(&mut messages, MESSAGES_MAX, POLL) == 0 {
                if heard.elapsed() > SILENCE_MAX {
                    bail!("no broker has answered for {} s", SILENCE_MAX.as_secs());
                }
                continue;
            }
            heard = Instant::now();
            for message in messages.drain(..) {
                match message.error() {
                    _ if message.partition() != stretch.partition => {}
                    None if message.offset() >= stretch.end => return Ok(()),
                    None => {
                        let last = message.offset() + 1 >= stretch.end;
                        if each(message)?.is_break() || last {
                            return Ok(());
                        }
                    }
                    Some(Code::PartitionEOF) => return Ok(()),
                    Some(code) => {
                        let text = message.value().map(String::from_utf8_lossy).unwrap_or_default();
                        bail!("{code}: {text}");
                    }
                }
            }
        }
    }

    /// The record at a position; none where there is none any more.
    ///
    /// # Errors
    /// When the partition cannot be read.
    pub(crate) fn one(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Option<Message>> {
        let whole = self.stretch(topic, partition, None)?;
        if offset < whole.from || offset >= whole.end {
            return Ok(None);
        }
        let stretch = Stretch {
            from: offset,
            end: offset + 1,
            ..whole
        };
        let mut found = None;
        self.read(&stretch, |message| {
            found = Some(message).filter(|message| message.offset() == offset);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}
