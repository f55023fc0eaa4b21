//! What the network and a busy cluster do to bulks: whatever it is, the documents are right in the end, and nothing is given up.
//!
//! A proxy stands in front of a real Elasticsearch. Each test is run with versions (index) and without (index and update, whose order counts), and
//! fails if the fault that it is about never came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::documents::{Act, Documents, Model};
use crate::support::elastic::Elastic;
use crate::support::es_proxy::bulk::Item;
use crate::support::es_proxy::record::{
    assert_applied_in_order, assert_one_bulk_at_a_time, assert_only_failed_items_came_again,
};
use crate::support::es_proxy::{Bulk, EsProxy, Fault};
use crate::support::rng::Rng;

const ACTS: usize = 1_500;
const IDS: usize = 150;
/// Every so manieth bulk is spoiled, so that some get through between two faults.
const SPOILED_EVERY: usize = 3;

/// Many actions on few documents, each with a number that rises.
fn acts(with_updates: bool) -> Vec<Act> {
    let mut rng = Rng::new(7);
    (0..ACTS)
        .map(|number| {
            let id = format!("{}", rng.below(IDS));
            let body = json!({"n": number, format!("field {}", number % 3): number});
            match (with_updates, number % 5) {
                (true, 1..=3) => Act::new("upsert", id, &body),
                _ => Act::index(id, &body),
            }
        })
        .collect()
}

/// The number in an item's body.
pub(crate) fn number(item: &Item) -> u64 {
    let body = item.lines.split(|byte| *byte == b'\n').nth(1).unwrap();
    let body: Value = serde_json::from_slice(body).unwrap();
    let document = ["doc", "upsert"]
        .iter()
        .find_map(|part| body.get(*part))
        .unwrap_or(&body);
    document["n"].as_u64().unwrap()
}

/// Runs a pipeline whose bulks go through the proxy, and checks what it has made of them.
fn run(
    name: &str,
    versions: &str,
    script: impl FnMut(&Bulk) -> Fault + Send + 'static,
    before: impl Fn(&EsProxy),
) -> EsProxy {
    let documents = Documents::new(name, Elastic::shared());
    let proxy = EsProxy::new(&documents.elastic.url);
    proxy.script(script);
    before(&proxy);
    let acts = acts(versions == "none");
    documents.send(&acts);
    let pipeline = documents
        .pipeline(&proxy.url())
        .set(&Documents::key("versions"), versions)
        .set(&Documents::key("timeout"), "1s")
        .set(&Documents::key("lanes"), 4)
        .set(&Documents::key("bulk"), json!({"documents": 50, "age": "20ms"}));
    documents.catches_up(&pipeline);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&[]);
    let bulks = proxy.bulks();
    assert_one_bulk_at_a_time(&bulks);
    assert_applied_in_order(&bulks, number);
    proxy
}

/// Spoils every third bulk, with versions and without.
fn survives(name: &str, did: &str, fault: impl Fn(&Bulk) -> Fault + Clone + Send + 'static) -> Vec<EsProxy> {
    let proxies = ["external", "none"].map(|versions| {
        let fault = fault.clone();
        let script = move |bulk: &Bulk| match bulk.number % SPOILED_EVERY {
            0 => fault(bulk),
            _ => Fault::Pass,
        };
        let proxy = run(name, versions, script, |_| {});
        proxy.did(did);
        proxy
    });
    proxies.into()
}

/// Every second item.
fn half(bulk: &Bulk) -> Vec<usize> {
    (0..bulk.items.len()).step_by(2).collect()
}

#[test]
fn items_that_are_refused_for_now_are_sent_again_and_no_others() {
    for status in [429, 503] {
        for proxy in survives("items", "items refused", move |bulk| {
            Fault::RefuseItems(half(bulk), status)
        }) {
            assert_only_failed_items_came_again(&proxy.bulks());
        }
    }
}

/// An item alone, the first of its bulk: what comes behind it may be of the same document.
#[test]
fn an_item_that_is_refused_is_not_overtaken() {
    for proxy in survives("overtaken", "items refused", |_| Fault::RefuseItems(vec![0], 429)) {
        assert_only_failed_items_came_again(&proxy.bulks());
    }
}

#[test]
fn a_bulk_that_is_refused_for_now_is_sent_again() {
    for status in [429, 502, 503, 504] {
        survives("refused", "refused", move |_| Fault::Refuse(status));
    }
}

#[test]
fn a_bulk_whose_connection_is_reset_is_sent_again() {
    survives("request-reset", "request reset", |_| Fault::ResetRequest);
}

#[test]
fn a_connection_that_is_reset_while_a_bulk_is_sent_is_made_again() {
    for versions in ["external", "none"] {
        let proxy = run(
            "while-sent",
            versions,
            |_| Fault::Pass,
            |proxy| proxy.reset_while_sent(5),
        );
        proxy.did("reset while sent");
    }
}

