//! `wasmill inspect`: what a plugin file is, and whether this host would run it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use crate::config;
use crate::plugin::contract::{Description, Parts, PortKind};
use crate::plugin::inspect::{self, FileKind, Report};
use crate::plugin::runtime::Runtime;

/// The arguments.
#[derive(Args)]
pub(super) struct Inspect {
    /// The plugin file.
    file: PathBuf,
    /// One JSON object, for programs.
    #[arg(long)]
    json: bool,
}

/// Prints what there is to say of the file.
///
/// # Errors
/// When the file cannot be read, or this host would not run it.
pub(super) fn inspect(arguments: &Inspect) -> Result<()> {
    let runtime = Runtime::new()?;
    let usual = config::Limits::usual(config::Location { line: 1, column: 1 });
    let report = inspect::inspect(&runtime, &arguments.file, &usual)
        .with_context(|| format!("inspect {}", arguments.file.display()))?;
    let text = if arguments.json {
        format!("{:#}\n", as_json(&report))
    } else {
        as_text(&report)
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    match report.refusal {
        Some(refusal) => bail!("this host would not run {}: {refusal}", arguments.file.display()),
        None => Ok(()),
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Component => "component",
        FileKind::CoreModule => "core module",
        FileKind::Other => "not WebAssembly",
    }
}

fn port_kind_name(kind: PortKind) -> &'static str {
    match kind {
        PortKind::Message => "message",
        PortKind::Document => "document",
    }
}

/// What the plugin reads of a record.
fn read_parts(parts: Parts) -> Vec<&'static str> {
    let all = [
        (Parts::KEY, "key"),
        (Parts::VALUE, "value"),
        (Parts::HEADERS, "headers"),
    ];
    let read = all.into_iter().filter(|(part, _)| parts.contains(*part));
    read.map(|(_, name)| name).collect()
}

fn as_text(report: &Report) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &'static str, value: String| lines.push((name, value));
    let size = ByteSize(report.bytes as u64);
    line("size", format!("{} bytes ({size})", report.bytes));
    line("sha256", report.sha256.clone());
    line("kind", kind_name(report.kind).to_owned());
    if report.kind == FileKind::Component {
        let implements = report.implements.clone();
        let nothing = "no interface of wasmill:plugin";
        line("implements", implements.unwrap_or_else(|| nothing.to_owned()));
        line("optional", or_none(&report.optional));
    }
    if let Some(description) = &report.description {
        described(description, &mut line);
    }
    if report.kind == FileKind::Component {
        line("exports", or_none(&report.exports));
        line("imports", or_none(&report.imports));
        for (import, grant) in report.fillable() {
            line("empty unless granted", format!("{import}: `{grant}`"));
        }
        if report.needs.is_empty() {
            line("needs", "nothing beyond the base set".to_owned());
        }
        for need in &report.needs {
            line("needs", format!("{}: {}", need.import, need.grant));
        }
    }
    let verdict = report
        .refusal
        .as_ref()
        .map_or("yes".to_owned(), |refusal| format!("no: {refusal}"));
    line("this host runs it", verdict);
    laid_out(&lines)
}

fn described(description: &Description, line: &mut impl FnMut(&'static str, String)) {
    line("plugin", format!("{} {}", description.name, description.version));
    let ports: Vec<String> = description
        .ports
        .iter()
        .map(|port| format!("{} ({})", port.name, port_kind_name(port.kind)))
        .collect();
    line("ports", or_none(&ports));
    let read: Vec<String> = read_parts(description.reads).into_iter().map(str::to_owned).collect();
    line("reads", or_none(&read));
    line("state version", description.state_version.to_string());
    for (name, value) in &description.attributes {
        line("attribute", format!("{name}: {value}"));
    }
    let schema = match serde_json::from_str::<Value>(&description.config_schema) {
        Ok(schema) => format!("{schema:#}"),
        Err(_) if description.config_schema.trim().is_empty() => "any object".to_owned(),
        Err(_) => description.config_schema.clone(),
    };
    line("config schema", schema);
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join("\n")
    }
}

/// Two columns; a name that stands above already is not repeated.
fn laid_out(lines: &[(&'static str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut above = "";
    for (name, value) in lines {
        let mut shown = if *name == above { "" } else { name };
        above = name;
        for piece in value.lines() {
            // Writing to a string cannot fail. What a plugin says of itself must not steer a terminal.
            let _ = writeln!(text, "{shown:width$}  {}", spelt_out(piece));
            shown = "";
        }
    }
    text
}

/// A text with its control characters spelt out.
fn spelt_out(text: &str) -> String {
    let spell = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(spell).collect()
}

fn as_json(report: &Report) -> Value {
    let needs: Vec<Value> = report
        .needs
        .iter()
        .map(|need| json!({"import": need.import, "grant": need.grant}))
        .collect();
    json!({
        "bytes": report.bytes,
        "sha256": report.sha256,
        "kind": kind_name(report.kind),
        "implements": report.implements,
        "optional": report.optional,
        "exports": report.exports,
        "imports": report.imports,
        "needs": needs,
        "plugin": report.description.as_ref().map(plugin_json),
        "runs": report.refusal.is_none(),
        "refusal": report.refusal,
    })
}

fn plugin_json(description: &Description) -> Value {
    let port = |port: &crate::plugin::contract::Port| json!({"name": port.name, "kind": port_kind_name(port.kind)});
    let ports: Vec<Value> = description.ports.iter().map(port).collect();
    let schema = serde_json::from_str::<Value>(&description.config_schema).ok();
    let attribute = |(name, value): &(String, String)| json!({"name": name, "value": value});
    let attributes: Vec<Value> = description.attributes.iter().map(attribute).collect();
    json!({
        "name": description.name,
        "version": description.version,
        "ports": ports,
        "reads": read_parts(description.reads),
        "state_version": description.state_version,
        "config_schema": schema,
        "attributes": attributes,
    })
}
