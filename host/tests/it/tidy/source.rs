//! The repository's files as the rules look at them.
//!
//! Rules about Rust look at a file without its comments and texts (`code`), so that talking of something is not using it.

use std::fs;
use std::path::Path;

/// A text file of the repository, by its path from the root.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// Code without comments, texts and the tests at its end; nothing of a file that is all tests.
    pub(super) fn product_code(&self) -> String {
        if self.path.contains("/tests/") || self.path.ends_with("/tests.rs") {
            return String::new();
        }
        let end = self.text.find("\n#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        code(&self.text[..end])
    }

    pub(super) fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

/// Every text file: what is hidden (but for `.ci`), built or a snapshot still to be looked at is left out.
pub(super) fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), "", &mut files);
    assert!(files.len() > 100, "found only {} files", files.len());
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{prefix}{name}");
        // A file in a linked work tree.
        if name == ".git" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            let hidden = name.starts_with('.') && name != ".ci";
            if !hidden && !entry.path().join("CACHEDIR.TAG").exists() {
                collect(&entry.path(), &format!("{path}/"), files);
            }
        } else if !name.ends_with(".snap.new")
            && !name.ends_with(".pending-snap")
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(File { path, text });
        }
    }
}

pub(super) fn rust_files() -> impl Iterator<Item = File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs"))
}

pub(super) fn read(path: &str) -> String {
    let file = files().into_iter().find(|file| file.path == path);
    file.unwrap_or_else(|| panic!("there is no {path}")).text
}

/// The text with comments, strings and characters blanked out, line for line.
pub(super) fn code(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = kept.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        match comment(rest).or_else(|| quoted(rest, after_word)) {
            Some(len) => {
                kept.push(' ');
                kept.extend(rest[..len].chars().filter(|c| *c == '\n'));
                rest = &rest[len..];
            }
            None => {
                kept.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    kept
}

/// The length of the comment that begins here.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let inside = text.strip_prefix("/*")?;
    Some(inside.find("*/").map_or(text.len(), |end| end + 4))
}

/// The length of the string or character that begins here; a lifetime is neither.
fn quoted(text: &str, after_word: bool) -> Option<usize> {
    if let Some(raw) = text.strip_prefix('r').filter(|_| !after_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = raw[hashes + 1..].find(&close)?;
            return Some(1 + hashes + 1 + end + close.len());
        }
    }
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut characters = text.char_indices().skip(1);
    let mut count = 0;
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Some(at + 1);
        }
        if character == '\\' {
            characters.next();
        } else if quote == '\'' && count > 0 {
            return None;
        }
        count += 1;
    }
    None
}

#[test]
fn comments_and_texts_are_no_code() {
    let text = r##"let a = "//un\"safe"; // unsafe
fn b<'a>(c: &'a str) -> char { '"' } /* unsafe
*/ let d = r#"un"safe"#; unsafe { '\'' }"##;
    let kept = code(text);
    assert_eq!(kept.matches("unsafe").count(), 1, "{kept}");
    assert_eq!(kept.lines().count(), text.lines().count());
    assert!(kept.contains("fn b<'a>(c: &'a str) -> char {   }"), "{kept}");
}

/// Where one of the words stands, not as a part of another word.
pub(super) fn uses<'t>(path: &'t str, text: &'t str, words: &'t [&str]) -> impl Iterator<Item = String> + use<'t> {
    text.lines().enumerate().flat_map(move |(index, line)| {
        let found = words.iter().filter(|word| names(line, word));
        found.map(move |word| format!("{path}:{}: `{word}`", index + 1))
    })
}

pub(super) fn names(line: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].ends_with(is_letter) && word.starts_with(is_letter);
        let after = line[at + word.len()..].starts_with(is_letter) && word.ends_with(is_letter);
        !before && !after
    })
}

#[track_caller]
pub(super) fn none(rule: &str, broken: impl IntoIterator<Item = String>) {
    let broken: Vec<String> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{rule}; broken at\n  {}", broken.join("\n  "));
}
