//! `dlq ls`: one line a letter, in a table or as JSON, and how many there are of each kind.
//!
//! Nothing is kept but a page of the table, so a topic may hold any number of letters.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;

use anyhow::Result;
use comfy_table::{ColumnConstraint, Table, Width, presets};

use super::filter::Filter;
use super::marks::Marks;
use super::{Found, Letters, count, render, stages};
use crate::config::Pipeline;

/// Rows that are laid out together; the columns of the first page give their widths to the others.
const PAGE_ROWS: usize = 1000;
/// Characters of a message in the table.
const MESSAGE_MAX: usize = 60;
/// Characters of a name in the table.
const NAME_MAX: usize = 40;
/// Characters of a digest in the table.
const DIGEST_MAX: usize = 8;
const HEADER: [&str; 9] = [
    "POSITION", "TIME", "STAGE", "KIND", "SOURCE", "ATTEMPTS", "PLUGIN", "REPLAYED", "MESSAGE",
];

/// Lists the letters that the filter means.
///
/// # Errors
/// When the topics cannot be read, or nobody reads what is written.
pub(crate) fn run(pipeline: &Pipeline, filter: &Filter, json: bool, out: &mut impl Write) -> Result<()> {
    let mut letters = Letters::connect(pipeline, filter)?;
    let marks = Marks::read(pipeline, &stages(pipeline, filter)?, &mut letters.scan)?;
    let mut page = Page::new(letters.topics().count() > 1);
    let mut tally = Tally::default();
    let limit = filter.limit.unwrap_or(u64::MAX);
    if limit > 0 {
        letters.each(filter, |found, progress| {
            let replayed = marks.contain(&found);
            tally.add(&found);
            if json {
                let record = found.letter.as_ref().ok().filter(|letter| letter.cut.is_some());
                let message = record.is_none().then_some(&found.message);
                let line = render::json(&found, message, replayed);
                progress.aside(|| writeln!(out, "{line}"))?;
            } else if page.add(&found, replayed) {
                progress.aside(|| page.write(out))?;
            }
            Ok(if tally.total < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
    }
    if json {
        return Ok(());
    }
    page.write(out)?;
    let topics: Vec<&str> = letters.topics().collect();
    writeln!(out, "{}", tally.words(&topics.join(", ")))?;
    Ok(())
}

/// Rows that are not written yet.
struct Page {
    with_topic: bool,
    rows: Vec<Vec<String>>,
    widths: Option<Vec<u16>>,
}

impl Page {
    fn new(with_topic: bool) -> Self {
        Self {
            with_topic,
            rows: Vec::new(),
            widths: None,
        }
    }

    /// True: the page is full.
    fn add(&mut self, found: &Found, replayed: bool) -> bool {
        let position = format!("{}:{}", found.position.partition, found.position.offset);
        let mut row = vec![position];
        match &found.letter {
            Ok(letter) => {
                let original = &letter.original;
                let digest: String = letter
                    .digest
                    .iter()
                    .flat_map(|digest| digest.chars())
                    .take(DIGEST_MAX)
                    .collect();
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                let plugin = format!("{} {} {digest}", text(&letter.plugin), text(&letter.version));
                row.extend([
                    render::time_of_letter(found, letter).unwrap_or_default(),
                    letter.stage.clone(),
                    letter.kind.clone(),
                    format!("{}/{}/{}", original.topic, original.partition, original.offset),
                    letter.attempts.map(|attempts| attempts.to_string()).unwrap_or_default(),
                    plugin.trim().to_owned(),
                    if replayed { "yes" } else { "no" }.to_owned(),
                    letter.message.clone(),
                ]);
            }
            Err(unreadable) => {
                row.extend(std::iter::repeat_n(String::new(), HEADER.len() - 2));
                row.push(format!("unreadable: {unreadable}"));
            }
        }
        let last = row.len() - 1;
        let cut =
            |(index, text): (usize, String)| render::line(&text, if index == last { MESSAGE_MAX } else { NAME_MAX });
        let mut row: Vec<String> = row.into_iter().enumerate().map(cut).collect();
        if self.with_topic {
            row.insert(0, found.position.topic.clone());
        }
        self.rows.push(row);
        self.rows.len() >= PAGE_ROWS
    }

    fn write(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match &self.widths {
            None => {
                let topic = self.with_topic.then_some("TOPIC");
                table.set_header(topic.into_iter().chain(HEADER));
            }
            Some(widths) => {
                table.set_constraints(
                    widths
                        .iter()
                        .map(|width| ColumnConstraint::LowerBoundary(Width::Fixed(*width))),
                );
            }
        }
        table.add_rows(self.rows.drain(..));
        if self.widths.is_none() {
            // Two characters of a column are the space around it.
            let widths = table.column_max_content_widths();
            self.widths = Some(widths.into_iter().map(|width| width.saturating_add(2)).collect());
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Counts by stage and kind.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) total: u64,
    unreadable: u64,
    by_stage: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Tally {
    pub(super) fn add(&mut self, found: &Found) {
        self.total += 1;
        match &found.letter {
            Ok(letter) => {
                let of_stage = self.by_stage.entry(render::line(&letter.stage, NAME_MAX)).or_default();
                *of_stage.entry(render::line(&letter.kind, NAME_MAX)).or_default() += 1;
            }
            Err(_) => self.unreadable += 1,
        }
    }

    /// `3 dead letters in dead: guard: trap 2, reject 1`.
    fn words(&self, topics: &str) -> String {
        if self.total == 0 {
            return format!("no dead letter in {topics} that is asked for");
        }
        format!("{} in {topics}: {}", count(self.total, "dead letter"), self.parts())
    }

    /// `guard: trap 2, reject 1`.
    pub(super) fn parts(&self) -> String {
        let mut parts: Vec<String> = self
            .by_stage
            .iter()
            .map(|(stage, kinds)| of_stage(stage, kinds))
            .collect();
        if self.unreadable > 0 {
            parts.push(format!("unreadable {}", self.unreadable));
        }
        parts.join("; ")
    }
}

fn of_stage(stage: &str, kinds: &BTreeMap<String, u64>) -> String {
    let kinds: Vec<String> = kinds.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
    format!("{stage}: {}", kinds.join(", "))
}
