//! A pipeline file as the rest of the host sees it: checked, typed, defaults filled in.
//!
//! Nothing here can be out of range, and nothing refers to something that the file does not have.
//! What only a plugin or a broker can tell (ports, the schema of `config`, topics) is not known yet;
//! whoever finds out reports it with the place that each value keeps, by [`Stage::error`]:
//! ``pipeline.yaml:31:9: stage `az-filter`: port `mathced` is not one of the plugin's ports``.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::elasticsearch::Elasticsearch;
use super::errors::{At, ConfigError, ConfigErrors, Location};
use super::kafka::Kafka;
use super::mail::MailServer;
use super::outputs::Outputs;
use super::secret::Secret;

/// One pipeline file.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The file, as it was named by the caller; messages begin with it.
    pub file: PathBuf,
    /// The prefix of consumer groups, transactional ids and internal topics.
    pub app: At<String>,
    /// What makes transactional ids unique to this process and stable across its restarts; random
    /// when there is none.
    pub instance: Option<At<String>>,
    /// The clients' properties.
    pub kafka: Kafka,
    /// Where Elasticsearch is; there when an output writes documents, but for `dev`.
    pub elasticsearch: Option<Elasticsearch>,
    /// Where mail is handed over; there when an output sends mail, but for `dev`.
    pub smtp: Option<MailServer>,
    /// The HTTP listener; without it there is none.
    pub admin: Option<Admin>,
    /// What happens to topics that do not exist.
    pub topics: At<Topics>,
    /// The folder for what a process has to remember across restarts: which versions of plugins ran, and the last good ones.
    pub state_dir: At<PathBuf>,
    /// The stages, in the order of the file; never empty.
    pub stages: Vec<Stage>,
    pub(super) shape: Shape,
}

impl Pipeline {
    /// Words mistakes that were found after loading, sorted by place; `Ok` when there are none.
    ///
    /// # Errors
    /// The mistakes, when there is at least one.
    pub fn report(&self, errors: Vec<ConfigError>) -> Result<(), ConfigErrors> {
        ConfigErrors::collect(&self.file, errors)
    }

    /// The keys whose values differ between two readings of a file, as dotted paths, values untold.
    pub fn differences(&self, other: &Pipeline) -> Vec<String> {
        let mut paths = Vec::new();
        collect_differences("", &self.shape.0, &other.shape.0, &mut paths);
        paths
    }

    /// The stage of this name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name.value == name)
    }

    /// Looks for the plugin files and folders of all stages, and for the folders that they are granted;
    /// loading alone does not, so that a pipeline can be read where its plugins are not.
    ///
    /// # Errors
    /// One mistake for each plugin or folder that is not there or is something else than the file says.
    pub fn check_files(&self) -> Result<(), ConfigErrors> {
        let mistake = |stage: &Stage| {
            let mistake = stage.plugin.value.mistake()?;
            Some(stage.error(stage.plugin.at, format!("`plugin`: {mistake}")))
        };
        let plugins = self.stages.iter().filter_map(mistake);
        let folders = self.stages.iter().flat_map(|stage| {
            let missing = stage
                .grants
                .files
                .iter()
                .filter(|granted| !granted.folder.value.is_dir());
            missing.map(|granted| {
                let (path, folder) = (&granted.guest_path.value, granted.folder.value.display());
                stage.error(
                    granted.folder.at,
                    format!("`grants.files.{path}`: there is no folder {folder}"),
                )
            })
        });
        self.report(plugins.chain(folders).collect())
    }
}

/// All values of a file, secrets among them, for comparing it with another; never shown.
#[derive(Clone)]
pub(super) struct Shape(pub(super) serde_json::Value);

impl std::fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shape(hidden)")
    }
}

fn collect_differences(path: &str, left: &serde_json::Value, right: &serde_json::Value, into: &mut Vec<String>) {
    let (Some(left_map), Some(right_map)) = (left.as_object(), right.as_object()) else {
        if left != right {
            into.push(path.to_owned());
        }
        return;
    };
    let only_right = right_map.keys().filter(|key| !left_map.contains_key(*key));
    for key in left_map.keys().chain(only_right) {
        let inner = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (left_map.get(key), right_map.get(key)) {
            (Some(left), Some(right)) => collect_differences(&inner, left, right, into),
            _ => into.push(inner),
        }
    }
}

/// The HTTP listener for `/metrics`, `/healthz`, `/readyz` and `/status`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address and port.
    pub listen: At<SocketAddr>,
    /// What a caller has to show; nothing when there is none.
    pub token: Option<At<Secret>>,
}

/// What happens to topics that do not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    /// A missing topic is an error (the default).
    Require,
    /// A missing topic is created.
    Create(NewTopic),
}

