//! Remembers what became of the requests that named an `Idempotency-Key`, so that one that is sent again is not written again.
//!
//! A key is never forgotten early: when there is no room for another one, the request that brings it is refused. Of an answer only
//! positions are kept; everything else in it follows from key and body. Pure: `now` is an argument, nothing is on disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{KEY_BYTES, KEY_RECORD_BYTES};
use crate::kafka::publisher::Written;

/// The SHA-256 of a body.
pub(super) type Digest = [u8; 32];

/// What an entry takes besides its name and positions: its places in the two maps, with their slack.
const ENTRY_BYTES: usize = 320;
/// A topic's name, a line break, and the longest key.
const NAME_BYTES_MAX: usize = 249 + 1 + 255;

// What `config` asks for has room for the largest request.
const _: () = assert!((ENTRY_BYTES + NAME_BYTES_MAX) as u64 <= KEY_BYTES);
const _: () = assert!(2 * size_of::<Option<Written>>() as u64 <= KEY_RECORD_BYTES);

/// The keys of one listener.
pub(super) struct Keys {
    keep: Duration,
    bytes_max: usize,
    bytes: usize,
    entries: HashMap<Arc<str>, Entry>,
    /// Which entry is forgotten next, by when and its latest use; one in use is not here.
    ends: BTreeMap<(Instant, u64), Arc<str>>,
    uses: u64,
}

struct Entry {
    digest: Digest,
    /// Counts the uses of all keys; the latest one of this key.
    used: u64,
    /// When it is forgotten; none while it is in use.
    end: Option<Instant>,
    state: State,
}

enum State {
    InFlight(Vec<Option<Written>>),
    Ended(Vec<Option<Written>>),
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Write the records that have no position yet, and tell how it ended; positions are in the order of the records.
    Write(Vec<Option<Written>>),
    /// All was written before: answer with these positions.
    Again(Vec<Written>),
    /// The first request with this key is not answered yet.
    InFlight,
    /// The key belongs to another body.
    Differs,
    /// There is no room for another key.
    Full,
}

impl Keys {
    pub(super) fn new(keep: Duration, bytes_max: usize) -> Self {
        Self {
            keep,
            bytes_max,
            bytes: 0,
            entries: HashMap::new(),
            ends: BTreeMap::new(),
            uses: 0,
        }
    }

    /// A request with this key has come. After `Write` follows `end`.
    pub(super) fn begin(&mut self, now: Instant, key: &str, digest: Digest, records: usize) -> Begun {
        self.forget(now);
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            if entry.digest != digest {
                return Begun::Differs;
            }
            let State::Ended(positions) = &mut entry.state else {
                return Begun::InFlight;
            };
            if let Some(all) = positions.iter().copied().collect() {
                return Begun::Again(all);
            }
            let positions = std::mem::take(positions);
            if let Some(end) = entry.end.take() {
                self.ends.remove(&(end, entry.used));
            }
            entry.used = self.uses;
            entry.state = State::InFlight(positions.clone());
            return Begun::Write(positions);
        }
        let bytes = weight(key, records);
        if self.bytes + bytes > self.bytes_max {
            return Begun::Full;
        }
        self.bytes += bytes;
        let positions = vec![None; records];
        let entry = Entry {
            digest,
            used: self.uses,
            end: None,
            state: State::InFlight(positions.clone()),
        };
        self.entries.insert(key.into(), entry);
        Begun::Write(positions)
    }

    /// The request with this key has ended; `written` tells which records are in the topic, and is empty where nobody knows.
    pub(super) fn end(&mut self, now: Instant, key: &str, written: Vec<Option<Written>>) {
        let Some((name, entry)) = self.entries.get_key_value(key) else {
            return;
        };
        let positions = match &entry.state {
            State::InFlight(before) if written.is_empty() => before.clone(),
            _ => written,
        };
        let (name, used) = (Arc::clone(name), entry.used);
        // Nothing is known to be written, so the request may come again as if it were the first.
        if positions.iter().all(Option::is_none) {
            self.remove(key);
            return;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = State::Ended(positions);
            let end = now + self.keep;
            if let Some(before) = entry.end.replace(end) {
                self.ends.remove(&(before, used));
            }
            self.ends.insert((end, used), name);
        }
    }

    /// Forgets what has been remembered for long enough.
    fn forget(&mut self, now: Instant) {
        while let Some(next) = self.ends.first_entry().filter(|next| next.key().0 <= now) {
            let key = next.remove();
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            if let Some(end) = entry.end {
                self.ends.remove(&(end, entry.used));
            }
            let (State::InFlight(positions) | State::Ended(positions)) = &entry.state;
            self.bytes -= weight(key, positions.len());
        }
    }

    /// How many keys are remembered, and what they hold.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}

