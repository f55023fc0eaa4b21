//! `inspect`: what it says of plugins, and of files that are none.

use serde_json::Value;

use crate::program::{Place, Ran};

/// What differs from build to build is replaced.
fn inspected(place: &Place, arguments: &[&str], code: i32) -> Ran {
    let mut ran = place.run(&[&["inspect"], arguments].concat()).exits(code);
    for stream in [&mut ran.stdout, &mut ran.stderr] {
        let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let words = stream.split_inclusive([' ', '\n', '"']);
        let shown = words.map(|word| {
            let bare = word.trim_end_matches([' ', '\n', '"']);
            if is_digest(bare) {
                word.replace(bare, "[digest]")
            } else {
                word.to_owned()
            }
        });
        *stream = shown.collect();
    }
    ran
}

/// WASI versions are those of the toolchain, and sizes those of the compiler.
fn without_versions(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| match (line.split_once("wasi:"), line.split_once(" bytes (")) {
            (Some(_), _) => line.split('@').next().unwrap().to_owned(),
            (_, Some((before, _))) => format!("{}[size]", before.trim_end_matches(|c: char| c.is_ascii_digit())),
            _ => line.to_owned(),
        });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_plugin_is_told_with_all_that_it_says_of_itself() {
    let place = Place::new();
    place.plugin("filter.wasm", "plugins/filter-station");
    let ran = inspected(&place, &["filter.wasm"], 0);
    assert_eq!(ran.stderr, "");
    let told = without_versions(&ran.stdout);
    let wanted = [
        "sha256                [digest]",
        "kind                  component",
        "implements            wasmill:plugin/process@0.1.0",
        "plugin                filter-station 0.1.0",
        "reads                 value",
        "state version         0",
        "needs                 nothing beyond the base set",
        "this host runs it     yes",
    ];
    for line in wanted {
        assert!(told.lines().any(|told| told == line), "{line}\n{told}");
    }
    let fillable = ran.stdout.lines().find(|line| line.starts_with("empty unless granted"));
    assert!(fillable.unwrap().ends_with(": `grants.env`"), "{}", ran.stdout);
}

#[test]
fn programs_get_the_same_as_json() {
    let place = Place::new();
    place.plugin("wide.wasm", "host/tests/guests/wide-ports");
    let ran = inspected(&place, &["wide.wasm", "--json"], 0);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["kind"], "component");
    assert_eq!(told["sha256"], "[digest]");
    assert_eq!(told["implements"], "wasmill:plugin/process@0.1.0");
    assert_eq!(told["plugin"]["name"], "wide-ports");
    assert_eq!(told["plugin"]["ports"][0]["kind"], "message");
    assert_eq!((&told["runs"], &told["refusal"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(told["needs"], serde_json::json!([]));
    let size = std::fs::metadata(place.path().join("wide.wasm")).unwrap().len();
    assert_eq!(told["bytes"], size);
}

#[test]
fn a_file_that_is_no_plugin_is_told_as_far_as_it_can_be_read() {
    let place = Place::new();
    place.write("text.wasm", "#!/bin/sh\n");
    place.write("core.wasm", b"\0asm\x01\0\0\0");
    place.write("empty.wasm", b"\0asm\x0d\0\x01\0");
    let mut told = String::new();
    for file in ["text.wasm", "core.wasm", "empty.wasm"] {
        let ran = inspected(&place, &[file], 1);
        told.push_str(&format!("$ wasmill inspect {file}\n{}{}\n", ran.stdout, ran.stderr));
    }
    let missing = inspected(&place, &["no-such.wasm"], 1);
    told.push_str(&format!(
        "$ wasmill inspect no-such.wasm\n{}{}",
        missing.stdout, missing.stderr
    ));
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(told) });
}

#[test]
fn what_a_program_for_another_world_would_need_is_told() {
    let place = Place::new();
    place.write(
        "wanderer/Cargo.toml",
        "[package]\nname = \"wanderer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n[lib]\ncrate-type = ['cdylib']\n",
    );
    let source = "#[unsafe(no_mangle)]\npub extern \"C\" fn go() {\n    let _ = std::net::TcpStream::connect(\"127.0.0.1:1\");\n}\n";
    place.write("wanderer/src/lib.rs", source);
    let built = place.run(&["build", "wanderer"]).exits(0);
    let file = built.stdout.split(" (").next().unwrap();
    let file = file.replace("[folder]", place.path().to_str().unwrap());
    let ran = inspected(&place, &[&file, "--json"], 1);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&told["runs"], &told["implements"]),
        (&Value::Bool(false), &Value::Null)
    );
    let needs = told["needs"].as_array().unwrap();
    assert!(!needs.is_empty(), "{told:#}");
    for need in needs {
        assert!(need["import"].as_str().unwrap().starts_with("wasi:sockets/"), "{need}");
        assert_eq!(need["grant"], "no grant gives it yet");
    }
    assert!(
        ran.stderr.starts_with("error: this host would not run "),
        "{}",
        ran.stderr
    );
}
