//! A Kafka whose users come by TLS and SASL (SCRAM) and may do nothing until a test gives them rights.
//!
//! The suite always starts it itself, when a test first asks for it. Each test has users and topics of its own. Tests look at the cluster
//! and change rights by its plain listener, where everybody may do everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::broker::{self, Fields};
use super::host::Pipeline;
use super::kafka::Kafka;
use super::servers::Started;

/// As many as tests that need one.
const USERS: [&str; 8] = ["ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal"];
/// One who may do everything.
const ADMIN: &str = "admin";

const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;

pub(crate) struct Secured {
    /// The plain listener.
    pub(crate) kafka: Kafka,
    pub(crate) address: String,
    pub(crate) ca: PathBuf,
    started: Started,
}

/// What a right is about, by Kafka's own numbers for resources and patterns.
#[derive(Clone, Debug)]
pub(crate) enum On {
    Topic(String),
    Group(String),
    TransactionalIds(String),
}

/// Operations by Kafka's own numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum May {
    Read = 3,
    Write = 4,
    Create = 5,
}

pub(crate) fn secured() -> &'static Secured {
    static SHARED: OnceLock<Result<Secured, String>> = OnceLock::new();
    SHARED
        .get_or_init(Secured::start)
        .as_ref()
        .unwrap_or_else(|error| panic!("this test needs a secured Kafka: {error}"))
}

/// A user whom no other test has.
pub(crate) fn user() -> &'static str {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    USERS[NEXT.fetch_add(1, Ordering::Relaxed)]
}

pub(crate) fn password(user: &str) -> String {
    format!("hush-hush-{user}")
}

impl Secured {
    fn start() -> Result<Self, String> {
        let users = USERS.iter().chain([&ADMIN]);
        let users: Vec<String> = users.map(|user| format!("{user}={}", password(user))).collect();
        let mut arguments = vec!["--property", "super.users=User:ANONYMOUS;User:admin"];
        for user in &users {
            arguments.extend(["--user", user]);
        }
        let started = Started::new(&arguments)?;
        Ok(Self {
            kafka: Kafka {
                bootstrap: started.bootstrap.clone(),
                replication: 1,
            },
            address: started.value("KAFKA_SECURED=")?,
            ca: started.value("KAFKA_CA=")?.into(),
            started,
        })
    }

    /// A pipeline whose clients come as this user.
    pub(crate) fn pipeline(&self, app: &str, user: &str, mechanism: &str) -> Pipeline {
        let mut pipeline = Pipeline::on(&self.kafka, app).set(&["kafka", "bootstrap.servers"], self.address.as_str());
        let properties: [(&str, Value); 5] = [
            ("security.protocol", json!("sasl_ssl")),
            ("sasl.mechanism", json!(mechanism)),
            ("sasl.username", json!(user)),
            ("sasl.password", json!({"env": "TEST_PASSWORD"})),
            ("ssl.ca.location", json!(self.ca)),
        ];
        for (name, value) in properties {
            pipeline = pipeline.set(&["kafka", name], value);
        }
        pipeline
    }

    pub(crate) fn allow(&self, user: &str, may: May, on: &On) {
        let body = binding(user, may, on);
        let answer = self.ask(CREATE_ACLS, &body);
        let mut fields = Fields(&answer);
        let (_throttled, _count) = (fields.i32(), fields.i32());
        assert_eq!(fields.i16(), Some(0), "{user} may not {may:?} on {on:?} now");
    }

    pub(crate) fn withdraw(&self, user: &str, may: May, on: &On) {
        let answer = self.ask(DELETE_ACLS, &binding(user, may, on));
        let mut fields = Fields(&answer);
        let (_throttled, _count) = (fields.i32(), fields.i32());
        let (error, _text, matching) = (fields.i16(), fields.string().map(str::len), fields.i32());
        assert_eq!(
            (error, matching),
            (Some(0), Some(1)),
            "{user} did not have {may:?} on {on:?}"
        );
    }

    fn ask(&self, kind: i16, body: &[u8]) -> Vec<u8> {
        let address: SocketAddr = self.kafka.bootstrap.parse().unwrap();
        broker::ask(address, kind, 1, body).expect("the broker answers")
    }

    /// What `kafka-acls.sh` of a distribution is, and the properties of the administrator who calls it, in a folder for the `PATH`.
    pub(crate) fn install_kafka_acls(&self, folder: &std::path::Path) {
        use std::os::unix::fs::PermissionsExt as _;
        let arguments = self.started.data.join("java.args");
        let script = format!(
            "#!/bin/sh\nexec java \"@{}\" org.apache.kafka.tools.AclCommand \"$@\"\n",
            arguments.display()
        );
        let program = folder.join("kafka-acls.sh");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let login = format!(
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{ADMIN}\" password=\"{}\";",
            password(ADMIN)
        );
        let properties = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={login}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n",
            self.ca.display()
        );
        std::fs::write(folder.join("admin.properties"), properties).unwrap();
    }
}

/// A list of one rule that allows; the same bytes ask for its deletion.
fn binding(user: &str, may: May, on: &On) -> Vec<u8> {
    let (kind, name, pattern) = match on {
        On::Topic(name) => (2, name, 3),
        On::Group(name) => (3, name, 3),
        On::TransactionalIds(prefix) => (5, prefix, 4),
    };
    let mut body = 1_i32.to_be_bytes().to_vec();
    let string = |body: &mut Vec<u8>, text: &str| {
        body.extend((text.len() as i16).to_be_bytes());
        body.extend(text.as_bytes());
    };
    body.push(kind);
    string(&mut body, name);
    body.push(pattern);
    string(&mut body, &format!("User:{user}"));
    string(&mut body, "*");
    body.push(may as u8);
    body.push(3); // allow
    body
}
