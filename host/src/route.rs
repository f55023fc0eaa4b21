//! Decides what is sent where for one record.
//!
//! A verdict names ports; the pipeline file bound each port to a destination. What comes out says which parts are the source record's
//! own and which are new bytes of the guest's answer, so nothing is copied here. Pure: no clock, no I/O.

use crate::plugin::contract::{Action, Document, Emission, Header, HeadersOut, Message, Part, PortKind};
use crate::reply::{Checked, Verdict};

/// A key or a value on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bytes<'a> {
    /// That of the source record.
    Source,
    Null,
    New(&'a [u8]),
}

/// A record to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    /// Place in the stage's list of destinations.
    pub(crate) destination: usize,
    pub(crate) key: Bytes<'a>,
    pub(crate) value: Bytes<'a>,
    /// The source record's headers come first.
    pub(crate) source_headers: bool,
    /// New headers, spans into the answer.
    pub(crate) headers: &'a [Header],
    /// None: the source record's.
    pub(crate) timestamp_ms: Option<i64>,
    /// None: by the key.
    pub(crate) partition: Option<i32>,
    /// The version that made it; these headers come last.
    pub(crate) stamp: &'a [(&'static str, String)],
}

/// Something for an output that is no topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Export<'a> {
    /// Place in the stage's list of exits.
    pub(crate) exit: usize,
    /// Its number among the exports of its record.
    pub(crate) number: usize,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// The key of the record that it comes from.
    pub(crate) source_key: Option<&'a [u8]>,
    /// The source record's headers come first.
    #[allow(dead_code, reason = "documents have no headers; other outputs do")]
    pub(crate) source_headers: bool,
    /// New headers, spans into the answer.
    #[allow(dead_code, reason = "documents have no headers; other outputs do")]
    pub(crate) headers: &'a [Header],
    /// None: the source record's.
    pub(crate) timestamp_ms: Option<i64>,
    /// What a port for documents says beyond a record.
    pub(crate) document: Option<Wanted<'a>>,
}

impl Export<'_> {
    pub(crate) fn kind(&self) -> PortKind {
        match self.document {
            Some(_) => PortKind::Document,
            None => PortKind::Message,
        }
    }
}

/// How a plugin wants a document written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) routing: Option<&'a str>,
    pub(crate) action: Action,
}

/// Where a port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Place in the list of topics.
    Topic(usize),
    /// Place in the list of exits.
    Exit(usize),
}

/// Where each port leads.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    by_port: Vec<Way>,
    stamp: Vec<(&'static str, String)>,
}

impl Routes {
    /// `by_port`: for each port of the plugin, in its order, where it leads. `stamp`: headers for everything that is sent to topics.
    pub(crate) fn new(by_port: Vec<Way>, stamp: Vec<(&'static str, String)>) -> Self {
        Self { by_port, stamp }
    }

    /// Where each port leads, in the plugin's order.
    pub(crate) fn ways(&self) -> &[Way] {
        &self.by_port
    }

    /// What a verdict sends to topics, in order.
    pub(crate) fn deliveries<'a>(
        &'a self,
        checked: &'a Checked,
        verdict: &Verdict<'a>,
    ) -> impl Iterator<Item = Delivery<'a>> + use<'a> {
        let forwarded = match verdict {
            Verdict::Forward { port } => self.forwarded(*port),
            _ => None,
        };
        let emissions = match verdict {
            Verdict::Emit(emissions) => *emissions,
            _ => &[],
        };
        let emitted = emissions.iter().filter_map(|emission| match emission {
            Emission::Message(message) => self.emitted(checked, message),
            // Ports of this kind lead to exits.
            Emission::Document(_) => None,
        });
        forwarded.into_iter().chain(emitted)
    }

