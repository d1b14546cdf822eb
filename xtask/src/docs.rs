//! What of the documentation follows from something else: the reference of the varlink interfaces, from their definitions;
//! and that the tests which docs/security.md names are there.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{Result, on_file};
use crate::workspace;

/// Interfaces of others, which document themselves elsewhere.
const FOREIGN: &[&str] = &["io.podman"];

/// Writes the reference anew.
///
/// # Errors
/// Files that can't be read or written.
pub fn main() -> Result<()> {
    let pages = pages(&workspace::root())?;
    for (path, text) in &pages {
        let dir = path.parent().unwrap_or(path);
        fs::create_dir_all(dir).map_err(on_file("make", dir))?;
        fs::write(path, text).map_err(on_file("write", path))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// What is not as it should be, as `path: what`.
///
/// # Errors
/// A tree that can't be read.
pub fn violations(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for (path, text) in pages(root)? {
        if fs::read_to_string(&path).ok().is_none_or(|is| is != text) {
            let name = path.strip_prefix(root).unwrap_or(&path).display();
            violations.push(format!(
                "{name}: it is not what the interface says; `cargo xtask docs` writes it anew"
            ));
        }
    }
    let security = root.join("docs/security.md");
    let text = fs::read_to_string(&security).map_err(on_file("read", &security))?;
    for claim in claims(&text) {
        let (file, test) = claim;
        let code = fs::read_to_string(root.join(file)).unwrap_or_default();
        if !code.contains(&format!("fn {test}(")) && !code.contains(&format!("{test}() {{")) {
            violations.push(format!("docs/security.md: there is no test {test} in {file}"));
        }
    }
    Ok(violations)
}

/// Tests that a text names, as in `tests/x.rs`: `a_test`, `another_one`.
fn claims(text: &str) -> Vec<(&str, &str)> {
    let mut claims = Vec::new();
    for line in text.lines() {
        let mut file = None;
        for quoted in line.split('`').skip(1).step_by(2) {
            if quoted.contains('/') && (quoted.ends_with(".rs") || quoted.ends_with(".sh")) {
                file = Some(quoted);
            } else if let Some(file) = file {
                claims.push((file, quoted));
            }
        }
    }
    claims
}

/// Pages and their texts.
fn pages(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let dir = root.join("interfaces");
    let mut definitions = Vec::new();
    for entry in fs::read_dir(&dir).map_err(on_file("list", &dir))?.flatten() {
        let path = entry.path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_definition = path.extension().is_some_and(|extension| extension == "varlink");
        if is_definition && !FOREIGN.contains(&name.as_str()) {
            definitions.push((name, fs::read_to_string(&path).map_err(on_file("read", &path))?));
        }
    }
    definitions.sort();
    let mut pages = Vec::new();
    let mut index = "# The varlink interfaces\n\n\
         Made by `cargo xtask docs` of the definitions in `interfaces/`, which the service returns too.\n\n"
        .to_owned();
    for (name, text) in definitions {
        let interface = Interface::read(&text);
        // Writing to a String can't fail.
        let _ = writeln!(index, "- [{name}]({name}.md): {}", first_sentence(&interface.about));
        pages.push((root.join(format!("docs/api/{name}.md")), interface.page(&name)));
    }
    pages.push((root.join("docs/api/README.md"), index));
    Ok(pages)
}

/// An interface, as its definition stands in a file: what is said before each member, and the member itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interface {
    about: String,
    members: Vec<Member>,
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    /// method, type or error.
    kind: String,
    name: String,
    about: String,
    definition: String,
}

impl Interface {
    /// Reads a definition whose form the build has checked: a member begins at the beginning of a line, and ends with its
    /// last parenthesis.
    fn read(text: &str) -> Self {
        let mut interface = Self::default();
        let mut about: Vec<&str> = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(comment) = line.strip_prefix('#') {
                about.push(comment.strip_prefix(' ').unwrap_or(comment));
            } else if line.trim().is_empty() {
                about.clear();
            } else if line.starts_with("interface ") {
                interface.about = std::mem::take(&mut about).join("\n");
            } else {
                let mut definition = line.to_owned();
                let mut depth = depth_of(line);
                while depth > 0 {
                    let Some(line) = lines.next() else { break };
                    definition.push('\n');
                    definition.push_str(line);
                    depth += depth_of(line);
                }
                let mut words = line.split(|letter: char| !letter.is_alphanumeric());
                let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                interface.members.push(Member {
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    about: std::mem::take(&mut about).join("\n"),
                    definition,
                });
            }
        }
        interface
    }

    fn page(&self, name: &str) -> String {
        let mut page = format!("# {name}\n\n{}\n", self.about);
        for (kind, title) in [("method", "Methods"), ("type", "Types"), ("error", "Errors")] {
            let members: Vec<&Member> = self.members.iter().filter(|member| member.kind == kind).collect();
            if !members.is_empty() {
                let _ = write!(page, "\n## {title}\n");
            }
            for Member { name, about, definition, .. } in members {
                let about = if about.is_empty() { String::new() } else { format!("{about}\n\n") };
                let _ = write!(page, "\n### {name}\n\n{about}```varlink\n{definition}\n```\n");
            }
        }
        page
    }
}

/// How many parentheses a line opens and does not close; comments do not count.
fn depth_of(line: &str) -> i32 {
    let code = line.split('#').next().unwrap_or_default();
    let count = |letter| i32::try_from(code.matches(letter).count()).unwrap_or(i32::MAX);
    count('(') - count(')')
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    text.split_once(". ").map_or(text.clone(), |(first, _)| format!("{first}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_up_to_date() {
        assert_eq!(violations(&crate::workspace::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_definition_is_read_member_by_member() {
        let text = "# About it. And\n# more.\ninterface a.b\n\n# A thing (odd).\ntype Thing (\n  # A field :)\n  x: (a, b)\n)\n\n\
                    # Does it.\nmethod Do(\n  y: int\n) -> (\n  z: ?Thing\n)\n\nerror Bad ()\n";
        let interface = Interface::read(text);
        assert_eq!(interface.about, "About it. And\nmore.");
        assert_eq!(first_sentence(&interface.about), "About it.");
        let names: Vec<&str> = interface.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["Thing", "Do", "Bad"]);
        assert_eq!(interface.members[1].definition, "method Do(\n  y: int\n) -> (\n  z: ?Thing\n)");
        assert_eq!(interface.members[0].about, "A thing (odd).");
        assert!(interface.page("a.b").contains("### Do\n\nDoes it.\n\n```varlink\nmethod Do("));
    }

    #[test]
    fn tests_are_claimed_by_file_and_name() {
        let text = "| x | `tests/a.rs`: `one`, `two` |\n`no` file\n";
        assert_eq!(claims(text), [("tests/a.rs", "one"), ("tests/a.rs", "two")]);
    }
}
