//! Unpacks an answer into plain owned replies.
//!
//! Every rule of `types.wit` for what a plugin returns is checked, and a broken one panics: the
//! host would make it a fault.

use super::Input;
use crate::Port;
use crate::bindings::wasmill::plugin::types::{self, Action, Batch, Emission, HeadersOut, Part, Replies, Span};

/// What a plugin answered for one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing is sent.
    Skipped,
    /// The record is sent on as it is, to the port of this name.
    Forwarded(String),
    /// This is sent.
    Sent(Vec<Sent>),
    /// The record cannot be processed, for this reason.
    Rejected(String),
    /// The record cannot be processed now, for this reason.
    Retry(String),
}

impl Reply {
    /// The reply that forwards to the port of this name.
    pub fn forwarded(port: &str) -> Reply {
        Reply::Forwarded(port.to_owned())
    }

    /// The reply that rejects for this reason.
    pub fn rejected(reason: &str) -> Reply {
        Reply::Rejected(reason.to_owned())
    }

    /// The one message that is sent.
    ///
    /// # Panics
    /// Something else was answered.
    pub fn into_message(self) -> Message {
        match self {
            Reply::Sent(mut sent) if sent.len() == 1 => match sent.remove(0) {
                Sent::Message(message) => message,
                Sent::Document(document) => panic!("not a message but {document:?}"),
            },
            other => panic!("not one message but {other:?}"),
        }
    }
}

/// One thing that is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// To a topic.
    Message(Message),
    /// To Elasticsearch.
    Document(Document),
}

/// A message as it arrives: what it takes over from the record is filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The name of its port.
    pub port: String,
    /// Its key; `None` is null.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is null.
    pub value: Option<Vec<u8>>,
    /// Its headers, in their order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Its timestamp, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: Option<i64>,
    /// Its partition; `None` is chosen by the hash of the key.
    pub partition: Option<u32>,
}

impl Message {
    /// The value as text.
    ///
    /// # Panics
    /// The value is null or not UTF-8.
    pub fn text(&self) -> &str {
        match self.value.as_deref().map(std::str::from_utf8) {
            Some(Ok(text)) => text,
            other => panic!("the value is not text: {other:?}"),
        }
    }
}

/// A document as it arrives: what it takes over from the record is filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The name of its port.
    pub port: String,
    /// Its id; `None` is the record's key, or its position.
    pub id: Option<String>,
    /// What it is routed by; `None` is its id.
    pub routing: Option<String>,
    /// What to do with it.
    pub action: Action,
    /// Its body.
    pub body: Option<Vec<u8>>,
}

pub(super) fn unpack(answer: &Replies, batch: &Batch, records: &[Input], ports: &[Port]) -> Vec<Reply> {
    assert_eq!(answer.replies.len(), batch.entries.len(), "one reply per record");
    let unpacker = Unpacker { answer, ports };
    let mut emissions = answer.emissions.as_slice();
    let mut replies = Vec::new();
    for (reply, record) in answer.replies.iter().zip(records) {
        let reply = match reply {
            types::Reply::Skip => Reply::Skipped,
            types::Reply::Forward(port) => Reply::Forwarded(unpacker.message_port(*port)),
            types::Reply::Emit(count) => {
                let (taken, rest) = emissions.split_at(*count as usize);
                emissions = rest;
                Reply::Sent(taken.iter().map(|emission| unpacker.sent(emission, record)).collect())
            }
            types::Reply::Reject(reason) => Reply::Rejected(unpacker.text(*reason)),
            types::Reply::Retry(reason) => Reply::Retry(unpacker.text(*reason)),
        };
        let is_last = matches!(reply, Reply::Retry(_));
        replies.push(reply);
        if is_last {
            break;
        }
    }
    assert!(emissions.is_empty(), "{} emissions are left over", emissions.len());
    replies
}

struct Unpacker<'a> {
    answer: &'a Replies,
    ports: &'a [Port],
}

impl Unpacker<'_> {
    fn sent(&self, emission: &Emission, record: &Input) -> Sent {
        match emission {
            Emission::Message(message) => Sent::Message(Message {
                port: self.message_port(message.port),
                key: self.part(message.key, record.key.as_deref()),
                value: self.part(message.value, record.value.as_deref()),
                headers: self.headers(message.headers, record),
                timestamp_ms: message.timestamp_ms.or(record.timestamp_ms),
                partition: message.partition,
            }),
            Emission::Document(document) => Sent::Document(Document {
                port: self.document_port(document.port),
                id: document.id.map(|id| self.text(id)),
                routing: document.routing.map(|routing| self.text(routing)),
                action: document.action,
                body: self.part(document.body, record.value.as_deref()),
            }),
        }
    }

    fn message_port(&self, number: u32) -> String {
        match self.ports.get(number as usize) {
            Some(Port::Message(_)) => self.ports[number as usize].name().to_owned(),
            other => panic!("port {number} is not a message port but {other:?}"),
        }
    }

    fn document_port(&self, number: u32) -> String {
        match self.ports.get(number as usize) {
            Some(Port::Document(_)) => self.ports[number as usize].name().to_owned(),
            other => panic!("port {number} is not a document port but {other:?}"),
        }
    }

    fn part(&self, part: Part, source: Option<&[u8]>) -> Option<Vec<u8>> {
        match part {
            Part::Unchanged => source.map(<[u8]>::to_vec),
            Part::Replace(span) => span.map(|span| self.bytes(span)),
        }
    }

    fn headers(&self, headers: HeadersOut, record: &Input) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        match headers {
            HeadersOut::Unchanged => record.headers.clone(),
            HeadersOut::Append(range) => [record.headers.clone(), self.table(range)].concat(),
            HeadersOut::Replace(range) => self.table(range),
        }
    }

    fn table(&self, range: Span) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let headers = slice(&self.answer.headers, range);
        headers
            .iter()
            .map(|header| {
                let name = self.text(header.name);
                assert!(!name.contains('\0'), "the header name {name:?} contains a NUL");
                (name.into_bytes(), header.value.map(|value| self.bytes(value)))
            })
            .collect()
    }

    fn text(&self, span: Span) -> String {
        match String::from_utf8(self.bytes(span)) {
            Ok(text) => text,
            Err(error) => panic!("a text is not UTF-8: {error}"),
        }
    }

    fn bytes(&self, span: Span) -> Vec<u8> {
        slice(&self.answer.data, span).to_vec()
    }
}

/// Panics where the span reaches beyond the table.
fn slice<T>(table: &[T], span: Span) -> &[T] {
    let start = span.start as usize;
    &table[start..start + span.len as usize]
}
