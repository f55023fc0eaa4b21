//! The `elasticsearch` section, and outputs that write documents.
//!
//! What the keys of an output mean for each other is checked here; what only a plugin can tell (which of its ports give documents) is
//! checked when it is loaded.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::errors::{At, Location, quoted};
use super::faults::yes_or_no;
use super::index_name::IndexName;
use super::secret::{self, Secret};
use super::section::{Field, Keys, Section};
use super::stage::{get, optional, or};
use super::values::{self, duration, integer, size};

const ELASTICSEARCH: Keys = Keys {
    allowed: &["url", "username", "password", "api-key", "ca-file"],
    later: &[],
};
const OUTPUT: Keys = Keys {
    allowed: &[
        "index",
        "id",
        "action",
        "routing",
        "pipeline",
        "data-stream",
        "versions",
        "epoch",
        "bulk",
        "lanes",
        "timeout",
    ],
    later: &[],
};
const BULK: Keys = Keys {
    allowed: &["documents", "bytes", "age"],
    later: &[],
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Twelve bits would make the version negative.
const EPOCH_MAX: u16 = 2047;
/// Elasticsearch refuses requests of more than 100 MB unless its `http.max_content_length` says otherwise.
const BULK_BYTES_MAX: u64 = 90 * MIB;

/// Where Elasticsearch is, and what lets the host in.
#[derive(Clone, Debug)]
pub struct Elasticsearch {
    /// Where the section stands.
    pub at: Location,
    /// Its nodes, at least one, asked in turn; `http` or `https`, without credentials.
    pub urls: Vec<At<Url>>,
    /// Who the host says it is.
    pub credentials: Credentials,
    /// The certificates that a server may be known by, in PEM; those of the system without it.
    pub ca_file: Option<At<PathBuf>>,
}

/// Who the host says it is.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nobody.
    None,
    /// A user.
    Basic {
        /// The name.
        username: At<String>,
        /// The password.
        password: At<Secret>,
    },
    /// An API key as Elasticsearch encodes it (`encoded` in the answer that creates it).
    ApiKey(At<Secret>),
}

/// An output that writes documents.
#[derive(Clone, Debug)]
pub struct IndexOutput {
    /// Where it stands.
    pub at: Location,
    /// The index, or how it is named by a record's time.
    pub index: At<IndexName>,
    /// What names a document that the plugin does not name itself; the record's key where there is one, else its position.
    pub id: Option<At<DocumentId>>,
    /// What is done with a record of a message port; `index` by default.
    pub action: Option<At<DocumentAction>>,
    /// Whether documents are routed by the record's key; by their id otherwise.
    pub is_routed_by_key: bool,
    /// The ingest pipeline of documents that are indexed or created.
    pub pipeline: Option<At<String>>,
    /// Whether `index` names a data stream, which only takes `create`.
    pub is_data_stream: bool,
    /// Whether documents carry versions made of positions; decided by the port where it is not said.
    pub versions: Option<At<Versions>>,
    /// The highest bits of those versions, raised when an input topic is made again: at most 2047, 0 by default.
    pub epoch: u16,
    /// How documents are sent.
    pub delivery: BulkDelivery,
}

/// How documents are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkDelivery {
    /// Documents of one request: 1 to 100,000, 1,000 by default.
    pub documents: u32,
    /// Bytes of one request: 1 KiB to 90 MiB, 4 MiB by default. One larger document is a request of its own.
    pub bytes: u64,
    /// How long the first document waits for others: at most 10 s, 50 ms by default.
    pub age: Duration,
    /// Requests in flight of one worker: 1 to 64, 4 by default.
    pub lanes: u16,
    /// How long an answer is waited for: 1 s to 10 m, 60 s by default.
    pub timeout: Duration,
}

/// What names a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentId {
    /// The record's key.
    Key,
    /// `{topic}-{partition}-{offset}-{n}`.
    Position,
}

/// What is done with a document; the words are those of the bulk API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentAction {
    /// Write it, whether there is one or not.
    Index,
    /// Write it where there is none.
    Create,
    /// Change the fields that it names.
    Update,
    /// Change the fields that it names, or write it where there is none.
    Upsert,
    /// Delete it.
    Delete,
}

