//! Random actions on few documents while the host is killed again and again: in the end each index equals a model of it.
//!
//! Two stages in one process: one writes documents with versions (index, delete, tombstones), one without (create, update and upsert, too). All records of
//! an id are in one partition. Between the host and Elasticsearch stands a proxy that spoils one bulk in ten.
//!
//! Without versions a replay does not undo what came later, it does it again; the history has only what converges then: behind an update of a
//! missing document comes an index or a delete of it, because a replayed update would find what came after it otherwise. And an update that comes again
//! behind a delete of its document finds nothing: it is a dead letter then, though it was applied before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::elasticsearch_faults::{mixed, number};
use crate::support::chaos::events::{self, EventLog};
use crate::support::documents::{Act, Documents, Model};
use crate::support::elastic::Elastic;
use crate::support::es_proxy::record::assert_one_bulk_at_a_time;
use crate::support::es_proxy::{EsProxy, Fault};
use crate::support::host::{Host, Invocation, Pipeline, was_killed};
use crate::support::rng::{self, Rng};
use crate::support::{PATIENCE, kafka};

const IDS: usize = 500;
const PROCESSES: usize = 2;
/// The points at which a process kills itself, each in turn for one process, and one process that does not.
const POINTS: [Option<&str>; 6] = [
    Some("documents-sent=0.2"),
    Some("after-produce=0.2"),
    Some("during-commit=0.2"),
    Some("after-commit=0.2"),
    Some("after-offsets-sent=0.2"),
    None,
];
/// What a run must have met, or it proves less than it says.
const AIMS: [&str; 5] = [
    "killed documents-sent",
    "killed during-commit",
    "killed after-commit",
    "killed from outside",
    "spoiled",
];

/// Actions, what they come to, and which of them Elasticsearch refuses.
#[derive(Default)]
struct History {
    acts: Vec<Act>,
    model: Model,
    /// By id and number.
    refused: BTreeSet<(String, u64)>,
}

impl History {
    fn new(rng: &mut Rng, actions: usize, is_versioned: bool) -> Self {
        let mut history = Self::default();
        let mut unsettled = BTreeSet::new();
        for number in 0..actions {
            let id = format!("{}", rng.below(IDS));
            let act = match (is_versioned, unsettled.contains(&id)) {
                (true, _) => random_act(rng, &["index", "index", "index", "delete", "tombstone"], id, number),
                (false, true) => random_act(rng, &["index", "delete", "tombstone"], id, number),
                (false, false) => {
                    let actions = [
                        "index",
                        "create",
                        "update",
                        "update",
                        "upsert",
                        "upsert",
                        "delete",
                        "tombstone",
                    ];
                    random_act(rng, &actions, id, number)
                }
            };
            history.add(act, number as u64, &mut unsettled);
        }
        history
    }

    fn add(&mut self, act: Act, number: u64, unsettled: &mut BTreeSet<String>) {
        let is_applied = self.model.apply(&act);
        match act.action {
            Some("update") if !is_applied => {
                unsettled.insert(act.id.clone());
                self.refused.insert((act.id.clone(), number));
            }
            Some("index" | "delete") | None => {
                unsettled.remove(&act.id);
            }
            _ => {}
        }
        self.acts.push(act);
    }
}

impl History {
    fn is_deleted_after(&self, (id, number): &(String, u64)) -> bool {
        let later = self.acts.iter().skip(*number as usize + 1);
        let mut deletes = later.filter(|act| act.id == *id && matches!(act.action, Some("delete") | None));
        deletes.next().is_some()
    }
}

