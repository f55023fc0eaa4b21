//! What a guest finds around it: nothing; and what is kept of what it says: lines, cut and rated.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use wasmtime_wasi::p2::OutputStream as _;

use super::super::contract::wasmill::plugin::log::{self, Host as _};
use super::super::imports::Guest;
use super::{Stand, patient, records};
use crate::metrics::{Metrics, PluginMetrics};
use crate::plugin::grants::Grants;
use crate::plugin::limits::Limits;

/// Log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is logged while `work` runs, line by line.
pub(super) fn logged(work: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(log, work);
    let bytes = lines.0.lock().unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn no_variable_argument_folder_or_input_is_there() {
    let answers = Stand::misbehave(patient()).answers(&["env-args-fs"]);
    assert_eq!(answers.unwrap(), ["forward to 0"]);
}

#[test]
fn what_a_guest_prints_is_logged_line_by_line() {
    let stand = Stand::misbehave(patient());
    let lines = logged(|| assert_eq!(stand.answers(&["stdout"]).unwrap(), ["forward to 0"]));
    let expected = |line| format!(r#" INFO plugin: line {line} on purpose stage="under-test" fields="stream=stdout""#);
    assert_eq!(lines, [1, 2, 3].map(expected));
}

#[test]
fn lines_beyond_the_rate_are_dropped_and_counted() {
    let stand = Stand::misbehave(patient());
    let metrics = Metrics::new();
    let mut instance = stand
        .try_instance(metrics.stage("under-test").plugin("misbehave", 100))
        .unwrap();
    let start = Instant::now();
    let lines = logged(|| {
        stand.ask(&mut instance, &records(&["stdout"; 200])).unwrap();
    });
    // Each further second lets through as many again.
    let allowed = 100 * (1 + usize::try_from(start.elapsed().as_secs()).unwrap());
    assert!((100..=allowed).contains(&lines.len()), "{} lines", lines.len());
    let dropped = format!(
        r#"wasmill_plugin_log_lines_dropped_total{{stage="under-test"}} {}"#,
        600 - lines.len()
    );
    assert!(metrics.text().contains(&dropped), "{dropped}");
}

#[test]
fn a_plugin_that_traps_has_no_fresh_allowance_of_lines() {
    let stand = Stand::misbehave(patient());
    let start = Instant::now();
    let lines = logged(|| {
        for _ in 0..100 {
            stand.answers(&["stdout", "panic"]).unwrap_err();
        }
    });
    let allowed = 100 * (1 + usize::try_from(start.elapsed().as_secs()).unwrap());
    assert!((100..=allowed).contains(&lines.len()), "{} lines", lines.len());
}

#[test]
fn a_line_that_is_written_in_pieces_is_one_line() {
    let guest = Guest::new(
        "under-test",
        &patient(),
        &Grants::default(),
        Arc::default(),
        PluginMetrics::unheard(),
    )
    .unwrap();
    let [mut out, mut error] = guest.outputs();
    let lines = logged(|| {
        error.write("value ".into()).unwrap();
        out.write("first\r\n\nsec".into()).unwrap();
        error.write("7 is odd\n".into()).unwrap();
        out.write("ond".into()).unwrap();
        out.write("\u{e4}".repeat(2_000).into()).unwrap();
        guest.finish_lines();
        guest.finish_lines();
    });
    let line = |text: &str, stream| format!(r#" INFO plugin: {text} stage="under-test" fields="stream={stream}""#);
    let long = format!("second{}", "\u{e4}".repeat(509));
    assert_eq!(
        lines,
        [
            line("first", "stdout"),
            line("value 7 is odd", "stderr"),
            line(&long, "stdout")
        ]
    );
    assert_eq!(guest.last_words().unwrap(), "value 7 is odd");
}

#[test]
fn a_long_line_is_cut_between_characters() {
    let mut guest = Guest::new(
        "under-test",
        &patient(),
        &Grants::default(),
        Arc::default(),
        PluginMetrics::unheard(),
    )
    .unwrap();
    let lines = logged(|| {
        let field = ("name".to_owned(), "v".repeat(2_000));
        guest.write(log::Level::Warn, "\u{e4}".repeat(600) + "end", vec![field]);
        guest.write(log::Level::Error, "x".repeat(1_024), Vec::new());
    });
    let long = format!(
        r#" WARN plugin: {} stage="under-test" fields="name={}""#,
        "\u{e4}".repeat(512),
        "v".repeat(1_019)
    );
    assert_eq!(lines[0], long);
    assert_eq!(lines[1].matches('x').count(), 1_024);
}

#[test]
fn the_length_of_a_line_and_the_rate_are_the_stage_s_own() {
    let limits = Limits {
        log_line_bytes: 64,
        log_lines_per_second: 3,
        ..patient()
    };
    let metrics = Metrics::new();
    let counted = metrics.stage("under-test").plugin("misbehave", 0);
    let mut guest = Guest::new("under-test", &limits, &Grants::default(), Arc::default(), counted).unwrap();
    let hits = |limit: &str, hits: u32| {
        let line = format!(r#"wasmill_limit_hits_total{{stage="under-test",limit="{limit}"}} {hits}"#);
        assert!(metrics.text().contains(&line), "{line}");
    };
    let start = Instant::now();
    let mut write = |length: usize| guest.write(log::Level::Info, "x".repeat(length), Vec::new());
    let lines = logged(|| [64, 65, 64].into_iter().for_each(&mut write));
    let lengths: Vec<usize> = lines.iter().map(|line| line.matches('x').count()).collect();
    assert_eq!(lengths, [64; 3]);
    hits("log-line", 1);
    hits("log-rate", 0);
    let lines = logged(|| write(1));
    if start.elapsed().as_secs() < 1 {
        assert!(lines.is_empty(), "{lines:?}");
        hits("log-rate", 1);
    }
}

#[test]
fn a_panic_of_any_length_is_kept_in_part() {
    let mut guest = Guest::new(
        "under-test",
        &patient(),
        &Grants::default(),
        Arc::default(),
        PluginMetrics::unheard(),
    )
    .unwrap();
    guest.panicked("\u{e4}".repeat(5_000), "src/lib.rs:1:2".to_owned());
    assert_eq!(guest.last_words().unwrap(), "\u{e4}".repeat(2_048));
    guest.panicked("why".to_owned(), String::new());
    assert_eq!(guest.last_words().unwrap(), "why");
    guest.listen();
    assert_eq!(guest.last_words(), None, "the next call does not inherit it");
}

/// A guest on a thread of its own, with these limits.
fn guest_with(limits: &Limits, metrics: Arc<PluginMetrics>) -> Guest {
    Guest::new("under-test", limits, &Grants::default(), Arc::default(), metrics).unwrap()
}

#[test]
fn no_more_can_be_written_at_once_than_is_permitted() {
    let guest = guest_with(&patient(), PluginMetrics::unheard());
    let [mut out, mut error] = guest.outputs();
    let permitted = out.check_write().unwrap();
    out.write(vec![b'x'; permitted].into()).unwrap();
    let refused = error.write(vec![b'x'; permitted + 1].into()).unwrap_err();
    assert!(matches!(refused, wasmtime_wasi::p2::StreamError::Trap(_)), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("wrote 65537 bytes at once, 65536 are permitted"),
        "{refused}"
    );
}

#[test]
fn lines_beyond_the_rate_are_counted_one_by_one_without_the_blank_ones() {
    let limits = Limits {
        log_lines_per_second: 3,
        ..patient()
    };
    let metrics = Metrics::new();
    let guest = guest_with(&limits, metrics.stage("under-test").plugin("misbehave", 0));
    let start = Instant::now();
    let lines = logged(|| {
        let [mut out, _] = guest.outputs();
        out.write("1\n2\n\n3\n4\n \n\n5\nbeg".into()).unwrap();
        out.write("un\n\n7\n".into()).unwrap();
    });
    if start.elapsed().as_secs() < 1 {
        assert_eq!(lines.len(), 3);
        let dropped = r#"wasmill_plugin_log_lines_dropped_total{stage="under-test"} 4"#;
        assert!(metrics.text().contains(dropped), "{}", metrics.text());
    }
}

#[test]
fn what_a_plugin_says_is_one_line_and_steers_no_terminal() {
    let mut guest = guest_with(&patient(), PluginMetrics::unheard());
    let lines = logged(|| {
        let field = ("a\nb".to_owned(), "\u{1b}[2J\r\n INFO forged".to_owned());
        guest.write(log::Level::Info, "x\r\n INFO forged \u{1b}[31m".to_owned(), vec![field]);
        let [mut out, _] = guest.outputs();
        out.write("y\r\u{1b}]0;z\n".into()).unwrap();
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
    assert!(lines[0].contains(r"x\r\n INFO forged \u{1b}[31m"), "{lines:?}");
}
