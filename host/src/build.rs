//! Builds plugin crates: `cargo build` for `wasm32-wasip2`, and finds the component that comes out.
//!
//! The target is installed by rustup when it is missing, so that one command is enough on a fresh machine. What cargo says goes
//! to standard error as it is; its JSON messages tell where the component is, whatever target folder is in use.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

const TARGET: &str = "wasm32-wasip2";

#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Builds the plugin crate in a folder and returns the component's file.
///
/// # Errors
/// When there is no cargo, the crate does not compile, or it is not a `cdylib`.
pub(crate) fn plugin_crate(folder: &Path) -> Result<PathBuf> {
    let folder = std::fs::canonicalize(folder).with_context(|| format!("open plugin folder {}", folder.display()))?;
    install_target(&folder)?;
    let mut cargo = Command::new(cargo())
        .args([
            "build",
            "--release",
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(&folder)
        // Flags for the host's own build, a coverage run's for one, do not fit the guest.
        .env_remove("RUSTFLAGS")
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo; plugin crates need Rust, https://rustup.rs")?;
    let output = cargo.stdout.take().context("read cargo's output")?;
    let manifest = folder.join("Cargo.toml");
    let mut component = None;
    for line in BufReader::new(output).lines() {
        let line = line.context("read cargo's output")?;
        let Ok(message) = serde_json::from_str::<CargoMessage>(&line) else {
            continue;
        };
        if message.reason == "compiler-artifact" && message.manifest_path == manifest {
            let wasm = message
                .filenames
                .into_iter()
                .find(|file| file.extension().is_some_and(|e| e == "wasm"));
            component = wasm.or(component);
        }
    }
    let status = cargo.wait().context("wait for cargo")?;
    if !status.success() {
        bail!(
            "plugin crate {} does not build; cargo's messages are above",
            folder.display()
        );
    }
    component.with_context(|| {
        format!(
            "crate {} gives no component; its Cargo.toml needs `[lib] crate-type = [\"cdylib\", \"rlib\"]`",
            folder.display()
        )
    })
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The toolchain that builds in `folder` may lack the target: `rust-toolchain.toml` names it, but not every rustup installs by itself.
fn install_target(folder: &Path) -> Result<()> {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(folder)
        .output();
    let Ok(sysroot) = sysroot else {
        // No rustc by that name; cargo will say what it thinks of that.
        return Ok(());
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    eprintln!("installing the Rust target {TARGET}");
    let installed = Command::new("rustup")
        .args(["target", "add", TARGET])
        .current_dir(folder)
        .status();
    match installed {
        Ok(status) if status.success() => Ok(()),
        _ => bail!(
            "the Rust target {TARGET} is missing and rustup could not install it; run `rustup target add {TARGET}`"
        ),
    }
}
