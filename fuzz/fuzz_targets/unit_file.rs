//! Unit files, as administrators, users and packages drop them into directories.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run unit_file fuzz/corpus/unit_file fuzz/seeds/unit_file`
//!
//! What was read is written and read again, and must be the same; words are quoted and split again, and must be the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The reader depends on nothing else of dormouse, so nothing else is built and instrumented.
#[allow(dead_code)]
#[path = "../../src/systemd/unit_file/mod.rs"]
mod unit_file;

use unit_file::UnitFile;
use unit_file::words::{Escapes, command_line, split};

fuzz_target!(|text: &str| {
    let Ok(unit) = UnitFile::read("fuzz", text) else { return };
    let again = UnitFile::read("fuzz", &unit.to_string()).expect("what was written can be read");
    assert_eq!(values(&again), values(&unit));
    for section in unit.sections() {
        for assignment in &section.assignments {
            let _ = assignment.words(Escapes::Kept);
            if let Ok(words) = assignment.words(Escapes::Resolved) {
                let line = command_line(&words);
                assert!(!line.contains(['\n', '\0']), "it must stay one line: {line:?}");
                assert_eq!(split(&line, Escapes::Resolved).as_ref(), Ok(&words));
                let written = UnitFile::read("fuzz", &format!("[S]\nExecStart=x {line}\n"));
                let written = written.expect("a command line is a value");
                let value = &written.last("S", "ExecStart").expect("it is there").value;
                assert_eq!(split(value, Escapes::Resolved).expect("it can be split")[1..], words);
            }
        }
    }
});

/// Without the places that they come from.
fn values(unit: &UnitFile) -> Vec<(&str, Vec<(&str, &str)>)> {
    unit.sections()
        .iter()
        .map(|section| {
            let pairs = section.assignments.iter().map(|found| (found.key.as_str(), found.value.as_str()));
            (section.name.as_str(), pairs.collect())
        })
        .collect()
}
