//! Any record that Kafka takes goes through unchanged, or is refused with a reason; none stops the host.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, rng, unique, wire};

/// Takes any timestamp; by default brokers refuse those of the future.
const ANY_TIMESTAMP: (&str, &str) = ("message.timestamp.after.max.ms", "9223372036854775807");

struct Route {
    app: String,
    input: String,
    output: String,
    letters: String,
}

impl Route {
    fn create(output_settings: &[(&str, &str)]) -> Self {
        let app = unique("records");
        let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
        kafka::create_topic(&input, 1, &[ANY_TIMESTAMP]);
        kafka::create_topic(&output, 1, output_settings);
        kafka::create_topic(&letters, 1, &[]);
        Self {
            app,
            input,
            output,
            letters,
        }
    }

    /// Sends the records through `identity`. Returns what came out and what became a dead letter.
    fn run(&self, copy: bool, records: &[Record]) -> (Vec<Record>, Vec<Record>) {
        wire::produce(&self.input, 0, records);
        // Uncompressed, so that the size of a batch on the broker is the one that is computed here.
        let config = json!({"copy": copy});
        let pipeline = Pipeline::new(&self.app)
            .set(&["kafka", "compression.type"], "none")
            .stage("pass", &guest("identity"), config, &self.input, &self.output);
        Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE * 2);
        let read = |topic| {
            kafka::read_committed(topic)
                .into_iter()
                .map(|placed| placed.record)
                .collect()
        };
        (read(&self.output), read(&self.letters))
    }
}

fn record(value: &str) -> Record {
    Record {
        timestamp_ms: Some(1_500_000_000_000),
        ..Record::new("key", value)
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), 1..40),
        "[a-zé☃]{1,8}".prop_map(String::into_bytes)
    ]
}

/// Without NUL: librdkafka hands out names that end there.
fn header_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        Just(b"same".to_vec()),
        Just(b"wasmill.kind".to_vec()),
        vec(1..=u8::MAX, 1..12),
        "[a-z]{1,8}".prop_map(String::into_bytes),
    ]
}

fn timestamp_ms() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        Just(None),
        Just(Some(0)),
        Just(Some(1)),
        Just(Some(-2)),
        Just(Some(-86_400_000)),
        Just(Some(i64::from(i32::MAX))),
        // The year 5138, and the last one there is.
        Just(Some(99_999_999_999_999)),
        Just(Some(i64::MAX)),
        (1_400_000_000_000..1_600_000_000_000_i64).prop_map(Some),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let headers = vec((header_name(), option::of(bytes())), 0..5);
    (option::of(bytes()), option::of(bytes()), headers, timestamp_ms()).prop_map(
        |(key, value, headers, timestamp_ms)| Record {
            key,
            value,
            headers,
            timestamp_ms,
        },
    )
}

fn any_records(seed: u64, count: usize) -> Vec<Record> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    vec(any_record(), count).new_tree(&mut runner).unwrap().current()
}

/// Every record of the input is in the output as it was, or is a dead letter that gives a reason.
fn assert_all_accounted_for(sent: &[Record], copy: bool) {
    let route = Route::create(&[ANY_TIMESTAMP]);
    let (arrived, letters) = route.run(copy, sent);

    let mut arrived = arrived.into_iter().peekable();
    let mut letters = letters.into_iter().peekable();
    for (offset, record) in sent.iter().enumerate() {
        if letters
            .peek()
            .is_some_and(|letter| letter.header("wasmill.offset") == Some(&offset.to_string()))
        {
            let letter = letters.next().unwrap();
            assert!(
                letter
                    .header("wasmill.message")
                    .is_some_and(|reason| !reason.is_empty()),
                "{letter:?} gives no reason"
            );
            assert_eq!((&letter.key, &letter.value), (&record.key, &record.value));
            assert!(may_be_refused(record, copy), "{record:?} was refused: {letter:?}");
        } else {
            assert_eq!(arrived.next().as_ref(), Some(record), "record {offset}");
        }
    }
    assert_eq!((arrived.next(), letters.next()), (None, None), "nothing is left over");
}

/// librdkafka cannot send a timestamp of 0, and a plugin may not return a header name that is not UTF-8.
fn may_be_refused(record: &Record, copy: bool) -> bool {
    record.timestamp_ms == Some(0) || (copy && record.headers.iter().any(|(name, _)| str::from_utf8(name).is_err()))
}

#[test]
fn any_record_is_forwarded_or_refused_with_a_reason() {
    let seed = rng::seed();
    println!("seed {seed} (WASMILL_TEST_SEED)");
    assert_all_accounted_for(&any_records(seed, 500), false);
}

#[test]
fn any_record_is_copied_or_refused_with_a_reason() {
    let seed = rng::seed();
    println!("seed {seed} (WASMILL_TEST_SEED)");
    assert_all_accounted_for(&any_records(seed, 500), true);
}

#[test]
fn null_and_empty_stay_different() {
    let parts = [None, Some(Vec::new()), Some(b"x".to_vec())];
    let mut sent = Vec::new();
    for key in &parts {
        for value in &parts {
            let headers = parts.iter().map(|part| (b"h".to_vec(), part.clone())).collect();
            sent.push(Record {
                key: key.clone(),
                value: value.clone(),
                headers,
                timestamp_ms: Some(1_500_000_000_000),
            });
        }
    }
    assert_all_accounted_for(&sent, false);
    assert_all_accounted_for(&sent, true);
}

