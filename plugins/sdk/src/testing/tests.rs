//! That what goes in comes out: packing and unpacking lose nothing and mix nothing up, whatever the
//! records are.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Strategy, any, proptest};
use serde::Deserialize;

use super::{Document, Input, Message, Metric, Plugin, Reply, Sent, take_lines, take_metrics};
use crate::log::{self, Level};
use crate::{Action, DocumentPort, MessagePort, NoConfig, Output, Port, Processor, Reads, Record, Rejection, metrics};

const COPIES: MessagePort = MessagePort::new(0, "copies");
const DOCUMENTS: DocumentPort = DocumentPort::new(1, "documents");

type Step = fn(&Record<'_>, &mut Output<'_>) -> Result<(), Rejection>;

/// A plugin made of a function, so that each test says what it does to a record.
struct Scripted(Step);

impl Processor for Scripted {
    type Config = NoConfig;
    const PORTS: &'static [Port] = &[Port::Message(COPIES), Port::Document(DOCUMENTS)];

    fn configure(_: NoConfig) -> Result<Scripted, String> {
        Ok(Scripted(|_, _| Ok(())))
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        (self.0)(record, out)
    }
}

fn scripted(step: Step) -> Plugin<Scripted> {
    let mut plugin = Plugin::<Scripted>::new("{}").unwrap();
    plugin.instance.plugin_mut().0 = step;
    plugin
}

fn copy(record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
    let mut message = out.message(COPIES).replace_headers();
    message = match record.key() {
        Some(key) => message.key(key),
        None => message.null_key(),
    };
    message = match record.value() {
        Some(value) => message.value(value),
        None => message.null_value(),
    };
    for header in record.headers() {
        let name = std::str::from_utf8(header.name)?;
        message = match header.value {
            Some(value) => message.header(name, value),
            None => message.null_header(name),
        };
    }
    if let Some(timestamp_ms) = record.timestamp_ms() {
        message = message.timestamp_ms(timestamp_ms);
    }
    message.send();
    Ok(())
}

fn unchanged(input: &Input) -> Message {
    Message {
        port: "copies".to_owned(),
        key: input.key.clone(),
        value: input.value.clone(),
        headers: input.headers.clone(),
        timestamp_ms: input.timestamp_ms,
        partition: None,
    }
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let bytes = || vec(any::<u8>(), 0..6);
    // Few letters, so that names repeat; a 0xff makes some of them not UTF-8.
    let name = vec(proptest::sample::select(vec![b'a', b'b', 0xff]), 0..3);
    let headers = vec((name, option::of(bytes())), 0..4);
    let input = (
        option::of(bytes()),
        option::of(bytes()),
        headers,
        option::of(any::<i64>()),
    )
        .prop_map(|(key, value, headers, timestamp_ms)| Input {
            key,
            value,
            headers,
            timestamp_ms,
            position: None,
        });
    vec(input, 1..20)
}

