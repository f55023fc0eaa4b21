//! A component that was built when the contract was 0.1.0 still gives the answers that it gave then.
//!
//! `host/tests/data/golden/README.md` tells how it was made. It is never built again, and these answers are never accepted anew: where one
//! of them differs, plugins that are in use do too.

use super::sandbox::logged;
use super::{Stand, checkout, patient, record, runtime};
use crate::fixture::Fixture;
use crate::metrics::Metrics;
use crate::plugin::component::Binary;

fn stand(config: &str) -> Stand {
    let file = checkout("host/tests/data/golden/golden-0.1.0.wasm");
    Stand::load(runtime(), &Binary::read(&file, u64::MAX).unwrap(), config, patient()).unwrap()
}

fn golden() -> Stand {
    stand(r#"{"prefix": "g"}"#)
}

fn valued(value: &str) -> Fixture {
    Fixture {
        key: Some(b"k\xff".to_vec()),
        headers: vec![("a".to_owned(), Some(b"\0".to_vec())), ("a".to_owned(), None)],
        timestamp_ms: Some(-7),
        ..record(Some(value.as_bytes()))
    }
}

#[test]
fn a_component_of_the_first_contract_is_the_file_that_was_kept() {
    assert_eq!(
        golden().plugin.digest,
        "5315da5530c90445b333f844d7a95c2dff11e4cd4b0bd8ff3f98d742bbafad34"
    );
}

#[test]
fn a_component_of_the_first_contract_describes_itself_as_ever() {
    let stand = golden();
    let description = &stand.plugin.description;
    assert!(description.config_schema.contains(r#""required": ["prefix"]"#));
    let ports: Vec<_> = description
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.kind))
        .collect();
    insta::assert_snapshot!(format!(
        "{} {} state {} {:?} {:?} {ports:?}",
        description.name, description.version, description.state_version, description.reads, description.attributes,
    ), @r#"golden 0.1.0 state 0 (KEY|VALUE|HEADERS) [("kept-since", "0.1.0")] [("out", PortKind::Message), ("side-door", PortKind::Message)]"#);
    let refused = stand_error(r#"{"prefix": ""}"#);
    assert_eq!(refused, "`prefix` is empty; at least one character is needed");
    let refused = stand_error("{}");
    assert!(refused.contains("missing field `prefix`"), "{refused}");
}

fn stand_error(config: &str) -> String {
    let refused = stand(config).try_instance(crate::metrics::PluginMetrics::unheard());
    refused.err().unwrap().message
}

#[test]
fn a_component_of_the_first_contract_answers_as_ever() {
    let values = [
        "skip", "forward", "both", "echo", "nulls", "append", "log", "measure", "reject", "retry", "17", "17x",
    ];
    let mut records: Vec<_> = values.map(valued).into();
    records.push(record(None));
    let stand = golden();
    let answers = stand.ask(&mut stand.instance(), &records).unwrap();
    insta::assert_snapshot!(answers.join("\n"), @r#"
    skip
    forward to 1
    emit to 0 partition None key unchanged value unchanged headers unchanged at None; to 1 partition None key unchanged value unchanged headers unchanged at None
    emit to 0 partition None key unchanged value Some("g key Some(\\\"k\\\\\\\\xff\\\") headers [\\\"a=Some(\\\\\\\"\\\\\\\\\\\\\\\\x00\\\\\\\")\\\", \\\"a=None\\\"] at Some(-7) of partition 0 offset 3") headers unchanged at None
    emit to 0 partition Some(0) key None value None headers [("only", None)] at Some(-1)
    emit to 0 partition None key unchanged value unchanged headers and [("added", Some("\\xff\\x00")), ("nil", None)] at None
    skip
    skip
    reject: 8 is rejected
    retry: another time
    skip
    skip
    skip
    "#);
}

#[test]
fn a_component_of_the_first_contract_fails_as_ever() {
    let stand = golden();
    for (value, words) in [
        ("panic", "golden panic (at "),
        ("exit", "called exit, which ends its instance"),
    ] {
        let fault = stand.answers(&["skip", value]).unwrap_err();
        assert_eq!(fault.kind, crate::fault::Kind::Trap);
        assert!(fault.message.starts_with(words), "{fault}");
    }
}

#[test]
fn a_component_of_the_first_contract_is_heard_as_ever() {
    let stand = golden();
    let metrics = Metrics::new();
    let mut instance = stand.try_instance(metrics.stage("s").plugin("golden", 100)).unwrap();
    let lines = logged(|| {
        let answers = stand.ask(&mut instance, &super::records(&["log", "measure"]));
        assert_eq!(answers.unwrap(), ["skip", "skip"]);
    });
    insta::assert_snapshot!(lines.join("\n"), @r#"
    INFO plugin: golden stdout stage="under-test" fields="stream=stdout"
    INFO plugin: golden stderr stage="under-test" fields="stream=stderr"
    WARN plugin: golden line stage="under-test" fields="field=value"
    "#);
    let text = metrics.text();
    let own: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("golden") && !line.contains("_bucket"))
        .collect();
    insta::assert_snapshot!(own.join("\n"), @r#"
    wasmill_plugin_counter_total{stage="s",plugin="golden",name="records"} 2
    wasmill_plugin_gauge{stage="s",plugin="golden",name="level"} -2.5
    wasmill_plugin_histogram_sum{stage="s",plugin="golden",name="size"} 0.25
    wasmill_plugin_histogram_count{stage="s",plugin="golden",name="size"} 1
    "#);
}
