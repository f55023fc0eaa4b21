//! Where log lines and metrics go in a native build: kept for the test that runs on this thread,
//! until it takes them.

use std::cell::RefCell;

use crate::log::Level;
use crate::testing::{Line, Metric};

thread_local! {
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static METRICS: RefCell<Vec<Metric>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn line(level: Level, message: &str, fields: &[(&str, &str)]) {
    let fields = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    LINES.with_borrow_mut(|lines| {
        lines.push(Line {
            level,
            message: message.to_owned(),
            fields,
        })
    });
}

pub(crate) fn add(name: &str, amount: u64) {
    METRICS.with_borrow_mut(|metrics| metrics.push(Metric::Add(name.to_owned(), amount)));
}

pub(crate) fn set(name: &str, value: f64) {
    METRICS.with_borrow_mut(|metrics| metrics.push(Metric::Set(name.to_owned(), value)));
}

pub(crate) fn observe(name: &str, value: f64) {
    METRICS.with_borrow_mut(|metrics| metrics.push(Metric::Observe(name.to_owned(), value)));
}

pub(crate) fn take_lines() -> Vec<Line> {
    LINES.take()
}

pub(crate) fn take_metrics() -> Vec<Metric> {
    METRICS.take()
}
