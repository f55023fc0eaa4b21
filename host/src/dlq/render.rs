//! Words a dead letter: as JSON, as text for a terminal, its bytes as what they are.
//!
//! What a plugin or a record says can hold anything, escape sequences of terminals included: nothing of it reaches a terminal unescaped.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::Found;
use super::filter::time_of;
use crate::dead_letter::Letter;
use crate::kafka::ffi::Message;
pub(super) use crate::printable::printable;

/// Bytes of a line of a hex dump.
const DUMP_LINE_BYTES: usize = 16;
/// 9999-12-31T23:59:59.999Z: later moments have no RFC 3339 form.
const YEAR_9999_MS: u64 = 253_402_300_799_999;

/// Everything about a letter. `record`: the message that stands for the record, where it is there; `replayed`: whether it was, where that is known.
pub(super) fn json(found: &Found, record: Option<&Message>, replayed: bool) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("topic", json!(found.position.topic));
    put("partition", json!(found.position.partition));
    put("offset", json!(found.position.offset));
    match &found.letter {
        Err(unreadable) => {
            put("unreadable", json!(unreadable.to_string()));
            put("time", json!(found.written_ms.and_then(time_of).map(time)));
        }
        Ok(letter) => {
            let original = &letter.original;
            put("time", json!(time_of_letter(found, letter)));
            put("stage", json!(letter.stage));
            put("kind", json!(letter.kind));
            put("message", json!(letter.message));
            put("backtrace", json!(letter.backtrace));
            put("attempts", json!(letter.attempts));
            put("plugin", json!(letter.plugin));
            put("plugin_version", json!(letter.version));
            put("plugin_digest", json!(letter.digest));
            put("cut", json!(letter.cut));
            put("replays", json!(original.replays));
            put("replayed", json!(replayed));
            put(
                "source",
                json!({
                    "topic": original.topic,
                    "partition": original.partition,
                    "offset": original.offset,
                    "timestamp_ms": original.timestamp_ms,
                }),
            );
        }
    }
    if let Some(record) = record {
        let headers: Vec<Value> = record
            .headers()
            .map(|(name, value)| json!([bytes_json(Some(name)), bytes_json(value)]))
            .collect();
        put("key", bytes_json(record.key()));
        put("value", bytes_json(record.value()));
        put("headers", json!(headers));
    }
    Value::Object(object)
}

/// A string where the bytes are UTF-8, else `{"hex": ..}`.
fn bytes_json(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else {
        return Value::Null;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"hex": hex(bytes)}),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The moment at which the letter was made, as far as it is known.
pub(super) fn time_of_letter(found: &Found, letter: &Letter) -> Option<String> {
    letter.time.or_else(|| found.written_ms.and_then(time_of)).map(time)
}

/// RFC 3339 with milliseconds.
fn time(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let latest = Duration::from_millis(YEAR_9999_MS);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(latest)).to_string()
}

/// A timestamp of a record.
pub(super) fn timestamp(timestamp_ms: Option<i64>) -> String {
    match timestamp_ms {
        None => "none".to_owned(),
        Some(timestamp_ms) => match time_of(timestamp_ms) {
            Some(moment) => format!("{timestamp_ms} ({})", time(moment)),
            None => timestamp_ms.to_string(),
        },
    }
}

/// One line of at most `max` characters.
pub(super) fn line(text: &str, max: usize) -> String {
    let one: String = printable(text)
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    if one.chars().count() <= max {
        return one;
    }
    let kept: String = one.chars().take(max.saturating_sub(2)).collect();
    format!("{kept}..")
}

/// A key or a value: JSON laid out, text, or a hex dump, of at most `max` bytes.
pub(super) fn bytes(bytes: Option<&[u8]>, max: usize) -> String {
    let Some(bytes) = bytes else {
        return "null".to_owned();
    };
    if bytes.is_empty() {
        return "empty".to_owned();
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return cut(dump(&bytes[..bytes.len().min(max)]), bytes.len(), max);
    };
    // Numbers and strings are better shown as they were written.
    let laid_out = match serde_json::from_str::<Box<serde_json::value::RawValue>>(text) {
        Ok(_) if text.trim_start().starts_with(['{', '[']) && bytes.len() <= max => pretty(text),
        _ => None,
    };
    match laid_out {
        Some(laid_out) => printable(&laid_out),
        None => cut(printable(&text[..text.floor_char_boundary(max)]), bytes.len(), max),
    }
}

/// Lays JSON out without touching its numbers: parsing would round those that a double cannot hold.
fn pretty(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut inside, mut escaped) = (0_usize, false, false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if inside {
            out.push(c);
            inside = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        let new_line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        };
        match c {
            '"' => {
                inside = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while characters.peek().is_some_and(|next| next.is_whitespace()) {
                    characters.next();
                }
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.checked_sub(1)?;
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    Some(out)
}

fn cut(text: String, len: usize, max: usize) -> String {
    if len <= max {
        return text;
    }
    format!("{text}\n.. {max} of {len} bytes are shown; --full shows all")
}

fn dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(DUMP_LINE_BYTES).enumerate().map(|(index, chunk)| {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = chunk
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        format!("{:08x}  {:47}  |{text}|", index * DUMP_LINE_BYTES, hex.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        assert_eq!(bytes(None, 9), "null");
        assert_eq!(bytes(Some(b""), 9), "empty");
        assert_eq!(bytes(Some(b"plain \x1b[31m"), 99), "plain \\u{1b}[31m");
        let json = br#"{"a":[1.000000000000000000001, {}],"b":"x\",{","c":[ ]}"#;
        let laid_out =
            "{\n  \"a\": [\n    1.000000000000000000001,\n    {}\n  ],\n  \"b\": \"x\\\",{\",\n  \"c\": []\n}";
        assert_eq!(bytes(Some(json), 99), laid_out);
        let dumped = "00000000  00 ff 41                                         |..A|";
        assert_eq!(bytes(Some(b"\x00\xffA"), 99), dumped);
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let text = bytes(Some("ä".repeat(100).as_bytes()), 11);
        assert_eq!(text, "äääää\n.. 11 of 200 bytes are shown; --full shows all");
        assert_eq!(line("one\ntwo three", 9), "one two..");
        assert_eq!(line("one\ntwo", 9), "one two");
    }

    #[test]
    fn any_moment_has_words() {
        assert_eq!(timestamp(None), "none");
        assert_eq!(timestamp(Some(-5)), "-5");
        assert_eq!(timestamp(Some(0)), "0 (1970-01-01T00:00:00.000Z)");
        assert_eq!(
            timestamp(Some(i64::MAX)),
            format!("{} (9999-12-31T23:59:59.999Z)", i64::MAX)
        );
    }
}
