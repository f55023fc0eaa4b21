//! What an operator does while the process runs: swap, go back, pause, resume, look, and change the pipeline file.

use std::fs;

use serde_json::{Value, json};

use crate::support::guests::guest;
use crate::support::host::{Host, Invocation};
use crate::support::kafka::{self, Record};
use crate::support::swap::{Staged, digest, end, relabelled, version};
use crate::support::{PATIENCE, admin, wait_for};

fn pending(staged: &Staged, host: &Host) -> String {
    staged.status(host).expect("the host answers")["pending"].to_string()
}

#[track_caller]
fn pending_tells(staged: &Staged, host: &Host, words: &str) {
    wait_for(&format!("`pending` to tell `{words}`"), PATIENCE, || {
        pending(staged, host).contains(words).then_some(())
    });
}

/// Sends a record, and waits until it comes out with this label before it.
#[track_caller]
fn outputs_say(staged: &Staged, label: &str) {
    let expected = format!("{label}: value");
    wait_for(&format!("an output `{expected}`"), PATIENCE, || {
        kafka::produce(&staged.topics.input, None, &[Record::new("key", "value")]);
        let outputs = kafka::read_committed(&staged.topics.output);
        outputs
            .iter()
            .any(|placed| placed.record.value_text() == expected)
            .then_some(())
    });
}

#[test]
fn a_changed_config_is_taken_while_the_stage_runs_and_a_bad_one_is_refused() {
    let staged = Staged::new("config").set(&["config"], json!({"label": "one"}));
    let host = staged.start();
    outputs_say(&staged, "one");

    let staged = staged.set(&["config"], json!({"label": "two"}));
    staged.pipeline.write();
    outputs_say(&staged, "two");
    assert_eq!(
        staged.metric(&host, "wasmill_swaps_total", &["kind=\"configured\""]),
        1.0
    );
    assert_eq!(pending(&staged, &host), "[]");

    let staged = staged.set(&["config"], json!({"label": "unwelcome"}));
    staged.pipeline.write();
    pending_tells(&staged, &host, "stages.copy.config");
    staged.refuses(&host, "unwelcome");
    host.printed().says("unwelcome");
    assert_eq!(staged.metric(&host, "wasmill_swaps_total", &["kind=\"refused\""]), 1.0);

    // Back to what runs: there is nothing to take and nothing to refuse.
    let staged = staged.set(&["config"], json!({"label": "two"}));
    staged.pipeline.write();
    wait_for("nothing to be pending", PATIENCE, || {
        (pending(&staged, &host) == "[]").then_some(())
    });
    assert!(staged.stage(&host)["refused"].is_null());
    assert_eq!(
        staged.metric(&host, "wasmill_swaps_total", &["kind=\"configured\""]),
        1.0
    );

    // A swap keeps the configuration.
    assert_eq!(staged.swap(&host, &version("other")).0, 200);
    let staged = staged.set(&["config"], json!({}));
    staged.pipeline.write();
    outputs_say(&staged, "other");
    let events = staged.history(&host);
    let changes: Vec<&str> = events.iter().map(|(change, _)| change.as_str()).collect();
    assert_eq!(changes, ["started", "configured", "refused", "swapped", "configured"]);
    end(host);
}

#[test]
fn what_needs_a_restart_is_named_and_a_broken_pipeline_file_harms_nothing() {
    let staged = Staged::new("pending").set(&["workers"], 1);
    let host = staged.start();
    let file = staged.pipeline.write();

    let staged = staged.set(&["workers"], 2);
    staged.pipeline.write();
    pending_tells(&staged, &host, "stages.copy.workers");
    host.printed().says("stages.copy.workers");

    fs::write(&file, "app: [").unwrap();
    pending_tells(&staged, &host, "the pipeline file is wrong");
    outputs_say(&staged, "first");

    let staged = staged.set(&["workers"], 1);
    staged.pipeline.write();
    wait_for("nothing to be pending", PATIENCE, || {
        (pending(&staged, &host) == "[]").then_some(())
    });
    end(host);
}

