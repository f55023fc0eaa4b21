//! Sends records as mail.
//!
//! A connection is encrypted and logged in before anything is sent, and used again while the server keeps it. Whatever goes wrong until then says
//! nothing of a mail and is tried again, a refused password too; what the server says of a mail itself decides about that mail: 4xx is tried
//! again, 5xx is a dead letter. Addresses and subjects hold foreign bytes: one address is read as one address, and everything is written by the
//! mail library, which knows no line breaks within a header.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use super::{Alerts, Since, again, certificates, name_of, order_of};
use crate::config::{Encryption, MailOutput, MailServer, RECIPIENTS_MAX, Recipients, Told};
use crate::dead_letter::Origin;
use crate::external::{Answer, Bounds, Item, Sender};
use crate::fault::{Fault, Kind};
use crate::pointer;
use crate::printable::one_line;
use crate::route::Export;

/// What metrics and `/status` call outputs of this kind.
pub(crate) const NAME: &str = "smtp";
/// Connections that are kept for the next mail.
const IDLE_MAX: usize = 8;
/// Both send the password, which is why a login is only made on an encrypted connection.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// One mail, written out.
pub(crate) struct Mail {
    envelope: Envelope,
    subject: String,
    bytes: Vec<u8>,
    order: u64,
    since: Since,
}

impl Mail {
    /// `group`: the stage's, which tells its mails from those that another stage writes of the same record.
    ///
    /// # Errors
    /// The fault of a record that can be no mail: no text, no address where one should be.
    pub(crate) fn new(
        output: &MailOutput,
        group: &str,
        export: &Export<'_>,
        origin: Origin<'_>,
    ) -> Result<Self, Fault> {
        write(output, group, export, origin).map_err(|text| Fault::new(Kind::Refused, text))
    }

    pub(crate) fn order(&self) -> u64 {
        self.order
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

fn write(output: &MailOutput, group: &str, export: &Export<'_>, origin: Origin<'_>) -> Result<Mail, String> {
    let value = export
        .value
        .ok_or("the record has no value, so there is nothing to write")?;
    let text = std::str::from_utf8(value).map_err(|_| "the value is not UTF-8 text, and a mail is".to_owned())?;
    let reads_json = output.subject.reads_json() || matches!(output.to, Recipients::Field { .. });
    let is_json = reads_json && serde_json::from_str::<IgnoredAny>(text).is_ok();
    let json = is_json.then_some(text);
    let subject = output.subject.of(Told {
        json,
        key: export.key,
        topic: origin.topic,
        partition: origin.partition,
        offset: origin.offset,
    });
    let to = match &output.to {
        Recipients::Fixed(all) => all.clone(),
        Recipients::Field { pointer, domains } => named(json, pointer, domains)?,
    };
    let name = name_of(origin, export.number);
    let id = format!("<{name}.{}@{}>", group, output.from.email.domain());
    let mut builder = Message::builder()
        .from(output.from.clone())
        .subject(&subject)
        .message_id(Some(id))
        .header(ContentType::TEXT_PLAIN)
        // No machine answers a machine (RFC 3834).
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ));
    for mailbox in to {
        builder = builder.to(mailbox);
    }
    let message = builder
        .body(with_mail_line_breaks(text))
        .map_err(|error| format!("no mail can be written: {error}"))?;
    Ok(Mail {
        envelope: message.envelope().clone(),
        subject,
        bytes: message.formatted(),
        order: order_of(export.key, &name),
        since: Since::default(),
    })
}

/// Every line break as mail has it. The mail library would do so in a time that grows with the square of the length, and would let a `\r` alone pass,
/// which some servers take for the end of a line.
fn with_mail_line_breaks(text: &str) -> String {
    let mut broken = String::with_capacity(text.len() + text.len() / 16);
    let mut rest = text;
    while let Some(at) = rest.find(['\r', '\n']) {
        broken.push_str(&rest[..at]);
        broken.push_str("\r\n");
        let line_break = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[at + line_break..];
    }
    broken.push_str(rest);
    broken
}

