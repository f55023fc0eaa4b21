//! Sends items in lanes: each lane has one request in flight, and items of one order number stay in one lane.
//!
//! So what is sent for one document arrives in its order, however requests fail: a lane tries what passes again, and only that, before anything
//! that came later; where an earlier item has to be tried again, later ones of its order number are too. Waits double, with jitter, and never
//! end the tries. What a worker has given up is not sent any more; what is in flight then is waited for.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::{Answer, Bounds, FAILED, Failing, Health, Item, Receipt, Sender, Trouble};
use crate::metrics::ExitMetrics;

/// The longest wait before a new try.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The lanes of one worker and one output.
pub(crate) struct Lanes<S: Sender> {
    queues: Vec<UnboundedSender<Vec<Item<S::Content>>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where a lane tells what becomes of its items.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) receipts: mpsc::Sender<Vec<Receipt>>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: ExitMetrics,
}

impl<S: Sender> Lanes<S> {
    /// Starts `count` lanes, at least one. They end when this is dropped.
    pub(crate) fn start(runtime: &Handle, sender: &Arc<S>, count: usize, told: &Told) -> Self {
        let (queues, tasks) = (0..count.max(1))
            .map(|_| {
                let (queue, arriving) = unbounded_channel();
                let lane = Lane {
                    sender: Arc::clone(sender),
                    arriving,
                    queue: VecDeque::new(),
                    since: Instant::now(),
                    number: told.health.lane(),
                    told: told.clone(),
                };
                (queue, runtime.spawn(lane.run()))
            })
            .unzip();
        Self { queues, tasks }
    }

    /// Hands items to their lanes. How many there may be is the caller's affair.
    pub(crate) fn send(&self, items: impl IntoIterator<Item = Item<S::Content>>) {
        let lanes = self.queues.len();
        let mut by_lane: Vec<Vec<Item<S::Content>>> = (0..lanes).map(|_| Vec::new()).collect();
        for item in items {
            let lane = usize::try_from(item.order % lanes as u64).unwrap_or(0);
            by_lane[lane].push(item);
        }
        for (queue, items) in self.queues.iter().zip(by_lane) {
            if !items.is_empty() {
                // A lane ends when this is dropped, and not before.
                let _ = queue.send(items);
            }
        }
    }

    /// No lane is left; each ends with what it has in flight.
    pub(crate) fn are_over(&mut self) -> bool {
        self.queues.clear();
        self.tasks.iter().all(JoinHandle::is_finished)
    }
}

/// One lane.
struct Lane<S: Sender> {
    sender: Arc<S>,
    arriving: UnboundedReceiver<Vec<Item<S::Content>>>,
    queue: VecDeque<Item<S::Content>>,
    /// When the first item of the queue came.
    since: Instant,
    number: u64,
    told: Told,
}

impl<S: Sender> Lane<S> {
    async fn run(mut self) {
        let mut wait = Wait::default();
        while self.fill(wait.is_waiting()).await {
            let batch = self.next_batch();
            if batch.is_empty() {
                // All that it had was given up.
                wait = Wait::default();
                self.told.health.idle(self.number);
                continue;
            }
            let bytes: usize = batch.iter().map(|item| item.bytes).sum();
            let count = batch.len();
            let began = Instant::now();
            let answers = self.sender.send(&batch).await;
            self.told.metrics.requested(count, bytes, began.elapsed());
            let sorted = sort(batch, answers, Instant::now());
            for (outcome, items) in &sorted.outcomes {
                self.told.metrics.items(outcome, *items);
            }
            let has_progress = !sorted.receipts.is_empty();
            if has_progress {
                // Nobody listens any more when the worker has ended.
                let _ = self.told.receipts.send(sorted.receipts);
            }
            match sorted.trouble {
                None => {
                    wait = Wait::default();
                    self.told.health.well(self.number);
                    // What came meanwhile has waited as long as the request took.
                    self.since = began;
                }
                Some(trouble) => {
                    self.told.metrics.retried(trouble.kind, sorted.again.len());
                    self.told.health.failed(self.number, &trouble);
                    for item in sorted.again.into_iter().rev() {
                        self.queue.push_front(item);
                    }
                    if has_progress {
                        wait = Wait::default();
                    }
                    tokio::time::sleep(wait.next(self.sender.bounds().wait)).await;
                }
            }
        }
        self.told.health.idle(self.number);
    }

