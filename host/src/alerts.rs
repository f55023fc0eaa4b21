//! Alerts: records that leave as a request to a web server or as mail, so that they reach a person.
//!
//! Neither knows transactions, so an alert is sent at least once: what was sent and not committed is sent again, under the same name, by which a
//! receiver can tell (`Idempotency-Key`, `Message-ID`). `webhook` and `mail` are the two ways out, `memory` stands in for both in `dev`.
//! An alert is tried for a bounded time, and then its record is a dead letter: unlike a document, it is of no use when it comes too late.

mod hidden;
pub(crate) mod mail;
pub(crate) mod memory;
pub(crate) mod webhook;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::config::{Location, MailServer, Pipeline, Target};
use crate::dead_letter::Origin;
use crate::external::{Answer, Bounds, Trouble};
use mail::Server;
use memory::Memory;

/// How long `check --connect` waits for a mail server.
const PROOF_TIMEOUT: Duration = Duration::from_secs(15);

/// One alert is one request, and none waits for another.
const BOUNDS: Bounds = Bounds {
    items_max: 1,
    bytes_max: usize::MAX,
    age: Duration::ZERO,
    wait: Duration::from_millis(50),
};

/// What alerts are handed to.
#[derive(Clone)]
pub(crate) enum Alerts {
    /// Servers.
    Servers {
        /// The client of each webhook, by the place of its output in the pipeline file.
        web: HashMap<Location, reqwest::Client>,
        mail: Option<Arc<Server>>,
    },
    /// The memory of this process.
    Memory(Arc<Memory>),
}

impl Default for Alerts {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

impl Alerts {
    /// Prepares the clients that a pipeline needs; nothing is connected.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub(crate) fn new(pipeline: &Pipeline) -> Result<Self> {
        let targets = pipeline.stages.iter().flat_map(|stage| stage.outputs.targets());
        let mut web = HashMap::new();
        for target in targets {
            if let Target::Webhook(output) = target {
                web.insert(output.at, webhook::client(output)?);
            }
        }
        let mail = pipeline.smtp.as_ref().map(Server::new).transpose()?;
        Ok(Self::Servers {
            web,
            mail: mail.map(Arc::new),
        })
    }
}

/// Connects to a mail server, and logs in.
///
/// # Errors
/// What is wrong, and what to do about it.
pub(crate) async fn prove(section: &MailServer) -> Result<()> {
    let proved = Server::new(section)?.prove(PROOF_TIMEOUT).await;
    proved.map_err(|text| anyhow!(text))
}

/// Certificates in PEM.
fn certificates(key: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("read `{key}` {}", file.display()))
}

/// The name of an alert within its stage, the same whenever its record is read: where the record was read first, and its number among what
/// comes of it. Another stage has the same names; what leaves the host has the stage's group with it.
fn name_of(origin: Origin<'_>, number: usize) -> String {
    format!("{}-{}-{}-{number}", origin.topic, origin.partition, origin.offset)
}

/// Alerts of one key keep their order; those without a key have none among each other.
fn order_of(key: Option<&[u8]>, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    match key {
        Some(key) => key.hash(&mut hasher),
        None => name.hash(&mut hasher),
    }
    hasher.finish()
}

/// Since when an alert is tried.
#[derive(Default)]
pub(crate) struct Since(OnceLock<Instant>);

impl Since {
    /// The try begins, or one more does.
    fn begin(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// Ends tries that take longer than they may.
    fn judge(&self, answer: Answer, limit: Duration) -> Answer {
        let tried = self.0.get().map_or(Duration::ZERO, Instant::elapsed);
        match answer {
            Answer::Again(trouble) if tried >= limit => Answer::Refused(format!(
                "gave up after {} (`give-up`): {}",
                humantime::format_duration(Duration::from_secs(tried.as_secs())),
                trouble.text
            )),
            answer => answer,
        }
    }
}

fn again(kind: &'static str, text: String) -> Answer {
    Answer::Again(Trouble { kind, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_that_was_tried_too_long_is_given_up_with_the_last_reason() {
        let since = Since::default();
        since.begin();
        let trouble = || again("503", "answers 503".to_owned());
        assert_eq!(since.judge(trouble(), Duration::from_secs(60)), trouble());
        let Answer::Refused(text) = since.judge(trouble(), Duration::ZERO) else {
            panic!("it is not given up");
        };
        assert!(text.contains("gave up") && text.ends_with("answers 503"), "{text}");
        assert_eq!(since.judge(Answer::Done("sent"), Duration::ZERO), Answer::Done("sent"));
    }

    #[test]
    fn alerts_of_one_key_keep_together() {
        assert_eq!(order_of(Some(b"a"), "1"), order_of(Some(b"a"), "2"));
        assert_ne!(order_of(None, "1"), order_of(None, "2"));
    }
}
