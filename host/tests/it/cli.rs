//! The commands `check`, `build`, `inspect` and `run` and what they say to mistakes; `dev` has a file of its own.

mod inspect;
mod mistakes;
mod usage;

use std::time::Duration;

use crate::program::{Place, checkout, dead_port};

/// A pipeline file with one stage of these lines, for a broker at this port.
fn pipeline(port: u16, stage: &str) -> String {
    let lines: String = stage.lines().map(|line| format!("    {line}\n")).collect();
    format!("app: noaa\nkafka: {{bootstrap.servers: 'localhost:{port}'}}\nstages:\n  s:\n{lines}")
}

const FILTER: &str = "plugin: filter.wasm\ninput: a\noutput: b\nconfig: {country: US, state: AZ}\n";

fn place_with_filter(port: u16) -> Place {
    let place = Place::new();
    place.plugin("filter.wasm", "plugins/filter-station");
    place.write("pipeline.yaml", pipeline(port, FILTER));
    place
}

#[test]
fn check_names_every_plugin_and_says_ok() {
    let ran = place_with_filter(9092).run(&["check", "pipeline.yaml"]).exits(0);
    let (plugin, rest) = ran.stdout.split_once(", sha256 ").unwrap();
    assert_eq!(plugin, "stage `s`: plugin filter-station 0.1.0 (filter.wasm)");
    let (digest, rest) = rest.split_once('\n').unwrap();
    assert!(
        digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{digest}"
    );
    assert_eq!((rest, ran.stderr.as_str()), ("pipeline.yaml: ok\n", ""));
}

#[test]
fn check_takes_the_digest_that_it_prints() {
    let place = place_with_filter(9092);
    let ran = place.run(&["check", "pipeline.yaml"]).exits(0);
    let digest = ran
        .stdout
        .split_once("sha256 ")
        .unwrap()
        .1
        .get(..64)
        .unwrap()
        .to_owned();
    let pinned = FILTER.replace("filter.wasm", &format!("{{file: filter.wasm, sha256: {digest}}}"));
    place.write("pipeline.yaml", pipeline(9092, &pinned));
    place.run(&["check", "pipeline.yaml"]).exits(0);
}

#[test]
fn check_proves_the_example() {
    let example = checkout("examples/noaa/pipeline.yaml");
    let ran = Place::new().run(&["check", example.to_str().unwrap()]).exits(0);
    let heads = ran.stdout.lines().map(|line| line.split(" (").next().unwrap());
    assert_eq!(
        heads.collect::<Vec<_>>(),
        [
            "stage `az-filter`: plugin filter-station 0.1.0",
            "stage `freeze-alert`: plugin detect-freeze 0.1.0",
            "[checkout]/examples/noaa/pipeline.yaml: ok"
        ]
    );
}

#[test]
fn build_prints_the_component_and_its_size() {
    let crate_folder = checkout("plugins/identity");
    let ran = Place::new().run(&["build", crate_folder.to_str().unwrap()]).exits(0);
    let (path, size) = ran.stdout.trim_end().split_once(" (").unwrap();
    assert!(path.ends_with("wasm32-wasip2/release/identity.wasm"), "{path}");
    let size: f64 = size.strip_suffix(" KiB)").unwrap().parse().unwrap();
    assert!((20.0..500.0).contains(&size), "{size}");
}

#[test]
fn build_takes_the_crates_of_a_pipeline_file() {
    let example = checkout("examples/noaa/pipeline.yaml");
    let ran = Place::new().run(&["build", example.to_str().unwrap()]).exits(0);
    let names: Vec<&str> = ran
        .stdout
        .lines()
        .map(|line| line.split(" (").next().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names[0].ends_with("/filter_station.wasm") && names[1].ends_with("/detect_freeze.wasm"),
        "{names:?}"
    );
}

/// The words that a command ends with when no broker answers, without what differs from run to run.
fn without_a_broker(arguments: &[&str]) -> String {
    let port = dead_port();
    let ran = place_with_filter(port).run(arguments).exits(1);
    assert!(ran.took < Duration::from_secs(45), "{:?}", ran.took);
    let error = ran.stderr.lines().filter(|line| line.starts_with("error: "));
    error.collect::<Vec<_>>().join("\n").replace(&port.to_string(), "PORT")
}

#[test]
fn check_connect_without_a_broker_says_where_it_looked() {
    insta::assert_snapshot!(without_a_broker(&["check", "pipeline.yaml", "--connect"]), @"error: no broker answers at localhost:PORT; check `kafka: bootstrap.servers`, and that the brokers run: localhost:PORT/bootstrap: Connect to ipv4#127.0.0.1:PORT failed: Connection refused");
}

#[test]
fn run_without_a_broker_says_where_it_looked() {
    insta::assert_snapshot!(without_a_broker(&["run", "pipeline.yaml"]), @"error: no broker answers at localhost:PORT; check `kafka: bootstrap.servers`, and that the brokers run: localhost:PORT/bootstrap: Connect to ipv4#127.0.0.1:PORT failed: Connection refused");
}
