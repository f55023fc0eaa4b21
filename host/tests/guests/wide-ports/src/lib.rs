//! Sends records by their field `branch`: `a` and `b` to the ports of these names, `both` to both,
//! and all others to `other`.

use serde::Deserialize;
use wasmill_plugin::{MessagePort, NoConfig, Output, Port, Processor, Reads, Record, Rejection, Text};

const A: MessagePort = MessagePort::new(0, "a");
const B: MessagePort = MessagePort::new(1, "b");
const OTHER: MessagePort = MessagePort::new(2, "other");

/// Has nothing to keep.
pub struct WidePorts;

#[derive(Deserialize)]
struct Branched<'a> {
    #[serde(borrow)]
    branch: Option<Text<'a>>,
}

impl Processor for WidePorts {
    type Config = NoConfig;
    const PORTS: &'static [Port] = &[Port::Message(A), Port::Message(B), Port::Message(OTHER)];
    const READS: Reads = Reads::VALUE;

    fn configure(_: NoConfig) -> Result<WidePorts, String> {
        Ok(WidePorts)
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let Branched { branch } = record.json()?;
        match branch.as_deref() {
            Some("a") => out.forward(A),
            Some("b") => out.forward(B),
            Some("both") => {
                out.forward(A);
                out.forward(B);
            }
            _ => out.forward(OTHER),
        }
        Ok(())
    }
}

wasmill_plugin::processor!(WidePorts);

#[cfg(test)]
mod tests {
    use wasmill_plugin::testing::{Input, Plugin, Reply, Sent};

    use super::WidePorts;

    #[test]
    fn a_branch_goes_to_its_port() {
        let mut plugin = Plugin::<WidePorts>::new("{}").unwrap();
        let mut reply = |value: &str| plugin.process(&Input::value(value));
        assert_eq!(reply(r#"{"branch":"a"}"#), Reply::forwarded("a"));
        assert_eq!(reply(r#"{"branch":"b"}"#), Reply::forwarded("b"));
        assert_eq!(reply(r#"{"branch":"c"}"#), Reply::forwarded("other"));
        assert_eq!(reply("{}"), Reply::forwarded("other"));
        let Reply::Sent(both) = reply(r#"{"branch":"both"}"#) else {
            panic!("nothing sent")
        };
        let ports: Vec<_> = both
            .iter()
            .map(|sent| match sent {
                Sent::Message(message) => message.port.as_str(),
                Sent::Document(document) => document.port.as_str(),
            })
            .collect();
        assert_eq!(ports, ["a", "b"]);
    }
}
