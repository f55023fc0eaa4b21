//! Looks at any file and says what kind of plugin it is, what it would need, and whether this host would run it.
//!
//! A file that does not fit is told as far as it can be read. Nothing of it runs but `describe`, under the usual limits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use wasmtime::component::Component;

use super::component::{self, Binary, GIVEN, PROCESS, Wanted, without_version};
use super::contract::Description;
use super::grants::Grants;
use super::instance::Executor;
use super::limits::Limits;
use super::runtime::Runtime;
use crate::config;

/// The interfaces of the contract that a plugin may export besides its world's own.
const OPTIONAL: [&str; 4] = [
    "wasmill:plugin/self-test",
    "wasmill:plugin/migrate",
    "wasmill:plugin/merge",
    "wasmill:plugin/render",
];
/// More than any call of `describe` takes within its deadline.
const WALL_MAX: Duration = Duration::from_secs(10);

/// What a file is.
pub(crate) struct Report {
    pub(crate) bytes: usize,
    /// SHA-256, in hexadecimal.
    pub(crate) sha256: String,
    pub(crate) kind: FileKind,
    /// The interface of the contract that it implements, with its version.
    pub(crate) implements: Option<String>,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    /// Those of the exports that the contract leaves to the plugin.
    pub(crate) optional: Vec<String>,
    /// Imports beyond the base set.
    pub(crate) needs: Vec<Need>,
    pub(crate) description: Option<Description>,
    /// Why this host would not run it.
    pub(crate) refusal: Option<String>,
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Component,
    CoreModule,
    Other,
}

/// An import that the base set does not have.
pub(crate) struct Need {
    pub(crate) import: String,
    /// What would give it, in words.
    pub(crate) grant: &'static str,
}

/// Looks at a file with the usual limits.
///
/// # Errors
/// When the file cannot be read or is too large, or this machine cannot run guests at all.
pub(crate) fn inspect(runtime: &Runtime, file: &Path, configured: &config::Limits) -> Result<Report> {
    let limits = Limits::new(configured, WALL_MAX);
    let binary = Binary::read(file, configured.file_bytes.value)?;
    let mut report = Report {
        bytes: binary.bytes.len(),
        sha256: binary.digest.clone(),
        kind: kind_of(&binary.bytes),
        implements: None,
        imports: Vec::new(),
        exports: Vec::new(),
        optional: Vec::new(),
        needs: Vec::new(),
        description: None,
        refusal: None,
    };
    let machine = runtime.machine(limits.stack_bytes)?;
    // What does not compile is told by `load`, which says what to do.
    if report.kind == FileKind::Component
        && let Ok(component) = Component::from_binary(&machine.engine, &binary.bytes)
    {
        let kind = component.component_type();
        report.imports = kind.imports(&machine.engine).map(|(name, _)| name.to_owned()).collect();
        report.exports = kind.exports(&machine.engine).map(|(name, _)| name.to_owned()).collect();
        report.classify();
    }
    let wanted = Wanted {
        stage: "inspect",
        sha256: None,
        config: "{}".to_owned(),
        limits,
        grants: Grants::default(),
    };
    match component::load(runtime, &binary, wanted, &Arc::new(Executor::new()?)) {
        Ok(plugin) => report.description = Some(plugin.description),
        Err(error) => report.refusal = Some(format!("{error:#}")),
    }
    Ok(report)
}

impl Report {
    fn classify(&mut self) {
        let is = |name: &String, interfaces: &[&str]| interfaces.contains(&without_version(name));
        let worlds = [PROCESS, "wasmill:plugin/aggregate"];
        self.implements = self.exports.iter().find(|name| is(name, &worlds)).cloned();
        self.optional = self
            .exports
            .iter()
            .filter(|name| is(name, &OPTIONAL))
            .cloned()
            .collect();
        let beyond = self.imports.iter().filter(|name| !component::is_given(name));
        self.needs = beyond
            .map(|import| Need {
                import: import.clone(),
                grant: grant_for(import),
            })
            .collect();
    }

    /// The imports of the base set that are empty until a grant fills them.
    pub(crate) fn fillable(&self) -> Vec<(&str, &'static str)> {
        let filled = |name: &str| match without_version(name) {
            "wasi:cli/environment" => Some("grants.env"),
            "wasi:filesystem/preopens" => Some("grants.files"),
            _ => None,
        };
        let named = self
            .imports
            .iter()
            .filter(|name| GIVEN.contains(&without_version(name)));
        named.filter_map(|name| Some((name.as_str(), filled(name)?))).collect()
    }
}

fn kind_of(bytes: &[u8]) -> FileKind {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => FileKind::Component,
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => FileKind::CoreModule,
        _ => FileKind::Other,
    }
}

fn grant_for(import: &str) -> &'static str {
    if import.starts_with("wasi:http/") {
        "`grants.http`, which is not there yet in this version of wasmill"
    } else if import.starts_with("wasmill:plugin/") {
        "a newer version of wasmill"
    } else {
        "no grant gives it yet"
    }
}
