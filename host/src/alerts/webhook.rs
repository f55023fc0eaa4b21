//! Posts records to a web server.
//!
//! The value is the body, as it is. What the server says decides: 2xx is done; 408, 425, 429, 5xx and anything without an answer is tried
//! again, no sooner than `Retry-After` says; everything else is a dead letter at once, redirects too, which are never followed: the address is the
//! pipeline file's alone. Nothing of an answer is told that shows the address, the token or a header.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
};
use reqwest::{Client, Response, StatusCode};

use super::hidden::{Hidden, place_of};
use super::{Alerts, Since, again, certificates, name_of, order_of};
use crate::config::WebhookOutput;
use crate::dead_letter::Origin;
use crate::external::{Answer, Bounds, Claim, Item, Sender};
use crate::fault::{Fault, Kind};
use crate::printable::one_line;
use crate::route::Export;

/// The most of an answer that a dead letter tells.
const EXCERPT_BYTES_MAX: usize = 512;
/// What is read of it for that: what is hidden makes it shorter.
const EXCERPT_READ_BYTES_MAX: usize = 4 * EXCERPT_BYTES_MAX;
/// A longer answer is not read to its end, which costs the connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// No server keeps the others waiting longer, whatever it asks for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// One request.
pub(crate) struct Post {
    name: String,
    body: Bytes,
    order: u64,
    since: Since,
}

impl Post {
    /// `group`: the stage's, which tells its requests from those that another stage makes of the same record.
    ///
    /// # Errors
    /// The fault of a record that has no value.
    pub(crate) fn new(group: &str, export: &Export<'_>, origin: Origin<'_>) -> Result<Self, Fault> {
        let Some(value) = export.value else {
            let text = "the record has no value, so there is nothing to post".to_owned();
            return Err(Fault::new(Kind::Refused, text));
        };
        let name = name_of(origin, export.number);
        Ok(Self {
            order: order_of(export.key, &name),
            body: Bytes::copy_from_slice(value),
            since: Since::default(),
            name: format!("{group}-{name}"),
        })
    }

    pub(crate) fn order(&self) -> u64 {
        self.order
    }

    pub(crate) fn bytes(&self) -> usize {
        self.name.len() + self.body.len()
    }
}

/// The client of one output, with the headers that are the same for all requests.
///
/// # Errors
/// When its certificates cannot be read.
pub(super) fn client(output: &WebhookOutput) -> Result<Client> {
    let mut builder = Client::builder()
        .default_headers(headers(output)?)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(file) = &output.ca_file {
        let pem = certificates("webhook.ca-file", file)?;
        let chain = reqwest::Certificate::from_pem_bundle(&pem)
            .with_context(|| format!("read the certificates of `webhook.ca-file` {}", file.display()))?;
        for certificate in chain {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().context("prepare the client of a webhook")
}

fn headers(output: &WebhookOutput) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &output.headers {
        headers.append(HeaderName::try_from(name.as_str())?, secret(value.expose())?);
    }
    if let Some(token) = &output.token {
        headers.insert(AUTHORIZATION, secret(&format!("Bearer {}", token.expose()))?);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(&output.content_type)?);
    let own = HeaderValue::from_static(concat!("wasmill/", env!("CARGO_PKG_VERSION")));
    headers.entry(USER_AGENT).or_insert(own);
    Ok(headers)
}

/// One output of one worker.
pub(crate) struct Webhook {
    alerts: Alerts,
    output: WebhookOutput,
    hidden: Hidden,
    /// Before this the server wants nothing.
    closed_until: Mutex<Option<Instant>>,
}

impl Webhook {
    pub(crate) fn new(alerts: Alerts, output: &WebhookOutput) -> Self {
        let token = output.token.iter().map(|token| token.expose());
        let values = output.headers.iter().map(|(_, value)| value.expose());
        Self {
            alerts,
            hidden: Hidden::new(output.url.expose(), token.chain(values)),
            output: output.clone(),
            closed_until: Mutex::default(),
        }
    }

    async fn try_once(&self, post: &Post, claim: &Claim) -> Answer {
        let client = match &self.alerts {
            Alerts::Memory(memory) => {
                let body = one_line(&String::from_utf8_lossy(&post.body));
                memory.keep(&name(&self.output), format!("{}  {body}", post.name));
                return Answer::Done("shown");
            }
            Alerts::Servers { web, .. } => web.get(&self.output.at),
        };
        let Some(client) = client else {
            return Answer::Refused("this output has no client, which is a defect of the host".to_owned());
        };
        if let Some(wait) = self.closed_for() {
            tokio::time::sleep(wait.min(self.output.effort.timeout)).await;
            // What was given up meanwhile is dropped by its lane.
            if self.closed_for().is_some() || claim.is_given_up() {
                return again(
                    "retry-after",
                    "the server asked to be left alone (`Retry-After`)".to_owned(),
                );
            }
        }
        // Only now: what another alert has brought on the output is not this one's.
        post.since.begin();
        let sent = client
            .post(self.output.url.expose())
            .header("Idempotency-Key", &post.name)
            .body(post.body.clone())
            .timeout(self.output.effort.timeout)
            .send()
            .await;
        match sent {
            Ok(response) => self.judge(response).await,
            Err(error) => unanswered(error),
        }
    }

    async fn judge(&self, response: Response) -> Answer {
        let status = response.status();
        if status.is_success() {
            let _ = beginning(response, ANSWER_BYTES_MAX).await;
            return Answer::Done("sent");
        }
        let headers = response.headers().clone();
        let body = self.excerpt(&beginning(response, EXCERPT_READ_BYTES_MAX).await);
        let text = match body.is_empty() {
            true => format!("{} answers {status}", self.output.host),
            false => format!("{} answers {status}: {body}", self.output.host),
        };
        if let Some(kind) = passing(status) {
            if let Some(wait) = retry_after(&headers, SystemTime::now()) {
                let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
                *closed = (*closed).max(Some(Instant::now() + wait));
            }
            return again(kind, text);
        }
        if status.is_redirection() {
            let target = headers.get(LOCATION).and_then(|target| target.to_str().ok());
            let place = place_of(target.unwrap_or_default(), self.output.url.expose());
            return Answer::Refused(format!(
                "{text}; redirects are not followed, give the new address as `webhook.url` if you trust it: it is at {place}"
            ));
        }
        Answer::Refused(text)
    }

    /// What may be told of an answer's text, on one line.
    fn excerpt(&self, bytes: &[u8]) -> String {
        let text = self.hidden.out_of(&String::from_utf8_lossy(bytes));
        one_line(&text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)])
            .trim()
            .to_owned()
    }

    fn closed_for(&self) -> Option<Duration> {
        let closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = (*closed)?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

impl Sender for Webhook {
    type Content = Post;

    async fn send(&self, items: &[Item<Post>]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let answer = self.try_once(&item.content, &item.claim).await;
            answers.push(item.content.since.judge(answer, self.output.effort.give_up));
        }
        answers
    }

    fn bounds(&self) -> Bounds {
        super::BOUNDS
    }
}

