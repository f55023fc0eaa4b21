//! Turns a file into a prepared plugin, or says in plain words why it cannot be one.
//!
//! What is checked, in this order: size, that it is a component, the digest if one is pinned, that its imports are within what the host
//! gives, that it exports a known world, and what it says of itself. Only then does it run for the first time, under its limits.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, ComponentExportIndex};

use super::contract::{Description, PortKind, ProcessorPre};
use super::grants::Grants;
use super::imports::{Guest, LineRate};
use super::instance::{Executor, Instance};
use super::limits::{Limit, Limits};
use super::runtime::{Machine, Runtime};
use super::slots::Share;
use crate::metrics::{PluginMetrics, StageMetrics};

/// As the contract says.
const PORTS_MAX: usize = 64;
const PORT_NAME_BYTES_MAX: usize = 63;
/// Name and version stand in every dead letter, in metrics and on terminals.
const NAME_BYTES_MAX: usize = 256;
const VERSION_BYTES_MAX: usize = 256;
/// Schemas that people write have some kilobytes.
const SCHEMA_BYTES_MAX: usize = 1024 * 1024;
/// The interface that this host calls.
pub(super) const PROCESS: &str = "wasmill:plugin/process";
/// The optional proof of a plugin that it works.
const SELF_TEST: &str = "wasmill:plugin/self-test";
/// Versions of the contract that this host speaks: this minor version.
const CONTRACT_VERSION: &str = "0.1.";
/// What a component may import without a grant, by interface name without version.
pub(super) const GIVEN: [&str; 21] = [
    "wasmill:plugin/types",
    "wasmill:plugin/log",
    "wasmill:plugin/metrics",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/wall-clock",
    "wasi:clocks/monotonic-clock",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
    "wasi:io/",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
];

/// A plugin that is compiled, linked and described; instances are made from it.
pub(crate) struct Plugin {
    pub(crate) prepared: ProcessorPre<Guest>,
    /// The function `self-test`, where the plugin has one.
    pub(crate) self_test: Option<ComponentExportIndex>,
    /// What the plugin says of itself; empty until `load` has asked.
    pub(crate) description: Description,
    /// SHA-256 of the file, in hexadecimal.
    pub(crate) digest: String,
    pub(crate) stage: String,
    /// The stage's `config:` as a JSON object.
    pub(crate) config: String,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    /// What its stage has of the machine's slots.
    pub(crate) share: Share,
    /// Shared by all instances.
    pub(crate) line_rate: Arc<LineRate>,
}

impl Plugin {
    /// The plugin's number for a port name.
    pub(crate) fn port(&self, name: &str) -> Option<usize> {
        self.description.ports.iter().position(|port| port.name == name)
    }

    /// Where its instances count.
    pub(crate) fn metrics(&self, stage: &StageMetrics) -> Arc<PluginMetrics> {
        stage.plugin(&self.description.name, self.limits.metric_names)
    }

    pub(crate) fn port_kinds(&self) -> Vec<PortKind> {
        self.description.ports.iter().map(|port| port.kind).collect()
    }
}

/// The bytes of a plugin file, read once, so that what is hashed is what is run.
pub(crate) struct Binary {
    pub(crate) bytes: Vec<u8>,
    /// SHA-256, in hexadecimal.
    pub(crate) digest: String,
}

