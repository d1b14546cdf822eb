//! Units on the disk, and the links that `systemctl enable` would make: `[Install]` of a generated unit is for its generator.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::Unit;
use super::report::Report;
use super::source::is_unit_name;
use crate::systemd::unit_file::words::Escapes;

const SECTION: &str = "Install";
/// Keys, and what a directory of links of that kind ends in.
const LINKS: &[(&str, &str)] = &[("WantedBy", "wants"), ("RequiredBy", "requires"), ("UpheldBy", "upholds")];

/// Writes a unit and its links below `dir`. What another generator has made stays as it is.
pub(super) fn write(dir: &Path, unit: &Unit, report: &mut Report) {
    let path = dir.join(&unit.name);
    let written = fs::create_dir_all(dir).and_then(|()| {
        OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(unit.text().as_bytes())
    });
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let shown = path.display();
            return report
                .error(&format!("{shown} is there already: another generator has made a unit of this name"));
        }
        Err(error) => return report.error(&format!("cannot write {}: {error}", path.display())),
    }
    for (link, target) in links(unit, report) {
        let path = dir.join(&link);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink(&target, &path));
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => report.error(&format!("cannot make the link {}: {error}", path.display())),
        }
    }
}

/// Links below the directory of units, and what they point to.
fn links(unit: &Unit, report: &mut Report) -> Vec<(String, String)> {
    let mut links = Vec::new();
    let mut names = |key: &str| {
        let names = unit.file.all_words(SECTION, key, Escapes::Kept).unwrap_or_default();
        names
            .into_iter()
            .filter(|name| {
                let good = is_unit_name(name) && name.contains('.');
                if !good {
                    report.warning(&format!(
                        "{}: {key}={name:?} is no name of a unit, and is left out",
                        unit.name
                    ));
                }
                good
            })
            .collect::<Vec<_>>()
    };
    for alias in names("Alias") {
        links.push((alias, unit.name.clone()));
    }
    // A template itself can't be wanted, only an instance.
    let wanted = match unit.name.split_once("@.") {
        None => Some(unit.name.clone()),
        Some((base, extension)) => unit
            .file
            .text(SECTION, "DefaultInstance")
            .map(|instance| format!("{base}@{instance}.{extension}"))
            .filter(|name| is_unit_name(name)),
    };
    for (key, directory) in LINKS {
        for by in names(key) {
            if let Some(wanted) = &wanted {
                links.push((format!("{by}.{directory}/{wanted}"), format!("../{}", unit.name)));
            }
        }
    }
    links
}
