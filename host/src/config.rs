//! Reads the pipeline file: a YAML text becomes a checked [`Pipeline`], or every mistake in it.
//!
//! The text is parsed into a tree of positioned nodes (`yaml`), environment variables are put into
//! its scalars (`interpolate`), and the tree is read key by key (`pipeline`, `stage`, `kafka`), each
//! reader reporting what is wrong and going on. A key that a later version brings is refused, never
//! ignored. Nothing is started or connected; only `{file: PATH}` secrets are read. Whether plugin
//! files exist is a step of its own, [`Pipeline::check_files`].

mod elasticsearch;
mod errors;
mod faults;
mod grants;
mod index_name;
mod ingest;
mod interpolate;
mod json;
mod kafka;
mod limits;
mod mail;
mod model;
mod outputs;
mod pipeline;
mod relations;
mod secret;
mod section;
mod stage;
mod subject;
mod values;
mod webhook;
mod yaml;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use elasticsearch::{BulkDelivery, Credentials, DocumentAction, DocumentId, Elasticsearch, IndexOutput, Versions};
pub(crate) use errors::suggestion;
pub use errors::{At, ConfigError, ConfigErrors, Location};
pub use index_name::IndexName;
pub use ingest::{Ingest, IngestTopic};
pub(crate) use ingest::{KEY_BYTES, KEY_RECORD_BYTES};
pub use kafka::{Clients, Kafka, KafkaProperty, KafkaValue};
pub(crate) use kafka::{LINGER_MS, other_name};
pub(crate) use mail::RECIPIENTS_MAX;
pub use mail::{Encryption, MailOutput, MailServer, Recipients};
pub use model::{
    Admin, Batch, FaultPolicy, GrantedFolder, GrantedVariable, Grants, Guarantee, Input, Limits, NewTopic, OnFault,
    Pipeline, PluginConfig, PluginSource, Retry, Share, Stage, Start, Swap, Topics,
};
pub use outputs::{Outputs, PortOutput, Target};
pub use secret::Secret;
pub use subject::Subject;
pub(crate) use subject::Told;
pub use webhook::{Effort, WebhookOutput};

use section::{Context, Field};

/// The largest pipeline file, in bytes; beyond it, something else was named by mistake.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the brokers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// From the file, which has to name `kafka: {bootstrap.servers: ..}`.
    Configured,
    /// From the caller, so the file need not name them.
    Embedded,
}

/// Reads and checks a pipeline file; `env` gives the value of an environment variable.
///
/// # Errors
/// Every mistake that can be found in one go, sorted by place. A text that is not YAML is one
/// mistake, and so is a file that cannot be read.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>, broker: Broker) -> Result<Pipeline, ConfigErrors> {
    let text = read_text(path).map_err(|error| ConfigErrors::one(path, error))?;
    parse(&text, path, env, broker)
}

/// Checks the text of a pipeline file; relative paths in it start from the folder of `path`.
///
/// # Errors
/// As [`load`].
///
/// # Examples
/// ```
/// use wasmill::config::{self, Broker};
///
/// let text = "app: demo\nstages: {}\n";
/// let errors = config::parse(text, "demo.yaml".as_ref(), &|_| None, Broker::Embedded).unwrap_err();
/// assert_eq!(errors.to_string(), "demo.yaml:2:9: `stages`: a pipeline has at least one stage");
/// ```
pub fn parse(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    broker: Broker,
) -> Result<Pipeline, ConfigErrors> {
    let mut errors = Vec::new();
    let mut root = yaml::parse(text, &mut errors).map_err(|error| ConfigErrors::one(path, error))?;
    interpolate::interpolate(&mut root, env, &mut errors);
    let context = Context::new(path, env);
    let shape = json::shape(&root);
    let pipeline = pipeline::read(&Field::root(&context, &root), path, broker, shape);
    errors.extend(context.into_errors());
    ConfigErrors::collect(path, errors)?;
    pipeline.ok_or_else(|| ConfigErrors::one(path, ConfigError::whole_file("it cannot be read as a pipeline")))
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::whole_file(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::whole_file(format!(
            "is larger than {FILE_BYTES_MAX} bytes, so it is no pipeline file"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        ConfigError::whole_file(format!("is not UTF-8 text, first in line {line}"))
    })
}