    /// Waits until a request is full or old enough. False: the worker has gone, and what it had sent is not wanted any more.
    async fn fill(&mut self, is_urgent: bool) -> bool {
        if self.queue.is_empty() {
            match self.arriving.recv().await {
                None => return false,
                Some(items) => {
                    self.since = Instant::now();
                    self.queue.extend(items);
                }
            }
        }
        let bounds = self.sender.bounds();
        let due = tokio::time::Instant::from_std(self.since + bounds.age);
        loop {
            while let Ok(items) = self.arriving.try_recv() {
                self.queue.extend(items);
            }
            if self.arriving.is_closed()
                && self.arriving.is_empty()
                && self.queue.iter().all(|item| item.claim.is_given_up())
            {
                return false;
            }
            if is_urgent || self.is_full(bounds) {
                return true;
            }
            match tokio::time::timeout_at(due, self.arriving.recv()).await {
                Ok(Some(items)) => self.queue.extend(items),
                Ok(None) | Err(_) => return true,
            }
        }
    }

    fn is_full(&self, bounds: Bounds) -> bool {
        if self.queue.len() >= bounds.items_max {
            return true;
        }
        let mut bytes = 0_usize;
        self.queue.iter().any(|item| {
            bytes = bytes.saturating_add(item.bytes);
            bytes >= bounds.bytes_max
        })
    }

    /// The items of the next request. What was given up is dropped.
    fn next_batch(&mut self) -> Vec<Item<S::Content>> {
        let bounds = self.sender.bounds();
        let mut batch: Vec<Item<S::Content>> = Vec::new();
        let mut bytes = 0_usize;
        while let Some(item) = self.queue.pop_front() {
            if item.claim.is_given_up() {
                continue;
            }
            let is_over = batch.len() >= bounds.items_max || bytes.saturating_add(item.bytes) > bounds.bytes_max;
            if is_over && !batch.is_empty() {
                self.queue.push_front(item);
                break;
            }
            bytes = bytes.saturating_add(item.bytes);
            batch.push(item);
        }
        batch
    }
}

/// What a request has come to.
struct Sorted<C> {
    receipts: Vec<Receipt>,
    /// To be tried again, in their order.
    again: Vec<Item<C>>,
    /// The first trouble.
    trouble: Option<Trouble>,
    /// How many items came out in which way.
    outcomes: Vec<(&'static str, u64)>,
}

/// Sorts items by their answers. What stands behind an item of the same order number that is to be tried again is tried again with it, whatever
/// its own answer was: else the earlier one would come to lie on top of it.
fn sort<C>(batch: Vec<Item<C>>, answers: Vec<Answer>, now: Instant) -> Sorted<C> {
    let mut sorted = Sorted {
        receipts: Vec::with_capacity(batch.len()),
        again: Vec::new(),
        trouble: None,
        outcomes: Vec::new(),
    };
    let mut held: HashSet<u64> = HashSet::new();
    let missing = || {
        Answer::Again(Trouble {
            kind: "no-answer",
            text: "no answer was given for an item, which is a defect of the host".to_owned(),
        })
    };
    let mut answers = answers.into_iter();
    for mut item in batch {
        let answer = answers.next().unwrap_or_else(missing);
        if !held.is_empty() && held.contains(&item.order) {
            item.tries = item.tries.saturating_add(1);
            sorted.again.push(item);
            continue;
        }
        let (outcome, refusal) = match answer {
            Answer::Done(outcome) => (outcome, None),
            Answer::Refused(text) => ("refused", Some(text)),
            Answer::Again(trouble) => {
                held.insert(item.order);
                item.tries = item.tries.saturating_add(1);
                if trouble.kind == FAILED {
                    let failing = item.failing.get_or_insert(Failing { times: 0, since: now });
                    failing.times = failing.times.saturating_add(1);
                }
                sorted.again.push(item);
                sorted.trouble.get_or_insert(trouble);
                continue;
            }
        };
        match sorted.outcomes.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, items)) => *items += 1,
            None => sorted.outcomes.push((outcome, 1)),
        }
        sorted.receipts.push(Receipt {
            ticket: item.ticket,
            refusal,
        });
    }
    sorted
}

/// How long the next try is waited for.
#[derive(Default)]
struct Wait {
    tries: u32,
}

impl Wait {
    fn is_waiting(&self) -> bool {
        self.tries > 0
    }

    /// Twice the wait before, somewhere in its upper half, so that many hosts do not come back at once.
    fn next(&mut self, first: Duration) -> Duration {
        let whole = first.saturating_mul(2_u32.saturating_pow(self.tries)).min(WAIT_MAX);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests;
