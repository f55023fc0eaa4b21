//! Sends numbered records without a break, and between them records of transactions that their sender aborts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::checker::Numbered;
use super::{OUTPUT_BYTES_MAX, PARTITIONS, Topics};
use crate::support::kafka::{Record, Sender};
use crate::support::rng::Rng;
use crate::support::unique;

const KEYS: usize = 64;

/// A transaction of another sender is opened this often, and aborted while numbered records stand behind it.
const ABORTED_EVERY: Duration = Duration::from_millis(1500);
const ABORTED_AFTER: Duration = Duration::from_millis(200);

/// A thread that sends until it is told to end.
pub(crate) struct Load {
    end: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Numbered>, usize)>,
}

impl Load {
    pub(crate) fn start(topics: &Topics, per_second: u64, seed: u64) -> Self {
        Self::send(Source::new(topics, seed), per_second)
    }

    /// With records among them that the output topic is too small for. Each costs seconds: the host aborts the transaction that it is in, finds
    /// it, and makes it a dead letter.
    pub(crate) fn with_refused(topics: &Topics, per_second: u64, refused_every: Duration, seed: u64) -> Self {
        let source = Source {
            refused_every,
            next_refused: Some(refused_every),
            ..Source::new(topics, seed)
        };
        Self::send(source, per_second)
    }

    fn send(mut source: Source, per_second: u64) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let start = Instant::now();
            while !told.load(Ordering::Relaxed) {
                let due = start.elapsed().as_millis() as u64 * per_second / 1000;
                source.send_up_to(due, start.elapsed());
                source.disturb(start.elapsed());
                thread::sleep(Duration::from_millis(5));
            }
            source.finish()
        });
        Self { end, thread }
    }

    /// Ends it. Returns what arrived, and the number of aborted transactions.
    pub(crate) fn finish(self) -> (Vec<Numbered>, usize) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load was sent")
    }
}

struct Source {
    topic: String,
    sender: Sender,
    other: Sender,
    /// When the open transaction of the other sender began.
    other_since: Option<Duration>,
    aborted: usize,
    refused_every: Duration,
    next_refused: Option<Duration>,
    rng: Rng,
    of_key: Vec<u64>,
    of_partition: Vec<u64>,
    sent: Vec<Numbered>,
}

impl Source {
    fn new(topics: &Topics, seed: u64) -> Self {
        Self {
            topic: topics.input.clone(),
            sender: topics.kafka.sender(),
            other: topics.kafka.transactional_sender(&unique("third-party")),
            other_since: None,
            aborted: 0,
            refused_every: Duration::MAX,
            next_refused: None,
            rng: Rng::new(seed),
            of_key: vec![0; KEYS],
            of_partition: vec![0; PARTITIONS as usize],
            sent: Vec::new(),
        }
    }

    /// A key always goes to the same partition, so that records of a key have an order.
    fn send_up_to(&mut self, count: u64, now: Duration) {
        while (self.sent.len() as u64) < count {
            let key = self.rng.below(KEYS);
            let partition = key % self.of_partition.len();
            let numbered = Numbered {
                key: key as u32,
                of_key: self.of_key[key],
                partition: partition as i32,
                of_partition: self.of_partition[partition],
            };
            self.of_key[key] += 1;
            self.of_partition[partition] += 1;
            let mut text = numbered.to_string();
            if self.next_refused.is_some_and(|due| now > due) {
                self.next_refused = Some(now + self.refused_every);
                text.push(' ');
                text.push_str(&self.padding());
            }
            let record = Record::new(key.to_string(), text);
            self.sender.send(&self.topic, Some(numbered.partition), &record);
            self.sent.push(numbered);
        }
    }

    /// Letters in no order, which no compression brings below the output's limit.
    fn padding(&mut self) -> String {
        (0..OUTPUT_BYTES_MAX * 3 / 2)
            .map(|_| char::from(b'@' + (self.rng.next() % 64) as u8))
            .collect()
    }

    fn disturb(&mut self, now: Duration) {
        match self.other_since {
            None if now > ABORTED_EVERY * (self.aborted as u32 + 1) => {
                self.other.begin();
                for key in 0..self.of_partition.len() {
                    let record = Record::new(key.to_string(), "aborted by its sender");
                    self.other.send(&self.topic, Some(key as i32), &record);
                }
                self.other_since = Some(now);
            }
            Some(since) if now > since + ABORTED_AFTER => self.abort(),
            _ => {}
        }
    }

    fn abort(&mut self) {
        self.other.abort();
        self.other_since = None;
        self.aborted += 1;
    }

    fn finish(mut self) -> (Vec<Numbered>, usize) {
        if self.other_since.is_some() {
            self.abort();
        }
        self.sender.flush();
        (self.sent, self.aborted)
    }
}
