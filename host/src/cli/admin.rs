//! `wasmill status`, `stage` and `plugin`: asks a running process by its admin listener, and shows the answer.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use crate::config::{Broker, Secret};
use crate::printable::one_line;
use crate::swap::short;

/// Compiling a large component takes many seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// A worker finishes its call and its commit before it ends.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(90);

/// Which process is asked.
#[derive(Args)]
pub(super) struct Target {
    /// The pipeline file of the running process; its `admin` section says where it listens and with which token.
    pipeline: PathBuf,
    /// Another address than the file says, as HOST:PORT.
    #[arg(long)]
    admin: Option<String>,
    /// Answer with JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `status`.
#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
}

/// What is done with stages.
#[derive(Subcommand)]
pub(super) enum StageCommand {
    /// Lists the stages of a running process.
    Ls {
        #[command(flatten)]
        target: Target,
    },
    /// Stops the workers of a stage in this process, also over restarts; nothing is lost, its records wait.
    Pause {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
    },
    /// Lets a stage go on that is paused or has stopped.
    Resume {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
    },
}

/// What is done with plugins.
#[derive(Subcommand)]
pub(super) enum PluginCommand {
    /// Lists which version of which plugin runs where.
    Ls {
        #[command(flatten)]
        target: Target,
    },
    /// Shows which versions a stage ran and which were refused, the latest last.
    History {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
    },
    /// Swaps the plugin of a stage while it runs, and says whether it was taken.
    Swap {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
        /// The component; the stage's own plugin file is read again if not given.
        file: Option<PathBuf>,
    },
    /// Goes back to a version that ran before.
    Rollback {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
        /// The version's digest or how it begins; the one before if not given.
        #[arg(long)]
        to: Option<String>,
    },
}

pub(super) fn status(arguments: &Status) -> Result<()> {
    let target = &arguments.target;
    let status = Client::new(target)?.get("/status")?;
    if target.json {
        return print_json(&status);
    }
    let mut out = std::io::stdout().lock();
    let ready = match status["ready"].as_bool() {
        Some(true) => "ready",
        _ => "not ready",
    };
    let (app, instance, version) = (
        text(&status["app"]),
        text(&status["instance"]),
        text(&status["version"]),
    );
    writeln!(out, "{app} (instance {instance}, wasmill {version}): {ready}")?;
    writeln!(out, "{}", stages_table(&status).trim_fmt())?;
    let ingest = &status["ingest"];
    if !ingest.is_null() {
        let why = words(&ingest["error"]).map_or_else(String::new, |why| format!(": {why}"));
        let (listen, state) = (text(&ingest["listen"]), text(&ingest["state"]));
        let in_flight = &ingest["requests_in_flight"];
        writeln!(out, "ingest at {listen}: {state}, {in_flight} requests in flight{why}")?;
    }
    for pending in status["pending"].as_array().into_iter().flatten() {
        writeln!(out, "pipeline file: {} (restart, or see the log)", text(pending))?;
    }
    Ok(())
}

pub(super) fn stage(command: &StageCommand) -> Result<()> {
    match command {
        StageCommand::Ls { target } => list(target, stages_table),
        StageCommand::Pause { target, stage } => {
            let client = Client::new(target)?;
            client.post(&format!("/stages/{stage}/pause"), &[])?;
            follow(&client, target, stage, |state| state == "paused" || state == "stopped")
        }
        StageCommand::Resume { target, stage } => {
            let client = Client::new(target)?;
            client.post(&format!("/stages/{stage}/resume"), &[])?;
            follow(&client, target, stage, |state| state == "running" || state == "stopped")
        }
    }
}

