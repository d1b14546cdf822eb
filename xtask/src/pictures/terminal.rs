//! A terminal that somebody could sit at: commands run on it, and it keeps what is shown.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use vt100::{Parser, Screen};

use super::Place;
use crate::program::{Failure, Result};

const COLUMNS: NonZeroU16 = NonZeroU16::new(110).expect("it is not zero");
/// A boot, on a machine that has more to do.
const PATIENCE_MSEC: u16 = 60_000;

/// A terminal and what it shows.
pub struct Terminal {
    parser: Parser,
    rows: NonZeroU16,
    commands: usize,
}

/// A command that runs on it.
pub struct Running {
    child: Child,
    line: String,
    master: File,
}

impl Terminal {
    pub fn new(rows: NonZeroU16) -> Self {
        Self { parser: Parser::new(rows, COLUMNS, 0), rows, commands: 0 }
    }

    pub fn screen(&self) -> &Screen {
        self.parser.screen()
    }

    /// What is on the screen, without colours.
    pub fn text(&self) -> String {
        self.screen().contents()
    }

    /// Runs a command line to its end, which must be good.
    pub fn run(&mut self, place: &Place, line: &str) -> Result<()> {
        let running = self.start(place, line)?;
        self.finish(running)
    }

    /// Starts a command line, behind a prompt, as if it had been typed.
    pub fn start(&mut self, place: &Place, line: &str) -> Result<Running> {
        let between = if self.commands == 0 { "" } else { "\r\n" };
        self.commands += 1;
        self.parser.process(format!("{between}\x1b[1;32m$\x1b[0m \x1b[1m{line}\x1b[0m\r\n").as_bytes());
        let not_run = |source| Failure::NotRun { command: line.to_owned(), source };
        let size = Winsize { ws_row: self.rows.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).map_err(|errno| not_run(errno.into()))?;
        let side = || pty.slave.try_clone().map(Stdio::from).map_err(not_run);
        let mut command = place.command("setsid");
        command.args(["--ctty", "--wait", "sh", "-c", line]);
        let child = command.stdin(side()?).stdout(side()?).stderr(side()?).spawn().map_err(not_run)?;
        Ok(Running { child, line: line.to_owned(), master: pty.master.into() })
    }

    /// Waits until it is shown.
    pub fn until(&mut self, running: &mut Running, wanted: &str) -> Result<()> {
        while !self.text().contains(wanted) {
            if !self.read(running)? {
                return Err(self.not_so(&running.line, format!("shows {wanted:?}")));
            }
        }
        Ok(())
    }

    pub fn finish(&mut self, mut running: Running) -> Result<()> {
        while self.read(&mut running)? {}
        let Running { mut child, line, .. } = running;
        let status = child.wait().map_err(|source| Failure::NotRun { command: line.clone(), source })?;
        // A machine that was shut down by a signal has its own code.
        let is_machine = line.contains(" run ");
        if status.success() || is_machine { Ok(()) } else { Err(self.not_so(&line, "ends well".to_owned())) }
    }

    fn not_so(&self, line: &str, what: String) -> Failure {
        Failure::NotSo { claim: format!("`{line}` {what}"), found: self.text() }
    }

    /// Shows what comes next; false at the end.
    fn read(&mut self, running: &mut Running) -> Result<bool> {
        let failed = |source| Failure::NotRun { command: running.line.clone(), source };
        let mut wait = [PollFd::new(running.master.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, PollTimeout::from(PATIENCE_MSEC)) {
            Ok(0) => return Err(self.not_so(&running.line, "shows something".to_owned())),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut bytes = [0; 4096];
        match running.master.read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.parser.process(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            // Nobody has the terminal any more.
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Running {
    pub fn types(&mut self, keys: &[u8]) -> Result<()> {
        let failed = |source| Failure::NotRun { command: self.line.clone(), source };
        self.master.write_all(keys).map_err(failed)
    }
}
