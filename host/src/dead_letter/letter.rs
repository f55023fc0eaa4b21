//! Reads a dead letter back from its headers.
//!
//! The headers are foreign bytes: a topic can be written by anybody, copied by a tool that adds headers of its own, or shared with what is no
//! dead letter at all. Nothing here can panic, and what cannot be read is told with the reason. Pure: no clock, no I/O.

use std::time::SystemTime;

use super::Original;

/// A header as Kafka has it.
pub(super) type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// What the headers of a dead letter say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// How many headers are the record's own; they come first.
    pub(crate) own_headers: usize,
    /// The record that failed.
    pub(crate) original: Original,
    pub(crate) stage: String,
    /// A text and no [`crate::fault::Kind`]: another version may know others.
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) backtrace: Option<String>,
    pub(crate) plugin: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) attempts: Option<u32>,
    pub(crate) time: Option<SystemTime>,
    /// The record itself is left out, because of this.
    pub(crate) cut: Option<String>,
}

/// Why a record is no dead letter that could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) String);

/// Reads the headers of a dead letter: what stands before the host's is the record's own.
///
/// # Errors
/// What is missing or damaged; a header that only informs is left out instead.
pub(crate) fn parse<'a>(headers: impl IntoIterator<Item = Header<'a>>) -> Result<Letter, Unreadable> {
    let block = Block::from(headers, "wasmill.topic")
        .ok_or_else(|| Unreadable("it has no header `wasmill.topic`, so wasmill did not write it".to_owned()))?;
    Ok(Letter {
        own_headers: block.own,
        original: block.original()?,
        stage: block.required("wasmill.stage")?,
        kind: block.required("wasmill.kind")?,
        message: block.text("wasmill.message").unwrap_or_default(),
        backtrace: block.text("wasmill.backtrace"),
        plugin: block.text("wasmill.plugin"),
        version: block.text("wasmill.plugin-version"),
        digest: block.text("wasmill.plugin-digest"),
        attempts: block
            .text("wasmill.attempts")
            .and_then(|attempts| attempts.parse().ok()),
        time: block
            .text("wasmill.time")
            .and_then(|time| humantime::parse_rfc3339(&time).ok()),
        cut: block.text("wasmill.cut"),
    })
}

/// The host's headers, which stand behind the record's own.
pub(super) struct Block<'a> {
    /// How many stand before it.
    pub(super) own: usize,
    headers: Vec<Header<'a>>,
}

impl<'a> Block<'a> {
    /// The last header of this name begins it: a record that was read from a dead-letter topic has such headers of its own before.
    pub(super) fn from(headers: impl IntoIterator<Item = Header<'a>>, first: &str) -> Option<Self> {
        let mut headers: Vec<Header<'a>> = headers.into_iter().collect();
        let own = headers.iter().rposition(|(name, _)| *name == first.as_bytes())?;
        headers.drain(..own);
        Some(Self { own, headers })
    }

