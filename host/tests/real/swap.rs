//! A plugin is changed while the stream runs: what is good is taken, what is bad is refused, and no record notices.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::chaos::load::Load;
use crate::support::guests::guest;
use crate::support::host::Host;
use crate::support::kafka::{self, Record};
use crate::support::swap::{Staged, digest, end, is_subsequence, labels_by_input_partition, relabelled, version};
use crate::support::{PATIENCE, wait_for};

/// How a file is changed.
type Way = fn(&Staged, &[u8]);

const WAYS: [(&str, Way); 5] = [
    ("renamed", |staged, bytes| staged.place(bytes)),
    ("in-place", |staged, bytes| fs::write(&staged.file, bytes).unwrap()),
    ("copied", |staged, bytes| {
        let beside = staged.folder.path().join("source.wasm");
        fs::write(&beside, bytes).unwrap();
        fs::copy(&beside, &staged.file).unwrap();
    }),
    ("removed-first", |staged, bytes| {
        fs::remove_file(&staged.file).unwrap();
        fs::write(&staged.file, bytes).unwrap();
    }),
    ("moved-away-first", |staged, bytes| {
        fs::rename(&staged.file, staged.folder.path().join("plugin.wasm~")).unwrap();
        fs::write(&staged.file, bytes).unwrap();
    }),
];

#[test]
fn a_changed_file_is_taken_in_whatever_way_it_changes_and_no_record_notices() {
    let staged = Staged::new("ways").set(&["workers"], 2);
    let host = staged.start();
    let load = Load::start(&staged.topics, 500, 1);
    let mut published = vec!["first".to_owned()];
    for (label, change) in WAYS {
        let bytes = version(label);
        change(&staged, &bytes);
        staged.runs(&host, &digest(&bytes));
        published.push(label.to_owned());
        // So that every version meets records.
        label_arrives(&staged, label);
    }
    let (sent, _) = load.finish();
    kafka::read_at_least(&staged.topics.output, sent.len(), PATIENCE);
    assert_eq!(staged.metric(&host, "wasmill_swaps_total", &["kind=\"swapped\""]), 5.0);
    end(host);
    for (partition, met) in labels_by_input_partition(&staged.topics) {
        assert!(
            is_subsequence(&met, &published),
            "partition {partition} met {met:?}, published were {published:?}"
        );
    }
    assert_eq!(staged.topics.verdict(&sent), []);
}

/// Waits until an output is the work of the version with this label.
fn label_arrives(staged: &Staged, label: &str) {
    let prefix = format!("{label}: ");
    wait_for(&format!("an output of `{label}`"), PATIENCE, || {
        let outputs = kafka::read_committed(&staged.topics.output);
        outputs
            .iter()
            .any(|placed| placed.record.value_text().starts_with(&prefix))
            .then_some(())
    });
}

/// As Kubernetes mounts a ConfigMap: the file is a link into `..data`, which is a link that is switched.
#[test]
fn the_switched_link_of_a_mounted_volume_is_taken() {
    let staged = Staged::new("mounted");
    let at = |name: &str| staged.folder.path().join(name);
    for label in ["one", "two"] {
        fs::create_dir(at(label)).unwrap();
        fs::write(at(label).join("plugin.wasm"), version(label)).unwrap();
    }
    fs::remove_file(&staged.file).unwrap();
    symlink("one", at("..data")).unwrap();
    symlink("..data/plugin.wasm", &staged.file).unwrap();
    let host = staged.start();
    staged.runs(&host, &digest(&version("one")));
    symlink("two", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    staged.runs(&host, &digest(&version("two")));
    end(host);
}

/// A component that imports what nobody grants and exports what nobody calls.
fn stranger() -> Vec<u8> {
    let name = |name: &str| [&[0, name.len() as u8], name.as_bytes()].concat();
    let import = [name("example:other/api@1.0.0"), vec![5, 0]].concat();
    let section = |id: u8, content: Vec<u8>| [vec![id, content.len() as u8], content].concat();
    [
        b"\0asm\x0d\0\x01\0".to_vec(),
        section(7, vec![1, 0x42, 0]),
        section(10, [vec![1], import].concat()),
    ]
    .concat()
}

/// What is no plugin of this stage, and words of the reason.
fn bad_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = version("truncated");
    vec![
        ("empty", Vec::new(), "a plugin is a component"),
        ("a text", b"#!/bin/sh\n".to_vec(), "not a WebAssembly file"),
        ("truncated", good[..good.len() / 2].to_vec(), "the file may be damaged"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "core module"),
        ("another world", b"\0asm\x0d\0\x01\0".to_vec(), "wasmill:plugin/process"),
        ("an import beyond the base set", stranger(), "example:other/api"),
        ("a missing port", fs::read(guest("wide-ports")).unwrap(), "port"),
        ("no configure", version("no-configure"), "takes no configuration"),
        ("no self-test", version("no-self-test"), "does not pass its own test"),
    ]
}