proptest! {
    #[test]
    fn a_copy_equals_its_record(records in inputs()) {
        let replies = scripted(copy).process_batch(&records);
        assert_eq!(replies.len(), records.len());
        for (reply, record) in replies.into_iter().zip(&records) {
            let is_utf8 = record.headers.iter().all(|(name, _)| std::str::from_utf8(name).is_ok());
            match reply {
                Reply::Rejected(reason) => assert!(!is_utf8 && reason.contains("utf-8"), "{reason}"),
                sent => assert_eq!(sent.into_message(), unchanged(record)),
            }
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written(records in inputs()) {
        // The record's own words for itself, by way of the value, so that names that are not UTF-8 pass too.
        let replies = scripted(|record, out| {
            let headers: Vec<_> = record.headers().map(|header| (header.name, header.value)).collect();
            let words = format!("{:?}", (record.key(), record.value(), headers, record.timestamp_ms()));
            out.message(COPIES).value(words).send();
            Ok(())
        })
        .process_batch(&records);
        for (reply, record) in replies.into_iter().zip(&records) {
            let expected = format!("{:?}", (&record.key, &record.value, &record.headers, record.timestamp_ms));
            assert_eq!(reply.into_message().text(), expected);
        }
    }

    #[test]
    fn replies_do_not_depend_on_where_a_batch_is_cut(records in inputs(), cut in 0_usize..20) {
        let cut = cut.min(records.len());
        let mut plugin = scripted(copy);
        let whole = plugin.process_batch(&records);
        let mut parts = Vec::new();
        for part in [&records[..cut], &records[cut..]] {
            if !part.is_empty() {
                parts.extend(plugin.process_batch(part));
            }
        }
        assert_eq!(parts, whole);
    }
}

fn sent(step: Step, input: &Input) -> Reply {
    scripted(step).process(input)
}

fn full() -> Input {
    Input::value("v")
        .key("k")
        .header("h", "1")
        .null_header("n")
        .timestamp_ms(-5)
        .position("t", 3, 17)
}

#[test]
fn nothing_put_out_is_a_skip() {
    assert_eq!(sent(|_, _| Ok(()), &full()), Reply::Skipped);
}

#[test]
fn a_builder_that_is_not_sent_sends_nothing() {
    let step: Step = |_, out| {
        drop(out.message(COPIES).value("left").header("a", "b"));
        Ok(())
    };
    assert_eq!(sent(step, &full()), Reply::Skipped);
}

#[test]
fn one_forward_is_the_forward_reply() {
    let step: Step = |_, out| {
        out.forward(COPIES);
        Ok(())
    };
    assert_eq!(sent(step, &full()), Reply::forwarded("copies"));
}

#[test]
fn forwards_beside_others_are_messages_without_changes() {
    let step: Step = |_, out| {
        out.forward(COPIES);
        out.message(COPIES).null_value().partition(9).send();
        Ok(())
    };
    let unchanged = unchanged(&full());
    let tombstone = Message {
        value: None,
        partition: Some(9),
        ..unchanged.clone()
    };
    assert_eq!(
        sent(step, &full()),
        Reply::Sent(vec![Sent::Message(unchanged), Sent::Message(tombstone)])
    );
}

#[test]
fn a_rejection_takes_back_what_was_put_out_and_leaves_the_neighbours() {
    let mut plugin = scripted(|record, out| {
        out.message(COPIES).value(b"x").header("a", "b").send();
        out.forward(COPIES);
        if record.value() == Some(b"bad") {
            Err(Rejection::new("no good"))
        } else {
            Ok(())
        }
    });
    let good = Input::value("good");
    let replies = plugin.process_batch(&[good.clone(), Input::value("bad"), good.clone()]);
    assert_eq!(replies[1], Reply::rejected("no good"));
    let sent = vec![
        Sent::Message(Message {
            value: Some(b"x".to_vec()),
            headers: vec![(b"a".to_vec(), Some(b"b".to_vec()))],
            ..unchanged(&good)
        }),
        Sent::Message(unchanged(&good)),
    ];
    assert_eq!(replies[0], Reply::Sent(sent));
    assert_eq!(replies[2], replies[0]);
}

#[test]
fn nothing_is_processed_after_a_retry() {
    let mut plugin = scripted(|record, out| {
        metrics::add("seen", 1);
        out.forward(COPIES);
        if record.offset() == 1 {
            Err(Rejection::retry("later"))
        } else {
            Ok(())
        }
    });
    let replies = plugin.process_batch(&[full_at(0), full_at(1), full_at(2)]);
    assert_eq!(replies, [Reply::forwarded("copies"), Reply::Retry("later".to_owned())]);
    assert_eq!(take_metrics().len(), 2);
}

fn full_at(offset: u64) -> Input {
    full().position("t", 3, offset)
}

#[test]
fn headers_are_appended_or_replaced() {
    let appended: Step = |_, out| {
        out.message(COPIES).header("a", "").header("a", [0xff]).send();
        Ok(())
    };
    let tail = [(b"a".to_vec(), Some(vec![])), (b"a".to_vec(), Some(vec![0xff]))];
    assert_eq!(
        sent(appended, &full()).into_message().headers,
        [full().headers, tail.to_vec()].concat()
    );
    let replaced: Step = |_, out| {
        out.message(COPIES)
            .header("gone", "1")
            .replace_headers()
            .null_header("a")
            .send();
        Ok(())
    };
    assert_eq!(sent(replaced, &full()).into_message().headers, [(b"a".to_vec(), None)]);
    let removed: Step = |_, out| {
        out.message(COPIES).replace_headers().send();
        Ok(())
    };
    assert_eq!(sent(removed, &full()).into_message().headers, []);
}

#[test]
#[should_panic(expected = "contains a NUL")]
fn a_header_name_with_a_nul_panics() {
    let step: Step = |_, out| {
        out.message(COPIES).header("a\0b", "").send();
        Ok(())
    };
    sent(step, &full());
}

#[test]
fn a_document_keeps_all_its_parts() {
    let step: Step = |_, out| {
        out.document(DOCUMENTS, Action::Upsert)
            .id("7")
            .routing("r")
            .json(&[("a", 1)])?
            .send();
        out.document(DOCUMENTS, Action::Delete).send();
        Ok(())
    };
    let document = |id: Option<&str>, routing: Option<&str>, action, body: &str| {
        let body = Some(body.as_bytes().to_vec());
        let port = "documents".to_owned();
        Sent::Document(Document {
            port,
            id: id.map(str::to_owned),
            routing: routing.map(str::to_owned),
            action,
            body,
        })
    };
    let expected = vec![
        document(Some("7"), Some("r"), Action::Upsert, r#"[["a",1]]"#),
        document(None, None, Action::Delete, "v"),
    ];
    assert_eq!(sent(step, &full()), Reply::Sent(expected));
}

#[test]
fn json_without_a_form_rejects_and_leaves_no_bytes() {
    let step: Step = |_, out| {
        let keys_that_are_lists = std::collections::BTreeMap::from([(vec![1], 2)]);
        out.message(COPIES).json(&keys_that_are_lists)?.send();
        Ok(())
    };
    let reply = sent(step, &full());
    assert_eq!(
        reply,
        Reply::rejected("what is sent has no form in JSON: key must be a string")
    );
}

#[test]
fn a_value_is_written_in_pieces() {
    let step: Step = |_, out| {
        out.message(COPIES).value_of([b"ab".as_slice(), b"", b"c"]).send();
        Ok(())
    };
    assert_eq!(sent(step, &full()).into_message().text(), "abc");
}

#[test]
fn json_that_cannot_be_read_rejects_in_the_parsers_words() {
    #[derive(Deserialize)]
    struct Priced {
        #[serde(rename = "price")]
        _price: f64,
    }
    let step: Step = |record, _| record.json::<Priced>().map(|_| ());
    assert_eq!(sent(step, &Input::tombstone()), Reply::rejected("the value is null"));
    assert_eq!(
        sent(step, &Input::value("{}")),
        Reply::rejected("the value is not the JSON that is read here: missing field `price` at line 1 column 2")
    );
}

#[test]
fn a_record_knows_its_position_and_its_last_header() {
    let step: Step = |record, out| {
        let last = record.header("h").and_then(|header| header.value);
        assert_eq!(record.header("none"), None);
        let words = format!("{} {} {} {last:?}", record.topic(), record.partition(), record.offset());
        out.message(COPIES).value(words).send();
        Ok(())
    };
    assert_eq!(
        sent(step, &full().header("h", "2")).into_message().text(),
        "t 3 17 Some([50])"
    );
}

#[test]
fn what_is_not_read_is_not_there_but_is_sent() {
    struct Blind;
    impl Processor for Blind {
        type Config = NoConfig;
        const PORTS: &'static [Port] = &[Port::Message(COPIES)];
        const READS: Reads = Reads::NOTHING;

        fn configure(_: NoConfig) -> Result<Blind, String> {
            Ok(Blind)
        }

        fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
            assert_eq!((record.key(), record.value(), record.headers().len()), (None, None, 0));
            out.message(COPIES).header("seen", "").send();
            Ok(())
        }
    }
    let message = Plugin::<Blind>::new("{}").unwrap().process(&full()).into_message();
    assert_eq!(
        (message.key, message.value, message.headers.len()),
        (Some(b"k".to_vec()), Some(b"v".to_vec()), 3)
    );
}

#[test]
fn a_configuration_that_does_not_fit_is_told_by_its_field() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        _limits: Limits,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        _low: f64,
    }
    struct Limited;
    impl Processor for Limited {
        type Config = Config;
        const PORTS: &'static [Port] = &[];

        fn configure(_: Config) -> Result<Limited, String> {
            Ok(Limited)
        }

        fn process(&mut self, _: &Record<'_>, _: &mut Output<'_>) -> Result<(), Rejection> {
            Ok(())
        }
    }
    let refused = |config: &str| Plugin::<Limited>::new(config).err().unwrap();
    assert_eq!(
        refused(r#"{"_limits": {"_low": "x"}}"#),
        "`_limits._low`: invalid type: string \"x\", expected f64"
    );
    assert_eq!(refused(r#"{"_limits": {}}"#), "`_limits`: missing field `_low`");
    assert_eq!(refused("{}"), "missing field `_limits`");
    assert_eq!(
        refused(r#"{"limits": {}}"#),
        "`limits`: unknown field `limits`, expected `_limits`"
    );
}

#[test]
fn lines_and_metrics_are_kept_for_the_test() {
    log::info("hello");
    log::write(Level::Warn, "odd", &[("a", "b")]);
    metrics::observe("size", 1.5);
    metrics::set("depth", 2.0);
    let lines = take_lines();
    assert_eq!(
        lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(),
        ["hello", "odd"]
    );
    assert_eq!(lines[1].fields, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(
        take_metrics(),
        [
            Metric::Observe("size".to_owned(), 1.5),
            Metric::Set("depth".to_owned(), 2.0)
        ]
    );
    assert!(take_lines().is_empty());
}