/// What metrics and `/status` call an output; its address would tell too much.
pub(crate) fn name(output: &WebhookOutput) -> String {
    format!("webhook {}", output.host)
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| anyhow!("a header's value is no line of ASCII text"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What metrics call a status after which the same request may be taken later.
fn passing(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        408 => Some("408"),
        425 => Some("425"),
        429 => Some("429"),
        503 => Some("503"),
        500..=599 => Some("5xx"),
        // Nothing that ends a request.
        100..=199 => Some("1xx"),
        _ => None,
    }
}

/// The server may have taken it all the same.
fn unanswered(error: reqwest::Error) -> Answer {
    let kind = match () {
        () if error.is_timeout() => "timeout",
        () if error.is_connect() => "connect",
        () => "no-answer",
    };
    // The address is a secret.
    again(kind, format!("{:#}", anyhow!(error.without_url())))
}

/// The beginning of an answer's body.
async fn beginning(mut response: Response, bytes_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < bytes_max {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    bytes.truncate(bytes_max);
    bytes
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?,
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Broker, Target};

    /// An output with these keys besides its address.
    fn output(keys: &str) -> WebhookOutput {
        let text = format!(
            "app: shop\nstages: {{frost: {{plugin: p.wasm, input: in, output: {{webhook: {{url: \"http://127.0.0.1:1/T0P/SECRET-PATH\"{keys}}}}}}}}}\n"
        );
        let pipeline = config::parse(&text, "p.yaml".as_ref(), &|_| None, Broker::Embedded).unwrap();
        let Some(Target::Webhook(output)) = pipeline.stages[0].outputs.targets().next() else {
            panic!("no webhook");
        };
        WebhookOutput::clone(output)
    }

    fn post(group: &str) -> Post {
        let export = Export {
            exit: 0,
            number: 2,
            key: None,
            value: Some(b"{}"),
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
        Post::new(group, &export, origin).unwrap()
    }

    #[test]
    fn two_stages_name_their_requests_of_one_record_apart() {
        assert_eq!(post("shop.frost").name, "shop.frost-alerts-3-17-2");
        assert_ne!(post("shop.frost").name, post("shop.heat").name);
    }

    #[test]
    fn the_user_agent_of_the_file_is_sent() {
        let sent = |keys: &str| headers(&output(keys)).unwrap()[USER_AGENT].to_str().unwrap().to_owned();
        assert!(sent("").starts_with("wasmill/"));
        assert_eq!(sent(", headers: {user-agent: shop}"), "shop");
    }

    #[test]
    fn an_excerpt_hides_first_and_is_cut_then() {
        let webhook = Webhook::new(Alerts::default(), &output(", token: a-long-token"));
        let echoed = format!("{} /T0P/SECRET-PATH a-long-token {}", "x".repeat(500), "y".repeat(99));
        let shown = webhook.excerpt(echoed.as_bytes());
        assert_eq!(shown, format!("{} (hidden) (h", "x".repeat(500)));
        assert_eq!(webhook.excerpt(b" a\nb "), "a\\nb");
    }

    #[tokio::test]
    async fn an_output_that_is_closed_does_not_use_up_an_alerts_time() {
        let mut output = output("");
        output.effort.timeout = Duration::from_millis(1);
        let alerts = Alerts::Servers {
            web: [(output.at, client(&output).unwrap())].into(),
            mail: None,
        };
        let webhook = Webhook::new(alerts, &output);
        *webhook.closed_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(60));
        let post = post("shop.frost");
        let Answer::Again(trouble) = webhook.try_once(&post, &Claim::default()).await else {
            panic!("it is not tried again");
        };
        assert_eq!(trouble.kind, "retry-after");
        assert!(post.since.0.get().is_none(), "its time runs");
    }

    #[test]
    fn a_status_is_done_passing_or_final() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(passing(StatusCode::from_u16(status).unwrap()).is_some(), "{status}");
        }
        for status in [300, 301, 302, 307, 400, 401, 403, 404, 409, 410, 413, 422, 451] {
            assert!(passing(StatusCode::from_u16(status).unwrap()).is_none(), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |text: &'static str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
        check("Sun, 06 Nov 1994 08:49:27 GMT", None);
        check("999999999", Some(3600));
        check("-1", None);
        check("soon", None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
