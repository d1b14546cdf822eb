//! Containerfiles: whatever the text, it is understood or refused, and what was understood can be written and read again.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run containerfile fuzz/corpus/containerfile fuzz/seeds/containerfile`
#![no_main]

use libfuzzer_sys::fuzz_target;

// Only this module is built and instrumented.
#[allow(dead_code, unused_imports)]
#[path = "../../src/image/build/mod.rs"]
mod build;

use build::patterns::Ignore;
use build::{Containerfile, Instruction, words};

fuzz_target!(|input: &str| {
    let file = match Containerfile::parse(input) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.line >= 1 && error.line <= input.lines().count().max(1));
            return;
        }
    };
    let lookup = |name: &str| (name.len() % 2 == 0).then(|| format!("{name}'\"$x"));
    let mut line = 0;
    for instruction in &file.instructions {
        assert!(instruction.line > line, "lines come in their order");
        line = instruction.line;
        if instruction.heredocs.is_empty() {
            // A comment sign may begin what was the end of a longer line; nothing else is lost.
            if let Ok(again) = Instruction::parse(&instruction.to_string(), line, file.escape) {
                assert_eq!(again.keyword, instruction.keyword);
                assert_eq!(again.flags, instruction.flags);
            }
        }
        let words = words::split(&instruction.rest, file.escape);
        assert!(words.iter().all(|word| !word.is_empty()));
        for word in &words {
            let _ = words::expand(word, file.escape, &lookup);
            let _ = build::patterns::fits(word, &instruction.rest);
        }
        for heredoc in &instruction.heredocs {
            let _ = words::expand_document(&heredoc.content, file.escape, &lookup);
        }
    }
    let ignore = Ignore::parse(input);
    for path in input.lines().take(20) {
        let _ = ignore.leaves_out(path, false);
    }
});
