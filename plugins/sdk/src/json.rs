//! Values inside a JSON text, found where they stand.
//!
//! For plugins that read or change a few places of a value and leave every other byte alone: what is found is a part of the text
//! itself, so numbers keep their spelling, and what is added goes between the bytes that are there. Finding allocates nothing.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Text;

/// A place in a JSON text: a JSON Pointer (RFC 6901), such as `/station/state_code` or `/readings/0`. The empty one is the whole.
///
/// In a configuration it is a string, or a key of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// The member of this name, whatever characters it has, of the object that the text is.
    pub fn member(name: impl Into<String>) -> Pointer {
        Pointer {
            tokens: vec![name.into()],
        }
    }

    /// The text of the value at this place, as it is spelled; `None` where there is no such place. All of `json` is read, so what is
    /// not JSON is found out wherever it goes wrong.
    ///
    /// # Errors
    /// It is not JSON, or names a member on the way twice, which readers would take differently.
    pub fn find<'a>(&self, json: &'a [u8]) -> Result<Option<&'a str>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let found = Seek(&self.tokens).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found.map(RawValue::get))
    }
}

impl FromStr for Pointer {
    type Err = InvalidPointer;

    fn from_str(text: &str) -> Result<Pointer, InvalidPointer> {
        let invalid = || InvalidPointer(text.to_owned());
        if text.is_empty() {
            return Ok(Pointer { tokens: Vec::new() });
        }
        let tokens = text.strip_prefix('/').ok_or_else(invalid)?.split('/');
        let tokens = tokens.map(|token| unescaped(token).ok_or_else(invalid));
        Ok(Pointer {
            tokens: tokens.collect::<Result<_, _>>()?,
        })
    }
}

/// None where a `~` is followed by neither `0` nor `1`.
fn unescaped(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        name.push(character);
        name.push_str(rest);
    }
    Some(name)
}

impl fmt::Display for Pointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |token: &String| token.replace('~', "~0").replace('/', "~1");
        self.tokens
            .iter()
            .try_for_each(|token| write!(formatter, "/{}", escaped(token)))
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pointer, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The pieces of a JSON object with one more member at its end, such as `"email":"a@example.org"`; every other byte stays. `object` is known
/// to be JSON; `None` if it is not an object. That no member has the name already is for the caller to see to, by [`Present`].
///
/// ```
/// let pieces = wasmill_plugin::json::with_member(br#"{"a": 1.50}"#, br#""b":2"#).unwrap();
/// assert_eq!(pieces.concat(), br#"{"a": 1.50,"b":2}"#);
/// ```
pub fn with_member<'a>(object: &'a [u8], member: &'a [u8]) -> Option<[&'a [u8]; 4]> {
    let brace = object
        .trim_ascii_end()
        .len()
        .checked_sub(1)
        .filter(|&last| object[last] == b'}')?;
    let (before, after) = object.split_at(brace);
    let comma: &[u8] = if before.trim_ascii_end().ends_with(b"{") {
        b""
    } else {
        b","
    };
    Some([before, comma, member, after])
}

/// Whether an object has a member, whatever its value is, null too: the type of a field with `#[serde(default)]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(pub bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Present, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|IgnoredAny| Present(true))
    }
}

/// A text that is no JSON Pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPointer(String);

impl fmt::Display for InvalidPointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidPointer(text) = self;
        write!(
            formatter,
            "`{text}` is no JSON Pointer: each part begins with `/`, and in it `~` is written `~0` and `/` is written `~1`"
        )
    }
}

impl std::error::Error for InvalidPointer {}

