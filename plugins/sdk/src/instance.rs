//! One configured plugin and the way of a batch through it: unpacked record by record, answered,
//! packed.
//!
//! The exports of a component and the native tests both run this code and no other. After a `retry`
//! the records that follow are not processed: the host throws their replies away, and their side
//! effects (logs, metrics) would be told twice.

use crate::answer::{Answer, Room};
use crate::bindings::wasmill::plugin::types::{Batch, Description, Parts, Port as WitPort, PortKind, Replies, Reply};
use crate::processor::check_ports;
use crate::{Output, Port, Processor, Reads, Record};

/// A configured plugin.
pub(crate) struct Instance<P> {
    plugin: P,
    ports: &'static [Port],
    room: Room,
}

impl<P: Processor> Instance<P> {
    /// The ports, checked by the compiler.
    const PORTS: &'static [Port] = {
        check_ports(P::PORTS);
        P::PORTS
    };

    /// Makes the plugin from the stage's configuration, one JSON object.
    ///
    /// # Errors
    /// Text for the person who wrote the configuration.
    pub(crate) fn new(config: &str) -> Result<Instance<P>, String> {
        // By way of a value, because line and column would be those of the host's text, not of the person's
        // file.
        let value: serde_json::Value = serde_json::from_str(config).map_err(|error| format!("not JSON: {error}"))?;
        let config = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            if path == "." {
                error.into_inner().to_string()
            } else {
                format!("`{path}`: {}", error.into_inner())
            }
        })?;
        Ok(Instance {
            plugin: P::configure(config)?,
            ports: Self::PORTS,
            room: Room::default(),
        })
    }

    /// Answers a batch.
    pub(crate) fn process(&mut self, batch: &Batch) -> Replies {
        let mut answer = Answer::new(batch, self.room);
        for entry in &batch.entries {
            let mark = answer.mark();
            let record = Record::new(batch, entry);
            let result = self.plugin.process(&record, &mut Output::new(&mut answer, self.ports));
            let is_retry = result.as_ref().is_err_and(|rejection| rejection.is_retry());
            answer.close(mark, result);
            if is_retry {
                break;
            }
        }
        answer.replies.replies.resize(batch.entries.len(), Reply::Skip);
        self.room = answer.room();
        answer.replies
    }

    /// Lets the plugin try itself out.
    ///
    /// # Errors
    /// Why it must not be used.
    pub(crate) fn self_test(&mut self) -> Result<(), String> {
        self.plugin.self_test()
    }

    #[cfg(test)]
    pub(crate) fn plugin_mut(&mut self) -> &mut P {
        &mut self.plugin
    }

    /// What `describe` answers; name and version are those of the plugin's crate.
    pub(crate) fn description(name: &str, version: &str) -> Description {
        Description {
            name: P::NAME.unwrap_or(name).to_owned(),
            version: P::VERSION.unwrap_or(version).to_owned(),
            ports: Self::PORTS.iter().map(wit_port).collect(),
            config_schema: P::CONFIG_SCHEMA.to_owned(),
            state_version: 0,
            reads: wit_parts(P::READS),
            attributes: P::ATTRIBUTES
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }
}

fn wit_port(port: &Port) -> WitPort {
    let kind = match port {
        Port::Message(_) => PortKind::Message,
        Port::Document(_) => PortKind::Document,
    };
    WitPort {
        name: port.name().to_owned(),
        kind,
    }
}

fn wit_parts(reads: Reads) -> Parts {
    let mut parts = Parts::empty();
    for (is_read, part) in [
        (reads.key, Parts::KEY),
        (reads.value, Parts::VALUE),
        (reads.headers, Parts::HEADERS),
    ] {
        if is_read {
            parts = parts | part;
        }
    }
    parts
}
