//! What stages must not do to each other or to themselves, and what their times mean for a
//! transaction.
//!
//! A commit interval and a plugin call both happen inside a transaction, which the broker aborts
//! after its timeout; a stage whose times do not fit would abort and start again for ever.

use std::time::Duration;

use super::elasticsearch::{IndexOutput, Versions};
use super::errors::{At, Location};
use super::kafka::Kafka;
use super::model::{Guarantee, Stage};
use super::section::Field;
use super::values::show_duration;
use crate::topics;

/// The part of a session that a worker may spend on its last commit when partitions are taken away.
const REVOKE_SESSION_SHARE: u32 = 5;

/// Reports every mistake to the context of `root`, the whole file.
pub(super) fn check(root: &Field<'_>, app: Option<&str>, stages: &[Stage], kafka: Option<&Kafka>) {
    let report = |stage: &Stage, at, message: String| {
        root.report(at, format!("stage `{}`: {message}", stage.name.value));
    };
    for (index, stage) in stages.iter().enumerate() {
        if let Some(other) = stages[..index]
            .iter()
            .find(|other| other.group.value == stage.group.value)
        {
            let (group, other) = (&stage.group.value, &other.name.value);
            let message = format!("`group`: stage `{other}` has group `{group}` already; each stage needs its own");
            report(stage, stage.group.at, message);
        }
        for (at, message) in topic_mistakes(stage).into_iter().chain(index_mistakes(stage)) {
            report(stage, at, message);
        }
    }
    if let Some(app) = app {
        for stage in stages {
            for (at, message) in replay_mistakes(app, stage, stages) {
                report(stage, at, message);
            }
        }
    }
    let Some(kafka) = kafka else { return };
    for stage in stages {
        for (at, message) in [transaction_mistake(stage, kafka), poll_mistake(stage, kafka)]
            .into_iter()
            .flatten()
        {
            report(stage, at, message);
        }
    }
    if stages.iter().any(is_transactional) {
        timeout_mistakes(root, kafka);
    }
}

/// Reports outputs that write documents where the file does not say where Elasticsearch is.
pub(super) fn elasticsearch_is_missing(root: &Field<'_>, stages: &[Stage]) {
    for stage in stages {
        for output in stage.outputs.indices() {
            let message = format!(
                "stage `{}`: it writes documents, and the file does not say where Elasticsearch is; add `elasticsearch: {{url: ..}}` at its top",
                stage.name.value
            );
            root.report(output.at, message);
        }
    }
}

/// Reports outputs that send mail where the file does not say by which server.
pub(super) fn smtp_is_missing(root: &Field<'_>, stages: &[Stage]) {
    for stage in stages {
        for output in stage.outputs.mails() {
            let message = format!(
                "stage `{}`: it sends mail, and the file does not say by which server; add `smtp: {{url: ..}}` at its top",
                stage.name.value
            );
            root.report(output.at, message);
        }
    }
}

fn is_transactional(stage: &Stage) -> bool {
    stage.guarantee.value == Guarantee::ExactlyOnce
}

type Mistake = (Location, String);

fn topic_mistakes(stage: &Stage) -> Vec<Mistake> {
    let reads = |topic: &str| stage.input.topics.iter().any(|input| input.value == topic);
    let mut mistakes = Vec::new();
    for output in stage.outputs.topics().filter(|output| reads(output)) {
        let message = format!(
            "output topic `{}` is an input of the same stage, which would never end",
            output.value
        );
        mistakes.push((output.at, message));
    }
    let At { value: dead_letter, at } = &stage.on_fault.dead_letter;
    if reads(dead_letter) {
        let message = format!(
            "dead-letter topic `{dead_letter}` is an input of the same stage, which would read its own failures; \
             set `on-fault: {{dead-letter: TOPIC}}`"
        );
        mistakes.push((*at, message));
    } else if stage.outputs.topics().any(|output| &output.value == dead_letter) {
        let message = format!(
            "dead-letter topic `{dead_letter}` is an output of the same stage, which would mix failures with results; \
             set `on-fault: {{dead-letter: TOPIC}}`"
        );
        mistakes.push((*at, message));
    }
    mistakes
}

/// Versions are made of offsets, so only one topic may give them; and documents of one index share their lanes.
fn index_mistakes(stage: &Stage) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let outputs: Vec<_> = stage.outputs.indices().collect();
    for (index, output) in outputs.iter().enumerate() {
        if let Some(versions) = output.versions.filter(|versions| versions.value == Versions::External)
            && stage.input.topics.len() > 1
        {
            let message = "`versions: external`: versions are made of a record's offset, and the stage has several input topics, \
                           whose offsets say nothing of each other; allowed: one input topic, or `versions: none`";
            mistakes.push((versions.at, message.to_owned()));
        }
        let same = |other: &&&IndexOutput| other.index.value == output.index.value;
        if let Some(other) = outputs[..index].iter().find(same)
            && other.delivery != output.delivery
        {
            let message = format!(
                "index `{}` is written by another port of the stage with other values of `bulk`, `lanes` or `timeout`; give both the same",
                output.index.value
            );
            mistakes.push((output.at, message));
        }
    }
    mistakes
}

