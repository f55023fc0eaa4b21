//! Reads the tree's maps and values and words what is wrong with them.
//!
//! A [`Field`] is a node that knows its name (``stage `az-filter`: `limits.memory` ``), a [`Section`]
//! a map with known keys. Every reader gives `None` once it has reported a mistake to the
//! [`Context`], and its caller goes on with the next value: that is how one run finds all mistakes.
//! A key that a later version brings is refused under its own name, apart from the unknown ones.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::errors::{ConfigError, Location, nearest, quoted, suggestion};
use super::interpolate::Environment;
use super::yaml::{Key, Node, Value};

/// What the readers of one file share.
pub(super) struct Context<'a> {
    folder: PathBuf,
    env: Environment<'a>,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> Context<'a> {
    /// `file` is the pipeline file: relative paths in it start from its folder.
    pub(super) fn new(file: &Path, env: Environment<'a>) -> Self {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        Self {
            folder,
            env,
            errors: RefCell::default(),
        }
    }

    pub(super) fn report(&self, at: Location, message: impl Into<String>) {
        self.errors.borrow_mut().push(ConfigError::at(at, message));
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }
}

/// The keys of a map.
pub(super) struct Keys {
    /// Those that this version reads, in the order in which a message lists them.
    pub(super) allowed: &'static [&'static str],
    /// Those that the pipeline file's shape reserves and this version does not have yet.
    pub(super) later: &'static [&'static str],
}

/// Says that something known is missing in this version.
pub(super) fn not_there_yet(name: &str) -> String {
    format!("`{name}` is not there yet in this version of wasmill")
}

/// A node with its name.
pub(super) struct Field<'n> {
    context: &'n Context<'n>,
    /// What stands before the name: ``stage `az-filter`: ``, or nothing.
    scope: String,
    /// The keys that lead to it, joined by dots; empty for the file itself and for a stage.
    path: String,
    /// The place of its key; of a list's item or the file itself, its own.
    named_at: Location,
    node: &'n Node,
}

impl<'n> Field<'n> {
    pub(super) fn root(context: &'n Context<'n>, node: &'n Node) -> Self {
        Self {
            context,
            scope: String::new(),
            path: String::new(),
            named_at: node.at,
            node,
        }
    }

    /// The same node under a name of its own, for what has one (a stage).
    pub(super) fn scoped(self, scope: String) -> Self {
        Self {
            scope,
            path: String::new(),
            ..self
        }
    }

    pub(super) fn at(&self) -> Location {
        self.node.at
    }

    /// The place of its key.
    pub(super) fn named_at(&self) -> Location {
        self.named_at
    }

    /// Reports a mistake somewhere inside this value.
    pub(super) fn report(&self, at: Location, message: impl Display) {
        let Self { scope, path, .. } = self;
        let name = if path.is_empty() {
            String::new()
        } else {
            format!("`{path}`: ")
        };
        self.context.report(at, format!("{scope}{name}{message}"));
    }

    /// Reports a mistake in this value and gives none.
    pub(super) fn fail<T>(&self, message: impl Display) -> Option<T> {
        self.fail_at(self.node.at, message)
    }

    /// Reports a mistake somewhere inside this value and gives none.
    pub(super) fn fail_at<T>(&self, at: Location, message: impl Display) -> Option<T> {
        self.report(at, message);
        None
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// Whether the key has no value (or one that came out empty and was not quoted).
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// Whether it holds nothing, quoted or not.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.is_null() || scalar.text.is_empty())
    }

