//! Decides whether exactly once held: from what was sent, what a `read_committed` reader saw, and every offset that was committed.
//! Pure: no clock, no I/O.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A record's identity: its number among the records of its key, and among those of the partition it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Numbered {
    pub(crate) key: u32,
    pub(crate) of_key: u64,
    pub(crate) partition: i32,
    pub(crate) of_partition: u64,
}

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "key {} number {} partition {} number {}",
            self.key, self.of_key, self.partition, self.of_partition
        )
    }
}

impl Numbered {
    /// Reads what `Display` wrote; a ninth word is padding. None: any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').take(8).collect();
        let [
            "key",
            key,
            "number",
            of_key,
            "partition",
            partition,
            "number",
            of_partition,
        ] = words[..]
        else {
            return None;
        };
        Some(Self {
            key: key.parse().ok()?,
            of_key: of_key.parse().ok()?,
            partition: partition.parse().ok()?,
            of_partition: of_partition.parse().ok()?,
        })
    }
}

/// A partition that a host writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Output(i32),
    DeadLetters(i32),
}

/// A record that came out: in the output, or, where the broker refuses it there, as a dead letter.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// A committed offset of an input partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    Lost(Numbered),
    Doubled(Numbered, usize),
    /// Never sent, or sent in a transaction that was aborted.
    Foreign(String),
    /// Came after a later record of the same key.
    KeyOutOfOrder(Numbered),
    /// Came after a later record of the same input partition, in the same place.
    PartitionOutOfOrder(Numbered),
    OffsetWentBack {
        partition: i32,
        from: i64,
        to: i64,
    },
}

/// Finds all violations. `sent` is what stands in the input, so a record that its sender doubled is there twice and has to come out twice. `seen`
/// is ordered within each of its places, `committed` by time.
pub(crate) fn check(sent: &[Numbered], seen: &[Seen], committed: &[Committed]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut known: HashMap<Numbered, usize> = HashMap::new();
    for record in sent {
        *known.entry(*record).or_default() += 1;
    }
    let mut counts: HashMap<Numbered, usize> = HashMap::new();
    let mut last_of_key: HashMap<(bool, u32), u64> = HashMap::new();
    let mut last_of_partition: HashMap<(Place, i32), u64> = HashMap::new();

    for Seen { place, text } in seen {
        let Some(record) = Numbered::parse(text).filter(|record| known.contains_key(record)) else {
            violations.push(Violation::Foreign(text.clone()));
            continue;
        };
        let count = counts.entry(record).or_default();
        *count += 1;
        let is_letter = matches!(place, Place::DeadLetters(_));
        // A second copy is reported as such, not as disorder too.
        if *count > 1 {
            continue;
        }
        if raise(last_of_key.entry((is_letter, record.key)).or_default(), record.of_key) {
            violations.push(Violation::KeyOutOfOrder(record));
        }
        if raise(
            last_of_partition.entry((*place, record.partition)).or_default(),
            record.of_partition,
        ) {
            violations.push(Violation::PartitionOutOfOrder(record));
        }
    }
    for record in sent {
        // Each record is judged once.
        let Some(copies) = known.remove(record) else { continue };
        let count = counts.get(record).copied().unwrap_or(0);
        match count.cmp(&copies) {
            Ordering::Less => violations.push(Violation::Lost(*record)),
            Ordering::Equal => {}
            Ordering::Greater => violations.push(Violation::Doubled(*record, count)),
        }
    }
    violations.extend(steps_back(committed));
    violations
}

/// Raises the highest number so far; true if it was higher already.
fn raise(highest: &mut u64, number: u64) -> bool {
    let disorder = number < *highest;
    *highest = number.max(*highest);
    disorder
}