/// How a missing topic is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its number of partitions; 1 by default.
    pub partitions: i32,
    /// Copies of each partition; -1, the default, leaves it to the broker.
    pub replication: i32,
    /// The topic's own settings, as Kafka names them.
    pub config: BTreeMap<String, String>,
}

/// A plugin with its inputs and outputs.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The stage's key in the file.
    pub name: At<String>,
    /// Where its plugin comes from.
    pub plugin: At<PluginSource>,
    /// What it reads.
    pub input: Input,
    /// What its plugin is configured with; an empty object by default.
    pub config: PluginConfig,
    /// Where its ports lead.
    pub outputs: Outputs,
    /// What happens to a record that fails.
    pub on_fault: OnFault,
    /// Its consumer group; `{app}.{stage}` by default.
    pub group: At<String>,
    /// Its workers in this process: 1 to 256, 1 by default.
    pub workers: At<u16>,
    /// What a crash can do to its output.
    pub guarantee: At<Guarantee>,
    /// The time between two commits: 10 ms to 10 s, 100 ms by default.
    pub commit_interval: At<Duration>,
    /// What ends a batch.
    pub batch: Batch,
    /// What one instance of the plugin may use.
    pub limits: Limits,
    /// What the plugin is given beyond the base set; nothing by default.
    pub grants: Grants,
    /// How its plugin changes while it runs.
    pub swap: Swap,
    /// Whether each output says in headers which version of the plugin made it; no by default.
    pub stamp: bool,
}

impl Stage {
    /// Makes an error about this stage that points to a place in the file.
    pub fn error(&self, at: Location, message: impl std::fmt::Display) -> ConfigError {
        ConfigError::at(at, format!("stage `{}`: {message}", self.name.value))
    }
}

/// Where a plugin comes from. Paths have been joined to the pipeline file's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// A compiled component.
    WasmFile {
        /// The file.
        path: PathBuf,
        /// The digest that the file has to have.
        sha256: Option<[u8; 32]>,
    },
    /// The folder of a plugin crate, which is built.
    CrateFolder {
        /// The folder, with a `Cargo.toml` in it.
        path: PathBuf,
    },
}

impl PluginSource {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::WasmFile { path, .. } | Self::CrateFolder { path } => path,
        }
    }

    /// What is wrong with it: it is not there, or is something else than the file says.
    pub fn mistake(&self) -> Option<String> {
        let path = self.path();
        let shown = path.display();
        match self {
            Self::WasmFile { .. } if path.is_file() => None,
            Self::WasmFile { .. } if path.is_dir() => Some(format!("{shown} is a folder, not a .wasm file")),
            Self::WasmFile { .. } => Some(format!("there is no file {shown}")),
            Self::CrateFolder { .. } if path.join("Cargo.toml").is_file() => None,
            Self::CrateFolder { .. } if path.is_dir() => {
                Some(format!("folder {shown} holds no Cargo.toml, so it is no plugin crate"))
            }
            Self::CrateFolder { .. } if path.is_file() => Some(format!(
                "{shown} is neither a folder nor named .wasm; write {{file: PATH}} if it is a component"
            )),
            Self::CrateFolder { .. } => Some(format!("there is no folder {shown}")),
        }
    }
}

/// What a stage reads.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its topics, each once, at least one; records of different topics are independent.
    pub topics: Vec<At<String>>,
    /// Where it starts in a partition in which its group has committed nothing.
    pub start: At<Start>,
}

/// Where a group starts that has committed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record (the default).
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record that is not older, in milliseconds since 1970 (UTC).
    TimestampMs(i64),
}

/// What `configure` gets, with the place of every value in it.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// A JSON object.
    pub value: serde_json::Value,
    /// Where it stands; the stage's place when the file has none.
    pub at: Location,
    pub(super) places: BTreeMap<String, Location>,
}

impl PluginConfig {
    pub(super) fn empty(at: Location) -> Self {
        Self {
            value: serde_json::Value::Object(serde_json::Map::new()),
            at,
            places: BTreeMap::new(),
        }
    }

    /// The place of the value at a JSON pointer (`/stations/0`), or of the nearest one around it.
    pub fn place(&self, pointer: &str) -> Location {
        let mut rest = pointer;
        loop {
            if let Some(at) = self.places.get(rest) {
                return *at;
            }
            match rest.rfind('/') {
                Some(end) => rest = &rest[..end],
                None => return self.at,
            }
        }
    }
}

/// What happens to a record that fails.
#[derive(Clone, Debug)]
pub struct OnFault {
    /// The choice.
    pub policy: At<FaultPolicy>,
    /// The topic of dead letters; `{app}.dead-letters` by default.
    pub dead_letter: At<String>,
    /// What a plugin that asks for another try gets.
    pub retry: Retry,
    /// The stage stops when more records fail than this; without it, none do that.
    pub breaker: Option<Share>,
}

