//! `compose.yaml`, which no check here can start: its shape, and that it fits what is tested and what is documented.

use std::path::Path;

use serde_json::Value;

fn checkout(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(path)).unwrap()
}

fn compose() -> Value {
    serde_saphyr::from_str(&checkout("compose.yaml")).unwrap()
}

fn environment<'c>(compose: &'c Value, service: &str, name: &str) -> &'c Value {
    let value = &compose["services"][service]["environment"][name];
    assert!(!value.is_null(), "{service} has no {name}");
    value
}

#[test]
fn each_image_has_one_version_that_is_tested() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let (_, version) = image
            .rsplit_once(':')
            .unwrap_or_else(|| panic!("{name}: {image} has no version"));
        let numbers: Vec<Result<u32, _>> = version.split('.').map(str::parse::<u32>).collect();
        assert!(
            numbers.len() == 3 && numbers.iter().all(Result::is_ok),
            "{name}: {version}"
        );
        let script = checkout(&format!("host/tests/servers/start-{name}.sh"));
        assert!(
            script.contains(&format!("VERSION={version}")),
            "start-{name}.sh tests another version than {version}"
        );
    }
}

#[test]
fn it_listens_where_the_documentation_says_and_on_this_machine_alone() {
    let compose = compose();
    for (service, port) in [("kafka", 9092), ("elasticsearch", 9200)] {
        let ports = compose["services"][service]["ports"].as_array().unwrap();
        assert_eq!(ports, &[Value::from(format!("127.0.0.1:{port}:{port}"))], "{service}");
        assert!(
            compose["services"][service]["healthcheck"]["test"].is_array(),
            "{service}"
        );
    }
    assert!(checkout("README.md").contains("bootstrap.servers: localhost:9092"));
}

#[test]
fn kafka_tells_its_clients_names_that_they_can_reach() {
    let compose = compose();
    let text = |name: &str| environment(&compose, "kafka", name).as_str().unwrap().to_owned();
    assert!(text("KAFKA_ADVERTISED_LISTENERS").contains("HOST://localhost:9092"));
    let protocols = text("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP");
    let listeners = text("KAFKA_LISTENERS");
    for listener in listeners.split(',') {
        let (name, _) = listener.split_once("://").unwrap();
        assert!(
            protocols.contains(&format!("{name}:PLAINTEXT")),
            "{name} has no protocol"
        );
    }
    assert!(listeners.contains(&format!("{}://", text("KAFKA_INTER_BROKER_LISTENER_NAME"))));
    assert!(listeners.contains(&format!("{}://", text("KAFKA_CONTROLLER_LISTENER_NAMES"))));
    for name in [
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
    ] {
        assert_eq!(
            environment(&compose, "kafka", name),
            1,
            "transactions need it on one node"
        );
    }
}

#[test]
fn data_lies_in_volumes_that_are_declared() {
    let compose = compose();
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().unwrap() {
            let (volume, _) = volume.as_str().unwrap().split_once(':').unwrap();
            assert!(
                compose["volumes"].as_object().unwrap().contains_key(volume),
                "{name}: {volume}"
            );
        }
    }
}
