//! What can go wrong with one record, and the words for it.
//!
//! A fault is the plugin's: a trap, a deadline, memory, an answer that breaks the contract. A reject is the plugin's verdict, a refusal
//! the broker's. Each costs one record, which becomes a dead letter with the kind, the words and, for a trap, the guest's backtrace.

use std::fmt;

use crate::plugin::limits::Limit;

/// Why a record became a dead letter. The text form is what headers, metrics and `/status` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The guest trapped: a panic, an exit, an overflown stack.
    Trap,
    /// The guest ran past its deadline.
    Deadline,
    /// The guest wanted more memory than its limit.
    Memory,
    /// The guest's answer breaks a rule of the contract.
    Malformed,
    /// The plugin rejected the record.
    Reject,
    /// The plugin asked for another try until the limit was reached.
    Retry,
    /// The broker or its client would not take what the plugin made of the record.
    Refused,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::Trap,
        Kind::Deadline,
        Kind::Memory,
        Kind::Malformed,
        Kind::Reject,
        Kind::Retry,
        Kind::Refused,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Trap => "trap",
            Kind::Deadline => "deadline",
            Kind::Memory => "memory",
            Kind::Malformed => "malformed",
            Kind::Reject => "reject",
            Kind::Retry => "retry",
            Kind::Refused => "refused",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure with its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// The guest's call stack, where there is one.
    pub(crate) backtrace: Option<String>,
    /// The limit that was hit, if one was.
    pub(crate) limit: Option<Limit>,
}

impl Fault {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            backtrace: None,
            limit: None,
        }
    }

    /// The same, because of a limit.
    pub(crate) fn at(self, limit: Limit) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }
}
