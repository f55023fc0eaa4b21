//! Finds a part of a JSON text by a pointer (RFC 6901), as it is spelt there.
//!
//! Nothing is built of what is not meant, so that a number that no machine holds spoils nothing but itself, and `20.00` stays `20.00`. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

/// What JSON takes for whitespace.
pub(crate) const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The steps of a pointer, which begins with `/` where it has any.
pub(crate) fn steps(pointer: &str) -> impl Iterator<Item = String> {
    let steps = pointer.split('/').skip(1);
    steps.map(|step| step.replace("~1", "/").replace("~0", "~"))
}

/// The part of a JSON text that the steps lead to.
pub(crate) fn find(json: &str, steps: impl IntoIterator<Item = impl AsRef<str>>) -> Option<&str> {
    let mut found = json.trim_matches(WHITESPACE);
    for step in steps {
        found = member(found, step.as_ref())?;
    }
    Some(found)
}

/// The text of a JSON string; none of anything else.
pub(crate) fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// The member of an object by its name, or of an array by its index. Of a repeated name the last one counts, as for most readers.
fn member<'a>(value: &'a str, step: &str) -> Option<&'a str> {
    let mut deserializer = Deserializer::from_str(value);
    let found = match value.as_bytes().first()? {
        b'{' | b'[' => deserializer.deserialize_any(Member(step)).ok()??,
        _ => return None,
    };
    Some(found.get())
}

struct Member<'s>(&'s str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_meant) = map.next_key_seed(Is(self.0))? {
            if is_meant {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        // `01` and `+1` are no indices.
        let is_index = self.0 == "0" || !self.0.starts_with(['0', '+']);
        let wanted: Option<usize> = self.0.parse().ok().filter(|_| is_index);
        let mut found = None;
        let mut index = 0;
        while let Some(element) = sequence.next_element::<&RawValue>()? {
            if wanted == Some(index) {
                found = Some(element);
            }
            index += 1;
        }
        Ok(found)
    }
}

/// Compares a name without keeping it.
struct Is<'s>(&'s str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pointer_leads_to_is_found_as_it_is_spelt() {
        let json = " {\"a\": {\"b/c\": [1, 20.00 ,{\"\": 1e999}], \"b/c~\": \"x\"}, \"a~\": null}\n";
        for (pointer, found) in [
            ("/a/b~1c/0", Some("1")),
            ("/a/b~1c/1", Some("20.00")),
            ("/a/b~1c/2/", Some("1e999")),
            ("/a/b~1c~0", Some("\"x\"")),
            ("/a~0", Some("null")),
            ("", Some(json.trim())),
            ("/a/b~1c/01", None),
            ("/a/b~1c/+1", None),
            ("/a/b~1c/3", None),
            ("/a~0/x", None),
            ("/b", None),
        ] {
            assert_eq!(find(json, steps(pointer)), found, "{pointer}");
        }
        assert_eq!(find(r#"{"a": 1, "a": 2}"#, ["a"]), Some("2"));
        assert_eq!((text("\"a\\u0041\""), text("5")), (Some("aA".to_owned()), None));
    }
}
