//! Real guests under the real runtime: what a plugin may do, what it may not, and what is said of it then.
//!
//! `limits` has each limit twice, obeyed and broken; `sandbox` is what a guest finds around it and what is kept of what it says, `grants`
//! what a stage adds to that; `slots` is how stages share the cores; `answers` is that neither the cut of a batch nor the age of an instance
//! can be seen in the replies; `loading` is what is said of files that are no plugins, `damaged` what becomes of plugin files with wrong bytes
//! in them; `evil` has components that are made to do harm; `golden` is a component of the first contract.

mod answers;
mod damaged;
mod evil;
mod golden;
mod grants;
mod limits;
mod loading;
mod sandbox;
mod slots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::component::{self, Binary, Plugin, Wanted};
use super::contract::{Batch, Emission, Entry, Header, HeadersOut, Message, Part, Span};
use super::grants::Grants;
use super::instance::{Executor, Instance};
use super::limits::Limits;
use super::runtime::Runtime;
use crate::fault::Fault;
use crate::fixture::Fixture;
use crate::metrics::PluginMetrics;
use crate::reply::{Checked, Verdict};

/// As a stage has it that says nothing of it.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Held by whatever needs, or measures, a lot of memory.
static MEMORY: Mutex<()> = Mutex::new(());

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The component of a plugin crate, built once.
fn built(crate_folder: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built
        .entry(crate_folder.to_owned())
        .or_insert_with(|| crate::build::plugin_crate(&checkout(crate_folder)).unwrap())
        .clone()
}

/// As a stage has them that says nothing of limits, but for a deadline that a busy machine does not reach.
pub(crate) fn patient() -> Limits {
    Limits::patient()
}

/// A plugin with a configuration and limits, from which instances are made.
struct Stand {
    plugin: Arc<Plugin>,
    executor: Arc<Executor>,
}

impl Stand {
    fn new(crate_folder: &str, config: &str, limits: Limits) -> Self {
        Self::granted(crate_folder, config, limits, Grants::default())
    }

    fn granted(crate_folder: &str, config: &str, limits: Limits, grants: Grants) -> Self {
        let binary = Binary::read(&built(crate_folder), FILE_BYTES_MAX).unwrap();
        Self::load_with(runtime(), &binary, config, limits, grants).unwrap()
    }

    fn load(runtime: &Runtime, binary: &Binary, config: &str, limits: Limits) -> anyhow::Result<Self> {
        Self::load_with(runtime, binary, config, limits, Grants::default())
    }

    fn load_with(
        runtime: &Runtime,
        binary: &Binary,
        config: &str,
        limits: Limits,
        grants: Grants,
    ) -> anyhow::Result<Self> {
        let executor = Arc::new(Executor::new().unwrap());
        let wanted = Wanted {
            stage: "under-test",
            sha256: None,
            config: config.to_owned(),
            limits,
            grants,
        };
        let plugin = Arc::new(component::load(runtime, binary, wanted, &executor)?);
        Ok(Self { plugin, executor })
    }

    fn misbehave(limits: Limits) -> Self {
        Self::new("host/tests/guests/misbehave", "{}", limits)
    }

    fn try_instance(&self, metrics: Arc<PluginMetrics>) -> Result<Instance, Fault> {
        Instance::new(Arc::clone(&self.plugin), Arc::clone(&self.executor), metrics)
    }

    fn instance(&self) -> Instance {
        self.try_instance(PluginMetrics::unheard()).unwrap()
    }

    /// What a fresh instance answers to these values in one batch.
    fn answers(&self, values: &[&str]) -> Result<Vec<String>, Fault> {
        self.ask(&mut self.instance(), &records(values))
    }

    /// What an instance answers to these records in one batch, one text for each.
    fn ask(&self, instance: &mut Instance, records: &[Fixture]) -> Result<Vec<String>, Fault> {
        let replies = instance.process(&batch(records))?;
        let checked = Checked::new(
            replies,
            records.len(),
            &self.plugin.port_kinds(),
            &self.plugin.limits.answer,
        )?;
        Ok((0..checked.len()).map(|index| told(&checked, index)).collect())
    }
}

fn records(values: &[&str]) -> Vec<Fixture> {
    values.iter().map(|value| record(Some(value.as_bytes()))).collect()
}

fn record(value: Option<&[u8]>) -> Fixture {
    Fixture {
        topic: "t".to_owned(),
        key: None,
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
        timestamp_ms: None,
    }
}

/// Packs records as the contract says, every part of them.
fn batch(records: &[Fixture]) -> Batch {
    let (mut data, mut entries, mut headers) = (Vec::new(), Vec::new(), Vec::new());
    let mut write = |bytes: &[u8]| {
        let start = u32::try_from(data.len()).unwrap();
        data.extend_from_slice(bytes);
        Span {
            start,
            len: u32::try_from(bytes.len()).unwrap(),
        }
    };
    for (offset, record) in records.iter().enumerate() {
        let start = u32::try_from(headers.len()).unwrap();
        for (name, value) in &record.headers {
            let (name, value) = (write(name.as_bytes()), value.as_deref().map(&mut write));
            headers.push(Header { name, value });
        }
        entries.push(Entry {
            offset: offset as u64,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(&mut write),
            value: record.value.as_deref().map(&mut write),
            headers: Span {
                start,
                len: u32::try_from(record.headers.len()).unwrap(),
            },
        });
    }
    Batch {
        topic: "t".to_owned(),
        partition: 0,
        data,
        entries,
        headers,
    }
}

/// A verdict as text, with the bytes that it points to instead of the spans.
fn told(checked: &Checked, index: usize) -> String {
    match checked.verdict(index) {
        Verdict::Skip => "skip".to_owned(),
        Verdict::Forward { port } => format!("forward to {port}"),
        Verdict::Reject(reason) => format!("reject: {reason}"),
        Verdict::Retry(reason) => format!("retry: {reason}"),
        Verdict::Emit(emissions) => {
            let told = emissions.iter().map(|emission| match emission {
                Emission::Message(message) => told_message(checked, message),
                Emission::Document(_) => unreachable!("no plugin here has a document port"),
            });
            format!("emit {}", told.collect::<Vec<_>>().join("; "))
        }
    }
}

fn told_message(checked: &Checked, message: &Message) -> String {
    let bytes = |span: Span| checked.bytes(span).escape_ascii().to_string();
    let part = |part: &Part| match part {
        Part::Unchanged => "unchanged".to_owned(),
        Part::Replace(span) => format!("{:?}", span.map(bytes)),
    };
    let table = |range: Span| {
        let headers = checked.headers(range).iter();
        headers
            .map(|header| (bytes(header.name), header.value.map(bytes)))
            .collect::<Vec<_>>()
    };
    let headers = match message.headers {
        HeadersOut::Unchanged => "unchanged".to_owned(),
        HeadersOut::Append(range) => format!("and {:?}", table(range)),
        HeadersOut::Replace(range) => format!("{:?}", table(range)),
    };
    format!(
        "to {} partition {:?} key {} value {} headers {headers} at {:?}",
        message.port,
        message.partition,
        part(&message.key),
        part(&message.value),
        message.timestamp_ms
    )
}