/// The first record fills a batch of the topic to its limit, the second is one byte longer.
fn at_and_over_the_limit(limit: usize) -> [Record; 2] {
    let mut fits = record("");
    while wire::batch_bytes(&fits) < limit {
        let missing = limit - wire::batch_bytes(&fits);
        let length = fits.value.as_ref().unwrap().len() + missing.div_ceil(2);
        fits.value = Some(vec![b'x'; length]);
    }
    assert_eq!(wire::batch_bytes(&fits), limit);
    let mut over = fits.clone();
    over.value.as_mut().unwrap().push(b'x');
    assert_eq!(wire::batch_bytes(&over), limit + 1);
    [fits, over]
}

#[test]
fn a_value_at_the_topics_limit_passes_and_one_byte_more_is_refused() {
    for copy in [false, true] {
        let limit = 10_000;
        let route = Route::create(&[("max.message.bytes", &limit.to_string())]);
        let [fits, over] = at_and_over_the_limit(limit);
        let sent = [
            record("before"),
            fits.clone(),
            record("between"),
            over.clone(),
            record("after"),
        ];
        let (arrived, letters) = route.run(copy, &sent);
        assert_eq!(arrived, [record("before"), fits, record("between"), record("after")]);
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].value, over.value);
        assert_refused(&letters[0]);
    }
}

/// A topic's limit is one of whole produce batches, so many small records must not come to one that is refused.
#[test]
fn small_records_for_a_topic_with_a_small_limit_are_never_refused() {
    let app = unique("records");
    let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
    kafka::create_topic(&input, 1, &[]);
    kafka::create_topic(&output, 1, &[("max.message.bytes", "5000")]);
    kafka::create_topic(&letters, 1, &[]);
    // Not compressible, or the batches would be small whatever the host does.
    let mut rng = rng::Rng::new(1);
    let sent: Vec<Record> = (0..5_000)
        .map(|number| {
            let value: Vec<u8> = (0..25).flat_map(|_| rng.next().to_le_bytes()).collect();
            Record::new(format!("{number}"), value)
        })
        .collect();
    kafka::produce(&input, None, &sent);
    let pipeline = Pipeline::new(&app).stage("pass", &guest("identity"), json!({}), &input, &output);
    let printed = Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);

    assert!(!printed.stderr.contains("refused"), "{}", printed.stderr);
    assert_eq!(kafka::read_committed(&output).len(), sent.len());
    assert_eq!(kafka::read_committed(&letters).len(), 0);
}

/// Larger than what the host's producer sends by default, so that no broker ever sees the record.
#[test]
fn a_value_beyond_the_producers_limit_is_refused() {
    let app = unique("records");
    let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
    for topic in [&input, &output, &letters] {
        kafka::create_topic(topic, 1, &[("max.message.bytes", "5000000")]);
    }
    let large = Record {
        timestamp_ms: Some(1),
        ..Record::new("key", vec![b'x'; 3_000_000])
    };
    wire::produce(&input, 0, &[record("before"), large, record("after")]);
    let pipeline = Pipeline::new(&app).stage("pass", &guest("identity"), json!({}), &input, &output);
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE * 2);

    let read = |topic| {
        kafka::read_committed(topic)
            .into_iter()
            .map(|placed| placed.record)
            .collect::<Vec<_>>()
    };
    assert_eq!(read(&output), [record("before"), record("after")]);
    let letters = read(&letters);
    assert_eq!(letters.len(), 1);
    assert_refused(&letters[0]);
}

#[test]
fn a_null_key_for_a_compacted_topic_is_refused() {
    let route = Route::create(&[("cleanup.policy", "compact")]);
    let null_key = Record {
        key: None,
        ..record("nobody's")
    };
    let (arrived, letters) = route.run(false, &[record("before"), null_key.clone(), record("after")]);
    assert_eq!(arrived, [record("before"), record("after")]);
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].key, &letters[0].value), (&None, &null_key.value));
    assert_refused(&letters[0]);
}

/// The dead-letter topic refuses the timestamp, too; the letter has to find a way.
#[test]
fn a_timestamp_far_ahead_is_refused_where_the_topic_refuses_it() {
    let route = Route::create(&[]);
    let ahead = Record {
        timestamp_ms: Some(99_999_999_999_999),
        ..record("of the year 5138")
    };
    let (arrived, letters) = route.run(false, &[record("before"), ahead.clone(), record("after")]);
    assert_eq!(arrived, [record("before"), record("after")]);
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].key, &letters[0].value), (&ahead.key, &ahead.value));
    assert_eq!(letters[0].header("wasmill.timestamp"), Some("99999999999999"));
    assert_refused(&letters[0]);
}

#[track_caller]
fn assert_refused(letter: &Record) {
    assert_eq!(letter.header("wasmill.kind"), Some("refused"), "{letter:?}");
    assert!(
        letter
            .header("wasmill.message")
            .is_some_and(|reason| !reason.is_empty()),
        "{letter:?}"
    );
}
