//! A proxy in front of a real Elasticsearch that does to bulks what networks and busy clusters do, and keeps a record of all of them.
//!
//! A test gives it a [`Script`]: for each bulk, what is to become of it. What the proxy does not spoil is answered by the server behind it. A
//! thread serves a connection; each request is read whole before it is passed on, so that its items are known.

pub(crate) mod bulk;
mod http;
pub(crate) mod record;

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use self::bulk::Item;
use self::http::Message;
use self::record::{Record, Recorder};

/// How often a request that is held looks whether somebody still waits for it.
const LOOK: Duration = Duration::from_millis(20);

/// A bulk, before anything is done about it.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    /// Counted from zero, over all connections.
    pub(crate) number: usize,
    /// Of the body.
    pub(crate) bytes: usize,
    pub(crate) items: Vec<Item>,
}

/// What becomes of a bulk.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Pass,
    /// It is not applied, and answered with this status.
    Refuse(u16),
    /// The items at these places are not applied, and answered with this status; the others are applied.
    RefuseItems(Vec<usize>, u16),
    /// Half of it reaches the server; then both connections are reset.
    ResetRequest,
    /// It is applied, and the connection is reset in the middle of the answer.
    ResetAnswer,
    /// It is applied and never answered.
    NeverAnswer,
    /// It is applied and answered with half of the JSON, as if that were all.
    CutAnswer,
    /// It is applied and answered with a page for people.
    Page,
    /// It is passed on after so long.
    Delay(Duration),
}

impl Fault {
    fn name(&self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Refuse(..) => "refused",
            Self::RefuseItems(..) => "items refused",
            Self::ResetRequest => "request reset",
            Self::ResetAnswer => "answer reset",
            Self::NeverAnswer => "never answered",
            Self::CutAnswer => "answer cut",
            Self::Page => "answered with a page",
            Self::Delay(_) => "delayed",
        }
    }
}

/// Decides about each bulk.
type Script = Box<dyn FnMut(&Bulk) -> Fault + Send>;

/// Whether the server can be reached at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Open,
    /// Every connection is reset.
    Reset,
    /// Requests are taken and neither passed on nor answered.
    Silent,
}

struct Shared {
    upstream: SocketAddr,
    script: Mutex<Script>,
    reach: Mutex<Reach>,
    counts: Mutex<BTreeMap<&'static str, usize>>,
    recorder: Recorder,
    number: AtomicUsize,
    /// So many bulks from now on are reset as soon as half of their body has arrived.
    reset_while_sent: AtomicUsize,
    ended: AtomicBool,
}

/// The proxy; it ends when it is dropped.
pub(crate) struct EsProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl EsProxy {
    /// A proxy that passes everything on to an address without TLS.
    pub(crate) fn new(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = upstream.strip_prefix("http://").expect("the proxy speaks no TLS");
        let shared = Arc::new(Shared {
            upstream: upstream.trim_end_matches('/').parse().unwrap(),
            script: Mutex::new(Box::new(|_| Fault::Pass)),
            reach: Mutex::new(Reach::Open),
            counts: Mutex::default(),
            recorder: Recorder::default(),
            number: AtomicUsize::new(0),
            reset_while_sent: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A connection that ends early is the client's to notice.
                thread::spawn(move || drop(Connection::new(shared, client).and_then(Connection::serve)));
            }
        });
        Self { shared, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What becomes of the bulks from now on.
    pub(crate) fn script(&self, script: impl FnMut(&Bulk) -> Fault + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// Everything is passed on again.
    pub(crate) fn pass(&self) {
        self.script(|_| Fault::Pass);
        self.reach(Reach::Open);
    }

    /// The next bulks are reset while they are being sent.
    pub(crate) fn reset_while_sent(&self, bulks: usize) {
        self.shared.reset_while_sent.store(bulks, Ordering::Relaxed);
    }

    /// Nothing gets through until [`EsProxy::pass`]: connections are reset.
    pub(crate) fn cut_off(&self) {
        self.reach(Reach::Reset);
    }

    /// Nothing gets through until [`EsProxy::pass`]: requests are taken and never answered.
    pub(crate) fn fall_silent(&self) {
        self.reach(Reach::Silent);
    }

    fn reach(&self, reach: Reach) {
        *lock(&self.shared.reach) = reach;
    }

    /// How often the proxy did what, by the names of [`Fault::name`] and `cut off`, `silent`, `reset while sent`.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        lock(&self.shared.counts).clone()
    }

    /// Fails unless it did this at least once: else the test has proved nothing.
    #[track_caller]
    pub(crate) fn did(&self, what: &str) {
        let counts = self.counts();
        assert!(
            counts.get(what).is_some_and(|count| *count > 0),
            "never `{what}`: {counts:?}"
        );
    }

    /// All bulks so far, in the order in which they arrived.
    pub(crate) fn bulks(&self) -> Vec<Record> {
        self.shared.recorder.records()
    }
}

impl Drop for EsProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // The listener wakes up and sees it.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The other side sees a reset, not an end.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// A client's connection with the one behind it.
struct Connection {
    shared: Arc<Shared>,
    client: TcpStream,
    from_client: BufReader<TcpStream>,
    /// Made for the first request, and made anew when it breaks.
    server: Option<BufReader<TcpStream>>,
}

impl Connection {
    fn new(shared: Arc<Shared>, client: TcpStream) -> io::Result<Self> {
        client.set_nodelay(true)?;
        let from_client = BufReader::new(client.try_clone()?);
        Ok(Self {
            shared,
            client,
            from_client,
            server: None,
        })
    }

