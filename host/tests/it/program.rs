//! The binary as a user has it: a folder, arguments, an exit code, two streams.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Enough for whatever is only slow because another build has to end first.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder to run the binary in.
pub(crate) struct Place {
    folder: TempDir,
}

/// What a run of the binary left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Place {
    /// Inside the checkout's target folder, so that crates written to it are built by the checkout's toolchain.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let file = self.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    /// Puts the component of a plugin crate here.
    pub(crate) fn plugin(&self, file: &str, crate_folder: &str) {
        fs::copy(built(crate_folder), self.path().join(file)).unwrap();
    }

    /// Runs the binary here to its end; its output has `[folder]` for the path of this place and `[checkout]` for that of the checkout.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let output = TempDir::new().unwrap();
        let stream = |name: &str| File::create(output.path().join(name)).unwrap();
        let start = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_wasmill"))
            .args(arguments)
            .current_dir(self.path())
            .env_remove("WASMILL_LOG")
            .env_remove("WASMILL_LOG_FORMAT")
            .env_remove("KAFKA_BOOTSTRAP")
            // Crates of one name in different places would be built over each other.
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::null())
            .stdout(stream("stdout"))
            .stderr(stream("stderr"))
            .spawn()
            .unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("`wasmill {}` does not end", arguments.join(" "));
            }
            thread::sleep(Duration::from_millis(5));
        };
        let took = start.elapsed();
        let read = |name: &str| {
            let text = fs::read_to_string(output.path().join(name)).unwrap();
            let text = text.replace(&*self.path().to_string_lossy(), "[folder]");
            text.replace(&*checkout("").to_string_lossy(), "[checkout]/")
        };
        Ran {
            code: status.code(),
            stdout: read("stdout"),
            stderr: read("stderr"),
            took,
        }
    }
}

impl Ran {
    /// Asserts the exit code, or shows everything.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// A path inside the checkout.
pub(crate) fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The component of a plugin crate of the checkout, built once by the binary itself.
fn built(crate_folder: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || {
        let output = Command::new(env!("CARGO_BIN_EXE_wasmill"))
            .arg("build")
            .arg(checkout(crate_folder))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        PathBuf::from(text.split_once(" (").unwrap().0)
    };
    built.entry(crate_folder.to_owned()).or_insert_with(build).clone()
}

/// A port of this machine that nothing listens on.
pub(crate) fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
