//! A stage whose plugin comes in versions, each of which names itself in its outputs: `LABEL: VALUE`.
//!
//! Versions are made of the guest `versioned` by writing another label into it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::chaos::Topics;
use super::chaos::checker::Numbered;
use super::guests::guest;
use super::host::{Host, Invocation, Pipeline, Printed};
use super::{PATIENCE, admin, wait_for};

const TOKEN: &str = "a token of this test";
const LABEL: &str = "version-label:";
const LABEL_CHARS: usize = 34;

/// The component of the version with this label.
pub(crate) fn version(label: &str) -> Vec<u8> {
    relabelled("versioned", label)
}

/// The guest, built of another crate, with a label.
pub(crate) fn relabelled(package: &str, label: &str) -> Vec<u8> {
    let mut bytes = fs::read(guest(package)).unwrap();
    let marker = LABEL.as_bytes();
    let at: Vec<usize> = (0..bytes.len() - marker.len())
        .filter(|at| bytes[*at..].starts_with(marker))
        .collect();
    assert_eq!(at.len(), 1, "the label stands once in `{package}`");
    let start = at[0] + marker.len();
    let label = format!("{label:<LABEL_CHARS$}");
    bytes[start..start + LABEL_CHARS].copy_from_slice(label.as_bytes());
    bytes
}

/// The digest of a component, as the host tells it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A pipeline of one stage, `copy`, with topics, a plugin file and a folder for its state of its own.
pub(crate) struct Staged {
    pub(crate) topics: Topics,
    pub(crate) folder: TempDir,
    /// The plugin's file.
    pub(crate) file: PathBuf,
    pub(crate) pipeline: Pipeline,
}

impl Staged {
    /// The plugin's file holds the version `first`.
    pub(crate) fn new(name: &str) -> Self {
        Self::on(Topics::create(name))
    }