/// Waits until the stage is where it was sent, and says so.
fn follow(client: &Client, target: &Target, stage: &str, arrived: impl Fn(&str) -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let status = client.get("/status")?;
        let found = status["stages"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|found| found["name"] == stage)
            .context("the process does not know the stage any more")?;
        let state = text(&found["state"]);
        if arrived(&state) {
            if target.json {
                print_json(found)?;
            } else {
                println!("stage `{stage}` is {state}");
            }
            return match found["error"].as_str() {
                Some(error) => Err(anyhow!("stage `{stage}` has stopped: {error}")),
                None => Ok(()),
            };
        }
        if began.elapsed() > PAUSE_TIMEOUT {
            bail!("stage `{stage}` is still {state} after {} s", PAUSE_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(super) fn plugin(command: &PluginCommand) -> Result<()> {
    match command {
        PluginCommand::Ls { target } => list(target, plugins_table),
        PluginCommand::History { target, stage } => {
            let history = Client::new(target)?.get(&format!("/plugins/{stage}/history"))?;
            if target.json {
                return print_json(&history);
            }
            println!("{}", history_table(&history).trim_fmt());
            Ok(())
        }
        PluginCommand::Swap { target, stage, file } => {
            let bytes = match file {
                Some(file) => std::fs::read(file).with_context(|| format!("read {}", file.display()))?,
                None => Vec::new(),
            };
            if file.is_some() && bytes.is_empty() {
                bail!("the file is empty; a plugin is a component, built with `--target wasm32-wasip2`");
            }
            let report = Client::new(target)?.post(&format!("/plugins/{stage}/swap"), &bytes)?;
            told(target, stage, &report)
        }
        PluginCommand::Rollback { target, stage, to } => {
            let query = to.as_ref().map(|to| format!("?to={to}")).unwrap_or_default();
            let report = Client::new(target)?.post(&format!("/plugins/{stage}/rollback{query}"), &[])?;
            told(target, stage, &report)
        }
    }
}

fn told(target: &Target, stage: &str, report: &Value) -> Result<()> {
    if target.json {
        return print_json(report);
    }
    let (name, version) = (text(&report["name"]), text(&report["version"]));
    println!(
        "stage `{stage}` runs {name} {version}, sha256 {}",
        text(&report["digest"])
    );
    Ok(())
}

fn list(target: &Target, table: impl Fn(&Value) -> Table) -> Result<()> {
    let status = Client::new(target)?.get("/status")?;
    if target.json {
        return print_json(&status["stages"]);
    }
    println!("{}", table(&status).trim_fmt());
    Ok(())
}

fn print_json(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// A text for a terminal: some of them are a plugin's words.
fn text(value: &Value) -> String {
    one_line(value.as_str().unwrap_or("-"))
}

/// The same where there may be none.
fn words(value: &Value) -> Option<String> {
    value.as_str().map(one_line)
}

fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(titles);
    table
}

fn stages(status: &Value) -> impl Iterator<Item = &Value> {
    status["stages"].as_array().into_iter().flatten()
}

fn stages_table(status: &Value) -> Table {
    let mut table = table(&["STAGE", "STATE", "PLUGIN", "VERSION", "PARTITIONS", "LAG", "WHY"]);
    for stage in stages(status) {
        let workers = stage["workers"].as_array().into_iter().flatten();
        let partitions: usize = workers
            .flat_map(|worker| worker["partitions"].as_object().into_iter().flatten())
            .map(|(_, partitions)| partitions.as_array().map_or(0, Vec::len))
            .sum();
        let why = words(&stage["error"]);
        let refused = words(&stage["refused"]).map(|reason| format!("plugin refused: {reason}"));
        table.add_row([
            text(&stage["name"]),
            text(&stage["state"]),
            text(&stage["plugin"]["name"]),
            text(&stage["plugin"]["version"]),
            partitions.to_string(),
            stage["lag_records"]
                .as_i64()
                .map_or("-".to_owned(), |lag| lag.to_string()),
            why.or(refused).unwrap_or_default(),
        ]);
    }
    table
}

fn plugins_table(status: &Value) -> Table {
    let mut table = table(&["STAGE", "PLUGIN", "VERSION", "DIGEST", "WORKERS", "FILE", "REFUSED"]);
    for stage in stages(status) {
        let plugin = &stage["plugin"];
        let digest = text(&plugin["digest"]);
        let workers: Vec<&Value> = stage["workers"].as_array().into_iter().flatten().collect();
        let on_it = workers
            .iter()
            .filter(|worker| worker["digest"] == plugin["digest"])
            .count();
        table.add_row([
            text(&stage["name"]),
            text(&plugin["name"]),
            text(&plugin["version"]),
            short(&digest).to_owned(),
            format!("{on_it} of {}", workers.len()),
            text(&plugin["file"]),
            words(&stage["refused"]).unwrap_or_default(),
        ]);
    }
    table
}

fn history_table(history: &Value) -> Table {
    let mut table = table(&["AT", "CHANGE", "BY", "FROM", "TO", "PLUGIN", "REASON"]);
    for event in history.as_array().into_iter().flatten() {
        let digest = |key: &str| short(&text(&event[key])).to_owned();
        table.add_row([
            text(&event["at"]),
            text(&event["change"]),
            text(&event["by"]),
            digest("from"),
            digest("digest"),
            text(&event["plugin"]),
            words(&event["reason"]).unwrap_or_default(),
        ]);
    }
    table
}

/// Talks to one admin listener.
struct Client {
    agent: ureq::Agent,
    address: String,
    token: Option<Secret>,
}

impl Client {
    fn new(target: &Target) -> Result<Self> {
        let pipeline = super::load(&target.pipeline, Broker::Embedded)?;
        let admin = pipeline.admin.as_ref();
        let address = match (&target.admin, admin) {
            (Some(address), _) => address.clone(),
            (None, Some(admin)) => reachable(admin.listen.value).to_string(),
            (None, None) => bail!(
                "{} has no `admin` section, so its process listens nowhere; add `admin: {{token: {{file: PATH}}}}` and restart it",
                target.pipeline.display()
            ),
        };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_TIMEOUT))
            // The body of a refusal says why.
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Ok(Self {
            agent: config.into(),
            address,
            token: admin.and_then(|admin| Some(admin.token.as_ref()?.value.clone())),
        })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut request = self.agent.get(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", token.expose()));
        }
        self.answer(request.call())
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Value> {
        let mut request = self.agent.post(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", token.expose()));
        }
        self.answer(request.content_type("application/wasm").send(body))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn answer(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
        let mut answer = answer.with_context(|| {
            format!(
                "no process answers at {}; does `wasmill run` run there, with this pipeline file?",
                self.address
            )
        })?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(64 * 1024 * 1024)
            .read_to_string()
            .context("read the answer")?;
        let json: Option<Value> = serde_json::from_str(&body).ok();
        if status.is_success() {
            return json.context("the answer is no JSON; does something else listen there?");
        }
        let words = json.and_then(|json| Some(json["error"].as_str()?.to_owned()));
        Err(anyhow!(words.unwrap_or_else(|| body.trim().to_owned())))
    }
}

/// An address that listens on all interfaces is reached by the machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(address, listen.port())
}