    fn count(&self, what: &'static str) {
        *lock(&self.shared.counts).entry(what).or_default() += 1;
    }

    /// The error ends the connection.
    fn serve(mut self) -> io::Result<()> {
        while let Some(request) = Message::read_head(&mut self.from_client)? {
            // Answers are looked into, so they are not to be compressed.
            let request = request.without("accept-encoding");
            let reach = *lock(&self.shared.reach);
            match reach {
                Reach::Open => self.serve_one(request)?,
                Reach::Reset => {
                    self.count("cut off");
                    reset(&self.client);
                    return Err(broken());
                }
                Reach::Silent => {
                    self.count("silent");
                    let reach = Arc::clone(&self.shared);
                    self.hold(|| *lock(&reach.reach) == Reach::Silent);
                    reset(&self.client);
                    return Err(broken());
                }
            }
        }
        Ok(())
    }

    fn serve_one(&mut self, mut request: Message) -> io::Result<()> {
        let path = request.second_word().split('?').next().unwrap_or_default();
        let in_path = path.trim_matches('/').strip_suffix("_bulk");
        let index = in_path.map(|index| index.trim_end_matches('/').to_owned());
        let Some(index) = index else {
            request.read_body(&mut self.from_client)?;
            let answer = self.ask(&request)?;
            return self.answer(&request, &answer);
        };
        self.reset_while_sent(&mut request)?;
        request.read_body(&mut self.from_client)?;
        let named = Some(index.as_str()).filter(|index| !index.is_empty());
        let bulk = Bulk {
            number: self.shared.number.fetch_add(1, Ordering::Relaxed),
            bytes: request.body.len(),
            items: bulk::parse(&request.body, named),
        };
        let fault = lock(&self.shared.script)(&bulk);
        self.count(fault.name());
        self.shared.recorder.began(&bulk, fault.name());
        let number = bulk.number;
        let done = self.spoil(request, bulk, fault);
        self.shared.recorder.ended(number);
        done
    }

    /// Half of the body reaches the server, and the client has not sent the other half yet.
    fn reset_while_sent(&mut self, request: &mut Message) -> io::Result<()> {
        let left = &self.shared.reset_while_sent;
        let announced = request.announced();
        let take = |left: usize| left.checked_sub(1);
        if announced < 2 || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Ok(());
        }
        self.count("reset while sent");
        let mut half = vec![0; announced / 2];
        io::Read::read_exact(&mut self.from_client, &mut half)?;
        self.break_off(&request.head_bytes(announced), &half)
    }

    /// Sends the server a part of a request and resets both sides.
    fn break_off(&mut self, head: &[u8], part: &[u8]) -> io::Result<()> {
        let server = self.server()?.get_mut();
        server.write_all(head)?;
        server.write_all(part)?;
        reset(server);
        reset(&self.client);
        Err(broken())
    }

