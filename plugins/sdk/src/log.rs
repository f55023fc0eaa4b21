//! Lines in the host's log, which adds the stage, the plugin, and the position of the batch.
//!
//! The host cuts long lines and drops lines beyond a rate, so one line per record is too many. In
//! native tests, lines are kept for `testing::take_lines`.

pub use crate::bindings::wasmill::plugin::log::Level;

/// Writes a line at level `trace`.
pub fn trace(message: &str) {
    write(Level::Trace, message, &[]);
}

/// Writes a line at level `debug`.
pub fn debug(message: &str) {
    write(Level::Debug, message, &[]);
}

/// Writes a line at level `info`.
pub fn info(message: &str) {
    write(Level::Info, message, &[]);
}

/// Writes a line at level `warn`.
pub fn warn(message: &str) {
    write(Level::Warn, message, &[]);
}

/// Writes a line at level `error`.
pub fn error(message: &str) {
    write(Level::Error, message, &[]);
}

/// Writes a line with names and values that a structured log keeps apart from the text.
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    #[cfg(target_family = "wasm")]
    crate::bindings::wasmill::plugin::log::write(level, message, fields);
    #[cfg(not(target_family = "wasm"))]
    crate::capture::line(level, message, fields);
}
