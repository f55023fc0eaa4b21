//! Checks what a guest answered before anything is done with it.
//!
//! An answer is foreign bytes: every span, count, port and text is checked here, once, and what comes out can be used without a further
//! thought. An answer that breaks any rule is a fault of the whole call: which of its replies could be trusted is not knowable.
//! Pure: no clock, no I/O.

use crate::fault::{Fault, Kind};
use crate::plugin::contract::{Emission, Header, HeadersOut, Message, Part, PortKind, Replies, Reply, Span};
use crate::plugin::limits::{AnswerLimits, Limit};

/// The longest reason that is kept; Kafka headers are for people, not for dumps.
const REASON_BYTES_MAX: usize = 4096;
const NOT_UTF8: &str = "is not UTF-8";

/// The verdict on one record, with everything in it checked.
#[derive(Debug, Clone)]
pub(crate) enum Verdict<'a> {
    Skip,
    Forward { port: usize },
    Emit(&'a [Emission]),
    Reject(&'a str),
    Retry(&'a str),
}

/// An answer that keeps all rules.
#[derive(Debug)]
pub(crate) struct Checked {
    replies: Replies,
    /// Where each reply's emissions begin.
    starts: Vec<usize>,
}

impl Checked {
    /// Checks an answer to a batch of `expected` records by a plugin with these ports.
    ///
    /// # Errors
    /// The first rule or limit that is broken, in words for the plugin's author.
    pub(crate) fn new(
        replies: Replies,
        expected: usize,
        ports: &[PortKind],
        limits: &AnswerLimits,
    ) -> Result<Self, Fault> {
        check_sizes(&replies, limits)?;
        check(&replies, expected, ports)
            .map(|starts| Self { replies, starts })
            .map_err(|text| Fault::new(Kind::Malformed, text))
    }

    pub(crate) fn len(&self) -> usize {
        self.replies.replies.len()
    }

    /// What the answer holds, in bytes.
    pub(crate) fn size(&self) -> usize {
        let Replies {
            replies,
            emissions,
            headers,
            data,
        } = &self.replies;
        size_of_val(&**replies)
            + size_of_val(&**emissions)
            + size_of_val(&**headers)
            + size_of_val(&*self.starts)
            + data.len()
    }

    /// The verdict on the record at `index`.
    pub(crate) fn verdict(&self, index: usize) -> Verdict<'_> {
        match self.replies.replies[index] {
            Reply::Skip => Verdict::Skip,
            Reply::Forward(port) => Verdict::Forward { port: port as usize },
            Reply::Emit(count) => {
                let start = self.starts[index];
                Verdict::Emit(&self.replies.emissions[start..start + count as usize])
            }
            Reply::Reject(reason) => Verdict::Reject(self.reason(reason)),
            Reply::Retry(reason) => Verdict::Retry(self.reason(reason)),
        }
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        slice(&self.replies.data, span).unwrap_or_default()
    }

    /// A range of the header table.
    pub(crate) fn headers(&self, range: Span) -> &[Header] {
        slice(&self.replies.headers, range).unwrap_or_default()
    }

    fn reason(&self, span: Span) -> &str {
        kept_reason(self.bytes(span)).unwrap_or_default()
    }
}

/// The part of a reason that is kept; none when it is not UTF-8. What is behind it is not looked at.
fn kept_reason(bytes: &[u8]) -> Option<&str> {
    // A character that begins in the kept part ends here at the latest.
    let looked_at = &bytes[..bytes.len().min(REASON_BYTES_MAX + 3)];
    let text = match std::str::from_utf8(looked_at) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && looked_at.len() < bytes.len() => {
            std::str::from_utf8(&looked_at[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    Some(&text[..text.floor_char_boundary(REASON_BYTES_MAX)])
}

fn slice<T>(of: &[T], span: Span) -> Option<&[T]> {
    let start = span.start as usize;
    of.get(start..start.checked_add(span.len as usize)?)
}

fn check_sizes(replies: &Replies, limits: &AnswerLimits) -> Result<(), Fault> {
    let within = |found: usize, of: &str, most: usize, limit: Limit| {
        if found <= most {
            return Ok(());
        }
        let text = format!("answered {found} {of}, the limit is {most} ({limit})");
        Err(Fault::new(Kind::Malformed, text).at(limit))
    };
    within(replies.data.len(), "bytes", limits.bytes, Limit::AnswerBytes)?;
    within(
        replies.emissions.len(),
        "emissions",
        limits.emissions,
        Limit::AnswerEmissions,
    )?;
    within(replies.headers.len(), "headers", limits.headers, Limit::AnswerHeaders)?;
    // Many headers and ids may be the same bytes of `data`, but each of them is looked at.
    let mut pointed_to = 0_usize;
    for header in &replies.headers {
        // Both lengths are 32 bits wide, and whether there are such bytes is checked later.
        let bytes = header.name.len as usize + header.value.map_or(0, |value| value.len as usize);
        within(bytes, "bytes in one header", limits.header_bytes, Limit::HeaderBytes)?;
        pointed_to = pointed_to.saturating_add(bytes);
    }
    for emission in &replies.emissions {
        if let Emission::Document(document) = emission {
            for text in [document.id, document.routing].into_iter().flatten() {
                pointed_to = pointed_to.saturating_add(text.len as usize);
            }
        }
    }
    let of = "bytes in all headers, ids and routings together";
    within(pointed_to, of, limits.bytes, Limit::AnswerBytes)
}

fn check(replies: &Replies, expected: usize, ports: &[PortKind]) -> Result<Vec<usize>, String> {
    let (answered, emitted) = (replies.replies.len(), replies.emissions.len());
    if answered != expected {
        return Err(format!("answered {answered} replies to {expected} records"));
    }
    for (index, header) in replies.headers.iter().enumerate() {
        check_header(replies, header).map_err(|text| format!("header {index}: {text}"))?;
    }
    let mut starts = Vec::with_capacity(answered);
    let mut taken = 0_usize;
    for (index, reply) in replies.replies.iter().enumerate() {
        starts.push(taken);
        match *reply {
            Reply::Skip => {}
            Reply::Forward(port) => {
                check_port(port, PortKind::Message, ports).map_err(|text| format!("reply {index}: {text}"))?
            }
            Reply::Emit(count) => taken = taken.saturating_add(count as usize),
            Reply::Reject(span) | Reply::Retry(span) => {
                check_reason(replies, span).map_err(|text| format!("reply {index}: reason {text}"))?;
            }
        }
    }
    if taken != emitted {
        return Err(format!("its replies take {taken} emissions, it answered {emitted}"));
    }
    for (index, emission) in replies.emissions.iter().enumerate() {
        check_emission(replies, emission, ports).map_err(|text| format!("emission {index}: {text}"))?;
    }
    Ok(starts)
}

fn check_header(replies: &Replies, header: &Header) -> Result<(), String> {
    let name = check_text(replies, header.name).map_err(|text| format!("name {text}"))?;
    if name.contains('\0') {
        return Err("name contains a NUL".to_owned());
    }
    if let Some(value) = header.value {
        check_bytes(replies, value).map_err(|text| format!("value {text}"))?;
    }
    Ok(())
}

fn check_emission(replies: &Replies, emission: &Emission, ports: &[PortKind]) -> Result<(), String> {
    match emission {
        Emission::Message(message) => check_message(replies, message, ports),
        Emission::Document(document) => {
            check_port(document.port, PortKind::Document, ports)?;
            for text in [document.id, document.routing].into_iter().flatten() {
                check_text(replies, text)?;
            }
            check_part(replies, &document.body)
        }
    }
}

fn check_message(replies: &Replies, message: &Message, ports: &[PortKind]) -> Result<(), String> {
    check_port(message.port, PortKind::Message, ports)?;
    check_part(replies, &message.key).map_err(|text| format!("key {text}"))?;
    check_part(replies, &message.value).map_err(|text| format!("value {text}"))?;
    if message
        .partition
        .is_some_and(|partition| i32::try_from(partition).is_err())
    {
        return Err("partition is beyond 2147483647".to_owned());
    }
    match message.headers {
        HeadersOut::Unchanged => Ok(()),
        HeadersOut::Append(range) | HeadersOut::Replace(range) => slice(&replies.headers, range)
            .map(|_| ())
            .ok_or_else(|| out_of_range("headers", range, replies.headers.len())),
    }
}

fn check_port(port: u32, wanted: PortKind, ports: &[PortKind]) -> Result<(), String> {
    match ports.get(port as usize) {
        None => Err(format!("port {port} does not exist, the plugin has {}", ports.len())),
        Some(kind) if *kind != wanted => Err(format!(
            "port {port} is a {} port, not a {} port",
            name_of(*kind),
            name_of(wanted)
        )),
        Some(_) => Ok(()),
    }
}

fn name_of(kind: PortKind) -> &'static str {
    match kind {
        PortKind::Message => "message",
        PortKind::Document => "document",
    }
}

fn check_part(replies: &Replies, part: &Part) -> Result<(), String> {
    match part {
        Part::Replace(Some(span)) => check_bytes(replies, *span).map(|_| ()),
        Part::Unchanged | Part::Replace(None) => Ok(()),
    }
}

fn check_bytes(replies: &Replies, span: Span) -> Result<&[u8], String> {
    slice(&replies.data, span).ok_or_else(|| out_of_range("data", span, replies.data.len()))
}

fn check_text(replies: &Replies, span: Span) -> Result<&str, String> {
    std::str::from_utf8(check_bytes(replies, span)?).map_err(|_| NOT_UTF8.to_owned())
}

fn check_reason(replies: &Replies, span: Span) -> Result<(), String> {
    kept_reason(check_bytes(replies, span)?)
        .map(|_| ())
        .ok_or_else(|| NOT_UTF8.to_owned())
}

fn out_of_range(of: &str, span: Span, len: usize) -> String {
    let Span { start, len: wanted } = span;
    format!("span {start}+{wanted} reaches beyond {of}, which has {len}")
}

#[cfg(test)]
mod tests;
