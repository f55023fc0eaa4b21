//! What a plugin author implements, and what a plugin says of itself.
//!
//! Ports are constants that carry their own number and kind, so that a message cannot be sent to a
//! port for documents, and looking up a port costs nothing per record. That the numbers, names and
//! order agree is checked when the plugin is compiled.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Output, Record, Rejection};

/// A plugin that processes records one by one: filter, map, branch, validate, enrich.
///
/// Nothing that must last may be kept in `self`: the host may throw an instance away between any
/// two batches and go on with a fresh one that it has configured in the same way.
pub trait Processor: Sized + 'static {
    /// What the stage's `config:` is read into; often the plugin itself, and [`NoConfig`] where
    /// there is none. With `#[serde(deny_unknown_fields)]` a misspelt field is an error and not
    /// ignored.
    type Config: DeserializeOwned;

    /// The outputs, each at the position that its own number names.
    const PORTS: &'static [Port];

    /// The plugin's name for logs and metrics; that of its crate unless set.
    const NAME: Option<&'static str> = None;

    /// The plugin's version; that of its crate unless set.
    const VERSION: Option<&'static str> = None;

    /// A JSON Schema of the configuration, which the host checks before it calls
    /// [`configure`](Self::configure). Empty: any object.
    const CONFIG_SCHEMA: &'static str = "";

    /// The parts of a record that the plugin reads. What it does not read is not copied into it,
    /// and looks as if it were null.
    const READS: Reads = Reads::ALL;

    /// Names and values for what later versions of the host may understand.
    const ATTRIBUTES: &'static [(&'static str, &'static str)] = &[];

    /// Makes the plugin from its configuration.
    ///
    /// # Errors
    /// What is wrong with the configuration, for the person who wrote it: the text names the field
    /// and says what is allowed. What does not fit [`Config`](Self::Config) (a missing field, a
    /// wrong type) has been refused before, with such a text.
    fn configure(config: Self::Config) -> Result<Self, String>;

    /// Processes one record. What is put into `out` is sent when this returns `Ok`; nothing put
    /// into it means that the record is done and nothing is sent. The answer must not depend on
    /// the records before this one.
    ///
    /// # Errors
    /// The record cannot be processed, ever or now; see [`Rejection`]. What was put into `out` for
    /// this record is not sent.
    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection>;

    /// Tries the plugin out before a version of it is used: the host calls this once after [`configure`](Self::configure), on an
    /// instance that it throws away afterwards. A file that its configuration or a grant promises can be looked at here, or a
    /// known record processed.
    ///
    /// # Errors
    /// Why this version must not be used, for the person who put it there. The version that ran before it runs on.
    fn self_test(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// The [`Processor::Config`] of a plugin that takes no configuration; any field is an error.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// The parts of a record that a plugin reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// The key is read.
    pub key: bool,
    /// The value is read.
    pub value: bool,
    /// The headers are read.
    pub headers: bool,
}

impl Reads {
    /// Key, value and headers.
    pub const ALL: Reads = Reads {
        key: true,
        value: true,
        headers: true,
    };
    /// The value alone. Others are written as `Reads { key: true, ..Reads::VALUE }`.
    pub const VALUE: Reads = Reads {
        value: true,
        ..Reads::NOTHING
    };
    /// Only topic, partition, offset and timestamp, which are always there.
    pub const NOTHING: Reads = Reads {
        key: false,
        value: false,
        headers: false,
    };
}

/// An output of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// An output for messages, which the pipeline file binds to a topic.
    Message(MessagePort),
    /// An output for documents, which the pipeline file binds to an index.
    Document(DocumentPort),
}

