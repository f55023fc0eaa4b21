//! Reads `input.jsonl`: records of a test or an example, one JSON object a line (`examples/README.md` has the shape).
//!
//! A value that is an object, array, number or boolean is sent as the bytes of its text in the file, so what a plugin sees is what the file
//! says, down to the spaces. Pure: no clock, no I/O.

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;
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

/// Reads all lines; empty ones are passed over.
///
/// # Errors
/// The first line that is not a record, with its number.
pub(crate) fn parse(text: &str) -> Result<Vec<Fixture>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| record(line).with_context(|| format!("line {}", index + 1)))
        .collect()
}

fn record(line: &str) -> Result<Fixture> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|error| {
        let (text, column) = (error.to_string(), error.column());
        // The parser sees one line, so it would always name the first.
        let text = text.trim_end_matches(&format!(" at line 1 column {column}"));
        anyhow!("column {column}: {text}; wanted {{\"topic\": .., \"key\": .., \"value\": .., \"headers\": [[NAME, VALUE]], \"timestamp\": MILLISECONDS}}")
    })?;
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
        let records = parse(&format!("{text}\n\n{{\"topic\":\"u\"}}\n")).unwrap();
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
}
