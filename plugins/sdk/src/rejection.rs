//! Why a record was not processed, and whether it may be tried again.
//!
//! Any error turns into a rejection by `?`, with its sources, so that a plugin needs no error type
//! of its own. A rejection costs one record; a panic costs the host a repetition of the batch in
//! halves.

use std::borrow::Cow;
use std::error::Error;

/// A record that cannot be processed. It goes to the dead-letter topic with the reason: at once, or
/// when trying again did not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(crate) reason: Cow<'static, str>,
    pub(crate) is_retry: bool,
}

impl Rejection {
    /// The record cannot be processed, now or ever.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection {
            reason: reason.into(),
            is_retry: false,
        }
    }

    /// The record cannot be processed now: the partition starts again with it after a pause, and
    /// after a number of tries that the stage sets it becomes a dead letter.
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection {
            reason: reason.into(),
            is_retry: true,
        }
    }

    /// The reason, for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the record may be tried again.
    pub fn is_retry(&self) -> bool {
        self.is_retry
    }
}

/// Any error is a rejection for ever, with the text of the error and of its sources. (So a
/// rejection cannot be an [`Error`] itself.)
impl<E: Error> From<E> for Rejection {
    fn from(error: E) -> Rejection {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            source = error.source();
        }
        Rejection::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::Rejection;

    #[test]
    fn an_error_becomes_a_rejection_in_its_own_words() {
        let failed = || -> Result<i32, Rejection> { Ok("x".parse::<i32>()?) };
        assert_eq!(failed(), Err(Rejection::new("invalid digit found in string")));
    }
}
