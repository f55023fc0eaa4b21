//! A real Elasticsearch (or OpenSearch) as the tests see it: indices, documents with their versions, settings, users and keys.
//!
//! The first test that wants a server starts it, and all others use the same; each has indices of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::servers::Server;
use super::{PATIENCE, wait_for};

/// Documents that one search gives at most, by Elasticsearch's default.
const WINDOW: usize = 10_000;
/// The password of the user `elastic` of the server that has users.
pub(crate) const PASSWORD: &str = "a password of the tests";

/// A document as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) version: u64,
    pub(crate) source: Value,
    pub(crate) routing: Option<String>,
    /// The index that holds it; of a data stream, the one behind it.
    pub(crate) index: String,
}

/// A server, and who asks it.
#[derive(Clone)]
pub(crate) struct Elastic {
    pub(crate) url: String,
    /// The certificate that it is known by, where it speaks TLS.
    pub(crate) ca: Option<PathBuf>,
    authorization: Option<String>,
    agent: ureq::Agent,
}

/// The server of one kind, started at its first use.
fn started(
    server: &'static OnceLock<Result<Server, String>>,
    script: &str,
    arguments: &[&str],
) -> Result<&'static Server, &'static str> {
    let server = server.get_or_init(|| Server::start(script, arguments));
    server.as_ref().map_err(String::as_str)
}

impl Elastic {
    /// The Elasticsearch 8 that most tests share, or the one that `WASMILL_TEST_ELASTICSEARCH` names. It asks nobody who they are.
    #[track_caller]
    pub(crate) fn shared() -> Self {
        static EIGHT: OnceLock<Result<Server, String>> = OnceLock::new();
        if let Some(url) = named("WASMILL_TEST_ELASTICSEARCH") {
            return Self::at(&url);
        }
        match started(&EIGHT, "start-elasticsearch.sh", &[]) {
            Ok(server) => Self::at(server.value("ELASTICSEARCH_URL")),
            Err(error) => panic!("this test needs an Elasticsearch: {error}"),
        }
    }

    /// An Elasticsearch 9, where a Java is there that runs it. Where there is none, it says so to whoever watches the run.
    #[track_caller]
    pub(crate) fn nine() -> Option<Self> {
        static NINE: OnceLock<Result<Server, String>> = OnceLock::new();
        match started(&NINE, "start-elasticsearch.sh", &["--major", "9"]) {
            Ok(server) => Some(Self::at(server.value("ELASTICSEARCH_URL"))),
            Err(error) if error.contains("needs Java 21 or newer, and there is none") => {
                let _ = writeln!(
                    std::io::stderr(),
                    "NOT TESTED on Elasticsearch 9: it needs Java 21 or newer, and there is none"
                );
                None
            }
            Err(error) => panic!("this test needs an Elasticsearch 9: {error}"),
        }
    }

    /// The OpenSearch of the run, or the one that `WASMILL_TEST_OPENSEARCH` names.
    #[track_caller]
    pub(crate) fn opensearch() -> Self {
        static OPENSEARCH: OnceLock<Result<Server, String>> = OnceLock::new();
        if let Some(url) = named("WASMILL_TEST_OPENSEARCH") {
            return Self::at(&url);
        }
        match started(&OPENSEARCH, "start-opensearch.sh", &[]) {
            Ok(server) => Self::at(server.value("OPENSEARCH_URL")),
            Err(error) => panic!("this test needs an OpenSearch: {error}"),
        }
    }

    /// An Elasticsearch with TLS and users that can queue one write, asked by its administrator.
    #[track_caller]
    pub(crate) fn secured() -> Self {
        static SECURED: OnceLock<Result<Server, String>> = OnceLock::new();
        let arguments = ["--tls", "--password", PASSWORD, "--write-queue", "1"];
        match started(&SECURED, "start-elasticsearch.sh", &arguments) {
            Ok(server) => {
                let ca = Path::new(server.value("ELASTICSEARCH_CA"));
                Self::new(server.value("ELASTICSEARCH_URL"), Some(ca)).asked_by("elastic", PASSWORD)
            }
            Err(error) => panic!("this test needs an Elasticsearch with users: {error}"),
        }
    }

    /// A server without TLS and users.
    pub(crate) fn at(url: &str) -> Self {
        Self::new(url, None)
    }

