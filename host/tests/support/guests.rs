//! Guests, compiled to components once per test binary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// The component of a guest package of the workspace.
pub(crate) fn guest(package: &str) -> PathBuf {
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    built
        .entry(package.to_owned())
        .or_insert_with(|| build(package))
        .clone()
}

fn build(package: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .current_dir(super::checkout("."))
        .args([
            "build",
            "--release",
            "--target",
            "wasm32-wasip2",
            "--message-format",
            "json",
            "--package",
            package,
        ])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "building guest `{package}` failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| {
            file.extension().is_some_and(|extension| extension == "wasm")
                && file.file_stem().is_some_and(|stem| *stem == *package.replace('-', "_"))
        })
        .unwrap_or_else(|| panic!("guest `{package}` has no component among its artifacts"))
}