#[test]
fn a_bad_file_is_refused_with_its_reason_and_the_version_before_runs_on() {
    let staged = Staged::new("bad");
    let host = staged.start();
    let load = Load::start(&staged.topics, 200, 1);
    let first = digest(&version("first"));
    let bad = bad_files();
    for (index, (title, bytes, words)) in bad.iter().enumerate() {
        staged.place(bytes);
        staged.refuses(&host, words);
        host.printed().says(words);
        wait_for(&format!("the refusal of {title} to be counted"), PATIENCE, || {
            let refused = staged.metric(&host, "wasmill_swaps_total", &["kind=\"refused\""]);
            (refused == (index + 1) as f64).then_some(())
        });
        staged.runs(&host, &first);
    }
    let large = staged.folder.path().join("large.wasm");
    File::create(&large).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    fs::rename(&large, &staged.file).unwrap();
    staged.refuses(&host, "the limit is 67108864");
    staged.runs(&host, &first);
    let events = staged.history(&host);
    let refused = events.iter().filter(|(change, _)| change == "refused").count();
    assert_eq!(refused, bad.len() + 1, "{events:?}");

    // By command, too: the reason is told to whoever asked.
    for (title, bytes, words) in &bad {
        let file = staged.folder.path().join("bad.wasm");
        fs::write(&file, bytes).unwrap();
        let arguments = ["swap", "copy", file.to_str().unwrap()];
        let printed = staged.command(&host, "plugin", &arguments).exits(1, PATIENCE);
        assert!(printed.stderr.contains(words), "{title}: {}", printed.stderr);
    }
    staged.runs(&host, &first);

    let good = version("good");
    staged.place(&good);
    staged.runs(&host, &digest(&good));
    assert!(staged.stage(&host)["refused"].is_null());
    label_arrives(&staged, "good");
    let (sent, _) = load.finish();
    kafka::read_at_least(&staged.topics.output, sent.len(), PATIENCE);
    end(host);
    assert_eq!(staged.topics.verdict(&sent), []);
}

#[test]
fn a_file_with_another_digest_than_its_pin_is_refused() {
    let pinned = version("first");
    let staged = Staged::new("pinned");
    let plugin = json!({"file": staged.file, "sha256": digest(&pinned)});
    let staged = staged.set(&["plugin"], plugin);
    let host = staged.start();
    staged.place(&version("second"));
    staged.refuses(&host, &digest(&pinned));
    staged.runs(&host, &digest(&pinned));
    end(host);
}

fn count(staged: &Staged, host: &Host, change: &str) -> usize {
    let events = staged.history(host);
    events.iter().filter(|(other, _)| other == change).count()
}

