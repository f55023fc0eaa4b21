//! Converts numbers of a record to other units, where they stand: degrees Celsius to Fahrenheit, millimetres to inches.
//!
//! The configuration names the places by JSON Pointers; what is not named keeps its place and its bytes. A place that a record lacks,
//! or that is null, is left alone. The calculation is one of decimals, so 1.7 degrees are 35.06 and not 35.059999999999995. A result has
//! always the same number of digits after its point, rounded half away from zero: numbers that are whole now and then would look
//! like integers to a reader that guesses types by the first record, as Elasticsearch does.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, RoundingMode};
use serde::Deserialize;
use wasmill_plugin::json::Pointer;
use wasmill_plugin::{MessagePort, Output, Port, Processor, Reads, Record, Rejection};

const CONVERTED: MessagePort = MessagePort::new(0, "converted");

/// Digits of a measured value. `1e999999999` would else be written out.
const DIGITS_MAX: usize = 100;

/// The places and their conversions, which are also the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvertUnits {
    fields: BTreeMap<Pointer, Conversion>,
    #[serde(default = "two")]
    decimals: u8,
}

fn two() -> u8 {
    2
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Conversion {
    CelsiusToFahrenheit,
    MillimetresToInches,
}

impl Conversion {
    fn of(self, number: BigDecimal) -> BigDecimal {
        match self {
            Conversion::CelsiusToFahrenheit => number * BigDecimal::new(18.into(), 1) + BigDecimal::from(32),
            Conversion::MillimetresToInches => number / BigDecimal::new(254.into(), 1),
        }
    }
}

impl Processor for ConvertUnits {
    type Config = ConvertUnits;
    const PORTS: &'static [Port] = &[Port::Message(CONVERTED)];
    const READS: Reads = Reads::VALUE;
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {
            "fields": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": "^(/([^/~]|~[01])*)+$"},
                "additionalProperties": {"enum": ["celsius-to-fahrenheit", "millimetres-to-inches"]},
                "description": "conversions by JSON Pointer, such as {/TMAX: celsius-to-fahrenheit}"
            },
            "decimals": {"type": "integer", "minimum": 0, "maximum": 20, "default": 2, "description": "digits after the point"}
        },
        "required": ["fields"],
        "additionalProperties": false
    }"#;

    fn configure(config: ConvertUnits) -> Result<ConvertUnits, String> {
        Ok(config)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let value = record.value().unwrap_or_default();
        let mut changes = Vec::new();
        for (pointer, conversion) in &self.fields {
            let Some(text) = record.at(pointer)?.filter(|text| *text != "null") else {
                continue;
            };
            let number = decimal(text).ok_or_else(|| no_number(pointer, text))?;
            let number = conversion.of(number);
            let rounded = number.with_scale_round(self.decimals.into(), RoundingMode::HalfUp);
            // What is found is a part of the value, and no number is empty.
            let start = value.element_offset(&text.as_bytes()[0]).unwrap_or_default();
            changes.push((start..start + text.len(), rounded.to_plain_string()));
        }
        if changes.is_empty() {
            out.forward(CONVERTED);
            return Ok(());
        }
        changes.sort_by_key(|(range, _)| range.start);
        let ends = changes.iter().map(|(range, _)| range.start).chain([value.len()]);
        let starts = [0].into_iter().chain(changes.iter().map(|(range, _)| range.end));
        let kept = starts.zip(ends).map(|(start, end)| &value[start..end]);
        let written = changes.iter().map(|(_, text)| text.as_bytes()).chain([b"".as_slice()]);
        let pieces = kept.zip(written).flat_map(|(kept, written)| [kept, written]);
        out.message(CONVERTED).value_of(pieces).send();
        Ok(())
    }
}

/// None where it is no number, or has too many digits.
fn decimal(text: &str) -> Option<BigDecimal> {
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let number: BigDecimal = (is_number && text.len() <= DIGITS_MAX).then(|| text.parse().ok())??;
    let zeros = number.fractional_digit_count().unsigned_abs();
    (number.digits().saturating_add(zeros) <= DIGITS_MAX as u64).then_some(number)
}

fn no_number(pointer: &Pointer, text: &str) -> Rejection {
    let start: String = text.chars().take(40).collect();
    Rejection::new(format!(
        "`{pointer}` is not a number of at most {DIGITS_MAX} digits: {start}"
    ))
}

