//! What the benchmarks share: their arguments, and quantiles of what they measured.

use std::time::Duration;

/// The number behind `name` on the command line.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    let value = std::env::args().skip_while(|argument| argument != name).nth(1);
    value.map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} wants a number, not {value}"))
    })
}

/// Whether `name` stands on the command line.
pub(crate) fn is_given(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// A quantile in milliseconds of latencies that are sorted; not a number where there are none.
pub(crate) fn quantile_ms(latencies: &[Duration], quantile: f64) -> f64 {
    let place = (latencies.len().saturating_sub(1) as f64 * quantile) as usize;
    latencies
        .get(place)
        .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
}
