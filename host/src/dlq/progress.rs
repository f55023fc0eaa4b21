//! Shows on a terminal how far long work is. Standard output stays clean, and short work shows nothing.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Work that is over sooner is not worth a bar.
const SHORT: Duration = Duration::from_secs(1);

/// How far something is.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            done: 0,
            began: Instant::now(),
            bar: None,
        }
    }

    pub(crate) fn advance(&mut self, count: u64) {
        self.done += count;
        if self.bar.is_none() && self.began.elapsed() > SHORT {
            // On standard error, and drawn only where that is a terminal.
            let bar = ProgressBar::new(self.total).with_message(self.what);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {eta}") {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }

    /// Writes to standard output what must not be mixed with the bar.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
