//! Reads what one stage's plugin is given beyond the base set, which is empty.
//!
//! Values of variables can stand elsewhere, as secrets do, and are never printed. Whether folders exist is looked at with the plugin files.

use super::errors::{At, quoted};
use super::model::{GrantedFolder, GrantedVariable, Grants};
use super::secret::{self, Secret};
use super::section::{Field, Keys};
use super::stage::{get, optional};
use super::yaml::Key;

const GRANTS: Keys = Keys {
    allowed: &["env", "files"],
    later: &["http"],
};

/// Reads `grants`, which may be missing altogether.
pub(super) fn read(field: Option<Field<'_>>) -> Option<Grants> {
    let section = optional(field, &GRANTS)?;
    let env = match get(&section, "env") {
        Some(field) => each(&field, "a map of variables, `{NAME: VALUE}`", variable),
        None => Some(Vec::new()),
    };
    let files = match get(&section, "files") {
        Some(field) => each(&field, "a map of folders, `{/guest/path: FOLDER}`", folder),
        None => Some(Vec::new()),
    };
    Some(Grants {
        env: env?,
        files: files?,
    })
}

/// The entries of a map, all of them or none.
fn each<T>(field: &Field<'_>, expected: &str, read: fn(&Key, &Field<'_>) -> Option<T>) -> Option<Vec<T>> {
    if !field.is_map() {
        return field.wrong_kind(expected);
    }
    let entries = field.entries()?;
    let found: Vec<T> = entries.iter().filter_map(|(key, field)| read(key, field)).collect();
    (found.len() == entries.len()).then_some(found)
}

fn variable(key: &Key, field: &Field<'_>) -> Option<GrantedVariable> {
    let name = key.scalar.text.as_str();
    if name.is_empty() || name.contains(['=', '\0']) {
        let name = quoted(name);
        return field.fail_at(
            key.at,
            format!("{name} is no name of a variable: it is empty, or holds `=`"),
        );
    }
    let value = if field.is_map() {
        secret::read(field)?
    } else {
        At::new(Secret::new(field.text()?), field.at())
    };
    Some(GrantedVariable {
        name: At::new(name.to_owned(), key.at),
        value,
    })
}

fn folder(key: &Key, field: &Field<'_>) -> Option<GrantedFolder> {
    let path = key.scalar.text.as_str();
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    let is_path = path == "/" || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part));
    if !is_path {
        let path = quoted(path);
        return field.fail_at(
            key.at,
            format!("{path} is no path for a plugin; allowed: an absolute one without `.` and `..`, such as /data"),
        );
    }
    Some(GrantedFolder {
        guest_path: At::new(path.to_owned(), key.at),
        folder: At::new(field.path()?, field.at()),
    })
}
