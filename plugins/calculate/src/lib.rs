//! Adds up or subtracts the operands of a record: `{"operation": "sum", "operands": [5, 2]}` becomes
//! `{"operation": "sum", "operands": [5, 2],"result":7}`.
//!
//! `sum` adds all operands, `subtract` takes all others from the first. Results are exact, for decimals too: 0.1 and 0.2 are 0.3, and
//! integers do not end at 64 bits. Every other byte of the value stays. What cannot be calculated is rejected, and so is a record that
//! has a field `result` already.

use bigdecimal::BigDecimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use wasmill_plugin::json::{self, Present};
use wasmill_plugin::{MessagePort, NoConfig, Output, Port, Processor, Reads, Record, Rejection, Text};

const RESULTS: MessagePort = MessagePort::new(0, "results");

/// Digits of an operand that is written out without an exponent. `1e999999999` would else be a sum of a gigabyte.
const DIGITS_MAX: usize = 100;

/// Has nothing to keep.
pub struct Calculate;

#[derive(Deserialize)]
struct Calculation<'a> {
    #[serde(borrow)]
    operation: Text<'a>,
    #[serde(borrow)]
    operands: Vec<&'a RawValue>,
    #[serde(default)]
    result: Present,
}

impl Processor for Calculate {
    type Config = NoConfig;
    const PORTS: &'static [Port] = &[Port::Message(RESULTS)];
    const READS: Reads = Reads::VALUE;
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false}"#;

    fn configure(_: NoConfig) -> Result<Calculate, String> {
        Ok(Calculate)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let calculation: Calculation<'_> = record.json()?;
        if calculation.result.0 {
            return Err(Rejection::new("the record has a field `result` already"));
        }
        let member = format!(r#""result":{}"#, result(&calculation)?);
        let value = json::with_member(record.value().unwrap_or_default(), member.as_bytes())
            .ok_or_else(|| Rejection::new("the value is not a JSON object"))?;
        out.message(RESULTS).value_of(value).send();
        Ok(())
    }
}

/// The result, as JSON spells it.
fn result(calculation: &Calculation<'_>) -> Result<String, Rejection> {
    let mut operands = calculation.operands.iter().zip(1..).map(operand);
    let first = operands
        .next()
        .unwrap_or_else(|| Err(Rejection::new("`operands` is empty")))?;
    let result: BigDecimal = match calculation.operation.as_str() {
        "sum" => operands.try_fold(first, |sum, operand| Ok::<_, Rejection>(sum + operand?))?,
        "subtract" => operands.try_fold(first, |rest, operand| Ok::<_, Rejection>(rest - operand?))?,
        other => {
            let text = format!("`operation` is {other:?}; known are `sum` and `subtract`");
            return Err(Rejection::new(text));
        }
    };
    Ok(result.to_plain_string())
}

fn operand((raw, number): (&&RawValue, usize)) -> Result<BigDecimal, Rejection> {
    let text = raw.get();
    let kind = match text.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => {
            let too_long = || Rejection::new(format!("operand {number} has more than {DIGITS_MAX} digits"));
            return decimal(text).ok_or_else(too_long);
        }
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'n') => "null",
        _ => "a boolean",
    };
    Err(Rejection::new(format!("operand {number} is not a number but {kind}")))
}

/// None where it has too many digits.
fn decimal(number: &str) -> Option<BigDecimal> {
    // Read only what is short: the work grows with the square of the length.
    let number: BigDecimal = (number.len() <= DIGITS_MAX).then(|| number.parse().ok())??;
    let zeros = number.fractional_digit_count().unsigned_abs();
    (number.digits().saturating_add(zeros) <= DIGITS_MAX as u64).then_some(number)
}

