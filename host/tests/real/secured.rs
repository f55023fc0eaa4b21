//! A cluster with TLS, SASL (SCRAM) and ACLs: what it takes to run there, and what is said where something is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::guests::guest;
use crate::support::host::{Host, Invocation, Pipeline, Printed, was_killed};
use crate::support::kafka::Record;
use crate::support::secured::{May, On, Secured, password, secured, user};
use crate::support::{PATIENCE, admin, unique, wait_for};

const TOKEN: &str = "a token of this test";

/// A stage `copy` of a user, between topics of its own.
struct Place {
    cluster: &'static Secured,
    user: &'static str,
    app: String,
    input: String,
    output: String,
    letters: String,
    pipeline: Pipeline,
    path: PathBuf,
}

impl Place {
    fn new(name: &str, mechanism: &str) -> Self {
        let (cluster, user, app) = (secured(), user(), unique(name));
        let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
        for topic in [&input, &output, &letters] {
            cluster.kafka.create_topic(topic, 4, &[]);
        }
        let pipeline = cluster
            .pipeline(&app, user, mechanism)
            .stage("copy", &guest("misbehave"), json!({}), &input, &output)
            // Members that were killed are soon forgotten.
            .set(&["kafka", "session.timeout.ms"], 1500)
            .set(&["kafka", "heartbeat.interval.ms"], 300)
            .set(&["instance"], "one")
            .set(&["admin", "token"], TOKEN);
        let path = pipeline.write();
        Self {
            cluster,
            user,
            app,
            input,
            output,
            letters,
            pipeline,
            path,
        }
    }

    fn set(mut self, keys: &[&str], value: impl Into<Value>) -> Self {
        self.pipeline = self.pipeline.set(keys, value);
        self.path = self.pipeline.write();
        self
    }

    /// The least that the documentation says a stage needs.
    fn least(&self) -> [(May, On); 5] {
        [
            (May::Read, On::Topic(self.input.clone())),
            (May::Write, On::Topic(self.output.clone())),
            (May::Write, On::Topic(self.letters.clone())),
            (May::Read, On::Group(format!("{}.copy", self.app))),
            (May::Write, On::TransactionalIds(format!("{}.copy.", self.app))),
        ]
    }

    /// What replays need besides.
    fn for_replays(&self) -> [(May, On); 4] {
        let replay = || On::Topic(format!("{}.copy.replay", self.app));
        [
            (May::Read, On::Topic(self.letters.clone())),
            (May::Create, replay()),
            (May::Read, replay()),
            (May::Write, replay()),
        ]
    }

    fn allow(&self, rights: &[(May, On)]) {
        for (may, on) in rights {
            self.cluster.allow(self.user, *may, on);
        }
    }

    fn withdraw(&self, right: &(May, On)) {
        self.cluster.withdraw(self.user, right.0, &right.1);
    }

    fn command(&self, arguments: &[&str]) -> Invocation {
        Invocation::new(arguments).env("TEST_PASSWORD", &password(self.user))
    }

    fn check(&self) -> Invocation {
        self.command(&["check", "--connect", self.path.to_str().unwrap()])
    }

    fn produce(&self, values: impl IntoIterator<Item = String>) {
        let sender = self.cluster.kafka.sender();
        for value in values {
            sender.send(&self.input, None, &Record::new(value.clone(), value));
        }
        sender.flush();
    }

    fn counts(&self, topic: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for placed in self.cluster.kafka.read_committed(topic) {
            *counts.entry(placed.record.value_text().to_owned()).or_default() += 1;
        }
        counts
    }

    fn never_tells_the_password(&self, printed: &Printed) {
        let password = password(self.user);
        let Printed { stdout, stderr } = printed;
        assert!(
            !stdout.contains(&password) && !stderr.contains(&password),
            "{stdout}\n{stderr}"
        );
    }
}

fn values(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| format!("value {number}"))
}

fn each_once(range: std::ops::Range<usize>) -> BTreeMap<String, usize> {
    values(range).map(|value| (value, 1)).collect()
}

