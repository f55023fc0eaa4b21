//! Reads `input.jsonl`: records of a test or an example, and documents that are there before them, one JSON object a line (`examples/README.md`
//! has the shape).
//!
//! A value that is an object, array, number or boolean is sent as the bytes of its text in the file, so what a plugin sees is what the file
//! says, down to the spaces. Pure: no clock, no I/O.

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

/// A record to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fixture {
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp_ms: Option<i64>,
}

/// A document that is in its index before the first record is sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) index: String,
    pub(crate) id: String,
    pub(crate) document: Value,
}

/// What a file holds, each in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fixtures {
    pub(crate) records: Vec<Fixture>,
    pub(crate) documents: Vec<Stored>,
}

/// Tells a document from a record.
#[derive(Deserialize)]
struct Kind {
    index: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    topic: String,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    headers: Vec<(String, Option<&'a RawValue>)>,
    #[serde(default)]
    timestamp: Option<i64>,
}

const RECORD: &str = r#"{"topic": .., "key": .., "value": .., "headers": [[NAME, VALUE]], "timestamp": MILLISECONDS}"#;
const DOCUMENT: &str = r#"{"index": .., "id": .., "document": {..}}"#;

/// Reads all lines; empty ones are passed over.
///
/// # Errors
/// The first line that is neither a record nor a document, with its number.
pub(crate) fn parse(text: &str) -> Result<Fixtures> {
    let mut fixtures = Fixtures::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = || format!("line {}", index + 1);
        if serde_json::from_str(line).is_ok_and(|kind: Kind| kind.index.is_some()) {
            fixtures.documents.push(read(line, DOCUMENT).with_context(at)?);
        } else {
            fixtures.records.push(record(line).with_context(at)?);
        }
    }
    Ok(fixtures)
}

fn read<'a, T: Deserialize<'a>>(line: &'a str, wanted: &str) -> Result<T> {
    serde_json::from_str(line).map_err(|error| {
        let (text, column) = (error.to_string(), error.column());
        // The parser sees one line, so it would always name the first.
        let text = text.trim_end_matches(&format!(" at line 1 column {column}"));
        anyhow!("column {column}: {text}; wanted {wanted}")
    })
}

fn record(line: &str) -> Result<Fixture> {
    let line: Line<'_> = read(line, RECORD)?;
    let headers = line.headers.into_iter().map(|(name, value)| Ok((name, bytes(value)?)));
    Ok(Fixture {
        topic: line.topic,
        key: bytes(line.key)?,
        value: bytes(line.value)?,
        headers: headers.collect::<Result<_>>()?,
        timestamp_ms: line.timestamp,
    })
}

fn bytes(raw: Option<&RawValue>) -> Result<Option<Vec<u8>>> {
    let Some(text) = raw.map(RawValue::get).filter(|text| *text != "null") else {
        return Ok(None);
    };
    if text.starts_with('"') {
        let characters: String = serde_json::from_str(text).context("read a string")?;
        return Ok(Some(characters.into_bytes()));
    }
    Ok(Some(text.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_text_and_strings_lose_their_quotes() {
        let text = r#"{"topic":"t","key":"k\n","value":{ "a": 1.50 },"headers":[["h",null],["h",7]],"timestamp":5}"#;
        let records = parse(&format!("{text}\n\n{{\"topic\":\"u\"}}\n")).unwrap().records;
        let expected = Fixture {
            topic: "t".to_owned(),
            key: Some(b"k\n".to_vec()),
            value: Some(br#"{ "a": 1.50 }"#.to_vec()),
            headers: vec![("h".to_owned(), None), ("h".to_owned(), Some(b"7".to_vec()))],
            timestamp_ms: Some(5),
        };
        assert_eq!(records[0], expected);
        assert_eq!((records[1].key.as_ref(), records[1].value.as_ref()), (None, None));
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let error = parse("{\"topic\":\"t\"}\n{\"tpoic\":1}").unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("line 2") && text.contains("unknown field `tpoic`"),
            "{text}"
        );
    }

    #[test]
    fn a_line_with_an_index_is_a_document() {
        let text = r#"{"index":"i","id":"1","document":{"a":1.0}}"#;
        let fixtures = parse(text).unwrap();
        let stored = Stored {
            index: "i".to_owned(),
            id: "1".to_owned(),
            document: serde_json::json!({"a": 1.0}),
        };
        assert_eq!((fixtures.documents, fixtures.records), (vec![stored], vec![]));
        let text = format!("{:#}", parse(r#"{"index":"i","key":"1"}"#).unwrap_err());
        assert!(
            text.starts_with("line 1: column 18: unknown field `key`") && text.ends_with(DOCUMENT),
            "{text}"
        );
    }
}
