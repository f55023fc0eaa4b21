//! Makes a document of what a plugin wants sent: its index, id, action, version and body, all checked.
//!
//! What Elasticsearch could never take is refused here, with words for the dead letter: a body that is not one JSON object, an id that is too long,
//! a version that would say nothing. Pure: no clock, no I/O.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::version::{DOCUMENTS_MAX, version};
use crate::config::{BulkDelivery, DocumentAction, DocumentId, IndexName, IndexOutput, Stage, Versions};
use crate::dead_letter::Origin;
use crate::fault::{Fault, Kind};
use crate::plugin::contract::{Action, PortKind};
use crate::route::Export;

/// Elasticsearch's own limit for the length of an id.
const ID_BYTES_MAX: usize = 512;
/// What a document costs beside its id and body: the action line and what the host holds.
const OVERHEAD_BYTES: usize = 200;

/// One document and what is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(super) index: Arc<str>,
    pub(super) id: String,
    pub(super) routing: Option<String>,
    pub(super) pipeline: Option<Arc<str>>,
    pub(super) action: DocumentAction,
    /// An external version.
    pub(super) version: Option<i64>,
    /// One JSON object in one line; empty for a delete.
    pub(super) body: Vec<u8>,
}

impl Document {
    /// The same number for the same document.
    pub(crate) fn order(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.index, &self.id).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.id.len() + OVERHEAD_BYTES
    }
}

/// An output that writes documents.
pub(crate) struct Index {
    name: IndexName,
    /// The index where its name is made of no time.
    fixed: Option<Arc<str>>,
    id: Option<DocumentId>,
    action: DocumentAction,
    is_routed_by_key: bool,
    pipeline: Option<Arc<str>>,
    is_data_stream: bool,
    /// What was said of versions.
    versions: Option<Versions>,
    /// Whether versions can be right at all.
    has_one_topic: bool,
    epoch: u16,
    delivery: BulkDelivery,
}

/// What lanes, metrics and `/status` know an output by.
pub(crate) fn name_of(output: &IndexOutput) -> String {
    format!("elasticsearch:{}", output.index.value)
}

