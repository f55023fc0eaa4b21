//! Lanes in front of a sender that fails as servers do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::external::{Claim, Ticket};
use crate::metrics::Metrics;

/// What an item sets: a document and its value.
type Write = (u8, u32);

/// How a request goes.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Taken,
    /// Nothing is applied.
    Lost,
    /// All is applied, and the answer is lost.
    AnswerLost,
    /// Every item but each nth is applied.
    Partly(usize),
}

/// A server that holds the last value of each document.
#[derive(Default)]
struct Server {
    fates: Mutex<Vec<Fate>>,
    /// Values that this divides are refused, whenever they come; none for 0.
    refused: u32,
    documents: Mutex<BTreeMap<u8, u32>>,
    requests: Mutex<Vec<usize>>,
    in_flight: Mutex<HashMap<u8, usize>>,
    /// A document was in two requests at once.
    has_overtaken: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn again() -> Answer {
    Answer::Again(Trouble {
        kind: "429",
        text: "busy".to_owned(),
    })
}

impl Sender for Server {
    type Content = Write;

    fn bounds(&self) -> Bounds {
        Bounds {
            items_max: 5,
            bytes_max: 100,
            age: Duration::from_micros(200),
            wait: Duration::from_micros(20),
        }
    }

    async fn send(&self, items: &[Item<Write>]) -> Vec<Answer> {
        locked(&self.requests).push(items.len());
        let documents: BTreeSet<u8> = items.iter().map(|item| item.content.0).collect();
        for document in &documents {
            let mut in_flight = locked(&self.in_flight);
            let requests = in_flight.entry(*document).or_default();
            *requests += 1;
            self.has_overtaken.fetch_or(*requests > 1, Ordering::Relaxed);
        }
        let fate = locked(&self.fates).pop().unwrap_or(Fate::Taken);
        tokio::task::yield_now().await;
        let mut answers = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let (document, value) = item.content;
            let (applied, answer) = match fate {
                Fate::Lost => (false, again()),
                Fate::Partly(n) if index % n == 0 => (false, again()),
                _ if self.refused > 0 && value.is_multiple_of(self.refused) => {
                    (false, Answer::Refused("no".to_owned()))
                }
                Fate::AnswerLost => (true, again()),
                Fate::Taken | Fate::Partly(_) => (true, Answer::Done("done")),
            };
            if applied {
                locked(&self.documents).insert(document, value);
            }
            answers.push(answer);
        }
        tokio::task::yield_now().await;
        for document in &documents {
            if let Some(requests) = locked(&self.in_flight).get_mut(document) {
                *requests -= 1;
            }
        }
        answers
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Taken),
        Just(Fate::Lost),
        Just(Fate::AnswerLost),
        (1..4_usize).prop_map(Fate::Partly),
    ]
}

fn item(record: u64, (document, value): Write, claim: &Claim) -> Item<Write> {
    Item {
        content: (document, value),
        order: u64::from(document),
        bytes: 10,
        ticket: Ticket { slot: 0, record },
        claim: claim.clone(),
        tries: 0,
        failing: None,
        is_repeated: false,
    }
}

fn told() -> (Told, mpsc::Receiver<Vec<Receipt>>) {
    let (sender, receipts) = mpsc::channel();
    let metrics = ExitMetrics::new(&Metrics::new().stage("s"), "o");
    let told = Told {
        receipts: sender,
        health: Health::new("s", "o", metrics.blocked()),
        metrics,
    };
    (told, receipts)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Receipts of so many items.
fn collect(receipts: &mpsc::Receiver<Vec<Receipt>>, count: usize) -> Vec<Receipt> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(
            receipts
                .recv_timeout(Duration::from_secs(10))
                .expect("a receipt in time"),
        );
    }
    all
}

#[test]
fn requests_keep_their_bounds() {
    let runtime = runtime();
    let server = Arc::new(Server::default());
    let (told, receipts) = told();
    let lanes = Lanes::start(runtime.handle(), &server, 1, &told);
    lanes.send((0..23).map(|n| item(n, (0, 1), &Claim::default())));
    assert_eq!(collect(&receipts, 23).len(), 23);
    assert_eq!(*locked(&server.requests), [5, 5, 5, 5, 3]);
}

