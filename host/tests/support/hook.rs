//! A web server that keeps what it is sent, and answers as a test wants: also too late, or not at all.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// By their names in small letters.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

impl Request {
    pub(crate) fn name(&self) -> &str {
        &self.headers["idempotency-key"]
    }
}

/// What a request gets.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status, one more header line (with its end, or nothing), body.
    Status(u16, String, String),
    /// The connection ends.
    HangUp,
    /// The same, after this long.
    Silence(Duration),
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Status(status, String::new(), String::new())
    }
}

type Plan = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// The server. It serves until the process ends.
pub(crate) struct Hook {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Hook {
    /// `plan` gets each request, and how many with the same body came before it.
    pub(crate) fn start(plan: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(0, plan)
    }

    pub(crate) fn on(port: u16, plan: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let (kept, plan): (_, Arc<Plan>) = (Arc::clone(&requests), Arc::new(plan));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, plan) = (Arc::clone(&kept), Arc::clone(&plan));
                thread::spawn(move || serve(stream, &kept, plan.as_ref()));
            }
        });
        Self { port, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, kept: &Mutex<Vec<Request>>, plan: &Plan) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let request = read(&mut reader)?;
        let before = {
            let mut kept = kept.lock().unwrap();
            let before = kept.iter().filter(|other| other.body == request.body).count();
            kept.push(request.clone());
            before
        };
        match plan(&request, before) {
            Reply::HangUp => return None,
            Reply::Silence(long) => {
                thread::sleep(long);
                return None;
            }
            Reply::Status(status, header, body) => {
                let len = body.len();
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {len}\r\n{header}\r\n{body}");
                stream.write_all(answer.as_bytes()).ok()?;
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        path,
        headers,
        body: String::from_utf8(body).ok()?,
        at: Instant::now(),
    })
}
