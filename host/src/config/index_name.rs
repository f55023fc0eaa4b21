//! Names of indices: what Elasticsearch can have, and names made of a record's time.
//!
//! `noaa-{yyyy.MM}` names an index for each month; the time is the record's timestamp in UTC. Between the braces stand `yyyy`, `MM`, `dd` and
//! `HH`, and what may stand between them in a name. Pure: no clock, no I/O.

use std::fmt;

use super::errors::quoted;

/// Elasticsearch's own limit for the length of a name.
const NAME_BYTES_MAX: usize = 255;
const MS_PER_HOUR: i64 = 3_600_000;
const MS_PER_DAY: i64 = 24 * MS_PER_HOUR;
/// The years that have four digits, in days since 1970.
const DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;

/// The name of an index, or how it is made of a record's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexName {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
}

impl IndexName {
    /// Reads a name as the pipeline file has it.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (pattern, after) = behind
                .split_once('}')
                .ok_or_else(|| "a `{` has no `}`; a time looks like `{yyyy.MM}`".to_owned())?;
            push_text(&mut parts, before);
            parts.extend(time_parts(pattern)?);
            rest = after;
        }
        push_text(&mut parts, rest);
        let name = Self {
            text: text.to_owned(),
            parts,
        };
        // Every time gives a name of the same length and of the same kinds of letters.
        let sample = name.at(Some(0)).unwrap_or_default();
        match mistake(&sample) {
            Some(mistake) => Err(mistake),
            None => Ok(name),
        }
    }

    /// As the pipeline file has it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is made of a record's time.
    pub fn has_time(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// The index of a record with this timestamp, in milliseconds since 1970. None: it takes a time and there is none, or its year has not
    /// four digits.
    pub fn at(&self, timestamp_ms: Option<i64>) -> Option<String> {
        if !self.has_time() {
            return Some(self.text.clone());
        }
        let timestamp_ms = timestamp_ms?;
        let days = timestamp_ms.div_euclid(MS_PER_DAY);
        if !DAYS.contains(&days) {
            return None;
        }
        let (year, month, day) = civil(days);
        let hour = timestamp_ms.rem_euclid(MS_PER_DAY) / MS_PER_HOUR;
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Year => format!("{year:04}"),
            Part::Month => format!("{month:02}"),
            Part::Day => format!("{day:02}"),
            Part::Hour => format!("{hour:02}"),
        });
        Some(parts.collect())
    }

    /// The name with a star for each time, which stands for all its indices.
    pub fn wildcard(&self) -> String {
        let mut all = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => all.push_str(text),
                _ if all.ends_with('*') => {}
                _ => all.push('*'),
            }
        }
        all
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

fn time_parts(pattern: &str) -> Result<Vec<Part>, String> {
    let known = [
        ("yyyy", Part::Year),
        ("MM", Part::Month),
        ("dd", Part::Day),
        ("HH", Part::Hour),
    ];
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if let Some((word, part)) = known.iter().find(|(word, _)| rest.starts_with(word)) {
            parts.push(part.clone());
            rest = &rest[word.len()..];
        } else if matches!(first, '.' | '-' | '_') {
            parts.push(Part::Text(first.to_string()));
            rest = &rest[1..];
        } else {
            return Err(format!(
                "{} is no time; allowed between the braces: yyyy, MM, dd, HH, and `.`, `-`, `_` between them",
                quoted(pattern)
            ));
        }
    }
    if parts.is_empty() {
        return Err("the braces are empty; a time looks like `{yyyy.MM}`".to_owned());
    }
    Ok(parts)
}

/// What keeps a text from being the name of an index.
fn mistake(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".to_owned());
    }
    if name == "." || name == ".." {
        return Some("`.` and `..` are not allowed".to_owned());
    }
    if let Some(upper) = name.chars().find(|letter| letter.is_uppercase()) {
        return Some(format!("it holds `{upper}`; only lower-case letters are allowed"));
    }
    let refused = |letter: &char| letter.is_whitespace() || letter.is_control() || "\\/*?\"<>|,#:".contains(*letter);
    if let Some(letter) = name.chars().find(refused) {
        return Some(format!(
            "it holds {}; not allowed: spaces and `\\ / * ? \" < > | , # :`",
            quoted(&letter.to_string())
        ));
    }
    if name.starts_with(['-', '_', '+']) {
        return Some("it may not begin with `-`, `_` or `+`".to_owned());
    }
    let bytes = name.len();
    (bytes > NAME_BYTES_MAX).then(|| format!("it has {bytes} bytes; allowed: at most {NAME_BYTES_MAX}"))
}

/// Year, month and day of a day since 1970, in the Gregorian calendar (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str, timestamp_ms: i64) -> String {
        IndexName::parse(text).unwrap().at(Some(timestamp_ms)).unwrap()
    }

    #[test]
    fn a_time_names_an_index_in_utc() {
        assert_eq!(at("noaa-{yyyy.MM}", 1_518_567_187_000), "noaa-2018.02");
        assert_eq!(at("a-{yyyy}-{MM}-{dd}t{HH}", 1_518_567_187_000), "a-2018-02-14t00");
        assert_eq!(at("h-{HH}", -1), "h-23");
        assert_eq!(at("y-{yyyyMMdd}", -1), "y-19691231");
        assert_eq!(at("y-{yyyy.MM.dd}", -2_208_988_800_000), "y-1900.01.01");
        assert_eq!(at("plain", 0), "plain");
    }

    #[test]
    fn a_record_without_a_usable_time_has_no_such_index() {
        let name = IndexName::parse("noaa-{yyyy}").unwrap();
        assert_eq!(name.at(None), None);
        assert_eq!(name.at(Some(i64::MAX)), None);
        assert_eq!(name.at(Some(i64::MIN)), None);
        assert_eq!(IndexName::parse("plain").unwrap().at(None).as_deref(), Some("plain"));
    }

    #[test]
    fn names_that_elasticsearch_refuses_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "Upper",
            "-a",
            "_a",
            "+a",
            "a b",
            "a/b",
            "a*",
            "a,b",
            "a#b",
            "a:b",
            "a{",
            "a{}",
            "a{yy}",
            "a{yyyy",
            "a\\b",
            "a?b",
            "a\"b",
            "a<b",
            "a>b",
            "a|b",
            "a{yyyy MM}",
        ] {
            assert!(IndexName::parse(text).is_err(), "{text}");
        }
        assert!(IndexName::parse(&"a".repeat(256)).is_err());
        assert!(IndexName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(IndexName::parse("noaa-{yyyy.MM}-x").unwrap().wildcard(), "noaa-*.*-x");
    }

    proptest! {
        /// Every name that is made is one that Elasticsearch can have, and no time panics.
        #[test]
        fn every_time_gives_a_good_name(timestamp_ms in any::<i64>()) {
            if let Some(name) = IndexName::parse("n-{yyyy.MM-dd_HH}").unwrap().at(Some(timestamp_ms)) {
                prop_assert_eq!(mistake(&name), None);
                prop_assert_eq!(name.len(), 15);
            }
        }
    }
}
