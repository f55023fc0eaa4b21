//! Chooses the bytes that a stage starts with: its plugin file, or what ran last.
//!
//! A file that is news is tried first; one that does not fit is refused, and the last good bytes run on. A file that was looked at before is no
//! news: what ran last runs, be it that file or, after a refusal or a rollback, another one. Where nothing has ever run, a file that does not fit is
//! a mistake in the pipeline.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Place, Prepared, file_of};
use crate::config::{ConfigError, PluginSource, Stage};
use crate::plugin::component::Binary;
use crate::swap::store::{Remembered, Store};

/// Where the bytes came from that a stage starts with.
pub(crate) struct Origin {
    /// The plugin's file; none where a crate could not be built.
    pub(crate) file: Option<PathBuf>,
    /// What is to be remembered from now on.
    pub(crate) remembered: Remembered,
    /// The bytes that run.
    pub(crate) binary: Binary,
    /// The file was refused just now, with these words.
    pub(crate) refused: Option<String>,
    /// It was refused because it could not even be read, or built.
    pub(crate) is_file_unread: bool,
}

type Mistakes = Vec<ConfigError>;

/// How the bytes are named in messages that were kept and are no file of the pipeline.
pub(crate) const LAST_GOOD: &str = "the version that ran last";

/// Loads what the stage is to run.
///
/// # Errors
/// What does not fit about the file, where nothing else can run.
pub(super) fn choose(place: &Place, store: Option<&Store>) -> Result<(Prepared, Origin), Mistakes> {
    let stage = &place.stage;
    let wrong = |error: anyhow::Error| vec![stage.error(stage.plugin.at, format!("`plugin`: {error:#}"))];
    let file = file_of(stage);
    let from_file = match &file {
        Ok(path) => Binary::read(path, stage.limits.file_bytes.value)
            .with_context(|| path.display().to_string())
            .map_err(wrong),
        Err(mistake) => Err(vec![mistake.clone()]),
    };
    // A file that is not there may come back.
    let named = match &stage.plugin.value {
        PluginSource::WasmFile { path, .. } => Some(path.clone()),
        PluginSource::CrateFolder { .. } => None,
    };
    let file = file.ok().or(named);
    let mut remembered = match store {
        Some(store) => store.remembered(&stage.name).map_err(wrong)?,
        None => Remembered::default(),
    };
    let last = last_good(stage, store, &remembered);
    let digest = from_file.as_ref().ok().map(|binary| binary.digest.clone());
    let is_news = digest.is_none() || remembered.file != digest;
    let last = last.and_then(|last| Some((place.load(&last, LAST_GOOD).ok()?, last)));
    if !is_news && let Some((prepared, binary)) = last {
        return Ok((
            prepared,
            Origin {
                file,
                remembered,
                binary,
                refused: None,
                is_file_unread: false,
            },
        ));
    }
    let shown = file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let mistakes = match from_file.and_then(|binary| Ok((place.load(&binary, &shown)?, binary))) {
        Ok((prepared, binary)) => {
            remembered.activate(&binary.digest);
            remembered.file = digest;
            remembered.refused = None;
            return Ok((
                prepared,
                Origin {
                    file,
                    remembered,
                    binary,
                    refused: None,
                    is_file_unread: false,
                },
            ));
        }
        Err(mistakes) => mistakes,
    };
    let Some((prepared, binary)) = last else {
        return Err(mistakes);
    };
    let text = told(stage, &mistakes);
    let is_file_unread = digest.is_none();
    if !is_file_unread {
        remembered.file = digest;
        remembered.refused = Some(text.clone());
    }
    Ok((
        prepared,
        Origin {
            file,
            remembered,
            binary,
            refused: Some(text),
            is_file_unread,
        },
    ))
}

/// What ran last, unless the pipeline file pins something else.
fn last_good(stage: &Stage, store: Option<&Store>, remembered: &Remembered) -> Option<Binary> {
    let digest = remembered.active.as_deref()?;
    if let PluginSource::WasmFile { sha256: Some(pin), .. } = &stage.plugin.value
        && crate::plugin::component::hex(pin) != digest
    {
        return None;
    }
    match store?.binary(digest) {
        Ok(binary) => Some(binary),
        Err(error) => {
            tracing::warn!(
                stage = stage.name.value,
                error = format!("{error:#}"),
                "what ran last cannot be run again"
            );
            None
        }
    }
}

/// The mistakes of a stage as one text, for those who know which stage it is.
pub(crate) fn told(stage: &Stage, mistakes: &[ConfigError]) -> String {
    let named = format!("stage `{}`: ", stage.name.value);
    mistakes
        .iter()
        .map(|mistake| mistake.message.strip_prefix(&named).unwrap_or(&mistake.message))
        .collect::<Vec<_>>()
        .join("; ")
}
