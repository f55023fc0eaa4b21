//! Turns the file's text into a tree of positioned nodes, and knows nothing about pipelines.
//!
//! It reads the parser's events rather than deserializing into types, because a tree lets all
//! mistakes be reported at once, and because only here it can be seen whether a scalar was quoted
//! (`"10"` is text, `10` a number) and how exactly it was spelt. Repeated keys, merge keys and tags
//! other than `!!str` are mistakes. Aliases are expanded; depth and number of nodes are bounded, so
//! that no file can exhaust the stack or the memory.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag, options};

use super::errors::{ConfigError, Location, quoted};

/// The deepest nesting of lists and maps; the readers of the tree recurse this deep at most.
const DEPTH_MAX: usize = 64;

/// The most nodes of one file, those that aliases repeat included.
const NODES_MAX: usize = 50_000;

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Location,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// Its mistake was reported already: whoever reads it reports nothing more.
    Broken,
}

/// A scalar as it was written, escapes resolved.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Not quoted and no block: `10` is a number then, and `~` nothing.
    pub(super) plain: bool,
}

/// A map's key with its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) at: Location,
    pub(super) scalar: Scalar,
}

impl Scalar {
    /// Whether the scalar stands for nothing, by YAML's core schema.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

/// Parses one document. Mistakes that leave a tree to go on with are added to `errors`.
///
/// # Errors
/// What leaves no tree: text that is not YAML, no document or several, and too deep or too large.
pub(super) fn parse(text: &str, errors: &mut Vec<ConfigError>) -> Result<Node, ConfigError> {
    let mut builder = Builder {
        errors,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        nodes: 0,
    };
    // Comments would be buffered, and a long block of them would be an error.
    let options = options! { emit_comments: false };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| syntax_error(text, &error))?;
        builder.event(event, location(&span))?;
    }
    builder.root.ok_or_else(|| {
        let start = Location { line: 1, column: 1 };
        ConfigError::at(start, "the file is empty; a pipeline needs `app`, `kafka` and `stages`")
    })
}

fn syntax_error(text: &str, error: &ScanError) -> ConfigError {
    let marker = error.marker();
    let at = at(marker.line(), marker.col());
    let line = text.lines().nth(marker.line().saturating_sub(1)).unwrap_or_default();
    let hint = if line.contains("${") {
        "; inside { } and [ ] a `${NAME}` has to be quoted: \"${NAME}\""
    } else {
        ""
    };
    ConfigError::at(at, format!("not valid YAML: {}{hint}", error.info()))
}

fn location(span: &Span) -> Location {
    at(span.start.line(), span.start.col())
}

/// The parser counts lines from 1 and columns from 0.
fn at(line: usize, column: usize) -> Location {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Location {
        line: number(line.max(1)),
        column: number(column.saturating_add(1)),
    }
}

/// Builds the tree from events, with a stack instead of recursion.
struct Builder<'e> {
    errors: &'e mut Vec<ConfigError>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
}

/// A list or map whose end has not been seen yet.
struct Open {
    at: Location,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, next: Next },
}

