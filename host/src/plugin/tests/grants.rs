//! What a stage grants is there, and nothing around it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use super::{Stand, patient};
use crate::fault::Kind;
use crate::plugin::grants::Grants;
use crate::plugin::limits::Limits;

const GUEST: &str = "host/tests/guests/misbehave";

/// A folder `granted` with a secret beside it, and what a guest that is granted the folder as `/data` answers to each order.
fn answers(orders: &[&str], prepare: impl FnOnce(&Path)) -> Vec<String> {
    let around = tempfile::tempdir().unwrap();
    let granted = around.path().join("granted");
    std::fs::create_dir_all(granted.join("sub")).unwrap();
    std::fs::write(granted.join("inside.txt"), "inside").unwrap();
    std::fs::write(granted.join("sub/deep.txt"), "deep").unwrap();
    std::fs::write(around.path().join("secret.txt"), "secret").unwrap();
    prepare(&granted);
    let stand = Stand::granted(GUEST, "{}", patient(), Grants::of(&[], &[("/data", &granted)]));
    let answers = stand.answers(orders).unwrap();
    assert_eq!(std::fs::read_to_string(granted.join("inside.txt")).unwrap(), "inside");
    answers
}

#[test]
fn a_folder_that_is_granted_can_be_read() {
    let found = answers(
        &[
            "read /data/inside.txt",
            "read /data/sub/deep.txt",
            "read /data/sub/../inside.txt",
        ],
        |_| {},
    );
    assert_eq!(found, ["reject: inside", "reject: deep", "reject: inside"]);
}

#[test]
fn a_link_that_stays_inside_is_followed() {
    let found = answers(&["read /data/link"], |granted| {
        symlink("sub/deep.txt", granted.join("link")).unwrap()
    });
    assert_eq!(found, ["reject: deep"]);
}

#[test]
fn no_path_and_no_link_leads_out_of_the_folder() {
    let orders = [
        "read /data/../secret.txt",
        "read /data/sub/../../secret.txt",
        "read /etc/hostname",
        "read ../secret.txt",
        "read /secret.txt",
        "read /data/relative-link",
        "read /data/absolute-link",
        "read /data/folder-link/secret.txt",
        "read /data/sub/chain",
    ];
    let found = answers(&orders, |granted| {
        let secret = granted.parent().unwrap().join("secret.txt");
        symlink("../secret.txt", granted.join("relative-link")).unwrap();
        symlink(&secret, granted.join("absolute-link")).unwrap();
        symlink(granted.parent().unwrap(), granted.join("folder-link")).unwrap();
        symlink("../relative-link", granted.join("sub/chain")).unwrap();
        assert_eq!(
            std::fs::read_to_string(granted.join("sub/chain")).unwrap(),
            "secret",
            "the host itself gets there"
        );
    });
    for (order, answer) in orders.iter().zip(found) {
        assert!(answer.starts_with("reject: refused: "), "{order}: {answer}");
    }
}

#[test]
fn nothing_in_the_folder_can_be_changed() {
    let orders = [
        "write /data/new.txt",
        "write /data/inside.txt",
        "append /data/inside.txt",
        "remove /data/inside.txt",
        "folder /data/new",
    ];
    let found = answers(&orders, |_| {});
    for (order, answer) in orders.iter().zip(found) {
        assert!(answer.starts_with("reject: refused: "), "{order}: {answer}");
    }
}

#[test]
fn a_variable_that_is_granted_is_there_and_no_other() {
    let grants = Grants::of(&[("CITY", "Nuuk"), ("EMPTY", "")], &[]);
    let stand = Stand::granted(GUEST, "{}", patient(), grants);
    let answers = stand
        .answers(&["variable CITY", "variable EMPTY", "variable PATH", "variable HOME"])
        .unwrap();
    assert_eq!(answers[..2], ["reject: Nuuk", "reject: "]);
    assert!(
        answers[2..]
            .iter()
            .all(|answer| answer.starts_with("reject: refused: ")),
        "{answers:?}"
    );
}

#[test]
fn a_folder_that_went_away_is_a_fault_that_names_it() {
    let around = tempfile::tempdir().unwrap();
    let granted = around.path().join("granted");
    std::fs::create_dir(&granted).unwrap();
    let stand = Stand::granted(GUEST, "{}", patient(), Grants::of(&[], &[("/data", &granted)]));
    std::fs::remove_dir(&granted).unwrap();
    let fault = stand
        .try_instance(crate::metrics::PluginMetrics::unheard())
        .err()
        .unwrap();
    let words = format!("open the folder {} that is granted as /data: ", granted.display());
    assert!(fault.message.starts_with(&words), "{fault}");
}

#[test]
fn files_cannot_be_opened_without_end() {
    let granted = tempfile::tempdir().unwrap();
    std::fs::write(granted.path().join("file"), "text").unwrap();
    let grants = Grants::of(&[], &[("/data", granted.path())]);
    let stand = Stand::granted(GUEST, "{}", patient(), grants);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let fault = stand.answers(&["hoard-files /data/file"]).unwrap_err();
    let words = "holds more than 250 handles (files, streams, timers) at a time; give them back";
    assert_eq!((fault.kind, fault.message.as_str()), (Kind::Trap, words));
    // Other tests open files meanwhile.
    assert!(open() < before + 200, "{} open files, {before} before", open());
    assert_eq!(stand.answers(&["read /data/file"; 300]).unwrap()[299], "reject: text");
}

#[test]
fn a_pipe_that_nobody_writes_to_costs_the_deadline_and_holds_nothing_up_at_the_end() {
    let granted = tempfile::tempdir().unwrap();
    let made = Command::new("mkfifo")
        .arg(granted.path().join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    let limits = Limits {
        deadline_record: Duration::from_millis(200),
        ..patient()
    };
    let grants = Grants::of(&[], &[("/data", granted.path())]);
    let stand = Stand::granted(GUEST, "{}", limits, grants);
    let fault = stand.answers(&["read /data/pipe"]).unwrap_err();
    assert_eq!(fault.kind, Kind::Deadline, "{fault}");
    assert!(fault.message.starts_with("waited inside the host"), "{fault}");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        drop(stand);
        let _ = tell.send(());
    });
    told.recv_timeout(Duration::from_secs(20))
        .expect("what is dropped waits for nothing");
}
