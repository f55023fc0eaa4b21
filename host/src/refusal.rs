//! Finds the record that a broker refuses.
//!
//! A refused record spoils its whole transaction, and the broker does not reliably say which record it was. So the transaction is
//! aborted and repeated with half as many records, and again, until one record is alone in it: that one is condemned to be a dead letter.
//! When as many records as were in the refused transaction went through, nothing is suspected any more. Pure: no clock, no I/O.

/// What to do after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Repeat with fewer records.
    Repeat,
    /// The record was alone: condemn it.
    Condemn,
}

/// How many records with output one transaction may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halving {
    limit: usize,
    /// The refused record is among this many that come next.
    suspects: usize,
}

impl Default for Halving {
    fn default() -> Self {
        Self {
            limit: usize::MAX,
            suspects: 0,
        }
    }
}

impl Halving {
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A transaction with this many records with output was refused.
    pub(crate) fn refused(&mut self, records: usize) -> Next {
        if records <= 1 {
            *self = Self::default();
            return Next::Condemn;
        }
        self.suspects = records;
        self.limit = records / 2;
        Next::Repeat
    }

    /// A transaction with this many records with output went through.
    pub(crate) fn committed(&mut self, records: usize) {
        self.suspects = self.suspects.saturating_sub(records);
        if self.suspects == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every poisonous record is condemned, no other is, and it takes few transactions.
        #[test]
        fn exactly_the_poison_is_condemned(len in 1..2000usize, poison in prop::collection::btree_set(0..2000usize, 0..4)) {
            let mut halving = Halving::default();
            let (mut at, mut condemned, mut tries) = (0, std::collections::BTreeSet::new(), 0);
            while at < len {
                tries += 1;
                let end = len.min(at.saturating_add(halving.limit()));
                let bad = (at..end).any(|record| poison.contains(&record) && !condemned.contains(&record));
                if !bad {
                    halving.committed(end - at);
                    at = end;
                } else if halving.refused(end - at) == Next::Condemn {
                    condemned.insert(at);
                }
            }
            let expected: std::collections::BTreeSet<_> = poison.into_iter().filter(|record| *record < len).collect();
            // Two a halving step, and 2^11 > 2000; after each poison the rest is one transaction again.
            prop_assert!(tries <= 1 + expected.len() * 24, "{} tries", tries);
            prop_assert_eq!(condemned, expected);
        }
    }
}