wasmill_plugin::processor!(Calculate);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::Calculate;

    fn reply(record: &Input) -> Reply {
        Plugin::<Calculate>::new("{}").unwrap().process(record)
    }

    fn result(operation: &str, operands: &str) -> String {
        let value = format!(r#"{{"operation":"{operation}","operands":{operands}}}"#);
        let message = reply(&Input::value(&value)).into_message();
        let start = format!(r#"{},"result":"#, value.strip_suffix('}').unwrap());
        let rest = message.text().strip_prefix(&start).unwrap();
        rest.strip_suffix('}').unwrap().to_owned()
    }

    fn rejected(value: &str) -> String {
        match reply(&Input::value(value)) {
            Reply::Rejected(reason) => reason,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn the_record_is_kept_and_gets_its_result() {
        let value = r#"{ "id": 1.50, "operation": "\u0073um", "operands": [5, 2] } "#;
        let message = reply(&Input::value(value).key("k").header("h", "1")).into_message();
        assert_eq!(
            message.text(),
            r#"{ "id": 1.50, "operation": "\u0073um", "operands": [5, 2] ,"result":7} "#
        );
        assert_eq!((message.port.as_str(), message.headers.len()), ("results", 1));
        assert_eq!(message.key.as_deref(), Some(b"k".as_slice()));
    }

    #[test]
    fn operands_are_added_up_or_subtracted_from_the_first() {
        for (operation, operands, expected) in [
            ("sum", "[5, 2]", "7"),
            ("subtract", "[5, 2]", "3"),
            ("subtract", "[2, 5]", "-3"),
            ("sum", "[1, 2, 3, 4]", "10"),
            ("subtract", "[10, 1, 2, 3]", "4"),
            ("sum", "[5]", "5"),
            ("subtract", "[5]", "5"),
            ("sum", "[-5, 5]", "0"),
            ("sum", "[-0, 0]", "0"),
        ] {
            assert_eq!(result(operation, operands), expected, "{operation} {operands}");
        }
    }

    #[test]
    fn results_are_exact() {
        for (operation, operands, expected) in [
            ("sum", "[0.1, 0.2]", "0.3"),
            ("sum", "[1.10, 2.20]", "3.30"),
            ("subtract", "[1e2, 1E-2]", "99.99"),
            ("sum", "[1.5e+3, 0]", "1500"),
            ("sum", "[9007199254740993, 0]", "9007199254740993"),
            ("sum", "[9223372036854775807, 1]", "9223372036854775808"),
            (
                "subtract",
                "[-170141183460469231731687303715884105728, 1]",
                "-170141183460469231731687303715884105729",
            ),
        ] {
            assert_eq!(result(operation, operands), expected, "{operation} {operands}");
        }
    }

    #[test]
    fn a_number_has_as_many_digits_as_are_allowed() {
        let operand = "9".repeat(100);
        assert_eq!(result("subtract", &format!("[{operand}, 0]")), operand);
        assert_eq!(result("sum", "[1e99]"), format!("1{}", "0".repeat(99)));
        let large = [format!("{operand}9"), "1e100".to_owned(), "1e999999999".to_owned()];
        let small = ["1e-100".to_owned(), "1e-99999999999999999999".to_owned()];
        for operand in large.iter().chain(&small) {
            let value = format!(r#"{{"operation":"sum","operands":[1,{operand}]}}"#);
            assert_eq!(rejected(&value), "operand 2 has more than 100 digits", "{operand}");
        }
    }

    #[test]
    fn what_cannot_be_calculated_is_rejected_with_the_reason() {
        for (value, reason) in [
            (
                r#"{"operation":"multiply","operands":[5,2]}"#,
                r#"`operation` is "multiply"; known are `sum` and `subtract`"#,
            ),
            (r#"{"operation":"sum","operands":[]}"#, "`operands` is empty"),
            (
                r#"{"operation":"sum","operands":[5,"2"]}"#,
                "operand 2 is not a number but a string",
            ),
            (
                r#"{"operation":"sum","operands":[null]}"#,
                "operand 1 is not a number but null",
            ),
            (
                r#"{"operation":"sum","operands":[true]}"#,
                "operand 1 is not a number but a boolean",
            ),
            (
                r#"{"operation":"sum","operands":[[1]]}"#,
                "operand 1 is not a number but an array",
            ),
            (
                r#"{"operation":"sum","operands":[{}]}"#,
                "operand 1 is not a number but an object",
            ),
            (
                r#"{"operation":"sum","operands":[1],"result":null}"#,
                "the record has a field `result` already",
            ),
            (r#"["sum",[5,2]]"#, "the value is not a JSON object"),
        ] {
            assert_eq!(rejected(value), reason);
        }
        assert!(rejected(r#"{"operands":[5,2]}"#).contains("missing field `operation`"));
        assert!(rejected(r#"{"operation":"sum"}"#).contains("missing field `operands`"));
        assert!(rejected(r#"{"operation":1,"operands":[5,2]}"#).contains("invalid type: integer `1`"));
        assert!(rejected(r#"{"operation":"sum","operands":5}"#).contains("invalid type: integer `5`"));
        assert!(rejected("5 + 2").contains("invalid type: integer `5`"));
        assert_eq!(reply(&Input::tombstone()), Reply::rejected("the value is null"));
    }
}
