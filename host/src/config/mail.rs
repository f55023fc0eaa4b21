//! The `smtp` section, and outputs that send mail: `{smtp: {from: .., to: .., subject: ..}}`.
//!
//! Addresses are read by the mail library, here and when one comes out of a record, so that nothing else than one address is ever taken
//! for one.

use std::path::PathBuf;

use lettre::Address;
use lettre::message::Mailbox;
use url::Url;

use super::errors::{At, Location, quoted};
use super::secret::{self, Secret};
use super::section::{Field, Keys, Section};
use super::stage::or;
use super::subject::Subject;
use super::values;
use super::webhook::{Effort, effort};

const SMTP: Keys = Keys {
    allowed: &["url", "username", "password", "ca-file", "starttls"],
    later: &[],
};
const OUTPUT: Keys = Keys {
    allowed: &["from", "to", "subject", "timeout", "give-up", "lanes"],
    later: &[],
};
const RECIPIENTS: Keys = Keys {
    allowed: &["json", "domains"],
    later: &[],
};

/// The most recipients of one mail; more are no alert but a mailing.
pub(crate) const RECIPIENTS_MAX: usize = 50;

/// Where mail is handed over.
#[derive(Clone, Debug)]
pub struct MailServer {
    /// Where the section stands.
    pub at: Location,
    /// Its name, which its certificate has to name too.
    pub host: String,
    /// Its port; 587 for `smtp://`, 465 for `smtps://`.
    pub port: u16,
    /// How the connection is encrypted.
    pub encryption: Encryption,
    /// Who the host says it is.
    pub login: Option<(At<String>, At<Secret>)>,
    /// The certificates that the server may be known by, in PEM, besides those of the system.
    pub ca_file: Option<At<PathBuf>>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// From its first byte: `smtps://`.
    Tls,
    /// From the command STARTTLS on, without which nothing is sent: `smtp://`.
    StartTls,
    /// Not at all: `smtp://` with `starttls: never`.
    None,
}

/// An output that sends mail.
#[derive(Clone, Debug)]
pub struct MailOutput {
    /// Where it stands.
    pub at: Location,
    /// Who sends it.
    pub from: Mailbox,
    /// Who gets it.
    pub to: Recipients,
    /// What it is about.
    pub subject: Subject,
    /// How it is sent.
    pub effort: Effort,
}

/// Who gets a mail.
#[derive(Clone, Debug)]
pub enum Recipients {
    /// Always the same.
    Fixed(Vec<Mailbox>),
    /// Whom a record names.
    Field {
        /// The JSON pointer of an address in the record's value, or of a list of them.
        pointer: String,
        /// The domains that an address may have; any when there are none.
        domains: Vec<String>,
    },
}

/// Reads the section at the top of the file.
pub(super) fn read(field: &Field<'_>) -> Option<MailServer> {
    let section = field.section(&SMTP)?;
    let url = section.required("url", "smtp://HOST:587, or smtps://HOST:465");
    let url = url.and_then(|field| url_of(&field));
    let never = or(section.get("starttls"), false, |field| {
        values::word(field, &["required", "never"]).map(|word| word == "never")
    });
    let login = login(&section);
    let ca_file = or(section.get("ca-file"), None, |field| {
        Some(Some(At::new(field.path()?, field.at())))
    });
    let (url, never, login) = (url?, never?, login?);
    let encryption = match (url.scheme(), never) {
        ("smtps", true) => {
            return section.fail_at(
                url.at,
                "`starttls: never` is for smtp://; smtps:// is encrypted from its first byte",
            );
        }
        ("smtps", false) => Encryption::Tls,
        (_, false) => Encryption::StartTls,
        (_, true) => Encryption::None,
    };
    if let (Encryption::None, Some((name, _))) = (encryption, &login) {
        return section.fail_at(
            name.at,
            "with `starttls: never` the password could be read on its way; leave `starttls` out, or `username` and `password`",
        );
    }
    let usual = if encryption == Encryption::Tls { 465 } else { 587 };
    Some(MailServer {
        at: field.named_at(),
        host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(usual),
        encryption,
        login,
        ca_file: ca_file?,
    })
}

