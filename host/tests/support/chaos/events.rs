//! What the hosts under test write into `WASMILL_CHAOS_LOG`: one line an event, `PID EVENT [DETAIL]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) pid: u32,
    /// `begin`, `commit`, `abort`, `fenced`, `unknown`, `rewind` or `kill`.
    pub(crate) name: String,
    /// Of `kill` its point, of `unknown` what was found out.
    pub(crate) detail: String,
}

/// The file, read as it grows.
pub(crate) struct EventLog {
    path: PathBuf,
    bytes_read: u64,
    events: Vec<Event>,
}

impl EventLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        File::create(&path).unwrap();
        Self::open(path)
    }

    /// Another reader of a file that exists.
    pub(crate) fn open(path: PathBuf) -> Self {
        Self {
            path,
            bytes_read: 0,
            events: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All events up to now.
    pub(crate) fn events(&mut self) -> &[Event] {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.bytes_read)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        // A line that is still being written waits for the next look.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.bytes_read += complete as u64;
        self.events.extend(text[..complete].lines().map(parse));
        &self.events
    }

    /// Whether the last transaction that the process began has not ended, as far as it has told. With several workers this misses
    /// some open transactions and never names a closed one open.
    pub(crate) fn in_transaction(&mut self, pid: u32) -> bool {
        in_transaction(self.events(), pid)
    }
}

fn in_transaction(events: &[Event], pid: u32) -> bool {
    let mut own = events
        .iter()
        .rev()
        .filter(|event| event.pid == pid)
        .map(|event| event.name.as_str());
    own.find(|name| matches!(*name, "begin" | "commit" | "abort" | "fenced" | "unknown")) == Some("begin")
}

fn parse(line: &str) -> Event {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let pid = word()
        .parse()
        .unwrap_or_else(|_| panic!("an event begins with the process's id: `{line}`"));
    Event {
        pid,
        name: word(),
        detail: word(),
    }
}

/// How often each thing happened; `killed` are the processes that were killed, from outside or by themselves.
pub(crate) fn count(events: &[Event], killed: &BTreeSet<u32>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        let name = match event.name.as_str() {
            "kill" => format!("killed {}", event.detail),
            "unknown" => format!(
                "unknown outcome, {}",
                event.detail.split(' ').next().unwrap_or_default()
            ),
            other => other.to_owned(),
        };
        *counts.entry(name).or_default() += 1;
    }
    let inside = killed.iter().filter(|pid| in_transaction(events, **pid)).count();
    counts.insert("killed inside an open transaction".to_owned(), inside);
    counts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Event, count, parse};

    fn events(lines: &[&str]) -> Vec<Event> {
        lines.iter().map(|line| parse(line)).collect()
    }

    #[test]
    fn kills_count_as_inside_a_transaction_while_one_is_open() {
        let events = events(&[
            "1 begin",
            "2 begin",
            "2 commit",
            "3 begin",
            "3 commit",
            "3 begin",
            "3 kill after-produce",
            "4 begin",
        ]);
        let counts = count(&events, &BTreeSet::from([1, 2, 3]));
        assert_eq!(counts["killed inside an open transaction"], 2);
        assert_eq!(counts["killed after-produce"], 1);
        assert_eq!(counts["begin"], 5);
    }

    #[test]
    fn unknown_outcomes_count_by_what_was_found_out() {
        let counts = count(
            &events(&["1 begin", "1 unknown discarded", "1 unknown committed 17"]),
            &BTreeSet::new(),
        );
        assert_eq!(
            (
                counts["unknown outcome, discarded"],
                counts["unknown outcome, committed"]
            ),
            (1, 1)
        );
    }
}
