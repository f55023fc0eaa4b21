//! Outputs that post records to a web server: `{webhook: {url: ..}}`.
//!
//! The address comes from the pipeline file alone, never from a record. It is a secret, because such addresses often let in whoever knows
//! them; only its host is shown.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::errors::{At, Location, quoted};
use super::secret::{self, Secret};
use super::section::{Field, Keys};
use super::stage::or;
use super::values::{duration, integer};

const WEBHOOK: Keys = Keys {
    allowed: &[
        "url",
        "token",
        "headers",
        "content-type",
        "ca-file",
        "timeout",
        "give-up",
        "lanes",
    ],
    later: &[],
};

/// Headers that the host sets itself, and those that would break the request.
const REFUSED_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// An output that posts records to a web server.
#[derive(Clone, Debug)]
pub struct WebhookOutput {
    /// Where it stands.
    pub at: Location,
    /// Where requests go; `http` or `https`.
    pub url: At<Secret>,
    /// The part of it that may be shown: the host, and the port where it is not the usual one.
    pub host: String,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<At<Secret>>,
    /// More headers: names that HTTP allows, with values that fit into one line.
    pub headers: Vec<(At<String>, At<Secret>)>,
    /// What the record's value is; `application/json` by default.
    pub content_type: String,
    /// The certificates that the server may be known by, in PEM, besides those of the system.
    pub ca_file: Option<At<PathBuf>>,
    /// How it is sent.
    pub effort: Effort,
}

/// How an alert is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// How long an answer is waited for: 1 s to 5 m, 30 s by default.
    pub timeout: Duration,
    /// How long it is tried before the record becomes a dead letter: 1 s to 7 days, 5 m by default.
    pub give_up: Duration,
    /// How many are in flight of one worker: 1 to 64, 4 by default.
    pub lanes: u16,
}

/// Reads the keys that all alerts have; `get` finds one by its name.
pub(super) fn effort<'n>(get: impl Fn(&str) -> Option<Field<'n>>) -> Option<Effort> {
    let seconds = Duration::from_secs;
    let timeout = or(get("timeout"), seconds(30), |field| {
        duration(field, seconds(1)..=seconds(300)).map(|timeout| timeout.value)
    });
    let give_up = or(get("give-up"), seconds(300), |field| {
        duration(field, seconds(1)..=seconds(7 * 24 * 3600)).map(|limit| limit.value)
    });
    let lanes = or(get("lanes"), 4, |field| integer(field, 1..=64).map(|lanes| lanes.value));
    Some(Effort {
        timeout: timeout?,
        give_up: give_up?,
        lanes: lanes?,
    })
}

/// Reads `{webhook: ..}` of an output.
pub(super) fn output(field: &Field<'_>) -> Option<WebhookOutput> {
    let section = field.section(&WEBHOOK)?;
    let url = section.required("url", "a URL, such as https://example.com/hook");
    let url = url.and_then(|field| Some((secret::read(&field)?, field)));
    let url = url.and_then(|(url, field)| {
        let host = host_of(&field, url.expose())?;
        Some((url, host))
    });
    let token = or(section.get("token"), None, |field| {
        let token = secret::read(field)?;
        fits_in_a_header(field, token.expose())?;
        Some(Some(token))
    });
    let headers = or(section.get("headers"), Vec::new(), headers);
    let content_type = or(section.get("content-type"), "application/json".to_owned(), |field| {
        let text = field.text()?;
        match text.contains('/') {
            true => fits_in_a_header(field, text).map(|()| text.to_owned()),
            false => field.fail(format!(
                "{} is no media type; write for example text/plain",
                quoted(text)
            )),
        }
    });
    let ca_file = or(section.get("ca-file"), None, |field| {
        Some(Some(At::new(field.path()?, field.at())))
    });
    let effort = effort(|name| section.get(name));
    let (url, host) = url?;
    let (token, headers) = (token?, headers?);
    if let (Some(token), Some((name, _))) = (
        &token,
        headers
            .iter()
            .find(|(name, _)| name.value.eq_ignore_ascii_case("authorization")),
    ) {
        return section.fail_at(
            token.at.max(name.at),
            "both `token` and a header `Authorization` are given; keep one",
        );
    }
    Some(WebhookOutput {
        at: field.named_at(),
        url,
        host,
        token,
        headers,
        content_type: content_type?,
        ca_file: ca_file?,
        effort: effort?,
    })
}

/// Checks the URL and tells its host. What is wrong is said without the URL.
fn host_of(field: &Field<'_>, text: &str) -> Option<String> {
    let Ok(url) = Url::parse(text) else {
        return field.fail("this is no URL; write for example https://example.com/hook");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return field.fail("the URL of a webhook begins with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return field.fail("the URL may hold no credentials; use `token` or `headers`");
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    match url.host_str() {
        Some(host) => Some(format!("{host}{port}")),
        None => field.fail("the URL names no host"),
    }
}

fn headers(field: &Field<'_>) -> Option<Vec<(At<String>, At<Secret>)>> {
    let entries = field.entries()?;
    let count = entries.len();
    let header = |(key, value): (&super::yaml::Key, Field<'_>)| {
        let name = &key.scalar.text;
        if REFUSED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return field.fail_at(key.at, format!("header `{name}` is set by the host; leave it out"));
        }
        let is_token = |letter: u8| letter.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&letter);
        if name.is_empty() || !name.bytes().all(is_token) {
            return field.fail_at(key.at, format!("{} is no name of a header", quoted(name)));
        }
        let text = secret::read(&value)?;
        fits_in_a_header(&value, text.expose())?;
        Some((At::new(name.clone(), key.at), text))
    };
    let headers: Vec<(At<String>, At<Secret>)> = entries.into_iter().filter_map(header).collect();
    for (index, (name, _)) in headers.iter().enumerate() {
        let mut before = headers[..index].iter();
        if before.any(|(other, _)| other.value.eq_ignore_ascii_case(&name.value)) {
            return field.fail_at(
                name.at,
                format!(
                    "header `{}` is given twice; its name is the same in any case",
                    name.value
                ),
            );
        }
    }
    (headers.len() == count).then_some(headers)
}

/// A line break would begin another header.
fn fits_in_a_header(field: &Field<'_>, text: &str) -> Option<()> {
    match text.bytes().all(|letter| letter == b' ' || letter.is_ascii_graphic()) {
        true => Some(()),
        false => field.fail("the value of a header is one line of printable ASCII letters"),
    }
}
