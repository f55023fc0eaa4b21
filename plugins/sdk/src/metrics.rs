//! Numbers among the host's metrics, labelled with the stage and the plugin's name.
//!
//! A name is 1 to 64 lower-case letters, digits and underscores, and begins with a letter; the host
//! drops others, and those beyond the first 100. They count what the plugin did: a batch that is
//! repeated counts twice. In native tests, calls are kept for `testing::take_metrics`.

#[cfg(target_family = "wasm")]
use crate::bindings::wasmill::plugin::metrics as host;
#[cfg(not(target_family = "wasm"))]
use crate::capture as host;

/// Adds to a counter.
pub fn add(name: &str, amount: u64) {
    host::add(name, amount);
}

/// Sets a gauge.
pub fn set(name: &str, value: f64) {
    host::set(name, value);
}

/// Adds an observation to a histogram; the host drops what is not a finite number.
pub fn observe(name: &str, value: f64) {
    host::observe(name, value);
}
