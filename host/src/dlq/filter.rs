//! Which dead letters are meant. Pure: no clock, no I/O.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::dead_letter::{Letter, Position, Unreadable};
use crate::fault::Kind;

/// Narrows the letters down; everything that is given has to hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) stage: Option<String>,
    /// The dead-letter topic.
    pub(crate) topic: Option<String>,
    /// One of these; empty: any.
    pub(crate) kinds: Vec<Kind>,
    /// By the dead letter's own time.
    pub(crate) since: Option<SystemTime>,
    pub(crate) until: Option<SystemTime>,
    /// How the plugin's digest begins.
    pub(crate) digest: Option<String>,
    pub(crate) limit: Option<u64>,
    /// Partition and offset of the letters; empty: any.
    pub(crate) positions: Vec<(i32, i64)>,
}

impl Filter {
    /// Milliseconds before which no letter is meant.
    pub(crate) fn since_ms(&self) -> Option<i64> {
        let since = self.since?.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).ok()
    }

    /// The first and the last offset that can be meant in a partition; none where all can.
    pub(crate) fn offsets(&self, partition: i32) -> Option<(i64, i64)> {
        if self.positions.is_empty() {
            return None;
        }
        let of_partition = || self.positions.iter().filter(move |(other, _)| *other == partition);
        let first = of_partition().map(|(_, offset)| *offset).min().unwrap_or(0);
        let last = of_partition().map(|(_, offset)| *offset).max().unwrap_or(-1);
        Some((first, last))
    }

    /// Whether a letter is meant. One that cannot be read is, unless something is asked of it that it does not tell.
    pub(crate) fn takes(
        &self,
        position: &Position,
        letter: &Result<Letter, Unreadable>,
        written_ms: Option<i64>,
    ) -> bool {
        let here = (position.partition, position.offset);
        if !self.positions.is_empty() && !self.positions.contains(&here) {
            return false;
        }
        let letter = letter.as_ref().ok();
        let known = letter.and_then(|letter| letter.time);
        let Some(time) = known.or_else(|| written_ms.and_then(time_of)) else {
            return self.since.is_none() && self.until.is_none() && self.takes_text(letter);
        };
        // The letter's text has milliseconds.
        let since = self.since.is_none_or(|since| time + Duration::from_millis(1) > since);
        since && self.until.is_none_or(|until| time <= until) && self.takes_text(letter)
    }

    fn takes_text(&self, letter: Option<&Letter>) -> bool {
        let Some(letter) = letter else {
            return self.stage.is_none() && self.kinds.is_empty() && self.digest.is_none();
        };
        let digest = |prefix: &String| {
            let digest = letter.digest.as_deref().unwrap_or_default();
            digest.starts_with(&prefix.to_lowercase())
        };
        self.stage.as_ref().is_none_or(|stage| *stage == letter.stage)
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.as_str() == letter.kind))
            && self.digest.as_ref().is_none_or(digest)
    }
}

/// The moment of a timestamp in milliseconds; none before 1970 and beyond what the clock can tell.
pub(super) fn time_of(timestamp_ms: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(timestamp_ms).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Original;

    fn letter() -> Letter {
        Letter {
            own_headers: 0,
            original: Original {
                topic: "in".to_owned(),
                partition: 0,
                offset: 1,
                timestamp_ms: None,
                replays: 0,
            },
            stage: "guard".to_owned(),
            kind: "trap".to_owned(),
            message: String::new(),
            backtrace: None,
            plugin: None,
            version: None,
            digest: Some("abcdef".to_owned()),
            attempts: None,
            time: time_of(5_000),
            cut: None,
        }
    }

    fn takes(filter: &Filter, letter: Result<Letter, Unreadable>) -> bool {
        let position = Position {
            topic: "dead".to_owned(),
            partition: 2,
            offset: 7,
        };
        filter.takes(&position, &letter, Some(6_000))
    }

    #[test]
    fn each_condition_alone_takes_what_it_says_and_nothing_else() {
        let none = Filter::default();
        let with = |change: &dyn Fn(&mut Filter)| {
            let mut filter = none.clone();
            change(&mut filter);
            takes(&filter, Ok(letter()))
        };
        assert!(takes(&none, Ok(letter())));
        assert!(with(&|filter| filter.stage = Some("guard".to_owned())));
        assert!(!with(&|filter| filter.stage = Some("other".to_owned())));
        assert!(with(&|filter| filter.kinds = vec![Kind::Reject, Kind::Trap]));
        assert!(!with(&|filter| filter.kinds = vec![Kind::Reject]));
        assert!(with(&|filter| filter.since = time_of(5_000)));
        assert!(!with(&|filter| filter.since = time_of(5_001)));
        assert!(with(&|filter| filter.until = time_of(5_000)));
        assert!(!with(&|filter| filter.until = time_of(4_999)));
        assert!(with(&|filter| filter.digest = Some("ABC".to_owned())));
        assert!(!with(&|filter| filter.digest = Some("bcd".to_owned())));
        assert!(with(&|filter| filter.positions = vec![(0, 1), (2, 7)]));
        assert!(!with(&|filter| filter.positions = vec![(2, 6), (1, 7)]));
    }

    #[test]
    fn what_cannot_be_read_is_taken_by_time_and_position_alone() {
        let unreadable = || Err(Unreadable("damaged".to_owned()));
        let mut filter = Filter {
            since: time_of(6_000),
            ..Filter::default()
        };
        assert!(takes(&filter, unreadable()));
        filter.kinds = vec![Kind::Trap];
        assert!(!takes(&filter, unreadable()));
    }
}
