//! Answers that keep the rules, and those that break one.

use proptest::prelude::*;

use super::*;

const PORTS: [PortKind; 2] = [PortKind::Message, PortKind::Document];
const LIMITS: AnswerLimits = AnswerLimits {
    bytes: 100,
    emissions: 4,
    headers: 3,
    header_bytes: 40,
};

fn span(start: u32, len: u32) -> Span {
    Span { start, len }
}

fn message(port: u32) -> Message {
    Message {
        port,
        key: Part::Unchanged,
        value: Part::Unchanged,
        headers: HeadersOut::Unchanged,
        timestamp_ms: None,
        partition: None,
    }
}

fn answer(replies: Vec<Reply>, emissions: Vec<Emission>) -> Replies {
    Replies {
        data: b"because\xff".to_vec(),
        replies,
        emissions,
        headers: Vec::new(),
    }
}

#[track_caller]
fn refused(replies: Replies, expected: usize, words: &str) {
    let fault = Checked::new(replies, expected, &PORTS, &LIMITS).unwrap_err();
    assert_eq!(fault.kind, Kind::Malformed);
    assert!(fault.message.contains(words), "{}", fault.message);
}

#[test]
fn emissions_go_to_the_replies_in_order() {
    let emissions = vec![
        Emission::Message(message(0)),
        Emission::Message(message(0)),
        Emission::Message(message(0)),
    ];
    let replies = answer(
        vec![Reply::Emit(1), Reply::Skip, Reply::Emit(2), Reply::Emit(0)],
        emissions,
    );
    let checked = Checked::new(replies, 4, &PORTS, &LIMITS).unwrap();
    let counts: Vec<_> = (0..4)
        .map(|index| match checked.verdict(index) {
            Verdict::Emit(emissions) => emissions.len(),
            _ => usize::MAX,
        })
        .collect();
    assert_eq!(counts, [1, usize::MAX, 2, 0]);
}

#[test]
fn every_broken_rule_is_named() {
    refused(answer(vec![], vec![]), 1, "answered 0 replies to 1 records");
    refused(answer(vec![Reply::Skip; 2], vec![]), 1, "answered 2 replies to 1");
    refused(answer(vec![Reply::Forward(9)], vec![]), 1, "port 9 does not exist");
    refused(answer(vec![Reply::Forward(1)], vec![]), 1, "is a document port");
    refused(
        answer(vec![Reply::Reject(span(4, 9))], vec![]),
        1,
        "span 4+9 reaches beyond data",
    );
    refused(
        answer(vec![Reply::Reject(span(u32::MAX, u32::MAX))], vec![]),
        1,
        "reaches beyond",
    );
    refused(answer(vec![Reply::Retry(span(0, 8))], vec![]), 1, "is not UTF-8");
    refused(
        answer(vec![Reply::Emit(2)], vec![]),
        1,
        "take 2 emissions, it answered 0",
    );
    refused(
        answer(vec![Reply::Skip], vec![Emission::Message(message(0))]),
        1,
        "take 0 emissions, it answered 1",
    );
    refused(
        answer(vec![Reply::Emit(1)], vec![Emission::Message(message(1))]),
        1,
        "is a document port",
    );
    let mut beyond = message(0);
    beyond.headers = HeadersOut::Append(span(0, 1));
    refused(
        answer(vec![Reply::Emit(1)], vec![Emission::Message(beyond)]),
        1,
        "beyond headers",
    );
    let mut partition = message(0);
    partition.partition = Some(u32::MAX);
    refused(
        answer(vec![Reply::Emit(1)], vec![Emission::Message(partition)]),
        1,
        "partition",
    );
    let mut named = answer(vec![Reply::Skip], vec![]);
    named.headers.push(Header {
        name: span(6, 2),
        value: None,
    });
    refused(named, 1, "header 0: name is not UTF-8");
}

/// An answer of these sizes to no record, its one emission for each taken by no reply.
fn sized(bytes: usize, emissions: usize, headers: &[(u32, u32)]) -> Result<Checked, Fault> {
    let header = |(name, value): &(u32, u32)| Header {
        name: span(0, *name),
        value: Some(span(0, *value)),
    };
    let replies = Replies {
        data: vec![b'x'; bytes],
        replies: vec![Reply::Emit(u32::try_from(emissions).unwrap())],
        emissions: vec![Emission::Message(message(0)); emissions],
        headers: headers.iter().map(header).collect(),
    };
    Checked::new(replies, 1, &PORTS, &LIMITS)
}

#[test]
fn an_answer_at_its_limits_is_taken() {
    assert_eq!(sized(100, 4, &[(20, 20), (20, 20), (10, 10)]).unwrap().len(), 1);
}

