//! The command line: reads arguments, calls what does the work, and turns its outcome into words and an exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 bad usage or bad configuration. Results go to standard output, everything else to standard error.

mod admin;
mod dlq;
mod inspect;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::alerts;
use crate::config::{self, Broker, ConfigError, ConfigErrors, Pipeline, PluginSource};
use crate::dev::{self, Wishes};
use crate::dlq::Usage;
use crate::elasticsearch::probe;
use crate::external::Clients;
use crate::kafka::embedded::Embedded;
use crate::pipeline::{self, Options, Signals};
use crate::plugin::runtime::Runtime;
use crate::printable::printable;
use crate::swap::store::Store;
use crate::{build, prepare, topics};

/// Runs WebAssembly plugins over Kafka streams, exactly once.
#[derive(Parser)]
#[command(name = "wasmill", version, about, long_about = None)]
struct Cli {
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "WASMILL_LOG_FORMAT")]
    log_format: LogFormat,
    /// Which log lines are written, as in `info` or `warn,plugin=debug`; `info` if not given, for `dev` and `dlq` `warn`.
    #[arg(long, global = true, env = "WASMILL_LOG", value_parser = log_filter)]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a pipeline on a Kafka until it is stopped.
    Run(Run),
    /// Runs a pipeline on an embedded broker with the records of `input.jsonl`, and shows what comes out.
    Dev(Dev),
    /// Proves that a pipeline file is right and its plugins fit, without running anything.
    Check(Check),
    /// Builds plugin crates and prints where the components are.
    Build(Build),
    /// Says what a plugin file is, what it would need, and whether this host would run it.
    Inspect(inspect::Inspect),
    /// Shows how a running process is.
    Status(admin::Status),
    /// Lists, pauses and resumes the stages of a running process.
    #[command(subcommand)]
    Stage(admin::StageCommand),
    /// Lists, swaps and rolls back the plugins of a running process.
    #[command(subcommand)]
    Plugin(admin::PluginCommand),
    /// Lists, shows, replays and tries dead letters.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
}

#[derive(Args)]
struct Run {
    /// The pipeline file.
    pipeline: PathBuf,
    /// End when every input is read to its end and all is committed.
    #[arg(long)]
    until_caught_up: bool,
    /// How long workers may take to finish on SIGTERM or SIGINT.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    shutdown_deadline: Duration,
}

#[derive(Args)]
struct Dev {
    /// The pipeline file.
    pipeline: PathBuf,
    /// The records to feed; `input.jsonl` beside the pipeline file if not given.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Write documents to the Elasticsearch of the pipeline file; to memory if not given.
    #[arg(long)]
    elasticsearch: bool,
    /// How many records of each output are shown.
    #[arg(long, default_value_t = 5)]
    show: usize,
}

#[derive(Args)]
struct Check {
    /// The pipeline file.
    pipeline: PathBuf,
    /// Also ask the brokers for the topics and the rights to use them, Elasticsearch for the indices, the mail server for the login.
    #[arg(long)]
    connect: bool,
}

#[derive(Args)]
struct Build {
    /// Folders of plugin crates, or pipeline files whose crates are built.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli);
    let outcome = match &cli.command {
        Command::Run(arguments) => run(arguments),
        Command::Dev(arguments) => dev(arguments),
        Command::Check(arguments) => check(arguments),
        Command::Build(arguments) => build(arguments),
        Command::Inspect(arguments) => inspect::inspect(arguments),
        Command::Status(arguments) => admin::status(arguments),
        Command::Stage(command) => admin::stage(command),
        Command::Plugin(command) => admin::plugin(command),
        Command::Dlq(command) => dlq::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let configuration = error
                .chain()
                .any(|cause| cause.is::<ConfigErrors>() || cause.is::<Usage>());
            eprintln!("error: {}", printable(&format!("{error:#}")));
            ExitCode::from(if configuration { 2 } else { 1 })
        }
    }
}

/// Takes what the log library takes, so that a misspelt level is bad usage and not silence.
fn log_filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned())
}

