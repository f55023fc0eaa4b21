//! A host that takes records in by HTTP, clients that shoot at it, and what must then be in the topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use super::guests::guest;
use super::host::{Host, Invocation, Pipeline};
use super::http::Client;
use super::kafka::{Kafka, Placed};
use super::{free_port, unique};

/// The header that names a record.
pub(crate) const MESSAGE_ID: &str = "wasmill.message-id";

/// A topic that is written by HTTP, and a stage that copies it.
pub(crate) struct Place {
    pub(crate) kafka: Kafka,
    pub(crate) topic: String,
    pub(crate) output: String,
    pub(crate) port: u16,
}

impl Place {
    pub(crate) fn new(kafka: Kafka) -> Self {
        let place = Self {
            topic: unique("ingest"),
            output: unique("ingest-copy"),
            port: free_port(),
            kafka,
        };
        place.kafka.create_topic(&place.topic, 4, &[]);
        place.kafka.create_topic(&place.output, 4, &[]);
        place
    }

    pub(crate) fn pipeline(&self) -> Pipeline {
        let app = unique("ingest-app");
        let ingest = json!({
            "listen": format!("127.0.0.1:{}", self.port),
            "topics": {&self.topic: {"key": "/id"}},
        });
        self.kafka.create_topic(&format!("{app}.dead-letters"), 1, &[]);
        Pipeline::on(&self.kafka, &app)
            .stage("copy", &guest("identity"), json!({}), &self.topic, &self.output)
            .set(&["ingest"], ingest)
    }

    pub(crate) fn start(&self, pipeline: &Pipeline) -> Host {
        let mut host = Invocation::run(&pipeline.write()).start();
        host.ready();
        host
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Compares what clients were told with what is in the topic; the number of records that were acknowledged comes back.
    #[track_caller]
    pub(crate) fn verify(&self, shots: &[Shot]) -> usize {
        self.verify_beside(shots, &[])
    }

    /// The same where others have written these values, any number of times.
    #[track_caller]
    pub(crate) fn verify_beside(&self, shots: &[Shot], others: &[String]) -> usize {
        let records = self.kafka.read_committed(&self.topic);
        let at: BTreeMap<(i32, i64), &Placed> = records
            .iter()
            .map(|placed| ((placed.partition, placed.offset), placed))
            .collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for placed in &records {
            *counts.entry(placed.record.value_text()).or_default() += 1;
        }
        let mut acknowledged = 0;
        for shot in shots {
            for (index, value) in shot.values.iter().enumerate() {
                let count = counts.remove(value.as_str()).unwrap_or(0);
                match &shot.fate {
                    Fate::Acknowledged(answer) => {
                        acknowledged += 1;
                        let receipt = if answer.is_array() { &answer[index] } else { answer };
                        let place = (
                            receipt["partition"].as_i64().unwrap() as i32,
                            receipt["offset"].as_i64().unwrap(),
                        );
                        let placed = at
                            .get(&place)
                            .unwrap_or_else(|| panic!("{receipt} is acknowledged and not there"));
                        assert_eq!(placed.record.value_text(), value, "{receipt}");
                        assert_eq!(placed.record.header(MESSAGE_ID), receipt["message_id"].as_str());
                        assert_eq!(placed.record.timestamp_ms, receipt["timestamp"].as_i64());
                        assert_eq!(count, 1, "{value} is there {count} times");
                    }
                    Fate::Refused { status, written, .. } if written == "none" => {
                        assert_eq!(count, 0, "{value} was refused ({status}, nothing written) and is there");
                    }
                    Fate::Refused { .. } | Fate::Unknown => assert!(count <= 1, "{value} is there {count} times"),
                }
            }
        }
        counts.retain(|value, _| !others.iter().any(|other| other == value));
        assert!(counts.is_empty(), "nobody has sent {:?}", counts.keys().next());
        acknowledged
    }
}

/// What a client knows of a request.
#[derive(Debug)]
pub(crate) enum Fate {
    /// 200, with this answer.
    Acknowledged(Value),
    Refused {
        status: u16,
        written: String,
        retry_after: Option<String>,
    },
    /// The connection broke.
    Unknown,
}

/// A request that was sent once.
#[derive(Debug)]
pub(crate) struct Shot {
    pub(crate) values: Vec<String>,
    pub(crate) fate: Fate,
}

/// Sends values, one as an object and several as an array, and tells what came of them.
pub(crate) fn shoot(client: &mut Client, topic: &str, values: Vec<String>) -> Shot {
    let body = match values.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    };
    let fate = match client.post(topic, &[], &body) {
        Err(_) => Fate::Unknown,
        Ok(answer) if answer.status == 200 => Fate::Acknowledged(answer.json()),
        Ok(answer) => Fate::Refused {
            status: answer.status,
            written: answer.json()["written"].as_str().unwrap().to_owned(),
            retry_after: answer.headers.get("retry-after").cloned(),
        },
    };
    Shot { values, fate }
}

/// A value that no other request has, of about this size, spelt in a way that a careless hand would change.
pub(crate) fn value(id: usize, bytes: usize) -> String {
    format!(
        "{{ \"id\" : \"{id}\",\t\"price\":1.{}0 , \"name\": \"caf\\u00e9 é\", \"fill\":\"{}\" }}",
        id % 10,
        "x".repeat(bytes)
    )
}

/// Clients that send as fast as they are answered, until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<Shot>>>,
}

impl Load {
    /// `values` makes the values of the request with this number.
    pub(crate) fn start(
        place: &Place,
        clients: usize,
        values: impl Fn(usize) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (next, values) = (Arc::<AtomicUsize>::default(), Arc::new(values));
        let client = |_| {
            let (stop, acknowledged, next, values) = (stop.clone(), acknowledged.clone(), next.clone(), values.clone());
            let (mut client, topic) = (place.client(), place.topic.clone());
            thread::spawn(move || {
                let mut shots = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let shot = shoot(&mut client, &topic, values(next.fetch_add(1, Ordering::Relaxed)));
                    if matches!(shot.fate, Fate::Acknowledged(_)) {
                        acknowledged.fetch_add(1, Ordering::AcqRel);
                    }
                    shots.push(shot);
                }
                shots
            })
        };
        let clients = (0..clients).map(client).collect();
        Self {
            stop,
            acknowledged,
            clients,
        }
    }

    /// How many requests were answered with 200 by now.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Acquire)
    }

    pub(crate) fn finish(self) -> Vec<Shot> {
        self.stop.store(true, Ordering::Release);
        self.clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    }
}

/// How many requests got each status; 0 stands for a broken connection.
pub(crate) fn statuses(shots: &[Shot]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for shot in shots {
        let status = match &shot.fate {
            Fate::Acknowledged(_) => 200,
            Fate::Refused { status, .. } => *status,
            Fate::Unknown => 0,
        };
        *counts.entry(status).or_default() += 1;
    }
    counts
}
