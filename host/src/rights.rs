//! The rights that a pipeline needs on a cluster with ACLs, and the words for one that is missing. Pure.
//!
//! A right is an operation on a resource, both named as `kafka-acls.sh` names them, so that what is missing can be given by the command line that
//! stands beside it. `Read` and `Write` bring `Describe` with them.

use std::fmt;

use crate::config::{Guarantee, Kafka, KafkaValue, Location, Pipeline, Stage};

/// What an operator can do who reads that a right is missing while a stage runs.
pub(crate) const HINT: &str = "`wasmill check --connect` names every right that is missing and how to give it";

/// What may be done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read,
    Write,
    Create,
    Describe,
    DescribeConfigs,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
        })
    }
}

/// What a right is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Topic(String),
    Group(String),
    /// All transactional ids that begin so.
    TransactionalIds(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(formatter, "topic `{name}`"),
            Self::Group(name) => write!(formatter, "group `{name}`"),
            Self::TransactionalIds(prefix) => write!(formatter, "transactional ids `{prefix}*`"),
        }
    }
}

/// One right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    pub(crate) operation: Operation,
    pub(crate) resource: Resource,
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the right {} on {}", self.operation, self.resource)
    }
}

impl Right {
    pub(crate) fn on_topic(operation: Operation, name: &str) -> Self {
        Self {
            operation,
            resource: Resource::Topic(name.to_owned()),
        }
    }

    pub(crate) fn on_group(name: &str) -> Self {
        Self {
            operation: Operation::Read,
            resource: Resource::Group(name.to_owned()),
        }
    }

    /// For a stage that misses this right while it runs.
    pub(crate) fn lost(&self) -> String {
        format!("{self} is missing; {HINT}")
    }

    /// The command line that gives this right to the user whom the brokers see.
    pub(crate) fn grant(&self, kafka: &Kafka) -> String {
        let servers = kafka
            .get("bootstrap.servers")
            .map_or("", |servers| servers.value.expose());
        let (user, operation) = (quoted(&format!("User:{}", user(kafka))), self.operation);
        let resource = match &self.resource {
            Resource::Topic(name) => format!("--topic {}", quoted(name)),
            Resource::Group(name) => format!("--group {}", quoted(name)),
            Resource::TransactionalIds(prefix) => {
                format!("--transactional-id {} --resource-pattern-type prefixed", quoted(prefix))
            }
        };
        format!(
            "kafka-acls.sh --bootstrap-server {} --command-config admin.properties --add --allow-principal {user} \
             --operation {operation} {resource}",
            quoted(servers)
        )
    }
}

/// A right that a stage needs, with the place in the pipeline file that it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) right: Right,
    pub(crate) at: Location,
    /// What it is needed for: "stage `copy`: input".
    pub(crate) what: String,
}

impl Need {
    /// The topic that it is about; empty where it is about something else.
    pub(crate) fn topic(&self) -> &str {
        match &self.right.resource {
            Resource::Topic(name) => name,
            _ => "",
        }
    }

    /// What to say where the right is missing.
    pub(crate) fn missing(&self, kafka: &Kafka) -> String {
        let (what, right, grant) = (&self.what, &self.right, self.right.grant(kafka));
        format!("{what}: {right} is missing; give it by: {grant}")
    }

    /// The same, where the topic may not exist either: the brokers tell nobody who may not see it.
    pub(crate) fn hidden(&self, kafka: &Kafka) -> String {
        let (what, right, grant) = (&self.what, &self.right, self.right.grant(kafka));
        format!("{what}: {right} is missing, or the topic does not exist; give the right by: {grant}")
    }
}

/// The rights on topics that the stages need, in the order of the file.
pub(crate) fn on_topics(pipeline: &Pipeline) -> Vec<Need> {
    let mut needs = Vec::new();
    for stage in &pipeline.stages {
        let mut need = |operation, name: &str, at, what: &str| {
            needs.push(Need {
                right: Right::on_topic(operation, name),
                at,
                what: format!("stage `{}`: {what} topic", stage.name.value),
            });
        };
        for topic in &stage.input.topics {
            need(Operation::Read, topic, topic.at, "input");
        }
        for topic in stage.outputs.topics() {
            need(Operation::Write, topic, topic.at, "output");
        }
        let dead_letter = &stage.on_fault.dead_letter;
        need(Operation::Write, dead_letter, dead_letter.at, "dead-letter");
    }
    needs
}

/// The right on its group that a stage needs.
pub(crate) fn on_group(stage: &Stage) -> Need {
    Need {
        right: Right::on_group(&stage.group),
        at: stage.group.at,
        what: format!("stage `{}`: consumer group", stage.name.value),
    }
}

/// The right on its transactional ids that a stage needs, if it writes in transactions. The ids hold the process's `instance`, so only what they
/// begin with is known to whoever gives the right.
pub(crate) fn on_transactional_ids(pipeline: &Pipeline, stage: &Stage) -> Option<Need> {
    (stage.guarantee.value == Guarantee::ExactlyOnce).then(|| Need {
        right: Right {
            operation: Operation::Write,
            resource: Resource::TransactionalIds(format!("{}.{}.", pipeline.app.value, stage.name.value)),
        },
        at: stage.name.at,
        what: format!("stage `{}`: transactions", stage.name.value),
    })
}

/// The name that the brokers know this user by, where it is known here and no secret.
fn user(kafka: &Kafka) -> &str {
    match kafka.get("sasl.username").map(|name| &name.value.value) {
        Some(KafkaValue::Plain(name)) => name,
        _ => "NAME",
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".,:_-".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Broker};

    fn pipeline(user: &str) -> Pipeline {
        let text = format!(
            "app: shop\nkafka: {{bootstrap.servers: \"k1:9093,k2:9093\", security.protocol: sasl_ssl, sasl.mechanism: \
             SCRAM-SHA-512, sasl.username: {user}, sasl.password: hush}}\n\
             stages: {{dear: {{plugin: p.wasm, input: products, output: dear}}}}\n"
        );
        let variables = |name: &str| (name == "SHOP_USER").then(|| "alice".to_owned());
        config::parse(&text, "p.yaml".as_ref(), &variables, Broker::Configured).unwrap()
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_gives_it() {
        let pipeline = pipeline("alice");
        let needs = on_topics(&pipeline);
        assert_eq!(
            needs[0].missing(&pipeline.kafka),
            "stage `dear`: input topic: the right Read on topic `products` is missing; give it by: kafka-acls.sh \
             --bootstrap-server k1:9093,k2:9093 --command-config admin.properties --add --allow-principal User:alice \
             --operation Read --topic products"
        );
        let ids = on_transactional_ids(&pipeline, &pipeline.stages[0]).unwrap();
        let grant = ids.right.grant(&pipeline.kafka);
        assert!(grant.ends_with("--operation Write --transactional-id shop.dear. --resource-pattern-type prefixed"));
    }

    #[test]
    fn a_name_that_a_shell_would_take_apart_is_quoted() {
        let pipeline = pipeline("\"CN=it's me; rm -rf\"");
        let grant = on_group(&pipeline.stages[0]).right.grant(&pipeline.kafka);
        assert!(
            grant.contains(r"--allow-principal 'User:CN=it'\''s me; rm -rf' --operation Read"),
            "{grant}"
        );
    }

    #[test]
    fn a_user_who_is_a_secret_is_not_named() {
        let pipeline = pipeline("{env: SHOP_USER}");
        let grant = on_group(&pipeline.stages[0]).right.grant(&pipeline.kafka);
        assert!(grant.contains("User:NAME") && !grant.contains("alice"), "{grant}");
    }
}
