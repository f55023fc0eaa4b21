//! Stages that branch and meet again, chained through topics, in one process.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, unique, value_counts};

/// `split` sends to `a`, to `b`, to both, or to `other`; two stages bring `a` and `b` together in one topic again.
#[test]
fn a_graph_that_branches_and_joins_sends_every_record_where_it_belongs() {
    let app = unique("graph");
    let topic = |name: &str| format!("{app}.{name}");
    for name in ["in", "more", "a", "b", "other", "joined", "dead-letters"] {
        kafka::create_topic(&topic(name), 2, &[]);
    }
    let value = |number: usize| {
        let branch = ["a", "b", "both", "else"][number % 4];
        format!(r#"{{"branch":"{branch}","number":{number}}}"#)
    };
    let records: Vec<Record> = (0..4_000)
        .map(|number| Record::new(format!("{}", number % 50), value(number)))
        .collect();
    let (first, second) = records.split_at(2_000);
    kafka::produce(&topic("in"), None, first);
    kafka::produce(&topic("more"), None, second);

    let split = json!({
        "plugin": guest("wide-ports"),
        "input": [topic("in"), topic("more")],
        "outputs": {"a": topic("a"), "b": topic("b"), "other": topic("other")},
    });
    let pipeline = Pipeline::new(&app)
        .set(&["stages", "split"], split)
        .stage("join-a", &guest("identity"), json!({}), &topic("a"), &topic("joined"))
        .stage("join-b", &guest("identity"), json!({}), &topic("b"), &topic("joined"));
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);

    let expected = |times: &dyn Fn(usize) -> usize| -> BTreeMap<String, usize> {
        (0..4_000)
            .filter(|number| times(*number) > 0)
            .map(|number| (value(number), times(number)))
            .collect()
    };
    assert_eq!(
        value_counts(&topic("joined")),
        expected(&|number| [1, 1, 2, 0][number % 4])
    );
    assert_eq!(
        value_counts(&topic("other")),
        expected(&|number| usize::from(number % 4 == 3))
    );
    assert_eq!(value_counts(&topic("dead-letters")), BTreeMap::new());
}
