//! The `kafka` section: librdkafka's properties, passed through to the clients that know them.
//!
//! Names, types and ranges are checked against librdkafka's own list (`properties.rs`), what would
//! break a guarantee is refused with its reason (`refused.rs`), and values are compared with each
//! other as librdkafka would when it makes a client (`coherence.rs`): so `check` finds what else only
//! a running worker would. Pure: no client is made here.

mod coherence;
mod properties;
mod refused;

use std::fmt;
use std::time::Duration;

use super::Broker;
use super::errors::{At, Location, nearest, quoted, suggestion};
use super::secret::{self, Secret};
use super::section::{Field, Section};
pub(crate) use coherence::other_name;
use properties::{Kind, PROPERTIES, Property};

const BOOTSTRAP: &str = "bootstrap.servers";

/// The host's default: several times the commit interval, and short enough that a dead process does not hold readers up for long.
const TRANSACTION_TIMEOUT_MS: i64 = 15_000;

/// The value of `ssl.ca.location` that has librdkafka look for the system's own authorities.
const SYSTEM_AUTHORITIES: &str = "probe";
/// The host's default: long enough to fill a batch under load, and not noticed otherwise.
pub(crate) const LINGER_MS: f64 = 5.0;

/// librdkafka's default, in milliseconds.
const MAX_POLL_INTERVAL_MS: i64 = 300_000;

/// librdkafka's default, in milliseconds.
const SESSION_TIMEOUT_MS: i64 = 45_000;

/// The properties of a pipeline's clients.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Where the section stands; the file's start when there is none.
    pub at: Location,
    /// The properties, in the order of the file, none twice.
    pub properties: Vec<KafkaProperty>,
}

/// One property.
#[derive(Clone, Debug)]
pub struct KafkaProperty {
    /// Its name, with the place of the key.
    pub name: At<String>,
    /// Its value as librdkafka takes it.
    pub value: At<KafkaValue>,
    /// The clients that know it.
    pub clients: Clients,
}

/// The clients that know a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Consumers and producers (and admin clients).
    Both,
    /// Consumers only.
    Consumer,
    /// Producers only.
    Producer,
}

/// A property's value; `Debug` and `Display` hide secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum KafkaValue {
    /// Text that may be shown.
    Plain(String),
    /// Text that may not.
    Secret(Secret),
}

impl KafkaValue {
    /// The text itself, secret or not.
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) => secret.expose(),
        }
    }
}

impl fmt::Debug for KafkaValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => text.fmt(formatter),
            Self::Secret(secret) => secret.fmt(formatter),
        }
    }
}

impl fmt::Display for KafkaValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => text.fmt(formatter),
            Self::Secret(secret) => secret.fmt(formatter),
        }
    }
}

impl Kafka {
    /// The names and values for a consumer.
    pub fn for_consumer(&self) -> impl Iterator<Item = (&str, &str)> {
        self.except(Clients::Producer)
    }

    /// The names and values for a producer.
    pub fn for_producer(&self) -> impl Iterator<Item = (&str, &str)> {
        self.except(Clients::Consumer)
    }

    /// The names and values for a client that neither consumes nor produces.
    pub fn for_admin(&self) -> impl Iterator<Item = (&str, &str)> {
        self.except(Clients::Producer)
            .filter(|(name, _)| properties::find(name).is_some_and(|known| known.clients == Clients::Both))
    }

    fn except(&self, clients: Clients) -> impl Iterator<Item = (&str, &str)> {
        let kept = self
            .properties
            .iter()
            .filter(move |property| property.clients != clients);
        kept.map(|property| (property.name.as_str(), property.value.expose()))
    }

    /// A property by its name.
    pub fn get(&self, name: &str) -> Option<&KafkaProperty> {
        self.properties.iter().find(|property| property.name.value == name)
    }