/// Whether documents carry versions made of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// They do: an older document cannot overwrite a newer one.
    External,
    /// They do not.
    None,
}

/// Reads the section at the top of the file.
pub(super) fn read(field: &Field<'_>) -> Option<Elasticsearch> {
    let section = field.section(&ELASTICSEARCH)?;
    let urls = section.required("url", "a URL or a list of URLs, such as http://localhost:9200");
    let urls = urls.and_then(|field| urls_of(&field));
    let credentials = credentials(&section);
    let ca_file = or(section.get("ca-file"), None, |field| {
        Some(Some(At::new(field.path()?, field.at())))
    });
    let (urls, ca_file) = (urls?, ca_file?);
    if let Some(file) = &ca_file
        && urls.iter().all(|url| url.scheme() == "http")
    {
        return section.fail_at(file.at, "`ca-file` is for https, and every `url` is http");
    }
    Some(Elasticsearch {
        at: field.named_at(),
        urls,
        credentials: credentials?,
        ca_file,
    })
}

fn urls_of(field: &Field<'_>) -> Option<Vec<At<Url>>> {
    if !field.is_list() {
        return Some(vec![url(field)?]);
    }
    let items = field.list()?;
    if items.is_empty() {
        return field.fail("the list is empty; give at least one URL");
    }
    let count = items.len();
    let urls: Vec<At<Url>> = items.iter().filter_map(url).collect();
    (urls.len() == count).then_some(urls)
}

