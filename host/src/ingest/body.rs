//! Takes the body of a request apart: an object is one record, an array of objects one record for each.
//!
//! Values are never written anew: a record's value is a slice of the body, so that what is written is what was sent, byte for byte.
//! Nothing is built of what is not needed, so a body costs no more than itself and a few words a record, however it is made.
//! Pure: no clock, no I/O.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use crate::pointer::{self, WHITESPACE};

/// One record of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) value: &'a str,
    pub(super) key: Option<String>,
    /// The text of its field `name`.
    pub(super) name: Option<String>,
}

/// What a body holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body<'a> {
    pub(super) records: Vec<Record<'a>>,
    /// It is answered by a list.
    pub(super) is_array: bool,
}

/// Why a body cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mistake {
    #[error("{0}")]
    Malformed(String),
    #[error("the array holds more than {0} records (`ingest.records`); send them in several requests")]
    TooMany(usize),
}

/// Takes a body apart. `key`: the steps of the pointer to a record's key, where records have one.
pub(super) fn parse<'a>(body: &'a [u8], key: Option<&[String]>, records_max: usize) -> Result<Body<'a>, Mistake> {
    let text = str::from_utf8(body).map_err(|error| {
        let line = 1 + body[..error.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Mistake::Malformed(format!(
            "the body is not UTF-8 text: byte {}, in line {line}",
            error.valid_up_to()
        ))
    })?;
    match text.trim_start_matches(WHITESPACE).chars().next() {
        Some('{') => {
            let _: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
            let record = record(text, key).map_err(Mistake::Malformed)?;
            Ok(Body {
                records: vec![record],
                is_array: false,
            })
        }
        Some('[') => array(text, key, records_max),
        None => Err(Mistake::Malformed(format!("the body is empty; {WANTED}"))),
        // What is no JSON at all has a better message of the parser's own.
        Some(_) => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(Mistake::Malformed(format!("the body is a single value; {WANTED}"))),
            Err(error) => Err(malformed(&error)),
        },
    }
}

const WANTED: &str = "send a JSON object, or an array of objects";

fn malformed(error: &serde_json::Error) -> Mistake {
    Mistake::Malformed(format!("the body is not JSON: {error}"))
}

fn array<'a>(text: &'a str, key: Option<&[String]>, records_max: usize) -> Result<Body<'a>, Mistake> {
    let mut deserializer = Deserializer::from_str(text);
    let elements = deserializer.deserialize_seq(Elements(records_max));
    let elements = elements.and_then(|elements| deserializer.end().map(|()| elements));
    let elements = elements.map_err(|error| malformed(&error))?;
    if elements.len() > records_max {
        return Err(Mistake::TooMany(records_max));
    }
    if elements.is_empty() {
        return Err(Mistake::Malformed("the array holds no record".to_owned()));
    }
    let mut records = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        let value = element.get();
        let mistake = |mistake: String| {
            let (line, column) = place(text, value);
            let number = index + 1;
            Mistake::Malformed(format!("record {number} (line {line} column {column}): {mistake}"))
        };
        if !value.starts_with('{') {
            return Err(mistake("it is no object".to_owned()));
        }
        records.push(record(value, key).map_err(mistake)?);
    }
    Ok(Body {
        records,
        is_array: true,
    })
}

/// Where a part of a text begins; lines and columns count from 1.
fn place(text: &str, part: &str) -> (usize, usize) {
    let before = &text[..part.as_ptr() as usize - text.as_ptr() as usize];
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
    (line, column)
}

fn record<'a>(value: &'a str, pointer: Option<&[String]>) -> Result<Record<'a>, String> {
    let name = pointer::find(value, ["name"]).and_then(pointer::text);
    let key = pointer.map(|pointer| key(value, pointer)).transpose()?;
    Ok(Record { value, key, name })
}

/// The text that the pointer leads to: that of a string, or a number or boolean as it is spelt.
fn key(value: &str, pointer: &[String]) -> Result<String, String> {
    let shown = || {
        pointer
            .iter()
            .map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1")))
            .collect::<String>()
    };
    let found = pointer::find(value, pointer)
        .ok_or_else(|| format!("there is nothing at `{}`, where its key has to be", shown()))?;
    match found.as_bytes().first() {
        Some(b'"') => serde_json::from_str(found).map_err(|error| format!("its key at `{}`: {error}", shown())),
        Some(b'{' | b'[' | b'n') | None => Err(format!(
            "its key at `{}` is null, an object or an array; allowed: a string, a number or a boolean",
            shown()
        )),
        Some(_) => Ok(found.to_owned()),
    }
}

