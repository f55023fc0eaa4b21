//! One record of a batch, borrowed from the batch.
//!
//! Reading a record copies nothing and allocates nothing: keys, values and headers are slices of
//! the batch's one buffer. The host has made the spans, so a span out of range is a bug of the host
//! and panics.

use serde::Deserialize;

use crate::Rejection;
use crate::bindings::wasmill::plugin::types;
use crate::json::Pointer;

/// One record as Kafka gave it.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    batch: &'a types::Batch,
    entry: &'a types::Entry,
}

impl<'a> Record<'a> {
    pub(crate) fn new(batch: &'a types::Batch, entry: &'a types::Entry) -> Record<'a> {
        Record { batch, entry }
    }

    /// The topic that the record was read from.
    pub fn topic(&self) -> &'a str {
        &self.batch.topic
    }

    /// The partition of that topic.
    pub fn partition(&self) -> u32 {
        self.batch.partition
    }

    /// The record's offset in its partition.
    pub fn offset(&self) -> u64 {
        self.entry.offset
    }

    /// Milliseconds since 1970-01-01T00:00:00Z, negative before it, or none where the record has no
    /// timestamp.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.entry.timestamp_ms
    }

    /// The key; `None` is null, which an empty key is not.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.entry.key.map(|span| bytes(self.batch, span))
    }

    /// The value; `None` is null (a tombstone, where the topic is compacted), which an empty value
    /// is not.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.entry.value.map(|span| bytes(self.batch, span))
    }

    /// The headers in their order; a name can come several times.
    pub fn headers(&self) -> Headers<'a> {
        let headers = self.entry.headers;
        Headers {
            batch: self.batch,
            rest: self.batch.headers[range(headers)].iter(),
        }
    }

    /// The last header of this name, which is the one that counts by Kafka's convention.
    pub fn header(&self, name: &str) -> Option<Header<'a>> {
        self.headers().rfind(|header| header.name == name.as_bytes())
    }

    /// The value read as JSON. Fields of type `&str` refuse text with escapes in it;
    /// [`Text`](crate::Text) borrows where it can and takes any.
    ///
    /// # Errors
    /// The value is null, or not the JSON that `T` is; the rejection says so in the parser's words.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, Rejection> {
        serde_json::from_slice(self.json_text()?).map_err(not_the_json)
    }

    /// The text of the value at a place of the JSON that the value is, as it is spelled there; `None` where there is no such place.
    ///
    /// # Errors
    /// The value is null or not JSON; the rejection says so in the parser's words.
    pub fn at(&self, pointer: &Pointer) -> Result<Option<&'a str>, Rejection> {
        pointer.find(self.json_text()?).map_err(not_the_json)
    }

    fn json_text(&self) -> Result<&'a [u8], Rejection> {
        self.value().ok_or_else(|| Rejection::new("the value is null"))
    }
}

fn not_the_json(error: serde_json::Error) -> Rejection {
    Rejection::new(format!("the value is not the JSON that is read here: {error}"))
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// UTF-8 by convention only.
    pub name: &'a [u8],
    /// `None` is null, which an empty value is not.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record in their order.
#[derive(Clone)]
pub struct Headers<'a> {
    batch: &'a types::Batch,
    rest: std::slice::Iter<'a, types::Header>,
}

impl<'a> Headers<'a> {
    fn header(&self, header: &types::Header) -> Header<'a> {
        Header {
            name: bytes(self.batch, header.name),
            value: header.value.map(|span| bytes(self.batch, span)),
        }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.rest.next().map(|header| self.header(header))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl<'a> DoubleEndedIterator for Headers<'a> {
    fn next_back(&mut self) -> Option<Header<'a>> {
        self.rest.next_back().map(|header| self.header(header))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn bytes(batch: &types::Batch, span: types::Span) -> &[u8] {
    &batch.data[range(span)]
}

fn range(span: types::Span) -> std::ops::Range<usize> {
    let start = span.start as usize;
    start..start + span.len as usize
}