/// The addresses that a record names.
fn named(json: Option<&str>, pointer: &str, domains: &[String]) -> Result<Vec<Mailbox>, String> {
    let json = json.ok_or("the value is not JSON, so it names no address")?;
    let found = match pointer::find(json, pointer::steps(pointer)) {
        Some(all) if all.starts_with('[') => {
            let all: Vec<&RawValue> = serde_json::from_str(all).unwrap_or_default();
            all.into_iter().map(RawValue::get).collect()
        }
        Some(one) => vec![one],
        None => Vec::new(),
    };
    if found.is_empty() || found.len() > RECIPIENTS_MAX {
        return Err(format!(
            "the value has {} addresses at `{pointer}`; allowed: 1 to {RECIPIENTS_MAX}",
            found.len()
        ));
    }
    let address = |value: &str| {
        let text = pointer::text(value).ok_or_else(|| format!("what stands at `{pointer}` is no text"))?;
        let shown = || one_line(&text).chars().take(100).collect::<String>();
        let address: Address = text
            .parse()
            .map_err(|_| format!("`{}` at `{pointer}` is not one mail address", shown()))?;
        let allowed = domains.is_empty()
            || domains
                .iter()
                .any(|domain| address.domain().eq_ignore_ascii_case(domain));
        match allowed {
            true => Ok(Mailbox::new(None, address)),
            false => Err(format!(
                "`{}` at `{pointer}` has none of the domains of `to.domains`",
                shown()
            )),
        }
    };
    found.into_iter().map(address).collect()
}

/// A mail server with the connections to it.
pub(crate) struct Server {
    section: MailServer,
    tls: Option<TlsParameters>,
    idle: Mutex<Vec<AsyncSmtpConnection>>,
}

impl Server {
    /// Prepares it; nothing is connected.
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub(crate) fn new(section: &MailServer) -> Result<Self> {
        let tls = match section.encryption {
            Encryption::None => None,
            Encryption::Tls | Encryption::StartTls => Some(tls(section)?),
        };
        Ok(Self {
            section: section.clone(),
            tls,
            idle: Mutex::default(),
        })
    }