    /// How long a transaction may stay open before the broker aborts it.
    pub fn transaction_timeout(&self) -> Duration {
        self.duration_ms("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
    }

    /// How long a group member may go without asking for records.
    pub fn max_poll_interval(&self) -> Duration {
        self.duration_ms("max.poll.interval.ms", MAX_POLL_INTERVAL_MS)
    }

    /// How long a silent group member keeps its partitions.
    pub fn session_timeout(&self) -> Duration {
        self.duration_ms("session.timeout.ms", SESSION_TIMEOUT_MS)
    }

    /// How long a producer waits for more records before it sends a batch; the host's default where the file says nothing.
    pub fn linger(&self) -> Duration {
        let linger_ms = ["linger.ms", "queue.buffering.max.ms"]
            .iter()
            .find_map(|name| self.text(name)?.parse::<f64>().ok());
        Duration::try_from_secs_f64(linger_ms.unwrap_or(LINGER_MS) / 1_000.0).unwrap_or_default()
    }

    fn duration_ms(&self, name: &str, default_ms: i64) -> Duration {
        let duration_ms = self.number(name).unwrap_or(default_ms);
        Duration::from_millis(u64::try_from(duration_ms).unwrap_or_default())
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.value.expose().parse().ok()
    }

    fn text(&self, name: &str) -> Option<&str> {
        Some(self.get(name)?.value.expose())
    }
}

/// Reads the section; `section` is the whole file.
pub(super) fn read(file: &Section<'_>, broker: Broker) -> Option<Kafka> {
    let Some(field) = file.get("kafka") else {
        if broker == Broker::Embedded {
            return Some(Kafka {
                at: file.at(),
                properties: Vec::new(),
            });
        }
        return file.fail("missing key `kafka`: {bootstrap.servers: HOST:PORT} and any other librdkafka property");
    };
    let entries = field.entries()?;
    let count = entries.len();
    let named = entries
        .iter()
        .any(|(key, _)| key.scalar.text == BOOTSTRAP || meant(&key.scalar.text) == Some(BOOTSTRAP));
    let properties: Vec<KafkaProperty> = entries
        .into_iter()
        .filter_map(|(key, value)| property(&field, At::new(key.scalar.text.as_str(), key.at), &value))
        .collect();
    let complete = properties.len() == count;
    let kafka = Kafka {
        at: field.named_at(),
        properties,
    };
    // A property that could not be read would seem to have its default.
    if complete {
        coherence::check(&field, &kafka);
    }
    if broker == Broker::Configured && !named {
        return field.fail_at(
            kafka.at,
            "missing key `bootstrap.servers`: the brokers, HOST:PORT separated by commas",
        );
    }
    complete.then_some(kafka)
}

fn property(section: &Field<'_>, name: At<&str>, value: &Field<'_>) -> Option<KafkaProperty> {
    if let Some(reason) = refused::reason(&name) {
        return section.fail_at(name.at, format!("`{}` is refused: {reason}", name.value));
    }
    let Some(known) = properties::find(&name) else {
        return unknown(section, &name, value);
    };
    let text = if value.is_map() || refused::is_secret(known.name) {
        secret::read(value)?.value
    } else {
        return plain(known, name, value);
    };
    if mistake(known, text.expose()).is_some() {
        return value.fail(format!(
            "the secret's text is no value of this property; {}",
            allowed(&known.kind)
        ));
    }
    Some(KafkaProperty {
        name: At::new(known.name.to_owned(), name.at),
        value: At::new(KafkaValue::Secret(text), value.at()),
        clients: known.clients,
    })
}

fn unknown(section: &Field<'_>, name: &At<&str>, value: &Field<'_>) -> Option<KafkaProperty> {
    let hint = match (meant(name), dotted(value)) {
        (Some(meant), _) => format!("; did you mean `{meant}`?"),
        (None, Some(rest)) => format!("; names are written with their dots, `{}.{rest}: ..`;", name.value),
        (None, None) => ";".to_owned(),
    };
    let version = properties::VERSION;
    let name_shown = quoted(name);
    section.fail_at(
        name.at,
        format!("unknown property {name_shown}{hint} allowed: the properties of librdkafka {version}"),
    )
}

/// The first key of a map that was written where a value belongs.
fn dotted<'n>(value: &Field<'n>) -> Option<&'n str> {
    let entries = if value.is_map() { value.entries() } else { None }?;
    entries.first().map(|(key, _)| key.scalar.text.as_str())
}

/// The property that a misspelt name is nearest to, of those that a pipeline may set.
fn meant(name: &str) -> Option<&'static str> {
    let names = PROPERTIES
        .iter()
        .map(|known| known.name)
        .filter(|name| refused::reason(name).is_none());
    nearest(name, names)
}

fn plain(known: &Property, name: At<&str>, value: &Field<'_>) -> Option<KafkaProperty> {
    let text = value.text()?;
    if let Some(mistake) = mistake(known, text) {
        return value.fail(mistake);
    }
    let text = match is_file(known.name) && text != SYSTEM_AUTHORITIES {
        true => value.path()?.display().to_string(),
        false => text.to_owned(),
    };
    Some(KafkaProperty {
        name: At::new(known.name.to_owned(), name.at),
        value: At::new(KafkaValue::Plain(text), value.at()),
        clients: known.clients,
    })
}

/// Whether the value is a path, which starts from the pipeline file's folder as every other one does.
fn is_file(name: &str) -> bool {
    [
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.crl.location",
        "ssl.key.location",
        "ssl.keystore.location",
    ]
    .contains(&name)
}

/// What librdkafka, or a guarantee of the host, has against this value.
fn mistake(known: &Property, text: &str) -> Option<String> {
    let fits = match &known.kind {
        Kind::Text => !text.is_empty(),
        Kind::Boolean => matches!(text.to_ascii_lowercase().as_str(), "true" | "false"),
        Kind::Integer(min, max) => text.parse::<i64>().is_ok_and(|number| (*min..=*max).contains(&number)),
        Kind::Number(min, max) => text.parse::<f64>().is_ok_and(|number| (*min..=*max).contains(&number)),
        Kind::OneOf(words) => words.contains(&text),
        Kind::Flags(words) => text.split(',').all(|flag| words.contains(&flag.trim())),
        Kind::Code => false,
    };
    if !fits {
        let nearest = match &known.kind {
            Kind::OneOf(words) => suggestion(text, words.iter().copied()),
            _ => String::new(),
        };
        let separator = if nearest.is_empty() { ";" } else { "" };
        return Some(format!(
            "{} is not allowed{nearest}{separator} {}",
            quoted(text),
            allowed(&known.kind)
        ));
    }
    refused::value_reason(known.name, text).map(|reason| format!("{} is refused: {reason}", quoted(text)))
}

fn allowed(kind: &Kind) -> String {
    match kind {
        Kind::Text => "allowed: any text that is not empty".to_owned(),
        Kind::Boolean => "allowed: true, false".to_owned(),
        Kind::Integer(min, max) => format!("allowed: a whole number from {min} to {max}, without a unit"),
        Kind::Number(min, max) => format!("allowed: a number from {min} to {max}, without a unit"),
        Kind::OneOf(words) => format!("allowed: {}", words.join(", ")),
        Kind::Flags(words) => format!("allowed, separated by commas: {}", words.join(", ")),
        Kind::Code => "allowed: nothing".to_owned(),
    }
}
