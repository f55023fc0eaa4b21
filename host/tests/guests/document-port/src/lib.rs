//! Indexes every record's value as a document, under the record's key.

use wasmill_plugin::{Action, DocumentPort, NoConfig, Output, Port, Processor, Reads, Record, Rejection};

const DOCUMENTS: DocumentPort = DocumentPort::new(0, "documents");

/// Has nothing to keep.
pub struct IndexAll;

impl Processor for IndexAll {
    type Config = NoConfig;
    const PORTS: &'static [Port] = &[Port::Document(DOCUMENTS)];
    const READS: Reads = Reads::NOTHING;

    fn configure(_: NoConfig) -> Result<IndexAll, String> {
        Ok(IndexAll)
    }

    fn process(&mut self, _: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        out.document(DOCUMENTS, Action::Index).send();
        Ok(())
    }
}

wasmill_plugin::processor!(IndexAll);

#[cfg(test)]
mod tests {
    use wasmill_plugin::Action;
    use wasmill_plugin::testing::{Document, Input, Plugin, Reply, Sent};

    use super::IndexAll;

    #[test]
    fn a_record_is_indexed_under_its_key() {
        let reply = Plugin::<IndexAll>::new("{}")
            .unwrap()
            .process(&Input::value("{}").key("k"));
        let document = Document {
            port: "documents".to_owned(),
            id: None,
            routing: None,
            action: Action::Index,
            body: Some(b"{}".to_vec()),
        };
        assert_eq!(reply, Reply::Sent(vec![Sent::Document(document)]));
    }
}
