//! The pipeline file: what is accepted, what each mistake is answered with, and that no text at all
//! can make the loader panic.

mod accepted;
mod alerts;
mod any_text;
mod elasticsearch;
mod mistakes;

use wasmill::config::{self, Broker, Pipeline, Target};

/// Loads a text as the file `pipelines/pipeline.yaml`, with a few environment variables.
fn check(text: &str) -> Result<Pipeline, String> {
    check_with(text, Broker::Configured)
}

fn check_with(text: &str, broker: Broker) -> Result<Pipeline, String> {
    let path = "pipelines/pipeline.yaml".as_ref();
    config::parse(text, path, &environment, broker).map_err(|errors| errors.to_string())
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "BROKERS" => "kafka-1:9092,kafka-2:9092",
        "EMPTY" => "",
        "INJECTION" => "1}, plugin: evil.wasm, x: {y",
        "PASSWORD" => "hunter2",
        "STATE" => "NO",
        "WORKERS" => "3",
        _ => return None,
    };
    Some(value.to_owned())
}

/// A file with one stage, whose last lines are the given ones.
fn with_stage_lines(lines: &str) -> String {
    let head = "app: noaa\nkafka: {bootstrap.servers: 'localhost:9092'}\nstages:\n  az-filter:\n";
    format!("{head}    plugin: filter.wasm\n    input: noaa-json\n    output: noaa-json-az\n{lines}")
}

/// A file with one stage and these further lines in `kafka`.
fn with_kafka_lines(lines: &str) -> String {
    let stages = "stages:\n  az-filter: {plugin: filter.wasm, input: noaa-json, output: noaa-json-az}\n";
    format!("app: noaa\nkafka:\n  bootstrap.servers: localhost:9092\n{lines}{stages}")
}

fn topic_of(target: &Target) -> &str {
    match target {
        Target::Topic(topic) => topic,
        other => panic!("{other:?}"),
    }
}