    pub(super) fn node(&self) -> &'n Node {
        self.node
    }

    /// The text of a single value, numbers and booleans as they were spelt.
    pub(super) fn text(&self) -> Option<&'n str> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(scalar.text.as_str()),
            _ => self.wrong_kind("a single value"),
        }
    }

    /// A path, relative ones taken from the pipeline file's folder.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self.text()? {
            "" => self.fail("the path is empty"),
            text => Some(self.context.folder.join(text)),
        }
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.context.env)(name)
    }

    pub(super) fn list(&self) -> Option<Vec<Field<'n>>> {
        let Value::List(nodes) = &self.node.value else {
            return self.wrong_kind("a list");
        };
        let item = |node: &'n Node| self.child(self.path.clone(), node.at, node);
        Some(nodes.iter().map(item).collect())
    }

    /// The entries of a map whose keys are the user's own.
    pub(super) fn entries(&self) -> Option<Vec<(&'n Key, Field<'n>)>> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong_kind("a map");
        };
        let entry = |(key, node): &'n (Key, Node)| (key, self.child(self.child_path(&key.scalar.text), key.at, node));
        Some(entries.iter().map(entry).collect())
    }

    /// A map with known keys; others are reported here.
    pub(super) fn section(&self, keys: &'static Keys) -> Option<Section<'n>> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong_kind("a map");
        };
        for (key, _) in entries {
            self.check_key(key, keys);
        }
        Some(Section {
            field: self.child(self.path.clone(), self.named_at, self.node),
            entries,
            keys,
        })
    }

    fn check_key(&self, key: &Key, keys: &Keys) {
        let name = key.scalar.text.as_str();
        if keys.allowed.contains(&name) {
            return;
        }
        let scope = &self.scope;
        if keys.later.contains(&name) {
            self.context
                .report(key.at, format!("{scope}{}", not_there_yet(&self.child_path(name))));
            return;
        }
        let place = if self.path.is_empty() {
            String::new()
        } else {
            format!(" in `{}`", self.path)
        };
        let names = keys.allowed.iter().chain(keys.later).copied();
        let meant = match nearest(name, names) {
            Some(later) if keys.later.contains(&later) => {
                format!("; did you mean `{later}`? it is not there yet in this version of wasmill;")
            }
            _ => suggestion(name, keys.allowed.iter().copied()),
        };
        // A question mark ends the suggestion; without one, the list needs its own separator.
        let separator = if meant.is_empty() { ";" } else { "" };
        let allowed = keys.allowed.join(", ");
        let name = quoted(name);
        self.context.report(
            key.at,
            format!("{scope}unknown key {name}{place}{meant}{separator} allowed: {allowed}"),
        );
    }

    fn child(&self, path: String, named_at: Location, node: &'n Node) -> Field<'n> {
        Field {
            context: self.context,
            scope: self.scope.clone(),
            path,
            named_at,
            node,
        }
    }

    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reports that another kind of value was expected, unless the node's mistake is known.
    pub(super) fn wrong_kind<T>(&self, expected: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::Broken => return None,
            Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => quoted(&scalar.text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        };
        self.fail(format!("expected {expected}, found {found}"))
    }
}

/// A map with known keys.
pub(super) struct Section<'n> {
    field: Field<'n>,
    entries: &'n [(Key, Node)],
    keys: &'static Keys,
}

impl<'n> Section<'n> {
    /// The place of the map's own key.
    pub(super) fn at(&self) -> Location {
        self.field.named_at
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Field<'n>> {
        let (entry, node) = self.entries.iter().find(|(entry, _)| entry.scalar.text == key)?;
        Some(self.field.child(self.field.child_path(key), entry.at, node))
    }

    /// Reports a mistake of the map as a whole, and gives none.
    pub(super) fn fail<T>(&self, message: impl Display) -> Option<T> {
        self.fail_at(self.at(), message)
    }

    /// Reports a mistake at one of the map's keys, and gives none.
    pub(super) fn fail_at<T>(&self, at: Location, message: impl Display) -> Option<T> {
        self.field.fail_at(at, message)
    }

    /// The value of a key that has to be there; `meaning` says what it holds.
    pub(super) fn required(&self, key: &str, meaning: &str) -> Option<Field<'n>> {
        self.get(key).or_else(|| self.missing(key, meaning))
    }

    /// Reports a missing key, unless a misspelt one was answered with its name already.
    pub(super) fn missing<T>(&self, key: &str, meaning: &str) -> Option<T> {
        let meant = |name: &str| {
            let unknown = !self.keys.allowed.contains(&name) && !self.keys.later.contains(&name);
            unknown && nearest(name, self.keys.allowed.iter().copied()) == Some(key)
        };
        if self.entries.iter().any(|(entry, _)| meant(&entry.scalar.text)) {
            return None;
        }
        self.fail(format!("missing key `{key}`: {meaning}"))
    }
}