impl Binary {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let digest = hex(&Sha256::digest(&bytes));
        Self { bytes, digest }
    }

    /// Takes bytes that came from elsewhere than a file.
    ///
    /// # Errors
    /// When they are too many.
    pub(crate) fn received(bytes: Vec<u8>, bytes_max: u64) -> Result<Self> {
        check_size(bytes.len() as u64, bytes_max)?;
        Ok(Self::new(bytes))
    }

    /// Reads a plugin file of at most `bytes_max`.
    ///
    /// # Errors
    /// When the file cannot be read or is too large.
    pub(crate) fn read(file: &Path, bytes_max: u64) -> Result<Self> {
        let file = File::open(file).context("open the plugin file")?;
        let size = file.metadata().context("look at the plugin file")?.len();
        let mut bytes = Vec::new();
        if size <= bytes_max {
            // A file that grows meanwhile is not read beyond the limit either.
            let mut limited = file.take(bytes_max.saturating_add(1));
            limited.read_to_end(&mut bytes).context("read the plugin file")?;
        }
        check_size(size.max(bytes.len() as u64), bytes_max)?;
        Ok(Self::new(bytes))
    }

    /// Tells a component from other files by the header that every binary has: magic, then version and layer. Layer 0 is a core module,
    /// layer 1 a component.
    fn check_layer(&self) -> Result<()> {
        match self.bytes.get(..8) {
            Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
            Some([0, b'a', b's', b'm', _, _, 0, 0]) => {
                bail!("this is a core module, not a component; build it with `--target wasm32-wasip2`")
            }
            _ => bail!("this is not a WebAssembly file; a plugin is a component, built with `--target wasm32-wasip2`"),
        }
    }
}

/// What to load a plugin for.
pub(crate) struct Wanted<'a> {
    pub(crate) stage: &'a str,
    /// The SHA-256 that the file must have.
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) config: String,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
}

/// Loads, checks, compiles and describes a plugin. It is not configured yet.
///
/// # Errors
/// Says what about the file does not fit, and what to do.
pub(crate) fn load(runtime: &Runtime, binary: &Binary, wanted: Wanted<'_>, executor: &Arc<Executor>) -> Result<Plugin> {
    binary.check_layer()?;
    let digest = &binary.digest;
    if let Some(pinned) = wanted.sha256
        && hex(&pinned) != *digest
    {
        bail!(
            "the file's sha256 is {digest}, but `sha256` wants {}; if this file is meant, put its digest there",
            hex(&pinned)
        );
    }
    let machine = runtime.machine(wanted.limits.stack_bytes)?;
    let component = Component::from_binary(&machine.engine, &binary.bytes)
        .map_err(anyhow::Error::from)
        .context("the component cannot be compiled; the file may be damaged, build it again")?;
    check_imports(&machine, &component)?;
    check_exports(&machine, &component)?;
    let prepared = machine
        .linker
        .instantiate_pre(&component)
        .and_then(ProcessorPre::new)
        .map_err(anyhow::Error::from)
        .context("the component names the right interfaces, but with other types than this host; build it again with the SDK of this version")?;
    let plugin = Arc::new(Plugin {
        prepared,
        self_test: self_test_of(&machine, &component),
        description: Description {
            name: String::new(),
            version: String::new(),
            ports: Vec::new(),
            config_schema: String::new(),
            state_version: 0,
            reads: super::contract::Parts::empty(),
            attributes: Vec::new(),
        },
        digest: digest.clone(),
        stage: wanted.stage.to_owned(),
        config: wanted.config,
        limits: wanted.limits,
        grants: wanted.grants,
        share: runtime.slots.share(wanted.stage),
        line_rate: Arc::default(),
    });
    let described = Instance::bare(Arc::clone(&plugin), Arc::clone(executor), PluginMetrics::unheard())
        .and_then(|mut instance| instance.describe())
        .map_err(|fault| match fault.limit {
            Some(limit) => anyhow!(fault).context(format!("`describe` failed, raise {limit}")),
            None => anyhow!(fault).context("`describe` failed"),
        })?;
    check_description(&described)?;
    let mut plugin = Arc::into_inner(plugin).ok_or_else(|| anyhow!("a described instance is still alive"))?;
    plugin.description = described;
    Ok(plugin)
}

