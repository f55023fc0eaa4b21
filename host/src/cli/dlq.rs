//! The arguments of `wasmill dlq`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use clap::{Args, Subcommand};

use crate::config::Broker;
use crate::dlq::filter::Filter;
use crate::dlq::{list, replay, show, trial};
use crate::fault::Kind;

#[derive(Subcommand)]
pub(super) enum Dlq {
    /// Lists dead letters.
    Ls(Ls),
    /// Shows one dead letter with its record.
    Show(Show),
    /// Gives the records of dead letters to their stage again.
    Replay(Replay),
    /// Runs the records of dead letters on a plugin file and says what would become of them.
    Test(Test),
}

/// Which letters are meant; all conditions have to hold.
#[derive(Args)]
struct Which {
    /// The pipeline file.
    pipeline: PathBuf,
    /// Only the letters at these positions of the dead-letter topic.
    #[arg(value_name = "PARTITION:OFFSET", value_parser = position)]
    positions: Vec<(i32, i64)>,
    #[command(flatten)]
    filter: Narrow,
}

#[derive(Args)]
struct Narrow {
    /// Only letters of this stage.
    #[arg(long)]
    stage: Option<String>,
    /// Only letters in this topic, where the pipeline has several dead-letter topics.
    #[arg(long)]
    topic: Option<String>,
    /// Only letters of this kind; can be given several times.
    #[arg(long = "kind", value_parser = kinds())]
    kinds: Vec<Kind>,
    /// Only letters made since: a moment as in 2024-05-01T00:00:00Z, or an age as in 2h.
    #[arg(long, value_parser = moment)]
    since: Option<SystemTime>,
    /// Only letters made until: as --since.
    #[arg(long, value_parser = moment)]
    until: Option<SystemTime>,
    /// Only letters of the plugin file whose SHA-256 begins so.
    #[arg(long, value_name = "PREFIX")]
    digest: Option<String>,
    /// At most so many letters.
    #[arg(long)]
    limit: Option<u64>,
}

#[derive(Args)]
pub(super) struct Ls {
    #[command(flatten)]
    which: Which,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Show {
    /// The pipeline file.
    pipeline: PathBuf,
    /// The letter's position in the dead-letter topic.
    #[arg(value_name = "PARTITION:OFFSET", value_parser = position)]
    position: (i32, i64),
    /// The dead-letter topic, where the pipeline has several.
    #[arg(long)]
    topic: Option<String>,
    /// Cut nothing; without it 4 KiB of each part are shown.
    #[arg(long)]
    full: bool,
    /// Write the value's bytes to this file.
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// One JSON object with everything.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Replay {
    #[command(flatten)]
    which: Which,
    /// Also letters that were replayed before.
    #[arg(long)]
    again: bool,
    /// Only say what would be replayed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub(super) struct Test {
    #[command(flatten)]
    which: Which,
    /// The plugin file; the stage's own is not looked at.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

fn kinds() -> impl clap::builder::TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::as_str)).try_map(|text| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or("no such kind")
    })
}

fn position(text: &str) -> Result<(i32, i64), String> {
    let numbers = text
        .split_once(':')
        .and_then(|(partition, offset)| Some((partition.parse::<u32>().ok()?, offset.parse::<u64>().ok()?)));
    let numbers = numbers.and_then(|(partition, offset)| {
        Some((
            i32::try_from(partition).ok()?,
            i64::try_from(offset).ok().filter(|offset| *offset < i64::MAX)?,
        ))
    });
    numbers.ok_or_else(|| "wanted PARTITION:OFFSET, as in 0:17".to_owned())
}

/// A moment, or an age that is subtracted from now.
fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(moment) = humantime::parse_rfc3339_weak(text) {
        return Ok(moment);
    }
    let age = humantime::parse_duration(text)
        .map_err(|_| "wanted a moment as in 2024-05-01T00:00:00Z, or an age as in 2h".to_owned())?;
    SystemTime::now()
        .checked_sub(age)
        .ok_or_else(|| "that is before the beginning of time".to_owned())
}

impl Which {
    fn filter(&self) -> Filter {
        let Narrow {
            stage,
            topic,
            kinds,
            since,
            until,
            digest,
            limit,
        } = &self.filter;
        Filter {
            stage: stage.clone(),
            topic: topic.clone(),
            kinds: kinds.clone(),
            since: *since,
            until: *until,
            digest: digest.clone(),
            limit: *limit,
            positions: self.positions.clone(),
        }
    }
}

pub(super) fn run(command: &Dlq) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let done = dispatch(command, &mut out).and_then(|()| Ok(out.flush()?));
    // Whoever reads the list may have seen enough.
    let broken_pipe = |error: &anyhow::Error| {
        let io = error.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    };
    match (command, done) {
        (Dlq::Ls(_) | Dlq::Show(_), Err(error)) if broken_pipe(&error) => Ok(()),
        (_, done) => done,
    }
}

fn dispatch(command: &Dlq, out: &mut impl std::io::Write) -> Result<()> {
    let load = |path| super::load(path, Broker::Configured);
    match command {
        Dlq::Ls(arguments) => {
            let pipeline = load(&arguments.which.pipeline)?;
            list::run(&pipeline, &arguments.which.filter(), arguments.json, out)
        }
        Dlq::Show(arguments) => {
            let filter = Filter {
                topic: arguments.topic.clone(),
                positions: vec![arguments.position],
                ..Filter::default()
            };
            let wishes = show::Wishes {
                json: arguments.json,
                full: arguments.full,
                raw: arguments.raw.clone(),
            };
            show::run(&load(&arguments.pipeline)?, &filter, &wishes, out)
        }
        Dlq::Replay(arguments) => {
            let pipeline = load(&arguments.which.pipeline)?;
            let wishes = replay::Wishes {
                again: arguments.again,
                dry_run: arguments.dry_run,
                yes: arguments.yes,
            };
            replay::run(&pipeline, &arguments.which.filter(), &wishes, out)
        }
        Dlq::Test(arguments) => {
            let pipeline = load(&arguments.which.pipeline)?;
            let filter = arguments.which.filter();
            trial::run(&pipeline, &filter, &arguments.plugin, arguments.json, out)
        }
    }
}
