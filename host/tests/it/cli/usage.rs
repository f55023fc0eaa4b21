//! `--help`, `--version`, and arguments that are none.

use crate::program::{Place, Ran};

#[test]
fn help_tells_what_there_is() {
    let place = Place::new();
    let mut told = String::new();
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["dev", "--help"],
        &["check", "--help"],
        &["build", "--help"],
        &["inspect", "--help"],
        &["status", "--help"],
        &["stage", "--help"],
        &["stage", "pause", "--help"],
        &["plugin", "--help"],
        &["plugin", "swap", "--help"],
        &["plugin", "rollback", "--help"],
        &["dlq", "--help"],
        &["dlq", "ls", "--help"],
        &["dlq", "show", "--help"],
        &["dlq", "replay", "--help"],
        &["dlq", "test", "--help"],
    ] {
        let Ran { stdout, stderr, .. } = place.run(arguments).exits(0);
        assert_eq!(stderr, "");
        // The library that prints it leaves spaces in empty lines.
        let lines: String = stdout.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        told.push_str(&format!("$ wasmill {}\n{lines}\n", arguments.join(" ")));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(told) });
}

#[test]
fn the_version_is_that_of_the_package() {
    let ran = Place::new().run(&["--version"]).exits(0);
    assert_eq!(ran.stdout, concat!("wasmill ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn bad_usage_is_answered_with_what_is_allowed() {
    let place = Place::new();
    let mut told = String::new();
    for arguments in [
        &["rum", "pipeline.yaml"][..],
        &["run"],
        &["run", "a.yaml", "b.yaml"],
        &["run", "a.yaml", "--until-cought-up"],
        &["run", "a.yaml", "--shutdown-deadline", "5"],
        &["dev", "a.yaml", "--show", "many"],
        &["build"],
        &["check", "a.yaml", "--log-format", "xml"],
        &["dlq", "ls", "a.yaml", "--kind", "trip"],
        &["dlq", "show", "a.yaml", "17"],
        &["dlq", "replay", "a.yaml", "--since", "yesterday"],
        &["dlq", "test", "a.yaml"],
    ] {
        let Ran { stdout, stderr, .. } = place.run(arguments).exits(2);
        assert_eq!(stdout, "");
        told.push_str(&format!("$ wasmill {}\n{stderr}\n", arguments.join(" ")));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(told) });
}

#[test]
fn no_arguments_show_the_help_and_fail() {
    let ran = Place::new().run(&[]).exits(2);
    assert!(
        ran.stderr.contains("Usage: wasmill [OPTIONS] <COMMAND>"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_pipeline_file_that_is_not_there_is_a_mistake_of_configuration() {
    let place = Place::new();
    for command in ["run", "dev", "check", "build"] {
        let ran = place.run(&[command, "no-such.yaml"]).exits(2);
        assert_eq!(
            ran.stderr, "error: no-such.yaml: cannot be read: No such file or directory (os error 2)\n",
            "{command}"
        );
    }
}
