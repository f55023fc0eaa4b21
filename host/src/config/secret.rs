//! Values that must never be seen: `{file: PATH}` and `{env: NAME}` in the pipeline file.
//!
//! A [`Secret`] gives its text only to a caller that asks by name ([`Secret::expose`]); neither
//! `Debug` nor `Display` prints it, so it cannot reach a log line, a status page or an error message
//! by way of the type that holds it. It is read once, when the file is loaded.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::errors::{At, quoted};
use super::section::{Field, Keys};

/// A secret's text, hidden from `Debug` and `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that has to send or compare it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(hidden)")
    }
}

/// The keys of a secret that stands elsewhere.
const SECRET_KEYS: Keys = Keys {
    allowed: &["file", "env"],
    later: &[],
};

/// The largest secret file that is read, in bytes; a key with its whole certificate chain fits.
const SECRET_BYTES_MAX: u64 = 256 * 1024;

/// Reads a secret: `{file: PATH}`, `{env: NAME}`, or its text (from `${NAME}`, as a rule).
pub(super) fn read(field: &Field<'_>) -> Option<At<Secret>> {
    let text = if field.is_map() {
        read_elsewhere(field)?
    } else {
        field.text()?.to_owned()
    };
    if text.is_empty() {
        return field.fail("the secret is empty");
    }
    Some(At::new(Secret::new(text), field.at()))
}

fn read_elsewhere(field: &Field<'_>) -> Option<String> {
    let section = field.section(&SECRET_KEYS)?;
    match (section.get("file"), section.get("env")) {
        (Some(path), None) => read_file(&path),
        (None, Some(name)) => read_variable(&name),
        (Some(_), Some(_)) => field.fail("both `file` and `env` are given; a secret is {file: PATH} or {env: NAME}"),
        (None, None) => section.missing("file", "a secret is {file: PATH} or {env: NAME}"),
    }
}

fn read_file(field: &Field<'_>) -> Option<String> {
    let path = field.path()?;
    match read_text(&path) {
        Ok(text) => Some(text),
        Err(reason) => field.fail(format!("secret file {} cannot be read: {reason}", path.display())),
    }
}

/// Without the line break that editors and `echo` leave at the end.
fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it is larger than {SECRET_BYTES_MAX} bytes"));
    }
    // The reason must not hold the bytes: they are a secret, however broken.
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_variable(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    let value = field.variable(name);
    if value.is_none() {
        return field.fail(format!("environment variable {} is not set", quoted(name)));
    }
    value
}