#[test]
fn a_bulk_that_was_applied_before_the_reset_is_applied_once_more_without_harm() {
    survives("answer-reset", "answer reset", |_| Fault::ResetAnswer);
}

#[test]
fn a_bulk_that_was_applied_and_never_answered_is_sent_again_after_the_timeout() {
    // Each costs the timeout of a second.
    let seen = Arc::new(AtomicUsize::new(0));
    survives("unanswered", "never answered", move |_| {
        match seen.fetch_add(1, Ordering::Relaxed) % 4 {
            0 => Fault::NeverAnswer,
            _ => Fault::Pass,
        }
    });
}

#[test]
fn an_answer_that_is_cut_or_none_of_elasticsearch_is_not_believed() {
    survives("cut", "answer cut", |_| Fault::CutAnswer);
    survives("page", "answered with a page", |_| Fault::Page);
}

/// Lanes overtake each other; documents do not.
#[test]
fn bulks_that_overtake_each_other_leave_the_newest_documents() {
    for versions in ["external", "none"] {
        let mut rng = Rng::new(3);
        let script = move |_: &Bulk| Fault::Delay(rng.between_ms(0, 60));
        run("delayed", versions, script, |_| {}).did("delayed");
    }
}

#[test]
fn a_bulk_that_is_too_large_is_split() {
    const BYTES_MAX: usize = 1_500;
    for versions in ["external", "none"] {
        let script = |bulk: &Bulk| match bulk.bytes > BYTES_MAX {
            true => Fault::Refuse(413),
            false => Fault::Pass,
        };
        let proxy = run("split", versions, script, |_| {});
        proxy.did("refused");
        assert!(
            proxy
                .bulks()
                .iter()
                .any(|bulk| bulk.fault == "passed" && bulk.items.len() > 1)
        );
    }
}

/// Split until it is alone, and then given up.
#[test]
fn a_document_that_is_too_large_by_itself_is_a_dead_letter() {
    const BYTES_MAX: usize = 20_000;
    let documents = Documents::new("too-large", Elastic::shared());
    let proxy = EsProxy::new(&documents.elastic.url);
    proxy.script(|bulk| match bulk.bytes > BYTES_MAX {
        true => Fault::Refuse(413),
        false => Fault::Pass,
    });
    let mut acts = acts(false);
    let good = Model::of(&acts).documents;
    acts.insert(ACTS / 2, Act::index("large", &json!({"text": "x".repeat(BYTES_MAX)})));
    documents.send(&acts);
    documents.catches_up(&documents.pipeline(&proxy.url()));
    proxy.did("refused");
    documents.assert_holds(&good);
    documents.assert_letters(&["large"]);
}

/// All of them, by chance, on every second bulk.
fn any_mix_of_faults(elastic: Elastic) {
    for versions in ["external", "none"] {
        let documents = Documents::new("mixed", elastic.clone());
        let proxy = EsProxy::new(&documents.elastic.url);
        let mut rng = Rng::new(11);
        proxy.script(move |bulk| mixed(&mut rng, bulk));
        let acts = acts(versions == "none");
        documents.send(&acts);
        let pipeline = documents
            .pipeline(&proxy.url())
            .set(&Documents::key("versions"), versions)
            .set(&Documents::key("timeout"), "1s")
            .set(&Documents::key("bulk"), json!({"documents": 30}));
        documents.catches_up(&pipeline);
        documents.assert_holds(&Model::of(&acts).documents);
        documents.assert_letters(&[]);
        assert_one_bulk_at_a_time(&proxy.bulks());
        assert!(proxy.counts().len() > 4, "{:?}", proxy.counts());
    }
}

/// A fault for half of the bulks.
pub(crate) fn mixed(rng: &mut Rng, bulk: &Bulk) -> Fault {
    match rng.below(20) {
        0 | 1 => Fault::Refuse(429),
        2 => Fault::Refuse(503),
        3 | 4 => Fault::RefuseItems(half(bulk), 429),
        5 => Fault::RefuseItems(vec![rng.below(bulk.items.len().max(1))], 503),
        6 => Fault::ResetRequest,
        7 => Fault::ResetAnswer,
        8 => Fault::CutAnswer,
        9 => Fault::Delay(Duration::from_millis(50)),
        _ => Fault::Pass,
    }
}

#[test]
fn any_mix_of_faults_leaves_the_right_documents_in_elasticsearch() {
    any_mix_of_faults(Elastic::shared());
}

#[test]
fn any_mix_of_faults_leaves_the_right_documents_in_elasticsearch_9() {
    if let Some(elastic) = Elastic::nine() {
        any_mix_of_faults(elastic);
    }
}

#[test]
fn any_mix_of_faults_leaves_the_right_documents_in_opensearch() {
    any_mix_of_faults(Elastic::opensearch());
}
