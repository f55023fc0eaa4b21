//! At least once: nothing is lost, whatever is killed; some of it may come again.

use crate::support::PATIENCE;
use crate::support::chaos::Topics;
use crate::support::chaos::checker::Violation;
use crate::support::chaos::load::Load;
use crate::support::host::Invocation;
use crate::support::kafka;

#[test]
fn a_host_without_transactions_that_is_killed_loses_nothing() {
    let topics = Topics::create("at-least-once");
    let pipeline = topics
        .pipeline(2)
        .set(&["stages", "copy", "guarantee"], "at-least-once");
    let path = pipeline.write();
    let load = Load::start(&topics, 3_000, 1);
    for round in 1..=3 {
        let mut host = Invocation::run(&path).start();
        host.ready();
        kafka::read_at_least(&topics.output, round * 1_500, PATIENCE);
        host.kill();
    }
    let (sent, _) = load.finish();
    Invocation::catch_up(&path).exits(0, PATIENCE);

    let lost: Vec<Violation> = topics
        .verdict(&sent)
        .into_iter()
        .filter(|violation| matches!(violation, Violation::Lost(_)))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(sent.len() > 4_500, "{} records test too little", sent.len());
}
