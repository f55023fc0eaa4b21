//! Brokers that are killed and frozen one at a time while all else goes on, each chosen by what it is to the pipeline.
//!
//! The next one waits until the cluster is whole again: with two of three brokers away nothing can be written, and nothing is proved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::events::EventLog;
use super::{PARTITIONS, Topics};
use crate::support::broker::Coordinated;
use crate::support::cluster::Cluster;
use crate::support::rng::Rng;

/// Longer than the time after which a silent broker is put out of the cluster (3 s) and than an even slot's transaction timeout.
const FREEZE: Duration = Duration::from_secs(6);

/// How long a transaction is waited for that can be disturbed.
const OPEN_TRANSACTION_MAX: Duration = Duration::from_secs(10);

/// What such a run must have met at least once, beside what its processes must.
pub(crate) const AIMS: &[&str] = &[
    "broker killed as leader of a partition",
    "broker killed as group coordinator",
    "broker killed as transaction coordinator",
    "broker killed as controller",
    "broker frozen",
    "broker killed inside an open transaction",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Of a partition of the input or the output.
    Leader,
    GroupCoordinator,
    /// Of a worker's transactional id.
    TransactionCoordinator,
    Controller,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader of a partition",
            Self::GroupCoordinator => "group coordinator",
            Self::TransactionCoordinator => "transaction coordinator",
            Self::Controller => "controller",
        }
    }
}

const ROLES: [Role; 4] = [
    Role::Leader,
    Role::GroupCoordinator,
    Role::TransactionCoordinator,
    Role::Controller,
];

#[derive(Clone, Copy, Debug)]
enum Deed {
    Kill(Role),
    Freeze,
}

/// A thread that does one after the other until it is told to end.
pub(crate) struct Outages {
    end: Arc<AtomicBool>,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    thread: Option<JoinHandle<()>>,
}

impl Outages {
    /// `log`: where the hosts write what they do.
    pub(crate) fn start(cluster: &Arc<Cluster>, topics: &Topics, processes: usize, log: PathBuf, seed: u64) -> Self {
        let (end, counts) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let mut nemesis = Nemesis {
            cluster: Arc::clone(cluster),
            topics: topics.clone(),
            processes,
            log: EventLog::open(log),
            rng: Rng::new(seed),
            end: Arc::clone(&end),
            counts: Arc::clone(&counts),
        };
        Self {
            end,
            counts,
            thread: Some(thread::spawn(move || nemesis.run())),
        }
    }

    /// How often each thing has happened so far.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.counts.lock().unwrap().clone()
    }

    /// Ends when the cluster is whole again.
    pub(crate) fn finish(mut self) -> BTreeMap<String, usize> {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is finished once");
        thread.join().expect("brokers are killed and come back");
        self.counts()
    }
}

/// A test that fails leaves no thread behind that kills brokers of the next one.
impl Drop for Outages {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Nemesis {
    cluster: Arc<Cluster>,
    topics: Topics,
    processes: usize,
    log: EventLog,
    rng: Rng,
    end: Arc<AtomicBool>,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Nemesis {
    fn run(&mut self) {
        // What is left of this round; each round has all deeds, in a new order.
        let mut round = Vec::new();
        while self.goes_on() {
            let deed = round.pop().unwrap_or_else(|| {
                round = ROLES.map(Deed::Kill).to_vec();
                round.push(Deed::Freeze);
                self.rng.shuffle(&mut round);
                round.pop().expect("a round has deeds")
            });
            let done = match deed {
                Deed::Kill(role) => self.kill(role),
                Deed::Freeze => self.freeze(),
            };
            if !done {
                round.insert(0, deed);
            }
            let pause = self.rng.between_ms(200, 2000);
            self.last(pause);
        }
    }

    fn goes_on(&self) -> bool {
        !self.end.load(Ordering::Relaxed)
    }

    /// How long things stay as they are is part of the plan; nothing is waited for.
    fn last(&self, time: Duration) {
        let start = Instant::now();
        while self.goes_on() && start.elapsed() < time {
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    /// Whether it could be done.
    fn kill(&mut self, role: Role) -> bool {
        let node = self.node(role);
        let Some(process) = self.transaction() else {
            return false;
        };
        self.cluster.kill(node);
        self.count(&format!("broker killed as {}", role.name()));
        if self.log.in_transaction(process) {
            self.count("broker killed inside an open transaction");
        }
        let down = self.rng.between_ms(0, 4000);
        self.last(down);
        self.cluster.restart(&[node]);
        self.cluster.wait_until_whole();
        true
    }

    /// Whether it could be done.
    fn freeze(&mut self) -> bool {
        let role = *self.rng.pick(&ROLES);
        let node = self.node(role);
        if self.transaction().is_none() {
            return false;
        }
        self.cluster.freeze(node);
        self.count("broker frozen");
        // To its end, also where the run is over: a broker that was not away long enough proves nothing.
        thread::sleep(FREEZE);
        self.cluster.thaw(node);
        self.cluster.wait_until_whole();
        true
    }

    fn node(&mut self, role: Role) -> i32 {
        let slot = self.rng.below(self.processes);
        let partition = self.rng.below(PARTITIONS as usize) as i32;
        match role {
            Role::Leader => {
                let topic = self.rng.pick(&[&self.topics.input, &self.topics.output]).to_owned();
                self.cluster.leader(topic, partition)
            }
            Role::GroupCoordinator => self.cluster.coordinator(Coordinated::Group, &self.topics.group()),
            Role::TransactionCoordinator => {
                // As README says; every process has a first worker.
                let id = format!("{}.copy.slot-{slot}.0", self.topics.app);
                self.cluster.coordinator(Coordinated::Transaction, &id)
            }
            Role::Controller => self.cluster.controller(),
        }
    }

    /// A process that has begun a transaction this very moment. None: nobody does.
    fn transaction(&mut self) -> Option<u32> {
        let seen = self.log.events().len();
        let start = Instant::now();
        while self.goes_on() && start.elapsed() < OPEN_TRANSACTION_MAX {
            let begun = self.log.events()[seen..]
                .iter()
                .rev()
                .find(|event| event.name == "begin");
            if let Some(process) = begun.map(|event| event.pid)
                && self.log.in_transaction(process)
            {
                return Some(process);
            }
            thread::sleep(Duration::from_millis(2));
        }
        None
    }
}
