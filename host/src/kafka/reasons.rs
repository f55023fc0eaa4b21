//! Keeps what a client says of its connections, because the calls that fail for it only say that they took too long.

use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::config::Kafka;

/// The latest of what went wrong with a client's connections.
#[derive(Default)]
pub(crate) struct Reasons {
    latest: Mutex<Latest>,
}

#[derive(Default, Clone)]
struct Latest {
    /// No other try can help.
    refusal: Option<(Code, String)>,
    trouble: Option<String>,
}

impl ClientContext for Reasons {
    /// Whoever asked gets the reason with the error; the lines before it would only repeat it.
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "kafka", client = "admin", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = "admin", %error, reason, "kafka client error");
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match error.rdkafka_error_code() {
            Some(code) if is_refusal(code) => latest.refusal = Some((code, reason.to_owned())),
            // Only says that each broker has failed, and not why.
            Some(Code::AllBrokersDown) => {}
            // The client guesses why only now and then.
            _ if latest.trouble.as_deref().is_some_and(|known| known.contains(GUESS)) => {}
            _ => latest.trouble = Some(without_times(reason).to_owned()),
        }
    }
}

impl ConsumerContext for Reasons {}

/// Without how long it took and how often it was so, which librdkafka adds in brackets.
fn without_times(reason: &str) -> &str {
    reason.split_once(" (after ").map_or(reason, |(reason, _)| reason)
}

/// How librdkafka asks whether the listener speaks something else.
const GUESS: &str = "listener?";

/// Whether a login or a certificate is what is wrong.
pub(super) fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL)
}

impl Reasons {
    /// Why another try is of no use, and what to do about it.
    pub(super) fn refusal(&self, kafka: &Kafka) -> Option<String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (code, reason) = latest.refusal.as_ref()?;
        Some(worded(*code, reason, kafka))
    }

    /// Why no broker answers.
    pub(super) fn trouble(&self) -> Option<String> {
        self.latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .trouble
            .clone()
    }
}

/// Says of a refused login or certificate what to do. `reason` is librdkafka's text, which holds no secret.
fn worded(code: Code, reason: &str, kafka: &Kafka) -> String {
    let servers = kafka
        .get("bootstrap.servers")
        .map_or("", |servers| servers.value.expose());
    if code != Code::SSL {
        return format!(
            "the brokers at {servers} refuse the login; check `kafka: sasl.username`, `sasl.password`, `sasl.mechanism`, and that \
             the brokers know this user for this mechanism: {reason}"
        );
    }
    if reason.contains("certificate verify failed") {
        return format!(
            "the certificate of the brokers at {servers} is not trusted; set `kafka: ssl.ca.location` to the certificate of the \
             authority that signed it, and name the brokers in `bootstrap.servers` as their certificate names them: {reason}"
        );
    }
    format!(
        "no TLS connection to the brokers at {servers}; check `kafka: security.protocol` against what their listener speaks, and \
         the `ssl.` properties: {reason}"
    )
}
