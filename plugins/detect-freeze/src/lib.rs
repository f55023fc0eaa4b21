//! Sends an alert for each observation of one weather station whose lowest temperature is at or
//! below a threshold.
//!
//! The alert is the record with one more field, `email`, at its end; every other byte of the value
//! stays, so numbers keep their spelling. A record without a lowest temperature is no alert. A cold
//! record that has a field `email` already is rejected: a second one would make readers disagree,
//! and an overwritten one would be lost.

use serde::Deserialize;
use wasmill_plugin::json::{self, Present};
use wasmill_plugin::{MessagePort, Output, Port, Processor, Reads, Record, Rejection, Text};

const ALERTS: MessagePort = MessagePort::new(0, "alerts");

/// The stage's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    station: String,
    threshold_celsius: f64,
    email: String,
}

/// The station, the threshold, and the field that is added.
pub struct DetectFreeze {
    station: String,
    threshold_celsius: f64,
    email_member: String,
}

#[derive(Deserialize)]
struct Observation<'a> {
    #[serde(borrow)]
    station: Station<'a>,
    #[serde(rename = "TMIN")]
    lowest_celsius: Option<f64>,
    #[serde(default)]
    email: Present,
}

#[derive(Deserialize)]
struct Station<'a> {
    #[serde(borrow)]
    id: Text<'a>,
}

impl Processor for DetectFreeze {
    type Config = Config;
    const PORTS: &'static [Port] = &[Port::Message(ALERTS)];
    const READS: Reads = Reads::VALUE;
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {
            "station": {"type": "string", "minLength": 1, "description": "the station.id to watch, such as USW00003192"},
            "threshold_celsius": {"type": "number", "description": "the highest TMIN that is an alert"},
            "email": {"type": "string", "minLength": 1, "description": "who is told; added to the alert as `email`"}
        },
        "required": ["station", "threshold_celsius", "email"],
        "additionalProperties": false
    }"#;

    fn configure(config: Config) -> Result<DetectFreeze, String> {
        let email = serde_json::to_string(&config.email).map_err(|error| format!("`email`: {error}"))?;
        Ok(DetectFreeze {
            station: config.station,
            threshold_celsius: config.threshold_celsius,
            email_member: format!(r#""email":{email}"#),
        })
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let observation: Observation<'_> = record.json()?;
        let is_cold = observation
            .lowest_celsius
            .is_some_and(|lowest| lowest <= self.threshold_celsius);
        if *observation.station.id != *self.station || !is_cold {
            return Ok(());
        }
        if observation.email.0 {
            return Err(Rejection::new("the record has a field `email` already"));
        }
        let value = json::with_member(record.value().unwrap_or_default(), self.email_member.as_bytes())
            .ok_or_else(|| Rejection::new("the value is not a JSON object"))?;
        out.message(ALERTS).value_of(value).send();
        Ok(())
    }
}

wasmill_plugin::processor!(DetectFreeze);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::DetectFreeze;

    const CONFIG: &str = r#"{"station": "USW00003192", "threshold_celsius": 10.0, "email": "o\"ps@example.org"}"#;

    fn reply(record: &Input) -> Reply {
        Plugin::<DetectFreeze>::new(CONFIG).unwrap().process(record)
    }

    fn reply_to(value: &str) -> Reply {
        reply(&Input::value(value))
    }

    #[test]
    fn a_cold_day_is_the_record_with_the_email_at_its_end() {
        let value = r#"{"station":{"id":"USW00003192","elevation":1250.0},"date":"2016-01-01T00:00:00","TMAX":1.20e1,"TMIN":-0.0}"#;
        let record = Input::value(value).key("id-1").header("h", "1").timestamp_ms(17);
        let alert = reply(&record).into_message();
        let expected = format!(r#"{},"email":"o\"ps@example.org"}}"#, value.strip_suffix('}').unwrap());
        assert_eq!(alert.text(), expected);
        assert_eq!(
            (alert.port.as_str(), alert.key.as_deref()),
            ("alerts", Some(b"id-1".as_slice()))
        );
        assert_eq!((alert.timestamp_ms, alert.headers.len()), (Some(17), 1));
        assert!(serde_json::from_str::<serde_json::Value>(alert.text()).is_ok());
    }

    #[test]
    fn the_threshold_itself_is_cold_and_what_is_above_it_is_not() {
        let at = |lowest: &str| reply_to(&format!(r#"{{"station":{{"id":"USW00003192"}},"TMIN":{lowest}}}"#));
        assert!(matches!(at("10"), Reply::Sent(_)));
        assert!(matches!(at("-40"), Reply::Sent(_)));
        assert_eq!(at("10.1"), Reply::Skipped);
    }

    #[test]
    fn another_station_or_no_lowest_temperature_is_no_alert() {
        assert_eq!(
            reply_to(r#"{"station":{"id":"USC00010160"},"TMIN":-5}"#),
            Reply::Skipped
        );
        assert_eq!(
            reply_to(r#"{"station":{"id":"USW00003192"},"TMAX":-5}"#),
            Reply::Skipped
        );
        assert_eq!(
            reply_to(r#"{"station":{"id":"USW00003192"},"TMIN":null}"#),
            Reply::Skipped
        );
    }

    #[test]
    fn a_cold_record_that_has_an_email_is_rejected() {
        for email in ["null", "\"a@example.org\""] {
            let value = format!(r#"{{"email":{email},"station":{{"id":"USW00003192"}},"TMIN":1}}"#);
            assert_eq!(
                reply_to(&value),
                Reply::rejected("the record has a field `email` already")
            );
        }
        assert_eq!(
            reply_to(r#"{"email":"a","station":{"id":"USW00003192"},"TMIN":11}"#),
            Reply::Skipped
        );
    }

    #[test]
    fn what_is_no_observation_is_rejected_with_the_reason() {
        for (value, reason) in [
            ("{}", "missing field `station`"),
            (r#"{"station":{},"TMIN":1}"#, "missing field `id`"),
            (
                r#"{"station":{"id":"a"},"TMIN":"cold"}"#,
                "invalid type: string \"cold\"",
            ),
            ("{\"station\"", "EOF while parsing"),
            (r#"[{"id":"USW00003192"},1]"#, "not a JSON object"),
        ] {
            let Reply::Rejected(text) = reply_to(value) else {
                panic!("{value} is not rejected")
            };
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
        let refused = |config: &str| Plugin::<DetectFreeze>::new(config).err().unwrap();
        assert_eq!(
            refused(r#"{"station": "a", "email": "b"}"#),
            "missing field `threshold_celsius`"
        );
        let text = refused(r#"{"station": "a", "email": "b", "threshold_celsius": "10"}"#);
        assert_eq!(text, "`threshold_celsius`: invalid type: string \"10\", expected f64");
    }
}
