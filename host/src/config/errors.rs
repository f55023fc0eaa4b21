//! Where things stand in the pipeline file, and what is wrong there.
//!
//! Every value that was read keeps its place ([`At`]), so that a mistake that only shows later (a
//! port that the plugin does not have, a topic that does not exist) is reported just like one that
//! the loader found itself: `FILE:LINE:COLUMN: message`. A message is one line, lowercase, names the
//! thing, says what is allowed and, where a name is unknown, the nearest one that exists.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::printable::one_line;

/// A place in the pipeline file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// A value and the place it was read from; of a default, the place of what it belongs to.
#[derive(Clone, Copy)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: Location,
}

impl<T> At<T> {
    /// Joins a value and its place.
    pub fn new(value: T, at: Location) -> Self {
        Self { value, at }
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for At<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}

/// One mistake: its place, unless it is about the file as a whole, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where the mistake stands; `None` when the file as a whole is meant.
    pub at: Option<Location>,
    /// One line, without the place.
    pub message: String,
}

impl ConfigError {
    /// Makes an error that points to a place in the file.
    pub fn at(at: Location, message: impl Into<String>) -> Self {
        Self {
            at: Some(at),
            message: message.into(),
        }
    }

    /// Makes an error about the file as a whole.
    pub fn whole_file(message: impl Into<String>) -> Self {
        Self {
            at: None,
            message: message.into(),
        }
    }
}

/// Every mistake that was found in one pipeline file, sorted by place; never empty.
///
/// `Display` prints one line each, without a line break at the end.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ConfigErrors {
    file: PathBuf,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// Sorts the mistakes by place and drops repeated ones; `Ok` when there are none.
    ///
    /// # Errors
    /// The mistakes, when there is at least one.
    pub fn collect(file: &Path, mut errors: Vec<ConfigError>) -> Result<(), Self> {
        errors.sort();
        errors.dedup();
        if errors.is_empty() {
            return Ok(());
        }
        Err(Self {
            file: file.to_owned(),
            errors,
        })
    }

    /// A file with this one mistake.
    pub fn one(file: &Path, error: ConfigError) -> Self {
        Self {
            file: file.to_owned(),
            errors: vec![error],
        }
    }

    /// The mistakes, sorted by place.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            // Some of it can be a plugin's words.
            let message = one_line(&error.message);
            match error.at {
                Some(at) => write!(formatter, "{file}:{}:{}: {message}", at.line, at.column)?,
                None => write!(formatter, "{file}: {message}")?,
            }
        }
        Ok(())
    }
}

/// The longest piece of a user's value that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// Puts a piece of the user's text between backticks, on one line and cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "`\"\"`".to_owned();
    }
    let escaped: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    let escaped = escaped.replace("\\\"", "\"").replace("\\'", "'");
    let cut = if text.chars().count() > QUOTED_CHARS_MAX {
        "..."
    } else {
        ""
    };
    format!("`{escaped}{cut}`")
}

/// `; did you mean ..?` when one of the names is near the unknown one, else nothing.
pub(crate) fn suggestion<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(unknown, names).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The name that is fewest edits away; none when even that would be mostly another word.
pub(super) fn nearest<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer text is no misspelt name, and the distance costs its length squared.
    if unknown.len() > 100 {
        return None;
    }
    let lowercase = unknown.to_lowercase().replace('_', "-");
    let edits_max = (lowercase.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lowercase, &name.replace('_', "-")), name))
        // A name of one letter would be near every other one.
        .filter(|(edits, _)| *edits <= edits_max && *edits < lowercase.chars().count())
        .min()
        .map(|(_, name)| name)
}
