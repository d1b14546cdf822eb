//! PID 1 for a program that is not made to be it: passes signals on, reaps what falls to it, and ends as the program ends.
//!
//! It is the process that the container was made with, which stays instead of becoming the program: nothing of the host
//! has to be brought into the container for it, and it reads and opens nothing there.

use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setpgid, tcsetpgrp};

use super::process::Failure;
use super::report::Report;
use super::{Step, syscall};

/// What process lists of the container show.
const TITLE: &[u8] = b"init";

/// Names this process. Only for those who look, so it may fail: without `/proc`, or when that is another user's.
pub(super) fn name_this_process() {
    let _ = syscall::set_name(c"init");
    let write = || -> Option<()> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // proc_pid_stat(5): fields 48 and 49, counted from 1; the second ends with the last parenthesis.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(45);
        let start: u64 = fields.next()?.parse().ok()?;
        let end: u64 = fields.next()?.parse().ok()?;
        let mut arguments = vec![0; usize::try_from(end.checked_sub(start)?).ok()?.min(4096)];
        arguments.get_mut(..TITLE.len())?.copy_from_slice(TITLE);
        std::fs::OpenOptions::new()
            .write(true)
            .open("/proc/self/mem")
            .ok()?
            .write_all_at(&arguments, start)
            .ok()
    };
    let _ = write();
}

/// Runs the program in a child, by `execute`, which returns only to say why not, and ends as it does.
///
/// Returns in the child when the program can't be run, and in this process when there can't be a child.
pub(super) fn run(execute: impl FnOnce() -> Failure, report: &mut Option<Report>) -> Failure {
    let failed = |what: &str, errno: Errno| -> Failure {
        (Step::Exec, what.to_owned(), rustix::io::Errno::from_raw_os_error(errno as i32))
    };
    // The change of user has made it dumpable again, and it is a copy of a process of the host.
    if let Err(errno) = syscall::prctl(libc::PR_SET_DUMPABLE, 0, 0) {
        return (Step::Process, "hide the first process".to_owned(), errno);
    }
    // Blocked and fetched one by one: nothing happens between a look and a wait.
    let signals = SigSet::all();
    let mut before = SigSet::empty();
    if let Err(errno) = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before)) {
        return failed("block signals", errno);
    }
    match syscall::fork() {
        Ok(None) => {
            // A group of its own, so that Ctrl-C at a terminal does not come twice.
            if let Err(errno) = setpgid(Pid::from_raw(0), Pid::from_raw(0)) {
                return failed("make a process group", errno);
            }
            if std::io::IsTerminal::is_terminal(&std::io::stdin())
                && let Err(errno) = tcsetpgrp(std::io::stdin(), getpid())
            {
                return failed("give the terminal to the program", errno);
            }
            if let Err(errno) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None) {
                return failed("restore the signals", errno);
            }
            execute()
        }
        Ok(Some(child)) => {
            // From here on the child alone tells, and holds the streams.
            drop(report.take());
            syscall::close_all();
            attend(child)
        }
        Err(errno) => (Step::Exec, "make a process for the program".to_owned(), errno),
    }
}

/// Waits for the program's end.
fn attend(child: i32) -> ! {
    loop {
        match syscall::take_signal() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(Pid::from_raw(child)) {
                    syscall::exit_now(code);
                }
            }
            // The terminal's stop signals are for groups, and PID 1 can't be stopped.
            Ok(libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) | Err(_) => {}
            // The group, as a terminal would; it may have ended already.
            Ok(signal) => {
                let _ = syscall::kill_group(child, signal);
            }
        }
    }
}

/// Reaps all that has ended; the exit code if the program is among them.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}
