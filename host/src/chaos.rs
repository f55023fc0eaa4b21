//! Named points at which the suites kill the host, and ways to break it on purpose.
//!
//! Compiled to nothing without the feature `chaos`. With it, `WASMILL_CHAOS` gives each point a probability (`after-produce=0.01,..`),
//! `WASMILL_CHAOS_SEED` makes a run repeatable, `WASMILL_CHAOS_LOG` names the file in which kills and transactions are recorded, so
//! that a run can count what it did, and `WASMILL_SABOTAGE` switches one guarantee off, so that a suite can be shown to notice.

/// Where a process may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    AfterProduce,
    AfterOffsetsSent,
    DuringCommit,
    AfterCommit,
    /// Documents are acknowledged, and nothing of it is committed.
    DocumentsSent,
    SwapLoaded,
    SwapRecorded,
    SwapPublished,
    /// Not a kill: the commit's answer is lost, whether it was applied or not.
    CommitUnknown,
}

/// What may be broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Go on after an abort without going back.
    NoRewind,
    /// Commit the offsets by themselves, before the transaction.
    OffsetsOutside,
    /// Go on with what was read before the way back.
    KeepStale,
    /// Commit offsets without waiting for documents.
    CommitBeforeDocuments,
}

#[cfg(not(feature = "chaos"))]
mod inert {
    use super::{Point, Sabotage};

    /// Kills the process here, with the probability that was set.
    pub(crate) fn kill(_: Point) {}

    /// Whether to take the point's path this time.
    pub(crate) fn strikes(_: Point) -> bool {
        false
    }

    pub(crate) fn sabotaged(_: Sabotage) -> bool {
        false
    }

    /// Records an event of a transaction.
    pub(crate) fn record(_: &str) {}
}

#[cfg(not(feature = "chaos"))]
pub(crate) use inert::{kill, record, sabotaged, strikes};

#[cfg(feature = "chaos")]
mod armed {
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use super::{Point, Sabotage};

    struct Chaos {
        probabilities: Vec<(String, f64)>,
        random: Mutex<u64>,
        log: Option<File>,
        sabotage: String,
    }

    fn chaos() -> &'static Chaos {
        static CHAOS: OnceLock<Chaos> = OnceLock::new();
        CHAOS.get_or_init(|| {
            let variable = |name| std::env::var(name).unwrap_or_default();
            let seed = variable("WASMILL_CHAOS_SEED").parse().unwrap_or(1_u64);
            Chaos {
                probabilities: variable("WASMILL_CHAOS")
                    .split(',')
                    .filter_map(|entry| entry.split_once('='))
                    .filter_map(|(point, chance)| Some((point.to_owned(), chance.parse().ok()?)))
                    .collect(),
                // Never zero, which xorshift would keep for ever.
                random: Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
                log: OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(variable("WASMILL_CHAOS_LOG"))
                    .ok(),
                sabotage: variable("WASMILL_SABOTAGE"),
            }
        })
    }

    fn name(point: Point) -> &'static str {
        match point {
            Point::AfterProduce => "after-produce",
            Point::AfterOffsetsSent => "after-offsets-sent",
            Point::DuringCommit => "during-commit",
            Point::AfterCommit => "after-commit",
            Point::DocumentsSent => "documents-sent",
            Point::SwapLoaded => "swap-loaded",
            Point::SwapRecorded => "swap-recorded",
            Point::SwapPublished => "swap-published",
            Point::CommitUnknown => "commit-unknown",
        }
    }

    pub(crate) fn strikes(point: Point) -> bool {
        let chaos = chaos();
        let Some((_, chance)) = chaos.probabilities.iter().find(|(known, _)| known == name(point)) else {
            return false;
        };
        let mut random = chaos.random.lock().unwrap_or_else(PoisonError::into_inner);
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        ((*random >> 11) as f64 / (1_u64 << 53) as f64) < *chance
    }

    pub(crate) fn kill(point: Point) {
        if !strikes(point) {
            return;
        }
        let die = move || {
            record(&format!("kill {}", name(point)));
            // A signal that nothing can catch: what was not sent is lost, as with a power cut.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        };
        if point == Point::DuringCommit {
            // The caller goes on into the commit; somewhere in its few milliseconds the process dies.
            let micros = 200 + (std::process::id() as u64 * 7919) % 3000;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(micros));
                die();
            });
        } else {
            die();
        }
    }

    pub(crate) fn sabotaged(sabotage: Sabotage) -> bool {
        let wanted = match sabotage {
            Sabotage::NoRewind => "no-rewind",
            Sabotage::OffsetsOutside => "offsets-outside",
            Sabotage::KeepStale => "keep-stale",
            Sabotage::CommitBeforeDocuments => "commit-before-documents",
        };
        chaos().sabotage == wanted
    }

    pub(crate) fn record(event: &str) {
        if let Some(mut log) = chaos().log.as_ref() {
            // One write of one line: appends of several processes do not mix.
            let _ = log.write_all(format!("{} {event}\n", std::process::id()).as_bytes());
        }
    }
}

#[cfg(feature = "chaos")]
pub(crate) use armed::{kill, record, sabotaged, strikes};
