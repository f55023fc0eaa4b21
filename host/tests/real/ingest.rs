//! Records that come by HTTP: every answer of 200 is in the topic, exactly as sent and once, whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cluster::{NODES, cluster};
use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline};
use crate::support::http::Client;
use crate::support::ingest::{Fate, Load, MESSAGE_ID, Place, shoot, statuses, value};
use crate::support::kafka::{self, Kafka};
use crate::support::{PATIENCE, admin, checkout, free_port, unique, wait_for};

/// One value, or several, small ones and large ones.
fn mixed(number: usize) -> Vec<String> {
    let bytes = [0, 100, 3_000, 100_000][number % 4];
    let count = [1, 1, 7, 1, 30][number % 5];
    let count = if bytes > 10_000 { 1 } else { count };
    (0..count).map(|index| value(number * 100 + index, bytes)).collect()
}

#[test]
fn every_200_is_in_the_topic_exactly_as_sent_and_once() {
    let place = Place::new(Kafka::shared());
    let mut host = place.start(&place.pipeline());
    let load = Load::start(&place, 16, mixed);
    wait_for("2,000 requests to be acknowledged", PATIENCE, || {
        (load.acknowledged() >= 2_000).then_some(())
    });
    let shots = load.finish();
    assert_eq!(statuses(&shots).keys().collect::<Vec<_>>(), [&200]);
    let records = place.verify(&shots);
    let keys: BTreeSet<_> = kafka::read_committed(&place.topic)
        .iter()
        .map(|placed| placed.record.key_text().to_owned())
        .collect();
    assert_eq!(keys.len(), records, "each record has the key of its own");
    // They are the stage's input as any others.
    assert_eq!(kafka::read_at_least(&place.output, records, PATIENCE).len(), records);
    let metrics = admin::get(host.admin_port, "/metrics").unwrap().1;
    assert_eq!(
        admin::metric(&metrics, "wasmill_ingest_records_total", &[]),
        Some(records as f64)
    );
    assert_eq!(
        admin::metric(&metrics, "wasmill_ingest_requests_total", &["status=\"200\""]),
        Some(shots.len() as f64)
    );
    assert_eq!(admin::metric(&metrics, "wasmill_ingest_in_flight", &[]), Some(0.0));
    let status: Value = serde_json::from_str(&admin::get(host.admin_port, "/status").unwrap().1).unwrap();
    assert_eq!(status["ingest"]["state"], "serving", "{status}");
    host.terminate();
    host.exits(0, PATIENCE);
}

