//! `dlq show`: all about one letter, with the record that failed.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::filter::Filter;
use super::marks::Marks;
use super::records::{Record, Records};
use super::{Found, Letters, count, render};
use crate::config::Pipeline;
use crate::dead_letter::Letter;
use crate::kafka::ffi::Message;

/// Bytes of a key, a value, a header or a text that are shown.
const SHOWN_BYTES_MAX: usize = 4 * 1024;

/// How a letter is shown.
pub(crate) struct Wishes {
    pub(crate) json: bool,
    /// Nothing is cut.
    pub(crate) full: bool,
    /// The value's bytes go to this file.
    pub(crate) raw: Option<PathBuf>,
}

/// Shows the letter at the filter's only position.
///
/// # Errors
/// When there is none, the topics cannot be read, or the file cannot be written.
pub(crate) fn run(pipeline: &Pipeline, filter: &Filter, wishes: &Wishes, out: &mut impl Write) -> Result<()> {
    let mut letters = Letters::connect(pipeline, filter)?;
    let mut found = None;
    letters.each(filter, |letter, _| {
        found = Some(letter);
        Ok(ControlFlow::Break(()))
    })?;
    let Some(found) = found else {
        let topics: Vec<&str> = letters.topics().collect();
        bail!(
            "{} has no record at this position; `wasmill dlq ls` lists those that are there",
            topics.join(", ")
        );
    };
    let marks = Marks::read(pipeline, &super::stages(pipeline, filter)?, &mut letters.scan)?;
    let record = match &found.letter {
        Ok(letter) => Records::connect(pipeline)?.of(letter)?,
        Err(_) => Record::InLetter,
    };
    if let Some(path) = &wishes.raw {
        let message = record
            .message(&found)
            .context("the record is gone, so its value cannot be written")?;
        let value = message
            .value()
            .context("the record's value is null, so there are no bytes to write")?;
        std::fs::write(path, value).with_context(|| format!("write {}", path.display()))?;
    }
    let replayed = marks.contain(&found);
    if wishes.json {
        writeln!(out, "{}", render::json(&found, record.message(&found), replayed))?;
        return Ok(());
    }
    let max = if wishes.full { usize::MAX } else { SHOWN_BYTES_MAX };
    let mut page = Page { out, max };
    page.field("letter", &found.position.to_string())?;
    match &found.letter {
        Ok(letter) => page.letter(&found, letter, replayed)?,
        Err(unreadable) => page.field("unreadable", &unreadable.to_string())?,
    }
    match (&record, record.message(&found)) {
        (Record::Gone(text), _) => page.field("record", &format!("left out of the letter, and gone: {text}"))?,
        (_, Some(message)) => page.record(message)?,
        (_, None) => {}
    }
    Ok(())
}

struct Page<'o, W> {
    out: &'o mut W,
    max: usize,
}

impl<W: Write> Page<'_, W> {
    fn field(&mut self, name: &str, text: &str) -> Result<()> {
        let text = render::bytes(Some(text.as_bytes()), self.max);
        if text.contains('\n') {
            let indented: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
            writeln!(self.out, "{name}:\n{}", indented.join("\n"))?;
        } else {
            writeln!(self.out, "{:10} {text}", format!("{name}:"))?;
        }
        Ok(())
    }

    fn letter(&mut self, found: &Found, letter: &Letter, replayed: bool) -> Result<()> {
        let original = &letter.original;
        let unknown = || "unknown".to_owned();
        let (topic, partition, offset) = (&original.topic, original.partition, original.offset);
        self.field("source", &format!("{topic}/{partition}/{offset}"))?;
        self.field("time", &render::time_of_letter(found, letter).unwrap_or_else(unknown))?;
        self.field("stage", &letter.stage)?;
        self.field("kind", &letter.kind)?;
        self.field("message", &letter.message)?;
        if let Some(backtrace) = &letter.backtrace {
            self.field("backtrace", backtrace)?;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
        self.field("plugin", &format!("{} {}", text(&letter.plugin), text(&letter.version)))?;
        self.field("digest", &text(&letter.digest))?;
        let attempts = letter.attempts.map(|attempts| attempts.to_string());
        self.field("attempts", &attempts.unwrap_or_else(unknown))?;
        let before = match original.replays {
            0 => String::new(),
            times => format!(
                "; before it failed again the record was replayed {}",
                count(u64::from(times), "time")
            ),
        };
        self.field("replayed", &format!("{}{before}", if replayed { "yes" } else { "no" }))?;
        if let Some(cut) = &letter.cut {
            self.field("cut", cut)?;
        }
        Ok(())
    }

    fn record(&mut self, message: &Message) -> Result<()> {
        self.field("timestamp", &render::timestamp(message.timestamp_ms()))?;
        for (name, value) in message.headers() {
            let name = render::printable(&String::from_utf8_lossy(name));
            let value = render::bytes(value, self.max);
            writeln!(self.out, "header:    {name} = {value}")?;
        }
        self.bytes("key", message.key())?;
        self.bytes("value", message.value())
    }

    fn bytes(&mut self, name: &str, bytes: Option<&[u8]>) -> Result<()> {
        let len = bytes.map_or(0, <[u8]>::len);
        let text = render::bytes(bytes, self.max);
        if text.contains('\n') {
            writeln!(self.out, "{name}, {len} bytes:\n{text}")?;
        } else {
            writeln!(self.out, "{:10} {text}", format!("{name}:"))?;
        }
        Ok(())
    }
}
