//! The headers of a replayed record: where its dead letter stands, and where the record was read first.
//!
//! They stand behind the record's own headers. The host hides them from the plugin, and a replayed record that fails again becomes a dead letter
//! that names its first position. Pure: no clock, no I/O.

use std::fmt;

use super::letter::{Block, Header};
use super::{Original, place};

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            partition,
            offset,
        } = self;
        write!(f, "{topic}/{partition}/{offset}")
    }
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '/');
        let (offset, partition, topic) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            topic: topic.to_owned(),
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    }
}

/// What the host's headers of a replayed record say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How many headers are the record's own; they come first.
    pub(crate) own_headers: usize,
    /// The dead letter; none where the header is damaged.
    pub(crate) letter: Option<Position>,
    /// Where the record was read first; none where a header is damaged.
    pub(crate) original: Option<Original>,
}

/// The headers that a replayed record gets behind its own. `original` counts this replay already.
pub(crate) fn mark(letter: &Position, original: &Original) -> Vec<(&'static str, String)> {
    let mut headers = vec![("wasmill.replay", letter.to_string())];
    headers.extend(place(original.origin()));
    headers.push(("wasmill.replays", original.replays.to_string()));
    headers
}

/// Reads the headers of a record of a replay topic; none where the host did not mark it.
pub(crate) fn parse_mark<'a>(headers: impl IntoIterator<Item = Header<'a>>) -> Option<Mark> {
    let block = Block::from(headers, "wasmill.replay")?;
    Some(Mark {
        own_headers: block.own,
        letter: block.text("wasmill.replay").and_then(|text| Position::parse(&text)),
        original: block.original().ok(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs<'a>(headers: &'a [(&'static str, String)]) -> impl Iterator<Item = Header<'a>> {
        headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())))
    }

    fn original() -> Original {
        Original {
            topic: "products".to_owned(),
            partition: 3,
            offset: 42,
            timestamp_ms: Some(-5),
            replays: 2,
        }
    }

    fn letter() -> Position {
        Position {
            topic: "shop.dead-letters".to_owned(),
            partition: 1,
            offset: 7,
        }
    }

    #[test]
    fn a_mark_is_read_back_behind_headers_that_look_like_one() {
        let mut headers = vec![("trace", "x".to_owned()), ("wasmill.replay", "forged/0/0".to_owned())];
        headers.extend(mark(&letter(), &original()));
        let expected = Mark {
            own_headers: 2,
            letter: Some(letter()),
            original: Some(original()),
        };
        assert_eq!(parse_mark(pairs(&headers)), Some(expected));
    }

    #[test]
    fn a_damaged_mark_still_tells_which_headers_are_the_record_s_own() {
        let headers = [("trace", "x".to_owned()), ("wasmill.replay", "nonsense".to_owned())];
        let expected = Mark {
            own_headers: 1,
            letter: None,
            original: None,
        };
        assert_eq!(parse_mark(pairs(&headers)), Some(expected));
        assert_eq!(parse_mark(pairs(&headers[..1])), None);
    }

    proptest! {
        #[test]
        fn no_headers_can_panic_the_reader_of_marks(
            headers in prop::collection::vec(("[w]asmill[.](replay|topic|offset|partition)", prop::collection::vec(any::<u8>(), 0..20)), 0..10),
        ) {
            let pairs = headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_slice())));
            if let Some(mark) = parse_mark(pairs) {
                prop_assert!(mark.own_headers < headers.len());
            }
        }
    }
}