/// Goes down the tokens while the text is read.
#[derive(Clone, Copy)]
struct Seek<'t>(&'t [String]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => <&RawValue>::deserialize(deserializer).map(Some),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let mut found = None;
        while let Some(name) = members.next_key::<Text<'_>>()? {
            if *name != **token {
                members.next_value::<IgnoredAny>()?;
            } else if found.is_none() {
                found = Some(members.next_value_seed(Seek(rest))?);
            } else {
                return Err(A::Error::custom(format_args!("duplicate field `{token}`")));
            }
        }
        Ok(found.flatten())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        // A second spelling of an index, such as `00`, is none.
        let wanted = token.parse().ok().filter(|index: &usize| index.to_string() == *token);
        let (mut index, mut found) = (0, None);
        loop {
            let is_there = if Some(index) == wanted {
                let item = items.next_element_seed(Seek(rest))?;
                found = item.flatten();
                item.is_some()
            } else {
                items.next_element::<IgnoredAny>()?.is_some()
            };
            if !is_there {
                return Ok(found);
            }
            index += 1;
        }
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Pointer, Present, with_member};

    fn found<'a>(json: &'a str, pointer: &str) -> Result<Option<&'a str>, String> {
        let pointer: Pointer = pointer.parse().unwrap();
        pointer.find(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_is_found_as_it_is_spelled() {
        let json = r#" {"a": {"b": [1.50, {"c": "x\u0041"}, null]}, "": {"~/": -0}, "t": true} "#;
        for (pointer, expected) in [
            ("/a/b/0", Some("1.50")),
            ("/a/b/1/c", Some(r#""x\u0041""#)),
            ("/a/b/2", Some("null")),
            ("/a/b", Some(r#"[1.50, {"c": "x\u0041"}, null]"#)),
            ("//~0~1", Some("-0")),
            ("/t", Some("true")),
            ("", Some(json.trim())),
            ("/a/b/3", None),
            ("/a/b/00", None),
            ("/a/b/-", None),
            ("/a/b/0/c", None),
            ("/a/b/1/d", None),
            ("/a/b/2/c", None),
            ("/t/x", None),
            ("/b", None),
        ] {
            assert_eq!(found(json, pointer), Ok(expected), "{pointer}");
        }
    }

    #[test]
    fn what_is_found_is_a_part_of_the_text() {
        let json = br#"{"a":1,"b":1}"#;
        let b = Pointer::member("b").find(json).unwrap().unwrap();
        assert_eq!(json.element_offset(&b.as_bytes()[0]), Some(11));
    }

    #[test]
    fn a_member_s_name_is_compared_as_text() {
        assert_eq!(found(r#"{"\u0061b": 1}"#, "/ab"), Ok(Some("1")));
        assert_eq!(Pointer::member("a/~0").find(br#"{"a/~0": 2}"#).unwrap(), Some("2"));
    }

    #[test]
    fn what_is_wrong_anywhere_is_found_out() {
        let wrong = |json: &str| found(json, "/a").unwrap_err();
        assert_eq!(wrong(r#"{"a": 1, "a": 2}"#), "duplicate field `a` at line 1 column 12");
        assert!(wrong(r#"{"a": 1, "b": }"#).starts_with("expected value"));
        assert!(wrong(r#"{"a": 1"#).starts_with("EOF"));
        assert!(wrong(r#"{"a": 1} x"#).starts_with("trailing characters"));
        assert!(wrong("").starts_with("EOF"));
    }

    #[test]
    fn a_pointer_is_read_and_written_alike() {
        for text in ["", "/", "/a", "/a/0/b c", "/~0~1~01//"] {
            assert_eq!(text.parse::<Pointer>().unwrap().to_string(), text);
        }
        for text in ["a", "a/b", "/~", "/~2", "/a~/b"] {
            let error = text.parse::<Pointer>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no JSON Pointer: ")), "{error}");
        }
    }

    #[test]
    fn a_member_is_added_to_any_object() {
        for (object, expected) in [
            ("{}", Some("{M}")),
            ("{ }\n", Some("{ M}\n")),
            (r#"{"a":{}}"#, Some(r#"{"a":{},M}"#)),
            ("{\"a\":\"{\" \r\n}\t ", Some("{\"a\":\"{\" \r\n,M}\t ")),
            ("[]", None),
            ("", None),
        ] {
            let pieces = with_member(object.as_bytes(), b"M").map(|pieces| pieces.concat());
            assert_eq!(pieces.as_deref(), expected.map(str::as_bytes), "{object}");
        }
    }

    #[test]
    fn a_member_is_present_whatever_its_value() {
        for json in ["null", "0", "{\"a\":[]}"] {
            assert_eq!(serde_json::from_str::<Present>(json).unwrap(), Present(true));
        }
        assert_eq!(Present::default(), Present(false));
    }
}
