//! A string of a JSON value that is borrowed wherever the JSON spells it without escapes.
//!
//! `&str` would refuse an escaped string, `Option<Cow<str>>` would copy every one; filters compare
//! strings of each record, so neither does.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A string that borrows from the record where it can. A field of this type needs
/// `#[serde(borrow)]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde::Deserialize;

    use super::Text;

    #[derive(Deserialize)]
    struct Station<'a> {
        #[serde(borrow)]
        name: Option<Text<'a>>,
    }

    #[test]
    fn text_is_borrowed_unless_it_is_escaped() {
        let plain: Station<'_> = serde_json::from_str(r#"{"name": "Ny-Ålesund"}"#).unwrap();
        assert!(matches!(plain.name, Some(Text(Cow::Borrowed("Ny-Ålesund")))));
        let escaped: Station<'_> = serde_json::from_str(r#"{"name": "Ny-\u00c5lesund"}"#).unwrap();
        assert_eq!(escaped.name.as_deref(), Some("Ny-Ålesund"));
        let null: Station<'_> = serde_json::from_str(r#"{"name": null}"#).unwrap();
        assert!(null.name.is_none());
    }
}
