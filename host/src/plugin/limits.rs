//! What a plugin may use, and what is said and counted when it wants more.
//!
//! Every limit is a key of `limits` in a stage, has a default that is on, and is named by that key wherever it is hit: in the words of a
//! fault, in a refusal, and in the metric. Pure: no clock, no I/O.

use std::fmt;
use std::time::Duration;

use super::contract::{Emission, Header, Reply};
use crate::config;

/// How many times its deadline a call may take by the wall clock.
const WALL_FACTOR: u32 = 10;
/// What a guest may hand to the host in one call besides an answer to a batch: a description, a line for the log.
const OTHER_BYTES_MAX: usize = 1024 * 1024;

/// A limit by its key in `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    Memory,
    Stack,
    TableElements,
    Instances,
    File,
    Deadline,
    DeadlineRecord,
    AnswerBytes,
    AnswerEmissions,
    AnswerHeaders,
    HeaderBytes,
    LogLine,
    LogRate,
    MetricNames,
}

impl Limit {
    pub(crate) const ALL: [Limit; 14] = [
        Limit::Memory,
        Limit::Stack,
        Limit::TableElements,
        Limit::Instances,
        Limit::File,
        Limit::Deadline,
        Limit::DeadlineRecord,
        Limit::AnswerBytes,
        Limit::AnswerEmissions,
        Limit::AnswerHeaders,
        Limit::HeaderBytes,
        Limit::LogLine,
        Limit::LogRate,
        Limit::MetricNames,
    ];

    /// The key in `limits`.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::Stack => "stack",
            Limit::TableElements => "table-elements",
            Limit::Instances => "instances",
            Limit::File => "file",
            Limit::Deadline => "deadline",
            Limit::DeadlineRecord => "deadline-record",
            Limit::AnswerBytes => "answer-bytes",
            Limit::AnswerEmissions => "answer-emissions",
            Limit::AnswerHeaders => "answer-headers",
            Limit::HeaderBytes => "header-bytes",
            Limit::LogLine => "log-line",
            Limit::LogRate => "log-rate",
            Limit::MetricNames => "metric-names",
        }
    }
}

/// As it is named in messages: `limits.memory`, between backticks.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`limits.{}`", self.key())
    }
}

/// What a plugin may use of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// All memories of one instance together.
    pub(crate) memory_bytes: usize,
    /// The guest's own stack.
    pub(crate) stack_bytes: usize,
    /// All tables of one instance together.
    pub(crate) table_elements: usize,
    /// Core instances of one component; its memories and its tables, too.
    pub(crate) instances: usize,
    /// For one call, whatever the size of its batch.
    pub(crate) deadline: Duration,
    /// For a call with one record.
    pub(crate) deadline_record: Duration,
    /// The most that any call may last by the clock, so that it cannot outlast the transaction that it belongs to.
    pub(crate) wall_max: Duration,
    pub(crate) answer: AnswerLimits,
    /// The longest line that is logged; the rest of it is cut.
    pub(crate) log_line_bytes: usize,
    /// Lines that all instances of a stage log in a second; the rest are dropped and counted.
    pub(crate) log_lines_per_second: u32,
    /// Names of the plugin's own metrics in a stage.
    pub(crate) metric_names: usize,
}

/// What an answer to a batch may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerLimits {
    pub(crate) bytes: usize,
    pub(crate) emissions: usize,
    pub(crate) headers: usize,
    /// Name and value of one header.
    pub(crate) header_bytes: usize,
}

