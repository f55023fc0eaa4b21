//! A Kafka of three brokers, any of which may be killed, frozen and started again. Every partition is on all of them, and a write needs two.
//!
//! The suite always starts it itself, when a test first asks for it. Tests that use it take turns, and each begins with a whole cluster.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::broker::{self, Coordinated, Metadata};
use super::kafka::Kafka;
use super::servers::Started;
use super::{PATIENCE, checkout, wait_for};

/// Node ids, which are broker ids and controller ids too.
pub(crate) const NODES: [i32; 3] = [1, 2, 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Frozen,
    Dead,
}

pub(crate) struct Cluster {
    pub(crate) kafka: Kafka,
    started: Started,
    addresses: Vec<SocketAddr>,
    states: Mutex<[State; NODES.len()]>,
}

/// The cluster, for one test alone.
pub(crate) struct Turn {
    cluster: Arc<Cluster>,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Arc<Cluster>;

    fn deref(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

/// Waits for the test's turn, and for the cluster to be whole.
pub(crate) fn cluster() -> Turn {
    static CLUSTER: OnceLock<Result<Arc<Cluster>, String>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());

    // A test that failed has left nothing behind but brokers to be started again.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = CLUSTER
        .get_or_init(|| Cluster::start().map(Arc::new))
        .as_ref()
        .unwrap_or_else(|error| panic!("this test needs a Kafka of three brokers: {error}"));
    cluster.mend();
    Turn {
        cluster: Arc::clone(cluster),
        _turn: turn,
    }
}

impl Cluster {
    fn start() -> Result<Self, String> {
        let started = Started::new(&["--nodes", &NODES.len().to_string()])?;
        let kafka = Kafka {
            bootstrap: started.bootstrap.clone(),
            replication: NODES.len() as i32,
        };
        let addresses = kafka
            .bootstrap
            .split(',')
            .map(|address| address.parse().map_err(|error| format!("{address}: {error}")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            kafka,
            started,
            addresses,
            states: Mutex::new([State::Running; NODES.len()]),
        })
    }

    fn states(&self) -> MutexGuard<'_, [State; NODES.len()]> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self, state: State) -> Vec<i32> {
        let states = self.states();
        NODES.into_iter().filter(|node| states[place(*node)] == state).collect()
    }

    /// SIGKILL, and the broker is gone.
    pub(crate) fn kill(&self, node: i32) {
        self.signal(node, "KILL");
        self.states()[place(node)] = State::Dead;
        wait_for(&format!("broker {node} to be gone"), PATIENCE, || {
            TcpStream::connect(self.addresses[place(node)]).is_err().then_some(())
        });
    }

    /// Stops the broker in its tracks: SIGSTOP.
    pub(crate) fn freeze(&self, node: i32) {
        self.signal(node, "STOP");
        self.states()[place(node)] = State::Frozen;
    }

    /// Lets it go on: SIGCONT.
    pub(crate) fn thaw(&self, node: i32) {
        self.signal(node, "CONT");
        self.states()[place(node)] = State::Running;
    }

    /// The shell's own `kill`, because not every system has the program.
    fn signal(&self, node: i32, name: &str) {
        let file = self.started.data.join(format!("node{node}/pid"));
        let pid = fs::read_to_string(&file).unwrap();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status()
            .unwrap();
        assert!(sent.success(), "broker {node} is gone already: kill -{name} {pid}");
    }

    /// Starts killed brokers again, all at once, because one alone has no quorum; returns when they serve.
    pub(crate) fn restart(&self, nodes: &[i32]) {
        let scripts: Vec<_> = nodes
            .iter()
            .map(|node| {
                Command::new(checkout("host/tests/servers/start-node.sh"))
                    .arg(&self.started.data)
                    .arg(node.to_string())
                    .stdin(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for (node, script) in nodes.iter().zip(scripts) {
            let output = script.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "broker {node} does not start again: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            self.states()[place(*node)] = State::Running;
        }
    }

    /// Brings back what is frozen or dead and waits until all is as it was at first.
    pub(crate) fn mend(&self) {
        for node in self.nodes(State::Frozen) {
            self.thaw(node);
        }
        self.restart(&self.nodes(State::Dead));
        self.wait_until_whole();
    }

    /// Waits until every replica of every partition is in sync, in the eyes of every broker: one that is behind says what was true before.
    pub(crate) fn wait_until_whole(&self) {
        wait_for("all replicas of all partitions to be in sync", 2 * PATIENCE, || {
            let views: Option<Vec<Metadata>> = self
                .addresses
                .iter()
                .map(|address| broker::metadata(*address))
                .collect();
            views?
                .iter()
                .all(|view| view.brokers.len() == NODES.len() && view.is_whole())
                .then_some(())
        });
    }

    /// What some broker that runs answers.
    fn ask<T>(&self, what: &str, question: impl Fn(SocketAddr) -> Option<T>) -> T {
        wait_for(what, PATIENCE, || {
            self.nodes(State::Running)
                .into_iter()
                .find_map(|node| question(self.addresses[place(node)]))
        })
    }

    /// The broker that leads a partition.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> i32 {
        self.ask(&format!("{topic} [{partition}] to have a leader"), |address| {
            broker::metadata(address)?.leader(topic, partition)
        })
    }

    /// The broker that coordinates a group or a transactional id.
    pub(crate) fn coordinator(&self, what: Coordinated, id: &str) -> i32 {
        self.ask(&format!("{id} to have a coordinator"), |address| {
            broker::coordinator(address, what, id)
        })
    }

    /// The node whose controller is the active one: the leader of the latest epoch in what the nodes keep of their quorum.
    pub(crate) fn controller(&self) -> i32 {
        wait_for("the cluster to have a controller", PATIENCE, || {
            let latest = NODES
                .iter()
                .filter_map(|node| {
                    let file = format!("node{node}/data/__cluster_metadata-0/quorum-state");
                    let text = fs::read_to_string(self.started.data.join(file)).ok()?;
                    let quorum: serde_json::Value = serde_json::from_str(&text).ok()?;
                    Some((quorum["leaderEpoch"].as_i64()?, quorum["leaderId"].as_i64()?))
                })
                .max()?;
            let node = latest.1 as i32;
            NODES.contains(&node).then_some(node)
        })
    }
}

fn place(node: i32) -> usize {
    node as usize - 1
}
