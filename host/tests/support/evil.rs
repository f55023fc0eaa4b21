//! The evil plugins: what each does, and what the host has to make of it.
//!
//! `MODULES` are components in text (`component`), `DEEDS` misdeeds of the guest `misbehave` by its `config: {deed: ..}`. The library's tests call
//! them one by one, `it` gives those that must be refused to `wasmill check`, and `real` runs the others beside a good stage.
#![allow(dead_code, reason = "each test binary uses its part")]

use super::component::Module;

/// What has to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Refused when it is loaded or configured, with these words.
    Refused(&'static str),
    /// A poison record becomes a dead letter of this kind, whose message has these words; nothing else is lost.
    Costs(&'static str, &'static str),
    /// It gets nothing, and nothing is lost.
    Bears,
}

use Fate::{Bears, Costs, Refused};

/// The bits of a module that are the same everywhere.
const GOOD: Module = Module {
    imports: "",
    items: "",
    own_memory: false,
    describe: "",
    configure: "",
    process: "",
    realloc: "",
    post: "",
    more_instances: 0,
    more: "",
};
const SPIN: &str = "(loop $spin (br $spin))";
const NAP: &str = r#"
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $later (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
/// An hour.
const SLEEP: &str = "(call $block (call $later (i64.const 3600000000000)))";
const EXIT: &str = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
const LOG: &str = r#"
  (import "wasmill:plugin/log@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))
  (import "wasmill:plugin/log@0.1.0" "panicked" (func $panicked (param i32 i32 i32 i32)))"#;
const METRICS: &str = r#"(import "wasmill:plugin/metrics@0.1.0" "add" (func $add (param i32 i32 i64)))"#;
const RANDOM: &str = r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#;

/// Name, module and fate of each.
pub(crate) const MODULES: &[(&str, Module, Fate)] = &[
    // Time.
    ("loop-in-start", Module { items: "(func $s (loop $spin (br $spin))) (start $s)", ..GOOD }, Refused("deadline")),
    ("loop-in-describe", Module { describe: SPIN, ..GOOD }, Refused("deadline")),
    ("loop-in-configure", Module { configure: SPIN, ..GOOD }, Refused("deadline")),
    ("loop-in-process", Module { process: SPIN, ..GOOD }, Costs("deadline", "ran past")),
    (
        "loop-in-realloc",
        Module { realloc: "(if (i32.ge_u (local.get $len) (i32.const 5000)) (then (loop $spin (br $spin))))", ..GOOD },
        Costs("deadline", "ran past"),
    ),
    ("loop-in-every-realloc", Module { realloc: SPIN, ..GOOD }, Refused("deadline")),
    ("loop-in-post-return", Module { post: SPIN, ..GOOD }, Costs("deadline", "ran past")),
    ("sleep-in-describe", Module { imports: NAP, describe: SLEEP, ..GOOD }, Refused("deadline")),
    ("sleep-in-configure", Module { imports: NAP, configure: SLEEP, ..GOOD }, Refused("deadline")),
    ("sleep-in-process", Module { imports: NAP, process: SLEEP, ..GOOD }, Costs("deadline", "waited")),
    ("sleep-in-post-return", Module { imports: NAP, post: SLEEP, ..GOOD }, Costs("trap", "cannot leave")),
    (
        "call-out-of-realloc",
        Module {
            imports: NAP,
            realloc: "(if (i32.ge_u (local.get $len) (i32.const 5000)) (then (drop (call $later (i64.const 1)))))",
            ..GOOD
        },
        Costs("trap", "cannot leave"),
    ),
    // Space.
    ("memory-at-once", Module { process: "(if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then (unreachable)))", ..GOOD }, Costs("memory", "limit")),
    ("memory-refused-and-borne", Module { process: "(drop (memory.grow (i32.const 60000)))", ..GOOD }, Bears),
    (
        "memory-by-steps",
        Module { process: "(loop $more (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable))) (br $more))", ..GOOD },
        Costs("memory", "limit"),
    ),
    (
        "memory-that-is-touched",
        Module {
            process: "(loop $more (i32.store (call $alloc (i32.const 4096)) (i32.const 1)) (br $more))",
            ..GOOD
        },
        Costs("memory", "limit"),
    ),
    ("large-memory-from-the-start", Module { items: r#"(memory (export "memory") 60000)"#, own_memory: true, ..GOOD }, Refused("memory")),
    (
        "several-memories",
        Module { items: r#"(memory (export "memory") 4) (memory 700) (memory 700) (memory 700)"#, own_memory: true, ..GOOD },
        Refused("memory"),
    ),
    ("deep-recursion", Module { items: "(func $r (call $r))", process: "(call $r)", ..GOOD }, Costs("trap", "call stack exhausted")),
    ("recursion-in-describe", Module { items: "(func $r (call $r))", describe: "(call $r)", ..GOOD }, Refused("call stack exhausted")),
    ("recursion-in-start", Module { items: "(func $r (call $r)) (start $r)", ..GOOD }, Refused("call stack exhausted")),
    (
        "table-at-once",
        Module {
            items: "(table $t 1 funcref)",
            process: "(if (i32.eq (table.grow $t (ref.null func) (i32.const 100000000)) (i32.const -1)) (then (unreachable)))",
            ..GOOD
        },
        Costs("memory", "limit"),
    ),
    (
        "table-by-steps",
        Module {
            items: "(table $t 1 funcref)",
            process: "(loop $more (if (i32.eq (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)) (then (unreachable))) (br $more))",
            ..GOOD
        },
        Costs("memory", "limit"),
    ),
    ("large-table-from-the-start", Module { items: "(table 200000000 funcref)", ..GOOD }, Refused("table elements")),
    ("many-instances", Module { more_instances: 120, ..GOOD }, Refused("resource limit exceeded")),
    // Traps.
    ("unreachable", Module { process: "(unreachable)", ..GOOD }, Costs("trap", "unreachable")),
    ("unreachable-in-start", Module { items: "(func $s (unreachable)) (start $s)", ..GOOD }, Refused("unreachable")),
    ("unreachable-in-post-return", Module { post: "(unreachable)", ..GOOD }, Costs("trap", "unreachable")),
    ("exit-0-in-process", Module { imports: EXIT, process: "(call $exit (i32.const 0))", ..GOOD }, Costs("trap", "called exit")),
    ("exit-1-in-process", Module { imports: EXIT, process: "(call $exit (i32.const 1))", ..GOOD }, Costs("trap", "called exit")),
    ("exit-0-in-describe", Module { imports: EXIT, describe: "(call $exit (i32.const 0))", ..GOOD }, Refused("called exit")),
    ("exit-1-in-configure", Module { imports: EXIT, configure: "(call $exit (i32.const 1))", ..GOOD }, Refused("called exit")),
    // Imports.
    (
        "sockets",
        Module { more: r#"(import "wasi:sockets/instance-network@0.2.0" (instance))"#, ..GOOD },
        Refused("`wasi:sockets/instance-network@0.2.0`, which is not granted"),
    ),
    (
        "http",
        Module { more: r#"(import "wasi:http/types@0.2.0" (instance))"#, ..GOOD },
        Refused("`wasi:http/types@0.2.0`, which is not granted"),
    ),
    ("huge-random", Module { imports: RANDOM, process: "(call $random (i64.const -1) (i32.const 400))", ..GOOD }, Costs("trap", "")),
    (
        "random-by-the-megabyte",
        Module { imports: RANDOM, process: "(loop $more (global.set $heap (i32.const 65536)) (call $random (i64.const 1048576) (i32.const 400)) (br $more))", ..GOOD },
        Costs("deadline", "ran past"),
    ),
    // Words.
    (
        "log-flood",
        Module {
            imports: LOG,
            items: "(global $left (mut i32) (i32.const 0))",
            process: "(global.set $left (i32.const 20000))
              (loop $more
                (call $write (i32.const 4) (i32.const 256) (i32.const 4) (i32.const 0) (i32.const 0))
                (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                (br_if $more (global.get $left)))",
            ..GOOD
        },
        Bears,
    ),
    (
        "panicked-again-and-again",
        Module {
            imports: LOG,
            items: "(global $left (mut i32) (i32.const 0))",
            process: "(global.set $left (i32.const 10000))
              (loop $more
                (call $panicked (i32.const 256) (i32.const 4) (i32.const 272) (i32.const 5))
                (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                (br_if $more (global.get $left)))",
            ..GOOD
        },
        Bears,
    ),
    // A text of a megabyte in 8,000 fields, twice each, all of them the same bytes: 16 GB for whoever copies it.
    (
        "log-fields-that-overlap",
        Module {
            imports: LOG,
            items: "(global $field (mut i32) (i32.const 0))",
            process: "(drop (call $alloc (i32.const 2000000))) (global.set $field (i32.const 131072))
              (loop $more
                (i32.store (global.get $field) (i32.const 400000))
                (i32.store offset=4 (global.get $field) (i32.const 1000000))
                (i32.store offset=8 (global.get $field) (i32.const 400000))
                (i32.store offset=12 (global.get $field) (i32.const 1000000))
                (global.set $field (i32.add (global.get $field) (i32.const 16)))
                (br_if $more (i32.lt_u (global.get $field) (i32.const 259072))))
              (call $write (i32.const 4) (i32.const 256) (i32.const 4) (i32.const 131072) (i32.const 8000))",
            ..GOOD
        },
        Costs("trap", "fuel"),
    ),
    (
        "a-log-line-that-is-not-utf8",
        Module { imports: LOG, process: r#"(i32.store (i32.const 400) (i32.const 0xfeff)) (call $write (i32.const 4) (i32.const 400) (i32.const 2) (i32.const 0) (i32.const 0))"#, ..GOOD },
        Costs("trap", "utf-8"),
    ),
    (
        "a-log-level-that-is-none",
        Module { imports: LOG, process: "(call $write (i32.const 99) (i32.const 256) (i32.const 4) (i32.const 0) (i32.const 0))", ..GOOD },
        Costs("trap", ""),
    ),
    (
        "a-log-line-beyond-memory",
        Module { imports: LOG, process: "(call $write (i32.const 4) (i32.const -8) (i32.const 4000000) (i32.const 0) (i32.const 0))", ..GOOD },
        Costs("trap", "out of bounds"),
    ),
    (
        "metric-flood",
        Module {
            imports: METRICS,
            items: "(global $left (mut i32) (i32.const 0))",
            process: "(global.set $left (i32.const 20000))
              (loop $more
                ;; names of four letters, ever others
                (i32.store (i32.const 400) (i32.or (i32.const 0x61616161) (i32.and (global.get $left) (i32.const 0x0f0f0f0f))))
                (call $add (i32.const 400) (i32.const 4) (i64.const -1))
                (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                (br_if $more (global.get $left)))",
            ..GOOD
        },
        Bears,
    ),
    ("a-metric-of-a-megabyte", Module { imports: METRICS, process: "(drop (call $alloc (i32.const 1000000))) (call $add (i32.const 65536) (i32.const 5) (i64.const 1))", ..GOOD }, Bears),
    // What it says of itself.
    ("a-name-beyond-memory", Module { describe: "(i32.store (i32.const 68) (i32.const -1))", ..GOOD }, Refused("out of bounds")),
    ("a-name-that-is-not-utf8", Module { describe: "(i32.store (i32.const 256) (i32.const -1))", ..GOOD }, Refused("utf-8")),
    ("no-name", Module { describe: "(i32.store (i32.const 68) (i32.const 0))", ..GOOD }, Refused("a name of 0 bytes")),
    ("a-long-name", Module { describe: "(memory.fill (i32.const 1000) (i32.const 97) (i32.const 60000)) (i32.store (i32.const 64) (i32.const 1000)) (i32.store (i32.const 68) (i32.const 60000))", ..GOOD }, Refused("a name of 60000 bytes")),
    ("a-name-of-control-characters", Module { describe: "(i32.store (i32.const 256) (i32.const 0x0a1b0a61))", ..GOOD }, Refused("control character")),
    ("a-long-version", Module { describe: "(memory.fill (i32.const 1000) (i32.const 49) (i32.const 60000)) (i32.store (i32.const 72) (i32.const 1000)) (i32.store (i32.const 76) (i32.const 60000))", ..GOOD }, Refused("a version of 60000 bytes")),
    ("thousands-of-ports", Module { describe: "(i32.store (i32.const 84) (i32.const 5000))", items: r#"(memory (export "memory") 4)"#, own_memory: true, ..GOOD }, Refused("5000 ports")),
    ("ports-beyond-memory", Module { describe: "(i32.store (i32.const 84) (i32.const 400000000))", ..GOOD }, Refused("out of bounds")),
    (
        "two-ports-of-one-name",
        Module { describe: "(memory.copy (i32.const 332) (i32.const 320) (i32.const 12)) (i32.store (i32.const 84) (i32.const 2))", ..GOOD },
        Refused("the port `out` twice"),
    ),
    ("a-port-with-a-wrong-name", Module { describe: "(i32.store8 (i32.const 288) (i32.const 47))", ..GOOD }, Refused("names a port \"/ut\"")),
    ("a-port-of-no-kind", Module { describe: "(i32.store8 (i32.const 328) (i32.const 77))", ..GOOD }, Refused("`describe` failed")),
    ("a-schema-that-is-not-json", Module { describe: "(i32.store (i32.const 88) (i32.const 256)) (i32.store (i32.const 92) (i32.const 4))", ..GOOD }, Refused("config schema of plugin `evil` cannot be used")),
    (
        "a-schema-that-refers-to-itself",
        Module { items: r##"(data (i32.const 1000) "{\"$ref\":\"#\"}")"##, describe: "(i32.store (i32.const 88) (i32.const 1000)) (i32.store (i32.const 92) (i32.const 12))", ..GOOD },
        Refused("leads back to itself"),
    ),
    (
        "a-schema-that-refers-to-a-file",
        Module { items: r##"(data (i32.const 1000) "{\"$ref\":\"file:///etc/passwd\"}")"##, describe: "(i32.store (i32.const 88) (i32.const 1000)) (i32.store (i32.const 92) (i32.const 29))", ..GOOD },
        Refused("config schema of plugin `evil` cannot be used"),
    ),
    (
        "a-schema-that-doubles-mistakes",
        Module { items: r##"(data (i32.const 1000) "{\"$defs\":{\"a0\":false,\"a1\":{\"allOf\":[{\"$ref\":\"#/$defs/a0\"},{\"$ref\":\"#/$defs/a0\"}]},\"a2\":{\"allOf\":[{\"$ref\":\"#/$defs/a1\"},{\"$ref\":\"#/$defs/a1\"}]},\"a3\":{\"allOf\":[{\"$ref\":\"#/$defs/a2\"},{\"$ref\":\"#/$defs/a2\"}]},\"a4\":{\"allOf\":[{\"$ref\":\"#/$defs/a3\"},{\"$ref\":\"#/$defs/a3\"}]},\"a5\":{\"allOf\":[{\"$ref\":\"#/$defs/a4\"},{\"$ref\":\"#/$defs/a4\"}]},\"a6\":{\"allOf\":[{\"$ref\":\"#/$defs/a5\"},{\"$ref\":\"#/$defs/a5\"}]},\"a7\":{\"allOf\":[{\"$ref\":\"#/$defs/a6\"},{\"$ref\":\"#/$defs/a6\"}]},\"a8\":{\"allOf\":[{\"$ref\":\"#/$defs/a7\"},{\"$ref\":\"#/$defs/a7\"}]},\"a9\":{\"allOf\":[{\"$ref\":\"#/$defs/a8\"},{\"$ref\":\"#/$defs/a8\"}]},\"a10\":{\"allOf\":[{\"$ref\":\"#/$defs/a9\"},{\"$ref\":\"#/$defs/a9\"}]},\"a11\":{\"allOf\":[{\"$ref\":\"#/$defs/a10\"},{\"$ref\":\"#/$defs/a10\"}]},\"a12\":{\"allOf\":[{\"$ref\":\"#/$defs/a11\"},{\"$ref\":\"#/$defs/a11\"}]},\"a13\":{\"allOf\":[{\"$ref\":\"#/$defs/a12\"},{\"$ref\":\"#/$defs/a12\"}]},\"a14\":{\"allOf\":[{\"$ref\":\"#/$defs/a13\"},{\"$ref\":\"#/$defs/a13\"}]},\"a15\":{\"allOf\":[{\"$ref\":\"#/$defs/a14\"},{\"$ref\":\"#/$defs/a14\"}]},\"a16\":{\"allOf\":[{\"$ref\":\"#/$defs/a15\"},{\"$ref\":\"#/$defs/a15\"}]},\"a17\":{\"allOf\":[{\"$ref\":\"#/$defs/a16\"},{\"$ref\":\"#/$defs/a16\"}]},\"a18\":{\"allOf\":[{\"$ref\":\"#/$defs/a17\"},{\"$ref\":\"#/$defs/a17\"}]},\"a19\":{\"allOf\":[{\"$ref\":\"#/$defs/a18\"},{\"$ref\":\"#/$defs/a18\"}]},\"a20\":{\"allOf\":[{\"$ref\":\"#/$defs/a19\"},{\"$ref\":\"#/$defs/a19\"}]}},\"$ref\":\"#/$defs/a20\"}")"##, describe: "(i32.store (i32.const 88) (i32.const 1000)) (i32.store (i32.const 92) (i32.const 1294))", ..GOOD },
        Refused("unfolds into more than 10000 parts"),
    ),
    (
        "a-schema-that-doubles-work",
        Module { items: r##"(data (i32.const 1000) "{\"$defs\":{\"a0\":{},\"a1\":{\"allOf\":[{\"$ref\":\"#/$defs/a0\"},{\"$ref\":\"#/$defs/a0\"}]},\"a2\":{\"allOf\":[{\"$ref\":\"#/$defs/a1\"},{\"$ref\":\"#/$defs/a1\"}]},\"a3\":{\"allOf\":[{\"$ref\":\"#/$defs/a2\"},{\"$ref\":\"#/$defs/a2\"}]},\"a4\":{\"allOf\":[{\"$ref\":\"#/$defs/a3\"},{\"$ref\":\"#/$defs/a3\"}]},\"a5\":{\"allOf\":[{\"$ref\":\"#/$defs/a4\"},{\"$ref\":\"#/$defs/a4\"}]},\"a6\":{\"allOf\":[{\"$ref\":\"#/$defs/a5\"},{\"$ref\":\"#/$defs/a5\"}]},\"a7\":{\"allOf\":[{\"$ref\":\"#/$defs/a6\"},{\"$ref\":\"#/$defs/a6\"}]},\"a8\":{\"allOf\":[{\"$ref\":\"#/$defs/a7\"},{\"$ref\":\"#/$defs/a7\"}]},\"a9\":{\"allOf\":[{\"$ref\":\"#/$defs/a8\"},{\"$ref\":\"#/$defs/a8\"}]},\"a10\":{\"allOf\":[{\"$ref\":\"#/$defs/a9\"},{\"$ref\":\"#/$defs/a9\"}]},\"a11\":{\"allOf\":[{\"$ref\":\"#/$defs/a10\"},{\"$ref\":\"#/$defs/a10\"}]},\"a12\":{\"allOf\":[{\"$ref\":\"#/$defs/a11\"},{\"$ref\":\"#/$defs/a11\"}]},\"a13\":{\"allOf\":[{\"$ref\":\"#/$defs/a12\"},{\"$ref\":\"#/$defs/a12\"}]},\"a14\":{\"allOf\":[{\"$ref\":\"#/$defs/a13\"},{\"$ref\":\"#/$defs/a13\"}]},\"a15\":{\"allOf\":[{\"$ref\":\"#/$defs/a14\"},{\"$ref\":\"#/$defs/a14\"}]},\"a16\":{\"allOf\":[{\"$ref\":\"#/$defs/a15\"},{\"$ref\":\"#/$defs/a15\"}]},\"a17\":{\"allOf\":[{\"$ref\":\"#/$defs/a16\"},{\"$ref\":\"#/$defs/a16\"}]},\"a18\":{\"allOf\":[{\"$ref\":\"#/$defs/a17\"},{\"$ref\":\"#/$defs/a17\"}]},\"a19\":{\"allOf\":[{\"$ref\":\"#/$defs/a18\"},{\"$ref\":\"#/$defs/a18\"}]},\"a20\":{\"allOf\":[{\"$ref\":\"#/$defs/a19\"},{\"$ref\":\"#/$defs/a19\"}]},\"a21\":{\"allOf\":[{\"$ref\":\"#/$defs/a20\"},{\"$ref\":\"#/$defs/a20\"}]},\"a22\":{\"allOf\":[{\"$ref\":\"#/$defs/a21\"},{\"$ref\":\"#/$defs/a21\"}]},\"a23\":{\"allOf\":[{\"$ref\":\"#/$defs/a22\"},{\"$ref\":\"#/$defs/a22\"}]},\"a24\":{\"allOf\":[{\"$ref\":\"#/$defs/a23\"},{\"$ref\":\"#/$defs/a23\"}]},\"a25\":{\"allOf\":[{\"$ref\":\"#/$defs/a24\"},{\"$ref\":\"#/$defs/a24\"}]},\"a26\":{\"allOf\":[{\"$ref\":\"#/$defs/a25\"},{\"$ref\":\"#/$defs/a25\"}]},\"a27\":{\"allOf\":[{\"$ref\":\"#/$defs/a26\"},{\"$ref\":\"#/$defs/a26\"}]},\"a28\":{\"allOf\":[{\"$ref\":\"#/$defs/a27\"},{\"$ref\":\"#/$defs/a27\"}]},\"a29\":{\"allOf\":[{\"$ref\":\"#/$defs/a28\"},{\"$ref\":\"#/$defs/a28\"}]},\"a30\":{\"allOf\":[{\"$ref\":\"#/$defs/a29\"},{\"$ref\":\"#/$defs/a29\"}]},\"a31\":{\"allOf\":[{\"$ref\":\"#/$defs/a30\"},{\"$ref\":\"#/$defs/a30\"}]},\"a32\":{\"allOf\":[{\"$ref\":\"#/$defs/a31\"},{\"$ref\":\"#/$defs/a31\"}]},\"a33\":{\"allOf\":[{\"$ref\":\"#/$defs/a32\"},{\"$ref\":\"#/$defs/a32\"}]},\"a34\":{\"allOf\":[{\"$ref\":\"#/$defs/a33\"},{\"$ref\":\"#/$defs/a33\"}]},\"a35\":{\"allOf\":[{\"$ref\":\"#/$defs/a34\"},{\"$ref\":\"#/$defs/a34\"}]},\"a36\":{\"allOf\":[{\"$ref\":\"#/$defs/a35\"},{\"$ref\":\"#/$defs/a35\"}]},\"a37\":{\"allOf\":[{\"$ref\":\"#/$defs/a36\"},{\"$ref\":\"#/$defs/a36\"}]},\"a38\":{\"allOf\":[{\"$ref\":\"#/$defs/a37\"},{\"$ref\":\"#/$defs/a37\"}]},\"a39\":{\"allOf\":[{\"$ref\":\"#/$defs/a38\"},{\"$ref\":\"#/$defs/a38\"}]},\"a40\":{\"allOf\":[{\"$ref\":\"#/$defs/a39\"},{\"$ref\":\"#/$defs/a39\"}]}},\"$ref\":\"#/$defs/a40\"}")"##, describe: "(i32.store (i32.const 88) (i32.const 1000)) (i32.store (i32.const 92) (i32.const 2571))", ..GOOD },
        Refused("unfolds into more than 10000 parts"),
    ),
    // 100 attributes that are the whole memory each, four megabytes.
    (
        "attributes-that-overlap",
        Module {
            items: r#"(memory (export "memory") 64) (global $at (mut i32) (i32.const 1000))"#,
            own_memory: true,
            describe: "(loop $more
                (i32.store offset=4 (global.get $at) (i32.const 4194304))
                (i32.store offset=12 (global.get $at) (i32.const 4194304))
                (global.set $at (i32.add (global.get $at) (i32.const 16)))
                (br_if $more (i32.lt_u (global.get $at) (i32.const 2600))))
              (i32.store (i32.const 104) (i32.const 1000)) (i32.store (i32.const 108) (i32.const 100))",
            ..GOOD
        },
        Refused("`describe` failed"),
    ),
    (
        "another-self-the-second-time",
        Module {
            items: "(global $times (mut i32) (i32.const 0))",
            describe: "(if (global.get $times) (then (i32.store (i32.const 84) (i32.const 2)))) (global.set $times (i32.const 1))",
            process: "(i32.store offset=4 (local.get $replies) (i32.const 1)) (i32.store (local.get $replies) (i32.const 1))",
            ..GOOD
        },
        Costs("malformed", "port 1 does not exist, the plugin has 1"),
    ),
    (
        "a-huge-refusal",
        Module {
            items: r#"(memory (export "memory") 640)"#,
            own_memory: true,
            configure: "(memory.fill (i32.const 1000) (i32.const 120) (i32.const 40000000)) (i32.store8 (i32.const 128) (i32.const 1))
              (i32.store (i32.const 132) (i32.const 1000)) (i32.store (i32.const 136) (i32.const 40000000))",
            ..GOOD
        },
        Refused("xxxxxxxx"),
    ),
    ("a-refusal-beyond-memory", Module { configure: "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 136) (i32.const -1))", ..GOOD }, Refused("out of bounds")),
    // Answers that only the bare ABI can give.
    ("an-answer-outside-memory", Module { process: "(return (i32.const -16))", ..GOOD }, Costs("malformed", "")),
    ("an-answer-out-of-line", Module { process: "(return (i32.const 193))", ..GOOD }, Costs("malformed", "align")),
    ("data-of-gigabytes", Module { process: "(i32.store (i32.const 196) (i32.const -1))", ..GOOD }, Costs("malformed", "out of bounds")),
    ("replies-of-gigabytes", Module { process: "(i32.store (i32.const 204) (i32.const 300000000))", ..GOOD }, Costs("malformed", "out of bounds")),
    ("replies-that-wrap-around", Module { process: "(i32.store (i32.const 204) (i32.const 357913942))", ..GOOD }, Costs("malformed", "")),
    ("replies-without-a-case", Module { process: "(i32.store8 (local.get $replies) (i32.const 250))", ..GOOD }, Costs("malformed", "")),
    ("more-replies-than-records", Module { process: "(i32.store (i32.const 204) (i32.const 10000))", ..GOOD }, Costs("malformed", "")),
    ("no-replies", Module { process: "(i32.store (i32.const 204) (i32.const 0))", ..GOOD }, Costs("malformed", "answered 0 replies")),
    (
        "data-that-is-the-whole-memory",
        Module { process: "(i32.store (i32.const 196) (i32.mul (memory.size) (i32.const 65536)))", ..GOOD },
        Bears,
    ),
    (
        "emissions-without-number",
        Module {
            items: r#"(memory (export "memory") 1600)"#,
            own_memory: true,
            process: "(i32.store (i32.const 208) (i32.const 65536)) (i32.store (i32.const 212) (i32.const 1200000))",
            ..GOOD
        },
        Costs("malformed", ""),
    ),
    (
        "more-emitted-than-there-is",
        Module { process: "(i32.store (local.get $replies) (i32.const 2)) (i32.store offset=4 (local.get $replies) (i32.const -1))", ..GOOD },
        Costs("malformed", "take 4294967295 emissions"),
    ),
    (
        "a-reason-outside-the-data",
        Module { process: "(i32.store (local.get $replies) (i32.const 3)) (i32.store offset=4 (local.get $replies) (i32.const -4)) (i32.store offset=8 (local.get $replies) (i32.const 8))", ..GOOD },
        Costs("malformed", "reaches beyond data"),
    ),
    (
        "a-header-outside-the-data",
        Module { process: "(i32.store (i32.const 216) (i32.const 65536)) (i32.store (i32.const 220) (i32.const 100))", ..GOOD },
        Costs("malformed", ""),
    ),
];

/// Misdeeds of the guest `misbehave`, for poison records.
pub(crate) const DEEDS: &[(&str, Fate)] = &[
    ("panic", Costs("trap", "poisoned on purpose")),
    ("huge-panic", Costs("trap", "ääää")),
    ("stderr-then-panic", Costs("trap", "\u{fffd}\u{fffd}")),
    ("stdout-flood", Bears),
    ("stdout-without-end-of-line", Bears),
    ("pollables", Costs("trap", "")),
    ("streams", Costs("trap", "")),
    ("exit", Costs("trap", "called exit")),
    ("exit-0", Costs("trap", "called exit")),
    ("loop", Costs("deadline", "ran past")),
    ("sleep", Costs("deadline", "waited")),
    ("memory", Costs("memory", "limit")),
    ("recurse", Costs("trap", "call stack exhausted")),
    // Files, environment, arguments, input: it forwards if nothing is there.
    ("env-args-fs", Bears),
    ("reject", Costs("reject", "rejected on purpose")),
    ("value-span", Costs("malformed", "reaches beyond data")),
    ("header-utf8", Costs("malformed", "UTF-8")),
];
