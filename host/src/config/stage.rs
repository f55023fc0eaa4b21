//! Reads one stage.
//!
//! Values that are left out get their defaults here, and here only; the ranges are those that the
//! model's documentation names. What stages must not do to each other is checked in `relations.rs`.

use std::time::Duration;

use super::errors::{At, Location, quoted};
use super::grants;
use super::limits;
use super::model::{Batch, Guarantee, Input, PluginConfig, PluginSource, Stage, Start};
use super::outputs::{Outputs, PortOutput, Target};
use super::section::{Field, Keys, Section};
use super::values::{self, duration, integer, size};
use super::yaml::Key;
use super::{elasticsearch, faults, json, mail, webhook};

const STAGE: Keys = Keys {
    allowed: &[
        "plugin",
        "input",
        "config",
        "output",
        "outputs",
        "on-fault",
        "group",
        "workers",
        "guarantee",
        "commit-interval",
        "batch",
        "limits",
        "grants",
        "swap",
        "stamp",
    ],
    later: &["plugins", "group-by", "event-time", "window", "deterministic", "ttl"],
};
const PLUGIN: Keys = Keys {
    allowed: &["file", "sha256"],
    later: &[],
};
const INPUT: Keys = Keys {
    allowed: &["topics", "start"],
    later: &[],
};
const BATCH: Keys = Keys {
    allowed: &["records", "bytes", "wait"],
    later: &[],
};

/// The kinds of output that are no topic.
const TARGET: Keys = Keys {
    allowed: &["elasticsearch", "webhook", "smtp"],
    later: &[],
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Reads a stage whose name was checked; `app` is missing when its own name is a mistake.
pub(super) fn read(name: At<&str>, field: Field<'_>, app: Option<&str>) -> Option<Stage> {
    let field = field.scoped(format!("stage `{}`: ", name.value));
    let section = field.section(&STAGE)?;
    let meaning = "a .wasm file, {file: PATH, sha256: DIGEST}, or the folder of a plugin crate";
    let plugin = section.required("plugin", meaning).and_then(|field| plugin(&field));
    let input = section.required("input", "a topic, a list of topics, or {topics: [..], start: ..}");
    let input = input.and_then(|field| input_topics(&field, name.at));
    let config = or(section.get("config"), PluginConfig::empty(name.at), json::read);
    let outputs = outputs(&section);
    let on_fault = faults::on_fault(section.get("on-fault"), name.at, app);
    let swap = faults::swap(section.get("swap"));
    let stamp = or(section.get("stamp"), false, faults::yes_or_no);
    let group = match section.get("group") {
        Some(field) => values::name(&field, "a group"),
        None => app.map(|app| At::new(format!("{app}.{}", name.value), name.at)),
    };
    let workers = or(section.get("workers"), At::new(1, name.at), |field| {
        integer(field, 1..=256)
    });
    let guarantee = or(
        section.get("guarantee"),
        At::new(Guarantee::ExactlyOnce, name.at),
        guarantee,
    );
    let commit_interval = or(
        section.get("commit-interval"),
        At::new(Duration::from_millis(100), name.at),
        |field| duration(field, Duration::from_millis(10)..=Duration::from_secs(10)),
    );
    let batch = batch(section.get("batch"), name.at);
    let grants = grants::read(section.get("grants"));
    let limits = limits::read(section.get("limits"), name.at);
    Some(Stage {
        name: At::new(name.value.to_owned(), name.at),
        plugin: plugin?,
        input: input?,
        config: config?,
        outputs: outputs?,
        on_fault: on_fault?,
        group: group?,
        workers: workers?,
        guarantee: guarantee?,
        commit_interval: commit_interval?,
        batch: batch?,
        limits: limits?,
        grants: grants?,
        swap: swap?,
        stamp: stamp?,
    })
}

/// The value of a key, or its default when the key is not there.
pub(super) fn or<T>(field: Option<Field<'_>>, default: T, read: impl FnOnce(&Field<'_>) -> Option<T>) -> Option<T> {
    match field {
        Some(field) => read(&field),
        None => Some(default),
    }
}

/// A section that may be missing altogether.
pub(super) fn optional<'n>(field: Option<Field<'n>>, keys: &'static Keys) -> Option<Option<Section<'n>>> {
    match field {
        Some(field) => field.section(keys).map(Some),
        None => Some(None),
    }
}

/// The value of a key of such a section.
pub(super) fn get<'n>(section: &Option<Section<'n>>, key: &str) -> Option<Field<'n>> {
    section.as_ref()?.get(key)
}

fn plugin(field: &Field<'_>) -> Option<At<PluginSource>> {
    let source = if field.is_map() {
        let section = field.section(&PLUGIN)?;
        let path = section.required("file", "a .wasm file").and_then(|field| field.path());
        let sha256 = or(section.get("sha256"), None, |field| digest(field).map(Some));
        PluginSource::WasmFile {
            path: path?,
            sha256: sha256?,
        }
    } else {
        let path = field.path()?;
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("wasm") => PluginSource::WasmFile { path, sha256: None },
            _ => PluginSource::CrateFolder { path },
        }
    };
    Some(At::new(source, field.at()))
}

