//! Puts environment variables into scalar values: `${NAME}` and `${NAME:-default}`.
//!
//! It runs on the parsed tree, so a variable's value is never read as YAML: it can neither add keys
//! nor move what follows, and places stay right. A value that was not quoted is read like any
//! unquoted scalar afterwards: `workers: ${N}` is a number, `instance: ${NAME:-}` nothing at all;
//! `"${N}"` stays text. `$${` stands for `${`; a `$` alone for itself. Keys are left as they are.

use super::errors::{ConfigError, quoted};
use super::yaml::{Node, Value};

/// Reads an environment variable; `None` when it is not set.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces every reference in the tree; a scalar with a mistake becomes [`Value::Broken`].
pub(super) fn interpolate(node: &mut Node, env: Environment<'_>, errors: &mut Vec<ConfigError>) {
    match &mut node.value {
        Value::List(nodes) => {
            for child in nodes {
                interpolate(child, env, errors);
            }
        }
        Value::Map(entries) => {
            for (_, child) in entries {
                interpolate(child, env, errors);
            }
        }
        Value::Scalar(scalar) if scalar.text.contains("${") => match expand(&scalar.text, env) {
            Ok(text) => scalar.text = text,
            Err(message) => {
                errors.push(ConfigError::at(node.at, message));
                node.value = Value::Broken;
            }
        },
        Value::Scalar(_) | Value::Broken => {}
    }
}

fn expand(text: &str, env: Environment<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        expanded.push_str(&rest[..start]);
        rest = &rest[start..];
        if let Some(after) = rest.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((reference, after)) = after.split_once('}') else {
                return Err(format!(
                    "{}: `${{` has no `}}`; write `$${{` for the characters themselves",
                    quoted(text)
                ));
            };
            expanded.push_str(&lookup(reference, env)?);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// As in a shell, `:-` gives its default for an empty variable too.
fn lookup(reference: &str, env: Environment<'_>) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let valid = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if !valid || default.is_some_and(|default| default.contains("${")) {
        let reference = quoted(&format!("${{{reference}}}"));
        return Err(format!(
            "{reference} is no reference; \
             allowed: `${{NAME}}`, `${{NAME:-default}}`, and `$${{` for the characters themselves"
        ));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "environment variable `{name}` is not set; set it, or give a default: `${{{name}:-default}}`"
        )),
    }
}
