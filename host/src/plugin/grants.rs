//! What a plugin is given beyond the base set: environment variables, and folders that it may read.
//!
//! A folder is opened as a capability: whatever path the guest makes up, by `..` or by a link, it stays inside. Nothing can be written.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::config;

/// The grants of one stage. No `Debug`: values may be secrets.
#[derive(Clone, Default)]
pub(crate) struct Grants {
    env: Vec<(String, String)>,
    /// Paths for the guest, and the folders.
    folders: Vec<(String, PathBuf)>,
}

impl Grants {
    #[cfg(test)]
    pub(super) fn of(env: &[(&str, &str)], folders: &[(&str, &std::path::Path)]) -> Self {
        let own = |text: &&str| (*text).to_owned();
        Self {
            env: env.iter().map(|(name, value)| (own(name), own(value))).collect(),
            folders: folders
                .iter()
                .map(|(path, folder)| (own(path), folder.to_path_buf()))
                .collect(),
        }
    }

    pub(crate) fn new(configured: &config::Grants) -> Self {
        let variables = configured.env.iter();
        let folders = configured.files.iter();
        Self {
            env: variables
                .map(|variable| (variable.name.value.clone(), variable.value.expose().to_owned()))
                .collect(),
            folders: folders
                .map(|granted| (granted.guest_path.value.clone(), granted.folder.value.clone()))
                .collect(),
        }
    }

    /// Gives them to a guest that is being made.
    ///
    /// # Errors
    /// When a folder cannot be opened.
    pub(super) fn give(&self, wasi: &mut WasiCtxBuilder) -> Result<()> {
        wasi.envs(&self.env);
        for (guest_path, folder) in &self.folders {
            wasi.preopened_dir(folder, guest_path, FsPerms::ReadOnly)
                .map_err(anyhow::Error::from)
                .with_context(|| format!("open the folder {} that is granted as {guest_path}", folder.display()))?;
        }
        Ok(())
    }
}
