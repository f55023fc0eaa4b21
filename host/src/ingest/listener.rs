//! Accepts connections and gives each to the router, within limits of number and time.
//!
//! A client that is slow with its head, or with taking an answer, is cut off. A connection too many is answered with 429 and closed,
//! a few at a time; while even those wait, new ones stay with the operating system.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_io_timeout::TimeoutStream;

/// The largest head of a request, and what one connection reads ahead.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How many connections too many are being told so at a time.
const REFUSED_MAX: usize = 64;
/// How long such a connection may take to send its head and take its answer.
const REFUSED_TIME: Duration = Duration::from_secs(2);
/// Until then an accept that failed (too many open files) may work again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections may be and take.
pub(super) struct Limits {
    pub(super) connections: usize,
    /// For a head, and for taking some of an answer.
    pub(super) time: Duration,
}

/// Who answers.
pub(super) struct Routers {
    pub(super) usual: Router,
    /// Connections too many.
    pub(super) refusing: Router,
}

/// Serves until `stop`, then waits until every connection has its answer.
pub(super) async fn serve(
    listener: TcpListener,
    routers: Routers,
    limits: Limits,
    open: Gauge,
    mut stop: oneshot::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refused = Arc::new(Semaphore::new(REFUSED_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let serving = connection(stream, routers.usual.clone(), limits.time, graceful.watcher());
            let open = Open::new(&open, slot);
            tokio::spawn(async move {
                serving.await;
                drop(open);
            });
            continue;
        }
        let slot = tokio::select! {
            _ = &mut stop => break,
            slot = Arc::clone(&refused).acquire_owned() => slot,
        };
        let serving = connection(stream, routers.refusing.clone(), REFUSED_TIME, graceful.watcher());
        tokio::spawn(async move {
            // The whole of it, however fast each byte comes.
            let _ = tokio::time::timeout(2 * REFUSED_TIME, serving).await;
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn connection(stream: TcpStream, router: Router, time: Duration, watcher: Watcher) {
    // An answer is one small write; nothing is won by waiting for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection cannot be set up");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(time));
    let stream: Pin<Box<TimeoutStream<TcpStream>>> = Box::pin(stream);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What a client does to its connection is its own affair.
    if let Err(error) = watcher.watch(served).await {
        tracing::debug!(%error, "a connection has ended");
    }
}

/// A connection that counts.
struct Open {
    open: Gauge,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    fn new(open: &Gauge, slot: OwnedSemaphorePermit) -> Self {
        open.inc();
        Self {
            open: open.clone(),
            _slot: slot,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.dec();
    }
}
