//! The role `init`: PID 1 of a container whose program is not made for it. It passes signals on, reaps what falls to it,
//! and ends as the program ends. Runs inside the container, from the host's binary mounted read-only: it reads
//! nothing and opens nothing there.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Runs the role; `args` are the words after its name: `--` and the command.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().skip_while(|word| word == "--");
    let Some(program) = args.next() else {
        eprintln!("usage: dormouse init -- COMMAND [ARGUMENT …]");
        return ExitCode::from(2);
    };
    // Blocked and fetched one by one: nothing happens between a look and a wait.
    let signals = SigSet::all();
    let mut before = SigSet::empty();
    if let Err(errno) = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before)) {
        eprintln!("dormouse init: cannot block signals: {errno}");
        return ExitCode::from(126);
    }
    // A group of its own, so that Ctrl-C at a terminal does not come twice.
    let child = match Command::new(&program).args(args).process_group(0).spawn() {
        Ok(child) => Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)),
        Err(error) => {
            eprintln!("dormouse init: cannot run {program:?}: {error}");
            return ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    if std::io::IsTerminal::is_terminal(&std::io::stdin())
        && let Err(errno) = nix::unistd::tcsetpgrp(std::io::stdin(), child)
    {
        eprintln!("dormouse init: cannot give the terminal to the program, ignoring: {errno}");
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return ExitCode::from(code);
                }
            }
            // The terminal's stop signals are for groups, and PID 1 can't be stopped.
            Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) | Err(_) => {}
            Ok(signal) => {
                // The group, as a terminal would.
                let _ = kill(Pid::from_raw(-child.as_raw()), signal);
            }
        }
    }
}

/// Reaps all that has ended; the exit code if the program is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                code = Some(u8::try_from(status & 0xff).unwrap_or(255))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(u8::try_from(128 + signal as i32).unwrap_or(255));
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}
