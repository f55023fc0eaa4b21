//! What a stage has besides topics, for one worker: its lanes, what goes into them, and what comes back.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::runtime::Handle;

use super::lanes::{Lanes, Told};
use super::{Claim, Health, Item, Receipt, Ticket};
use crate::alerts::Alerts;
use crate::alerts::mail::{self, Mail, Mailer};
use crate::alerts::webhook::{self, Post, Webhook};
use crate::config::{Location, MailOutput, Pipeline, Stage, Target, WebhookOutput};
use crate::dead_letter::Origin;
use crate::elasticsearch::{self, Bulk, Client, Document, Index};
use crate::fault::Fault;
use crate::metrics::{ExitMetrics, StageMetrics};
use crate::route::Export;

/// How often it is looked whether lanes have ended.
const LOOK: Duration = Duration::from_millis(5);

/// The connections of a process, shared by its workers.
#[derive(Clone, Default)]
pub(crate) struct Clients {
    pub(crate) elasticsearch: Option<Arc<Client>>,
    pub(crate) alerts: Alerts,
}

impl Clients {
    /// Prepares what the pipeline needs; nothing is connected.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub(crate) fn new(pipeline: &Pipeline) -> Result<Self> {
        let elasticsearch = match &pipeline.elasticsearch {
            Some(section) => Some(Arc::new(Client::new(section)?)),
            None => None,
        };
        Ok(Self {
            elasticsearch,
            alerts: Alerts::new(pipeline)?,
        })
    }
}

/// An output that is no topic. Those of the same group share their lanes.
#[derive(Clone)]
pub(crate) struct Exit {
    pub(crate) kind: ExitKind,
    /// Place in the list of groups.
    pub(crate) group: usize,
    /// Where it stands in the pipeline file.
    pub(crate) at: Location,
}

/// What an exit is.
#[derive(Clone)]
pub(crate) enum ExitKind {
    Elasticsearch(Arc<Index>),
    /// With the stage's group, as the next one.
    Webhook(Arc<(WebhookOutput, String)>),
    Smtp(Arc<(MailOutput, String)>),
}

/// An item of one output, with where it goes.
pub(crate) struct Parcel {
    group: usize,
    content: Content,
    order: u64,
    pub(crate) bytes: usize,
}

enum Content {
    Document(Document),
    Post(Post),
    Mail(Mail),
}

impl Exit {
    /// The exits of a stage, in the order of the file.
    pub(crate) fn all(stage: &Stage) -> Vec<Exit> {
        let mut groups: Vec<String> = Vec::new();
        let exits = stage.outputs.targets().filter_map(|target| {
            let (kind, name) = match target {
                Target::Topic(_) => return None,
                Target::Elasticsearch(output) => (
                    ExitKind::Elasticsearch(Arc::new(Index::new(output, stage))),
                    elasticsearch::name_of(output),
                ),
                // Two outputs to one server share nothing: no order, no headers.
                Target::Webhook(output) => (
                    ExitKind::Webhook(Arc::new((WebhookOutput::clone(output), stage.group.value.clone()))),
                    format!("{:?}", output.at),
                ),
                Target::Smtp(output) => (
                    ExitKind::Smtp(Arc::new((MailOutput::clone(output), stage.group.value.clone()))),
                    format!("{:?}", output.at),
                ),
            };
            let known = groups.iter().position(|known| *known == name);
            let group = known.unwrap_or_else(|| {
                groups.push(name);
                groups.len() - 1
            });
            Some(Exit {
                kind,
                group,
                at: target.at(),
            })
        });
        exits.collect()
    }

    /// What metrics and `/status` call its group.
    pub(crate) fn name(&self) -> String {
        match &self.kind {
            ExitKind::Elasticsearch(index) => index.name(),
            ExitKind::Webhook(output) => webhook::name(&output.0),
            ExitKind::Smtp(_) => mail::NAME.to_owned(),
        }
    }

    /// Makes what is sent of what the plugin wants sent; none where there is nothing to send.
    ///
    /// # Errors
    /// The fault of a record that this output can never take.
    pub(crate) fn parcel(&self, export: &Export<'_>, origin: Origin<'_>) -> Result<Option<Parcel>, Fault> {
        let (content, order, bytes) = match &self.kind {
            ExitKind::Elasticsearch(index) => {
                let document = index.document(export, origin)?;
                let (order, bytes) = (document.order(), document.bytes());
                (Content::Document(document), order, bytes)
            }
            ExitKind::Webhook(output) => {
                let post = Post::new(&output.1, export, origin)?;
                let (order, bytes) = (post.order(), post.bytes());
                (Content::Post(post), order, bytes)
            }
            ExitKind::Smtp(output) => {
                let mail = Mail::new(&output.0, &output.1, export, origin)?;
                let (order, bytes) = (mail.order(), mail.bytes());
                (Content::Mail(mail), order, bytes)
            }
        };
        Ok(Some(Parcel {
            group: self.group,
            content,
            order,
            bytes,
        }))
    }
}

