//! The role `pod-holder`: the first process of a pod's pid namespace. It reaps what falls to it, and does nothing else.
//!
//! Containers of the pod see it as their PID 1, so it must be of no use to them. Before it says that it is ready it has
//! left the host's files for an empty root, and has no capability, no name in any other namespace of the host's, and no
//! memory that others may read: who could trace it would have gained nothing.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{DumpableBehavior, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Plays the role, until it is killed. The one argument is a directory of ours, where its root is made.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let [directory] = arguments else {
        eprintln!("usage: dormouse pod-holder DIRECTORY");
        return ExitCode::from(2);
    };
    // For people who look at a list of processes.
    let _ = rustix::thread::set_name(c"dormouse-pod");
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    let ready = signals.thread_block().map_err(std::io::Error::from).and_then(|()| {
        crate::memory::shrink();
        leave(Path::new(directory))
    });
    if let Err(error) = ready {
        eprintln!("dormouse pod-holder: {error}");
        return ExitCode::FAILURE;
    }
    let mut out = std::io::stdout();
    if out.write_all(b"r").and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        // Fetched one by one: nothing happens between a look and a wait.
        let _ = signals.wait();
    }
}

fn leave(directory: &Path) -> std::io::Result<()> {
    let _ = rustix::process::setsid();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    nix::mount::mount(Some("none"), directory, Some("tmpfs"), flags, Some("mode=555,size=4k,nr_inodes=1"))?;
    rustix::process::chdir(directory)?;
    rustix::process::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    rustix::process::chdir("/")?;
    rustix::thread::set_no_new_privs(true)?;
    let empty = CapabilitySet::empty();
    let none = CapabilitySets { effective: empty, permitted: empty, inheritable: empty };
    rustix::thread::set_capabilities(None, none)?;
    // A change of capabilities may have made it readable again.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