wasmill_plugin::processor!(ConvertUnits);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::ConvertUnits;

    const CONFIG: &str = r#"{"fields": {
        "/TMAX": "celsius-to-fahrenheit", "/TMIN": "celsius-to-fahrenheit", "/rain/0": "millimetres-to-inches"
    }}"#;

    fn reply_with(config: &str, value: &str) -> Reply {
        let record = Input::value(value).key("k").header("h", "1").timestamp_ms(17);
        Plugin::<ConvertUnits>::new(config).unwrap().process(&record)
    }

    fn converted(value: &str) -> String {
        reply_with(CONFIG, value).into_message().text().to_owned()
    }

    #[test]
    fn numbers_are_converted_where_they_stand() {
        let value = r#" {"TMIN": 1.7 ,"AWND":5.90,"rain":[2.5,2.5],"s":"TMAX","TMAX":-40}"#;
        let message = reply_with(CONFIG, value).into_message();
        assert_eq!(
            message.text(),
            r#" {"TMIN": 35.06 ,"AWND":5.90,"rain":[0.10,2.5],"s":"TMAX","TMAX":-40.00}"#
        );
        assert_eq!((message.port.as_str(), message.headers.len()), ("converted", 1));
        assert_eq!(
            (message.key.as_deref(), message.timestamp_ms),
            (Some(b"k".as_slice()), Some(17))
        );
    }

    #[test]
    fn conversions_are_those_of_decimals() {
        for (celsius, fahrenheit) in [
            ("0", "32.00"),
            ("-0.0", "32.00"),
            ("100", "212.00"),
            ("36.7", "98.06"),
            ("1e1", "50.00"),
            ("-17.7777777777777777777", "0.00"),
            ("-273.15", "-459.67"),
        ] {
            assert_eq!(
                converted(&format!(r#"{{"TMAX":{celsius}}}"#)),
                format!(r#"{{"TMAX":{fahrenheit}}}"#)
            );
        }
        for (millimetres, inches) in [
            ("0.0", "0.00"),
            ("25.4", "1.00"),
            ("1", "0.04"),
            ("-0.1", "0.00"),
            ("1000000", "39370.08"),
            // Exactly half of a hundredth.
            ("0.127", "0.01"),
            ("-0.127", "-0.01"),
        ] {
            assert_eq!(
                converted(&format!(r#"{{"rain":[{millimetres}]}}"#)),
                format!(r#"{{"rain":[{inches}]}}"#)
            );
        }
    }

    #[test]
    fn results_have_as_many_decimals_as_are_wanted() {
        for (decimals, expected) in [(0, "35"), (1, "35.1"), (4, "35.0600")] {
            let config = format!(r#"{{"fields": {{"/t": "celsius-to-fahrenheit"}}, "decimals": {decimals}}}"#);
            let message = reply_with(&config, r#"{"t":1.7}"#).into_message();
            assert_eq!(message.text(), format!(r#"{{"t":{expected}}}"#));
        }
    }

    #[test]
    fn a_record_with_nothing_to_convert_is_forwarded() {
        for value in [r#"{"PRCP":1}"#, r#"{"TMAX":null,"rain":[]}"#, "[]", "7"] {
            assert_eq!(reply_with(CONFIG, value), Reply::forwarded("converted"), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_converted_is_rejected_with_the_reason() {
        for (value, reason) in [
            (
                r#"{"TMAX":"1"}"#,
                r#"`/TMAX` is not a number of at most 100 digits: "1""#,
            ),
            (
                r#"{"TMAX":1e999999999}"#,
                "`/TMAX` is not a number of at most 100 digits: 1e999999999",
            ),
            (
                r#"{"TMIN":1,"TMAX":[1]}"#,
                "`/TMAX` is not a number of at most 100 digits: [1]",
            ),
        ] {
            assert_eq!(reply_with(CONFIG, value), Reply::rejected(reason));
        }
        for (value, reason) in [("{", "EOF"), (r#"{"TMAX":1,"TMAX":2}"#, "duplicate field `TMAX`")] {
            let Reply::Rejected(text) = reply_with(CONFIG, value) else {
                panic!("{value} is not rejected")
            };
            assert!(text.contains(reason), "{text}");
        }
        let mut plugin = Plugin::<ConvertUnits>::new(CONFIG).unwrap();
        assert_eq!(
            plugin.process(&Input::tombstone()),
            Reply::rejected("the value is null")
        );
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
        let refused = |config: &str| Plugin::<ConvertUnits>::new(config).err().unwrap();
        assert_eq!(refused("{}"), "missing field `fields`");
        let text = refused(r#"{"fields": {"TMAX": "celsius-to-fahrenheit"}}"#);
        assert!(text.contains("`TMAX` is no JSON Pointer"), "{text}");
        let text = refused(r#"{"fields": {"/a": "feet"}}"#);
        assert!(text.contains("unknown variant `feet`"), "{text}");
    }
}
