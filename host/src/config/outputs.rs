//! Where the ports of a stage lead: to topics, and out of Kafka.

use super::elasticsearch::IndexOutput;
use super::errors::{At, Location};
use super::mail::MailOutput;
use super::webhook::WebhookOutput;

/// Where a stage's ports lead.
#[derive(Clone, Debug)]
pub enum Outputs {
    /// `output: TARGET`: where the plugin's only port leads.
    Single(Target),
    /// `outputs: {PORT: TARGET}`: where each port leads, in the order of the file.
    ByPort(Vec<PortOutput>),
}

impl Outputs {
    /// Where the ports lead, in the order of the file.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let (single, by_port) = match self {
            Self::Single(target) => (Some(target), [].as_slice()),
            Self::ByPort(ports) => (None, ports.as_slice()),
        };
        single.into_iter().chain(by_port.iter().map(|output| &output.target))
    }

    /// Every topic that is written to, in the order of the file.
    pub fn topics(&self) -> impl Iterator<Item = &At<String>> {
        self.targets().filter_map(|target| match target {
            Target::Topic(topic) => Some(topic),
            Target::Elasticsearch(_) | Target::Webhook(_) | Target::Smtp(_) => None,
        })
    }

    /// Every output that writes documents, in the order of the file.
    pub fn indices(&self) -> impl Iterator<Item = &IndexOutput> {
        self.targets().filter_map(|target| match target {
            Target::Elasticsearch(output) => Some(output.as_ref()),
            Target::Topic(_) | Target::Webhook(_) | Target::Smtp(_) => None,
        })
    }

    /// Every output that sends mail, in the order of the file.
    pub fn mails(&self) -> impl Iterator<Item = &MailOutput> {
        self.targets().filter_map(|target| match target {
            Target::Smtp(output) => Some(output.as_ref()),
            Target::Topic(_) | Target::Elasticsearch(_) | Target::Webhook(_) => None,
        })
    }
}

/// Where a port leads.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a topic.
    Topic(At<String>),
    /// To an index of Elasticsearch.
    Elasticsearch(Box<IndexOutput>),
    /// To a web server.
    Webhook(Box<WebhookOutput>),
    /// To mailboxes.
    Smtp(Box<MailOutput>),
}

impl Target {
    /// Where it stands in the file.
    pub fn at(&self) -> Location {
        match self {
            Self::Topic(topic) => topic.at,
            Self::Elasticsearch(output) => output.at,
            Self::Webhook(output) => output.at,
            Self::Smtp(output) => output.at,
        }
    }
}

/// One port and where it leads.
#[derive(Clone, Debug)]
pub struct PortOutput {
    /// The port's name, with the place of the key.
    pub port: At<String>,
    /// Where it leads.
    pub target: Target,
}