fn check_size(size: u64, bytes_max: u64) -> Result<()> {
    if size > bytes_max {
        bail!(
            "the file has {size} bytes, the limit is {bytes_max} ({}); build it in release mode or strip it",
            Limit::File
        );
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The name of an interface.
pub(super) fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// Whether an import is within the base set.
pub(super) fn is_given(import: &str) -> bool {
    let name = without_version(import);
    let is = |given: &&str| name == *given || (given.ends_with('/') && name.starts_with(given));
    GIVEN.iter().any(is)
}

fn check_imports(machine: &Machine, component: &Component) -> Result<()> {
    let kind = component.component_type();
    for (import, _) in kind.imports(&machine.engine) {
        let (name, version) = import.split_once('@').unwrap_or((import, ""));
        if name.starts_with("wasmill:plugin/") && !version.starts_with(CONTRACT_VERSION) {
            bail!(
                "the plugin imports `{import}`; this host gives wasmill:plugin {CONTRACT_VERSION}x, so the plugin needs another host or another SDK"
            );
        }
        let given = is_given(import);
        if !given && name.starts_with("wasmill:plugin/") {
            bail!(
                "the plugin imports `{import}`, which is not there yet in this version of wasmill; run it with a newer one, or build the plugin without it"
            );
        }
        if !given {
            bail!(
                "the plugin imports `{import}`, which is not granted: plugins reach the log, metrics, clocks and random numbers, and an empty WASI; remove what uses it from the plugin"
            );
        }
    }
    Ok(())
}

fn check_exports(machine: &Machine, component: &Component) -> Result<()> {
    let kind = component.component_type();
    let exports: Vec<&str> = kind.exports(&machine.engine).map(|(name, _)| name).collect();
    let Some(found) = exports.iter().find(|name| name.split('@').next() == Some(PROCESS)) else {
        let aggregate = exports.iter().any(|name| name.starts_with("wasmill:plugin/aggregate"));
        if aggregate {
            bail!("the plugin implements `aggregate`, which is not there yet in this version of wasmill");
        }
        bail!(
            "the plugin does not export `{PROCESS}` (it exports {}); a plugin implements the world `processor` of wasmill:plugin, in Rust by `wasmill_plugin::processor!`",
            if exports.is_empty() {
                "nothing".to_owned()
            } else {
                exports.join(", ")
            }
        );
    };
    let version = found.split_once('@').map_or("", |(_, version)| version);
    if !version.starts_with(CONTRACT_VERSION) {
        bail!(
            "the plugin exports `{found}`; this host calls {PROCESS}@{CONTRACT_VERSION}x, so the plugin needs another host or another SDK"
        );
    }
    Ok(())
}

/// Another minor version of the interface is not known here, and not called.
fn self_test_of(machine: &Machine, component: &Component) -> Option<ComponentExportIndex> {
    let kind = component.component_type();
    let mut exports = kind.exports(&machine.engine).map(|(name, _)| name);
    let known = format!("{SELF_TEST}@{CONTRACT_VERSION}");
    let interface = component.get_export_index(None, exports.find(|name| name.starts_with(&known))?)?;
    component.get_export_index(Some(&interface), "self-test")
}

fn check_description(description: &Description) -> Result<()> {
    if description.name.is_empty() || description.name.len() > NAME_BYTES_MAX {
        bail!(
            "`describe` gives a name of {} bytes; 1 to {NAME_BYTES_MAX} are allowed",
            description.name.len()
        );
    }
    if description.version.len() > VERSION_BYTES_MAX {
        bail!(
            "`describe` gives a version of {} bytes; at most {VERSION_BYTES_MAX} are allowed",
            description.version.len()
        );
    }
    for (what, text) in [("name", &description.name), ("version", &description.version)] {
        if text.contains(char::is_control) {
            bail!("`describe` gives a {what} with a control character in it: {text:?}");
        }
    }
    if description.config_schema.len() > SCHEMA_BYTES_MAX {
        bail!(
            "`describe` gives a config schema of {} bytes; at most {SCHEMA_BYTES_MAX} are allowed",
            description.config_schema.len()
        );
    }
    if description.ports.len() > PORTS_MAX {
        bail!(
            "`describe` names {} ports; at most {PORTS_MAX} are allowed",
            description.ports.len()
        );
    }
    for (index, port) in description.ports.iter().enumerate() {
        let name = &port.name;
        let legal = name.len() <= PORT_NAME_BYTES_MAX
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !legal {
            bail!(
                "`describe` names a port {name:?}; lower-case letters, digits and hyphens are allowed, a letter first, at most {PORT_NAME_BYTES_MAX}"
            );
        }
        if description.ports[..index].iter().any(|other| other.name == *name) {
            bail!("`describe` names the port `{name}` twice");
        }
    }
    Ok(())
}
