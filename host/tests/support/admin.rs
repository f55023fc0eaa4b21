//! The host's HTTP endpoints, seen from outside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Status and body of a GET. None: nothing answers there (yet).
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    call(port, "GET", path, None, &[])
}

/// Status and body of the answer to a request with this token and body. None: nothing answers there (yet).
pub(crate) fn call(port: u16, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let len = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{token}Content-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The sum of a metric's samples whose labels contain all of `labels` (`stage="copy"`). None: there is no such sample.
pub(crate) fn metric(exposition: &str, name: &str, labels: &[&str]) -> Option<f64> {
    exposition
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
        .filter(|(sample, _)| sample.is_empty() || sample.starts_with('{'))
        .filter(|(sample, _)| labels.iter().all(|label| sample.contains(label)))
        .map(|(_, value)| value.parse::<f64>().expect("a sample's value is a number"))
        .reduce(|sum, value| sum + value)
}