/// What an item has besides its content.
struct Label {
    order: u64,
    bytes: usize,
    ticket: Ticket,
    claim: Claim,
    is_repeated: bool,
}

impl Label {
    fn on<C>(self, content: C) -> Item<C> {
        Item {
            content,
            order: self.order,
            bytes: self.bytes,
            ticket: self.ticket,
            claim: self.claim,
            tries: 0,
            is_repeated: self.is_repeated,
        }
    }
}

/// The lanes of one group.
enum Group {
    Elasticsearch(Lanes<Bulk>),
    Webhook(Lanes<Webhook>),
    Smtp(Lanes<Mailer>),
}

/// The exits of one worker.
pub(crate) struct Exits {
    exits: Vec<Exit>,
    groups: Vec<Group>,
    receipts: mpsc::Receiver<Vec<Receipt>>,
}

impl Exits {
    /// Starts the lanes; `healths`: how each group is, as the stage shows it.
    pub(crate) fn start(
        exits: &[Exit],
        clients: &Clients,
        healths: &[Arc<Health>],
        metrics: &StageMetrics,
        runtime: &Handle,
    ) -> Self {
        let (sender, receipts) = mpsc::channel();
        let mut groups = Vec::new();
        for (group, health) in healths.iter().enumerate() {
            let Some(exit) = exits.iter().find(|exit| exit.group == group) else {
                continue;
            };
            let told = Told {
                receipts: sender.clone(),
                health: Arc::clone(health),
                metrics: ExitMetrics::new(metrics, &exit.name()),
            };
            match &exit.kind {
                ExitKind::Elasticsearch(index) => {
                    let client = clients.elasticsearch.clone().unwrap_or_default();
                    let bulk = Arc::new(Bulk::new(client, index));
                    groups.push(Group::Elasticsearch(Lanes::start(runtime, &bulk, index.lanes(), &told)));
                }
                ExitKind::Webhook(output) => {
                    let webhook = Arc::new(Webhook::new(clients.alerts.clone(), &output.0));
                    let lanes = usize::from(output.0.effort.lanes);
                    groups.push(Group::Webhook(Lanes::start(runtime, &webhook, lanes, &told)));
                }
                ExitKind::Smtp(output) => {
                    let mailer = Arc::new(Mailer::new(clients.alerts.clone(), &output.0));
                    let lanes = usize::from(output.0.effort.lanes);
                    groups.push(Group::Smtp(Lanes::start(runtime, &mailer, lanes, &told)));
                }
            }
        }
        Self {
            exits: exits.to_vec(),
            groups,
            receipts,
        }
    }

    pub(crate) fn exit(&self, place: usize) -> &Exit {
        &self.exits[place]
    }

    /// Hands parcels to their lanes, those of one lane in this order.
    pub(crate) fn send(&self, parcels: Vec<(Parcel, Ticket, Claim, bool)>) {
        let mut documents: Vec<Vec<Item<Document>>> = self.groups.iter().map(|_| Vec::new()).collect();
        for (parcel, ticket, claim, is_repeated) in parcels {
            let label = Label {
                order: parcel.order,
                bytes: parcel.bytes,
                ticket,
                claim,
                is_repeated,
            };
            match (parcel.content, &self.groups[parcel.group]) {
                (Content::Document(document), _) => documents[parcel.group].push(label.on(document)),
                (Content::Post(post), Group::Webhook(lanes)) => lanes.send([label.on(post)]),
                (Content::Mail(mail), Group::Smtp(lanes)) => lanes.send([label.on(mail)]),
                // What a parcel holds was made for its group.
                (Content::Post(_) | Content::Mail(_), _) => {}
            }
        }
        for (group, documents) in self.groups.iter().zip(documents) {
            if let Group::Elasticsearch(lanes) = group {
                lanes.send(documents);
            }
        }
    }

    /// What was acknowledged or refused since; waits this long for the first of it.
    pub(crate) fn receipts(&self, wait: Duration) -> Vec<Receipt> {
        let mut all = match wait.is_zero() {
            true => Vec::new(),
            false => self.receipts.recv_timeout(wait).unwrap_or_default(),
        };
        all.extend(self.receipts.try_iter().flatten());
        all
    }

    /// Ends the lanes; waits so long for what is in flight.
    pub(crate) fn end(mut self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut are_over = || {
            self.groups.iter_mut().all(|group| match group {
                Group::Elasticsearch(lanes) => lanes.are_over(),
                Group::Webhook(lanes) => lanes.are_over(),
                Group::Smtp(lanes) => lanes.are_over(),
            })
        };
        while !are_over() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }
}