/// An output for messages.
///
/// The number is the port's position in [`Processor::PORTS`], counted from zero. A name is 1 to 63
/// lower-case letters, digits and hyphens, and begins with a letter. A port that breaks these
/// rules, or shares its name, does not compile:
///
/// ```compile_fail
/// use wasmill_plugin::{MessagePort, NoConfig, Output, Port, Processor, Record, Rejection, testing};
///
/// const SECOND: MessagePort = MessagePort::new(1, "second"); // but it is the first of PORTS
///
/// struct Misnumbered;
///
/// impl Processor for Misnumbered {
///     type Config = NoConfig;
///     const PORTS: &'static [Port] = &[Port::Message(SECOND)];
///
///     fn configure(_: NoConfig) -> Result<Misnumbered, String> {
///         Ok(Misnumbered)
///     }
///
///     fn process(&mut self, _: &Record<'_>, _: &mut Output<'_>) -> Result<(), Rejection> {
///         Ok(())
///     }
/// }
///
/// testing::Plugin::<Misnumbered>::new("{}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessagePort {
    number: u32,
    name: &'static str,
}

impl MessagePort {
    /// The port at this position of [`Processor::PORTS`].
    pub const fn new(number: u32, name: &'static str) -> MessagePort {
        MessagePort { number, name }
    }
}

/// An output for documents; number and name are as those of a [`MessagePort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentPort {
    number: u32,
    name: &'static str,
}

impl DocumentPort {
    /// The port at this position of [`Processor::PORTS`].
    pub const fn new(number: u32, name: &'static str) -> DocumentPort {
        DocumentPort { number, name }
    }
}

impl Port {
    /// The port's position in [`Processor::PORTS`].
    pub const fn number(self) -> u32 {
        match self {
            Port::Message(port) => port.number,
            Port::Document(port) => port.number,
        }
    }

    /// The port's name.
    pub const fn name(self) -> &'static str {
        match self {
            Port::Message(port) => port.name,
            Port::Document(port) => port.name,
        }
    }
}

/// Checks the rules for ports, which are those of `types.wit`. Made to be evaluated by the
/// compiler.
///
/// # Panics
/// A rule is broken.
pub(crate) const fn check_ports(ports: &[Port]) {
    assert!(ports.len() <= 64, "a plugin has at most 64 ports");
    let mut position = 0;
    while position < ports.len() {
        let port = ports[position];
        assert!(
            port.number() as usize == position,
            "a port's number is not its position in PORTS"
        );
        assert!(
            is_port_name(port.name().as_bytes()),
            "a port's name is 1 to 63 lower-case letters, digits and hyphens"
        );
        let mut earlier = 0;
        while earlier < position {
            assert!(
                !is_same(port.name().as_bytes(), ports[earlier].name().as_bytes()),
                "two ports have the same name"
            );
            earlier += 1;
        }
        position += 1;
    }
}

const fn is_port_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > 63 || !name[0].is_ascii_lowercase() {
        return false;
    }
    let mut position = 0;
    while position < name.len() {
        if !matches!(name[position], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        position += 1;
    }
    true
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut position = 0;
    while position < one.len() {
        if one[position] != other[position] {
            return false;
        }
        position += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{DocumentPort, MessagePort, Port, check_ports, is_port_name};

    #[test]
    fn ports_in_order_with_names_of_their_own_pass() {
        check_ports(&[
            Port::Message(MessagePort::new(0, "a")),
            Port::Document(DocumentPort::new(1, "b-2")),
        ]);
    }

    #[test]
    #[should_panic(expected = "two ports have the same name")]
    fn a_name_that_is_taken_is_refused() {
        check_ports(&[
            Port::Message(MessagePort::new(0, "a")),
            Port::Document(DocumentPort::new(1, "a")),
        ]);
    }

    #[test]
    #[should_panic(expected = "not its position")]
    fn a_number_that_is_not_the_position_is_refused() {
        check_ports(&[Port::Message(MessagePort::new(1, "a"))]);
    }

    #[test]
    fn a_port_name_keeps_to_its_letters_and_length() {
        for name in ["a", "a-b", "a9", &"a".repeat(63)] {
            assert!(is_port_name(name.as_bytes()), "{name}");
        }
        for name in ["", "9a", "-a", "A", "a_b", "é", &"a".repeat(64)] {
            assert!(!is_port_name(name.as_bytes()), "{name}");
        }
    }
}
