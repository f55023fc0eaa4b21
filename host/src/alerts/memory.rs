//! Alerts in memory, for `dev`: what would be sent, so that it can be shown, and nobody is told.

use std::sync::{Mutex, PoisonError};

/// All alerts of a run, in the order of their sending.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Vec<Shown>>);

/// One alert.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The output: `webhook HOST`, or `smtp`.
    pub(crate) output: String,
    /// Its key or recipients, and what it says.
    pub(crate) line: String,
}

impl Memory {
    pub(super) fn keep(&self, output: &str, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Shown {
            output: output.to_owned(),
            line,
        });
    }

    /// What each output would have sent, outputs in the order of their names.
    pub(crate) fn contents(&self) -> Vec<(String, Vec<String>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outputs: Vec<&str> = all.iter().map(|shown| shown.output.as_str()).collect();
        outputs.sort_unstable();
        outputs.dedup();
        let of = |output: &str| {
            let shown = all.iter().filter(|shown| shown.output == output);
            (output.to_owned(), shown.map(|shown| shown.line.clone()).collect())
        };
        outputs.into_iter().map(of).collect()
    }
}
