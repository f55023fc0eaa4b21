//! The subject of a mail: a text with fields of the record in braces.
//!
//! `{/station/name}` is a field of a JSON value by its pointer; `{key}`, `{topic}`, `{partition}` and `{offset}` are what they say; `{{` is a
//! brace. Whatever a record holds, a subject stays one line of bounded length. Pure.

use crate::pointer;

/// The most letters of one field, and of a whole subject; readers show far fewer.
const FIELD_CHARS_MAX: usize = 100;
const SUBJECT_CHARS_MAX: usize = 250;
/// What stands for a field that the record does not have.
const NOTHING: &str = "?";

/// A subject with its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Pointer(String),
    Key,
    Topic,
    Partition,
    Offset,
}

/// What a subject can tell of a record.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    /// The value, where it is JSON.
    pub(crate) json: Option<&'a str>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Subject {
    /// # Errors
    /// What is wrong with the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("a subject is one line of text".to_owned());
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix('{') {
                plain.push('{');
                rest = behind;
                continue;
            }
            let Some((field, behind)) = rest.split_once('}') else {
                return Err("a brace `{` has no end; `{{` is the letter itself".to_owned());
            };
            let part = match field {
                "key" => Part::Key,
                "topic" => Part::Topic,
                "partition" => Part::Partition,
                "offset" => Part::Offset,
                pointer if pointer.starts_with('/') => Part::Pointer(pointer.to_owned()),
                other => {
                    return Err(format!(
                        "`{{{other}}}` is unknown; allowed: {{/JSON/POINTER}}, {{key}}, {{topic}}, {{partition}}, {{offset}}"
                    ));
                }
            };
            parts.extend((!plain.is_empty()).then(|| Part::Text(std::mem::take(&mut plain))));
            parts.push(part);
            rest = behind;
        }
        plain.push_str(rest);
        parts.extend((!plain.is_empty()).then_some(Part::Text(plain)));
        Ok(Self(parts))
    }

    /// Whether it names a field of a JSON value.
    pub(crate) fn reads_json(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Pointer(_)))
    }

    /// The subject for one record.
    pub(crate) fn of(&self, told: Told<'_>) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Pointer(pointer) => field(told.json.and_then(|json| pointer::find(json, pointer::steps(pointer)))),
            Part::Key => told
                .key
                .map_or_else(|| NOTHING.to_owned(), |key| line(&String::from_utf8_lossy(key))),
            Part::Topic => told.topic.to_owned(),
            Part::Partition => told.partition.to_string(),
            Part::Offset => told.offset.to_string(),
        });
        parts.collect::<String>().chars().take(SUBJECT_CHARS_MAX).collect()
    }
}

/// A text without its quotes; anything else as the record spells it.
fn field(value: Option<&str>) -> String {
    match value {
        None | Some("null") => NOTHING.to_owned(),
        Some(value) => line(&pointer::text(value).unwrap_or_else(|| value.to_owned())),
    }
}

/// Foreign text on one line: a line break would begin another header.
fn line(text: &str) -> String {
    let letters = text.chars().take(FIELD_CHARS_MAX);
    letters
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, value: &str, expected: &str) {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
        let told = Told {
            json: is_json.then_some(value),
            key: Some(b"k\r\nBcc: all@example.com"),
            topic: "alerts",
            partition: 3,
            offset: 17,
        };
        assert_eq!(Subject::parse(text).unwrap().of(told), expected);
    }

    #[test]
    fn fields_of_the_record_are_put_in() {
        check(
            "Frost at {/station/name}: {/TMIN} C",
            r#"{"station": {"name": "Wickenburg"}, "TMIN": -1.5}"#,
            "Frost at Wickenburg: -1.5 C",
        );
        check("{topic} {partition}:{offset} {{x}", "[]", "alerts 3:17 {x}");
        check(
            "{/no} {/null} {/list}",
            r#"{"null": null, "list": [1, 2]}"#,
            "? ? [1, 2]",
        );
        check("{/a}", "not json", "?");
        check("{/a} {/b}", r#"{"a": 20.00, "b": 1e5, "c": 1e999}"#, "20.00 1e5");
    }

    #[test]
    fn no_record_breaks_out_of_the_line() {
        check("at {key}", "", "at k  Bcc: all@example.com");
        check(
            "at {/a}",
            r#"{"a": "x\r\nBcc: y\u0000\u2028z"}"#,
            "at x  Bcc: y \u{2028}z",
        );
        check("{/a}", &format!(r#"{{"a": "{}"}}"#, "x".repeat(5000)), &"x".repeat(100));
    }

    #[test]
    fn a_subject_is_bounded() {
        let told = Told {
            json: None,
            key: Some(&[b'x'; 500]),
            topic: "t",
            partition: 0,
            offset: 0,
        };
        let subject = Subject::parse("{key}{key}{key}{key}").unwrap();
        assert_eq!(subject.of(told).len(), 250);
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, words) in [
            ("", "one line"),
            ("a\nb", "one line"),
            ("a {b", "no end"),
            ("{value}", "`{value}` is unknown"),
        ] {
            let mistake = Subject::parse(text).unwrap_err();
            assert!(mistake.contains(words), "{mistake}");
        }
    }
}
