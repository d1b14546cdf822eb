//! Rules of the source tree that the compiler does not hold: which way imports point, what no file may contain, and how
//! files begin. They are ordinary tests, and part of `cargo xtask check`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{Result, on_file};

/// What each module may use of the crate besides itself; a module that is not listed here (a role, like `serve`) may use
/// all. Nothing points back up; `runtime` and `monitor` know nothing of varlink, images or the store.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["varlink", "wire", "identity"]),
    ("varlink", &["readiness"]),
    (
        "api",
        &[
            "varlink",
            "wire",
            "engine",
            "store",
            "image",
            "runtime",
            "monitor",
            "network",
            "systemd",
            "readiness",
        ],
    ),
    ("engine", &["store", "image", "runtime", "monitor", "network", "systemd", "readiness", "identity"]),
    ("monitor", &["runtime", "memory", "pace"]),
    ("oci", &["runtime", "systemd", "identity", "pace"]),
    ("store", &[]),
    ("image", &["identity"]),
    ("runtime", &["identity"]),
    ("network", &[]),
    ("systemd", &["identity"]),
    ("readiness", &[]),
    ("identity", &[]),
    ("memory", &[]),
    ("pace", &[]),
    ("wire", &[]),
];

/// Longer files want to be folders.
const LINES_MAX: usize = 800;

/// Marks of unfinished work, and paths of the machine where somebody wrote a file. Written in two parts, so that this file
/// does not contain them.
const UNWANTED: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("/work", "/main"), ("/work", "/shared"), ("/tmp", "/wt")];

/// Everything that is against the rules, as `path:line: what`.
///
/// # Errors
/// A tree that can't be read.
pub fn violations(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for path in files(root)? {
        let text = fs::read(&path).map_err(on_file("read", &path))?;
        let Ok(text) = String::from_utf8(text) else { continue };
        let name = path.strip_prefix(root).unwrap_or(&path);
        let is_rust = name.extension().is_some_and(|extension| extension == "rs");
        check_words(name, &text, &mut violations);
        if is_rust {
            check_shape(name, &text, &mut violations);
        }
        if is_rust && let Some(module) = module_of(name) {
            check_arrows(name, &module, &text, &mut violations);
        }
    }
    Ok(violations)
}

fn check_words(name: &Path, text: &str, violations: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        for (first, second) in UNWANTED {
            let word = format!("{first}{second}");
            if line.contains(&word) {
                violations.push(format!(
                    "{}:{}: {word} has no place in the tree",
                    name.display(),
                    number + 1
                ));
            }
        }
    }
}

fn check_shape(name: &Path, text: &str, violations: &mut Vec<String>) {
    let in_library = name.starts_with("src") || name.starts_with("xtask/src") || name.starts_with("benches");
    if in_library && !text.starts_with("//!") {
        violations
            .push(format!("{}:1: a module begins with what it is responsible for (//!)", name.display()));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        violations.push(format!(
            "{}:{lines}: longer than {LINES_MAX} lines; it wants to be a folder",
            name.display()
        ));
    }
}

fn check_arrows(name: &Path, module: &str, text: &str, violations: &mut Vec<String>) {
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == module) else { return };
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for used in code.split("crate::").skip(1) {
            let end =
                used.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap_or(used.len());
            let used = &used[..end];
            if !used.is_empty() && used != module && !allowed.contains(&used) {
                violations.push(format!("{}:{}: {module} must not use {used}", name.display(), number + 1));
            }
        }
    }
}

/// `src/store/locks.rs` and `src/store.rs` belong to `store`.
fn module_of(name: &Path) -> Option<String> {
    let below = name.strip_prefix("src").ok()?;
    let first = below.iter().next()?.to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// The files of the tree, without what is generated or hidden.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(on_file("list", &dir))? {
            let entry = entry.map_err(on_file("list", &dir))?;
            let name = entry.file_name();
            let kind = entry.file_type().map_err(on_file("look at", &entry.path()))?;
            let hidden = name.to_string_lossy().starts_with('.') && name != ".ci" && name != ".config";
            if kind.is_dir() && !hidden && name != "target" && name != "corpus" {
                dirs.push(entry.path());
            } else if kind.is_file() && !hidden {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_follows_its_rules() {
        assert_eq!(violations(&crate::workspace::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_import_against_the_arrows_is_found() {
        let mut found = Vec::new();
        let text = "//! x\nuse crate::runtime::create;\n// crate::store\nlet a = crate::store::Store;\nuse crate::{a, b};\n";
        check_arrows(Path::new("src/monitor/x.rs"), "monitor", text, &mut found);
        assert_eq!(found, ["src/monitor/x.rs:4: monitor must not use store"]);
    }

    #[test]
    fn a_module_is_named_by_its_folder_or_its_file() {
        for (path, module) in
            [("src/store/locks.rs", "store"), ("src/store.rs", "store"), ("src/main.rs", "main")]
        {
            assert_eq!(module_of(Path::new(path)).as_deref(), Some(module));
        }
        assert_eq!(module_of(Path::new("tests/run.rs")), None);
    }
}
