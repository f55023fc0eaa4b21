//! Starts the servers of a run: the one broker and the one Elasticsearch that most tests share, and whatever else a test asks for.
//!
//! `WASMILL_TEST_KAFKA` and `WASMILL_TEST_ELASTICSEARCH` name the shared ones; without them the first use starts one. What is started ends
//! with this process, however that ends.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::checkout;

/// `host:port` of the broker that most tests share.
pub(crate) fn bootstrap() -> &'static str {
    static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();
    let named = std::env::var("WASMILL_TEST_KAFKA")
        .ok()
        .filter(|address| !address.is_empty());
    let shared = SHARED.get_or_init(|| match named {
        Some(address) => ask(address).map(Shared::Named),
        None => Started::new(&[]).map(Shared::Started),
    });
    match shared {
        Ok(Shared::Named(bootstrap)) => bootstrap,
        Ok(Shared::Started(started)) => &started.bootstrap,
        Err(error) => panic!("this test needs a Kafka: {error}"),
    }
}

enum Shared {
    Named(String),
    Started(Started),
}

/// Asks the broker once, so that a wrong address fails every test at once and not each after its own wait.
fn ask(address: String) -> Result<String, String> {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
    match client.fetch_metadata(None, Duration::from_secs(30)) {
        Ok(_) => Ok(address),
        Err(error) => Err(format!(
            "{address}, named by WASMILL_TEST_KAFKA, does not answer: {error}"
        )),
    }
}

/// Brokers that `start-kafka.sh` has started.
pub(crate) struct Started {
    pub(crate) bootstrap: String,
    pub(crate) data: PathBuf,
    server: Server,
}

impl Started {
    pub(crate) fn new(arguments: &[&str]) -> Result<Self, String> {
        let server = Server::start("start-kafka.sh", arguments)?;
        Ok(Self {
            bootstrap: server.value("KAFKA_BOOTSTRAP").to_owned(),
            data: server.value("KAFKA_DATA").into(),
            server,
        })
    }

    /// The value that the script printed under this name.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> &str {
        self.server.value(name)
    }
}

/// What a script of `host/tests/servers` has started.
pub(crate) struct Server {
    printed: BTreeMap<String, String>,
    /// The server is watched by a process at the other end of this pipe, which stops it when the pipe, and with it this process, is gone.
    _lifeline: Option<ChildStdin>,
}

impl Server {
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Result<Self, String> {
        let mut running = Command::new(checkout("host/tests/servers").join(script))
            .arg("--stop-at-stdin-eof")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("host/tests/servers/{script}: {error}"))?;
        let lifeline = running.stdin.take();
        let output = running.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("none could be started:\n{error}"));
        }
        // Tests capture `eprintln!`; this is for whoever watches the run.
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let _ = writeln!(std::io::stderr(), "started for this run, by {script}:\n{printed}");
        let pairs = printed.lines().filter_map(|line| line.split_once('='));
        Ok(Self {
            printed: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            _lifeline: lifeline,
        })
    }

    /// The value that the script printed under this name.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> &str {
        let Self { printed, .. } = self;
        printed
            .get(name)
            .unwrap_or_else(|| panic!("the script printed no {name}: {printed:?}"))
    }
}
