//! Everything that a plugin can reach: the log, metrics, and a WASI that is empty.
//!
//! A guest's data holds its limits and what it said during the current call. Standard output and standard error, the `log`
//! interface and panics all end in `Said`, which bounds them: a flood costs the plugin its own lines and nobody anything else. The
//! rate is that of the plugin, because one that traps at every record has a fresh instance each time.
//! No argument, socket or input is reachable, and no file or environment variable but what the stage grants; clocks and random numbers are
//! real.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncWrite;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bounds::{Deadline, Room};
use super::contract::wasmill::plugin::{log, metrics, types};
use super::grants::Grants;
use super::limits::{Limit, Limits};
use crate::metrics::PluginMetrics;
use crate::printable::one_line;

/// How much of a panic's text, or of the last output before a trap, is kept for the dead letter.
const LAST_WORDS_BYTES_MAX: usize = 4096;
/// What a guest may write to an output in one call; more is written in several.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// What an instance may hold at a time of what the host has for it: files, streams, timers. Each can be a file descriptor of the process.
pub(super) const HANDLES_MAX: usize = 250;

/// The data of one instance.
pub(crate) struct Guest {
    wasi: WasiCtx,
    resources: ResourceTable,
    said: Arc<Mutex<Said>>,
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) room: Room,
    pub(crate) deadline: Deadline,
}

impl Guest {
    /// # Errors
    /// When a folder that is granted cannot be opened.
    pub(crate) fn new(
        stage: &str,
        limits: &Limits,
        grants: &Grants,
        line_rate: Arc<LineRate>,
        metrics: Arc<PluginMetrics>,
    ) -> anyhow::Result<Self> {
        let said = Said::new(stage, limits, line_rate, Arc::clone(&metrics));
        let said = Arc::new(Mutex::new(said));
        let output = |stream| GuestOutput {
            stream,
            said: Arc::clone(&said),
        };
        let mut wasi = WasiCtx::builder();
        wasi.stdout(output(Stream::Output)).stderr(output(Stream::Error));
        grants.give(&mut wasi)?;
        let wasi = wasi.build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(HANDLES_MAX);
        metrics.instances_live.inc();
        Ok(Self {
            wasi,
            resources,
            said,
            metrics,
            room: Room::new(limits),
            deadline: Deadline::default(),
        })
    }

    /// Forgets what happened before; called at the start of a call.
    pub(crate) fn listen(&mut self) {
        self.room.refused = None;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.panic = None;
        said.tail.clear();
    }

    /// Logs what was printed without a line break at its end; called at the end of a call.
    pub(crate) fn finish_lines(&self) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.finish(Stream::Output);
        said.finish(Stream::Error);
    }

    /// Its standard output and standard error.
    #[cfg(test)]
    pub(super) fn outputs(&self) -> [impl wasmtime_wasi::p2::OutputStream; 2] {
        [Stream::Output, Stream::Error].map(|stream| GuestOutput {
            stream,
            said: Arc::clone(&self.said),
        })
    }

    /// The panic's text and place if the plugin told them, else the end of what it wrote to standard error.
    pub(crate) fn last_words(&self) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // What is no UTF-8 becomes longer as text.
        let tail = cut(&String::from_utf8_lossy(&said.tail), LAST_WORDS_BYTES_MAX)
            .trim()
            .to_owned();
        said.panic.clone().or_else(|| (!tail.is_empty()).then_some(tail))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.metrics.instances_live.dec();
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

/// Lets through so many lines a second of all instances of a plugin together.
#[derive(Default)]
pub(crate) struct LineRate(Mutex<Option<Second>>);

struct Second {
    began: Instant,
    lines: u32,
}

impl LineRate {
    /// Asks for one line.
    fn admits(&self, lines_max: u32) -> bool {
        self.take(lines_max, 1)
    }

    /// No further line is let through in this second.
    fn is_used_up(&self, lines_max: u32) -> bool {
        !self.take(lines_max.saturating_sub(1), 0)
    }

    fn take(&self, lines_max: u32, lines: u32) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = match &mut *second {
            Some(second) if second.began.elapsed().as_secs() < 1 => second,
            over => over.insert(Second {
                began: Instant::now(),
                lines: 0,
            }),
        };
        second.lines = second.lines.saturating_add(lines);
        second.lines <= lines_max
    }
}

/// One of the two outputs of a guest.
#[derive(Clone, Copy)]
enum Stream {
    Output,
    Error,
}

/// What a plugin said, on its way to the log.
struct Said {
    stage: String,
    line_bytes_max: usize,
    lines_per_second_max: u32,
    panic: Option<String>,
    /// The end of standard error since the call began.
    tail: Vec<u8>,
    /// The lines that are not ended yet, of each stream: a runtime may write one line in many pieces.
    unfinished: [Vec<u8>; 2],
    line_rate: Arc<LineRate>,
    metrics: Arc<PluginMetrics>,
}

impl Said {
    fn new(stage: &str, limits: &Limits, line_rate: Arc<LineRate>, metrics: Arc<PluginMetrics>) -> Self {
        Self {
            stage: stage.to_owned(),
            line_bytes_max: limits.log_line_bytes,
            lines_per_second_max: limits.log_lines_per_second,
            panic: None,
            tail: Vec::new(),
            unfinished: [Vec::new(), Vec::new()],
            line_rate,
            metrics,
        }
    }

    fn line(&mut self, level: log::Level, text: &str, fields: &[(String, String)]) {
        if !self.line_rate.admits(self.lines_per_second_max) {
            self.metrics.dropped_lines(1);
            return;
        }
        self.log(level, text, &fields_text(fields));
    }

