//! The router on an embedded broker, one request at a time: what each is answered, and what is in the topic then.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::config::Broker;
use crate::kafka::embedded::Embedded;
use crate::metrics::Metrics;

struct Listener {
    router: Router,
    shared: Arc<Shared>,
    broker: Embedded,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

/// `ingest` is what stands in the section besides its topics.
fn listener(ingest: &str) -> Listener {
    let broker = Embedded::start().unwrap();
    broker.create_topic("products", 1).unwrap();
    broker.create_topic("plain", 1).unwrap();
    let servers = broker.bootstrap_servers();
    let text = format!(
        "app: a\nkafka: {{bootstrap.servers: '{servers}'}}\n\
         ingest:\n  topics: {{products: {{key: /product_id}}, plain: {{}}}}\n{ingest}\
         stages: {{s: {{plugin: p.wasm, input: i, output: o}}}}\n"
    );
    let pipeline = config::parse(&text, "p.yaml".as_ref(), &|_| None, Broker::Configured);
    let pipeline = pipeline.unwrap_or_else(|errors| panic!("{errors}"));
    let ingest = pipeline.ingest.unwrap();
    let metrics = Metrics::new().ingest.clone();
    let shared = Shared::new(&ingest, &pipeline.kafka, None, metrics, ingest.listen.value).unwrap();
    let shared = Arc::new(shared);
    Listener {
        router: request::router(Arc::clone(&shared)),
        shared,
        broker,
    }
}

impl Listener {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    async fn post(&self, topic: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.ask("POST", &format!("/producer/{topic}"), &headers, body.to_owned())
            .await
    }

