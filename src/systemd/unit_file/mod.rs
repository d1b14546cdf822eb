//! Unit files: read as systemd reads them, changed, and written so that systemd reads what was meant.
//!
//! A value is kept as it stands in the file, with continuation lines joined. What it means is for who asks: a text, the sum
//! of several assignments, words, or a command line ([`words`]). Each assignment remembers where it came from, so that a
//! complaint can say so.

mod read;
pub mod words;

use std::fmt;
use std::sync::Arc;

pub use read::ReadError;
use words::{Escapes, WordError};

/// Where an assignment or a section stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file's path, or what stands for it.
    pub file: Arc<str>,
    /// From 1 on.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// `KEY=VALUE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Without spaces around it.
    pub key: String,
    /// In one line, without spaces around it.
    pub value: String,
    /// `None` if no file said so.
    pub origin: Option<Origin>,
}

/// `[NAME]` and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What stands in the brackets.
    pub name: String,
    /// In their order.
    pub assignments: Vec<Assignment>,
    /// Where it begins first.
    pub origin: Option<Origin>,
}

/// A unit file. Sections of the same name are one, as for systemd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    sections: Vec<Section>,
}

impl UnitFile {
    /// Reads the text of the file at `path`, which is only told in errors and origins.
    ///
    /// # Errors
    /// The first line that is none of a unit file.
    pub fn read(path: &str, text: &str) -> Result<Self, ReadError> {
        read::read(path, text)
    }

    /// The sections, in the order in which they began.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Gives a section another name. If there is one of that name, they become one.
    pub fn rename_section(&mut self, from: &str, to: &str) {
        let Some(index) = self.sections.iter().position(|section| section.name == from) else { return };
        if self.section(to).is_some() {
            let moved = self.sections.remove(index);
            self.section_mut(to, None).assignments.extend(moved.assignments);
        } else {
            to.clone_into(&mut self.sections[index].name);
        }
    }

    /// The last assignment of a key, even if it assigns nothing.
    pub fn last(&self, section: &str, key: &str) -> Option<&Assignment> {
        self.section(section)?.assignments.iter().rev().find(|assignment| assignment.key == key)
    }

    /// The last value of a key, if there is one that is not empty.
    pub fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.last(section, key).map(|assignment| assignment.value.as_str()).filter(|value| !value.is_empty())
    }

    /// All assignments of a key that add up: an empty one takes back those before it.
    pub fn all(&self, section: &str, key: &str) -> Vec<&Assignment> {
        let mut all = Vec::new();
        for assignment in self.section(section).into_iter().flat_map(|section| &section.assignments) {
            if assignment.key == key {
                if assignment.value.is_empty() {
                    all.clear();
                } else {
                    all.push(assignment);
                }
            }
        }
        all
    }

    /// The words of all assignments of a key.
    ///
    /// # Errors
    /// The first assignment that can't be split.
    pub fn all_words(&self, section: &str, key: &str, escapes: Escapes) -> Result<Vec<String>, Fault> {
        let mut all = Vec::new();
        for assignment in self.all(section, key) {
            all.extend(assignment.words(escapes)?);
        }
        Ok(all)
    }

    /// Adds an assignment behind the others of the section, which is made if it is missing.
    pub fn add(&mut self, section: &str, key: &str, value: impl Into<String>) {
        let assignment = Assignment { key: key.to_owned(), value: value.into(), origin: None };
        self.section_mut(section, None).assignments.push(assignment);
    }

    /// Adds an assignment before the others, so that they can take it back.
    pub fn prepend(&mut self, section: &str, key: &str, value: impl Into<String>) {
        let assignment = Assignment { key: key.to_owned(), value: value.into(), origin: None };
        self.section_mut(section, None).assignments.insert(0, assignment);
    }

    /// Adds an assignment unless the section has one of this key.
    pub fn add_default(&mut self, section: &str, key: &str, value: impl Into<String>) {
        if self.last(section, key).is_none() {
            self.add(section, key, value);
        }
    }

    /// Makes this the only assignment of the key.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<String>) {
        self.section_mut(section, None).assignments.retain(|assignment| assignment.key != key);
        self.add(section, key, value);
    }

    /// Adds what another file says behind what this one says, as a drop-in.
    pub fn merge(&mut self, other: Self) {
        for section in other.sections {
            self.section_mut(&section.name, section.origin).assignments.extend(section.assignments);
        }
    }

    fn section_mut(&mut self, name: &str, origin: Option<Origin>) -> &mut Section {
        let index = self.sections.iter().position(|section| section.name == name);
        let index = index.unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), assignments: Vec::new(), origin });
            self.sections.len() - 1
        });
        &mut self.sections[index]
    }
}

impl fmt::Display for UnitFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, section) in self.sections.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "[{}]", section.name)?;
            for Assignment { key, value, .. } in &section.assignments {
                writeln!(f, "{key}={value}")?;
            }
        }
        Ok(())
    }
}

/// An assignment whose value can't be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key.
    pub key: String,
    /// Where it stands.
    pub origin: Option<Origin>,
    /// Why.
    pub reason: WordError,
}

impl Assignment {
    /// The words of the value.
    ///
    /// # Errors
    /// A value that can't be split.
    pub fn words(&self, escapes: Escapes) -> Result<Vec<String>, Fault> {
        words::split(&self.value, escapes).map_err(|reason| Fault {
            key: self.key.clone(),
            origin: self.origin.clone(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> UnitFile {
        UnitFile::read("x.container", text).unwrap()
    }

    #[test]
    fn an_empty_assignment_takes_back_those_before_it() {
        let unit = file("[C]\nA=1\nA=\nA=2\nA=3\nB=\n");
        let values: Vec<&str> = unit.all("C", "A").iter().map(|found| found.value.as_str()).collect();
        assert_eq!(values, ["2", "3"]);
        assert_eq!(unit.text("C", "A"), Some("3"));
        assert_eq!(unit.text("C", "B"), None);
        assert!(unit.last("C", "B").is_some());
        assert_eq!(unit.last("C", "A").unwrap().origin.as_ref().unwrap().to_string(), "x.container:5");
    }

    #[test]
    fn a_drop_in_comes_behind() {
        let mut unit = file("[C]\nA=1\n");
        unit.merge(UnitFile::read("y.conf", "[C]\nA=\nA=2\n[D]\nE=f\n").unwrap());
        assert_eq!(unit.all("C", "A").len(), 1);
        assert_eq!(unit.last("C", "A").unwrap().origin.as_ref().unwrap().to_string(), "y.conf:3");
        assert_eq!(unit.to_string(), "[C]\nA=1\nA=\nA=2\n\n[D]\nE=f\n");
    }

    #[test]
    fn sections_can_be_renamed_and_keys_set() {
        let mut unit = file("[C]\nA=1\n[Service]\nType=x\nType=y\n");
        unit.rename_section("C", "X-C");
        unit.set("Service", "Type", "notify");
        unit.add_default("Service", "Type", "oneshot");
        unit.add_default("Service", "KillMode", "mixed");
        unit.prepend("Service", "Delegate", "yes");
        assert_eq!(unit.to_string(), "[X-C]\nA=1\n\n[Service]\nDelegate=yes\nType=notify\nKillMode=mixed\n");
    }
}
