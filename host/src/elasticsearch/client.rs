//! The connection: nodes, certificates, credentials.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use elasticsearch::auth::Credentials as Auth;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{MultiNodeConnectionPool, Transport, TransportBuilder};

use super::memory::Memory;
use crate::config::{Credentials, Elasticsearch};

/// What documents are sent to.
#[derive(Clone)]
pub(crate) enum Client {
    /// Nodes of a cluster.
    Nodes(Transport),
    /// The memory of this process.
    Memory(Arc<Memory>),
}

impl Default for Client {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

/// What came back.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Client {
    /// Prepares a client; nothing is connected.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub(crate) fn new(section: &Elasticsearch) -> Result<Self> {
        let urls = section.urls.iter().map(|url| url.value.clone()).collect();
        let mut builder = TransportBuilder::new(MultiNodeConnectionPool::round_robin(urls, None));
        builder = match &section.credentials {
            Credentials::None => builder,
            Credentials::Basic { username, password } => {
                builder.auth(Auth::Basic(username.value.clone(), password.expose().to_owned()))
            }
            Credentials::ApiKey(key) => builder.auth(Auth::EncodedApiKey(key.expose().to_owned())),
        };
        if let Some(file) = &section.ca_file {
            let path = file.value.display();
            let pem = std::fs::read(&file.value).with_context(|| format!("read `elasticsearch.ca-file` {path}"))?;
            let chain = Certificate::from_pem(&pem)
                .map_err(|error| anyhow!("{error}"))
                .with_context(|| format!("read the certificates of `elasticsearch.ca-file` {path}"))?;
            builder = builder.cert_validation(CertificateValidation::Full(chain));
        }
        let transport = builder.build().context("prepare the client of Elasticsearch")?;
        Ok(Self::Nodes(transport))
    }

    /// Sends one request. None: this client has no server.
    ///
    /// # Errors
    /// When no whole answer came: the outcome is not known then.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Option<Answered>, elasticsearch::Error> {
        let Self::Nodes(transport) = self else {
            return Ok(None);
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let response = transport
            .send(method, path, headers, None::<&()>, body, Some(timeout))
            .await?;
        let status = response.status_code().as_u16();
        let body = response.bytes().await?;
        Ok(Some(Answered { status, body }))
    }
}