    /// What a verdict sends to outputs that are no topics, in order. `key` and `value` are those of the source record.
    pub(crate) fn exports<'a>(
        &'a self,
        checked: &'a Checked,
        verdict: &Verdict<'a>,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> impl Iterator<Item = Export<'a>> + use<'a> {
        let part = move |part: &Part, source: Option<&'a [u8]>| match part {
            Part::Unchanged => source,
            Part::Replace(None) => None,
            Part::Replace(Some(span)) => Some(checked.bytes(*span)),
        };
        let forwarded = match verdict {
            Verdict::Forward { port } => self.exit(*port).map(|exit| Export {
                exit,
                number: 0,
                key,
                value,
                source_key: key,
                source_headers: true,
                headers: &[],
                timestamp_ms: None,
                document: None,
            }),
            _ => None,
        };
        let emissions = match verdict {
            Verdict::Emit(emissions) => *emissions,
            _ => &[],
        };
        let emitted = emissions.iter().filter_map(move |emission| match emission {
            Emission::Message(message) => {
                let (source_headers, headers) = headers_of(checked, message);
                Some(Export {
                    exit: self.exit(message.port as usize)?,
                    number: 0,
                    key: part(&message.key, key),
                    value: part(&message.value, value),
                    source_key: key,
                    source_headers,
                    headers,
                    timestamp_ms: message.timestamp_ms,
                    document: None,
                })
            }
            Emission::Document(document) => Some(Export {
                exit: self.exit(document.port as usize)?,
                number: 0,
                key,
                value: part(&document.body, value),
                source_key: key,
                source_headers: true,
                headers: &[],
                timestamp_ms: None,
                document: Some(wanted(checked, document)),
            }),
        });
        let numbered = |(number, export): (usize, Export<'a>)| Export { number, ..export };
        forwarded.into_iter().chain(emitted).enumerate().map(numbered)
    }

    fn topic(&self, port: usize) -> Option<usize> {
        match self.by_port[port] {
            Way::Topic(place) => Some(place),
            Way::Exit(_) => None,
        }
    }

    fn exit(&self, port: usize) -> Option<usize> {
        match self.by_port[port] {
            Way::Exit(place) => Some(place),
            Way::Topic(_) => None,
        }
    }

    fn forwarded(&self, port: usize) -> Option<Delivery<'_>> {
        Some(Delivery {
            destination: self.topic(port)?,
            key: Bytes::Source,
            value: Bytes::Source,
            source_headers: true,
            headers: &[],
            timestamp_ms: None,
            partition: None,
            stamp: &self.stamp,
        })
    }

    fn emitted<'a>(&'a self, checked: &'a Checked, message: &Message) -> Option<Delivery<'a>> {
        let part = |part: &Part| match part {
            Part::Unchanged => Bytes::Source,
            Part::Replace(None) => Bytes::Null,
            Part::Replace(Some(span)) => Bytes::New(checked.bytes(*span)),
        };
        let (source_headers, headers) = headers_of(checked, message);
        Some(Delivery {
            destination: self.topic(message.port as usize)?,
            key: part(&message.key),
            value: part(&message.value),
            source_headers,
            headers,
            timestamp_ms: message.timestamp_ms,
            // `Checked` has seen that it fits.
            partition: message.partition.and_then(|partition| i32::try_from(partition).ok()),
            stamp: &self.stamp,
        })
    }
}

/// Whether the source record's headers are sent, and what comes behind them.
fn headers_of<'a>(checked: &'a Checked, message: &Message) -> (bool, &'a [Header]) {
    match message.headers {
        HeadersOut::Unchanged => (true, &[]),
        HeadersOut::Append(range) => (true, checked.headers(range)),
        HeadersOut::Replace(range) => (false, checked.headers(range)),
    }
}

fn wanted<'a>(checked: &'a Checked, document: &Document) -> Wanted<'a> {
    // `Checked` has seen that they are UTF-8.
    let text = |span| std::str::from_utf8(checked.bytes(span)).unwrap_or_default();
    Wanted {
        id: document.id.map(text),
        routing: document.routing.map(text),
        action: document.action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::contract::{PortKind, Replies, Reply, Span};

    fn routed(reply: Reply, emissions: Vec<Emission>) -> Vec<(usize, String)> {
        let replies = Replies {
            data: b"keyvalue".to_vec(),
            replies: vec![reply],
            emissions,
            headers: Vec::new(),
        };
        let limits = crate::plugin::tests::patient().answer;
        let checked = Checked::new(replies, 1, &[PortKind::Message; 2], &limits).unwrap();
        let routes = Routes::new(vec![Way::Topic(7), Way::Topic(3)], Vec::new());
        routes
            .deliveries(&checked, &checked.verdict(0))
            .map(|delivery| (delivery.destination, format!("{:?} {:?}", delivery.key, delivery.value)))
            .collect()
    }

    fn message(port: u32, key: Part, value: Part) -> Emission {
        Emission::Message(Message {
            port,
            key,
            value,
            headers: HeadersOut::Unchanged,
            timestamp_ms: None,
            partition: None,
        })
    }

    #[test]
    fn a_forward_sends_the_source_record_to_the_port_s_destination() {
        assert_eq!(routed(Reply::Forward(1), vec![]), [(3, "Source Source".to_owned())]);
    }

    #[test]
    fn emissions_go_out_in_order_with_their_own_parts() {
        let key = Part::Replace(Some(Span { start: 0, len: 3 }));
        let emissions = vec![
            message(1, Part::Unchanged, Part::Replace(None)),
            message(0, key, Part::Unchanged),
        ];
        let expected = [
            (3, "Source Null".to_owned()),
            (7, "New([107, 101, 121]) Source".to_owned()),
        ];
        assert_eq!(routed(Reply::Emit(2), emissions), expected);
    }

    #[test]
    fn a_skip_sends_nothing() {
        assert_eq!(routed(Reply::Skip, vec![]), []);
    }
}