#[test]
fn a_run_with_the_least_rights_is_exactly_once_whatever_is_killed_and_letters_can_be_replayed() {
    let place = Place::new("least", "SCRAM-SHA-512").set(&["stages", "copy", "workers"], 2);
    place.allow(&place.least());
    place
        .check()
        .exits(0, PATIENCE)
        .says("note: stage `copy`: without the right Read on topic");
    place.produce(["reject".to_owned()]);
    let (mut kills, mut sent) = (0, 0);
    for seed in 1.. {
        // There is something to do for each.
        place.produce(values(sent..sent + 2000));
        sent += 2000;
        let chaos = match kills < 3 {
            true => "after-produce=0.3,during-commit=0.3,after-commit=0.3,commit-unknown=0.2",
            false => "",
        };
        let mut host = place
            .command(&["run", place.path.to_str().unwrap(), "--until-caught-up"])
            .env("WASMILL_CHAOS", chaos)
            .env("WASMILL_CHAOS_SEED", &seed.to_string())
            .start();
        let status = wait_for("the host to end", PATIENCE, || host.exited());
        place.never_tells_the_password(&host.printed());
        if was_killed(status) {
            kills += 1;
            continue;
        }
        assert_eq!(status.code(), Some(0), "{}", host.tail());
        if kills == 3 {
            break;
        }
    }
    assert_eq!(place.counts(&place.output), each_once(0..sent));
    assert_eq!(place.counts(&place.letters), [("reject".to_owned(), 1)].into());

    let path = place.path.to_str().unwrap();
    let refused = place.command(&["dlq", "ls", path]).exits(1, PATIENCE);
    refused.says(&format!("the right Read on topic `{}.copy.replay`", place.app));
    place.never_tells_the_password(&refused);
    place.allow(&place.for_replays());
    place
        .command(&["dlq", "ls", path])
        .exits(0, PATIENCE)
        .says("rejected on purpose");
    place.command(&["dlq", "replay", path, "--yes"]).exits(0, PATIENCE);
    place.command(&["run", path, "--until-caught-up"]).exits(0, PATIENCE);
    assert_eq!(place.counts(&place.letters), [("reject".to_owned(), 2)].into());
    let checked = place.check().exits(0, PATIENCE);
    assert!(!checked.stdout.contains("replayed"), "{}", checked.stdout);
}

#[test]
fn the_other_mechanism_works_too() {
    let place = Place::new("sha-256", "SCRAM-SHA-256");
    place.allow(&place.least());
    place.produce(values(0..10));
    place
        .command(&["run", place.path.to_str().unwrap(), "--until-caught-up"])
        .exits(0, PATIENCE);
    assert_eq!(place.counts(&place.output), each_once(0..10));
}

/// Runs what needs the brokers, and looks at what it says and how long that takes.
#[track_caller]
fn refused(place: &Place, password_given: &str, words: &[&str]) {
    let path = place.path.to_str().unwrap();
    for arguments in [&["check", "--connect", path][..], &["run", path], &["dlq", "ls", path]] {
        let began = Instant::now();
        let printed = Invocation::new(arguments)
            .env("TEST_PASSWORD", password_given)
            .exits(1, PATIENCE);
        assert!(
            began.elapsed() < Duration::from_secs(12),
            "{arguments:?} took {:?}",
            began.elapsed()
        );
        for word in words {
            printed.says(word);
        }
        place.never_tells_the_password(&printed);
        let Printed { stdout, stderr } = &printed;
        assert!(!stdout.contains(password_given) && !stderr.contains(password_given));
    }
}

#[test]
fn a_wrong_login_and_a_certificate_that_is_not_trusted_are_told_apart_with_what_to_do() {
    let place = Place::new("refused", "SCRAM-SHA-512");
    let right = password(place.user);
    refused(&place, "not-the-one", &["refuse the login", "`sasl.password`"]);

    // An authority that did not sign the brokers' certificate.
    let not_trusted = [
        "is not trusted",
        "`kafka: ssl.ca.location`",
        "as their certificate names them",
    ];
    let elsewhere = place.set(&["kafka", "ssl.ca.location"], "probe");
    refused(&elsewhere, &right, &not_trusted);

    // The certificate is for 127.0.0.1.
    let ca = elsewhere.cluster.ca.to_str().unwrap();
    let named = elsewhere.cluster.address.replace("127.0.0.1", "localhost");
    let named = elsewhere
        .set(&["kafka", "ssl.ca.location"], ca)
        .set(&["kafka", "bootstrap.servers"], named);
    refused(&named, &right, &not_trusted);
}

