//! What a record sends: the builders that a plugin sees.
//!
//! A builder writes bytes straight into the answer to the batch and becomes an emission when it is
//! sent. One that is dropped unsent sends nothing. Nothing here allocates, but for the growth of
//! buffers that all records of a batch share.

use serde::Serialize;

use crate::answer::{Answer, span};
use crate::bindings::wasmill::plugin::types::{Action, Document, Emission, Header, HeadersOut, Message, Part, Span};
use crate::{DocumentPort, MessagePort, Port, Rejection};

/// Where a plugin puts what it wants sent for one record.
pub struct Output<'a> {
    answer: &'a mut Answer,
    ports: &'static [Port],
}

impl<'a> Output<'a> {
    pub(crate) fn new(answer: &'a mut Answer, ports: &'static [Port]) -> Output<'a> {
        Output { answer, ports }
    }

    /// Sends the record on as it is. Its bytes do not cross the border again.
    ///
    /// # Panics
    /// The port is not one of the plugin's [`PORTS`](crate::Processor::PORTS).
    pub fn forward(&mut self, port: MessagePort) {
        self.message(port).send();
    }

    /// Begins a message, which has the key, value, headers and timestamp of the record until the
    /// builder is told otherwise.
    ///
    /// # Panics
    /// The port is not one of the plugin's [`PORTS`](crate::Processor::PORTS).
    pub fn message(&mut self, port: MessagePort) -> MessageBuilder<'_> {
        let message = Message {
            port: self.number(Port::Message(port)),
            key: Part::Unchanged,
            value: Part::Unchanged,
            headers: HeadersOut::Unchanged,
            timestamp_ms: None,
            partition: None,
        };
        MessageBuilder {
            answer: self.answer,
            message,
        }
    }

    /// Begins a document, whose body is the record's value until the builder is told otherwise.
    ///
    /// # Panics
    /// The port is not one of the plugin's [`PORTS`](crate::Processor::PORTS).
    pub fn document(&mut self, port: DocumentPort, action: Action) -> DocumentBuilder<'_> {
        let document = Document {
            port: self.number(Port::Document(port)),
            id: None,
            routing: None,
            action,
            body: Part::Unchanged,
        };
        DocumentBuilder {
            answer: self.answer,
            document,
        }
    }

    /// A number without its port in the list would be a malformed answer, and a fault that names no
    /// port.
    fn number(&self, port: Port) -> u32 {
        let number = port.number();
        assert!(
            self.ports.get(number as usize) == Some(&port),
            "port `{}` ({number}) is not in the PORTS of the plugin",
            port.name()
        );
        number
    }
}

/// A message for a topic.
#[must_use = "a message is sent by `send`"]
pub struct MessageBuilder<'o> {
    answer: &'o mut Answer,
    message: Message,
}

impl MessageBuilder<'_> {
    /// Sets the key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.message.key = Part::Replace(Some(self.answer.write(key.as_ref())));
        self
    }

    /// Sets the key to null.
    pub fn null_key(mut self) -> Self {
        self.message.key = Part::Replace(None);
        self
    }

    /// Sets the value.
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.message.value = Part::Replace(Some(self.answer.write(value.as_ref())));
        self
    }

    /// Sets the value to these pieces, one after the other, without a copy of the whole in between.
    pub fn value_of<'p>(mut self, pieces: impl IntoIterator<Item = &'p [u8]>) -> Self {
        self.message.value = Part::Replace(Some(write_pieces(self.answer, pieces)));
        self
    }

    /// Sets the value to null: a tombstone, where the topic is compacted.
    pub fn null_value(mut self) -> Self {
        self.message.value = Part::Replace(None);
        self
    }

    /// Sets the value to `value` as JSON.
    ///
    /// # Errors
    /// `value` has no form in JSON (a map whose keys are not strings, say); the message is not sent
    /// then.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, Rejection> {
        self.message.value = Part::Replace(Some(write_json(self.answer, value)?));
        Ok(self)
    }

    /// Appends a header, after those of the record unless
    /// [`replace_headers`](Self::replace_headers) came before.
    ///
    /// # Panics
    /// The name contains a NUL character, which the host takes from no plugin.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = self.answer.write(value.as_ref());
        self.push_header(name, Some(value));
        self
    }

    /// Appends a header whose value is null.
    ///
    /// # Panics
    /// As [`header`](Self::header).
    pub fn null_header(mut self, name: &str) -> Self {
        self.push_header(name, None);
        self
    }

    /// Leaves out all headers so far, those of the record too.
    pub fn replace_headers(mut self) -> Self {
        let end = self.answer.replies.headers.len();
        self.message.headers = HeadersOut::Replace(span(end, end));
        self
    }

    /// Sets the timestamp, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.message.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Sets the partition, which is else chosen by the hash of the key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.message.partition = Some(partition);
        self
    }

    /// Sends the message, if `process` returns `Ok`.
    pub fn send(self) {
        self.answer.replies.emissions.push(Emission::Message(self.message));
    }

    fn push_header(&mut self, name: &str, value: Option<Span>) {
        assert!(!name.contains('\0'), "the header name {name:?} contains a NUL");
        let name = self.answer.write(name.as_bytes());
        let headers = &mut self.answer.replies.headers;
        // This builder alone can push headers while it lives, so those of one message are neighbours.
        match &mut self.message.headers {
            HeadersOut::Unchanged => {
                self.message.headers = HeadersOut::Append(span(headers.len(), headers.len() + 1));
            }
            HeadersOut::Append(range) | HeadersOut::Replace(range) => range.len += 1,
        }
        headers.push(Header { name, value });
    }
}

/// A document for Elasticsearch.
#[must_use = "a document is sent by `send`"]
pub struct DocumentBuilder<'o> {
    answer: &'o mut Answer,
    document: Document,
}

impl DocumentBuilder<'_> {
    /// Sets the document's id, which is else the record's key, or its position where the key is
    /// null.
    pub fn id(mut self, id: &str) -> Self {
        self.document.id = Some(self.answer.write(id.as_bytes()));
        self
    }

    /// Sets what the document is routed by, which is else its id.
    pub fn routing(mut self, routing: &str) -> Self {
        self.document.routing = Some(self.answer.write(routing.as_bytes()));
        self
    }

    /// Sets the body: one JSON object. [`Action::Delete`] needs none.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.document.body = Part::Replace(Some(self.answer.write(body.as_ref())));
        self
    }

    /// Sets the body to `body` as JSON, which must be an object.
    ///
    /// # Errors
    /// `body` has no form in JSON; the document is not sent then.
    pub fn json<T: Serialize + ?Sized>(mut self, body: &T) -> Result<Self, Rejection> {
        self.document.body = Part::Replace(Some(write_json(self.answer, body)?));
        Ok(self)
    }

    /// Sends the document, if `process` returns `Ok`.
    pub fn send(self) {
        self.answer.replies.emissions.push(Emission::Document(self.document));
    }
}

fn write_pieces<'p>(answer: &mut Answer, pieces: impl IntoIterator<Item = &'p [u8]>) -> Span {
    let start = answer.replies.data.len();
    for piece in pieces {
        answer.replies.data.extend_from_slice(piece);
    }
    answer.span_from(start)
}

fn write_json<T: Serialize + ?Sized>(answer: &mut Answer, value: &T) -> Result<Span, Rejection> {
    let start = answer.replies.data.len();
    if let Err(error) = serde_json::to_writer(&mut answer.replies.data, value) {
        answer.replies.data.truncate(start);
        return Err(Rejection::new(format!("what is sent has no form in JSON: {error}")));
    }
    Ok(answer.span_from(start))
}