fn random_act(rng: &mut Rng, actions: &[&'static str], id: String, number: usize) -> Act {
    let body = json!({"n": number, format!("field {}", rng.below(5)): number, "nested": {format!("{}", rng.below(3)): number}});
    match *rng.pick(actions) {
        "tombstone" => Act::tombstone(id),
        action => Act::new(action, id, &body),
    }
}

/// The two stages, each with its topics, its index and what is sent into it.
struct Run {
    stages: [(Documents, History); 2],
    proxy: EsProxy,
    rng: Rng,
}

impl Run {
    fn new(elastic: &Elastic, actions: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let stages = [("versioned", true), ("unversioned", false)].map(|(name, is_versioned)| {
            let documents = Documents::new(name, elastic.clone());
            let history = History::new(&mut rng, actions, is_versioned);
            documents.send(&history.acts);
            (documents, history)
        });
        let proxy = EsProxy::new(&elastic.url);
        let mut fate = Rng::new(rng.next());
        proxy.script(move |bulk| match fate.below(5) {
            0 => mixed(&mut fate, bulk),
            _ => Fault::Pass,
        });
        Self { stages, proxy, rng }
    }

    /// One file with both stages.
    fn pipeline(&self) -> Pipeline {
        let [(versioned, _), (unversioned, _)] = &self.stages;
        // Small ones, so that there is much to interrupt.
        let bulk = json!({"documents": 100});
        let pipeline = versioned
            .pipeline(&self.proxy.url())
            .set(&Documents::key("versions"), "external")
            .set(&Documents::key("bulk"), bulk.clone())
            // A killed process's partitions wait for the end of its session: long enough for a request that it left behind to end before another
            // process does the same again, because without versions a late one is promised nothing.
            .set(&["kafka", "session.timeout.ms"], 6_000)
            .set(&["kafka", "heartbeat.interval.ms"], 300);
        let output =
            json!({"elasticsearch": {"index": unversioned.index, "versions": "none", "timeout": "5s", "bulk": bulk}});
        let second = json!({
            "plugin": crate::support::guests::guest("act"),
            "input": unversioned.input,
            "group": unversioned.group(),
            "outputs": {"documents": output},
            "on-fault": {"dead-letter": unversioned.letters},
        });
        pipeline.set(&["stages", "second"], second)
    }

    fn left(&self) -> i64 {
        self.stages.iter().map(|(documents, _)| documents.left()).sum()
    }

    /// Everything that is wrong with what has become of the actions.
    fn violations(&self) -> Vec<String> {
        let mut violations: Vec<String> = Vec::new();
        for (documents, history) in &self.stages {
            let wrong = documents.wrong(&history.model.documents);
            violations.extend(wrong.into_iter().map(|text| format!("{}: {text}", documents.index)));
            let repeated = self.repeated_updates(&documents.index);
            let mut before = BTreeSet::new();
            for placed in kafka::read_committed(&documents.letters) {
                let value = placed.record.value.as_deref().unwrap_or_default();
                let body: Value = serde_json::from_slice(value).unwrap_or_default();
                let letter = (
                    placed.record.key_text().to_owned(),
                    body["n"].as_u64().unwrap_or(u64::MAX),
                );
                let was_deleted = repeated.contains(&letter) && history.is_deleted_after(&letter);
                if !history.refused.contains(&letter) && !was_deleted {
                    violations.push(format!(
                        "{}: {letter:?} is a dead letter without a reason",
                        documents.index
                    ));
                }
                if !before.insert(letter.clone()) {
                    violations.push(format!("{}: {letter:?} is a dead letter twice", documents.index));
                }
            }
            if documents.left() != 0 {
                violations.push(format!(
                    "{}: {} records are not committed",
                    documents.index,
                    documents.left()
                ));
            }
        }
        violations.extend(self.wrong_versions());
        violations
    }

    /// Updates that came more than once, by id and number.
    fn repeated_updates(&self, index: &str) -> BTreeSet<(String, u64)> {
        let bulks = self.proxy.bulks();
        let items = bulks.iter().flat_map(|bulk| &bulk.items);
        let mut seen = BTreeSet::new();
        let updates = items.filter(|item| item.action == "update" && item.index == index);
        let known = updates.map(|item| (item.id.clone(), number(item)));
        known.filter(|update| !seen.insert(update.clone())).collect()
    }

    /// The version of a document is the position of the last record about it.
    fn wrong_versions(&self) -> Vec<String> {
        let (documents, _) = &self.stages[0];
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for placed in kafka::read_committed(&documents.input) {
            last.insert(placed.record.key_text().to_owned(), placed.offset);
        }
        let found = documents.found().into_iter();
        found
            .filter(|(id, document)| document.version >> 8 != last[id] as u64)
            .map(|(id, document)| {
                format!(
                    "{id} has version {} and was last at {}",
                    document.version >> 8,
                    last[&id]
                )
            })
            .collect()
    }
}

/// Processes that are killed, by themselves and from outside, until everything is committed.
struct Killings {
    log: EventLog,
    hosts: Vec<Option<Host>>,
    starts: usize,
    killed: BTreeSet<u32>,
    from_outside: usize,
    next: Instant,
    fell: Vec<String>,
}

impl Killings {
    fn step(&mut self, path: &std::path::Path, rng: &mut Rng) {
        for slot in 0..self.hosts.len() {
            if let Some(host) = &mut self.hosts[slot]
                && let Some(status) = host.exited()
            {
                if was_killed(status) {
                    self.killed.insert(host.pid());
                } else {
                    self.fell.push(format!(
                        "process {} ended by itself: {status}\n{}",
                        host.pid(),
                        host.tail()
                    ));
                }
                self.hosts[slot] = None;
            }
            if self.hosts[slot].is_none() {
                let invocation = Invocation::run(path)
                    .env("WASMILL_INSTANCE", &format!("slot-{slot}"))
                    .env("WASMILL_CHAOS", POINTS[self.starts % POINTS.len()].unwrap_or_default())
                    .env("WASMILL_CHAOS_SEED", &rng.next().to_string())
                    .env("WASMILL_CHAOS_LOG", self.log.path().to_str().unwrap());
                self.starts += 1;
                self.hosts[slot] = Some(invocation.start());
            }
        }
        if Instant::now() >= self.next {
            let slot = rng.below(self.hosts.len());
            if let Some(host) = &mut self.hosts[slot] {
                host.kill();
                self.killed.insert(host.pid());
                self.hosts[slot] = None;
                self.from_outside += 1;
            }
            self.next = Instant::now() + rng.between_ms(2_000, 5_000);
        }
    }

    fn counts(&mut self) -> BTreeMap<String, usize> {
        let mut counts = events::count(self.log.events(), &self.killed);
        counts.insert("killed from outside".to_owned(), self.from_outside);
        counts.insert("processes started".to_owned(), self.starts);
        counts
    }
}

fn equals_the_model(elastic: &Elastic, actions: usize, aims: &[&str], deadline: Duration) {
    let seed = rng::seed();
    let mut run = Run::new(elastic, actions, seed);
    let folder = TempDir::new().unwrap();
    let pipeline = run.pipeline();
    let path = pipeline.write();
    let mut killings = Killings {
        log: EventLog::new(folder.path().join("events")),
        hosts: (0..PROCESSES).map(|_| None).collect(),
        starts: 0,
        killed: BTreeSet::new(),
        from_outside: 0,
        next: Instant::now() + Duration::from_secs(3),
        fell: Vec::new(),
    };
    let began = Instant::now();
    while run.left() > 0 && began.elapsed() < deadline {
        killings.step(&path, &mut run.rng);
        // The rhythm of the harness; nothing waits for it.
        std::thread::sleep(Duration::from_millis(100));
    }
    let elapsed = began.elapsed();
    // Two that nobody kills finish what is left.
    killings.hosts.clear();
    run.proxy.pass();
    Invocation::catch_up(&path).exits(0, PATIENCE * 3);

    let mut counts = killings.counts();
    for (what, count) in run.proxy.counts() {
        let name = if what == "passed" { "passed" } else { "spoiled" };
        *counts.entry(name.to_owned()).or_default() += count;
        counts.insert(format!("proxy: {what}"), count);
    }
    let violations = run.violations();
    let mut text = format!(
        "random actions: seed {seed} (WASMILL_TEST_SEED), twice {actions} on {IDS} ids, {:.0} s, {} violations\n",
        elapsed.as_secs_f64(),
        violations.len()
    );
    for (what, count) in &counts {
        text += &format!("{count:>8} {what}\n");
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations[..violations.len().min(10)].join("\n")
    );
    assert!(killings.fell.is_empty(), "{}", killings.fell[0]);
    assert_one_bulk_at_a_time(&run.proxy.bulks());
    for aim in aims {
        assert!(
            counts.get(*aim).is_some_and(|count| *count > 0),
            "never `{aim}`: {counts:?}"
        );
    }
}

#[test]
fn random_actions_with_kills_leave_what_a_model_says() {
    equals_the_model(&Elastic::shared(), 50_000, &AIMS, Duration::from_secs(240));
}

#[test]
fn random_actions_with_kills_leave_what_a_model_says_in_opensearch() {
    equals_the_model(
        &Elastic::opensearch(),
        5_000,
        &["killed from outside"],
        Duration::from_secs(120),
    );
}

/// The same checker finds a host out that commits before its documents are written.
#[test]
fn a_host_that_commits_before_its_documents_is_found_out() {
    let violations = |sabotage: &str| {
        let run = Run::new(&Elastic::shared(), 500, 5);
        let pipeline = run.pipeline();
        let path = pipeline.write();
        let mut host = Invocation::run(&path)
            .env("WASMILL_CHAOS", "after-commit=1")
            .env("WASMILL_SABOTAGE", sabotage)
            .start();
        let status = crate::support::wait_for("the host to kill itself", PATIENCE, || host.exited());
        assert!(was_killed(status), "{status}");
        run.proxy.pass();
        Invocation::catch_up(&path).exits(0, PATIENCE * 2);
        run.violations()
    };
    assert_eq!(violations(""), Vec::<String>::new(), "a host in order passes");
    let found = violations("commit-before-documents");
    assert!(
        !found.is_empty(),
        "nothing is wrong: the checker or the sabotage does not work"
    );
}