#[test]
fn what_was_given_up_is_not_sent() {
    let runtime = runtime();
    let server = Arc::new(Server::default());
    *locked(&server.fates) = vec![Fate::Lost; 3];
    let (told, receipts) = told();
    let lanes = Lanes::start(runtime.handle(), &server, 1, &told);
    let (kept, dropped) = (Claim::default(), Claim::default());
    dropped.give_up();
    lanes.send([
        item(0, (1, 1), &dropped),
        item(1, (2, 2), &kept),
        item(2, (1, 3), &dropped),
    ]);
    let receipts = collect(&receipts, 1);
    assert_eq!(receipts[0].ticket.record, 1);
    assert_eq!(*locked(&server.documents), BTreeMap::from([(2, 2)]));
}

#[test]
fn only_an_items_own_failures_count_against_it() {
    let claim = Claim::default();
    let batch = vec![
        item(0, (1, 1), &claim),
        item(1, (1, 2), &claim),
        item(2, (2, 3), &claim),
    ];
    let failed = Answer::Again(Trouble {
        kind: FAILED,
        text: "broken".to_owned(),
    });
    let first = Instant::now();
    let sorted = sort(batch, vec![failed.clone(), failed.clone(), again()], first);
    let found = |items: &[Item<Write>]| -> Vec<_> { items.iter().map(|item| (item.tries, item.failing)).collect() };
    let failing = |times| Some(Failing { times, since: first });
    assert_eq!(found(&sorted.again), [(1, failing(1)), (1, None), (1, None)]);
    let later = first + Duration::from_secs(7);
    let sorted = sort(sorted.again, vec![failed, again(), again()], later);
    assert_eq!(found(&sorted.again), [(2, failing(2)), (2, None), (2, None)]);
}

#[test]
fn lanes_end_with_their_worker() {
    let runtime = runtime();
    let server = Arc::new(Server::default());
    *locked(&server.fates) = vec![Fate::Lost; 100];
    let (told, _receipts) = told();
    let mut lanes = Lanes::start(runtime.handle(), &server, 3, &told);
    let claim = Claim::default();
    lanes.send((0..9).map(|n| item(n, (n as u8, 1), &claim)));
    claim.give_up();
    let until = Instant::now() + Duration::from_secs(10);
    while !lanes.are_over() {
        assert!(Instant::now() < until, "the lanes do not end");
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However requests fail, every item has one receipt, each document has the last value that was not refused, and no document is in two
    /// requests at once.
    #[test]
    fn the_last_value_of_each_document_stays(
        writes in prop::collection::vec(0..6_u8, 1..60),
        fates in prop::collection::vec(fate(), 0..30),
        lanes in 1..4_usize,
        refused in 0..5_u32,
    ) {
        let runtime = runtime();
        let server = Arc::new(Server { fates: Mutex::new(fates), refused, ..Server::default() });
        let (told, receipts) = told();
        let lanes = Lanes::start(runtime.handle(), &server, lanes, &told);
        let claim = Claim::default();
        let numbered: Vec<Write> = writes.iter().zip(1..).map(|(document, value)| (*document, value)).collect();
        lanes.send(numbered.iter().zip(0..).map(|(write, record)| item(record, *write, &claim)));
        let mut found = collect(&receipts, numbered.len());
        prop_assert!(receipts.try_recv().is_err(), "one receipt for each item");
        found.sort_by_key(|receipt| receipt.ticket);
        let records: Vec<u64> = found.iter().map(|receipt| receipt.ticket.record).collect();
        prop_assert_eq!(records, (0..numbered.len() as u64).collect::<Vec<_>>());
        let mut expected = BTreeMap::new();
        for ((document, value), receipt) in numbered.iter().zip(&found) {
            if receipt.refusal.is_none() {
                expected.insert(*document, *value);
            }
        }
        prop_assert!(!server.has_overtaken.load(Ordering::Relaxed));
        let documents = locked(&server.documents);
        for (document, value) in &expected {
            prop_assert_eq!(documents.get(document), Some(value), "document {}", document);
        }
    }
}