    /// Connects, encrypts and logs in, and goes away again.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub(crate) async fn prove(&self, timeout: Duration) -> Result<(), String> {
        let mut connection = match tokio::time::timeout(timeout, self.connect(timeout)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(self.silent(timeout)),
        };
        let _ = tokio::time::timeout(timeout, connection.quit()).await;
        Ok(())
    }

    fn silent(&self, timeout: Duration) -> String {
        let (host, port) = (&self.section.host, self.section.port);
        let timeout = humantime::format_duration(timeout);
        format!("mail server {host}:{port} does not answer within {timeout}")
    }

    async fn connect(&self, timeout: Duration) -> Result<AsyncSmtpConnection, String> {
        let (host, port) = (self.section.host.as_str(), self.section.port);
        let failed =
            |what: &str, error: Error| format!("mail server {host}:{port}: {what}: {:#}", anyhow::anyhow!(error));
        let hello = ClientId::default();
        let (first, later) = match self.section.encryption {
            Encryption::Tls => (self.tls.clone(), None),
            _ => (None, self.tls.clone()),
        };
        let mut connection = AsyncSmtpConnection::connect_tokio1((host, port), Some(timeout), &hello, first, None)
            .await
            .map_err(|error| {
                failed(
                    "no connection; check `smtp.url`, and `smtp.ca-file` where it is about a certificate",
                    error,
                )
            })?;
        if let Some(tls) = later {
            connection.starttls(tls, &hello).await.map_err(|error| {
                failed(
                    "STARTTLS failed, and nothing is sent unencrypted; check `smtp.ca-file`, or `smtp.url`",
                    error,
                )
            })?;
        }
        if let Some((name, password)) = &self.section.login {
            let credentials = Credentials::new(name.value.clone(), password.expose().to_owned());
            connection
                .auth(&MECHANISMS, &credentials)
                .await
                .map_err(|error| failed("the login is refused; check `smtp.username` and `smtp.password`", error))?;
        }
        Ok(connection)
    }

    /// A connection that is in order.
    async fn connection(&self, timeout: Duration) -> Result<AsyncSmtpConnection, String> {
        loop {
            // The guard must not be held while the server is asked.
            let kept = self.idle.lock().await.pop();
            match kept {
                None => return self.connect(timeout).await,
                Some(mut connection) => {
                    if !connection.has_broken() && connection.test_connected().await {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    async fn deliver(&self, mail: &Mail, timeout: Duration) -> Answer {
        let mut connection = match self.connection(timeout).await {
            Ok(connection) => connection,
            Err(text) => return again("connect", text),
        };
        match connection.send(&mail.envelope, &mail.bytes).await {
            Ok(_) => {
                let mut idle = self.idle.lock().await;
                if idle.len() < IDLE_MAX {
                    idle.push(connection);
                }
                Answer::Done("sent")
            }
            Err(error) => self.judge(error),
        }
    }

    fn judge(&self, error: Error) -> Answer {
        let (host, port) = (&self.section.host, self.section.port);
        let code = error.status().map(u16::from);
        let is_permanent = error.is_permanent() || error.is_client();
        let text = one_line(&format!("mail server {host}:{port}: {:#}", anyhow::anyhow!(error)));
        match code {
            // The server wants a login, which is not the mail's fault.
            Some(530 | 534 | 535 | 538) => again("login", format!("{text}; give `smtp.username` and `smtp.password`")),
            _ if is_permanent => Answer::Refused(text),
            Some(_) => again("4xx", text),
            None => again("no-answer", text),
        }
    }
}

fn tls(section: &MailServer) -> Result<TlsParameters> {
    let mut builder = TlsParameters::builder(section.host.clone());
    if let Some(file) = &section.ca_file {
        let pem = certificates("smtp.ca-file", file)?;
        let certificate = Certificate::from_pem(&pem)
            .with_context(|| format!("read the certificate of `smtp.ca-file` {}", file.display()))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().context("prepare TLS for the mail server")
}

/// One output of one worker.
pub(crate) struct Mailer {
    alerts: Alerts,
    output: MailOutput,
}

impl Mailer {
    pub(crate) fn new(alerts: Alerts, output: &MailOutput) -> Self {
        Self {
            alerts,
            output: output.clone(),
        }
    }

    async fn try_once(&self, mail: &Mail) -> Answer {
        mail.since.begin();
        let timeout = self.output.effort.timeout;
        match &self.alerts {
            Alerts::Memory(memory) => {
                let to: Vec<String> = mail.envelope.to().iter().map(Address::to_string).collect();
                memory.keep(NAME, format!("to {}: {}", to.join(", "), mail.subject));
                Answer::Done("shown")
            }
            Alerts::Servers { mail: None, .. } => {
                Answer::Refused("there is no mail server, which is a defect of the host".to_owned())
            }
            Alerts::Servers { mail: Some(server), .. } => {
                match tokio::time::timeout(timeout, server.deliver(mail, timeout)).await {
                    Ok(answer) => answer,
                    // It may have taken the mail all the same.
                    Err(_) => again("timeout", server.silent(timeout)),
                }
            }
        }
    }
}

impl Sender for Mailer {
    type Content = Mail;

    async fn send(&self, items: &[Item<Mail>]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let answer = self.try_once(&item.content).await;
            answers.push(item.content.since.judge(answer, self.output.effort.give_up));
        }
        answers
    }

    fn bounds(&self) -> Bounds {
        super::BOUNDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Broker, Target};

    /// What becomes of a record whose value is this: the mail, or why there is none.
    fn mail(to: &str, subject: &str, value: &[u8]) -> Result<String, String> {
        let text = format!(
            "app: shop\nsmtp: {{url: \"smtp://localhost\"}}\nstages: {{frost: {{plugin: p.wasm, input: in, output: {{smtp: \
             {{from: Alerts <alerts@example.com>, to: {to}, subject: \"{subject}\"}}}}}}}}\n"
        );
        let pipeline = config::parse(&text, "p.yaml".as_ref(), &|_| None, Broker::Embedded).unwrap();
        let Some(Target::Smtp(output)) = pipeline.stages[0].outputs.targets().next() else {
            panic!("no output for mail");
        };
        let export = Export {
            exit: 0,
            number: 2,
            key: None,
            value: Some(value),
            source_key: None,
            source_headers: true,
            headers: &[],
            timestamp_ms: None,
            document: None,
        };
        let origin = Origin {
            topic: "alerts",
            partition: 3,
            offset: 17,
            timestamp_ms: None,
            replays: 0,
        };
        write(output, "shop.frost", &export, origin).map(|mail| String::from_utf8(mail.bytes).unwrap())
    }

    #[test]
    fn a_record_becomes_a_mail_that_is_the_same_each_time() {
        let mail = mail("a@example.com", "Frost: {/TMIN}", br#"{"TMIN": -1.5}"#).unwrap();
        for line in [
            "From: Alerts <alerts@example.com>",
            "To: a@example.com",
            "Subject: Frost: -1.5",
            "Message-ID: <alerts-3-17-2.shop.frost@example.com>",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(
                mail.lines().any(|found| found.replace('"', "") == line),
                "no `{line}` in\n{mail}"
            );
        }
        assert!(mail.trim_end().ends_with(r#"{"TMIN": -1.5}"#), "{mail}");
    }

    #[test]
    fn recipients_come_out_of_the_record() {
        let one = mail("{json: /email}", "x", br#"{"email": "b@example.org"}"#).unwrap();
        assert!(one.contains("To: b@example.org\r\n"), "{one}");
        let two = mail("{json: /to}", "x", br#"{"to": ["a@example.org", "b@example.org"]}"#).unwrap();
        assert!(two.contains("To: a@example.org, b@example.org\r\n"), "{two}");
    }

    #[test]
    fn nothing_in_a_record_adds_a_recipient_or_a_header() {
        for (value, words) in [
            (
                r#"{"email": "a@example.org, b@example.org"}"#,
                "is not one mail address",
            ),
            (
                r#"{"email": "a@example.org\r\nBcc: b@example.org"}"#,
                "is not one mail address",
            ),
            (
                r#"{"email": "a@example.org>\r\nRCPT TO:<b@example.org"}"#,
                "is not one mail address",
            ),
            (r#"{"email": "\"a\r\n\"@example.org"}"#, "is not one mail address"),
            (r#"{"email": ""}"#, "is not one mail address"),
            (r#"{"email": 5}"#, "is no text"),
            (r#"{"email": []}"#, "0 addresses"),
            (r#"{"mail": "a@example.org"}"#, "0 addresses"),
            ("not json", "is not JSON"),
        ] {
            let refused = mail("{json: /email}", "x", value.as_bytes()).unwrap_err();
            assert!(refused.contains(words), "{value}: {refused}");
        }
        let many = format!(r#"{{"email": ["{}"]}}"#, vec!["a@example.org"; 51].join(r#"",""#));
        assert!(
            mail("{json: /email}", "x", many.as_bytes())
                .unwrap_err()
                .contains("51 addresses")
        );
        let subject = mail("a@example.com", "{/s}", br#"{"s": "x\r\nBcc: b@example.org"}"#).unwrap();
        assert!(!subject.to_lowercase().contains("\nbcc"), "{subject}");
        assert!(mail("a@example.com", "x", b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn every_line_break_becomes_that_of_mail() {
        for (text, broken) in [
            ("", ""),
            ("a", "a"),
            ("a\nb\rc\r\nd", "a\r\nb\r\nc\r\nd"),
            ("\n\r\r\n\n", "\r\n\r\n\r\n\r\n"),
            ("é\r", "é\r\n"),
        ] {
            assert_eq!(with_mail_line_breaks(text), broken, "{text:?}");
        }
        let mail = mail("a@example.com", "x", b"one\r.\rtwo\nthree").unwrap();
        assert!(mail.contains("\r\n\r\none\r\n.\r\ntwo\r\nthree"), "{mail:?}");
    }

    #[test]
    fn recipients_can_be_held_to_domains() {
        let to = "{json: /email, domains: [Example.org]}";
        assert!(mail(to, "x", br#"{"email": "a@EXAMPLE.org"}"#).is_ok());
        let refused = mail(to, "x", br#"{"email": "a@sub.example.org"}"#).unwrap_err();
        assert!(refused.contains("`to.domains`"), "{refused}");
    }
}