/// What a map's next node is.
enum Next {
    Key,
    Value(Key),
    /// The value of a key that was refused; it goes with it.
    Dropped,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, at: Location) -> Result<(), ConfigError> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(ConfigError::at(
                at,
                "a second document begins here; a pipeline file holds one",
            )),
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.is_text(tag.as_deref(), at);
                let plain = style == ScalarStyle::Plain && !is_text;
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain,
                };
                self.close(
                    anchor,
                    Node {
                        at,
                        value: Value::Scalar(scalar),
                    },
                )
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.no_tag(tag.as_deref(), at);
                self.open(Open {
                    at,
                    anchor,
                    content: Content::List(Vec::new()),
                })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.no_tag(tag.as_deref(), at);
                let content = Content::Map {
                    entries: Vec::new(),
                    next: Next::Key,
                };
                self.open(Open { at, anchor, content })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close_collection(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), ConfigError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(open.at));
        }
        self.open.push(open);
        Ok(())
    }

    fn close_collection(&mut self) -> Result<(), ConfigError> {
        let Some(Open { at, anchor, content }) = self.open.pop() else {
            return Ok(());
        };
        let value = match content {
            Content::List(nodes) => Value::List(nodes),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        self.close(anchor, Node { at, value })
    }

    /// Puts a finished node where it belongs, and remembers it when it has an anchor.
    fn close(&mut self, anchor: usize, node: Node) -> Result<(), ConfigError> {
        self.count(1, node.at)?;
        if anchor != 0 {
            let (nodes, _) = extent(&node);
            self.count(nodes, node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node);
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Location) -> Result<(), ConfigError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(ConfigError::at(
                at,
                "this alias stands inside the value that it repeats",
            ));
        };
        let (nodes, depth) = extent(node);
        if self.open.len() + depth > DEPTH_MAX {
            return Err(too_deep(at));
        }
        // Counted before it is copied: aliases of aliases grow exponentially.
        let node = if self.nodes + nodes <= NODES_MAX {
            Some(node.clone())
        } else {
            None
        };
        self.count(nodes, at)?;
        if let Some(node) = node {
            self.place(node);
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, at: Location) -> Result<(), ConfigError> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(ConfigError::at(
                at,
                format!("the file holds more than {NODES_MAX} values"),
            ));
        }
        Ok(())
    }

    fn place(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.content {
            Content::List(nodes) => nodes.push(node),
            Content::Map { entries, next } => {
                *next = match std::mem::replace(next, Next::Key) {
                    Next::Key => match key(node, entries) {
                        Ok(key) => Next::Value(key),
                        Err(error) => {
                            self.errors.push(error);
                            Next::Dropped
                        }
                    },
                    Next::Value(key) => {
                        entries.push((key, node));
                        Next::Key
                    }
                    Next::Dropped => Next::Key,
                }
            }
        }
    }

    /// Whether a scalar's tag makes it text; any tag but `!!str` and `!` is a mistake.
    fn is_text(&mut self, tag: Option<&Tag>, at: Location) -> bool {
        let Some(tag) = tag else { return false };
        if !tag.is_yaml_core_schema_tag("str") && tag.original() != "!" {
            self.no_tag(Some(tag), at);
        }
        true
    }

    fn no_tag(&mut self, tag: Option<&Tag>, at: Location) {
        if let Some(tag) = tag {
            let tag = quoted(&tag.original());
            self.errors.push(ConfigError::at(
                at,
                format!("tag {tag} has no meaning here; allowed: `!!str`"),
            ));
        }
    }
}

fn key(node: Node, entries: &[(Key, Node)]) -> Result<Key, ConfigError> {
    let at = node.at;
    let Value::Scalar(scalar) = node.value else {
        return Err(ConfigError::at(at, "a key has to be text, not a list or a map"));
    };
    if scalar.plain && scalar.text == "<<" {
        let message = "merge keys (`<<`) are not supported; repeat the keys, or use an alias for a whole value";
        return Err(ConfigError::at(at, message));
    }
    if let Some((first, _)) = entries.iter().find(|(key, _)| key.scalar.text == scalar.text) {
        let name = quoted(&scalar.text);
        let message = format!("key {name} is given twice; it stands in line {} already", first.at.line);
        return Err(ConfigError::at(at, message));
    }
    Ok(Key { at, scalar })
}

fn too_deep(at: Location) -> ConfigError {
    ConfigError::at(at, format!("lists and maps are nested deeper than {DEPTH_MAX} levels"))
}

/// The number of nodes of a tree, and its depth in lists and maps.
fn extent(node: &Node) -> (usize, usize) {
    let children: Vec<&Node> = match &node.value {
        Value::List(nodes) => nodes.iter().collect(),
        Value::Map(entries) => entries.iter().map(|(_, node)| node).collect(),
        Value::Scalar(_) | Value::Broken => return (1, 0),
    };
    children
        .into_iter()
        .map(extent)
        .fold((1, 1), |(nodes, depth), (child_nodes, child_depth)| {
            (nodes + child_nodes, depth.max(child_depth + 1))
        })
}
