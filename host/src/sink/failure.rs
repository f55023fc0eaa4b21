//! Says what an error of writing means for the work since the last commit. Pure.

use super::Destination;
use crate::kafka::Code;
use crate::kafka::ffi::CallError;
use crate::kafka::producer::{Blame, DeliveryFailure, blame};
use crate::rights::{HINT, Operation, Right};

/// Why work since the last commit is lost and must be repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The broker refuses one of the records in the transaction.
    #[error("a record for topic {} was refused ({})", .0.topic, .0.code)]
    Refused(DeliveryFailure),
    /// The transaction cannot be completed; aborting it is enough.
    #[error("{0}")]
    Abort(String),
    /// The group has given the partitions to someone else; aborting is enough.
    #[error("fenced by the group: {0}")]
    Evicted(String),
    /// Someone else has the transactional id, or the broker ended the transaction at its timeout.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Whether the transaction was committed is not known.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Only a person can mend it.
    #[error("{0}")]
    Stop(String),
    /// The stage is to stop here by its own settings; what was done before is committed.
    #[error("{0}")]
    Held(String),
}

/// What a record that was not delivered means.
pub(super) fn of_delivery(failure: DeliveryFailure) -> Failure {
    match blame(failure.code) {
        Blame::Record => Failure::Refused(failure),
        Blame::Operator if failure.code == Code::TopicAuthorizationFailed => {
            Failure::Stop(Right::on_topic(Operation::Write, &failure.topic).lost())
        }
        Blame::Operator => Failure::Stop(format!("write to topic {}: {}", failure.topic, failure.code)),
        Blame::Passing => Failure::Abort(format!("write to topic {}: {}", failure.topic, failure.code)),
    }
}

/// The right to write one of these topics is missing.
pub(super) fn denied(destinations: &[Destination]) -> Failure {
    let topics: Vec<String> = destinations.iter().map(|known| format!("`{}`", known.topic)).collect();
    Failure::Stop(match destinations {
        [one] => Right::on_topic(Operation::Write, &one.topic).lost(),
        _ => format!(
            "the right Write on one of the topics {} is missing; {HINT}",
            topics.join(", ")
        ),
    })
}

/// What a call that failed means.
pub(super) fn failure_of(error: CallError) -> Failure {
    let text = error.to_string();
    match error.code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Failure::Fenced(text),
        // The group knows better who has the partitions: the offsets were refused, and the producer itself is unharmed.
        Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId if error.requires_abort => {
            Failure::Evicted(text)
        }
        Code::TransactionalIdAuthorizationFailed => Failure::Stop(format!(
            "the right Write on the stage's transactional ids is missing; {HINT}: {text}"
        )),
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Failure::Stop(format!("a right is missing; {HINT}: {text}"))
        }
        code if blame(code) == Blame::Operator => Failure::Stop(text),
        _ if error.requires_abort => Failure::Abort(text),
        _ => Failure::Unknown(text),
    }
}