    /// The first of this name; a tool that adds headers adds them behind.
    fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let (_, value) = self.headers.iter().find(|(other, _)| *other == name.as_bytes())?;
        *value
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes(name)?).into_owned())
    }

    fn required(&self, name: &str) -> Result<String, Unreadable> {
        let bytes = self
            .bytes(name)
            .ok_or_else(|| Unreadable(format!("it has no header `{name}`")))?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(Unreadable(format!("its header `{name}` is damaged"))),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Unreadable> {
        let text = self.required(name)?;
        text.parse()
            .map_err(|_| Unreadable(format!("its header `{name}` is no number")))
    }

    /// Where the record was read first.
    pub(super) fn original(&self) -> Result<Original, Unreadable> {
        let (partition, offset): (i32, i64) = (self.number("wasmill.partition")?, self.number("wasmill.offset")?);
        if partition < 0 || offset < 0 {
            return Err(Unreadable(format!(
                "partition {partition}, offset {offset} is no position"
            )));
        }
        let known = |name: &str| self.headers.iter().any(|(other, _)| *other == name.as_bytes());
        let timestamp_ms = match known("wasmill.timestamp") {
            true => Some(self.number("wasmill.timestamp")?),
            false => None,
        };
        Ok(Original {
            topic: self.required("wasmill.topic")?,
            partition,
            offset,
            timestamp_ms,
            replays: self.number("wasmill.replays").unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::dead_letter::{Culprit, headers};
    use crate::fault::{Fault, Kind};

    fn pairs<'a>(headers: &'a [(Vec<u8>, Option<Vec<u8>>)]) -> impl Iterator<Item = Header<'a>> {
        headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref()))
    }

    fn bytes(headers: Vec<(&'static str, String)>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        headers
            .into_iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), Some(value.into_bytes())))
            .collect()
    }

    fn header() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
        let names = prop_oneof![
            prop::sample::select(vec![
                "wasmill.topic",
                "wasmill.partition",
                "wasmill.offset",
                "wasmill.timestamp",
                "wasmill.stage",
                "wasmill.kind",
                "wasmill.time",
                "wasmill.replays",
                "wasmill.replay",
                "wasmill.cut",
            ])
            .prop_map(|name| name.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        let values = prop_oneof![
            any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..30),
            Just(b"topic/1/2".to_vec()),
            Just(b"2017-07-14T02:40:00.123Z".to_vec()),
        ];
        (names, prop::option::of(values))
    }

    proptest! {
        /// Whatever the record's own headers are, what was written is read back, and the own ones are told apart.
        #[test]
        fn what_is_written_is_read_back(
            own in prop::collection::vec(header(), 0..10),
            behind in prop::collection::vec(("[a-v]{1,9}", "[ -~]{0,9}"), 0..3),
            (topic, stage) in ("[a-zA-Z0-9._-]{1,30}", "[a-z-]{1,10}"),
            (partition, offset) in (0..i32::MAX, 0..i64::MAX),
            timestamp_ms in prop::option::of(any::<i64>()),
            (replays, attempts) in (0..5_u32, 1..7_u32),
            (message, backtrace) in (".{0,40}", prop::option::of(".{0,40}")),
            kind in prop::sample::select(Kind::ALL.to_vec()),
            now_ms in 0..4_000_000_000_000_u64,
        ) {
            let original = Original { topic, partition, offset, timestamp_ms, replays };
            let culprit = Culprit { stage: &stage, plugin: "plugin", version: "1.2.3", digest: "abc" };
            let mut fault = Fault::new(kind, message.clone());
            fault.backtrace.clone_from(&backtrace);
            let time = UNIX_EPOCH + Duration::from_millis(now_ms);
            let mut all = own.clone();
            all.extend(bytes(headers(original.origin(), culprit, &fault, attempts, time)));
            all.extend(behind.into_iter().map(|(name, value)| (name.into_bytes(), Some(value.into_bytes()))));
            let expected = Letter {
                own_headers: own.len(),
                original,
                stage: stage.clone(),
                kind: kind.to_string(),
                message,
                backtrace,
                plugin: Some("plugin".to_owned()),
                version: Some("1.2.3".to_owned()),
                digest: Some("abc".to_owned()),
                attempts: Some(attempts),
                time: Some(time),
                cut: None,
            };
            prop_assert_eq!(parse(pairs(&all)), Ok(expected));
        }

        /// Any headers are read or refused with a reason.
        #[test]
        fn no_headers_can_panic_the_reader(headers in prop::collection::vec(header(), 0..30)) {
            match parse(pairs(&headers)) {
                Ok(letter) => prop_assert!(letter.own_headers < headers.len()),
                Err(Unreadable(reason)) => prop_assert!(!reason.is_empty()),
            }
        }
    }

    #[test]
    fn a_damaged_letter_is_refused_with_the_header_that_is_wrong() {
        let check = |change: (&str, Option<&str>), words: &str| {
            let mut all: Vec<(Vec<u8>, Option<Vec<u8>>)> = [
                ("wasmill.topic", "t"),
                ("wasmill.partition", "0"),
                ("wasmill.offset", "7"),
                ("wasmill.stage", "s"),
                ("wasmill.kind", "trap"),
            ]
            .into_iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())))
            .collect();
            assert!(parse(pairs(&all)).is_ok());
            let (name, value) = change;
            all.retain(|(other, _)| other != name.as_bytes());
            if let Some(value) = value {
                all.push((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
            }
            let Unreadable(reason) = parse(pairs(&all)).unwrap_err();
            assert!(reason.contains(words), "`{words}` is not in `{reason}`");
        };
        check(("wasmill.topic", None), "no header `wasmill.topic`");
        check(("wasmill.partition", Some("many")), "`wasmill.partition` is no number");
        check(("wasmill.offset", Some("-1")), "no position");
        check(("wasmill.timestamp", Some("now")), "`wasmill.timestamp` is no number");
        check(("wasmill.stage", None), "no header `wasmill.stage`");
        check(("wasmill.kind", Some("")), "`wasmill.kind` is damaged");
    }
}
