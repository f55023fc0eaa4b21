//! Reads the file as a whole: its top-level keys, and the stages one by one.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use super::errors::{At, quoted};
use super::model::{Admin, NewTopic, Pipeline, Shape, Stage, Topics};
use super::section::{Field, Keys, Section};
use super::values::{self, integer};
use super::yaml::Key;
use super::{Broker, elasticsearch, kafka, mail, relations, secret, stage};

const PIPELINE: Keys = Keys {
    allowed: &[
        "app",
        "instance",
        "kafka",
        "elasticsearch",
        "smtp",
        "admin",
        "topics",
        "state",
        "stages",
    ],
    later: &["ingest", "trust", "tables"],
};
const ADMIN: Keys = Keys {
    allowed: &["listen", "token"],
    later: &[],
};
const STATE: Keys = Keys {
    allowed: &["dir"],
    later: &[],
};
const TOPICS: Keys = Keys {
    allowed: &["create"],
    later: &[],
};
const CREATE: Keys = Keys {
    allowed: &["partitions", "replication", "config"],
    later: &[],
};

/// Nobody outside of the machine reaches it.
const ADMIN_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9180));

/// Reads the pipeline. It is only whole when no mistake was reported to the field's context.
pub(super) fn read(root: &Field<'_>, file: &Path, broker: Broker, shape: Shape) -> Option<Pipeline> {
    let section = root.section(&PIPELINE)?;
    let app = section.required(
        "app",
        "the prefix of consumer groups, transactional ids and internal topics",
    );
    let app = app.and_then(|field| values::name(&field, "an app"));
    let instance = match section.get("instance") {
        // `${WASMILL_INSTANCE:-}` comes out empty where nobody set the variable.
        Some(field) if !field.is_empty() => values::name(&field, "an instance").map(Some),
        _ => Some(None),
    };
    let kafka = kafka::read(&section, broker);
    let elasticsearch = section
        .get("elasticsearch")
        .map_or(Some(None), |field| elasticsearch::read(&field).map(Some));
    let smtp = section
        .get("smtp")
        .map_or(Some(None), |field| mail::read(&field).map(Some));
    let admin = section.get("admin").map_or(Some(None), |field| admin(&field).map(Some));
    let topics = section
        .get("topics")
        .map_or(Some(At::new(Topics::Require, section.at())), |field| topics(&field));
    let state_dir = match section.get("state") {
        Some(field) => state_dir(&field),
        None => Some(At::new(
            file.parent().unwrap_or(Path::new("")).join("state"),
            section.at(),
        )),
    };
    let stages = stages(&section, app.as_ref().map(|app| app.value.as_str()));
    let stages = stages?;
    relations::check(
        root,
        app.as_ref().map(|app| app.value.as_str()),
        &stages,
        kafka.as_ref(),
    );
    if broker == Broker::Configured && section.get("elasticsearch").is_none() {
        relations::elasticsearch_is_missing(root, &stages);
    }
    if broker == Broker::Configured && section.get("smtp").is_none() {
        relations::smtp_is_missing(root, &stages);
    }
    let file = file.to_owned();
    Some(Pipeline {
        file,
        app: app?,
        instance: instance?,
        kafka: kafka?,
        elasticsearch: elasticsearch?,
        smtp: smtp?,
        admin: admin?,
        topics: topics?,
        state_dir: state_dir?,
        stages,
        shape,
    })
}

fn admin(field: &Field<'_>) -> Option<Admin> {
    let section = field.section(&ADMIN)?;
    let listen = match section.get("listen") {
        Some(field) => address(&field),
        None => Some(At::new(ADMIN_LISTEN, field.at())),
    };
    let token = section
        .get("token")
        .map_or(Some(None), |field| secret::read(&field).map(Some));
    Some(Admin {
        listen: listen?,
        token: token?,
    })
}

fn state_dir(field: &Field<'_>) -> Option<At<PathBuf>> {
    let section = field.section(&STATE)?;
    let dir = section.required("dir", "a folder that this process can write")?;
    Some(At::new(dir.path()?, dir.at()))
}

fn address(field: &Field<'_>) -> Option<At<SocketAddr>> {
    let text = field.text()?;
    match text.parse() {
        Ok(address) => Some(At::new(address, field.at())),
        Err(_) => field.fail(format!(
            "{} is no address; allowed: an IP address and a port, such as 127.0.0.1:9180 or [::1]:9180",
            quoted(text)
        )),
    }
}

fn topics(field: &Field<'_>) -> Option<At<Topics>> {
    let topics = if field.is_map() {
        let section = field.section(&TOPICS)?;
        let create = section.required("create", "{partitions: N, replication: N, config: {..}}")?;
        Topics::Create(new_topic(&create)?)
    } else {
        match field.text()? {
            "require" => Topics::Require,
            other => {
                let other = quoted(other);
                return field.fail(format!(
                    "unknown value {other}; \
                     allowed: require, {{create: {{partitions: N, replication: N, config: {{..}}}}}}"
                ));
            }
        }
    };
    Some(At::new(topics, field.at()))
}

fn new_topic(field: &Field<'_>) -> Option<NewTopic> {
    let section = field.section(&CREATE)?;
    let partitions = section
        .get("partitions")
        .map_or(Some(1), |field| Some(integer(&field, 1..=10_000)?.value));
    let replication = section.get("replication").map_or(Some(-1), |field| replication(&field));
    let config = section
        .get("config")
        .map_or(Some(BTreeMap::new()), |field| topic_config(&field));
    Some(NewTopic {
        partitions: partitions?,
        replication: replication?,
        config: config?,
    })
}

fn replication(field: &Field<'_>) -> Option<i32> {
    let text = field.text()?;
    match text.parse() {
        Ok(replication @ (-1 | 1..=32_767)) => Some(replication),
        _ => field.fail(format!(
            "{} is not allowed; allowed: a whole number from 1 to 32767, or -1 for the broker's default",
            quoted(text)
        )),
    }
}

/// Kafka knows the names and values; a wrong one is refused when the topic is created.
fn topic_config(field: &Field<'_>) -> Option<BTreeMap<String, String>> {
    let entries = field.entries()?;
    let entry = |(key, field): &(&Key, Field<'_>)| Some((key.scalar.text.clone(), field.text()?.to_owned()));
    let config: BTreeMap<String, String> = entries.iter().filter_map(entry).collect();
    (config.len() == entries.len()).then_some(config)
}

/// The stages that could be read; a mistake was reported for each of the others.
fn stages(section: &Section<'_>, app: Option<&str>) -> Option<Vec<Stage>> {
    let field = section.required("stages", "the stages by their names")?;
    if !field.is_map() {
        return field.wrong_kind("a map of stages by their names");
    }
    let entries = field.entries()?;
    if entries.is_empty() {
        return field.fail("a pipeline has at least one stage");
    }
    let read = |(key, value): (&Key, Field<'_>)| {
        let name = At::new(key.scalar.text.as_str(), key.at);
        // A dot would let stages of different apps meet in one `{app}.{stage}`.
        if let Some(mistake) = values::name_mistake(&name, "_-") {
            field.report(name.at, format!("{} is no name for a stage: {mistake}", quoted(&name)));
        }
        stage::read(name, value, app)
    };
    Some(entries.into_iter().filter_map(read).collect())
}