fn weight(key: &str, records: usize) -> usize {
    // While a key is in use its positions are there twice.
    ENTRY_BYTES + key.len() + records * 2 * size_of::<Option<Written>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);
    const ROOM: usize = 1 << 20;
    const A: Digest = [1; 32];
    const B: Digest = [2; 32];

    fn at(offset: i64) -> Written {
        Written {
            partition: 0,
            offset: Some(offset),
            timestamp_ms: 7,
        }
    }

    #[test]
    fn a_key_that_comes_again_gets_the_first_positions() {
        let (mut keys, now) = (Keys::new(KEEP, ROOM), Instant::now());
        assert_eq!(keys.begin(now, "k", A, 2), Begun::Write(vec![None, None]));
        assert_eq!(keys.begin(now, "k", A, 2), Begun::InFlight);
        assert_eq!(keys.begin(now, "k", B, 2), Begun::Differs);
        assert_eq!(keys.begin(now, "other", A, 2), Begun::Write(vec![None, None]));
        keys.end(now, "k", vec![Some(at(1)), Some(at(2))]);
        assert_eq!(keys.begin(now, "k", A, 2), Begun::Again(vec![at(1), at(2)]));
        assert_eq!(keys.begin(now, "k", B, 2), Begun::Differs);
    }

    #[test]
    fn a_key_is_kept_for_its_time_and_no_longer() {
        let (mut keys, now) = (Keys::new(KEEP, ROOM), Instant::now());
        keys.begin(now, "k", A, 1);
        // However long the first request takes, the time begins with its answer.
        let answered = now + 2 * KEEP;
        keys.end(answered, "k", vec![Some(at(1))]);
        let last = answered + KEEP - Duration::from_nanos(1);
        assert_eq!(keys.begin(last, "k", A, 1), Begun::Again(vec![at(1)]));
        assert_eq!(keys.begin(answered + KEEP, "k", A, 1), Begun::Write(vec![None]));
        assert_eq!(keys.size().0, 1);
    }

    #[test]
    fn what_failed_is_written_again_and_the_rest_is_not() {
        let (mut keys, now) = (Keys::new(KEEP, ROOM), Instant::now());
        keys.begin(now, "k", A, 3);
        keys.end(now, "k", vec![Some(at(1)), None, Some(at(3))]);
        assert_eq!(
            keys.begin(now, "k", A, 3),
            Begun::Write(vec![Some(at(1)), None, Some(at(3))])
        );
        assert_eq!(keys.begin(now, "k", A, 3), Begun::InFlight);
        let later = now + KEEP / 2;
        keys.end(later, "k", vec![Some(at(1)), Some(at(9)), Some(at(3))]);
        // The first end is no longer that of the key.
        assert_eq!(
            keys.begin(now + KEEP, "k", A, 3),
            Begun::Again(vec![at(1), at(9), at(3)])
        );
        assert_eq!(keys.begin(later + KEEP, "k", A, 3), Begun::Write(vec![None; 3]));
    }

    #[test]
    fn a_key_that_is_used_again_and_again_takes_one_place() {
        let (mut keys, now) = (Keys::new(KEEP, ROOM), Instant::now());
        for millis in 0..1_000 {
            let now = now + Duration::from_millis(millis);
            assert!(matches!(keys.begin(now, "k", A, 2), Begun::Write(_)));
            assert_eq!(keys.ends.len(), 0);
            keys.end(now, "k", vec![Some(at(1)), None]);
            assert_eq!((keys.ends.len(), keys.size().0), (1, 1));
        }
        assert_eq!(keys.begin(now + 3 * KEEP, "other", A, 1), Begun::Write(vec![None]));
        assert_eq!((keys.ends.len(), keys.size().0), (0, 1));
    }

    #[test]
    fn what_ends_without_a_position_is_forgotten_and_what_is_known_is_not() {
        let (mut keys, now) = (Keys::new(KEEP, ROOM), Instant::now());
        keys.begin(now, "k", A, 1);
        keys.end(now, "k", vec![None]);
        assert_eq!(keys.begin(now, "k", B, 1), Begun::Write(vec![None]));
        keys.end(now, "k", Vec::new());
        assert_eq!(keys.size(), (0, 0));
        keys.begin(now, "k", A, 2);
        keys.end(now, "k", vec![Some(at(1)), None]);
        keys.begin(now, "k", A, 2);
        keys.end(now, "k", Vec::new());
        assert_eq!(keys.begin(now, "k", A, 2), Begun::Write(vec![Some(at(1)), None]));
    }

    #[test]
    fn a_key_too_many_is_refused_and_none_is_forgotten_for_it() {
        let now = Instant::now();
        let mut keys = Keys::new(KEEP, 3 * weight("k0", 1));
        for key in ["k0", "k1", "k2"] {
            assert_eq!(keys.begin(now, key, A, 1), Begun::Write(vec![None]));
            keys.end(now, key, vec![Some(at(1))]);
        }
        assert_eq!(keys.begin(now, "k3", A, 1), Begun::Full);
        assert_eq!(keys.begin(now, "k0", A, 1), Begun::Again(vec![at(1)]));
        assert_eq!(keys.begin(now + KEEP, "k3", A, 1), Begun::Write(vec![None]));
        assert_eq!(keys.size(), (1, weight("k3", 1)));
    }
}