#[test]
fn a_restart_runs_the_last_good_version_and_a_refused_one_is_not_tried_again() {
    let staged = Staged::new("restart");
    let host = staged.start();
    let good = version("good");
    staged.place(&good);
    staged.runs(&host, &digest(&good));
    staged.place(&version("no-self-test"));
    staged.refuses(&host, "does not pass its own test");
    end(host);

    // Refused before: what ran runs, and nothing is tried.
    let host = staged.start();
    staged.runs(&host, &digest(&good));
    staged.refuses(&host, "does not pass its own test");
    assert_eq!(count(&staged, &host, "refused"), 1);
    assert_eq!(count(&staged, &host, "started"), 2);
    assert_eq!(staged.metric(&host, "wasmill_swaps_total", &["kind=\"refused\""]), 0.0);
    end(host);

    // Bad, and put there while nobody looked.
    staged.place(&version("no-configure"));
    let host = staged.start();
    staged.runs(&host, &digest(&good));
    staged.refuses(&host, "takes no configuration");
    assert_eq!(count(&staged, &host, "refused"), 2);
    end(host);

    // Gone.
    fs::remove_file(&staged.file).unwrap();
    let host = staged.start();
    staged.runs(&host, &digest(&good));
    staged.refuses(&host, "plugin.wasm");
    // And back: what was refused is not tried again, what runs is no news.
    staged.place(&version("no-configure"));
    staged.refuses(&host, "takes no configuration");
    assert_eq!(count(&staged, &host, "refused"), 3);
    staged.place(&good);
    wait_for("the refusal to be over", PATIENCE, || {
        staged.stage(&host)["refused"].is_null().then_some(())
    });
    end(host);

    // Good, and put there while nobody looked.
    let newer = version("newer");
    staged.place(&newer);
    let host = staged.start();
    staged.runs(&host, &digest(&newer));
    end(host);
}

#[test]
fn stamped_outputs_tell_the_version_that_made_them_while_it_changes() {
    let staged = Staged::new("stamped").set(&["stamp"], true);
    let host = staged.start();
    let load = Load::start(&staged.topics, 500, 1);
    let next = relabelled("versioned-next", "next");
    let versions = [version("first"), next, version("third")];
    let labels = ["first", "next", "third"];
    for (label, bytes) in labels.iter().zip(&versions) {
        assert_eq!(staged.swap(&host, bytes).0, 200);
        label_arrives(&staged, label);
    }
    let (sent, _) = load.finish();
    kafka::read_at_least(&staged.topics.output, sent.len(), PATIENCE);
    end(host);
    for placed in kafka::read_committed(&staged.topics.output) {
        let record = placed.record;
        let (label, _) = record.value_text().split_once(": ").unwrap();
        let made_by = labels.iter().position(|other| *other == label).unwrap();
        let wanted_version = if label == "next" { "0.2.0" } else { "0.1.0" };
        let digest = digest(&versions[made_by]);
        assert_eq!(record.header("wasmill.plugin"), Some("versioned"));
        assert_eq!(record.header("wasmill.plugin-version"), Some(wanted_version), "{label}");
        assert_eq!(record.header("wasmill.plugin-digest"), Some(digest.as_str()), "{label}");
    }
    assert_eq!(staged.topics.verdict(&sent), []);
}

#[test]
fn forwarded_records_are_stamped_behind_their_own_headers() {
    let staged = Staged::new("forwarded")
        .set(&["stamp"], true)
        .set(&["config"], json!({"forward": true}));
    let host = staged.start();
    let sent = Record {
        headers: vec![(b"trace".to_vec(), Some(b"1".to_vec())), (b"trace".to_vec(), None)],
        ..Record::new("key", "value")
    };
    kafka::produce(&staged.topics.input, Some(0), [&sent]);
    let arrived = kafka::read_at_least(&staged.topics.output, 1, PATIENCE)
        .remove(0)
        .record;
    end(host);
    assert_eq!((&arrived.key, &arrived.value), (&sent.key, &sent.value));
    assert_eq!(arrived.headers[..2], sent.headers);
    assert_eq!(
        arrived.header("wasmill.plugin-digest"),
        Some(digest(&version("first")).as_str())
    );
}
