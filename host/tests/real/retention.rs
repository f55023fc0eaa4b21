//! Records that retention deletes before they are read: lost, loudly, and nothing else is.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use crate::support::guests::guest;
use crate::support::host::{Host, Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, unique, value_counts};

const DRAIN: Duration = Duration::from_secs(10);

fn numbered(partition: i32, numbers: std::ops::Range<usize>) -> Vec<Record> {
    numbers
        .map(|number| Record::new(format!("{partition}"), format!("{partition} {number}")))
        .collect()
}

/// Deletes the records of a partition before an offset, as retention does.
pub(super) fn delete_before(topic: &str, partition: i32, offset: i64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka::bootstrap());
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answered = runtime.block_on(admin.delete_records(&list, &options)).unwrap();
    for element in answered.elements() {
        element.error().unwrap();
    }
}

struct Case {
    input: String,
    output: String,
    host: Host,
}

/// A stage that copies two partitions, with the first 100 records of each done.
fn start(name: &str) -> Case {
    let (input, output) = (unique(&format!("{name}-in")), unique(&format!("{name}-out")));
    kafka::create_topic(&input, 2, &[]);
    kafka::create_topic(&output, 2, &[]);
    let app = unique(name);
    kafka::create_topic(&format!("{app}.dead-letters"), 1, &[]);
    let pipeline = Pipeline::new(&app).stage("copy", &guest("identity"), json!({}), &input, &output);
    for partition in 0..2 {
        kafka::produce(&input, Some(partition), &numbered(partition, 0..100));
    }
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    kafka::read_at_least(&output, 200, PATIENCE);
    Case { input, output, host }
}

/// The reader is overtaken while it is frozen: what it fetches next does not exist any more. The other partition has records in the
/// open transaction then, which must neither be lost nor come twice.
#[test]
fn a_reader_that_retention_overtakes_goes_on_with_what_is_left() {
    let mut case = start("overtaken");
    case.host.freeze();
    kafka::produce(&case.input, Some(1), &numbered(1, 100..1_100));
    delete_before(&case.input, 1, 600);
    kafka::produce(&case.input, Some(0), &numbered(0, 100..3_100));
    case.host.thaw();
    kafka::produce(&case.input, Some(0), &numbered(0, 3_100..6_100));
    // What the host had fetched before it was frozen may come out as well.
    kafka::read_at_least(&case.output, 6_100 + 100 + 500, PATIENCE);
    case.host.terminate();
    case.host.exits(0, DRAIN);

    let counts = value_counts(&case.output);
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    let missing = |partition: i32, numbers: std::ops::Range<usize>| {
        numbers
            .filter(|number| !counts.contains_key(&format!("{partition} {number}")))
            .count()
    };
    assert_eq!(missing(0, 0..6_100), 0);
    assert_eq!(missing(1, 0..100), 0);
    assert_eq!(missing(1, 600..1_100), 0);
    if missing(1, 100..600) > 0 {
        case.host.printed().says("deleted by retention");
    }
}
