//! The user's terminal: its size, raw mode that is always undone, and the keys that leave a container running.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::termios::{self, OptionalActions, Termios, Winsize};

use crate::cli::streams::complain;

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Returns the size of the terminal that we write to or read from; `None` if there is none, or it does not know.
pub fn size() -> Option<Size> {
    [
        termios::tcgetwinsize(io::stdout()),
        termios::tcgetwinsize(io::stdin()),
        termios::tcgetwinsize(io::stderr()),
    ]
    .into_iter()
    .flatten()
    .find(|size| size.ws_row > 0 && size.ws_col > 0)
    .map(|size| Size { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of the terminal behind a master descriptor; its foreground processes get SIGWINCH.
///
/// # Errors
/// What tcsetwinsize(3) says, as for a terminal whose last user has left.
pub fn set_size(master: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(termios::tcsetwinsize(master, size)?)
}

/// Standard input in raw mode: every key goes to the container. Dropping it restores the mode from before, also when a
/// panic unwinds; signals don't pass it by, because whoever holds it has them in a signalfd.
#[derive(Debug)]
#[must_use]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches standard input; `None` if it is no terminal.
    ///
    /// # Errors
    /// If the terminal refuses the mode.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let terminal = stdin.as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before) {
            complain(&format!(
                "dormouse: cannot restore the mode of the terminal: {error}; `reset` does it\r\n"
            ));
        }
    }
}

/// The keys that, pressed one after the other, leave the container running: `ctrl-p,ctrl-q`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// No keys detach.
    pub fn none() -> Self {
        Self(Vec::new())
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    /// Reads keys separated by commas: a single character or `ctrl-` and one of a-z, @, [, \, ], ^, _. Empty: none.
    fn from_str(text: &str) -> Result<Self, String> {
        let keys = text.split(',').filter(|key| !key.is_empty());
        keys.map(|key| {
            key_byte(key).ok_or_else(|| {
                format!("{key:?} is no key; write a character or ctrl-a to ctrl-z, as in ctrl-p,ctrl-q")
            })
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }
}

fn key_byte(key: &str) -> Option<u8> {
    match key.strip_prefix("ctrl-").unwrap_or(key).as_bytes() {
        [byte] if key.len() == 1 => Some(*byte),
        [byte @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => Some(byte.to_ascii_uppercase() & 0x1f),
        _ => None,
    }
}

/// Looks for the detach keys in what is typed. Keys that may be the beginning of the sequence are held back until it
/// is certain that they are not, so none of a completed sequence arrives in the container.
#[derive(Debug)]
pub struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachScanner {
    /// Begins with nothing typed.
    pub fn new(keys: &DetachKeys) -> Self {
        Self { keys: keys.0.clone(), matched: 0 }
    }

    /// Takes what was typed; returns what to pass on, and whether the sequence is complete.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(typed.len() + self.matched);
        for &byte in typed {
            // Fall back to the longest beginning that still fits, as for ctrl-p ctrl-p ctrl-q.
            while self.matched > 0 && self.keys[self.matched] != byte {
                let shorter = self.longest_border(self.matched);
                pass.extend_from_slice(&self.keys[..self.matched - shorter]);
                self.matched = shorter;
            }
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (pass, true);
                }
            } else {
                pass.push(byte);
            }
        }
        (pass, false)
    }

    /// The longest proper beginning of the sequence that also ends its first `length` keys.
    fn longest_border(&self, length: usize) -> usize {
        (0..length)
            .rev()
            .find(|&shorter| self.keys[..shorter] == self.keys[length - shorter..length])
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str, typed: &[&[u8]], passed: &[u8], detached: bool) {
        let mut scanner = DetachScanner::new(&keys.parse().unwrap());
        let mut all = Vec::new();
        for piece in typed {
            let (pass, done) = scanner.feed(piece);
            all.extend(pass);
            if done {
                assert_eq!((all.as_slice(), true), (passed, detached), "{keys}: {typed:?}");
                return;
            }
        }
        assert_eq!((all.as_slice(), false), (passed, detached), "{keys}: {typed:?}");
    }

    #[test]
    fn the_detach_keys_are_not_passed_on() {
        check("ctrl-p,ctrl-q", &[b"ls\n\x10\x11"], b"ls\n", true);
        check("ctrl-p,ctrl-q", &[b"ls\n\x10", b"\x11rest"], b"ls\n", true);
        check("ctrl-p,ctrl-q", &[b"\x10", b"\x10", b"\x11"], b"\x10", true);
        check("a,a,b", &[b"aaab"], b"a", true);
        check("a,b,a,c", &[b"ababac"], b"ab", true);
    }

    #[test]
    fn keys_that_turn_out_not_to_detach_are_passed_on() {
        check("ctrl-p,ctrl-q", &[b"\x10", b"x"], b"\x10x", false);
        check("ctrl-p,ctrl-q", &[b"\x11\x10"], b"\x11", false);
        check("", &[b"\x10\x11"], b"\x10\x11", false);
    }

    #[test]
    fn detach_keys_are_characters_or_control_characters() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys(vec![16, 17])));
        assert_eq!("ctrl-@,ctrl-],x".parse(), Ok(DetachKeys(vec![0, 29, b'x'])));
        assert_eq!("".parse(), Ok(DetachKeys(vec![])));
        for text in ["ctrl-", "ctrl-1", "xy", "ctrl-pp", "é"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }
}