/// A replay topic belongs to `dlq replay` and its stage alone: others would read what is not theirs, or write what looks like replayed.
fn replay_mistakes(app: &str, stage: &Stage, stages: &[Stage]) -> Vec<Mistake> {
    let inputs = stage.input.topics.iter().map(|topic| ("input", topic));
    let outputs = stage.outputs.topics().map(|topic| ("output", topic));
    let named = inputs
        .chain(outputs)
        .chain([("dead-letter", &stage.on_fault.dead_letter)]);
    let mut mistakes = Vec::new();
    for (what, topic) in named {
        let of = |other: &&Stage| topics::replay_name(app, &other.name.value) == topic.value;
        if let Some(other) = stages.iter().find(of) {
            let message = format!(
                "{what} topic `{}` is the replay topic of stage `{}`, which only `dlq replay` writes and only that stage reads; \
                 use another topic",
                topic.value, other.name.value
            );
            mistakes.push((topic.at, message));
        }
    }
    mistakes
}

/// Half of the timeout is left for producing and for the commit itself.
fn transaction_mistake(stage: &Stage, kafka: &Kafka) -> Option<Mistake> {
    let (interval, deadline) = (stage.commit_interval, stage.limits.deadline);
    let needed = (interval.value + deadline.value) * 2;
    let timeout = kafka.transaction_timeout();
    if !is_transactional(stage) || needed <= timeout {
        return None;
    }
    let longer = if interval.value > deadline.value {
        interval.at
    } else {
        deadline.at
    };
    let message = format!(
        "`commit-interval` ({}) and `limits.deadline` ({}) have to fit twice into a transaction; \
         allowed: `kafka.transaction.timeout.ms` ({}) of at least {}",
        show_duration(interval.value),
        show_duration(deadline.value),
        timeout.as_millis(),
        needed.as_millis(),
    );
    Some((
        kafka
            .get("transaction.timeout.ms")
            .map_or(longer, |property| property.value.at),
        message,
    ))
}

/// A worker does not poll during a call, so a call may not last as long as a group waits for it.
fn poll_mistake(stage: &Stage, kafka: &Kafka) -> Option<Mistake> {
    let deadline = stage.limits.deadline;
    let needed = deadline.value * 2;
    let interval = kafka.max_poll_interval();
    if needed <= interval {
        return None;
    }
    let message = format!(
        "`limits.deadline` ({}) has to fit twice between two polls; \
         allowed: `kafka.max.poll.interval.ms` ({}) of at least {}",
        show_duration(deadline.value),
        interval.as_millis(),
        needed.as_millis(),
    );
    Some((
        kafka
            .get("max.poll.interval.ms")
            .map_or(deadline.at, |property| property.value.at),
        message,
    ))
}

/// What librdkafka refuses of a transactional producer, and what a rebalance needs.
fn timeout_mistakes(root: &Field<'_>, kafka: &Kafka) {
    let timeout = kafka.transaction_timeout();
    let timeout_ms = timeout.as_millis();
    // librdkafka lets a request outlast the transaction by 100 ms.
    let margins = [
        ("message.timeout.ms", 0),
        ("delivery.timeout.ms", 0),
        ("socket.timeout.ms", 100),
    ];
    for (name, margin_ms) in margins {
        let Some(property) = kafka.get(name) else { continue };
        let value_ms = property.value.expose().parse::<u128>().unwrap_or_default();
        if value_ms > timeout_ms + margin_ms {
            let message = format!(
                "`kafka.{name}`: {value_ms} is longer than a transaction lasts; \
                 allowed: at most `transaction.timeout.ms` ({timeout_ms})"
            );
            root.report(property.value.at, message);
        }
    }
    let revoke = kafka.session_timeout() / REVOKE_SESSION_SHARE;
    let Some(property) = kafka.get("transaction.timeout.ms").filter(|_| timeout < revoke) else {
        return;
    };
    root.report(property.value.at, short_message(timeout, revoke));
}

fn short_message(timeout: Duration, revoke: Duration) -> String {
    format!(
        "`kafka.transaction.timeout.ms`: {} is shorter than the last commit of a worker that loses its partitions \
         may take (a fifth of `session.timeout.ms`); allowed: at least {}",
        timeout.as_millis(),
        revoke.as_millis(),
    )
}
