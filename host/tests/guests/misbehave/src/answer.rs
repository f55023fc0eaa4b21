//! The misdeeds of a whole batch: an answer that breaks a rule of `types.wit`, by the text of one
//! value in it.

use crate::bindings::wasmill::plugin::types::{
    Action, Document, Emission, Header, HeadersOut, Message, Part, Replies, Reply, Span,
};

/// Far outside, and so that start and length add up to 4 in 32 bits.
const OUTSIDE: Span = Span {
    start: u32::MAX - 3,
    len: 8,
};

/// Bytes that are no UTF-8.
const NOT_UTF8: [u8; 2] = [0xff, 0xfe];

pub(crate) fn spoil(value: &str, replies: &mut Replies) {
    match value {
        "short" => {
            replies.replies.pop();
        }
        "long" => replies.replies.push(Reply::Skip),
        "span" => last(replies, Reply::Reject(OUTSIDE)),
        "value-span" => emit(
            replies,
            Emission::Message(Message {
                value: Part::Replace(Some(OUTSIDE)),
                ..message()
            }),
        ),
        "reason-utf8" => {
            let reason = write(replies, &NOT_UTF8);
            last(replies, Reply::Reject(reason));
        }
        "port" => last(replies, Reply::Forward(99)),
        "emit-count" => last(replies, Reply::Emit(5)),
        "leftover" => replies.emissions.push(Emission::Message(message())),
        "kind" => emit(replies, Emission::Document(document())),
        "header-utf8" => emit_with_header(replies, &NOT_UTF8),
        "header-nul" => emit_with_header(replies, b"a\0b"),
        "headers-range" => {
            let range = Span {
                start: replies.headers.len() as u32,
                len: 3,
            };
            emit(
                replies,
                Emission::Message(Message {
                    headers: HeadersOut::Append(range),
                    ..message()
                }),
            );
        }
        // 80 times the same 900 KB: the answer is small, what it sends is not.
        "repeated" => {
            let value = write(replies, &[b'x'; 900_000]);
            replies.emissions.extend((0..80).map(|_| {
                Emission::Message(Message {
                    value: Part::Replace(Some(value)),
                    ..message()
                })
            }));
            last(replies, Reply::Emit(80));
        }
        "huge" => replies.data.resize(100_000_000, b'x'),
        _ => {}
    }
}

/// Puts a reply in the place of the batch's last.
fn last(replies: &mut Replies, reply: Reply) {
    replies.replies.pop();
    replies.replies.push(reply);
}

fn emit(replies: &mut Replies, emission: Emission) {
    replies.emissions.push(emission);
    last(replies, Reply::Emit(1));
}

fn emit_with_header(replies: &mut Replies, name: &[u8]) {
    let name = write(replies, name);
    let range = Span {
        start: replies.headers.len() as u32,
        len: 1,
    };
    replies.headers.push(Header { name, value: None });
    emit(
        replies,
        Emission::Message(Message {
            headers: HeadersOut::Append(range),
            ..message()
        }),
    );
}

fn write(replies: &mut Replies, bytes: &[u8]) -> Span {
    let start = replies.data.len() as u32;
    replies.data.extend_from_slice(bytes);
    Span {
        start,
        len: bytes.len() as u32,
    }
}

/// A message that changes nothing.
fn message() -> Message {
    Message {
        port: 0,
        key: Part::Unchanged,
        value: Part::Unchanged,
        headers: HeadersOut::Unchanged,
        timestamp_ms: None,
        partition: None,
    }
}

/// A document, for a port that is for messages.
fn document() -> Document {
    Document {
        port: 0,
        id: None,
        routing: None,
        action: Action::Index,
        body: Part::Unchanged,
    }
}
