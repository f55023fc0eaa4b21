//! The host as an operator has it: a pipeline file, a process, signals, an exit code.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::kafka::Kafka;
use super::{PATIENCE, admin, free_port, wait_for};

/// A pipeline file in a folder of its own. It names a broker, that of most tests if no other is given, takes its instance and its admin port from each process's
/// environment, and calls everything else by the host's defaults.
pub(crate) struct Pipeline {
    folder: TempDir,
    text: Value,
}

impl Pipeline {
    pub(crate) fn new(app: &str) -> Self {
        Self::on(&Kafka::shared(), app)
    }

    pub(crate) fn on(kafka: &Kafka, app: &str) -> Self {
        let text = json!({
            "app": app,
            "instance": "${WASMILL_INSTANCE:-}",
            "kafka": {"bootstrap.servers": kafka.bootstrap, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500},
            "admin": {"listen": "127.0.0.1:${WASMILL_TEST_ADMIN_PORT}"},
            "stages": {},
        });
        Self {
            folder: TempDir::new().unwrap(),
            text,
        }
    }

    /// Sets a value by its keys, one inside the other; what is on the way is made.
    pub(crate) fn set(mut self, keys: &[&str], value: impl Into<Value>) -> Self {
        let mut place = &mut self.text;
        for key in keys {
            place = &mut place[*key];
        }
        *place = value.into();
        self
    }

    /// Adds a stage with one input and one output topic.
    pub(crate) fn stage(self, name: &str, plugin: &Path, config: Value, input: &str, output: &str) -> Self {
        let stage = json!({"plugin": plugin, "config": config, "input": input, "output": output});
        self.set(&["stages", name], stage)
    }

    /// Leaves out a section of the file.
    pub(crate) fn without(self, section: &str) -> Self {
        self.without_key(&[], section)
    }

    /// Leaves out a key of the section at `keys`.
    pub(crate) fn without_key(mut self, keys: &[&str], key: &str) -> Self {
        let mut place = &mut self.text;
        for key in keys {
            place = &mut place[*key];
        }
        place.as_object_mut().unwrap().remove(key);
        self
    }

    /// Writes the file. JSON is YAML.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.folder.path().join("pipeline.yaml");
        fs::write(&path, serde_json::to_string_pretty(&self.text).unwrap()).unwrap();
        path
    }
}

/// A command line of the host that has not been started.
pub(crate) struct Invocation {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Invocation {
    /// `wasmill ARGUMENTS`.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: BTreeMap::new(),
        }
    }

    /// `wasmill run PIPELINE`.
    pub(crate) fn run(pipeline: &Path) -> Self {
        Self::new(&["run", pipeline.to_str().unwrap()])
    }

    /// `wasmill run PIPELINE --until-caught-up`.
    pub(crate) fn catch_up(pipeline: &Path) -> Self {
        Self::new(&["run", pipeline.to_str().unwrap(), "--until-caught-up"])
    }

    /// One argument more.
    pub(crate) fn and(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn start(self) -> Host {
        let folder = TempDir::new().unwrap();
        let admin_port = free_port();
        let output = |name: &str| File::create(folder.path().join(name)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_wasmill"))
            .args(&self.arguments)
            .env_remove("RUST_LOG")
            .env("WASMILL_TEST_ADMIN_PORT", admin_port.to_string())
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .expect("the host starts");
        Host {
            child,
            folder,
            admin_port,
            arguments: self.arguments,
        }
    }

    /// Runs to the end and asserts its exit code; what it printed comes back.
    #[track_caller]
    pub(crate) fn exits(self, code: i32, deadline: Duration) -> Printed {
        let mut host = self.start();
        host.exits(code, deadline);
        host.printed()
    }
}

/// What a host wrote.
pub(crate) struct Printed {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Printed {
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        let Self { stdout, stderr } = self;
        assert!(
            stdout.contains(text) || stderr.contains(text),
            "the host does not say `{text}` in\n{stdout}\nnor in\n{stderr}"
        );
    }
}

/// A host process. Dropped, it is killed; dropped by a failing test, it also shows what it wrote.
pub(crate) struct Host {
    child: Child,
    folder: TempDir,
    pub(crate) admin_port: u16,
    arguments: Vec<String>,
}

impl Host {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/readyz` says yes.
    #[track_caller]
    pub(crate) fn ready(&mut self) {
        wait_for("the host to be ready", PATIENCE, || {
            if let Some(status) = self.exited() {
                panic!("the host ended before it was ready: {status}\n{}", self.tail());
            }
            matches!(admin::get(self.admin_port, "/readyz"), Some((200, _))).then_some(())
        });
    }

    /// SIGKILL, and the process is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops the process in its tracks: SIGSTOP.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on: SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Asks it to drain, commit and end: SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// The shell's own `kill`, because not every system has the program.
    fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status()
            .unwrap();
        assert!(sent.success(), "kill -{name} {}", self.pid());
    }

    /// Its status, if it has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end and asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(&mut self, code: i32, deadline: Duration) {
        let what = format!("`wasmill {}` to end", self.arguments.join(" "));
        let status = wait_for(&what, deadline, || self.exited());
        assert_eq!(status.code(), Some(code), "{what}: {status}\n{}", self.tail());
    }

    /// Asks it to end, and asserts the exit code.
    #[track_caller]
    pub(crate) fn terminated_with(mut self, code: i32) {
        self.terminate();
        self.exits(code, PATIENCE);
    }

    pub(crate) fn printed(&self) -> Printed {
        let read = |name| String::from_utf8_lossy(&fs::read(self.folder.path().join(name)).unwrap()).into_owned();
        Printed {
            stdout: read("stdout"),
            stderr: read("stderr"),
        }
    }

    /// The end of what it wrote.
    pub(crate) fn tail(&self) -> String {
        let Printed { stdout, stderr } = self.printed();
        let last = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!(
            "--- its standard output\n{}\n--- its standard error\n{}",
            last(&stdout),
            last(&stderr)
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "`wasmill {}`, process {}, at the end of the test:\n{}",
                self.arguments.join(" "),
                self.pid(),
                self.tail()
            );
        }
        self.kill();
    }
}

/// Whether SIGKILL ended the process.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}