fn start_log(cli: &Cli) {
    let usual = if matches!(cli.command, Command::Dev(_) | Command::Dlq(_)) {
        "warn"
    } else {
        "info"
    };
    let filter = EnvFilter::builder().parse_lossy(cli.log.as_deref().unwrap_or(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn load(path: &Path, broker: Broker) -> Result<Pipeline> {
    let environment = |name: &str| std::env::var(name).ok();
    Ok(config::load(path, &environment, broker)?)
}

fn asynchronously<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    finish(async_runtime()?, work)
}

fn async_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")
}

fn finish<T>(runtime: tokio::runtime::Runtime, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = runtime.block_on(work);
    // A blocking call that never returns, a stuck client for one, must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

fn run(arguments: &Run) -> Result<()> {
    let async_runtime = async_runtime()?;
    let signals = {
        let _inside = async_runtime.enter();
        Signals::new()?
    };
    let pipeline = load(&arguments.pipeline, Broker::Configured)?;
    raise_file_limit();
    let runtime = Arc::new(Runtime::new()?);
    let instance = pipeline.instance.as_ref().map(|instance| instance.as_str());
    let store = Store::open(&pipeline.state_dir, &pipeline.app, instance).map_err(|error| {
        let mistake = ConfigError::at(pipeline.state_dir.at, format!("`state.dir`: {error:#}"));
        ConfigErrors::one(&pipeline.file, mistake)
    })?;
    let stages = prepare::stages(&pipeline, &runtime, Some(&store))?;
    let options = Options {
        until_caught_up: arguments.until_caught_up,
        embedded: false,
        clients: Clients::new(&pipeline)?,
        shutdown_deadline: arguments.shutdown_deadline,
        store: Some(Arc::new(store)),
    };
    finish(async_runtime, pipeline::run(&pipeline, stages, &options, signals))
}

/// Takes as many file descriptors as the process may have: each client and each file that a plugin opens is one, and the usual 1,024 are few.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn dev(arguments: &Dev) -> Result<()> {
    let mut pipeline = load(&arguments.pipeline, Broker::Embedded)?;
    if arguments.elasticsearch && pipeline.elasticsearch.is_none() {
        return Err(Usage("`--elasticsearch` needs `elasticsearch: {url: ..}` in the pipeline file".to_owned()).into());
    }
    let wishes = Wishes {
        input: arguments.input.clone(),
        elasticsearch: arguments.elasticsearch,
        show: arguments.show,
    };
    println!("{}", dev::banner());
    let records = dev::read_input(&pipeline, &wishes)?;
    let runtime = Arc::new(Runtime::new()?);
    let stages_of = |pipeline: &Pipeline| prepare::stages(pipeline, &runtime, None);
    let broker = Embedded::start()?;
    dev::create_topics(&pipeline, &broker)?;
    dev::adapt(&mut pipeline, &broker);
    let stages = stages_of(&pipeline)?;
    asynchronously(dev::run(
        &pipeline,
        stages,
        broker,
        records,
        &wishes,
        &mut std::io::stdout().lock(),
    ))
}

fn check(arguments: &Check) -> Result<()> {
    let pipeline = load(&arguments.pipeline, Broker::Configured)?;
    let runtime = Arc::new(Runtime::new()?);
    let stages = prepare::stages(&pipeline, &runtime, None)?;
    let mut out = std::io::stdout().lock();
    for ready in &stages {
        let plugin = &ready.prepared.plugin;
        let description = &plugin.description;
        writeln!(
            out,
            "stage `{}`: plugin {} {} ({}), sha256 {}",
            ready.place.stage.name.value,
            description.name,
            description.version,
            ready
                .origin
                .file
                .as_ref()
                .map_or_else(String::new, |file| file.display().to_string()),
            plugin.digest
        )?;
    }
    if arguments.connect {
        let proof = asynchronously(topics::prove(&pipeline))?;
        for (topic, partitions) in &proof.partitions {
            writeln!(out, "topic `{topic}`: {partitions} partitions")?;
        }
        for note in &proof.notes {
            writeln!(out, "note: {note}")?;
        }
        for line in asynchronously(probe::check(&pipeline, now_ms()))? {
            writeln!(out, "{line}")?;
        }
        if let Some(section) = &pipeline.smtp {
            asynchronously(alerts::prove(section))?;
            writeln!(out, "mail server {}:{}: ok", section.host, section.port)?;
        }
    }
    writeln!(out, "{}: ok", pipeline.file.display())?;
    Ok(())
}

/// For the names of indices that are made of a time.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn build(arguments: &Build) -> Result<()> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for path in &arguments.paths {
        if path.is_dir() {
            folders.push(path.clone());
            continue;
        }
        for stage in load(path, Broker::Embedded)?.stages {
            if let PluginSource::CrateFolder { path } = stage.plugin.value {
                folders.push(path);
            }
        }
    }
    for folder in folders {
        let component = build::plugin_crate(&folder)?;
        let size = std::fs::metadata(&component).context("look at the component")?.len();
        println!("{} ({})", component.display(), bytesize::ByteSize(size));
    }
    Ok(())
}
