//! Asks one particular broker what it knows of its cluster, by Kafka's own protocol: a client library asks whichever broker it likes, and one
//! that was frozen a moment ago tells of a cluster as it was before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A broker that is alive answers within milliseconds; one that is frozen takes the connection and never does.
const ANSWER: Duration = Duration::from_secs(2);

const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;

/// What has a coordinator, by the protocol's number for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Coordinated {
    Group = 0,
    Transaction = 1,
}

/// One partition, as a broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) number: i32,
    pub(crate) leader: i32,
    pub(crate) replicas: usize,
    pub(crate) in_sync: usize,
}

/// The cluster, as a broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Ids of the brokers that serve.
    pub(crate) brokers: Vec<i32>,
    pub(crate) partitions: Vec<Partition>,
}

impl Metadata {
    /// Every replica of every partition is in sync.
    pub(crate) fn is_whole(&self) -> bool {
        self.partitions
            .iter()
            .all(|partition| partition.leader >= 0 && partition.in_sync == partition.replicas)
    }

    pub(crate) fn leader(&self, topic: &str, number: i32) -> Option<i32> {
        self.partitions
            .iter()
            .find(|partition| partition.topic == topic && partition.number == number)
            .map(|partition| partition.leader)
            .filter(|leader| *leader >= 0)
    }
}

/// Everything that the broker knows. None: it does not answer.
pub(crate) fn metadata(broker: SocketAddr) -> Option<Metadata> {
    // All topics: none listed.
    let answer = ask(broker, METADATA, 1, &(-1_i32).to_be_bytes())?;
    parse_metadata(&mut Fields(&answer))
}

fn parse_metadata(fields: &mut Fields<'_>) -> Option<Metadata> {
    let brokers = fields.list(|broker| {
        let id = broker.i32()?;
        broker.string()?; // host
        broker.i32()?; // port
        broker.string()?; // rack
        Some(id)
    })?;
    fields.i32()?; // some broker that takes requests for the controller
    let topics = fields.list(|topic| {
        topic.i16()?; // error
        let name = topic.string()?.to_owned();
        topic.take(1)?; // whether it is internal
        topic.list(|partition| {
            partition.i16()?; // error
            Some(Partition {
                topic: name.clone(),
                number: partition.i32()?,
                leader: partition.i32()?,
                replicas: partition.list(Fields::i32)?.len(),
                in_sync: partition.list(Fields::i32)?.len(),
            })
        })
    })?;
    Some(Metadata {
        brokers,
        partitions: topics.into_iter().flatten().collect(),
    })
}

/// The id of the broker that coordinates a group or a transactional id. None: this broker does not answer, or does not know now.
pub(crate) fn coordinator(broker: SocketAddr, what: Coordinated, id: &str) -> Option<i32> {
    let mut body = (id.len() as i16).to_be_bytes().to_vec();
    body.extend(id.as_bytes());
    body.push(what as u8);
    let answer = ask(broker, FIND_COORDINATOR, 1, &body)?;
    let mut fields = Fields(&answer);
    fields.i32()?; // throttled
    let error = fields.i16()?;
    fields.string()?; // its text
    fields.i32().filter(|_| error == 0)
}

/// Sends one request on a connection of its own and returns the body of the answer.
pub(crate) fn ask(broker: SocketAddr, kind: i16, version: i16, body: &[u8]) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    request.extend((10 + body.len() as i32).to_be_bytes());
    request.extend(kind.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // correlation id
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(body);

    let mut stream = TcpStream::connect_timeout(&broker, ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.write_all(&request).ok()?;
    let mut size = [0; 4];
    stream.read_exact(&mut size).ok()?;
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut answer).ok()?;
    // Behind the correlation id.
    answer.get(4..).map(<[u8]>::to_vec)
}

/// Kafka's encoding: big-endian numbers, strings and lists after their length.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A missing string, of length -1, counts as empty.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        let length = self.i16()?.max(0);
        str::from_utf8(self.take(usize::try_from(length).ok()?)?).ok()
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.i32()?.max(0)).map(|_| item(self)).collect()
    }
}