fn digest(field: &Field<'_>) -> Option<[u8; 32]> {
    let text = field.text()?;
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let chars = text.chars().count();
        return field.fail(format!(
            "expected 64 hexadecimal digits, found {chars} characters: {}",
            quoted(text)
        ));
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn input_topics(field: &Field<'_>, stage_at: Location) -> Option<Input> {
    let default = At::new(Start::Earliest, stage_at);
    if !field.is_map() {
        return Some(Input {
            topics: topics(field)?,
            start: default,
        });
    }
    let section = field.section(&INPUT)?;
    let topics = section
        .required("topics", "a topic or a list of topics")
        .and_then(|field| topics(&field));
    let start = or(section.get("start"), default, values::start);
    Some(Input {
        topics: topics?,
        start: start?,
    })
}

fn topics(field: &Field<'_>) -> Option<Vec<At<String>>> {
    if !field.is_list() {
        return Some(vec![values::topic(field)?]);
    }
    let items = field.list()?;
    if items.is_empty() {
        return field.fail("the list is empty; a stage reads at least one topic");
    }
    let count = items.len();
    let mut topics: Vec<At<String>> = Vec::with_capacity(count);
    for topic in items.iter().filter_map(values::topic) {
        match topics.iter().find(|known| known.value == topic.value) {
            Some(_) => field.report(topic.at, format!("topic `{}` is listed twice", topic.value)),
            None => topics.push(topic),
        }
    }
    (topics.len() == count).then_some(topics)
}

fn outputs(section: &Section<'_>) -> Option<Outputs> {
    match (section.get("output"), section.get("outputs")) {
        (Some(field), None) => target(&field).map(Outputs::Single),
        (None, Some(field)) => ports(&field),
        (Some(_), Some(field)) => section.fail_at(
            field.named_at(),
            "both `output` and `outputs` are given; `output: TOPIC` is short for `outputs: {PORT: TOPIC}`, keep one",
        ),
        (None, None) => section.missing(
            "output",
            "a topic or {elasticsearch: {index: ..}}; or `outputs: {PORT: TOPIC}`, which may be `{}` for a plugin without ports",
        ),
    }
}

fn ports(field: &Field<'_>) -> Option<Outputs> {
    if !field.is_map() {
        return field.wrong_kind("a map of ports and their topics, `{PORT: TOPIC}`");
    }
    let entries = field.entries()?;
    let count = entries.len();
    let output = |(key, field): (&Key, Field<'_>)| {
        let port = At::new(key.scalar.text.clone(), key.at);
        Some(PortOutput {
            port,
            target: target(&field)?,
        })
    };
    let ports: Vec<PortOutput> = entries.into_iter().filter_map(output).collect();
    (ports.len() == count).then_some(Outputs::ByPort(ports))
}

/// Where a port leads.
fn target(field: &Field<'_>) -> Option<Target> {
    if !field.is_map() {
        return values::topic(field).map(Target::Topic);
    }
    let entries = field.entries()?;
    let known = |name: &str| TARGET.allowed.contains(&name) || TARGET.later.contains(&name);
    // `{PORT: TOPIC}` was meant for `outputs`.
    if entries
        .iter()
        .all(|(key, field)| !field.is_map() && !known(&key.scalar.text))
    {
        return field
            .wrong_kind("a topic or {elasticsearch: {index: ..}} (`outputs: {PORT: TOPIC}` gives each port its own)");
    }
    let section = field.section(&TARGET)?;
    if entries.len() > 1 {
        return field.fail("a port leads to one place; keep one of them");
    }
    if let Some(output) = section.get("webhook") {
        return Some(Target::Webhook(Box::new(webhook::output(&output)?)));
    }
    if let Some(output) = section.get("smtp") {
        return Some(Target::Smtp(Box::new(mail::output(&output)?)));
    }
    let output = elasticsearch::output(&section.get("elasticsearch")?)?;
    Some(Target::Elasticsearch(Box::new(output)))
}

fn guarantee(field: &Field<'_>) -> Option<At<Guarantee>> {
    let guarantee = match values::word(field, &["exactly-once", "at-least-once"])? {
        "at-least-once" => Guarantee::AtLeastOnce,
        _ => Guarantee::ExactlyOnce,
    };
    Some(At::new(guarantee, field.at()))
}

fn batch(field: Option<Field<'_>>, stage_at: Location) -> Option<Batch> {
    let section = optional(field, &BATCH)?;
    let records = or(get(&section, "records"), At::new(500, stage_at), |field| {
        integer(field, 1..=10_000)
    });
    let bytes = or(get(&section, "bytes"), At::new(128 * KIB, stage_at), |field| {
        size(field, KIB..=16 * MIB)
    });
    let wait = or(
        get(&section, "wait"),
        At::new(Duration::from_millis(5), stage_at),
        |field| duration(field, Duration::ZERO..=Duration::from_secs(1)),
    );
    Some(Batch {
        records: records?,
        bytes: bytes?,
        wait: wait?,
    })
}
