//! Files that are no plugins, and what is said of them.

use std::sync::Arc;

use super::{built, patient, runtime};
use crate::plugin::component::{self, Binary, Wanted};
use crate::plugin::grants::Grants;
use crate::plugin::instance::Executor;
use crate::plugin::runtime::Runtime;

const PREAMBLE: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// A component whose imports and exports are these interfaces, each with nothing in it.
fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let name = |name: &str| [&[0, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    let section = |id: u8, items: Vec<Vec<u8>>| {
        let content = [vec![u8::try_from(items.len()).unwrap()], items.concat()].concat();
        // The length in LEB128, two bytes of it.
        let len = u16::try_from(content.len()).unwrap();
        let len = [(len & 0x7f) as u8 | 0x80, (len >> 7) as u8];
        [vec![id], len.to_vec(), content].concat()
    };
    let imported = imports.len();
    let types = section(7, vec![vec![0x42, 0]]);
    let imports = section(
        10,
        imports
            .iter()
            .map(|import| [name(import), vec![5, 0]].concat())
            .collect(),
    );
    let instances = section(5, exports.iter().map(|_| vec![1, 0]).collect());
    // Instances are counted from the first import on; an export is one more.
    let index = |export: usize| u8::try_from(imported + export).unwrap();
    let exports = exports.iter().enumerate();
    let exports = exports.map(|(export, interface)| [name(interface), vec![5, index(export), 0]].concat());
    let exports = section(11, exports.collect());
    [PREAMBLE.to_vec(), types, imports, instances, exports].concat()
}

/// What is said of a file with these bytes.
fn said_of(bytes: &[u8], sha256: Option<[u8; 32]>) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, bytes).unwrap();
    said_of_file(file.path(), sha256)
}

fn said_of_file(file: &std::path::Path, sha256: Option<[u8; 32]>) -> String {
    let wanted = Wanted {
        stage: "under-test",
        sha256,
        config: "{}".to_owned(),
        limits: patient(),
        grants: Grants::default(),
    };
    let executor = Arc::new(Executor::new().unwrap());
    let loaded = Binary::read(file, super::FILE_BYTES_MAX)
        .and_then(|binary| component::load(runtime(), &binary, wanted, &executor));
    format!("{:#}", loaded.err().expect("it is refused"))
}

#[test]
fn what_is_no_plugin_is_refused_with_what_to_do() {
    let process = "wasmill:plugin/process@0.1.0";
    let whole = component(&[], &[process]);
    let table = [
        ("an empty file", Vec::new()),
        ("a text", b"#!/bin/sh\n".to_vec()),
        ("seven bytes", b"\0asm\x0d\0\x01".to_vec()),
        ("a core module", b"\0asm\x01\0\0\0".to_vec()),
        ("a layer of the future", b"\0asm\x01\0\x02\0".to_vec()),
        ("a truncated component", whole[..whole.len() - 9].to_vec()),
        ("a damaged component", [&whole[..], &[99, 1, 0]].concat()),
        ("a component with nothing in it", PREAMBLE.to_vec()),
        ("a command", component(&[], &["wasi:cli/run@0.2.6"])),
        (
            "another world",
            component(
                &["wasi:clocks/wall-clock@0.2.0"],
                &["example:other/api@1.0.0", "example:other/more"],
            ),
        ),
        ("an aggregate", component(&[], &["wasmill:plugin/aggregate@0.1.0"])),
        ("a contract too new", component(&[], &["wasmill:plugin/process@0.2.0"])),
        (
            "a contract without a version",
            component(&[], &["wasmill:plugin/process"]),
        ),
        (
            "an import too new",
            component(&["wasmill:plugin/log@0.2.0"], &[process]),
        ),
        (
            "an import of a later version",
            component(&["wasmill:plugin/lookup@0.1.0"], &[process]),
        ),
        ("sockets", component(&["wasi:sockets/tcp@0.2.0"], &[process])),
        ("http", component(&["wasi:http/outgoing-handler@0.2.0"], &[process])),
        (
            "an interface of nobody",
            component(&["example:other/api@1.0.0"], &[process]),
        ),
        ("a process without functions", component(&[], &[process])),
    ];
    let mut told = String::new();
    for (title, bytes) in table {
        told.push_str(&format!("## {title}\n{}\n\n", said_of(&bytes, None)));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(told) });
}

#[test]
fn a_file_with_another_digest_is_refused_with_both() {
    insta::assert_snapshot!(said_of(&PREAMBLE, Some([0xab; 32])), @"the file's sha256 is 24eaf3439a60c96764c4f2c92a0a81b52bd4fe5d5b91f090184a0f6486b1bf29, but `sha256` wants abababababababababababababababababababababababababababababababab; if this file is meant, put its digest there");
}

#[test]
fn a_file_with_the_pinned_digest_is_looked_at_further() {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(PREAMBLE).into();
    assert_eq!(said_of(&PREAMBLE, Some(digest)), said_of(&PREAMBLE, None));
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Without content, so it takes no room on the disk.
    file.as_file().set_len(64 * 1024 * 1024 + 1).unwrap();
    insta::assert_snapshot!(said_of_file(file.path(), None), @"the file has 67108865 bytes, the limit is 67108864 (`limits.file`); build it in release mode or strip it");
}

#[test]
fn a_file_that_is_not_there_is_said_to_be_missing() {
    insta::assert_snapshot!(said_of_file("no-such.wasm".as_ref(), None), @"open the plugin file: No such file or directory (os error 2)");
}

/// A process that starts again, and a swap to a version that ran before, do not wait for the compiler.
#[test]
fn what_was_compiled_once_is_not_compiled_again() {
    // What no earlier run of this test has left in the cache: a section of its own at the end.
    let name = uuid::Uuid::new_v4().simple().to_string();
    let section = [&[0, 33, 32], name.as_bytes()].concat();
    let bytes = [std::fs::read(built("host/tests/guests/misbehave")).unwrap(), section].concat();
    let starts = || {
        let runtime = Runtime::new().unwrap();
        let wanted = Wanted {
            stage: "under-test",
            sha256: None,
            config: "{}".to_owned(),
            limits: patient(),
            grants: Grants::default(),
        };
        let executor = Arc::new(Executor::new().unwrap());
        component::load(&runtime, &Binary::new(bytes.clone()), wanted, &executor).unwrap();
        runtime.cached_and_compiled()
    };
    assert_eq!((starts(), starts()), ((0, 1), (1, 0)));
}