#[test]
fn an_answer_beyond_a_limit_is_refused_by_its_name() {
    let beyond = |answer: Result<Checked, Fault>, limit, words: &str| {
        let fault = answer.unwrap_err();
        assert_eq!(
            (fault.kind, fault.limit, fault.message.as_str()),
            (Kind::Malformed, Some(limit), words)
        );
    };
    beyond(
        sized(101, 0, &[]),
        Limit::AnswerBytes,
        "answered 101 bytes, the limit is 100 (`limits.answer-bytes`)",
    );
    beyond(
        sized(20, 0, &[(20, 20), (20, 20), (20, 1)]),
        Limit::AnswerBytes,
        "answered 101 bytes in all headers, ids and routings together, the limit is 100 (`limits.answer-bytes`)",
    );
    beyond(
        sized(0, 5, &[]),
        Limit::AnswerEmissions,
        "answered 5 emissions, the limit is 4 (`limits.answer-emissions`)",
    );
    beyond(
        sized(0, 0, &[(0, 0); 4]),
        Limit::AnswerHeaders,
        "answered 4 headers, the limit is 3 (`limits.answer-headers`)",
    );
    beyond(
        sized(20, 0, &[(20, 20), (20, 21)]),
        Limit::HeaderBytes,
        "answered 41 bytes in one header, the limit is 40 (`limits.header-bytes`)",
    );
    let overflow = Err(sized(0, 0, &[(u32::MAX, u32::MAX)]).unwrap_err());
    beyond(
        overflow,
        Limit::HeaderBytes,
        "answered 8589934590 bytes in one header, the limit is 40 (`limits.header-bytes`)",
    );
}

#[test]
fn of_a_reason_no_more_is_looked_at_than_is_kept() {
    let kept = |text: String| kept_reason(text.as_bytes()).map(str::len);
    for before in 0..4 {
        let begin = "x".repeat(before);
        assert_eq!(
            kept(format!("{begin}{}", "\u{1f980}".repeat(2_000))),
            Some(4096 - (4 - before % 4) * usize::from(before > 0))
        );
    }
    let mut reason = vec![b'x'; REASON_BYTES_MAX + 3];
    reason.extend([0xff; 100]);
    assert_eq!(kept_reason(&reason).map(str::len), Some(REASON_BYTES_MAX));
    reason[REASON_BYTES_MAX - 1] = 0xff;
    assert_eq!(kept_reason(&reason), None);
    assert_eq!(kept_reason("\u{e4}".as_bytes().split_at(1).0), None);
}

fn any_span() -> impl Strategy<Value = Span> {
    prop_oneof![(0..20u32, 0..20u32), (any::<u32>(), any::<u32>())].prop_map(|(start, len)| Span { start, len })
}

fn any_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        Just(Part::Unchanged),
        Just(Part::Replace(None)),
        any_span().prop_map(|span| Part::Replace(Some(span)))
    ]
}

fn any_reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Skip),
        (0..3u32).prop_map(Reply::Forward),
        (0..3u32).prop_map(Reply::Emit),
        any::<u32>().prop_map(Reply::Emit),
        any_span().prop_map(Reply::Reject),
        any_span().prop_map(Reply::Retry),
    ]
}

fn any_emission() -> impl Strategy<Value = Emission> {
    (0..3u32, any_part(), any_part(), any_span(), 0..3u8).prop_map(|(port, key, value, range, kind)| {
        let headers = match kind {
            0 => HeadersOut::Unchanged,
            1 => HeadersOut::Append(range),
            _ => HeadersOut::Replace(range),
        };
        Emission::Message(Message {
            port,
            key,
            value,
            headers,
            timestamp_ms: None,
            partition: None,
        })
    })
}

proptest! {
    /// Whatever a guest answers is refused, or can be read to its end without a panic.
    #[test]
    fn no_answer_can_panic_the_host(
        data in prop::collection::vec(any::<u8>(), 0..20),
        replies in prop::collection::vec(any_reply(), 0..4),
        emissions in prop::collection::vec(any_emission(), 0..4),
        headers in prop::collection::vec((any_span(), prop::option::of(any_span())), 0..3),
        expected in 0..4usize,
    ) {
        let headers = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        let answer = Replies { data, replies, emissions, headers };
        if let Ok(checked) = Checked::new(answer, expected, &PORTS, &LIMITS) {
            prop_assert_eq!(checked.len(), expected);
            for index in 0..expected {
                if let Verdict::Emit(emissions) = checked.verdict(index) {
                    for emission in emissions {
                        if let Emission::Message(Message { headers: HeadersOut::Append(range) | HeadersOut::Replace(range), .. }) = emission {
                            prop_assert_eq!(checked.headers(*range).len(), range.len as usize);
                        }
                    }
                }
            }
        }
    }
}
