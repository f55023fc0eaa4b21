//! Builds dead letters: the record as it was, and headers that say all one needs to understand and repeat the failure.
//!
//! Key, value and headers are the source record's own; the headers below come after them. A dead letter is written in the transaction
//! that moves the record's offset, so there is exactly one for each failed record. `letter` reads them back, `mark` is the same for records
//! that are replayed. Pure: the clock is an argument.

mod letter;
mod mark;

use std::time::SystemTime;

use crate::fault::Fault;

pub(crate) use letter::{Letter, Unreadable, parse};
pub(crate) use mark::{Mark, Position, mark, parse_mark};

/// The longest message or backtrace that is kept; both come from the guest.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Where a record came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    /// How often it was replayed since.
    pub(crate) replays: u32,
}

/// The same, kept: the record that a dead letter or a replayed record carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Original {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) replays: u32,
}

impl Original {
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            replays: self.replays,
        }
    }
}

/// Who failed on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Culprit<'a> {
    pub(crate) stage: &'a str,
    pub(crate) plugin: &'a str,
    pub(crate) version: &'a str,
    pub(crate) digest: &'a str,
}

/// The headers of a dead letter, in order; all values are UTF-8.
///
/// `attempts` counts the calls in which the record was alone or asked for another try. `cut`: the record's own key, value and headers are left
/// out, because the broker would not take them.
pub(crate) fn headers(
    origin: Origin<'_>,
    culprit: Culprit<'_>,
    fault: &Fault,
    attempts: u32,
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    let mut headers = place(origin);
    headers.extend([
        ("wasmill.stage", culprit.stage.to_owned()),
        ("wasmill.plugin", culprit.plugin.to_owned()),
        ("wasmill.plugin-version", culprit.version.to_owned()),
        ("wasmill.plugin-digest", culprit.digest.to_owned()),
        ("wasmill.kind", fault.kind.to_string()),
        ("wasmill.message", cut(&fault.message)),
    ]);
    if let Some(backtrace) = &fault.backtrace {
        headers.push(("wasmill.backtrace", cut(backtrace)));
    }
    headers.extend([
        ("wasmill.attempts", attempts.to_string()),
        ("wasmill.time", humantime::format_rfc3339_millis(now).to_string()),
    ]);
    if origin.replays > 0 {
        headers.push(("wasmill.replays", origin.replays.to_string()));
    }
    headers
}

/// The headers that say where a record was read.
fn place(origin: Origin<'_>) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("wasmill.topic", origin.topic.to_owned()),
        ("wasmill.partition", origin.partition.to_string()),
        ("wasmill.offset", origin.offset.to_string()),
    ];
    if let Some(timestamp_ms) = origin.timestamp_ms {
        headers.push(("wasmill.timestamp", timestamp_ms.to_string()));
    }
    headers
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::fault::Kind;

    #[test]
    fn a_dead_letter_says_everything_about_the_failure() {
        let origin = Origin {
            topic: "noaa-json",
            partition: 3,
            offset: 42,
            timestamp_ms: Some(-5),
            replays: 1,
        };
        let culprit = Culprit {
            stage: "az-filter",
            plugin: "filter-station",
            version: "0.1.0",
            digest: "abc",
        };
        let mut fault = Fault::new(Kind::Trap, "poisoned (at src/lib.rs:1:2)");
        fault.backtrace = Some("0: poison".to_owned());
        let now = UNIX_EPOCH + Duration::from_millis(1_500_000_000_123);
        let text: Vec<String> = headers(origin, culprit, &fault, 2, now)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        wasmill.topic: noaa-json
        wasmill.partition: 3
        wasmill.offset: 42
        wasmill.timestamp: -5
        wasmill.stage: az-filter
        wasmill.plugin: filter-station
        wasmill.plugin-version: 0.1.0
        wasmill.plugin-digest: abc
        wasmill.kind: trap
        wasmill.message: poisoned (at src/lib.rs:1:2)
        wasmill.backtrace: 0: poison
        wasmill.attempts: 2
        wasmill.time: 2017-07-14T02:40:00.123Z
        wasmill.replays: 1
        ");
    }

    #[test]
    fn a_guest_s_words_are_cut() {
        let fault = Fault::new(Kind::Trap, "ä".repeat(TEXT_BYTES_MAX));
        assert!(cut(&fault.message).len() <= TEXT_BYTES_MAX);
    }
}
