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
    let bytes = |key: &str, default: u64, range: RangeInclusive<u64>| {
        or(get(&section, key), At::new(default, stage_at), |field| {
            size(field, range)
        })
    };
    let count = |key: &str, default: u32, range: RangeInclusive<u32>| {
        or(get(&section, key), At::new(default, stage_at), |field| {
            integer(field, range)
        })
    };
    let memory_bytes = bytes("memory", 128 * MIB, MIB..=4 * GIB);
    let stack_bytes = bytes("stack", 512 * KIB, 64 * KIB..=16 * MIB);
    let table_elements = count("table-elements", 100_000, 100..=10_000_000);
    let instances = count("instances", 100, 1..=1_000);
    let file_bytes = bytes("file", 64 * MIB, KIB..=GIB);
    let answer_bytes = bytes("answer-bytes", 64 * MIB, KIB..=GIB);
    let answer_emissions = count("answer-emissions", 1_000_000, 1..=10_000_000);
    let answer_headers = count("answer-headers", 1_000_000, 1..=10_000_000);
    let header_bytes = bytes("header-bytes", 64 * KIB, 64..=16 * MIB);
    let log_line_bytes = bytes("log-line", KIB, 64..=64 * KIB);
    let log_lines_per_second = count("log-rate", 100, 1..=100_000);
    let metric_names = count("metric-names", 100, 1..=10_000);
    let deadline = or(
        get(&section, "deadline"),
        At::new(Duration::from_secs(1), stage_at),
        |field| duration(field, DEADLINE_MIN..=DEADLINE_MAX),
    );
    let deadline_record = match get(&section, "deadline-record") {
        Some(field) => {
            let deadline_record = duration(&field, DEADLINE_MIN..=DEADLINE_MAX);
            deadline_record.and_then(|record| within(&field, record, deadline))
        }
        None => deadline.map(|deadline| At::new(deadline.value.min(Duration::from_millis(250)), stage_at)),
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

/// A single record cannot have more time than its whole batch.
fn within(field: &Field<'_>, record: At<Duration>, deadline: Option<At<Duration>>) -> Option<At<Duration>> {
    let deadline = deadline?.value;
    if record.value <= deadline {
        return Some(record);
    }
    let deadline = values::show_duration(deadline);
    field.fail(format!("longer than `limits.deadline`; allowed: 10ms to {deadline}"))
}