    /// Logs a line that is let through.
    fn log(&self, level: log::Level, text: &str, fields: &str) {
        if text.len().max(fields.len()) > self.line_bytes_max {
            self.metrics.hit(Some(Limit::LogLine));
        }
        // Line breaks would make lines that the plugin is free to invent; in `fields` the log escapes them.
        let text = one_line(cut(text, self.line_bytes_max));
        let text = cut(&text, self.line_bytes_max);
        let fields = cut(fields, self.line_bytes_max);
        let stage = self.stage.as_str();
        match level {
            log::Level::Trace => tracing::trace!(target: "plugin", stage, fields, "{text}"),
            log::Level::Debug => tracing::debug!(target: "plugin", stage, fields, "{text}"),
            log::Level::Info => tracing::info!(target: "plugin", stage, fields, "{text}"),
            log::Level::Warn => tracing::warn!(target: "plugin", stage, fields, "{text}"),
            log::Level::Error => tracing::error!(target: "plugin", stage, fields, "{text}"),
        }
    }

    fn written(&mut self, stream: Stream, bytes: &[u8]) {
        if let Stream::Error = stream {
            let keep = bytes.len().min(LAST_WORDS_BYTES_MAX);
            self.tail.extend_from_slice(&bytes[bytes.len() - keep..]);
            let over = self.tail.len().saturating_sub(LAST_WORDS_BYTES_MAX);
            self.tail.drain(..over);
        }
        let mut dropped = 0;
        let mut used_up = false;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            used_up = used_up || self.line_rate.is_used_up(self.lines_per_second_max);
            if used_up && piece.ends_with(b"\n") {
                let line = &mut self.unfinished[stream as usize];
                dropped += u64::from(!(line.trim_ascii().is_empty() && piece.trim_ascii().is_empty()));
                line.clear();
                continue;
            }
            let line = &mut self.unfinished[stream as usize];
            // What is beyond the cut is not kept, but for the rest of a character that the cut goes through.
            let room = (self.line_bytes_max + 4).saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.finish(stream);
            }
        }
        self.metrics.dropped_lines(dropped);
    }

    fn finish(&mut self, stream: Stream) {
        let mut line = std::mem::take(&mut self.unfinished[stream as usize]);
        if line.trim_ascii().is_empty() {
            return;
        }
        if self.line_rate.admits(self.lines_per_second_max) {
            let fields = match stream {
                Stream::Output => "stream=stdout",
                Stream::Error => "stream=stderr",
            };
            self.log(log::Level::Info, String::from_utf8_lossy(&line).trim_end(), fields);
        } else {
            self.metrics.dropped_lines(1);
        }
        // Its room is for the next one.
        line.clear();
        self.unfinished[stream as usize] = line;
    }
}

fn fields_text(fields: &[(String, String)]) -> String {
    fields
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The beginning of a text, at most `bytes_max` long, cut between characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

impl types::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: log::Level, message: String, fields: Vec<(String, String)>) {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .line(level, &message, &fields);
    }

    fn panicked(&mut self, message: String, place: String) {
        let text = if place.is_empty() {
            message
        } else {
            format!("{message} (at {place})")
        };
        let text = cut(&text, LAST_WORDS_BYTES_MAX).to_owned();
        self.said.lock().unwrap_or_else(PoisonError::into_inner).panic = Some(text);
    }
}

impl metrics::Host for Guest {
    fn add(&mut self, name: String, amount: u64) {
        self.metrics.add(&name, amount);
    }

    fn set(&mut self, name: String, value: f64) {
        self.metrics.set(&name, value);
    }

    fn observe(&mut self, name: String, value: f64) {
        self.metrics.observe(&name, value);
    }
}

/// Standard output or standard error of a guest; never blocks and never fails.
struct GuestOutput {
    stream: Stream,
    said: Arc<Mutex<Said>>,
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(GuestOutput {
            stream: self.stream,
            said: Arc::clone(&self.said),
        })
    }

    fn p2_stream(&self) -> Box<dyn wasmtime_wasi::p2::OutputStream> {
        Box::new(GuestOutput {
            stream: self.stream,
            said: Arc::clone(&self.said),
        })
    }
}

impl GuestOutput {
    fn take(&self, bytes: &[u8]) {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .written(self.stream, bytes);
    }
}

impl wasmtime_wasi::p2::OutputStream for GuestOutput {
    fn write(&mut self, bytes: bytes::Bytes) -> wasmtime_wasi::p2::StreamResult<()> {
        // Only `check_write` says how much a guest may write, and without a bound one call could last longer than any deadline.
        if bytes.len() > WRITE_BYTES_MAX {
            let text = format!("wrote {} bytes at once, {WRITE_BYTES_MAX} are permitted", bytes.len());
            return Err(wasmtime_wasi::p2::StreamError::trap(&text));
        }
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> wasmtime_wasi::p2::StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> wasmtime_wasi::p2::StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl wasmtime_wasi::p2::Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The linker of every plugin: the base set of WASI, without sockets, and the host's own interfaces.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
    use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
    use wasmtime_wasi::p2::bindings::{cli, filesystem, random};
    use wasmtime_wasi::random::WasiRandom;

    let mut linker = Linker::new(engine);
    let l = &mut linker;
    // Input and output streams, polls, clocks, secure random numbers, and the three standard streams.
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(l)?;
    filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    filesystem::types::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.wasi.random())?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.wasi.random())?;
    cli::exit::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::environment::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    types::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    log::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    metrics::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    Ok(linker)
}
