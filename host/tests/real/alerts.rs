//! Alerts leave by HTTP and by mail, at least once, whatever the servers and the host go through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::guests::guest;
use crate::support::hook::{Hook, Reply, Request};
use crate::support::host::{Host, Invocation, Pipeline, was_killed};
use crate::support::kafka::{self, Record};
use crate::support::smtp::{LOGIN, Mail, Smtp};
use crate::support::{PATIENCE, admin, free_port, unique, wait_for};

const SECRET_PATH: &str = "/hooks/T0P-SECRET-PATH";
const TOKEN: &str = "a-token-of-this-test";

/// A stage `alert` that reads a topic of its own.
struct Place {
    app: String,
    input: String,
    letters: String,
    pipeline: Pipeline,
    path: PathBuf,
}

impl Place {
    fn new(name: &str, plugin: &str, config: Value, output: Value) -> Self {
        let app = unique(name);
        let [input, letters] = ["in", "dead-letters"].map(|name| format!("{app}.{name}"));
        kafka::create_topic(&input, 2, &[]);
        kafka::create_topic(&letters, 1, &[]);
        let pipeline = Pipeline::new(&app)
            .set(
                &["stages", "alert"],
                json!({"plugin": guest(plugin), "config": config, "input": input, "output": output}),
            )
            .set(&["instance"], "one");
        let path = pipeline.write();
        Self {
            app,
            input,
            letters,
            pipeline,
            path,
        }
    }

    fn webhook(name: &str, port: u16, more: Value) -> Self {
        let mut webhook = json!({
            "url": format!("http://127.0.0.1:{port}{SECRET_PATH}"),
            "token": TOKEN,
            "headers": {"X-Team": "night"},
            "timeout": "1s",
        });
        for (key, value) in more.as_object().unwrap() {
            webhook[key] = value.clone();
        }
        Self::new(name, "identity", json!({}), json!({"webhook": webhook}))
    }

    fn set(mut self, keys: &[&str], value: impl Into<Value>) -> Self {
        self.pipeline = self.pipeline.set(keys, value);
        self.path = self.pipeline.write();
        self
    }

    fn produce(&self, records: &[(&str, &str)]) {
        let records: Vec<Record> = records.iter().map(|(key, value)| Record::new(*key, *value)).collect();
        kafka::produce(&self.input, Some(0), &records);
    }

    fn catch_up(&self) -> Host {
        let mut host = Invocation::catch_up(&self.path).start();
        host.exits(0, PATIENCE);
        host
    }

    /// The values of dead letters, with why they are.
    fn letters(&self) -> BTreeMap<String, String> {
        let letters = kafka::read_committed(&self.letters).into_iter();
        letters
            .map(|placed| {
                let record = &placed.record;
                assert_eq!(record.header("wasmill.kind"), Some("refused"), "{record:?}");
                let message = record.header("wasmill.message").unwrap().to_owned();
                (record.value_text().to_owned(), message)
            })
            .collect()
    }
}

fn tells_no_secret(text: &str) {
    for secret in ["T0P-SECRET", TOKEN, LOGIN.1] {
        assert!(!text.contains(secret), "`{secret}` is told:\n{text}");
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("value {number}")).collect()
}

fn bodies(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.body.as_str()).collect()
}