fn url_of(field: &Field<'_>) -> Option<At<Url>> {
    const SHAPE: &str = "write smtp://HOST:587, or smtps://HOST:465";
    let text = field.text()?;
    // It may hold a password, so it is not repeated.
    let Ok(url) = Url::parse(text) else {
        return field.fail(format!("this is no URL; {SHAPE}"));
    };
    if !matches!(url.scheme(), "smtp" | "smtps") || url.host_str().is_none_or(str::is_empty) {
        return field.fail(format!("this names no mail server; {SHAPE}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return field.fail("the URL may hold no credentials; use `username` and `password`");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return field.fail(format!("the URL of a mail server ends with its port; {SHAPE}"));
    }
    Some(At::new(url, field.at()))
}

fn login(section: &Section<'_>) -> Option<Option<(At<String>, At<Secret>)>> {
    match (section.get("username"), section.get("password")) {
        (None, None) => Some(None),
        (Some(name), Some(password)) => {
            let name = name.text().map(|text| At::new(text.to_owned(), name.at()));
            let password = secret::read(&password);
            Some(Some((name?, password?)))
        }
        (Some(name), None) => section.fail_at(name.named_at(), "`username` needs a `password`"),
        (None, Some(password)) => section.fail_at(password.named_at(), "`password` needs a `username`"),
    }
}

/// Reads `{smtp: ..}` of an output.
pub(super) fn output(field: &Field<'_>) -> Option<MailOutput> {
    let section = field.section(&OUTPUT)?;
    let from = section.required("from", "an address, such as alerts@example.com");
    let from = from.and_then(|field| mailbox(&field));
    let to = section.required("to", "an address, a list of addresses, or {json: /POINTER}");
    let to = to.and_then(|field| recipients(&field));
    let subject = section.required("subject", "a text, such as `Frost at {/station/name}`");
    let subject = subject.and_then(|field| match Subject::parse(field.text()?) {
        Ok(subject) => Some(subject),
        Err(mistake) => field.fail(mistake),
    });
    let effort = effort(|name| section.get(name));
    Some(MailOutput {
        at: field.named_at(),
        from: from?,
        to: to?,
        subject: subject?,
        effort: effort?,
    })
}

fn mailbox(field: &Field<'_>) -> Option<Mailbox> {
    let text = field.text()?;
    match text.parse() {
        Ok(mailbox) => Some(mailbox),
        Err(_) => field.fail(format!(
            "{} is no address; write for example alerts@example.com, or \"Alerts <alerts@example.com>\"",
            quoted(text)
        )),
    }
}

fn recipients(field: &Field<'_>) -> Option<Recipients> {
    if field.is_map() {
        return from_record(field);
    }
    if !field.is_list() {
        return mailbox(field).map(|one| Recipients::Fixed(vec![one]));
    }
    let items = field.list()?;
    if items.is_empty() || items.len() > RECIPIENTS_MAX {
        return field.fail(format!("allowed: 1 to {RECIPIENTS_MAX} addresses"));
    }
    let count = items.len();
    let all: Vec<Mailbox> = items.iter().filter_map(mailbox).collect();
    (all.len() == count).then_some(Recipients::Fixed(all))
}

fn from_record(field: &Field<'_>) -> Option<Recipients> {
    let section = field.section(&RECIPIENTS)?;
    let pointer = section.required(
        "json",
        "the JSON pointer of the address in the record's value, such as /email",
    );
    let pointer = pointer.and_then(|field| match field.text()? {
        text if text.starts_with('/') => Some(text.to_owned()),
        text => field.fail(format!("{} is no JSON pointer; write for example /email", quoted(text))),
    });
    let domains = or(section.get("domains"), Vec::new(), |field| {
        let domain = |field: &Field<'_>| {
            let text = field.text()?.to_ascii_lowercase();
            match Address::new("someone", text.as_str()) {
                Ok(_) => Some(text),
                Err(_) => field.fail(format!("{} is no domain; write for example example.com", quoted(&text))),
            }
        };
        let items = field.list()?;
        let domains: Vec<String> = items.iter().filter_map(domain).collect();
        (domains.len() == items.len()).then_some(domains)
    });
    Some(Recipients::Field {
        pointer: pointer?,
        domains: domains?,
    })
}
