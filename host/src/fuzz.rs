//! What the fuzz targets call: the readers of foreign bytes, from the bytes on.
//!
//! A target gets any bytes and has to come back: whatever it says of them, it does not panic, run past a deadline or take memory without
//! bound. `host/fuzz` runs these functions under an engine that looks for new paths; the test below gives them what such runs
//! have kept.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::{self, Broker};
use crate::dead_letter;
use crate::plugin::component::{self, Binary, Wanted};
use crate::plugin::contract::{
    Action, Document, Emission, Header, HeadersOut, Message, Part, PortKind, Replies, Reply, Span,
};
use crate::plugin::grants::Grants;
use crate::plugin::instance::Executor;
use crate::plugin::limits::Limits;
use crate::plugin::runtime::Runtime;
use crate::reply::Checked;
use crate::route::{Bytes, Routes, Way};

/// A plugin file: loaded, and described if it can be.
pub fn plugin_file(bytes: &[u8]) {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::uncached().ok()).as_ref();
    let (Some(runtime), Ok(executor)) = (runtime, Executor::new()) else {
        return;
    };
    let wanted = Wanted {
        stage: "fuzz",
        sha256: None,
        config: "{}".to_owned(),
        limits: Limits {
            memory_bytes: 16 * 1024 * 1024,
            deadline: Duration::from_millis(50),
            deadline_record: Duration::from_millis(50),
            ..Limits::patient()
        },
        grants: Grants::default(),
    };
    // What is said of the file is for people; that something is said is all that counts here.
    let _ = component::load(runtime, &Binary::new(bytes.to_vec()), wanted, &Arc::new(executor));
}

/// The text of a pipeline file.
pub fn pipeline_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let environment = |name: &str| name.len().is_multiple_of(2).then(|| format!("value of {name}"));
    for broker in [Broker::Configured, Broker::Embedded] {
        if let Err(errors) = config::parse(text, "fuzz/pipeline.yaml".as_ref(), &environment, broker) {
            // The words quote the file.
            let _ = errors.to_string();
        }
    }
}

/// A plugin's answer to a batch: checked, and read to its end as a worker does.
pub fn replies(bytes: &[u8]) {
    const PORTS: [PortKind; 3] = [PortKind::Message, PortKind::Document, PortKind::Message];
    let mut bytes = Source(bytes);
    let expected = usize::from(bytes.byte());
    let answer = bytes.replies();
    let data_len = answer.data.len();
    let Ok(checked) = Checked::new(answer, expected, &PORTS, &Limits::patient().answer) else {
        return;
    };
    let routes = Routes::new(vec![Way::Topic(0), Way::Exit(0), Way::Exit(1)], Vec::new());
    for index in 0..checked.len() {
        let verdict = checked.verdict(index);
        for delivery in routes.deliveries(&checked, &verdict) {
            let spans = delivery
                .headers
                .iter()
                .flat_map(|header| [Some(header.name), header.value]);
            let headers: usize = spans.flatten().map(|span| checked.bytes(span).len()).max().unwrap_or(0);
            let len = |bytes| {
                if let Bytes::New(new) = bytes {
                    <[u8]>::len(new)
                } else {
                    0
                }
            };
            let longest = headers.max(len(delivery.key)).max(len(delivery.value));
            assert!(
                longest <= data_len,
                "a part of {longest} bytes of an answer of {data_len}"
            );
        }
        for (number, export) in routes.exports(&checked, &verdict, None, None).enumerate() {
            let longest = export.key.into_iter().chain(export.value).map(<[u8]>::len).max();
            assert!(export.number == number && longest.unwrap_or(0) <= data_len);
        }
    }
}

/// The headers of a dead letter or of a replayed record.
///
/// One header a line: `NAME=VALUE`, or `NAME` alone for a null.
pub fn dead_letter(bytes: &[u8]) {
    let headers = || {
        bytes.split(|byte| *byte == b'\n').map(|line| {
            let mut parts = line.splitn(2, |byte| *byte == b'=');
            (parts.next().unwrap_or_default(), parts.next())
        })
    };
    let count = headers().count();
    if let Ok(letter) = dead_letter::parse(headers()) {
        assert!(letter.own_headers <= count, "{} of {count} headers", letter.own_headers);
    }
    if let Some(mark) = dead_letter::parse_mark(headers()) {
        assert!(mark.own_headers <= count, "{} of {count} headers", mark.own_headers);
    }
}

/// Bytes that are read as something else; beyond their end they are zeroes.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Small numbers as a rule, and at times any.
    fn number(&mut self) -> u32 {
        match self.byte() {
            255 => u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]),
            254 => u32::MAX,
            small => u32::from(small),
        }
    }

    fn span(&mut self) -> Span {
        Span {
            start: self.number(),
            len: self.number(),
        }
    }

    fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.byte() % 2 == 1).then(|| read(self))
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.byte()).map(|_| read(self)).collect()
    }

    fn part(&mut self) -> Part {
        match self.byte() % 3 {
            0 => Part::Unchanged,
            _ => Part::Replace(self.maybe(Self::span)),
        }
    }

    fn reply(&mut self) -> Reply {
        match self.byte() % 5 {
            0 => Reply::Skip,
            1 => Reply::Forward(self.number()),
            2 => Reply::Emit(self.number()),
            3 => Reply::Reject(self.span()),
            _ => Reply::Retry(self.span()),
        }
    }

    fn emission(&mut self) -> Emission {
        if self.byte().is_multiple_of(4) {
            return Emission::Document(Document {
                port: self.number(),
                id: self.maybe(Self::span),
                routing: self.maybe(Self::span),
                action: Action::Upsert,
                body: self.part(),
            });
        }
        Emission::Message(Message {
            port: self.number(),
            key: self.part(),
            value: self.part(),
            headers: match self.byte() % 3 {
                0 => HeadersOut::Unchanged,
                1 => HeadersOut::Append(self.span()),
                _ => HeadersOut::Replace(self.span()),
            },
            timestamp_ms: self.maybe(|bytes| i64::from(bytes.number()) - i64::from(u32::MAX / 2)),
            partition: self.maybe(Self::number),
        })
    }

    fn replies(&mut self) -> Replies {
        Replies {
            data: self.list(Self::byte),
            replies: self.list(Self::reply),
            emissions: self.list(Self::emission),
            headers: self.list(|bytes| Header {
                name: bytes.span(),
                value: bytes.maybe(Self::span),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Gives a target everything that its runs have kept, and the crashes that were mended.
    fn replay(target: &str, read: fn(&[u8])) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut count = 0;
        for folder in ["corpus", "regressions"] {
            for file in std::fs::read_dir(root.join(folder).join(target)).into_iter().flatten() {
                let file = file.unwrap().path();
                // Shown by the test harness where the call panics, so that the file is known.
                println!("{}", file.display());
                read(&std::fs::read(file).unwrap());
                count += 1;
            }
        }
        assert!(count >= 10, "{count} files are kept for {target}");
    }

    #[test]
    fn no_plugin_file_that_was_kept_harms_the_host() {
        replay("plugin-file", super::plugin_file);
    }

    #[test]
    fn no_reply_that_was_kept_harms_the_host() {
        replay("replies", super::replies);
    }

    #[test]
    fn no_headers_that_were_kept_harm_the_host() {
        replay("dead-letter", super::dead_letter);
    }

    #[test]
    fn no_pipeline_file_that_was_kept_harms_the_host() {
        replay("pipeline-file", super::pipeline_file);
    }
}