    /// Keys, values and message ids of a topic.
    fn records(&self, topic: &str) -> Vec<(Option<String>, String, String)> {
        let records = self.broker.read(topic).unwrap();
        let told = |record: crate::kafka::embedded::Output| {
            let id = record.header("wasmill.message-id").unwrap().to_owned();
            (record.key, record.value.unwrap(), id)
        };
        records.into_iter().map(told).collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

#[tokio::test]
async fn an_object_is_written_as_it_was_sent_and_the_answer_says_where() {
    let listener = listener("");
    let sent = " {\"name\": \"Funny Farm\",\n \"product_id\" : 10, \"price\":1.50}\n";
    let answer = listener.post("products", &[], sent).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id = text(&answer.body["message_id"]);
    assert_eq!(answer.body["name"], "Funny Farm");
    assert_eq!(
        (&answer.body["topic"], &answer.body["partition"], &answer.body["offset"]),
        (&json!("products"), &json!(0), &json!(0))
    );
    // The embedded broker has a time of its own.
    assert!(answer.body["timestamp"].is_i64(), "{}", answer.body);
    assert!(
        uuid::Uuid::parse_str(id.strip_prefix("Funny Farm_").unwrap()).is_ok(),
        "{id}"
    );
    assert_eq!(
        listener.records("products"),
        [(Some("10".to_owned()), sent.to_owned(), id.to_owned())]
    );
    listener.shared.memory.all_given_back().await;
}

#[tokio::test]
async fn an_array_is_a_record_for_each_element_in_order() {
    let listener = listener("");
    let answer = listener.post("plain", &[], "[{\"a\" : 1}, {\"name\":\"b\"} ,{}]").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let list = answer.body.as_array().unwrap();
    let offsets: Vec<_> = list.iter().map(|receipt| receipt["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, [0, 1, 2]);
    assert!(list[0].get("name").is_none() && uuid::Uuid::parse_str(text(&list[0]["message_id"])).is_ok());
    let told: Vec<_> = list
        .iter()
        .map(|receipt| text(&receipt["message_id"]).to_owned())
        .collect();
    let records = listener.records("plain");
    let ids: Vec<_> = records.iter().map(|(_, _, id)| id.clone()).collect();
    assert_eq!(told, ids);
    let values: Vec<_> = records
        .iter()
        .map(|(key, value, _)| (key.is_none(), value.as_str()))
        .collect();
    assert_eq!(
        values,
        [(true, "{\"a\" : 1}"), (true, "{\"name\":\"b\"}"), (true, "{}")]
    );
    // An array of one is answered by a list of one.
    assert!(listener.post("plain", &[], "[{}]").await.body.is_array());
}

#[tokio::test]
async fn what_is_not_wanted_is_refused_with_the_reason_and_nothing_is_written() {
    let listener = listener("  body: 1KiB\n  records: 2\n");
    let json = [("content-type", "application/json")];
    let keyed = |key: &'static str| [json[0], ("idempotency-key", key)];
    let long: &str = "x".repeat(256).leak();
    let large = format!("{{\"product_id\": \"{}\"}}", "x".repeat(1024));
    let path = "/producer/products";
    let mut answers = String::new();
    let mut told = async |title: &str, method, path: &str, headers: &[(&str, &str)], body: &str| {
        let answer = listener.ask(method, path, headers, body.to_owned()).await;
        answers.push_str(&format!("{title}\n  {} {}\n", answer.status, answer.body));
    };
    told("another path", "POST", "/products", &json, "{}").await;
    told("another method", "GET", path, &json, "").await;
    told("another topic", "POST", "/producer/product", &json, "{}").await;
    told("a topic that is none", "POST", "/producer/%2e%2e%2f", &json, "{}").await;
    told("no media type", "POST", path, &[], "{}").await;
    told(
        "another media type",
        "POST",
        path,
        &[("content-type", "text/csv")],
        "{}",
    )
    .await;
    told(
        "another charset",
        "POST",
        path,
        &[("content-type", "application/json; charset=latin1")],
        "{}",
    )
    .await;
    told(
        "a compressed body",
        "POST",
        path,
        &[json[0], ("content-encoding", "gzip")],
        "{}",
    )
    .await;
    told(
        "a web page",
        "POST",
        path,
        &[json[0], ("origin", "http://example.com")],
        "{}",
    )
    .await;
    told("a body that is too large", "POST", path, &json, &large).await;
    told("too many records", "POST", path, &json, "[{},{},{}]").await;
    told("no JSON", "POST", path, &json, "{\"a\": 1,}").await;
    told("no key", "POST", path, &json, "[{\"product_id\": 1},\n{\"id\": 1}]").await;
    told("an empty idempotency key", "POST", path, &keyed(""), "{}").await;
    told("an idempotency key that is too long", "POST", path, &keyed(long), "{}").await;
    told(
        "two idempotency keys",
        "POST",
        path,
        &[json[0], keyed("a")[1], keyed("b")[1]],
        "{}",
    )
    .await;
    insta::assert_snapshot!(answers);
    assert_eq!(listener.records("products"), []);
    assert_eq!(listener.shared.memory.held_bytes(), 0);
}

#[tokio::test]
async fn other_names_of_json_are_taken() {
    let listener = listener("");
    for kind in [
        "Application/JSON; charset=\"UTF-8\"",
        "application/vnd.shop+json",
        "application/json;charset=utf-8",
    ] {
        let answer = listener
            .ask("POST", "/producer/plain", &[("content-type", kind)], "{}".to_owned())
            .await;
        assert_eq!(answer.status, 200, "{kind}: {}", answer.body);
    }
}

#[tokio::test]
async fn ping_answers_whoever_asks() {
    let answer = listener("  token: s3cret\n").ask("GET", "/ping", &[], "").await;
    assert_eq!((answer.status, answer.body), (200, json!({"ping": "pong"})));
}

#[tokio::test]
async fn nothing_is_written_without_the_token() {
    let listener = listener("  token: s3cret\n");
    for wrong in ["", "Bearer ", "Bearer s3cre", "Basic s3cret", "s3cret"] {
        let answer = listener.post("plain", &[("authorization", wrong)], "{}").await;
        assert_eq!(answer.status, 401, "{wrong}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        // Which topics there are is not told either.
        assert_eq!(
            listener.post("nothing", &[("authorization", wrong)], "{}").await.status,
            401
        );
    }
    assert_eq!(listener.records("plain"), []);
    let right = [("authorization", "Bearer s3cret"), ("origin", "http://example.com")];
    assert_eq!(listener.post("plain", &right, "{}").await.status, 200);
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_answered_again_and_written_once() {
    let listener = listener("");
    let key = [("idempotency-key", "order-17")];
    let first = listener.post("plain", &key, "[{\"name\":\"a\"},{}]").await;
    let second = listener.post("plain", &key, "[{\"name\":\"a\"},{}]").await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, second.body);
    assert!(first.headers.get("idempotent-replayed").is_none());
    assert_eq!(second.headers["idempotent-replayed"], "true");
    let other = listener.post("plain", &key, "[{\"name\":\"b\"},{}]").await;
    assert_eq!(other.status, 422, "{}", other.body);
    assert_eq!(listener.records("plain").len(), 2);
    // Each topic has keys of its own.
    assert_eq!(listener.post("products", &key, "{\"product_id\":1}").await.status, 200);
}

#[tokio::test]
async fn a_message_id_follows_from_key_and_body_in_every_process() {
    let (one, other) = (listener(""), listener(""));
    let body = "[{\"name\":\"a\"},{\"name\":\"a\"}]";
    let ids = async |listener: &Listener, key: &str, body: &str| {
        let answer = listener.post("plain", &[("idempotency-key", key)], body).await;
        let id = |index: usize| text(&answer.body[index]["message_id"]).to_owned();
        [id(0), id(1)]
    };
    let first = ids(&one, "k", body).await;
    assert_eq!(first, ids(&other, "k", body).await);
    assert_ne!(first[0], first[1]);
    assert_ne!(first, ids(&one, "l", body).await);
    assert_ne!(
        first[1],
        ids(&listener(""), "k", "[{\"name\":\"a\"},{\"name\":\"a\" }]").await[1]
    );
}

#[tokio::test]
async fn a_long_name_does_not_make_a_long_message_id() {
    let listener = listener("");
    let name = "é".repeat(5_000);
    let answer = listener.post("plain", &[], &format!("{{\"name\":\"{name}\"}}")).await;
    assert_eq!(answer.body["name"], name);
    let id = text(&answer.body["message_id"]);
    assert_eq!(id.len(), 256 + 1 + 36);
}

#[tokio::test]
async fn no_room_is_told_before_the_body_is_read() {
    let listener = listener("  memory: 4MiB\n  idempotency: {memory: 1MiB}\n");
    let mut all = listener.shared.memory.share();
    assert!(all.grow(4 << 20));
    let answer = listener.post("plain", &[], "{}").await;
    assert_eq!((answer.status, &answer.body["written"]), (429, &json!("none")));
    assert_eq!(answer.headers["retry-after"], "1");
    drop(all);
    assert_eq!(listener.post("plain", &[], "{}").await.status, 200);
    {
        let mut keys = listener.shared.keys.lock().unwrap();
        for key in 0..10_000 {
            keys.begin(std::time::Instant::now(), &key.to_string(), [0; 32], 1);
        }
    }
    let answer = listener.post("plain", &[("idempotency-key", "one-more")], "{}").await;
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert_eq!(listener.records("plain").len(), 1);
}

#[tokio::test]
async fn a_request_without_brokers_is_answered_in_time_and_nothing_counts_as_written() {
    let listener = listener("  timeout: 1s\n");
    let Listener { router, shared, broker } = listener;
    assert!(shared.status.unready().is_none());
    drop(broker);
    let request = || {
        Request::post("/producer/plain")
            .header("content-type", "application/json")
            .header("idempotency-key", "k")
            .body(Body::from("{}"))
            .unwrap()
    };
    for _ in 0..2 {
        let response = router.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_ne!(body["written"], "some", "{body}");
        assert!(shared.status.unready().unwrap().contains("records cannot be written"));
    }
    assert_eq!(shared.keys.lock().unwrap().size().0, 0);
    shared.memory.all_given_back().await;
}