/// The elements of an array. Beyond the limit they are read and not kept, and one too many says so.
struct Elements(usize);

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            if elements.len() <= self.0 {
                elements.push(element);
            }
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pointer(text: &str) -> Vec<String> {
        text.split('/').skip(1).map(str::to_owned).collect()
    }

    /// The values and keys of a body's records.
    fn taken(body: &str, key: &str) -> Vec<(String, Option<String>)> {
        let key = pointer(key);
        let key = (!key.is_empty()).then_some(key.as_slice());
        let body = parse(body.as_bytes(), key, 3).unwrap();
        let record = |record: &Record<'_>| (record.value.to_owned(), record.key.clone());
        body.records.iter().map(record).collect()
    }

    #[track_caller]
    fn refused(body: &[u8], key: &str) -> String {
        let key = pointer(key);
        let key = (!key.is_empty()).then_some(key.as_slice());
        parse(body, key, 3).unwrap_err().to_string()
    }

    #[test]
    fn an_object_is_taken_with_every_byte_around_it() {
        let body = " {\"a\" : 1.50,\r\n \"a\":\"\\u00e9\" }\n";
        assert_eq!(taken(body, ""), [(body.to_owned(), None)]);
    }

    #[test]
    fn elements_are_taken_with_every_byte_inside_them() {
        let values = taken("[ {\"a\" : 1e2} ,{},\n{\"b\":[ ]}]", "");
        let values: Vec<&str> = values.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(values, ["{\"a\" : 1e2}", "{}", "{\"b\":[ ]}"]);
    }

    #[test]
    fn a_key_is_found_by_its_pointer() {
        let key = |body: &str, pointer: &str| taken(body, pointer)[0].1.clone().unwrap();
        assert_eq!(key(r#"{"product_id": 10}"#, "/product_id"), "10");
        assert_eq!(key(r#"{"product_id": 10.0}"#, "/product_id"), "10.0");
        assert_eq!(key(r#"{"id": "a\n\u00e9"}"#, "/id"), "a\né");
        assert_eq!(key(r#"{"id": ""}"#, "/id"), "");
        assert_eq!(key(r#"{"id": true}"#, "/id"), "true");
        assert_eq!(key(r#" {"a": {"b": [1, {"c": "x"}]}}"#, "/a/b/1/c"), "x");
        assert_eq!(key(r#"{"id": 1, "id": 2}"#, "/id"), "2", "the last one counts");
        assert_eq!(key(r#"{"i\u0064": 1}"#, "/id"), "1");
        assert_eq!(key(r#"{"": 1}"#, "/"), "1");
    }

    #[test]
    fn a_name_is_that_of_the_record_itself() {
        let name = |body: &'static str| parse(body.as_bytes(), None, 3).unwrap().records.remove(0).name;
        assert_eq!(name(r#"{"name": "Funny Farm"}"#).as_deref(), Some("Funny Farm"));
        assert_eq!(name(r#"[{"a": {"name": "x"}, "name": "y"}]"#).as_deref(), Some("y"));
        for none in [
            r#"{"a": {"name": "x"}}"#,
            r#"{"name": 5}"#,
            r#"{"name": null}"#,
            r#"{"name": "\ud800"}"#,
        ] {
            assert_eq!(name(none), None, "{none}");
        }
    }

    #[test]
    fn what_cannot_be_taken_is_told_with_its_place() {
        let bodies: [&[u8]; 19] = [
            b"",
            b" \n",
            b"{",
            b"{\"a\":}",
            b"{\"a\":1}\n{\"b\":2}",
            b"{\"a\":01}",
            b"{\"a\":\"\x01\"}",
            b"{a:1}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":1}\n\"\xff\"",
            b"5",
            b"\"text\"",
            b"nul",
            b"[]",
            b"[{}",
            b"[{},]",
            b"[{}] x",
            b"[{},\n 5]",
            b"[{},{},{},{}]",
        ];
        let mut answers: Vec<String> = bodies
            .iter()
            .map(|body| format!("{}\n  {}", body.escape_ascii(), refused(body, "")))
            .collect();
        let bodies: [&[u8]; 6] = [
            b"{\"ID\": 1}",
            b"{\"id\": null}",
            b"[{\"id\": 1},\n {\"id\": {}}]",
            b"{\"id\": [1]}",
            b"[{}]",
            b"{\"id\": \"\\ud800\"}",
        ];
        answers.extend(
            bodies
                .iter()
                .map(|body| format!("{} by /id\n  {}", body.escape_ascii(), refused(body, "/id"))),
        );
        insta::assert_snapshot!(answers.join("\n"));
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = 200_000;
        let body = format!("{{\"a\":{}1{}}}", "[".repeat(deep), "]".repeat(deep));
        assert_eq!(taken(&body, "")[0].0, body);
        assert_eq!(taken(&format!("[{body}]"), "")[0].0, body);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..64), key in any::<bool>()) {
            let pointer = pointer("/a/0");
            let _ = parse(&body, key.then_some(&pointer[..]), 3);
        }

        #[test]
        fn records_joined_to_an_array_come_out_as_they_were(numbers in prop::collection::vec(any::<i32>(), 1..=3), gap in "[ \n\t]{0,3}") {
            let records: Vec<String> = numbers.iter().map(|number| format!("{{{gap}\"id\"{gap}:{gap}{number}}}")).collect();
            let body = format!("{gap}[{gap}{}{gap}]{gap}", records.join(&format!("{gap},{gap}")));
            let expected: Vec<_> = records.into_iter().zip(&numbers).map(|(record, number)| (record, Some(number.to_string()))).collect();
            prop_assert_eq!(taken(&body, "/id"), expected);
        }
    }
}
