//! Single values: durations, sizes, counts, names, topics, moments.
//!
//! Durations and sizes carry their unit (`100ms`, `64MiB`); a bare number is refused, since nobody
//! who reads it later could tell what it counts. Every value has a range, named in the message that
//! refuses another one. Names follow Kafka's rule for topics, because groups, transactional ids and
//! internal topics are made of them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;

use super::errors::{At, quoted, suggestion};
use super::model::Start;
use super::section::Field;

/// Kafka's own limit for the length of a topic's name.
const TOPIC_CHARS_MAX: usize = 249;

/// Leaves room for `{app}.{stage}.{suffix}` within Kafka's limit for a topic's name.
const NAME_CHARS_MAX: usize = 100;

/// A whole number within a range.
pub(super) fn integer<T>(field: &Field<'_>, range: RangeInclusive<T>) -> Option<At<T>>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    let text = field.text()?;
    let number = text.parse::<i64>().ok().and_then(|number| T::try_from(number).ok());
    match number {
        Some(number) if range.contains(&number) => Some(At::new(number, field.at())),
        _ => field.fail(format!(
            "{} is not allowed; allowed: a whole number from {} to {}",
            quoted(text),
            range.start(),
            range.end()
        )),
    }
}

/// A duration with its unit, within a range.
pub(super) fn duration(field: &Field<'_>, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
    let text = field.text()?;
    let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
    let fits = |text: &str| humantime::parse_duration(text).is_ok_and(|duration| range.contains(&duration));
    let mistake = match humantime::parse_duration(text) {
        Ok(duration) if range.contains(&duration) => return Some(At::new(duration, field.at())),
        _ if is_bare_number(text) => no_unit(with_unit(text, &["ms", "s", "m"], fits), &least),
        Ok(_) => "is out of range".to_owned(),
        Err(_) => "is no duration; write a number and a unit (ms, s, m, h), such as `100ms`".to_owned(),
    };
    field.fail(format!("{} {mistake}; allowed: {least} to {most}", quoted(text)))
}

/// A size in bytes with its unit, within a range.
pub(super) fn size(field: &Field<'_>, range: RangeInclusive<u64>) -> Option<At<u64>> {
    let text = field.text()?;
    let (least, most) = (show_size(*range.start()), show_size(*range.end()));
    let bytes = |text: &str| text.parse::<ByteSize>().map(|size| size.as_u64());
    let fits = |text: &str| bytes(text).is_ok_and(|bytes| range.contains(&bytes));
    let mistake = match bytes(text) {
        // `ByteSize` itself would take a bare number for bytes.
        _ if is_bare_number(text) => no_unit(with_unit(text, &["B", "KiB", "MiB", "GiB"], fits), &least),
        Ok(bytes) if range.contains(&bytes) => return Some(At::new(bytes, field.at())),
        Ok(_) => "is out of range".to_owned(),
        Err(_) => "is no size; write a number and a unit (B, KiB, MiB, GiB), such as `64MiB`".to_owned(),
    };
    field.fail(format!("{} {mistake}; allowed: {least} to {most}", quoted(text)))
}

fn is_bare_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

/// The number with the first unit that brings it into the range.
fn with_unit(number: &str, units: &[&str], fits: impl Fn(&str) -> bool) -> Option<String> {
    let candidates = units.iter().map(|unit| format!("{}{unit}", number.trim()));
    candidates.into_iter().find(|candidate| fits(candidate))
}

fn no_unit(example: Option<String>, least: &str) -> String {
    format!(
        "has no unit; write for example `{}`",
        example.as_deref().unwrap_or(least)
    )
}

/// As the pipeline file writes durations: the largest unit that leaves a whole number.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// As the pipeline file writes sizes: the largest unit that leaves a whole number.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// An IP address and a port.
pub(super) fn address(field: &Field<'_>, example: &str) -> Option<At<SocketAddr>> {
    let text = field.text()?;
    match text.parse() {
        Ok(address) => Some(At::new(address, field.at())),
        Err(_) => {
            let port = example.rsplit(':').next().unwrap_or_default();
            field.fail(format!(
                "{} is no address; allowed: an IP address and a port, such as {example} or [::1]:{port}",
                quoted(text)
            ))
        }
    }
}

