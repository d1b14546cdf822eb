//! The generator: Quadlet files in, units out, as systemd calls it.
//!
//! What comes out is compared with `tests/quadlet/units`, and complaints with `tests/quadlet/complaints`;
//! `DORMOUSE_UPDATE=1 cargo test --test quadlet` writes both anew.

#![allow(clippy::unwrap_used)] // what fails here fails the test

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DORMOUSE: &str = env!("CARGO_BIN_EXE_dormouse");
/// Where a package puts the program, which stands for it in what is compared.
const INSTALLED: &str = "/usr/bin/dormouse";

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quadlet").join(name)
}

/// Calls the generator for files in `from`, with `arguments`.
fn generator(from: &Path, arguments: &[&str]) -> Output {
    Command::new(DORMOUSE)
        .arg0("/usr/lib/systemd/system-generators/dormouse-generator")
        .args(arguments)
        .env("QUADLET_UNIT_DIRS", from)
        .env_remove("SYSTEMD_SCOPE")
        .output()
        .unwrap()
}

/// Makes the units of `from` below `to`; returns the complaints.
fn generate(from: &Path, to: &Path) -> (String, Option<i32>) {
    let [normal, early, late] = ["normal", "early", "late"].map(|name| to.join(name).display().to_string());
    let output = generator(from, &["--no-kmsg-log", &normal, &early, &late]);
    assert!(!Path::new(&early).exists() && !Path::new(&late).exists());
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

/// Every file and link below a directory, with its text or its target.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            if let Ok(target) = path.read_link() {
                found.insert(name, format!("-> {}", target.display()));
            } else if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// One text of a tree, in which this checkout and this build have no trace.
fn as_text(tree: &BTreeMap<String, String>) -> String {
    let text: String = tree
        .iter()
        .map(|(name, text)| match text.strip_prefix("-> ") {
            Some(target) => format!("### {name} -> {target}\n\n"),
            None => format!("### {name}\n\n{text}\n"),
        })
        .collect();
    neutral(&text)
}

fn neutral(text: &str) -> String {
    let files = here("").display().to_string();
    text.replace(DORMOUSE, INSTALLED).replace(files.trim_end_matches('/'), "/etc/quadlet")
}

fn compare(name: &str, is: &str) {
    let path = here(name);
    if std::env::var_os("DORMOUSE_UPDATE").is_some() {
        fs::write(&path, is).unwrap();
    }
    let should = fs::read_to_string(&path).unwrap_or_default();
    assert!(is == should, "{name} would be:\n{is}");
}

#[test]
fn files_become_the_same_units_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let (complaints, code) = generate(&here("files"), dir.path());
    let first = as_text(&tree(&dir.path().join("normal")));
    compare("units", &first);
    assert_eq!(
        complaints,
        "dormouse-generator: web.service: Alias=\"../escape.service\" is no name of a unit, and is left out\n"
    );
    assert_eq!(code, Some(0));
    for _ in 0..5 {
        let again = tempfile::tempdir().unwrap();
        generate(&here("files"), again.path());
        assert_eq!(as_text(&tree(&again.path().join("normal"))), first);
    }
}

#[test]
fn every_fault_is_told_by_file_and_line_and_makes_no_unit() {
    let dir = tempfile::tempdir().unwrap();
    let (complaints, code) = generate(&here("faults"), dir.path());
    let mut lines: Vec<String> = complaints.lines().map(neutral).collect();
    lines.sort();
    compare("complaints", &format!("{}\n", lines.join("\n")));
    assert_eq!(code, Some(1));
    let made: Vec<String> = tree(&dir.path().join("normal")).into_keys().collect();
    assert_eq!(made, ["twin.service"], "one of two that want the same name");
}

#[test]
fn the_units_are_in_order_for_systemd() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    generate(&here("files"), dir.path());
    let normal = dir.path().join("normal");
    let units: Vec<PathBuf> = tree(&normal)
        .into_keys()
        .filter(|name| name.ends_with(".service") && !name.contains('/') && !name.contains("@."))
        .map(|name| normal.join(name))
        .collect();
    assert!(units.len() > 4);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--generators=no"])
        .args(&units)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let names: Vec<String> =
        units.iter().map(|unit| unit.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    // Other units of the host may have faults of their own.
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| names.iter().any(|name| line.contains(name.as_str())))
        .filter(|line| !line.contains("-setup.service"))
        // Since 254.
        .filter(|line| !line.contains("UpheldBy"))
        .collect();
    assert_eq!(faults, Vec::<&str>::new());
}

