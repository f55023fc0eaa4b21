//! Reads what one stage's plugin may use.
//!
//! Every limit has a default that is on and a range; none can be switched off.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::errors::{At, Location};
use super::model::Limits;
use super::section::{Field, Keys};
use super::stage::{get, optional, or};
use super::values::{self, duration, integer, size};

const LIMITS: Keys = Keys {
    allowed: &[
        "memory",
        "deadline",
        "deadline-record",
        "stack",
        "table-elements",
        "instances",
        "file",
        "answer-bytes",
        "answer-emissions",
        "answer-headers",
        "header-bytes",
        "log-line",
        "log-rate",
        "metric-names",
    ],
    later: &[],
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Epochs tick every 10 ms, so a shorter deadline could not be kept.
const DEADLINE_MIN: Duration = Duration::from_millis(10);
/// The longest deadline of any call.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Reads `limits`, which may be missing altogether.
pub(super) fn read(field: Option<Field<'_>>, stage_at: Location) -> Option<Limits> {
    let section = optional(field, &LIMITS)?;
    let usual = Limits::usual(stage_at);
    let bytes = |key: &str, default: At<u64>, range: RangeInclusive<u64>| {
        or(get(&section, key), default, |field| size(field, range))
    };
    let count = |key: &str, default: At<u32>, range: RangeInclusive<u32>| {
        or(get(&section, key), default, |field| integer(field, range))
    };
    let memory_bytes = bytes("memory", usual.memory_bytes, MIB..=4 * GIB);
    let stack_bytes = bytes("stack", usual.stack_bytes, 64 * KIB..=16 * MIB);
    let table_elements = count("table-elements", usual.table_elements, 100..=10_000_000);
    let instances = count("instances", usual.instances, 1..=1_000);
    let file_bytes = bytes("file", usual.file_bytes, KIB..=GIB);
    let answer_bytes = bytes("answer-bytes", usual.answer_bytes, KIB..=GIB);
    let answer_emissions = count("answer-emissions", usual.answer_emissions, 1..=10_000_000);
    let answer_headers = count("answer-headers", usual.answer_headers, 1..=10_000_000);
    let header_bytes = bytes("header-bytes", usual.header_bytes, 64..=16 * MIB);
    let log_line_bytes = bytes("log-line", usual.log_line_bytes, 64..=64 * KIB);
    let log_lines_per_second = count("log-rate", usual.log_lines_per_second, 1..=100_000);
    let metric_names = count("metric-names", usual.metric_names, 1..=10_000);
    let deadline = or(get(&section, "deadline"), usual.deadline, |field| {
        duration(field, DEADLINE_MIN..=DEADLINE_MAX)
    });
    let deadline_record = match get(&section, "deadline-record") {
        Some(field) => {
            let deadline_record = duration(&field, DEADLINE_MIN..=DEADLINE_MAX);
            deadline_record.and_then(|record| within(&field, record, deadline))
        }
        None => deadline.map(|deadline| At::new(deadline.value.min(usual.deadline_record.value), stage_at)),
    };
    Some(Limits {
        memory_bytes: memory_bytes?,
        deadline: deadline?,
        deadline_record: deadline_record?,
        stack_bytes: stack_bytes?,
        table_elements: table_elements?,
        instances: instances?,
        file_bytes: file_bytes?,
        answer_bytes: answer_bytes?,
        answer_emissions: answer_emissions?,
        answer_headers: answer_headers?,
        header_bytes: header_bytes?,
        log_line_bytes: log_line_bytes?,
        log_lines_per_second: log_lines_per_second?,
        metric_names: metric_names?,
    })
}

impl Limits {
    /// As a stage has them that says nothing of limits.
    pub(crate) fn usual(stage_at: Location) -> Self {
        let bytes = |bytes: u64| At::new(bytes, stage_at);
        let count = |count: u32| At::new(count, stage_at);
        let time = |milliseconds: u64| At::new(Duration::from_millis(milliseconds), stage_at);
        Self {
            memory_bytes: bytes(128 * MIB),
            deadline: time(1_000),
            deadline_record: time(250),
            stack_bytes: bytes(512 * KIB),
            table_elements: count(100_000),
            instances: count(100),
            file_bytes: bytes(64 * MIB),
            answer_bytes: bytes(64 * MIB),
            answer_emissions: count(1_000_000),
            answer_headers: count(1_000_000),
            header_bytes: bytes(64 * KIB),
            log_line_bytes: bytes(KIB),
            log_lines_per_second: count(100),
            metric_names: count(100),
        }
    }
}

/// A single record cannot have more time than its whole batch.
fn within(field: &Field<'_>, record: At<Duration>, deadline: Option<At<Duration>>) -> Option<At<Duration>> {
    let deadline = deadline?.value;
    if record.value <= deadline {
        return Some(record);
    }
    let deadline = values::show_duration(deadline);
    field.fail(format!("longer than `limits.deadline`; allowed: 10ms to {deadline}"))
}