    fn new(url: &str, ca: Option<&Path>) -> Self {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE));
        if let Some(ca) = ca {
            let certificate = Certificate::from_pem(&fs::read(ca).unwrap()).unwrap();
            let tls = TlsConfig::builder()
                .provider(TlsProvider::NativeTls)
                .root_certs(RootCerts::new_with_certs(&[certificate]));
            config = config.tls_config(tls.build());
        }
        Self {
            url: url.trim_end_matches('/').to_owned(),
            ca: ca.map(Path::to_owned),
            authorization: None,
            agent: config.build().new_agent(),
        }
    }

    /// The same server, asked by this user.
    pub(crate) fn asked_by(mut self, name: &str, password: &str) -> Self {
        self.authorization = Some(format!("Basic {}", base64(format!("{name}:{password}").as_bytes())));
        self
    }

    /// Status and body of an answer. A write that a full queue refuses is asked again.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let kind = if path.contains("_bulk") {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        wait_for(&format!("{method} {path} not to be refused"), PATIENCE, || {
            let mut request = ureq::http::Request::builder()
                .method(method)
                .uri(format!("{}/{path}", self.url))
                .header("content-type", kind);
            if let Some(authorization) = &self.authorization {
                request = request.header("authorization", authorization);
            }
            let answer = match body {
                "" => self.agent.run(request.body(()).unwrap()),
                _ => self.agent.run(request.body(body).unwrap()),
            };
            let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            let text = answer.body_mut().with_config().limit(1 << 28).read_to_string().unwrap();
            let status = answer.status().as_u16();
            (status != 429).then(|| (status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
        })
    }

    /// The body of an answer that has to be a success.
    #[track_caller]
    pub(crate) fn does(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = self.call(method, path, &text);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// The answer to a bulk, unread.
    #[track_caller]
    pub(crate) fn does_bulk(&self, body: &str) -> String {
        let request = self
            .agent
            .post(format!("{}/_bulk", self.url))
            .content_type("application/x-ndjson");
        let mut answer = request.send(body).unwrap();
        assert_eq!(answer.status(), 200);
        answer.body_mut().with_config().limit(1 << 28).read_to_string().unwrap()
    }

    /// Makes an index of one shard, with these mappings and settings on top.
    #[track_caller]
    pub(crate) fn create_index(&self, index: &str, mappings: Value, settings: Value) {
        let mut all = json!({"number_of_shards": 1, "number_of_replicas": 0});
        all.as_object_mut()
            .unwrap()
            .extend(settings.as_object().cloned().unwrap_or_default());
        let mappings = if mappings.is_null() { json!({}) } else { mappings };
        self.does("PUT", index, &json!({"settings": all, "mappings": mappings}));
    }

    #[track_caller]
    pub(crate) fn settings(&self, index: &str, settings: &Value) {
        self.does("PUT", &format!("{index}/_settings"), settings);
    }

    /// All documents by their ids. A missing index has none.
    #[track_caller]
    pub(crate) fn documents(&self, index: &str) -> BTreeMap<String, Document> {
        self.call("POST", &format!("{index}/_refresh"), "");
        let path = format!("{index}/_search?size={WINDOW}&version=true&ignore_unavailable=true");
        let found = self.does("POST", &path, &json!({"query": {"match_all": {}}}));
        let hits = found["hits"]["hits"].as_array().unwrap();
        assert!(
            hits.len() < WINDOW,
            "{index} holds more documents than one search gives"
        );
        let document = |hit: &Value| Document {
            version: hit["_version"].as_u64().unwrap(),
            source: hit["_source"].clone(),
            routing: hit["_routing"].as_str().map(str::to_owned),
            index: hit["_index"].as_str().unwrap().to_owned(),
        };
        let by_id = hits
            .iter()
            .map(|hit| (hit["_id"].as_str().unwrap().to_owned(), document(hit)));
        by_id.collect()
    }

    /// How many documents there are.
    #[track_caller]
    pub(crate) fn count(&self, index: &str) -> u64 {
        self.call("POST", &format!("{index}/_refresh"), "");
        let found = self.does("GET", &format!("{index}/_count?ignore_unavailable=true"), &Value::Null);
        found["count"].as_u64().unwrap()
    }

    /// Waits until there are exactly so many documents.
    #[track_caller]
    pub(crate) fn holds(&self, index: &str, count: u64, deadline: Duration) {
        wait_for(&format!("{index} to hold {count} documents"), deadline, || {
            (self.count(index) == count).then_some(())
        });
    }

    /// An API key, as it is sent, with these rights and no others.
    #[track_caller]
    pub(crate) fn api_key(&self, name: &str, rights: &Value) -> String {
        let body = json!({"name": name, "role_descriptors": {name: rights}});
        let made = self.does("POST", "_security/api_key", &body);
        made["encoded"].as_str().unwrap().to_owned()
    }

    /// Makes a user with a role of the same name, or gives the role other rights.
    #[track_caller]
    pub(crate) fn user(&self, name: &str, password: &str, rights: &Value) {
        self.does("PUT", &format!("_security/role/{name}"), rights);
        let user = json!({"password": password, "roles": [name]});
        self.does("PUT", &format!("_security/user/{name}"), &user);
    }
}

fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}

/// The rights of whoever may do this with an index.
pub(crate) fn rights(index: &str, privileges: &[&str]) -> Value {
    json!({"cluster": ["monitor"], "indices": [{"names": [index], "privileges": privileges}]})
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        for place in 0..4 {
            match place <= chunk.len() {
                true => text.push(LETTERS[(bits >> (18 - 6 * place)) as usize & 63] as char),
                false => text.push('='),
            }
        }
    }
    text
}

#[test]
fn base64_is_that_of_everybody_else() {
    for (text, encoded) in [("a:b", "YTpi"), ("ab:c", "YWI6Yw=="), ("ab:cd", "YWI6Y2Q=")] {
        assert_eq!(base64(text.as_bytes()), encoded);
    }
}