/// What systemd would execute must be a command that we have: without a service, a good one ends in another failure.
#[test]
fn every_command_is_one_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    generate(&here("files"), dir.path());
    let mut commands = 0;
    for (name, text) in tree(&dir.path().join("normal")) {
        for line in text.lines() {
            let Some((_, command)) = line.split_once('=') else { continue };
            let command = command.trim_start_matches('-');
            if !line.starts_with("Exec") || !command.starts_with(DORMOUSE) {
                continue;
            }
            let command = command.replace("%N", "n").replace("%p", "p").replace("%i", "i");
            // The shell splits these as systemd does.
            let output = Command::new("sh")
                .args(["-c", &command])
                .current_dir(here("files"))
                .env("DORMOUSE_ADDRESS", "unix:/does/not/exist")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("/does/not/exist"), "{name}: {line}\n{said}");
            commands += 1;
        }
    }
    assert!(commands > 10);
}

#[test]
fn what_another_generator_has_made_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let normal = dir.path().join("normal");
    fs::create_dir(&normal).unwrap();
    fs::write(normal.join("web.service"), "of another").unwrap();
    let (complaints, code) = generate(&here("files"), dir.path());
    assert!(complaints.contains("web.service is there already"), "{complaints}");
    assert_eq!(code, Some(1));
    assert_eq!(fs::read_to_string(normal.join("web.service")).unwrap(), "of another");
}

#[test]
fn a_dry_run_writes_nothing() {
    let output = generator(&here("files"), &["--dryrun"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("---web.service---\n"), "{said}");
    assert!(output.status.success());
}

#[test]
fn odd_files_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir_all(files.join("directory.container")).unwrap();
    fs::write(files.join("bytes.container"), b"[Container]\nImage=\xff\n").unwrap();
    fs::write(files.join("long.container"), "#".repeat((1 << 20) + 1)).unwrap();
    fs::write(files.join("a b.container"), "[Container]\nImage=a\n").unwrap();
    fs::write(files.join(".container"), "[Container]\nImage=a\n").unwrap();
    fs::write(files.join("empty.container"), "").unwrap();
    symlink("loop.container", files.join("loop.container")).unwrap();
    symlink(".", files.join("again")).unwrap();
    fs::write(files.join("good.container"), "[Container]\nImage=a\n").unwrap();
    let (complaints, code) = generate(&files, &dir.path().join("out"));
    assert_eq!(code, Some(1));
    assert_eq!(tree(&dir.path().join("out/normal")).into_keys().collect::<Vec<_>>(), ["good.service"]);
    for name in ["bytes.container", "long.container", "a b.container", "loop.container", "empty.container"] {
        assert!(complaints.contains(name), "{name}: {complaints}");
    }
}

#[test]
fn it_is_quick_with_many_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    for number in 0..300 {
        fs::write(files.join(format!("c{number}.container")), "[Container]\nImage=a\nVolume=/a:/b\n")
            .unwrap();
    }
    let began = std::time::Instant::now();
    generate(&files, &dir.path().join("out"));
    assert_eq!(tree(&dir.path().join("out/normal")).len(), 300);
    // Of a build without optimisation, on a loaded machine.
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

/// The table in docs/units.md is what the generator itself says.
#[test]
fn the_table_of_keys_is_the_documented_one() {
    const BEGIN: &str = "<!-- The table is made by DORMOUSE_UPDATE=1 cargo test --test quadlet. -->\n";
    let output = generator(&here("files"), &["--keys"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/units.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, documented) = text.split_once(BEGIN).unwrap();
    if std::env::var_os("DORMOUSE_UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}")).unwrap();
    } else {
        assert!(
            documented == table,
            "docs/units.md has an old table of keys: DORMOUSE_UPDATE=1 cargo test --test quadlet writes it anew"
        );
    }
}