impl Index {
    pub(crate) fn new(output: &IndexOutput, stage: &Stage) -> Self {
        let default = match output.is_data_stream {
            true => DocumentAction::Create,
            false => DocumentAction::Index,
        };
        let name = &output.index.value;
        Self {
            name: name.clone(),
            fixed: (!name.has_time()).then(|| Arc::from(name.as_str())),
            id: output.id.map(|id| id.value),
            action: output.action.map_or(default, |action| action.value),
            is_routed_by_key: output.is_routed_by_key,
            pipeline: output.pipeline.as_ref().map(|name| Arc::from(name.as_str())),
            is_data_stream: output.is_data_stream,
            versions: output.versions.map(|versions| versions.value),
            has_one_topic: stage.input.topics.len() == 1,
            epoch: output.epoch,
            delivery: output.delivery,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("elasticsearch:{}", self.name)
    }

    pub(crate) fn lanes(&self) -> usize {
        usize::from(self.delivery.lanes)
    }

    pub(super) fn delivery(&self) -> BulkDelivery {
        self.delivery
    }

    /// Whether the file itself asks for versions.
    pub(crate) fn asks_for_versions(&self) -> bool {
        self.versions == Some(Versions::External)
    }

    /// Whether documents from a port of this kind carry versions.
    pub(crate) fn is_versioned(&self, port: PortKind) -> bool {
        match (self.versions, port) {
            (Some(versions), _) => versions == Versions::External,
            (None, PortKind::Document) => false,
            (None, PortKind::Message) => {
                let can = matches!(self.action, DocumentAction::Index | DocumentAction::Delete);
                can && self.has_one_topic
            }
        }
    }

    /// # Errors
    /// The fault of a record of which no such document can be made.
    pub(crate) fn document(&self, export: &Export<'_>, origin: Origin<'_>) -> Result<Document, Fault> {
        self.checked(export, origin)
            .map_err(|text| Fault::new(Kind::Refused, format!("{}: {text}", self.name())))
    }

    fn checked(&self, export: &Export<'_>, origin: Origin<'_>) -> Result<Document, String> {
        let wanted = export.document;
        let action = self.action_of(export)?;
        let id = self.id_of(export, origin)?;
        let key = || utf8("the record's key", export.source_key).map(|key| key.map(str::to_owned));
        let version = match self.is_versioned(export.kind()) {
            false => None,
            true => Some(self.version_of(export, origin, action, &id)?),
        };
        let routing = match wanted.and_then(|wanted| wanted.routing) {
            Some(routing) => Some(routing.to_owned()),
            None if self.is_routed_by_key => key()?.filter(|key| !key.is_empty()),
            None => None,
        };
        let timestamp_ms = export.timestamp_ms.or(origin.timestamp_ms);
        let index = match &self.fixed {
            Some(index) => Arc::clone(index),
            None if action == DocumentAction::Delete => {
                return Err("a delete and an index named by time do not go together: its time would name another index than the document's".to_owned());
            }
            None => Arc::from(self.name.at(timestamp_ms).ok_or_else(|| {
                format!("the record's timestamp ({timestamp_ms:?}) names no index; allowed: the years 0000 to 9999")
            })?),
        };
        let goes_through = matches!(action, DocumentAction::Index | DocumentAction::Create);
        Ok(Document {
            index,
            id,
            routing,
            pipeline: self.pipeline.clone().filter(|_| goes_through),
            action,
            version,
            body: match action {
                DocumentAction::Delete => Vec::new(),
                _ => body_of(export.value)?,
            },
        })
    }

    fn action_of(&self, export: &Export<'_>) -> Result<DocumentAction, String> {
        let action = match export.document {
            Some(wanted) => match wanted.action {
                Action::Index => DocumentAction::Index,
                Action::Create => DocumentAction::Create,
                Action::Update => DocumentAction::Update,
                Action::Upsert => DocumentAction::Upsert,
                Action::Delete => DocumentAction::Delete,
            },
            // A tombstone: the key's document is to go.
            None if export.value.is_none() && self.action == DocumentAction::Index => DocumentAction::Delete,
            None => self.action,
        };
        if self.is_data_stream && action != DocumentAction::Create {
            return Err(format!("a data stream only takes `create`, not `{}`", word(action)));
        }
        Ok(action)
    }

    fn id_of(&self, export: &Export<'_>, origin: Origin<'_>) -> Result<String, String> {
        let position = || {
            let Origin {
                topic,
                partition,
                offset,
                ..
            } = origin;
            format!("{topic}-{partition}-{offset}-{}", export.number)
        };
        let wanted = export.document.and_then(|wanted| wanted.id);
        let key = match (wanted, export.document) {
            (Some(_), _) => None,
            // A forwarded record has the key that it is given; a document without an id has that of its source.
            (None, None) => export.key,
            (None, Some(_)) => export.source_key,
        };
        let id = match (wanted, self.id) {
            (Some(id), _) => id.to_owned(),
            (None, Some(DocumentId::Position)) => position(),
            (None, Some(DocumentId::Key)) => utf8("the key", key)?
                .ok_or_else(|| "the record has no key, and `id: key` names its document by it".to_owned())?
                .to_owned(),
            // What is only added must not be taken for what is there because it has the same key.
            (None, None) if self.is_data_stream => position(),
            (None, None) => utf8("the key", key)?.map_or_else(position, str::to_owned),
        };
        match id.len() {
            0 => Err("the id is empty".to_owned()),
            bytes if bytes > ID_BYTES_MAX => Err(format!("the id has {bytes} bytes, the limit is {ID_BYTES_MAX}")),
            _ => Ok(id),
        }
    }

    /// Only where one partition writes an id do offsets say which version is newer.
    fn version_of(
        &self,
        export: &Export<'_>,
        origin: Origin<'_>,
        action: DocumentAction,
        id: &str,
    ) -> Result<i64, String> {
        if !matches!(action, DocumentAction::Index | DocumentAction::Delete) {
            return Err(format!(
                "`versions: external` and the action `{}` do not go together: only `index` and `delete` carry versions",
                word(action)
            ));
        }
        let is_named = export.document.is_some_and(|wanted| wanted.id.is_some());
        let is_changed =
            export.document.is_none() && self.id != Some(DocumentId::Position) && export.key != export.source_key;
        if (is_named || is_changed) && export.source_key != Some(id.as_bytes()) {
            return Err(
                "`versions: external` and an id other than the record's key do not go together: records of several partitions could write it"
                    .to_owned(),
            );
        }
        version(self.epoch, origin.offset, export.number).ok_or_else(|| {
            format!(
                "document {} of offset {} has no version; the limit is {DOCUMENTS_MAX} documents of one record",
                export.number, origin.offset
            )
        })
    }
}

pub(super) fn word(action: DocumentAction) -> &'static str {
    match action {
        DocumentAction::Index => "index",
        DocumentAction::Create => "create",
        DocumentAction::Update => "update",
        DocumentAction::Upsert => "upsert",
        DocumentAction::Delete => "delete",
    }
}

fn utf8<'a>(what: &str, bytes: Option<&'a [u8]>) -> Result<Option<&'a str>, String> {
    bytes
        .map(std::str::from_utf8)
        .transpose()
        .map_err(|_| format!("{what} is not UTF-8, so it cannot name a document"))
}

/// The body in one line. Line breaks of JSON stand between its tokens only, where a space says the same.
fn body_of(value: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let bytes = value.ok_or_else(|| "the body is null; a document is one JSON object".to_owned())?;
    let text = std::str::from_utf8(bytes).map_err(|error| format!("the body is not UTF-8 ({error})"))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err("the body is not a JSON object".to_owned());
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("the body is not one JSON object: {error}"))?;
    let mut body = bytes.to_vec();
    for byte in &mut body {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
