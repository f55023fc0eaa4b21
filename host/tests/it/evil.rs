//! Plugins that are made to do harm are refused by `wasmill check`, with exit code 2 and words that name the cause.

use crate::program::Place;
use component::Module;
use rows::{Fate, MODULES};

#[path = "../support/component.rs"]
mod component;
#[path = "../support/evil.rs"]
mod rows;

const PIPELINE: &str = "app: evil\nkafka: {bootstrap.servers: 'localhost:9092'}\nstages:\n  s:\n    plugin: evil.wasm\n    \
                        input: a\n    output: b\n    limits: {deadline: 200ms}\n";

#[test]
fn every_plugin_that_must_be_refused_is_refused_with_the_cause() {
    let place = Place::new();
    place.write("pipeline.yaml", PIPELINE);
    let mut count = 0;
    for (name, module, fate) in MODULES {
        let Fate::Refused(words) = fate else {
            continue;
        };
        place.write("evil.wasm", module.component());
        let ran = place.run(&["check", "pipeline.yaml"]).exits(2);
        assert_eq!(ran.stdout, "", "{name}");
        assert!(
            ran.stderr.contains(words),
            "{name}: `{words}` is not in `{:.500}`",
            ran.stderr
        );
        assert!(ran.stderr.len() < 20_000, "{name}: {} bytes are said", ran.stderr.len());
        assert!(
            !ran.stderr.contains(|c: char| c.is_control() && c != '\n'),
            "{name}: control characters reach the terminal"
        );
        count += 1;
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn the_module_that_the_evil_ones_are_made_of_is_a_plugin() {
    let place = Place::new();
    place.write("pipeline.yaml", PIPELINE);
    place.write("evil.wasm", Module::default().component());
    let ran = place.run(&["check", "pipeline.yaml"]).exits(0);
    assert!(ran.stdout.starts_with("stage `s`: plugin evil 0.1.0"), "{}", ran.stdout);
}