#[test]
fn concurrent_requests_with_one_key_write_once_and_get_one_answer() {
    let place = Place::new(Kafka::shared());
    let _host = place.start(&place.pipeline());
    const KEYS: usize = 200;
    let next = AtomicUsize::new(0);
    let answers: Vec<(usize, Value)> = thread::scope(|scope| {
        let client = || {
            let mut client = place.client();
            let mut answers = Vec::new();
            loop {
                // Eight clients are at each key at about the same time.
                let number = next.fetch_add(1, Ordering::Relaxed) / 8;
                if number >= KEYS {
                    return answers;
                }
                let key = format!("key-{number}");
                let body = value(number, 10);
                let answer = wait_for("the first request to be answered", PATIENCE, || {
                    let answer = client.post(&place.topic, &[("Idempotency-Key", &key)], &body).unwrap();
                    match answer.status {
                        200 => Some(answer),
                        409 => {
                            assert_eq!(answer.headers["retry-after"], "1");
                            None
                        }
                        _ => panic!("{answer:?}"),
                    }
                });
                answers.push((number, answer.json()));
            }
        };
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 8 * KEYS);
    let records = kafka::read_committed(&place.topic);
    assert_eq!(records.len(), KEYS);
    let mut by_key: BTreeMap<usize, Value> = BTreeMap::new();
    for (number, answer) in answers {
        assert_eq!(by_key.entry(number).or_insert_with(|| answer.clone()), &answer);
    }
    let ids: BTreeSet<_> = records
        .iter()
        .map(|placed| placed.record.header(MESSAGE_ID).unwrap())
        .collect();
    let told: BTreeSet<_> = by_key
        .values()
        .map(|answer| answer["message_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, told);
}

#[test]
fn a_host_that_is_killed_under_load_loses_nothing_that_it_acknowledged() {
    let place = Place::new(Kafka::shared());
    let pipeline = place.pipeline();
    let mut shots = Vec::new();
    for round in 0..3 {
        let mut host = place.start(&pipeline);
        let load = Load::start(&place, 16, move |number| mixed(round * 100_000 + number));
        wait_for("500 requests to be acknowledged", PATIENCE, || {
            (load.acknowledged() >= 500).then_some(())
        });
        host.kill();
        shots.extend(load.finish());
    }
    let acknowledged = place.verify(&shots);
    println!("{acknowledged} records acknowledged, {:?}", statuses(&shots));
    assert!(acknowledged >= 1_500);
}

#[test]
fn a_restart_forgets_keys_but_gives_a_repeated_record_its_first_message_id() {
    let place = Place::new(Kafka::shared());
    let pipeline = place.pipeline();
    let ask = || {
        let mut host = place.start(&pipeline);
        let answer = place
            .client()
            .post(&place.topic, &[("Idempotency-Key", "k")], &value(1, 0))
            .unwrap();
        host.kill();
        answer.json()
    };
    let (first, second) = (ask(), ask());
    assert_eq!(first["message_id"], second["message_id"]);
    assert_ne!(first["offset"], second["offset"]);
}

#[test]
fn sigterm_under_load_answers_what_has_come_and_takes_nothing_more() {
    let place = Place::new(Kafka::shared());
    let mut host = place.start(&place.pipeline());
    let load = Load::start(&place, 16, mixed);
    wait_for("500 requests to be acknowledged", PATIENCE, || {
        (load.acknowledged() >= 500).then_some(())
    });
    let asked = Instant::now();
    host.terminate();
    host.exits(0, Duration::from_secs(10));
    println!("ended {:?} after SIGTERM", asked.elapsed());
    assert!(place.client().post(&place.topic, &[], "{}").is_err());
    place.verify(&load.finish());
}

#[test]
fn while_the_brokers_are_away_clients_are_told_so_and_nothing_acknowledged_is_lost() {
    let cluster = cluster();
    let place = Place::new(cluster.kafka.clone());
    let pipeline = place.pipeline().set(&["ingest", "timeout"], "2s");
    let host = place.start(&pipeline);
    let load = Load::start(&place, 8, mixed);
    wait_for("200 requests to be acknowledged", PATIENCE, || {
        (load.acknowledged() >= 200).then_some(())
    });
    NODES.iter().for_each(|node| cluster.freeze(*node));
    let mut client = place.client();
    let mut others = Vec::new();
    wait_for("a request to be answered with 503", PATIENCE, || {
        others.push(shoot(
            &mut client,
            &place.topic,
            vec![value(1_000_000_000 + others.len(), 0)],
        ));
        // The brokers may have had time for the first one.
        match &others.last().unwrap().fate {
            Fate::Acknowledged(_) => None,
            Fate::Refused {
                status: 503,
                retry_after,
                ..
            } => {
                assert_eq!(retry_after.as_deref(), Some("5"));
                Some(())
            }
            other => panic!("{other:?}"),
        }
    });
    let (status, reasons) = admin::get(host.admin_port, "/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(reasons.contains("ingest: records cannot be written"), "{reasons}");
    let before = load.acknowledged();
    NODES.iter().for_each(|node| cluster.thaw(*node));
    cluster.wait_until_whole();
    wait_for("requests to be acknowledged again", PATIENCE, || {
        (load.acknowledged() >= before + 200).then_some(())
    });
    wait_for("the host to be ready again", PATIENCE, || {
        matches!(admin::get(host.admin_port, "/readyz"), Some((200, _))).then_some(())
    });
    let shots = load.finish();
    println!("{:?}", statuses(&shots));
    assert!(statuses(&shots).contains_key(&503));
    others.extend(shots);
    place.verify(&others);
}

#[test]
fn a_record_that_the_topic_does_not_take_is_told_and_its_neighbours_are_written() {
    let place = Place::new(Kafka::shared());
    let small = unique("ingest-small");
    kafka::create_topic(&small, 1, &[("max.message.bytes", "20000")]);
    let pipeline = place.pipeline().set(&["ingest", "topics"], json!([small]));
    let pipeline = pipeline.set(&["kafka", "compression.type"], "none");
    let _host = place.start(&pipeline);
    let (large, fits) = (value(1, 30_000), value(2, 10));
    let answer = place.client().post(&small, &[], &large).unwrap();
    assert_eq!(
        (answer.status, &answer.json()["written"]),
        (413, &json!("none")),
        "{answer:?}"
    );
    let answer = place
        .client()
        .post(&small, &[], &format!("[{fits}, {large}, {fits}]"))
        .unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    let told = answer.json();
    assert_eq!(told["written"], "some");
    assert_eq!(told["records"][1]["written"], "none", "{told}");
    assert_eq!(
        (&told["records"][0]["offset"], &told["records"][2]["offset"]),
        (&json!(0), &json!(1)),
        "{told}"
    );
    let values: Vec<_> = kafka::read_committed(&small)
        .iter()
        .map(|placed| placed.record.value_text().to_owned())
        .collect();
    assert_eq!(values, [fits.clone(), fits]);
}

#[test]
fn topics_that_are_missing_are_an_error_or_made_as_the_file_says() {
    let missing = unique("ingest-missing");
    let (input, output) = (unique("in"), unique("out"));
    for topic in [&input, &output] {
        kafka::create_topic(topic, 1, &[]);
    }
    let app = unique("ingest-topics");
    kafka::create_topic(&format!("{app}.dead-letters"), 1, &[]);
    let port = free_port();
    let pipeline = Pipeline::new(&app)
        .stage("copy", &guest("identity"), json!({}), &input, &output)
        .set(
            &["ingest"],
            json!({"listen": format!("127.0.0.1:{port}"), "topics": [missing]}),
        );
    let error = format!("`ingest.topics`: topic `{missing}` does not exist");
    Invocation::run(&pipeline.write()).exits(2, PATIENCE).says(&error);
    let path = pipeline.write();
    let check = || Invocation::new(&["check", path.to_str().unwrap(), "--connect"]);
    check().exits(2, PATIENCE).says(&error);
    assert_eq!(kafka::partitions(&missing), None, "nobody made it");
    let pipeline = pipeline.set(&["topics"], json!({"create": {"partitions": 2, "replication": 1}}));
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    assert_eq!(Client::new(port).post(&missing, &[], "{}").unwrap().status, 200);
    assert_eq!(kafka::partitions(&missing), Some(2));
    check()
        .exits(0, PATIENCE)
        .says(&format!("topic `{missing}`: 2 partitions"));
}

#[test]
fn a_compacted_topic_wants_keys() {
    let place = Place::new(Kafka::shared());
    let compacted = unique("ingest-compacted");
    kafka::create_topic(&compacted, 1, &[("cleanup.policy", "compact")]);
    let pipeline = place.pipeline().set(&["ingest", "topics"], json!([compacted]));
    let error = format!("`ingest.topics`: topic `{compacted}` is compacted, so that its records need keys");
    Invocation::run(&pipeline.write()).exits(2, PATIENCE).says(&error);
    let path = pipeline.write();
    let check = || Invocation::new(&["check", path.to_str().unwrap(), "--connect"]);
    check().exits(2, PATIENCE).says(&error);
    let keyed = pipeline.set(&["ingest", "topics"], json!({&compacted: {"key": "/id"}}));
    let _host = place.start(&keyed);
    check().exits(0, PATIENCE);
    assert_eq!(place.client().post(&compacted, &[], &value(1, 0)).unwrap().status, 200);
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let place = Place::new(Kafka::shared());
    let pipeline = place.pipeline();
    let _host = place.start(&pipeline);
    Invocation::run(&pipeline.write())
        .exits(1, PATIENCE)
        .says(&format!("listen on 127.0.0.1:{} (`ingest: listen`)", place.port));
}

#[test]
fn dev_serves_on_its_own_broker_and_shows_what_came_out() {
    let port = free_port();
    let pipeline = Pipeline::new("shop")
        .without("kafka")
        .stage("copy", &guest("identity"), json!({}), "retail-product", "copies")
        .set(
            &["ingest"],
            json!({"listen": format!("127.0.0.1:{port}"), "topics": ["retail-product"]}),
        );
    let path = pipeline.write();
    let mut host = Invocation::new(&["dev", path.to_str().unwrap(), "--serve"]).start();
    let mut client = Client::new(port);
    wait_for("`dev` to serve", PATIENCE, || client.ask("GET", "/ping", &[], b"").ok());
    for id in 0..3 {
        let answer = client.post("retail-product", &[], &format!("{{\"id\":{id}}}")).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    host.terminate();
    host.exits(0, PATIENCE);
    let printed = host.printed();
    printed.says("copies: 3 records");
    printed.says("{\"id\":2}");
}

/// The examples of the page, as a reader would type them.
#[test]
fn the_examples_of_the_page_do_what_it_says() {
    let page = std::fs::read_to_string(checkout("host/INGEST.md")).unwrap();
    let place = Place::new(Kafka::shared());
    let pipeline = place.pipeline().set(&["ingest", "token"], "s3cret");
    let pipeline = pipeline.set(&["ingest", "topics"], json!({&place.topic: {"key": "/product_id"}}));
    let _host = place.start(&pipeline);
    let mut shown = 0;
    for block in page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
    {
        for command in block.split("\ncurl ") {
            let command = command.strip_prefix("curl ").unwrap_or(command);
            let (command, expected) = command
                .rsplit_once("\n# ")
                .unwrap_or_else(|| panic!("`{command}` shows no answer"));
            let command = format!("curl {command}")
                .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", place.port))
                .replace("$TOKEN", "s3cret")
                .replace("retail-product", &place.topic);
            let ran = std::process::Command::new("sh")
                .args(["-c", &command])
                .output()
                .expect("there is a shell");
            let stdout = String::from_utf8(ran.stdout).unwrap();
            assert!(
                ran.status.success(),
                "{command}\n{}",
                String::from_utf8_lossy(&ran.stderr)
            );
            let expected = expected.trim().replace("retail-product", &place.topic);
            assert!(
                is_like(&stdout, &expected),
                "{command}\n answers {stdout}\n and not {expected}"
            );
            shown += 1;
        }
    }
    assert!(shown >= 5, "{shown} examples");
}

/// Whether a text is another one, which has `..` for what differs from run to run.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut rest = text.trim();
    let parts: Vec<&str> = pattern.split("..").collect();
    for (index, part) in parts.iter().enumerate() {
        let Some(at) = rest.find(part) else { return false };
        if index == 0 && at != 0 {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || parts.last() == Some(&"")
}

#[test]
fn one_request_more_or_less_is_told_apart_by_the_verdict() {
    let place = Place::new(Kafka::shared());
    let _host = place.start(&place.pipeline());
    let mut client = place.client();
    let shots = [shoot(&mut client, &place.topic, vec![value(1, 0)])];
    assert_eq!(place.verify(&shots), 1);
    // The verdict notices a record that nobody has sent, and one that is there twice.
    shoot(&mut client, &place.topic, vec![value(2, 0)]);
    assert!(std::panic::catch_unwind(|| place.verify(&shots)).is_err());
    let twice = [shoot(&mut client, &place.topic, vec![value(1, 0)])];
    assert!(std::panic::catch_unwind(|| place.verify(&twice)).is_err());
}
