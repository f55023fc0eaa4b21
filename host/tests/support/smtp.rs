//! A real mail server, as `start-smtp.sh` starts it. What it does on purpose for some recipients stands in `smtp_server.py`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::checkout;

/// The login that it wants where one is wanted.
pub(crate) const LOGIN: (&str, &str) = ("postie", "a password of this test");

pub(crate) struct Smtp {
    pub(crate) port: u16,
    pub(crate) ca: PathBuf,
    folder: TempDir,
    child: Child,
    /// It ends when this does.
    _lifeline: Option<ChildStdin>,
}

/// A mail that it took.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) to: Vec<String>,
    /// Headers and text.
    pub(crate) data: String,
    pub(crate) encrypted: bool,
    pub(crate) login: Option<String>,
}

impl Mail {
    /// The value of a header, on one line.
    pub(crate) fn header(&self, name: &str) -> &str {
        let line = self
            .data
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in\n{}", self.data))
    }
}

impl Smtp {
    /// `tls`: `starttls`, `smtps` or `none`.
    pub(crate) fn start(tls: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(checkout("host/tests/servers/start-smtp.sh"));
        command.arg(folder.path()).args(["--tls", tls]);
        if tls != "none" {
            command.args(["--login", &format!("{}:{}", LOGIN.0, LOGIN.1)]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lifeline = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines
                .next()
                .expect("start-smtp.sh says above why it did not start")
                .unwrap();
            line.strip_prefix(name).unwrap().to_owned()
        };
        Self {
            port: value("SMTP_PORT=").parse().unwrap(),
            ca: value("SMTP_CA=").into(),
            folder,
            child,
            _lifeline: lifeline,
        }
    }

    /// What it took, in order.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        let text = fs::read_to_string(self.folder.path().join("mails.jsonl")).unwrap_or_default();
        let mail = |line: &str| {
            let mail: Value = serde_json::from_str(line).ok()?;
            Some(Mail {
                to: serde_json::from_value(mail["to"].clone()).unwrap(),
                data: mail["data"].as_str().unwrap().to_owned(),
                encrypted: mail["encrypted"].as_bool().unwrap(),
                login: mail["login"].as_str().map(str::to_owned),
            })
        };
        text.lines().filter_map(mail).collect()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
