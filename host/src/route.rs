//! Decides what is sent where for one record.
//!
//! A verdict names ports; the pipeline file bound each port to a destination. What comes out says which parts are the source record's
//! own and which are new bytes of the guest's answer, so nothing is copied here. Pure: no clock, no I/O.

use crate::plugin::contract::{Emission, Header, HeadersOut, Message, Part};
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

/// Which destination each port is bound to.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    by_port: Vec<usize>,
    stamp: Vec<(&'static str, String)>,
}

impl Routes {
    /// `by_port`: for each port of the plugin, in its order, a place in the list of destinations. `stamp`: headers for everything that is
    /// sent.
    pub(crate) fn new(by_port: Vec<usize>, stamp: Vec<(&'static str, String)>) -> Self {
        Self { by_port, stamp }
    }

    /// What a verdict sends, in order.
    pub(crate) fn deliveries<'a>(
        &'a self,
        checked: &'a Checked,
        verdict: &Verdict<'a>,
    ) -> impl Iterator<Item = Delivery<'a>> + use<'a> {
        let forwarded = match verdict {
            Verdict::Forward { port } => Some(self.forwarded(*port)),
            _ => None,
        };
        let emissions = match verdict {
            Verdict::Emit(emissions) => *emissions,
            _ => &[],
        };
        let emitted = emissions.iter().filter_map(|emission| match emission {
            Emission::Message(message) => Some(self.emitted(checked, message)),
            // No port of this kind can be bound yet, and a document to another kind of port was refused as malformed.
            Emission::Document(_) => None,
        });
        forwarded.into_iter().chain(emitted)
    }

    fn forwarded(&self, port: usize) -> Delivery<'_> {
        Delivery {
            destination: self.by_port[port],
            key: Bytes::Source,
            value: Bytes::Source,
            source_headers: true,
            headers: &[],
            timestamp_ms: None,
            partition: None,
            stamp: &self.stamp,
        }
    }

    fn emitted<'a>(&'a self, checked: &'a Checked, message: &Message) -> Delivery<'a> {
        let part = |part: &Part| match part {
            Part::Unchanged => Bytes::Source,
            Part::Replace(None) => Bytes::Null,
            Part::Replace(Some(span)) => Bytes::New(checked.bytes(*span)),
        };
        let (source_headers, headers): (bool, &[Header]) = match message.headers {
            HeadersOut::Unchanged => (true, &[]),
            HeadersOut::Append(range) => (true, checked.headers(range)),
            HeadersOut::Replace(range) => (false, checked.headers(range)),
        };
        Delivery {
            destination: self.by_port[message.port as usize],
            key: part(&message.key),
            value: part(&message.value),
            source_headers,
            headers,
            timestamp_ms: message.timestamp_ms,
            // `Checked` has seen that it fits.
            partition: message.partition.and_then(|partition| i32::try_from(partition).ok()),
            stamp: &self.stamp,
        }
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
        let routes = Routes::new(vec![7, 3], Vec::new());
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
