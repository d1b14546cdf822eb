//! Quadlet files and their drop-ins, as they lie in the directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Kind;
use super::report::Report;
use crate::systemd::unit_file::UnitFile;

/// Nobody writes such a file by hand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file with its drop-ins.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) file: UnitFile,
}

impl Source {
    /// The name without its extension, and whether it is a template.
    pub(super) fn stem(&self) -> (&str, bool) {
        let stem = self.name.rsplit_once('.').map_or(self.name.as_str(), |(stem, _)| stem);
        match stem.strip_suffix('@') {
            Some(stem) => (stem, true),
            None => (stem, false),
        }
    }

    /// `path:line` of the last assignment of a key, or the file.
    pub(super) fn at(&self, key: &str) -> String {
        self.file
            .last(self.kind.section(), key)
            .and_then(|assignment| assignment.origin.as_ref())
            .map_or_else(|| self.path.display().to_string(), ToString::to_string)
    }
}

/// Reads the files of a directory whose names are not there yet.
pub(super) fn load(
    directory: &Path,
    directories: &[PathBuf],
    sources: &mut Vec<Source>,
    report: &mut Report,
) {
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(error) => return report.error(&format!("cannot list {}: {error}", directory.display())),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(kind) = Kind::of(name) else { continue };
        if sources.iter().any(|source| source.name == name) || path.is_dir() {
            continue;
        }
        if !is_unit_name(name) {
            report.error(&format!("{}: no unit can have this name", path.display()));
            continue;
        }
        let Some(mut file) = read(&path, report) else { continue };
        let mut whole = true;
        for drop_in in drop_ins(name, directories) {
            match read(&drop_in, report) {
                Some(more) => file.merge(more),
                None => whole = false,
            }
        }
        if whole {
            sources.push(Source { name: name.to_owned(), kind, file, path: path.clone() });
        }
    }
}

fn read(path: &Path, report: &mut Report) -> Option<UnitFile> {
    let text = fs::metadata(path).and_then(|about| {
        if !about.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        if about.len() > FILE_BYTES_MAX {
            return Err(std::io::Error::other("it is longer than 1 MiB"));
        }
        fs::read_to_string(path)
    });
    let shown = path.display().to_string();
    match text {
        Ok(text) => UnitFile::read(&shown, &text).map_err(|error| report.error(&error.to_string())).ok(),
        Err(error) => {
            report.error(&format!("{shown}: cannot be read: {error}"));
            None
        }
    }
}

/// What systemd takes for the name of a unit, systemd.unit(5).
pub(super) fn is_unit_name(name: &str) -> bool {
    name.len() <= 255
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@')
        })
}

/// The drop-ins of a file, in the order in which they count. Of several of one name the most particular is meant.
fn drop_ins(name: &str, directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    for below in drop_in_directories(name) {
        for directory in directories {
            let Ok(entries) = directory.join(&below).read_dir() else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.extension().is_some_and(|extension| extension == "conf")
                    && let Some(name) = path.file_name()
                {
                    found.entry(name.to_owned()).or_insert(path);
                }
            }
        }
    }
    found.into_values().collect()
}

/// For `a-b@c.container`: `a-b@c.container.d`, `a-b@.container.d`, `a-@.container.d`, `a-.container.d`, `container.d`.
fn drop_in_directories(name: &str) -> Vec<String> {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let mut directories = vec![format!("{name}.d")];
    let (base, instance) = match stem.split_once('@') {
        Some((base, instance)) => (base, Some(instance)),
        None => (stem, None),
    };
    if instance.is_some_and(|instance| !instance.is_empty()) {
        directories.push(format!("{base}@.{extension}.d"));
    }
    let mut rest = base;
    while let Some((shorter, _)) = rest.rsplit_once('-') {
        if instance.is_some() {
            directories.push(format!("{shorter}-@.{extension}.d"));
        }
        directories.push(format!("{shorter}-.{extension}.d"));
        rest = shorter;
    }
    directories.push(format!("{extension}.d"));
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_go_from_the_particular_to_the_general() {
        assert_eq!(drop_in_directories("web.container"), ["web.container.d", "container.d"]);
        assert_eq!(
            drop_in_directories("a-b-c@x.container"),
            [
                "a-b-c@x.container.d",
                "a-b-c@.container.d",
                "a-b-@.container.d",
                "a-b-.container.d",
                "a-@.container.d",
                "a-.container.d",
                "container.d"
            ]
        );
        assert_eq!(drop_in_directories("a@.pod"), ["a@.pod.d", "pod.d"]);
    }

    #[test]
    fn names_are_those_of_units() {
        assert!(is_unit_name("web-1_2@a:b\\x2d.container"));
        assert!(!is_unit_name("a b.container"));
        assert!(!is_unit_name("a\n.container"));
        assert!(!is_unit_name("ä.container"));
    }
}