/// What a plugin that asks for another try of a record gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often a record is tried again before it has failed: at most 1000, 5 by default.
    pub limit: u32,
    /// The pause before the first new try: 1 ms to 10 s, 100 ms by default. It doubles with each, up to 10 s.
    pub backoff: Duration,
}

impl Retry {
    /// The longest pause.
    pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            limit: 5,
            backoff: Duration::from_millis(100),
        }
    }
}

/// More than `failures` among `of` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many records may fail.
    pub failures: u32,
    /// Among how many; more than `failures`, at most 100,000.
    pub of: u32,
}

/// How the plugin of a stage changes while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Whether the plugin's file is watched; yes by default.
    pub watch: bool,
    /// A new version goes back to the one before when more of its first records fail than this, and than failed with the one
    /// before; more than 100 of 1000 by default. None: never.
    pub rollback: Option<Share>,
}

impl Default for Swap {
    fn default() -> Self {
        let rollback = Share {
            failures: 100,
            of: 1000,
        };
        Self {
            watch: true,
            rollback: Some(rollback),
        }
    }
}

/// The choices for a record that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPolicy {
    /// It goes to the dead-letter topic, and the stage goes on.
    DeadLetter,
    /// It is counted and dropped, and the stage goes on.
    Skip,
    /// The stage stops before it.
    Stop,
}

/// What a crash can do to a stage's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Nothing: output and consumed offsets are one transaction (the default).
    ExactlyOnce,
    /// Repeat some of it; for brokers without transactions.
    AtLeastOnce,
}

/// What ends a batch: whichever is reached first.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Records: 1 to 10,000, 500 by default.
    pub records: At<u32>,
    /// Bytes of keys, values and headers: 1 KiB to 16 MiB, 128 KiB by default. One larger record is
    /// a batch of its own.
    pub bytes: At<u64>,
    /// The age of the oldest record: at most 1 s, 5 ms by default.
    pub wait: At<Duration>,
}

/// What a plugin is given beyond the base set of WASI, which is empty.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Environment variables, in the order of the file.
    pub env: Vec<GrantedVariable>,
    /// Folders that it may read, in the order of the file.
    pub files: Vec<GrantedFolder>,
}

/// An environment variable that a plugin sees.
#[derive(Clone, Debug)]
pub struct GrantedVariable {
    /// Its name.
    pub name: At<String>,
    /// Its value, which is never printed.
    pub value: At<Secret>,
}

/// A folder that a plugin may read, with everything in it.
#[derive(Clone, Debug)]
pub struct GrantedFolder {
    /// Where the plugin finds it: an absolute path without `.` and `..`.
    pub guest_path: At<String>,
    /// The folder, joined to the pipeline file's own.
    pub folder: At<PathBuf>,
}

/// What one instance of a plugin may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// All its memories together, in bytes: 1 MiB to 4 GiB, 128 MiB by default.
    pub memory_bytes: At<u64>,
    /// The time of one call, however large the batch: 10 ms to 60 s, 1 s by default.
    pub deadline: At<Duration>,
    /// The time of a call with a single record: 10 ms up to `deadline`; 250 ms by default, or
    /// `deadline` where that is shorter.
    pub deadline_record: At<Duration>,
    /// The guest's own stack, in bytes: 64 KiB to 16 MiB, 512 KiB by default.
    pub stack_bytes: At<u64>,
    /// Elements of all its tables together: 100 to 10,000,000, 100,000 by default.
    pub table_elements: At<u32>,
    /// Its core instances, its memories and its tables, each: 1 to 1,000, 100 by default.
    pub instances: At<u32>,
    /// The plugin's file, in bytes: 1 KiB to 1 GiB, 64 MiB by default.
    pub file_bytes: At<u64>,
    /// The data of one answer, in bytes: 1 KiB to 1 GiB, 64 MiB by default.
    pub answer_bytes: At<u64>,
    /// Emissions of one answer: 1 to 10,000,000, 1,000,000 by default.
    pub answer_emissions: At<u32>,
    /// Headers of one answer: 1 to 10,000,000, 1,000,000 by default.
    pub answer_headers: At<u32>,
    /// Name and value of one header that the plugin makes, in bytes: 64 B to 16 MiB, 64 KiB by default.
    pub header_bytes: At<u64>,
    /// A line of the plugin's log, in bytes; the rest of it is cut: 64 B to 64 KiB, 1 KiB by default.
    pub log_line_bytes: At<u64>,
    /// Lines a second of all its instances in a stage; the rest are dropped: 1 to 100,000, 100 by default.
    pub log_lines_per_second: At<u32>,
    /// Names of the plugin's own metrics in a stage: 1 to 10,000, 100 by default.
    pub metric_names: At<u32>,
}