#[test]
fn a_listener_that_speaks_something_else_is_told() {
    let place = Place::new("mistaken", "SCRAM-SHA-512");
    let plain = place.cluster.kafka.bootstrap.clone();
    let path = place.set(&["kafka", "bootstrap.servers"], plain);
    path.check().exits(1, PATIENCE).says("PLAINTEXT broker listener?");
}

/// The command lines that a check names, with what each is for.
fn grants(printed: &Printed) -> Vec<String> {
    let lines = printed.stdout.lines().chain(printed.stderr.lines());
    lines
        .filter_map(|line| line.find("kafka-acls.sh ").map(|at| line[at..].to_owned()))
        .collect()
}

/// Runs command lines as the administrator, all at once: each takes a Java machine seconds to start.
fn run_as_administrator(cluster: &Secured, folder: &Path, commands: &[String]) {
    cluster.install_kafka_acls(folder);
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let script = commands.join("\n");
    let output = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(folder)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn check_names_each_right_that_is_missing_and_the_command_line_that_gives_it() {
    let place = Place::new("rights", "SCRAM-SHA-512");
    let folder = TempDir::new().unwrap();
    let nothing = place.check().exits(2, PATIENCE);
    let commands = grants(&nothing);
    assert_eq!(commands.len(), 5, "{commands:#?}");
    place.never_tells_the_password(&nothing);
    run_as_administrator(place.cluster, folder.path(), &commands);

    let granted = wait_for("the rights to be there", PATIENCE, || {
        let mut host = place.check().start();
        let status = wait_for("the check to end", PATIENCE, || host.exited());
        (status.code() == Some(0)).then(|| host.printed())
    });
    // What it can do without: DescribeConfigs on two topics, and Read on the replay topic.
    let notes = grants(&granted);
    assert_eq!(notes.len(), 3, "{}", granted.stdout);
    run_as_administrator(place.cluster, folder.path(), &notes);
    wait_for("nothing to be noted", PATIENCE, || {
        grants(&place.check().exits(0, PATIENCE)).is_empty().then_some(())
    });

    // Where a topic can be seen, so that only the operation is missing.
    let app = &place.app;
    let words = [
        format!("stage `copy`: input topic: the right Read on topic `{app}.in` is missing"),
        format!("stage `copy`: output topic: the right Write on topic `{app}.out` is missing"),
        format!("stage `copy`: dead-letter topic: the right Write on topic `{app}.dead-letters` is missing"),
        format!("stage `copy`: consumer group: the right Read on group `{app}.copy` is missing"),
        format!("stage `copy`: transactions: the right Write on transactional ids `{app}.copy.*` is missing"),
    ];
    for (right, words) in place.least().iter().zip(&words) {
        place.withdraw(right);
        wait_for(words, PATIENCE, || {
            let mut host = place.check().start();
            let status = wait_for("the check to end", PATIENCE, || host.exited());
            let printed = host.printed();
            (status.code() == Some(2)).then(|| {
                assert_eq!(grants(&printed).len(), 1, "{}", printed.stderr);
                printed.says(words);
            })
        });
        place.cluster.allow(place.user, right.0, &right.1);
    }
    wait_for("all rights to be back", PATIENCE, || {
        let mut host = place.check().start();
        let status = wait_for("the check to end", PATIENCE, || host.exited());
        (status.code() == Some(0)).then_some(())
    });
}

#[test]
fn a_topic_that_is_to_be_made_needs_a_right_too() {
    let place = Place::new("creating", "SCRAM-SHA-512");
    let fresh = format!("{}.fresh", place.app);
    let place = place
        .set(&["stages", "copy", "output"], fresh.as_str())
        .set(&["topics"], json!({"create": {"partitions": 4, "replication": 1}}));
    place.allow(&place.least());
    // Without it, a topic that does not exist cannot be told from one that may not be seen.
    let write = (May::Write, On::Topic(fresh.clone()));
    place.allow(&[write]);
    let checked = place.check().exits(2, PATIENCE);
    checked.says(&format!(
        "`topics.create`: the right Create on topic `{fresh}` is missing"
    ));
    place.allow(&[(May::Create, On::Topic(fresh.clone()))]);
    place.check().exits(0, PATIENCE);
    place.produce(values(0..10));
    place
        .command(&["run", place.path.to_str().unwrap(), "--until-caught-up"])
        .exits(0, PATIENCE);
    assert_eq!(place.counts(&fresh), each_once(0..10));
}

fn stage(host: &Host, name: &str) -> Option<Value> {
    let (_, text) = admin::call(host.admin_port, "GET", "/status", Some(TOKEN), b"")?;
    let status: Value = serde_json::from_str(&text).ok()?;
    let stages = status["stages"].as_array()?;
    stages.iter().find(|stage| stage["name"] == name).cloned()
}

#[test]
fn a_right_lost_while_a_stage_runs_stops_it_by_name_and_loses_nothing() {
    let place = Place::new("lost", "SCRAM-SHA-512");
    place.allow(&place.least());
    // A process without any stage would end.
    let other = format!("{}.other-out", place.app);
    place.cluster.kafka.create_topic(&other, 1, &[]);
    let mut rights = vec![(May::Write, On::Topic(other.clone()))];
    rights.push((May::Read, On::Group(format!("{}.other", place.app))));
    rights.push((May::Write, On::TransactionalIds(format!("{}.other.", place.app))));
    let other_in = format!("{}.other-in", place.app);
    place.cluster.kafka.create_topic(&other_in, 1, &[]);
    rights.push((May::Read, On::Topic(other_in.clone())));
    place.allow(&rights);
    let place = place.set(
        &["stages", "other"],
        json!({"plugin": guest("identity"), "input": other_in, "output": other}),
    );

    let mut host = place.command(&["run", place.path.to_str().unwrap()]).start();
    host.ready();
    let app = &place.app;
    let names = [
        format!("the right Read on topic `{app}.in` is missing"),
        // Where the transaction's coordinator says so, it does not name the topic.
        format!("`{app}.out`"),
        String::new(),
        format!("the right Read on group `{app}.copy` is missing"),
        "the right Write on the stage's transactional ids is missing".to_owned(),
    ];
    let mut sent = 0;
    for (right, words) in place.least().iter().zip(&names).filter(|(_, words)| !words.is_empty()) {
        place.withdraw(right);
        wait_for(words, PATIENCE, || {
            // There has to be something to do, or nobody asks for the right.
            place.produce(values(sent..sent + 10));
            sent += 10;
            let stopped = stage(&host, "copy")?.to_string();
            (stopped.contains(words) && stopped.contains("the right ")).then_some(())
        });
        assert!(stage(&host, "other").unwrap().to_string().contains("running"));
        place.cluster.allow(place.user, right.0, &right.1);
        wait_for("the stage to run again", PATIENCE, || {
            admin::call(host.admin_port, "POST", "/stages/copy/resume", Some(TOKEN), b"");
            place.produce(values(sent..sent + 10));
            sent += 10;
            let end = format!("value {}", sent - 1);
            let arrived = || place.counts(&place.output).contains_key(&end).then_some(());
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(10) && !stage(&host, "copy")?.to_string().contains("missing") {
                if arrived().is_some() {
                    return Some(());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            None
        });
    }
    place.never_tells_the_password(&host.printed());
    host.terminated_with(0);
    place
        .command(&["run", place.path.to_str().unwrap(), "--until-caught-up"])
        .exits(0, PATIENCE);
    assert_eq!(place.counts(&place.output), each_once(0..sent));
}
