//! Does with documents what each record says in its headers: `action` (a null value is a delete, any other an index without it), `id`, `routing`,
//! and `again`, a second document's id, for a record that gives two.

use wasmill_plugin::{Action, DocumentPort, NoConfig, Output, Port, Processor, Reads, Record, Rejection};

const DOCUMENTS: DocumentPort = DocumentPort::new(0, "documents");

/// Has nothing to keep.
pub struct Act;

impl Processor for Act {
    type Config = NoConfig;
    const PORTS: &'static [Port] = &[Port::Document(DOCUMENTS)];
    const READS: Reads = Reads {
        headers: true,
        ..Reads::VALUE
    };

    fn configure(_: NoConfig) -> Result<Act, String> {
        Ok(Act)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let action = match text(record, "action")? {
            None if record.value().is_none() => Action::Delete,
            None | Some("index") => Action::Index,
            Some("create") => Action::Create,
            Some("update") => Action::Update,
            Some("upsert") => Action::Upsert,
            Some("delete") => Action::Delete,
            Some(other) => return Err(Rejection::new(format!("`{other}` is no action"))),
        };
        send(record, out, action, text(record, "id")?)?;
        if let Some(id) = text(record, "again")? {
            send(record, out, action, Some(id))?;
        }
        Ok(())
    }
}

fn send(record: &Record<'_>, out: &mut Output<'_>, action: Action, id: Option<&str>) -> Result<(), Rejection> {
    let mut document = out.document(DOCUMENTS, action);
    if let Some(id) = id {
        document = document.id(id);
    }
    if let Some(routing) = text(record, "routing")? {
        document = document.routing(routing);
    }
    document.send();
    Ok(())
}

fn text<'r>(record: &Record<'r>, name: &str) -> Result<Option<&'r str>, Rejection> {
    let value = record.header(name).and_then(|header| header.value);
    let text = value.map(std::str::from_utf8).transpose();
    text.map_err(|_| Rejection::new(format!("the header `{name}` is not UTF-8")))
}

wasmill_plugin::processor!(Act);

#[cfg(test)]
mod tests {
    use wasmill_plugin::Action;
    use wasmill_plugin::testing::{Input, Plugin, Reply, Sent};

    use super::Act;

    #[test]
    fn headers_say_what_to_do() {
        let mut plugin = Plugin::<Act>::new("{}").unwrap();
        let input = Input::value("{}")
            .key("k")
            .header("action", "update")
            .header("again", "other");
        let Reply::Sent(sent) = plugin.process(&input) else {
            panic!("nothing was sent")
        };
        let ids = sent.iter().map(|sent| match sent {
            Sent::Document(document) => (document.action, document.id.as_deref()),
            Sent::Message(_) => panic!("a message"),
        });
        let ids: Vec<_> = ids.collect();
        assert_eq!(ids, [(Action::Update, None), (Action::Update, Some("other"))]);
    }
}
