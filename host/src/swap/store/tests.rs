//! What a process finds again after a restart, whatever happened to the folder.

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Store::open(dir.path(), "app", None).unwrap();
    (dir, store)
}

#[test]
fn what_is_remembered_is_there_after_a_restart() {
    let (dir, store) = store();
    assert_eq!(store.remembered("s").unwrap(), Remembered::default());
    let mut remembered = Remembered::default();
    remembered.activate("a");
    remembered.activate("b");
    remembered.activate("a");
    store.remember("s", &remembered).unwrap();
    let again = Store::open(dir.path(), "app", None).unwrap().remembered("s").unwrap();
    assert_eq!(again, remembered);
    assert_eq!(again.previous().unwrap(), "b");
}

#[test]
fn processes_with_names_keep_apart_what_they_run() {
    let dir = tempfile::TempDir::new().unwrap();
    let open = |instance| Store::open(dir.path(), "app", instance).unwrap();
    let [one, two, none] = [Some("one"), Some("two"), None].map(open);
    one.set_paused("s", true).unwrap();
    assert!(one.is_paused("s") && !two.is_paused("s") && !none.is_paused("s"));
    one.set_paused("s", false).unwrap();
    one.set_paused("s", false).unwrap();
    assert!(!one.is_paused("s"));
    let mut remembered = Remembered::default();
    remembered.activate("a");
    one.remember("s", &remembered).unwrap();
    assert_eq!(two.remembered("s").unwrap(), Remembered::default());
    assert_eq!(one.remembered("s").unwrap(), remembered);
}

#[test]
fn damaged_bytes_are_written_again() {
    let (_dir, store) = store();
    let binary = Binary::new(b"good".to_vec());
    store.keep(&binary).unwrap();
    fs::write(store.plugin_file(&binary.digest), b"evil").unwrap();
    store.keep(&binary).unwrap();
    assert_eq!(store.binary(&binary.digest).unwrap().bytes, b"good");
}

#[test]
fn a_history_that_is_too_long_loses_its_older_half_whatever_is_in_it() {
    let (_dir, store) = store();
    let line = [&vec![0xff; 1000][..], b"\n"].concat();
    fs::write(store.history_file(), line.repeat(HISTORY_BYTES_MAX as usize / 1000)).unwrap();
    let event = Event {
        at: now(),
        stage: "s".to_owned(),
        change: Change::Swapped,
        by: "file".to_owned(),
        from: None,
        digest: None,
        plugin: None,
        reason: None,
    };
    store.record(&event).unwrap();
    assert_eq!(store.history("s").unwrap(), [event]);
    assert!(fs::metadata(store.history_file()).unwrap().len() < HISTORY_BYTES_MAX * 2 / 3);
}

#[test]
fn bytes_that_were_changed_are_not_run() {
    let (_dir, store) = store();
    let binary = Binary::new(b"good".to_vec());
    store.keep(&binary).unwrap();
    assert_eq!(store.binary(&binary.digest).unwrap().bytes, b"good");
    fs::write(store.plugin_file(&binary.digest), b"evil").unwrap();
    let error = format!("{:#}", store.binary(&binary.digest).err().unwrap());
    assert!(error.contains("is damaged"), "{error}");
}

#[test]
fn bytes_that_nobody_can_go_back_to_are_forgotten() {
    let (_dir, store) = store();
    let mut remembered = Remembered::default();
    let binaries: Vec<Binary> = (0..VERSIONS_KEPT + 2).map(|n| Binary::new(vec![n as u8])).collect();
    for binary in &binaries {
        store.keep(binary).unwrap();
        remembered.activate(&binary.digest);
    }
    store.remember("s", &remembered).unwrap();
    let kept = || -> Vec<bool> {
        let binaries = binaries.iter();
        binaries.map(|binary| store.binary(&binary.digest).is_ok()).collect()
    };
    let now = SystemTime::now();
    // Another stage may have kept them to name them next.
    store.tidy(now).unwrap();
    assert_eq!(kept(), [true; VERSIONS_KEPT + 2]);
    store.tidy(now + UNNAMED_KEPT * 2).unwrap();
    assert_eq!(kept()[..2], [false; 2]);
    assert_eq!(kept()[2..], [true; VERSIONS_KEPT]);
}

#[test]
fn bytes_that_are_kept_again_are_as_good_as_new() {
    let (_dir, store) = store();
    let binary = Binary::new(b"good".to_vec());
    store.keep(&binary).unwrap();
    let old = SystemTime::now() - UNNAMED_KEPT * 2;
    let file = File::options()
        .write(true)
        .open(store.plugin_file(&binary.digest))
        .unwrap();
    file.set_modified(old).unwrap();
    store.keep(&binary).unwrap();
    store.tidy(SystemTime::now()).unwrap();
    assert_eq!(store.binary(&binary.digest).unwrap().bytes, b"good");
}

#[test]
fn the_history_is_told_stage_by_stage_and_survives_a_torn_line() {
    let (dir, store) = store();
    let event = |stage: &str| Event {
        at: now(),
        stage: stage.to_owned(),
        change: Change::Refused,
        by: "file".to_owned(),
        from: Some("a".to_owned()),
        digest: None,
        plugin: None,
        reason: Some("truncated".to_owned()),
    };
    store.record(&event("s")).unwrap();
    store.record(&event("other")).unwrap();
    let mut log = OpenOptions::new().append(true).open(store.history_file()).unwrap();
    log.write_all(b"{\"at\": \"20").unwrap();
    let store = Store::open(dir.path(), "app", None).unwrap();
    store.record(&event("s")).unwrap();
    let history = store.history("s").unwrap();
    assert_eq!(history.len(), 2);
    assert_eq!(history[0].reason.as_deref(), Some("truncated"));
}

#[test]
fn a_folder_that_cannot_be_written_is_said_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = format!("{:#}", Store::open(file.path(), "app", None).err().unwrap());
    assert!(error.contains("cannot be written"), "{error}");
}