fn changes(history: &Value) -> Vec<String> {
    let events = history.as_array().expect("the history is a list").iter();
    events
        .map(|event| event["change"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn versions_are_swapped_listed_and_gone_back_to_by_command() {
    let staged = Staged::new("command");
    let host = staged.start();
    let first = digest(&version("first"));
    let next = relabelled("versioned-next", "next");
    let file = staged.folder.path().join("next.wasm");
    fs::write(&file, &next).unwrap();
    let file = file.to_str().unwrap();

    let plugin = |arguments: &[&str]| staged.command(&host, "plugin", arguments).exits(0, PATIENCE);
    plugin(&["swap", "copy", file]).says(&format!("stage `copy` runs versioned 0.2.0, sha256 {}", digest(&next)));
    staged.runs(&host, &digest(&next));
    let listed = plugin(&["ls"]);
    listed.says("0.2.0");
    listed.says("1 of 1");
    listed.says(&digest(&next)[..12]);
    let stages = staged.asks(&host, "plugin", &["ls"]);
    assert_eq!(stages[0]["plugin"]["digest"], json!(digest(&next)));

    plugin(&["rollback", "copy"]).says("runs versioned 0.1.0");
    staged.runs(&host, &first);
    let report = staged.asks(&host, "plugin", &["rollback", "copy", "--to", &digest(&next)[..8]]);
    assert_eq!(report["digest"], json!(digest(&next)));
    let unknown = staged.command(&host, "plugin", &["rollback", "copy", "--to", "0123"]);
    unknown.exits(1, PATIENCE).says(&first[..12]);

    // Without a file the stage's own is read again.
    let report = staged.asks(&host, "plugin", &["swap", "copy"]);
    assert_eq!(report["digest"], json!(first));
    staged.runs(&host, &first);

    let expected = ["started", "swapped", "rolled-back", "rolled-back", "swapped"];
    let history = staged.asks(&host, "plugin", &["history", "copy"]);
    assert_eq!(changes(&history), expected);
    plugin(&["history", "copy"]).says("rolled-back");
    staged.command(&host, "status", &[]).exits(0, PATIENCE).says("ready");
    let status = staged.asks(&host, "status", &[]);
    assert_eq!(
        (&status["ready"], &status["app"]),
        (&json!(true), &json!(staged.topics.app))
    );
    end(host);

    let host = staged.start();
    let history = staged.asks(&host, "plugin", &["history", "copy"]);
    assert_eq!(changes(&history), [&expected[..], &["started"]].concat());
    staged.runs(&host, &first);
    end(host);
}

#[test]
fn a_paused_stage_stays_paused_over_a_restart_while_its_neighbour_runs() {
    let staged = Staged::new("paused");
    let output = format!("{}.neighbour", staged.topics.app);
    kafka::create_topic(&output, 1, &[]);
    let neighbour = json!({"plugin": guest("identity"), "input": staged.topics.input, "output": output});
    let pipeline = staged.pipeline.set(&["stages", "neighbour"], neighbour);
    let staged = Staged { pipeline, ..staged };
    let host = staged.start();
    let stage = |host: &Host, arguments: &[&str]| staged.command(host, "stage", arguments).exits(0, PATIENCE);

    stage(&host, &["pause", "copy"]).says("stage `copy` is paused");
    stage(&host, &["ls"]).says("paused");
    assert_eq!(staged.asks(&host, "stage", &["ls"])[0]["state"], json!("paused"));
    kafka::produce(&staged.topics.input, Some(0), &[Record::new("key", "1")]);
    kafka::read_at_least(&output, 1, PATIENCE);
    let ready = |host: &Host| admin::get(host.admin_port, "/readyz").unwrap();
    let (status, body) = ready(&host);
    assert_eq!((status, body.contains("stage `copy` is paused")), (503, true), "{body}");
    end(host);

    let host = staged.invocation().start();
    wait_for("the process to answer", PATIENCE, || {
        admin::get(host.admin_port, "/healthz")
    });
    kafka::produce(&staged.topics.input, Some(0), &[Record::new("key", "2")]);
    kafka::read_at_least(&output, 2, PATIENCE);
    assert!(ready(&host).1.contains("stage `copy` is paused"));
    assert!(kafka::read_committed(&staged.topics.output).is_empty());

    assert_eq!(
        staged.asks(&host, "stage", &["resume", "copy"])["state"],
        json!("running")
    );
    let outputs = kafka::read_at_least(&staged.topics.output, 2, PATIENCE);
    let values: Vec<&str> = outputs.iter().map(|placed| placed.record.value_text()).collect();
    assert_eq!(values, ["first: 1", "first: 2"]);
    wait_for("the process to be ready", PATIENCE, || {
        (ready(&host).0 == 200).then_some(())
    });
    end(host);
}

#[test]
fn who_may_not_change_anything_is_told_why() {
    let staged = Staged::new("refused");
    let host = staged.start();
    let commands: [(&str, &[&str]); 4] = [
        ("plugin", &["swap", "copy"]),
        ("plugin", &["rollback", "copy"]),
        ("stage", &["pause", "copy"]),
        ("stage", &["resume", "copy"]),
    ];
    for (group, arguments) in commands {
        let wrong = [arguments[0], "coppy"];
        let printed = staged.command(&host, group, &wrong).exits(1, PATIENCE);
        printed.says("there is no stage `coppy`; did you mean `copy`?");
    }
    let history = staged.command(&host, "plugin", &["history", "coppy"]);
    history.exits(1, PATIENCE).says("did you mean `copy`?");

    let token = staged.folder.path().join("token");
    fs::write(&token, "another").unwrap();
    for (group, arguments) in commands {
        let printed = staged.command(&host, group, arguments).exits(1, PATIENCE);
        printed.says("send the token of `admin: token`");
    }
    let path = "/stages/copy/pause";
    assert_eq!(
        admin::call(host.admin_port, "POST", path, Some("another"), &[])
            .unwrap()
            .0,
        401
    );
    assert_eq!(admin::call(host.admin_port, "POST", path, None, &[]).unwrap().0, 401);
    drop(host);

    // Nobody listens.
    let absent = Invocation::new(&["status", staged.pipeline.write().to_str().unwrap()]);
    absent.exits(1, PATIENCE).says("no process answers at 127.0.0.1:");

    // No token in the file: the process can be looked at, and not changed.
    let pipeline = staged.pipeline.without_key(&["admin"], "token");
    let staged = Staged { pipeline, ..staged };
    let mut host = staged.invocation().start();
    host.ready();
    for (group, arguments) in commands {
        let printed = staged.command(&host, group, arguments).exits(1, PATIENCE);
        printed.says("set `admin: {token: {file: PATH}}`");
    }
    staged
        .command(&host, "stage", &["ls"])
        .exits(0, PATIENCE)
        .says("running");
    end(host);

    let pipeline = staged.pipeline.without("admin");
    let nowhere = Invocation::new(&["status", pipeline.write().to_str().unwrap()]);
    nowhere.exits(1, PATIENCE).says("has no `admin` section");
}
