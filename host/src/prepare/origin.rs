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
use crate::version::Trial;

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
pub(crate) const LAST_GOOD: &str = "a version that ran before";

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
    let digest = from_file.as_ref().ok().map(|binary| binary.digest.clone());
    let is_file_unread = digest.is_none();
    let is_news = is_file_unread || remembered.file != digest;
    let origin = |file, remembered, binary, refused| Origin {
        file,
        remembered,
        binary,
        refused,
        is_file_unread,
    };
    if !is_news && let Some((prepared, binary)) = remembered.active.as_ref().and_then(|last| kept(place, store?, last))
    {
        return Ok((prepared, origin(file, remembered, binary, None)));
    }
    let shown = file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let mistakes = match from_file.and_then(|binary| Ok((place.load(&binary, &shown)?, binary))) {
        Ok((prepared, binary)) => {
            remembered.activate(&binary.digest);
            remembered.file = digest;
            remembered.refused = None;
            remembered.trial = None;
            return Ok((prepared, origin(file, remembered, binary, None)));
        }
        Err(mistakes) => mistakes,
    };
    let candidates: Vec<String> = remembered.candidates().cloned().collect();
    let Some((prepared, binary)) = candidates.iter().find_map(|digest| kept(place, store?, digest)) else {
        return Err(mistakes);
    };
    if remembered.active.as_ref() != Some(&binary.digest) {
        remembered.activate(&binary.digest);
        remembered.trial = None;
    }
    let text = told(stage, &mistakes);
    if !is_file_unread {
        remembered.file = digest;
        remembered.refused = Some(text.clone());
    }
    Ok((prepared, origin(file, remembered, binary, Some(text))))
}

/// What is to take the place of a version that is on trial, as it was when the last process ended.
pub(super) fn before(place: &Place, store: Option<&Store>, origin: &Origin) -> Option<(Trial, Prepared)> {
    let on_trial = origin.remembered.trial.as_ref()?;
    let (prepared, _) = kept(place, store?, &on_trial.before)?;
    Some((on_trial.trial, prepared))
}

/// A version that ran before, unless it does not fit any more or the pipeline file pins something else.
fn kept(place: &Place, store: &Store, digest: &str) -> Option<(Prepared, Binary)> {
    let stage = &place.stage;
    if let PluginSource::WasmFile { sha256: Some(pin), .. } = &stage.plugin.value
        && crate::plugin::component::hex(pin) != digest
    {
        return None;
    }
    let loaded = store
        .binary(digest)
        .map_err(|error| format!("{error:#}"))
        .and_then(|binary| {
            let prepared = place
                .load(&binary, LAST_GOOD)
                .map_err(|mistakes| told(stage, &mistakes))?;
            Ok((prepared, binary))
        });
    loaded
        .inspect_err(|error| {
            tracing::warn!(
                stage = stage.name.value,
                digest,
                error,
                "a version that ran before cannot be run again"
            );
        })
        .ok()
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