fn steps_back(committed: &[Committed]) -> Vec<Violation> {
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    let mut violations = Vec::new();
    for &Committed { partition, offset } in committed {
        let before = last.insert(partition, offset);
        if let Some(from) = before.filter(|before| *before > offset) {
            violations.push(Violation::OffsetWentBack {
                partition,
                from,
                to: offset,
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{Committed, Numbered, Place, Seen, Violation, check};

    /// Four records of two keys in one partition.
    fn sent() -> Vec<Numbered> {
        [(1, 0), (2, 0), (1, 1), (2, 1)]
            .iter()
            .zip(0..)
            .map(|(&(key, of_key), of_partition)| Numbered {
                key,
                of_key,
                partition: 0,
                of_partition,
            })
            .collect()
    }

    fn seen(order: &[usize]) -> Vec<Seen> {
        order
            .iter()
            .map(|&index| Seen {
                place: Place::Output(0),
                text: sent()[index].to_string(),
            })
            .collect()
    }

    fn verdict(order: &[usize]) -> Vec<Violation> {
        check(&sent(), &seen(order), &[])
    }

    #[test]
    fn every_record_once_and_in_order_is_no_violation() {
        let committed = [(0, 5), (1, 2), (0, 5), (0, 9)].map(|(partition, offset)| Committed { partition, offset });
        assert_eq!(check(&sent(), &seen(&[0, 1, 2, 3]), &committed), []);
    }

    #[test]
    fn a_lost_record_is_found() {
        assert_eq!(verdict(&[0, 1, 3]), [Violation::Lost(sent()[2])]);
    }

    #[test]
    fn a_doubled_record_is_found() {
        assert_eq!(verdict(&[0, 1, 2, 0, 3]), [Violation::Doubled(sent()[0], 2)]);
    }

    #[test]
    fn a_record_that_its_sender_doubled_comes_out_twice() {
        let mut sent = sent();
        sent.push(sent[3]);
        assert_eq!(check(&sent, &seen(&[0, 1, 2, 3, 3]), &[]), []);
        assert_eq!(check(&sent, &seen(&[0, 1, 2, 3]), &[]), [Violation::Lost(sent[3])]);
    }

    #[test]
    fn a_record_behind_a_later_one_of_its_key_is_found() {
        let late = sent()[0];
        assert_eq!(
            verdict(&[1, 2, 0, 3]),
            [Violation::KeyOutOfOrder(late), Violation::PartitionOutOfOrder(late)]
        );
    }

    #[test]
    fn a_record_behind_a_later_one_of_its_input_partition_is_found() {
        assert_eq!(verdict(&[1, 0, 2, 3]), [Violation::PartitionOutOfOrder(sent()[0])]);
    }

    #[test]
    fn output_partitions_have_no_order_among_each_other() {
        let mut seen = seen(&[1, 3, 0, 2]);
        seen[0].place = Place::Output(1);
        seen[1].place = Place::Output(1);
        assert_eq!(check(&sent(), &seen, &[]), []);
    }

    #[test]
    fn a_dead_letter_counts_and_has_no_order_with_the_output() {
        let mut seen = seen(&[1, 2, 3, 0]);
        seen[3].place = Place::DeadLetters(0);
        seen[3].text += " xxxxxxxx";
        assert_eq!(check(&sent(), &seen, &[]), []);
        seen[2].place = Place::DeadLetters(0);
        seen.push(seen[3].clone());
        assert_eq!(
            check(&sent(), &seen, &[]),
            [
                Violation::PartitionOutOfOrder(sent()[0]),
                Violation::Doubled(sent()[0], 2)
            ]
        );
    }

    #[test]
    fn a_record_that_nobody_sent_is_found() {
        for text in ["aborted by its sender", "key 7 number 0 partition 0 number 0"] {
            let mut seen = seen(&[0, 1, 2, 3]);
            seen.push(Seen {
                place: Place::Output(0),
                text: text.to_owned(),
            });
            assert_eq!(check(&sent(), &seen, &[]), [Violation::Foreign(text.to_owned())]);
        }
    }

    #[test]
    fn a_committed_offset_that_went_back_is_found() {
        let committed = [(0, 5), (1, 9), (0, 4), (0, 6)].map(|(partition, offset)| Committed { partition, offset });
        let back = Violation::OffsetWentBack {
            partition: 0,
            from: 5,
            to: 4,
        };
        assert_eq!(check(&[], &[], &committed), [back]);
    }
}
