//! Reads what a stage does when records fail and when its plugin changes: `on-fault`, `swap`, `stamp`.

use std::time::Duration;

use super::errors::{At, Location};
use super::model::{FaultPolicy, OnFault, Retry, Share, Swap};
use super::section::{Field, Keys};
use super::values::{self, duration, integer};

const ON_FAULT: Keys = Keys {
    allowed: &["policy", "dead-letter", "retry", "breaker"],
    later: &[],
};
const RETRY: Keys = Keys {
    allowed: &["limit", "backoff"],
    later: &[],
};
const SHARE: Keys = Keys {
    allowed: &["failures", "of"],
    later: &[],
};
const SWAP: Keys = Keys {
    allowed: &["watch", "rollback"],
    later: &["canary", "shadow"],
};

/// The largest number of records that a share is counted in; one bit each is kept.
const RECORDS_MAX: u32 = 100_000;

/// Reads `on-fault`; `app` is missing when its own name is a mistake.
pub(super) fn on_fault(field: Option<Field<'_>>, stage_at: Location, app: Option<&str>) -> Option<OnFault> {
    let default_topic = || app.map(|app| At::new(format!("{app}.dead-letters"), stage_at));
    let Some(field) = field else {
        return Some(OnFault {
            policy: At::new(FaultPolicy::DeadLetter, stage_at),
            dead_letter: default_topic()?,
            retry: Retry::default(),
            breaker: None,
        });
    };
    let section = field.section(&ON_FAULT)?;
    let policy = match section.get("policy") {
        Some(field) => policy(&field),
        None => Some(At::new(FaultPolicy::DeadLetter, stage_at)),
    };
    let dead_letter = match section.get("dead-letter") {
        Some(field) => values::topic(&field),
        None => default_topic(),
    };
    let retry = section
        .get("retry")
        .map_or(Some(Retry::default()), |field| retry(&field));
    let breaker = section
        .get("breaker")
        .map_or(Some(None), |field| share(&field).map(Some));
    Some(OnFault {
        policy: policy?,
        dead_letter: dead_letter?,
        retry: retry?,
        breaker: breaker?,
    })
}

fn policy(field: &Field<'_>) -> Option<At<FaultPolicy>> {
    let policy = match values::word(field, &["dead-letter", "skip", "stop"])? {
        "skip" => FaultPolicy::Skip,
        "stop" => FaultPolicy::Stop,
        _ => FaultPolicy::DeadLetter,
    };
    Some(At::new(policy, field.at()))
}

fn retry(field: &Field<'_>) -> Option<Retry> {
    let section = field.section(&RETRY)?;
    let default = Retry::default();
    let limit = section.get("limit").map_or(Some(default.limit), |field| {
        integer(&field, 0..=1000).map(|limit| limit.value)
    });
    let backoff = section.get("backoff").map_or(Some(default.backoff), |field| {
        duration(&field, Duration::from_millis(1)..=Retry::BACKOFF_MAX).map(|backoff| backoff.value)
    });
    Some(Retry {
        limit: limit?,
        backoff: backoff?,
    })
}

fn share(field: &Field<'_>) -> Option<Share> {
    let section = field.section(&SHARE)?;
    let failures = section.required("failures", "how many records may fail");
    let failures = failures.and_then(|field| integer(&field, 0..=RECORDS_MAX));
    let of = section.required("of", "how many records they are counted in");
    let of = of.and_then(|field| integer(&field, 1..=RECORDS_MAX));
    let (failures, of) = (failures?, of?);
    if failures.value >= of.value {
        let message = format!(
            "{} of {} records can never be exceeded; `failures` is less than `of`",
            *failures, *of
        );
        return field.fail_at(failures.at, message);
    }
    Some(Share {
        failures: failures.value,
        of: of.value,
    })
}

/// Reads `swap`.
pub(super) fn swap(field: Option<Field<'_>>) -> Option<Swap> {
    let default = Swap::default();
    let Some(field) = field else {
        return Some(default);
    };
    let section = field.section(&SWAP)?;
    let watch = section
        .get("watch")
        .map_or(Some(default.watch), |field| yes_or_no(&field));
    let rollback = section.get("rollback").map_or(Some(default.rollback), |field| {
        if field.is_map() {
            return share(&field).map(Some);
        }
        values::word(&field, &["never"]).map(|_| None)
    });
    Some(Swap {
        watch: watch?,
        rollback: rollback?,
    })
}

/// Reads `true` or `false`.
pub(super) fn yes_or_no(field: &Field<'_>) -> Option<bool> {
    Some(values::word(field, &["true", "false"])? == "true")
}