    pub(crate) fn on(topics: Topics) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("plugin.wasm");
        fs::write(&file, version("first")).unwrap();
        let token = folder.path().join("token");
        fs::write(&token, TOKEN).unwrap();
        let pipeline = Pipeline::on(&topics.kafka, &topics.app)
            .stage("copy", &file, json!({}), &topics.input, &topics.output)
            .set(&["admin", "token"], json!({"file": token}))
            .set(&["stages", "copy", "batch"], json!({"wait": "5ms"}));
        Self {
            topics,
            folder,
            file,
            pipeline,
        }
    }

    /// Sets a value of the stage.
    pub(crate) fn set(mut self, keys: &[&str], value: impl Into<Value>) -> Self {
        let keys = [&["stages", "copy"], keys].concat();
        self.pipeline = self.pipeline.set(&keys, value);
        self
    }

    pub(crate) fn invocation(&self) -> Invocation {
        Invocation::run(&self.pipeline.write()).env("WASMILL_INSTANCE", "one")
    }

    /// Starts the host and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Host {
        let mut host = self.invocation().start();
        host.ready();
        host
    }

    /// Puts a component into the plugin's file, all of it at once.
    pub(crate) fn place(&self, bytes: &[u8]) {
        let beside = self.folder.path().join("beside.wasm");
        fs::write(&beside, bytes).unwrap();
        fs::rename(&beside, &self.file).unwrap();
    }

    /// A command line for the running process: `wasmill GROUP VERB PIPELINE ARGUMENTS`.
    pub(crate) fn command(&self, host: &Host, group: &str, arguments: &[&str]) -> Invocation {
        let pipeline = self.pipeline.write();
        let pipeline = pipeline.to_str().unwrap();
        let words = match arguments {
            [verb, rest @ ..] => [&[group, verb, pipeline], rest].concat(),
            [] => vec![group, pipeline],
        };
        Invocation::new(&words).env("WASMILL_TEST_ADMIN_PORT", &host.admin_port.to_string())
    }

    /// Runs a command with `--json` and reads what it prints.
    #[track_caller]
    pub(crate) fn asks(&self, host: &Host, group: &str, arguments: &[&str]) -> Value {
        let Printed { stdout, .. } = self.command(host, group, arguments).and("--json").exits(0, PATIENCE);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// Swaps by HTTP.
    #[track_caller]
    pub(crate) fn swap(&self, host: &Host, bytes: &[u8]) -> (u16, String) {
        self.try_swap(host, bytes).expect("the host answers")
    }

    /// Asks for a change by HTTP, and for nothing but that it is accepted.
    #[track_caller]
    pub(crate) fn post(&self, host: &Host, path: &str) {
        let answer = admin::call(host.admin_port, "POST", path, Some(TOKEN), &[]);
        let (status, body) = answer.expect("the host answers");
        assert_eq!(status, 200, "{body}");
    }

    /// Swaps by HTTP. None: the host ended before it answered.
    pub(crate) fn try_swap(&self, host: &Host, bytes: &[u8]) -> Option<(u16, String)> {
        admin::call(host.admin_port, "POST", "/plugins/copy/swap", Some(TOKEN), bytes)
    }

    /// What `/status` says of the stage. None: nobody answers.
    pub(crate) fn status(&self, host: &Host) -> Option<Value> {
        let (status, body) = admin::call(host.admin_port, "GET", "/status", Some(TOKEN), &[])?;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).ok()
    }

    /// What `/status` says of the stage.
    #[track_caller]
    pub(crate) fn stage(&self, host: &Host) -> Value {
        self.status(host).expect("the host answers")["stages"][0].clone()
    }

    /// Waits until all workers run the component with this digest.
    #[track_caller]
    pub(crate) fn runs(&self, host: &Host, digest: &str) {
        let on_it = |worker: &Value| worker["digest"] == digest;
        wait_for("all workers to run the version", PATIENCE, || {
            let stage = self.stage(host);
            let workers = stage["workers"].as_array()?;
            (stage["plugin"]["digest"] == digest && workers.iter().all(on_it)).then_some(())
        });
    }

    /// Waits until `/status` tells a refusal with these words.
    #[track_caller]
    pub(crate) fn refuses(&self, host: &Host, words: &str) {
        wait_for(&format!("a refusal with `{words}`"), PATIENCE, || {
            let refused = self.stage(host)["refused"].as_str()?.to_owned();
            refused.contains(words).then_some(())
        });
    }

    /// A sample of `/metrics`, summed up over the samples with these labels; 0 where there is none.
    pub(crate) fn metric(&self, host: &Host, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = admin::call(host.admin_port, "GET", "/metrics", Some(TOKEN), &[]).expect("the host answers");
        admin::metric(&body, name, labels).unwrap_or_default()
    }

    /// The events of the history, the oldest first: change and beginning of the digest.
    pub(crate) fn history(&self, host: &Host) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let path = "/plugins/copy/history";
        let (_, body) = admin::call(host.admin_port, "GET", path, Some(TOKEN), &[]).expect("the host answers");
        let events: Vec<Value> = serde_json::from_str(&body).unwrap();
        let events = events.iter();
        events
            .map(|event| (text(&event["change"]), text(&event["digest"])))
            .collect()
    }
}

/// Asks the host to end and waits for it.
#[track_caller]
pub(crate) fn end(mut host: Host) {
    host.terminate();
    host.exits(0, PATIENCE);
}

/// For each input partition the labels of the versions that its records met, in their order, without repetitions.
pub(crate) fn labels_by_input_partition(topics: &Topics) -> BTreeMap<i32, Vec<String>> {
    let mut by_partition: BTreeMap<i32, Vec<(u64, String)>> = BTreeMap::new();
    for placed in topics.kafka.read_committed(&topics.output) {
        let (label, text) = placed.record.value_text().split_once(": ").unwrap();
        let numbered = Numbered::parse(text).unwrap();
        let labels = by_partition.entry(numbered.partition).or_default();
        labels.push((numbered.of_partition, label.to_owned()));
    }
    let in_order = |mut labels: Vec<(u64, String)>| {
        labels.sort_unstable();
        let mut labels: Vec<String> = labels.into_iter().map(|(_, label)| label).collect();
        labels.dedup();
        labels
    };
    let by_partition = by_partition.into_iter();
    by_partition
        .map(|(partition, labels)| (partition, in_order(labels)))
        .collect()
}

/// Whether what was met is what was published, in that order, some of it left out.
pub(crate) fn is_subsequence(met: &[String], published: &[String]) -> bool {
    let mut published = published.iter();
    met.iter().all(|label| published.any(|other| other == label))
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