    fn spoil(&mut self, mut request: Message, bulk: Bulk, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Pass => {}
            Fault::Delay(time) => thread::sleep(time),
            Fault::Refuse(status) => {
                let error = json!({"type": "made_up_by_the_proxy", "reason": "the proxy says so"});
                let body = json!({"error": error, "status": status}).to_string();
                return self.answer_bulk(
                    &request,
                    bulk.number,
                    &Message::answer(status, "application/json", body),
                );
            }
            Fault::RefuseItems(refused, status) => {
                let answer = self.ask_without(&mut request, &bulk, &refused, status)?;
                return self.answer_bulk(&request, bulk.number, &answer);
            }
            Fault::ResetRequest => {
                let half = request.body.len() / 2;
                return self.break_off(&request.head_bytes(request.body.len()), &request.body[..half]);
            }
            Fault::ResetAnswer => {
                let answer = self.ask(&request)?.bytes();
                self.shared.recorder.ended(bulk.number);
                self.client.write_all(&answer[..answer.len() / 2])?;
                reset(&self.client);
                return Err(broken());
            }
            Fault::NeverAnswer => {
                self.ask(&request)?;
                self.hold(|| true);
                return Err(broken());
            }
            Fault::CutAnswer => {
                let mut answer = self.ask(&request)?;
                answer.body.truncate(answer.body.len() / 2);
                return self.answer_bulk(&request, bulk.number, &answer);
            }
            Fault::Page => {
                self.ask(&request)?;
                let page = "<html><body>All is well, says the load balancer</body></html>";
                return self.answer_bulk(&request, bulk.number, &Message::answer(200, "text/html", page));
            }
        }
        let answer = self.ask(&request)?;
        self.answer_bulk(&request, bulk.number, &answer)
    }

    /// Asks for all but some items, and answers for those itself.
    fn ask_without(
        &mut self,
        request: &mut Message,
        bulk: &Bulk,
        refused: &[usize],
        status: u16,
    ) -> io::Result<Message> {
        request.body = bulk::without(&bulk.items, refused);
        let rest = match request.body.is_empty() {
            true => None,
            false => Some(self.ask(request)?),
        };
        let rest = match rest {
            Some(rest) if rest.status() != 200 => return Ok(rest),
            Some(rest) => Some(rest.body),
            None => None,
        };
        let body = bulk::woven(&bulk.items, refused, status, rest.as_deref());
        Ok(Message::answer(200, "application/json", body))
    }

    /// The bulk ends before its answer is there: the client may send the next one at once, on another connection.
    fn answer_bulk(&mut self, request: &Message, number: usize, answer: &Message) -> io::Result<()> {
        let statuses = bulk::statuses(&answer.body);
        self.shared.recorder.answered(number, answer.status(), statuses);
        self.shared.recorder.ended(number);
        self.answer(request, answer)
    }

    /// Waits for as long as the client does, or until there is no more reason to.
    fn hold(&mut self, goes_on: impl Fn() -> bool) {
        let _ = self.client.set_read_timeout(Some(LOOK));
        while goes_on() && !self.shared.ended.load(Ordering::Relaxed) {
            match self.client.peek(&mut [0]) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Ok(0) | Err(_) => break,
                // Rest of a request that nobody is going to read.
                Ok(_) => thread::sleep(LOOK),
            }
        }
    }

    fn server(&mut self) -> io::Result<&mut BufReader<TcpStream>> {
        let server = match self.server.take() {
            Some(server) => server,
            None => {
                let stream = TcpStream::connect(self.shared.upstream)?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        Ok(self.server.insert(server))
    }

    fn ask(&mut self, request: &Message) -> io::Result<Message> {
        let is_head = request.method() == "HEAD";
        let server = self.server()?;
        request.write(server.get_mut())?;
        let mut answer = Message::read_head(server)?.ok_or_else(broken)?;
        if !is_head {
            answer.read_body(server)?;
        }
        Ok(answer)
    }

    fn answer(&mut self, request: &Message, answer: &Message) -> io::Result<()> {
        match request.method() {
            // Its length is that of a body that is not sent.
            "HEAD" => self.client.write_all(&answer.head_bytes(answer.announced())),
            _ => answer.write(&mut self.client),
        }
    }
}