/// One of a few words.
pub(super) fn word<'n>(field: &Field<'n>, allowed: &[&str]) -> Option<&'n str> {
    let text = field.text()?;
    if allowed.contains(&text) {
        return Some(text);
    }
    let nearest = suggestion(text, allowed.iter().copied());
    let separator = if nearest.is_empty() { ";" } else { "" };
    field.fail(format!(
        "unknown value {}{nearest}{separator} allowed: {}",
        quoted(text),
        allowed.join(", ")
    ))
}

/// A topic that Kafka can have.
pub(super) fn topic(field: &Field<'_>) -> Option<At<String>> {
    let text = field.text()?;
    match topic_mistake(text) {
        Some(mistake) => field.fail(format!("{} is no topic name: {mistake}", quoted(text))),
        None => Some(At::new(text.to_owned(), field.at())),
    }
}

/// What keeps a text from being the name of a topic.
pub(super) fn topic_mistake(text: &str) -> Option<String> {
    match text {
        "" => Some("it is empty".to_owned()),
        "." | ".." => Some("Kafka keeps `.` and `..` for itself".to_owned()),
        _ => letters_mistake(text, "._-").or_else(|| length_mistake(text, TOPIC_CHARS_MAX)),
    }
}

/// The name of an app, an instance or a group: what a topic may be called, and short enough to be
/// only a part of such a name.
pub(super) fn name(field: &Field<'_>, what: &str) -> Option<At<String>> {
    let text = field.text()?;
    match name_mistake(text, "._-") {
        Some(mistake) => field.fail(format!("{} is no name for {what}: {mistake}", quoted(text))),
        None => Some(At::new(text.to_owned(), field.at())),
    }
}

/// What keeps a text from being a name; `marks` are allowed besides letters and digits.
pub(super) fn name_mistake(text: &str, marks: &str) -> Option<String> {
    if text.is_empty() {
        return Some("it is empty".to_owned());
    }
    if let Some(mistake) = letters_mistake(text, marks) {
        return Some(mistake);
    }
    if !text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Some("it has to begin with a letter or a digit".to_owned());
    }
    length_mistake(text, NAME_CHARS_MAX)
}

fn letters_mistake(text: &str, marks: &str) -> Option<String> {
    let refused = text
        .chars()
        .find(|letter| !letter.is_ascii_alphanumeric() && !marks.contains(*letter))?;
    let marks: Vec<String> = marks.chars().map(|mark| format!("`{mark}`")).collect();
    let refused = match refused {
        ' ' => "a space".to_owned(),
        other => quoted(&other.to_string()),
    };
    Some(format!(
        "it holds {refused}; allowed: a-z, A-Z, 0-9, {}",
        marks.join(", ")
    ))
}

fn length_mistake(text: &str, chars_max: usize) -> Option<String> {
    let chars = text.len();
    (chars > chars_max).then(|| format!("it has {chars} characters; allowed: at most {chars_max}"))
}

/// Where an input starts: a word, a moment, or milliseconds since 1970.
pub(super) fn start(field: &Field<'_>) -> Option<At<Start>> {
    let text = field.text()?;
    let start = match text {
        "earliest" => Some(Start::Earliest),
        "latest" => Some(Start::Latest),
        _ => timestamp_ms(text).map(Start::TimestampMs),
    };
    match start {
        Some(start) => Some(At::new(start, field.at())),
        None => field.fail(format!(
            "unknown value {}{}; \
             allowed: earliest, latest, a moment in UTC such as 2024-05-01T00:00:00Z, milliseconds since 1970",
            quoted(text),
            suggestion(text, ["earliest", "latest"]),
        )),
    }
}

fn timestamp_ms(text: &str) -> Option<i64> {
    if let Ok(timestamp_ms) = text.parse::<i64>() {
        return (timestamp_ms >= 0).then_some(timestamp_ms);
    }
    let moment = humantime::parse_rfc3339(text).ok()?;
    i64::try_from(moment.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
