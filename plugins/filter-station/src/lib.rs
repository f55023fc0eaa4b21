//! Forwards, unchanged, the observations of the weather stations of one state of one country.
//!
//! A station without a state code (absent or null) is in no state, since not every country has
//! them: its records are skipped. A record without a station or a country code is no observation,
//! and is rejected with the name of the missing field.

use serde::Deserialize;
use wasmill_plugin::{MessagePort, Output, Port, Processor, Reads, Record, Rejection, Text};

const MATCHED: MessagePort = MessagePort::new(0, "matched");

/// The state, which is also the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterStation {
    country: String,
    state: String,
}

#[derive(Deserialize)]
struct Observation<'a> {
    #[serde(borrow)]
    station: Station<'a>,
}

#[derive(Deserialize)]
struct Station<'a> {
    #[serde(borrow)]
    country_code: Text<'a>,
    #[serde(borrow)]
    state_code: Option<Text<'a>>,
}

impl Processor for FilterStation {
    type Config = FilterStation;
    const PORTS: &'static [Port] = &[Port::Message(MATCHED)];
    const READS: Reads = Reads::VALUE;
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {
            "country": {"type": "string", "minLength": 1, "description": "station.country_code of the records to forward, such as US"},
            "state": {"type": "string", "minLength": 1, "description": "station.state_code of the records to forward, such as AZ"}
        },
        "required": ["country", "state"],
        "additionalProperties": false
    }"#;

    fn configure(config: FilterStation) -> Result<FilterStation, String> {
        Ok(config)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let Observation { station } = record.json()?;
        if *station.country_code == *self.country && station.state_code.as_deref() == Some(&self.state) {
            out.forward(MATCHED);
        }
        Ok(())
    }
}

wasmill_plugin::processor!(FilterStation);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply};

    use super::FilterStation;

    fn reply(record: &Input) -> Reply {
        Plugin::<FilterStation>::new(r#"{"country": "US", "state": "AZ"}"#)
            .unwrap()
            .process(record)
    }

    fn reply_to_station(station: &str) -> Reply {
        reply(&Input::value(format!(
            r#"{{"station":{station},"date":"2016-01-01T00:00:00","TMIN":1.1}}"#
        )))
    }

    fn refused(config: &str) -> String {
        Plugin::<FilterStation>::new(config).err().unwrap()
    }

    #[test]
    fn a_record_of_the_state_is_forwarded() {
        let station = r#"{"id":"USW00003192","country_code":"US","location":{"lat":33.6},"state_code":"AZ"}"#;
        assert_eq!(reply_to_station(station), Reply::forwarded("matched"));
    }

    #[test]
    fn codes_with_escapes_are_compared_as_text() {
        assert_eq!(
            reply_to_station(r#"{"country_code":"\u0055S","state_code":"A\u005a"}"#),
            Reply::forwarded("matched")
        );
    }

    #[test]
    fn records_of_other_states_and_countries_are_skipped() {
        assert_eq!(
            reply_to_station(r#"{"country_code":"US","state_code":"NE"}"#),
            Reply::Skipped
        );
        assert_eq!(
            reply_to_station(r#"{"country_code":"CA","state_code":"AZ"}"#),
            Reply::Skipped
        );
        assert_eq!(
            reply_to_station(r#"{"country_code":"us","state_code":"az"}"#),
            Reply::Skipped
        );
    }

    #[test]
    fn a_station_without_a_state_is_skipped() {
        assert_eq!(reply_to_station(r#"{"country_code":"US"}"#), Reply::Skipped);
        assert_eq!(
            reply_to_station(r#"{"country_code":"US","state_code":null}"#),
            Reply::Skipped
        );
    }

    #[test]
    fn what_is_no_observation_is_rejected_with_the_reason() {
        let reason = |record: &Input| match reply(record) {
            Reply::Rejected(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&Input::value(r#"{"TMIN":1}"#)).contains("missing field `station`"));
        assert!(reason(&Input::value(r#"{"station":{"state_code":"AZ"}}"#)).contains("missing field `country_code`"));
        assert!(reason(&Input::value(r#"{"station":{"country_code":7}}"#)).contains("invalid type: integer `7`"));
        assert!(reason(&Input::value("{\"station\":")).contains("EOF while parsing"));
        assert!(reason(&Input::value("")).contains("EOF while parsing"));
        assert!(reason(&Input::tombstone()).contains("null"));
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
        assert_eq!(refused(r#"{"country": "US"}"#), "missing field `state`");
        assert_eq!(
            refused(r#"{"country": 1, "state": "AZ"}"#),
            "`country`: invalid type: integer `1`, expected a string"
        );
        assert!(refused(r#"{"country": "US", "state": "AZ", "stat": ""}"#).contains("unknown field `stat`"));
    }
}
