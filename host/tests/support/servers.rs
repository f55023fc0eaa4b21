//! Starts the Kafkas of a run: the one broker that most tests share, and whatever else a test asks for.
//!
//! `WASMILL_TEST_KAFKA` names the shared one; without it the first use starts one. What is started ends with this process, however that ends.

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
    printed: String,
    /// The brokers are watched by a process at the other end of this pipe, which stops them when the pipe, and with it this process, is gone.
    _lifeline: Option<ChildStdin>,
}

impl Started {
    pub(crate) fn new(arguments: &[&str]) -> Result<Self, String> {
        let mut script = Command::new(checkout("host/tests/servers/start-kafka.sh"))
            .arg("--stop-at-stdin-eof")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("host/tests/servers/start-kafka.sh: {error}"))?;
        let lifeline = script.stdin.take();
        let output = script.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("none could be started:\n{error}"));
        }
        // Tests capture `eprintln!`; this is for whoever watches the run.
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let _ = writeln!(std::io::stderr(), "started a Kafka for this run:\n{printed}");
        let mut started = Self {
            bootstrap: String::new(),
            data: PathBuf::new(),
            printed,
            _lifeline: lifeline,
        };
        started.bootstrap = started.value("KAFKA_BOOTSTRAP=")?;
        started.data = started.value("KAFKA_DATA=")?.into();
        Ok(started)
    }

    /// What the script printed behind this name.
    pub(crate) fn value(&self, name: &str) -> Result<String, String> {
        let line = self.printed.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
            .ok_or_else(|| format!("start-kafka.sh printed no {name}: {}", self.printed))
    }
}