fn url(field: &Field<'_>) -> Option<At<Url>> {
    let text = field.text()?;
    let Ok(url) = Url::parse(text) else {
        // It may hold a password, so it is not repeated.
        return field.fail("this is no URL; write for example http://localhost:9200");
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return field.fail(format!(
            "a URL of Elasticsearch begins with http:// or https://, not with {}",
            quoted(url.scheme())
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return field.fail("a URL may hold no credentials; use `username` and `password`, or `api-key`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return field.fail("a URL of Elasticsearch has no `?` and no `#`");
    }
    Some(At::new(url, field.at()))
}

fn credentials(section: &Section<'_>) -> Option<Credentials> {
    let (username, password, api_key) = (section.get("username"), section.get("password"), section.get("api-key"));
    match (username, password, api_key) {
        (None, None, None) => Some(Credentials::None),
        (None, None, Some(key)) => {
            let key = secret::read(&key)?;
            if !key.expose().bytes().all(|letter| letter.is_ascii_graphic()) {
                return section.fail_at(
                    key.at,
                    "`api-key`: give the `encoded` form of the key, which is base64 text",
                );
            }
            Some(Credentials::ApiKey(key))
        }
        (Some(name), Some(password), None) => {
            let username = name.text().map(|text| At::new(text.to_owned(), name.at()));
            let password = secret::read(&password);
            Some(Credentials::Basic {
                username: username?,
                password: password?,
            })
        }
        (_, _, Some(key)) => section.fail_at(
            key.named_at(),
            "both `api-key` and `username` or `password` are given; keep one kind of credentials",
        ),
        (Some(name), None, None) => section.fail_at(name.named_at(), "`username` needs a `password`"),
        (None, Some(password), None) => section.fail_at(password.named_at(), "`password` needs a `username`"),
    }
}

/// Reads `{elasticsearch: ..}` of an output.
pub(super) fn output(field: &Field<'_>) -> Option<IndexOutput> {
    let section = field.section(&OUTPUT)?;
    let index = section.required("index", "the name of an index, or noaa-{yyyy.MM} for one a month");
    let index = index.and_then(|field| index_name(&field));
    let id = or(section.get("id"), None, |field| {
        let id = match values::word(field, &["key", "position"])? {
            "key" => DocumentId::Key,
            _ => DocumentId::Position,
        };
        Some(Some(At::new(id, field.at())))
    });
    let action = or(section.get("action"), None, |field| action(field).map(Some));
    let is_routed_by_key = or(section.get("routing"), false, |field| {
        values::word(field, &["key"]).map(|_| true)
    });
    let pipeline = or(section.get("pipeline"), None, |field| match field.text()? {
        "" => field.fail("the name is empty"),
        text => Some(Some(At::new(text.to_owned(), field.at()))),
    });
    let is_data_stream = or(section.get("data-stream"), false, yes_or_no);
    let versions = or(section.get("versions"), None, |field| {
        let versions = match values::word(field, &["external", "none"])? {
            "external" => Versions::External,
            _ => Versions::None,
        };
        Some(Some(At::new(versions, field.at())))
    });
    let epoch = or(section.get("epoch"), 0, |field| {
        integer(field, 0..=EPOCH_MAX).map(|epoch| epoch.value)
    });
    let delivery = delivery(&section);
    let output = IndexOutput {
        at: field.named_at(),
        index: index?,
        id: id?,
        action: action?,
        is_routed_by_key: is_routed_by_key?,
        pipeline: pipeline?,
        is_data_stream: is_data_stream?,
        versions: versions?,
        epoch: epoch?,
        delivery: delivery?,
    };
    match mistake(&output) {
        Some((at, mistake)) => section.fail_at(at, mistake),
        None => Some(output),
    }
}

fn index_name(field: &Field<'_>) -> Option<At<IndexName>> {
    let text = field.text()?;
    match IndexName::parse(text) {
        Ok(name) => Some(At::new(name, field.at())),
        Err(mistake) => field.fail(format!("{} is no name for an index: {mistake}", quoted(text))),
    }
}

fn action(field: &Field<'_>) -> Option<At<DocumentAction>> {
    let action = match values::word(field, &["index", "create", "update", "upsert", "delete"])? {
        "create" => DocumentAction::Create,
        "update" => DocumentAction::Update,
        "upsert" => DocumentAction::Upsert,
        "delete" => DocumentAction::Delete,
        _ => DocumentAction::Index,
    };
    Some(At::new(action, field.at()))
}

fn delivery(section: &Section<'_>) -> Option<BulkDelivery> {
    let bulk = optional(section.get("bulk"), &BULK)?;
    let documents = or(get(&bulk, "documents"), 1_000, |field| {
        integer(field, 1..=100_000).map(|count| count.value)
    });
    let bytes = or(get(&bulk, "bytes"), 4 * MIB, |field| {
        size(field, KIB..=BULK_BYTES_MAX).map(|bytes| bytes.value)
    });
    let age = or(get(&bulk, "age"), Duration::from_millis(50), |field| {
        duration(field, Duration::ZERO..=Duration::from_secs(10)).map(|age| age.value)
    });
    let lanes = or(section.get("lanes"), 4, |field| {
        integer(field, 1..=64).map(|lanes| lanes.value)
    });
    let timeout = or(section.get("timeout"), Duration::from_secs(60), |field| {
        duration(field, Duration::from_secs(1)..=Duration::from_secs(600)).map(|timeout| timeout.value)
    });
    Some(BulkDelivery {
        documents: documents?,
        bytes: bytes?,
        age: age?,
        lanes: lanes?,
        timeout: timeout?,
    })
}

/// What the keys of an output forbid each other.
fn mistake(output: &IndexOutput) -> Option<(Location, &'static str)> {
    use DocumentAction::{Create, Delete, Index, Update, Upsert};
    let action = output.action.map_or(Index, |action| action.value);
    let external = output.versions.filter(|versions| versions.value == Versions::External);
    if output.is_data_stream {
        if let Some(action) = output.action.filter(|action| action.value != Create) {
            return Some((action.at, "`action`: a data stream only takes `create`"));
        }
        if let Some(versions) = external {
            return Some((versions.at, "`versions`: a data stream keeps no versions; leave it out"));
        }
    }
    if let (Some(versions), Update | Upsert | Create) = (external, action) {
        let text = "`versions`: only `action: index` and `delete` can carry versions; leave it out or change `action`";
        return Some((versions.at, text));
    }
    if let (Some(pipeline), Update | Upsert | Delete) = (&output.pipeline, action) {
        let text = "`pipeline`: only documents of `action: index` and `create` go through an ingest pipeline";
        return Some((pipeline.at, text));
    }
    None
}