#[test]
fn each_record_is_posted_once_in_the_order_of_its_key_with_a_name_of_its_own() {
    let hook = Hook::start(|_, _| Reply::status(204));
    let place = Place::webhook("posted", hook.port, json!({"content-type": "text/plain"}));
    let values = numbered(200);
    let keys: Vec<String> = (0..200).map(|number| format!("key {}", number % 7)).collect();
    let records: Vec<(&str, &str)> = keys
        .iter()
        .map(String::as_str)
        .zip(values.iter().map(String::as_str))
        .collect();
    place.produce(&records);
    let printed = place.catch_up().printed();
    tells_no_secret(&printed.stderr);

    let requests = hook.requests();
    assert_eq!(requests.len(), 200);
    for key in 0..7 {
        let of_key: Vec<&str> = values.iter().skip(key).step_by(7).map(String::as_str).collect();
        let sent = bodies(&requests).into_iter().filter(|body| of_key.contains(body));
        assert_eq!(sent.collect::<Vec<_>>(), of_key, "key {key}");
    }
    for request in &requests {
        let number: usize = request.body.strip_prefix("value ").unwrap().parse().unwrap();
        assert_eq!(
            request.name(),
            format!("{}.alert-{}-0-{number}-0", place.app, place.input)
        );
        assert_eq!(request.path, SECRET_PATH);
        assert_eq!(request.headers["content-type"], "text/plain");
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(request.headers["x-team"], "night");
    }
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_a_dead_letter_with_the_answer() {
    let hook = Hook::start(|request, before| match request.body.as_str() {
        "fails twice" if before < 2 => Reply::status(503),
        "hangs up twice" if before < 2 => Reply::HangUp,
        "slow once" if before == 0 => Reply::Silence(Duration::from_secs(3)),
        "come later" if before == 0 => Reply::Status(429, "Retry-After: 2\r\n".to_owned(), String::new()),
        "bad" => Reply::Status(400, String::new(), format!("no such alert\r\n{}", "x".repeat(5000))),
        "who are you" => Reply::Status(401, String::new(), format!("{TOKEN} may not post to {SECRET_PATH}")),
        "moved" => Reply::Status(307, format!("Location: {SECRET_PATH}/elsewhere\r\n"), String::new()),
        _ => Reply::status(200),
    });
    let place = Place::webhook("answers", hook.port, json!({"lanes": 8}));
    let passing = ["fails twice", "hangs up twice", "slow once", "come later", "fine"];
    let refused = ["bad", "who are you", "moved"];
    let records: Vec<(&str, &str)> = passing.iter().chain(&refused).map(|value| (*value, *value)).collect();
    place.produce(&records);
    let printed = place.catch_up().printed();
    tells_no_secret(&printed.stderr);

    let requests = hook.requests();
    assert!(
        requests.iter().all(|request| request.path == SECRET_PATH),
        "a redirect was followed"
    );
    let tries = |body: &str| {
        requests
            .iter()
            .filter(|request| request.body == body)
            .collect::<Vec<_>>()
    };
    for (body, count) in [
        ("fails twice", 3),
        ("hangs up twice", 3),
        ("slow once", 2),
        ("come later", 2),
        ("bad", 1),
    ] {
        let tries = tries(body);
        assert_eq!(tries.len(), count, "{body}");
        let names: BTreeSet<&str> = tries.iter().map(|request| request.name()).collect();
        assert_eq!(names.len(), 1, "{body}: {names:?}");
    }
    let later = tries("come later");
    let waited = later[1].at - later[0].at;
    assert!(waited >= Duration::from_secs(2), "Retry-After was not kept: {waited:?}");

    let letters = place.letters();
    assert_eq!(
        letters.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        BTreeSet::from(refused)
    );
    assert!(
        letters["bad"].contains("400") && letters["bad"].contains("no such alert"),
        "{letters:?}"
    );
    assert!(letters["bad"].len() < 1000, "the whole answer is told");
    assert!(letters["who are you"].contains("401"), "{letters:?}");
    assert!(
        letters["moved"].contains("redirects are not followed")
            && letters["moved"].contains(&format!("http://127.0.0.1:{}", hook.port))
    );
    assert!(
        letters["who are you"].contains("(hidden) may not post to (hidden)"),
        "{letters:?}"
    );
    letters.values().for_each(|message| tells_no_secret(message));
}

#[test]
fn an_alert_that_is_not_taken_in_time_is_a_dead_letter_and_the_next_one_goes() {
    let hook = Hook::start(|request, _| match request.body.as_str() {
        "never" => Reply::status(500),
        _ => Reply::status(200),
    });
    let place = Place::webhook("limit", hook.port, json!({"give-up": "1s", "lanes": 1}));
    place.produce(&[("a", "first"), ("b", "never"), ("c", "last")]);
    place.catch_up();
    let letters = place.letters();
    assert_eq!(letters.len(), 1);
    assert!(
        letters["never"].contains("gave up after") && letters["never"].contains("500"),
        "{letters:?}"
    );
    let requests = hook.requests();
    let sent = bodies(&requests);
    assert_eq!((sent[0], sent[sent.len() - 1]), ("first", "last"));
    assert!(sent.len() > 3, "it was tried once only");
}

#[test]
fn a_kill_between_sending_and_committing_doubles_under_the_same_name_and_loses_nothing() {
    let hook = Hook::start(|_, _| Reply::status(200));
    let place = Place::webhook("killed", hook.port, json!({}));
    let values = numbered(50);
    let records: Vec<(&str, &str)> = values.iter().map(|value| (value.as_str(), value.as_str())).collect();
    place.produce(&records);
    let mut host = Invocation::catch_up(&place.path)
        .env("WASMILL_CHAOS", "documents-sent=1")
        .start();
    let status = wait_for("the host to be killed", PATIENCE, || host.exited());
    assert!(was_killed(status), "{status}\n{}", host.tail());
    let before = hook.requests().len();
    assert!(before > 0, "it was killed before it sent anything");
    place.catch_up();

    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in hook.requests() {
        names
            .entry(request.body.clone())
            .or_default()
            .insert(request.name().to_owned());
    }
    assert_eq!(
        names.keys().cloned().collect::<BTreeSet<_>>(),
        values.iter().cloned().collect()
    );
    assert!(
        names.values().all(|names| names.len() == 1),
        "a double has another name: {names:?}"
    );
    assert!(
        hook.requests().len() > 50,
        "nothing was doubled, so the kill came too late to prove anything"
    );
    assert_eq!(place.letters().len(), 0);
}

#[test]
fn a_kill_while_nobody_takes_alerts_loses_none() {
    let port = free_port();
    let place = Place::webhook("away", port, json!({"give-up": "1m"}));
    let values = numbered(50);
    let records: Vec<(&str, &str)> = values.iter().map(|value| (value.as_str(), value.as_str())).collect();
    place.produce(&records);
    let mut host = Invocation::run(&place.path).start();
    host.ready();
    // Over a second, many times as long as commits are apart.
    wait_for("alerts to be tried several times", PATIENCE, || {
        let metrics = admin::get(host.admin_port, "/metrics")?.1;
        (admin::metric(&metrics, "wasmill_output_retries_total", &[])? >= 20.0).then_some(())
    });
    let committed = kafka::committed(&format!("{}.alert", place.app), &place.input);
    assert_eq!(
        committed.get(&0).copied().unwrap_or(0),
        0,
        "an alert that nobody has is done"
    );
    host.kill();
    let hook = Hook::on(port, |_, _| Reply::status(200));
    place.catch_up();
    let requests = hook.requests();
    assert_eq!(bodies(&requests).into_iter().collect::<BTreeSet<_>>().len(), 50);
}

#[test]
fn an_outage_longer_than_a_transaction_lasts_costs_nothing() {
    let port = free_port();
    let place =
        Place::webhook("outage", port, json!({"give-up": "1m"})).set(&["kafka", "transaction.timeout.ms"], 2500);
    let values = numbered(500);
    let records: Vec<(&str, &str)> = values.iter().map(|value| (value.as_str(), value.as_str())).collect();
    place.produce(&records);
    let mut host = Invocation::run(&place.path).start();
    host.ready();
    let status = || {
        admin::get(host.admin_port, "/status")
            .map(|(_, text)| text)
            .unwrap_or_default()
    };
    wait_for("the outage to be shown", PATIENCE, || {
        status().contains("connect").then_some(())
    });
    let began = std::time::Instant::now();
    wait_for("the outage to outlast a transaction twice", PATIENCE, || {
        (began.elapsed() > Duration::from_secs(5)).then_some(())
    });
    let hook = Hook::on(port, |_, _| Reply::status(200));
    wait_for("all alerts to arrive", PATIENCE, || {
        (hook.requests().len() >= 500).then_some(())
    });
    wait_for("their offsets to be committed", PATIENCE, || {
        (kafka::committed(&format!("{}.alert", place.app), &place.input).get(&0) == Some(&500)).then_some(())
    });
    let metrics = admin::get(host.admin_port, "/metrics").unwrap().1;
    let rebalances = admin::metric(&metrics, "wasmill_rebalances_total", &["kind=\"assigned\""]);
    assert_eq!(rebalances, Some(1.0), "the worker has left its group");
    host.terminated_with(0);
    assert_eq!(hook.requests().len(), 500);
    assert_eq!(place.letters().len(), 0);
}

fn mail_place(name: &str, smtp: &Smtp, url: &str, to: Value) -> Place {
    let output = json!({"smtp": {"from": "Alerts <alerts@example.com>", "to": to, "subject": "Frost at {/station/name}: {/TMIN}"}});
    let mail = |output| Place::new(name, "identity", json!({}), output);
    mail(output).set(
        &["smtp"],
        json!({"url": format!("{url}://localhost:{}", smtp.port), "username": LOGIN.0, "password": LOGIN.1, "ca-file": smtp.ca}),
    )
}

#[test]
fn the_freeze_alert_reaches_a_person() {
    let smtp = Smtp::start("starttls");
    let place = mail_place(
        "frost",
        &smtp,
        "smtp",
        json!({"json": "/email", "domains": ["example.com"]}),
    )
    .set(&["stages", "alert", "plugin"], guest("detect-freeze").to_str().unwrap())
    .set(
        &["stages", "alert", "config"],
        json!({"station": "USW00003192", "threshold_celsius": 10.0, "email": "ops@example.com"}),
    );
    let observation = |id: &str, lowest: f64| {
        json!({"station": {"id": id, "name": "SCOTTSDALE MUNI AP"}, "date": "20170101", "TMIN": lowest}).to_string()
    };
    let cold = observation("USW00003192", 9.4);
    place.produce(&[
        ("a", &observation("USW00003192", 12.0)),
        ("b", &cold),
        ("c", &observation("USC00000001", -20.0)),
    ]);
    let checked = Invocation::new(&["check", "--connect", place.path.to_str().unwrap()]).exits(0, PATIENCE);
    tells_no_secret(&checked.stdout);
    let printed = place.catch_up().printed();
    tells_no_secret(&printed.stderr);

    let mails = smtp.mails();
    let [mail] = mails.as_slice() else {
        panic!("not one mail: {mails:#?}");
    };
    assert_eq!(mail.to, ["ops@example.com"]);
    assert_eq!(mail.header("Subject"), "Frost at SCOTTSDALE MUNI AP: 9.4");
    let id = format!("<{}-0-1-0.{}.alert@example.com>", place.input, place.app);
    assert_eq!(mail.header("Message-ID"), id);
    assert!(mail.data.contains(r#""email":"ops@example.com""#), "{}", mail.data);
    assert!(mail.encrypted);
    assert_eq!(mail.login.as_deref(), Some(LOGIN.0));
}

#[test]
fn what_the_mail_server_says_of_a_mail_decides_about_that_mail_alone() {
    let smtp = Smtp::start("smtps");
    let place = mail_place("mailed", &smtp, "smtps", json!({"json": "/to"}));
    let to = [
        "fine@example.com",
        "later.2@example.com",
        "later.1.drop@example.com",
        "taken.1.drop@example.com",
        "never@example.com",
        "a@example.com, b@example.com",
        "a@example.com\r\nBcc: b@example.com",
    ];
    let values: Vec<String> = to.iter().map(|to| json!({"to": to}).to_string()).collect();
    let records: Vec<(&str, &str)> = values.iter().map(|value| (value.as_str(), value.as_str())).collect();
    place.produce(&records);
    place.catch_up();

    let mut taken: BTreeMap<String, Vec<Mail>> = BTreeMap::new();
    for mail in smtp.mails() {
        assert!(mail.encrypted);
        taken.entry(mail.to.join(" ")).or_default().push(mail);
    }
    let counts: Vec<(&str, usize)> = taken.iter().map(|(to, mails)| (to.as_str(), mails.len())).collect();
    let expected = [
        ("fine@example.com", 1),
        ("later.1.drop@example.com", 1),
        ("later.2@example.com", 1),
        ("taken.1.drop@example.com", 2),
    ];
    assert_eq!(counts, expected);
    let doubled = &taken["taken.1.drop@example.com"];
    assert_eq!(doubled[0].header("Message-ID"), doubled[1].header("Message-ID"));

    let letters = place.letters();
    assert_eq!(letters.keys().collect::<Vec<_>>(), {
        let mut refused: Vec<&String> = values[4..].iter().collect();
        refused.sort();
        refused
    });
    assert!(letters[&values[4]].contains("550") && letters[&values[4]].contains("nobody of that name"));
    for value in &values[5..] {
        assert!(letters[value].contains("is not one mail address"), "{letters:?}");
    }
}

#[test]
fn a_mail_server_that_does_not_let_the_host_in_costs_no_record() {
    let smtp = Smtp::start("starttls");
    let place = mail_place("login", &smtp, "smtp", json!("fine@example.com"));
    place.produce(&[("a", "{}")]);
    let check =
        |place: &Place| Invocation::new(&["check", "--connect", place.path.to_str().unwrap()]).exits(1, PATIENCE);

    let place = place.set(&["smtp", "password"], "T0P-SECRET, and wrong");
    let refused = check(&place);
    refused.says("`smtp.password`");
    tells_no_secret(&refused.stderr);
    let mut host = Invocation::run(&place.path).start();
    host.ready();
    wait_for("the refused login to be shown", PATIENCE, || {
        let (_, status) = admin::get(host.admin_port, "/status")?;
        tells_no_secret(&status);
        status.contains("the login is refused").then_some(())
    });
    host.terminated_with(0);
    assert_eq!(place.letters().len(), 0, "a wrong password is not the record's fault");

    // Nothing is sent where the certificate is not trusted.
    let place = place.set(&["smtp", "password"], LOGIN.1);
    let untrusted = Place {
        pipeline: place.pipeline.without_key(&["smtp"], "ca-file"),
        ..place
    };
    let untrusted = untrusted.set(&["instance"], "one");
    check(&untrusted).says("`smtp.ca-file`");

    let place = untrusted.set(&["smtp", "ca-file"], smtp.ca.to_str().unwrap());
    place.catch_up();
    assert_eq!(smtp.mails().len(), 1);
}
