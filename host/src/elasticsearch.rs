//! Writes documents to Elasticsearch, or to an OpenSearch: the only place that names its client.
//!
//! `document` makes a document of what a plugin wants sent and `version` its version, both pure; `bulk` sends documents in requests, `answer`
//! says what each item's status means; `client` is the connection; `memory` stands in for a server in `dev`; `probe` is what `check --connect`
//! asks. Order, waiting and trying again are the lanes' ([`external`](crate::external)). What is promised is in `host/ELASTICSEARCH.md`.

mod answer;
mod bulk;
mod client;
mod document;
pub(crate) mod memory;
pub(crate) mod probe;
mod version;

pub(crate) use bulk::Bulk;
pub(crate) use client::Client;
pub(crate) use document::{Document, Index, name_of};
