//! Sees that a file has changed, however it was changed, and reads it once it has settled.
//!
//! A look asks for the file's identity, size and time, through symlinks. Two looks in a row that say the same new thing mean that nobody is writing any
//! more; then the file is read, and read again if it changed meanwhile. Whether it is news is decided by its digest: a touch is none.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::plugin::component::Binary;

/// What tells one state of a file from another: device, inode, size, and times to the nanosecond.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Watches one file.
pub(super) struct FileWatch {
    file: PathBuf,
    /// The state that was read last.
    read: Option<Stamp>,
    /// The state that the last look found.
    seen: Option<Stamp>,
    /// The digest of what was read last.
    digest: Option<String>,
    bytes_max: u64,
}

impl FileWatch {
    /// `digest`: that of the file when it was last read; `bytes_max`: the largest file that is read.
    pub(super) fn new(file: PathBuf, digest: Option<String>, bytes_max: u64) -> Self {
        Self {
            file,
            read: None,
            seen: None,
            digest,
            bytes_max,
        }
    }

    /// The file's bytes, when it has changed and settled; an error when it has and cannot be read.
    pub(super) fn look(&mut self) -> Option<Result<Binary>> {
        // A file that is away may be on its way: editors and `mv` remove before they write.
        let stamp = self.stamp()?;
        let settled = self.seen.replace(stamp) == Some(stamp);
        if !settled || self.read == Some(stamp) {
            return None;
        }
        let found = Binary::read(&self.file, self.bytes_max).with_context(|| self.file.display().to_string());
        if self.stamp() != Some(stamp) {
            return None;
        }
        self.read = Some(stamp);
        let digest = found.as_ref().ok().map(|binary| binary.digest.clone());
        if digest.is_some() && digest == self.digest {
            return None;
        }
        self.digest = digest;
        Some(found)
    }

    fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::metadata(&self.file).ok()?;
        Some((
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// Looks until nothing more is to be found, and tells what was read.
    fn found(watch: &mut FileWatch) -> Vec<String> {
        let looks = (0..3).filter_map(|_| watch.look());
        looks
            .map(|found| match found {
                Ok(binary) => String::from_utf8(binary.bytes).unwrap(),
                Err(error) => format!("{error:#}"),
            })
            .collect()
    }

    fn watch(dir: &Path) -> FileWatch {
        let file = dir.join("p.wasm");
        fs::write(&file, "one").unwrap();
        let digest = Binary::read(&file, 100).unwrap().digest;
        let mut watch = FileWatch::new(file, Some(digest), 100);
        assert_eq!(found(&mut watch), Vec::<String>::new());
        watch
    }

    #[test]
    fn every_way_to_change_a_file_is_seen_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut watch = watch(dir.path());
        let file = dir.path().join("p.wasm");
        // In place, as `cp` and most editors do.
        fs::write(&file, "two").unwrap();
        assert_eq!(found(&mut watch), ["two"]);
        // Renamed over it.
        fs::write(dir.path().join("new"), "three").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        assert_eq!(found(&mut watch), ["three"]);
        // Removed first.
        fs::remove_file(&file).unwrap();
        assert_eq!(found(&mut watch), Vec::<String>::new());
        fs::write(&file, "four").unwrap();
        assert_eq!(found(&mut watch), ["four"]);
        // Touched, or written with what was there.
        fs::write(&file, "four").unwrap();
        assert_eq!(found(&mut watch), Vec::<String>::new());
        // The same length within the clock's grain.
        fs::write(&file, "five").unwrap();
        assert_eq!(found(&mut watch), ["five"]);
    }

    /// The file is a link to `..data/p.wasm`, and `..data` a link that is switched to another folder.
    #[test]
    fn the_switched_link_of_a_mounted_volume_is_seen() {
        let dir = tempfile::TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (folder, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("p.wasm"), text).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/p.wasm", at("p.wasm")).unwrap();
        let digest = Binary::read(&at("p.wasm"), 100).unwrap().digest;
        let mut watch = FileWatch::new(at("p.wasm"), Some(digest), 100);
        assert_eq!(found(&mut watch), Vec::<String>::new());
        symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(found(&mut watch), ["two"]);
    }

    #[test]
    fn a_file_that_still_grows_is_waited_for() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut watch = watch(dir.path());
        let file = dir.path().join("p.wasm");
        for length in 1..5 {
            fs::write(&file, "x".repeat(length)).unwrap();
            assert!(watch.look().is_none(), "length {length}");
        }
        assert_eq!(found(&mut watch), ["xxxx"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut watch = watch(dir.path());
        let file = dir.path().join("p.wasm");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(found(&mut watch).len(), 1);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "two").unwrap();
        assert_eq!(found(&mut watch), ["two"]);
    }
}