impl Limits {
    /// Limits that no innocent call of a test meets on a busy machine.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn patient() -> Self {
        Self {
            memory_bytes: 128 * 1024 * 1024,
            stack_bytes: 512 * 1024,
            table_elements: 100_000,
            instances: 100,
            deadline: Duration::from_secs(20),
            deadline_record: Duration::from_secs(20),
            wall_max: Duration::from_secs(200),
            answer: AnswerLimits {
                bytes: 64 * 1024 * 1024,
                emissions: 1_000_000,
                headers: 1_000_000,
                header_bytes: 64 * 1024,
            },
            log_line_bytes: 1024,
            log_lines_per_second: 100,
            metric_names: 100,
        }
    }

    /// As the pipeline file says; no call lasts longer than `wall_max` by the clock.
    pub(crate) fn new(configured: &config::Limits, wall_max: Duration) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            memory_bytes: size(configured.memory_bytes.value),
            stack_bytes: size(configured.stack_bytes.value),
            table_elements: count(configured.table_elements.value),
            instances: count(configured.instances.value),
            deadline: configured.deadline.value,
            deadline_record: configured.deadline_record.value,
            wall_max,
            answer: AnswerLimits {
                bytes: size(configured.answer_bytes.value),
                emissions: count(configured.answer_emissions.value),
                headers: count(configured.answer_headers.value),
                header_bytes: size(configured.header_bytes.value),
            },
            log_line_bytes: size(configured.log_line_bytes.value),
            log_lines_per_second: configured.log_lines_per_second.value,
            metric_names: count(configured.metric_names.value),
        }
    }

    /// The time of one call of a batch.
    pub(crate) fn of_batch(&self) -> CallTime {
        self.call_time(self.deadline, Limit::Deadline)
    }

    /// The time of one call with a single record.
    pub(crate) fn of_record(&self) -> CallTime {
        self.call_time(self.deadline_record, Limit::DeadlineRecord)
    }

    fn call_time(&self, deadline: Duration, limit: Limit) -> CallTime {
        CallTime {
            deadline,
            wall: (deadline * WALL_FACTOR).min(self.wall_max),
            limit,
        }
    }
}

impl AnswerLimits {
    /// The bytes that the host may set up for what a guest hands to it in one call, as the runtime counts them: an answer to `records` records
    /// that keeps every limit always fits, however full it is, and what exceeds all limits together is not copied.
    pub(crate) fn transfer_bytes(&self, records: usize) -> usize {
        let table = |count: usize, entry_bytes: usize| count.saturating_mul(entry_bytes);
        self.bytes
            .saturating_add(table(records, size_of::<Reply>()))
            .saturating_add(table(self.emissions, size_of::<Emission>()))
            .saturating_add(table(self.headers, size_of::<Header>()))
            .saturating_add(OTHER_BYTES_MAX)
    }
}

/// How long one call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallTime {
    /// CPU time of the guest; the time that it waits inside the host has a bound of its own, as long.
    pub(crate) deadline: Duration,
    /// Between its begin and its end by the clock.
    pub(crate) wall: Duration,
    /// The key that `deadline` comes from.
    pub(crate) limit: Limit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::tests::patient;

    #[test]
    fn a_call_lasts_ten_times_its_deadline_by_the_clock_and_never_longer_than_the_bound() {
        let wall = |deadline_ms: u64, wall_max_ms: u64| {
            let limits = Limits {
                deadline: Duration::from_millis(deadline_ms),
                wall_max: Duration::from_millis(wall_max_ms),
                ..patient()
            };
            limits.of_batch().wall.as_millis()
        };
        assert_eq!(wall(1_000, 11_100), 10_000);
        assert_eq!(wall(1_200, 11_100), 11_100);
    }

    #[test]
    fn limits_are_named_by_their_keys() {
        let named: Vec<String> = Limit::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(named[1], "`limits.stack`");
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place, "a metric is found by the place of its limit");
        }
    }

    #[test]
    fn an_answer_that_keeps_every_limit_may_cross_the_border() {
        let limits = AnswerLimits {
            bytes: 100,
            emissions: 3,
            headers: 2,
            header_bytes: 10,
        };
        let full = 100 + 5 * size_of::<Reply>() + 3 * size_of::<Emission>() + 2 * size_of::<Header>();
        assert!(limits.transfer_bytes(5) >= full);
        let endless = AnswerLimits {
            bytes: usize::MAX,
            ..limits
        };
        assert_eq!(endless.transfer_bytes(5), usize::MAX);
    }
}
