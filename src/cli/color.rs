//! Colours, where a person looks: on terminals, unless NO_COLOR (no-color.org) or TERM=dumb says otherwise, or `--color` does.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use clap::ValueEnum;

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

static WHEN: OnceLock<When> = OnceLock::new();

/// What `--color` says; once, before anything is written.
pub fn set(when: When) {
    // A second time would be a mistake of ours that harms nobody.
    let _ = WHEN.set(when);
}

/// Whether standard output is coloured.
pub fn on_stdout() -> bool {
    wanted(io::stdout().is_terminal())
}

/// Whether standard error is coloured.
pub fn on_stderr() -> bool {
    wanted(io::stderr().is_terminal())
}

fn wanted(is_terminal: bool) -> bool {
    let is_set = |variable: &str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    match WHEN.get() {
        Some(When::Always) => true,
        Some(When::Never) => false,
        _ => is_terminal && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
    }
}

/// A colour, or something like it. Source: ECMA-48, "Select Graphic Rendition".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// What is wrong.
    Red,
    /// What is as it should be.
    Green,
    /// What wants attention.
    Yellow,
    /// One of those that tell things apart.
    Tint(usize),
    /// What matters less.
    Faint,
    /// Heads.
    Bold,
}

/// Readable on dark and on light ground; red is for errors.
const TINTS: [u8; 5] = [36, 35, 34, 33, 32];

impl Style {
    /// The text in this style.
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Tint(number) => TINTS[number % TINTS.len()],
            Self::Faint => 2,
            Self::Bold => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_begins_and_ends() {
        assert_eq!(Style::Red.paint("x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Style::Tint(5).paint("x"), Style::Tint(0).paint("x"));
    }

    #[test]
    fn without_a_terminal_there_are_no_colours() {
        assert!(!wanted(false));
    }
}
