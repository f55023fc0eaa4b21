//! HTTP/1.1 messages, as far as a proxy between a client and Elasticsearch needs them: a head and a whole body.

use std::io::{self, BufRead, Read as _, Write};

/// A request or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `POST /_bulk HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) first_line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// An answer of the proxy's own.
    pub(crate) fn answer(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            first_line: format!("HTTP/1.1 {status} From the proxy"),
            headers: vec![("content-type".to_owned(), kind.to_owned())],
            body: body.into(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// The second word of the first line: a request's path with its query, or an answer's status.
    pub(crate) fn second_word(&self) -> &str {
        self.first_line.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.first_line.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        self.second_word().parse().unwrap_or_default()
    }

    /// How many bytes of body the head announces.
    pub(crate) fn announced(&self) -> usize {
        self.header("content-length")
            .and_then(|length| length.trim().parse().ok())
            .unwrap_or_default()
    }

    /// Reads a head. None: the other side has nothing more to say.
    pub(crate) fn read_head(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let mut lines = lines.into_iter();
        let Some(first_line) = lines.next() else {
            return Ok(None);
        };
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        Ok(Some(Self {
            first_line,
            headers: headers.collect(),
            body: Vec::new(),
        }))
    }

    /// Reads the body that belongs to the head.
    pub(crate) fn read_body(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        let is_chunked = self
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if !is_chunked {
            self.body = vec![0; self.announced()];
            return from.read_exact(&mut self.body);
        }
        loop {
            let mut size = String::new();
            from.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let before = self.body.len();
            from.take(size as u64).read_to_end(&mut self.body)?;
            if self.body.len() - before < size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The line's end behind a chunk, and the empty line behind the last one.
            from.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// The whole message, its body announced by its length.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head_bytes(self.body.len());
        bytes.extend(&self.body);
        bytes
    }

    /// The head, with a body of so many bytes announced.
    pub(crate) fn head_bytes(&self, announced: usize) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.first_line).into_bytes();
        let framing = ["content-length", "transfer-encoding"];
        for (name, value) in &self.headers {
            if !framing.iter().any(|other| name.eq_ignore_ascii_case(other)) {
                bytes.extend(format!("{name}: {value}\r\n").into_bytes());
            }
        }
        bytes.extend(format!("content-length: {announced}\r\n\r\n").into_bytes());
        bytes
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    fn read(text: &str) -> Message {
        let mut from = text.as_bytes();
        let mut message = Message::read_head(&mut from).unwrap().unwrap();
        message.read_body(&mut from).unwrap();
        assert!(from.is_empty(), "{} bytes are left", from.len());
        message
    }

    #[test]
    fn a_body_is_read_by_its_length_or_in_chunks() {
        for text in [
            "POST /_bulk?x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "POST /_bulk?x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ] {
            let message = read(text);
            assert_eq!((message.method(), message.second_word()), ("POST", "/_bulk?x"));
            assert_eq!(message.body, b"hello");
            assert!(message.bytes().ends_with(b"content-length: 5\r\n\r\nhello"));
        }
    }
}
