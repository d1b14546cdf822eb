//! An ordinary user's own instance: one user namespace, in which that user is root and has its subordinate ids.
//!
//! The roles that use the engine go into it before they have threads ([`enter`]); all that they execute is born in it. No
//! process has the task of keeping it: whoever is in it keeps it, and that is a monitor for each container that runs, or the
//! service itself. So it is gone when nobody needs it, as the service is, and a service that wakes joins the one that is
//! there, for only who is in the same one has power over what runs:
//!
//! ```text
//! RUN_DIR/namespace            locked while somebody goes in; the services that are in it, by pid and start time
//! RUN_DIR/containers/ID/…      monitors and first processes, as every state file names them
//! ```
//!
//! The mapping is always the same one, so what lies on the disk belongs to the same users in the next namespace. It is written
//! by newuidmap(1) and newgidmap(1), as the host's administrator allows in /etc/subuid and /etc/subgid.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::monitor::state::{ProcessRef, RunState};

const FILE_NAME: &str = "namespace";
/// So many ids make a whole user database, and less than that few images can do with.
const RANGE_SIZE: u32 = 1 << 16;

/// Why there is no user namespace for this user.
#[derive(Debug, thiserror::Error)]
pub enum RootlessError {
    /// The files of subordinate ids say nothing of this user.
    #[error(
        "no subordinate ids are given to {user:?} in {file}; as root: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {user}, with {RANGE_SIZE} ids that nobody else has"
    )]
    NoIds {
        /// Who wants them.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// A program is not there.
    #[error("{program} is not installed; install the package uidmap")]
    Missing {
        /// newuidmap or newgidmap.
        program: &'static str,
    },
    /// A program says no.
    #[error("{program} refuses to map the users of {user:?}: {reason}")]
    Refused {
        /// newuidmap or newgidmap.
        program: &'static str,
        /// For whom.
        user: String,
        /// In its words.
        reason: String,
    },
    /// The kernel says no.
    #[error("cannot {attempted}: {source}; does this host allow user namespaces without root?")]
    Kernel {
        /// What was attempted.
        attempted: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A file or directory can't be used.
    #[error("cannot use {path:?}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Goes into the user's namespace, or makes it. Does nothing for root. The process has one thread.
///
/// # Errors
/// A [`RootlessError`]; the process is of no use then.
pub fn enter(run_dir: &Path) -> Result<(), RootlessError> {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Ok(());
    }
    let path = run_dir.join(FILE_NAME);
    let failed = |source| RootlessError::File { path: path.clone(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(failed)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&path)
        .map_err(failed)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| failed(errno.into()))?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    let mut members: Vec<ProcessRef> = text.lines().filter_map(parse).filter(ProcessRef::is_alive).collect();
    let (monitors, payloads) = processes(run_dir);
    let joined = members.iter().chain(&monitors).any(|member| join(*member, true))
        // Without a monitor only the users are left of it, and a mount namespace is made anew.
        || payloads.iter().any(|member| join(*member, false));
    if !joined {
        make(user.as_raw())?;
    }
    let own = std::process::id();
    if let Some(own) = i32::try_from(own).ok().and_then(ProcessRef::of) {
        members.push(own);
    }
    let text: String =
        members.iter().map(|member| format!("{} {}\n", member.pid, member.start_time)).collect();
    file.rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| file.write_all(text.as_bytes()))
        .map_err(failed)
}

fn parse(line: &str) -> Option<ProcessRef> {
    let (pid, start_time) = line.split_once(' ')?;
    Some(ProcessRef { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

/// The monitors that live, and the first processes of containers.
fn processes(run_dir: &Path) -> (Vec<ProcessRef>, Vec<ProcessRef>) {
    let (mut monitors, mut payloads) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(run_dir.join("containers")).into_iter().flatten().flatten() {
        let Ok(Some(state)) = RunState::load(&entry.path()) else { continue };
        monitors.extend(Some(state.monitor).filter(ProcessRef::is_alive));
        payloads.extend(state.init.filter(ProcessRef::is_alive));
    }
    (monitors, payloads)
}

/// Joins the user namespace of a process, and its mount namespace or a copy of ours. False where that is not to be had.
fn join(member: ProcessRef, with_mounts: bool) -> bool {
    let open = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", member.pid);
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
    };
    let (Some(users), Some(mounts)) = (open("user"), open("mnt")) else { return false };
    // After the open: the pid may have been given to another process before.
    if !member.is_alive() || nix::sched::setns(&users, CloneFlags::CLONE_NEWUSER).is_err() {
        return false;
    }
    let moved = match with_mounts {
        true => nix::sched::setns(&mounts, CloneFlags::CLONE_NEWNS),
        false => nix::sched::unshare(CloneFlags::CLONE_NEWNS),
    };
    moved.is_ok() && become_root().is_ok()
}

/// Takes the ids of root, which in the namespace are the user's. Its further groups stay with it.
fn become_root() -> io::Result<()> {
    let root = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setresgid(root.1, root.1, root.1)?;
    nix::unistd::setresuid(root.0, root.0, root.0)?;
    // The next one that wakes finds the namespace by this process's /proc directory.
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?)
}

/// Makes the namespace, with the help of a child that stays outside of it: the programs that map users want to be told from
/// there.
fn make(user: u32) -> Result<(), RootlessError> {
    let kernel = |attempted| move |source| RootlessError::Kernel { attempted, source };
    let (users, groups) = mappings(user)?;
    let (go, start) = pipe().map_err(kernel("make a pipe"))?;
    let (answer, told) = pipe().map_err(kernel("make a pipe"))?;
    let own = std::process::id();
    // This process has one thread, so the child can do whatever this one could.
    match fork().map_err(kernel("fork"))? {
        ForkResult::Child => {
            drop((start, answer));
            let mut told = File::from(told);
            if matches!(File::from(go).read(&mut [0]), Ok(1)) {
                let mapped = map("newuidmap", own, &users).and_then(|()| map("newgidmap", own, &groups));
                let _ = match mapped {
                    Ok(()) => told.write_all(b"+"),
                    Err((program, reason)) => told.write_all(format!("{program}\t{reason}").as_bytes()),
                };
            }
            std::process::exit(0)
        }
        ForkResult::Parent { child } => {
            drop((go, told));
            let made = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
                .map_err(io::Error::from)
                // newuidmap looks at whom this process belongs to.
                .and_then(|()| {
                    let dumpable = rustix::process::DumpableBehavior::Dumpable;
                    Ok(rustix::process::set_dumpable_behavior(dumpable)?)
                })
                .and_then(|()| File::from(start).write_all(b"+"));
            let mut text = String::new();
            let heard = made.map_err(kernel("make a user namespace")).and_then(|()| {
                File::from(answer).read_to_string(&mut text).map_err(kernel("hear from a child"))
            });
            reap(child);
            heard?;
            if text != "+" {
                let (program, reason) = text.split_once('\t').unwrap_or(("newuidmap", "it was killed"));
                let program = if program == "newgidmap" { "newgidmap" } else { "newuidmap" };
                if reason.is_empty() {
                    return Err(RootlessError::Missing { program });
                }
                return Err(RootlessError::Refused {
                    program,
                    user: name_of(user),
                    reason: reason.to_owned(),
                });
            }
            become_root().map_err(kernel("become root of the user namespace"))
        }
    }
}

/// nix marks it as unsafe for what threads hold at that moment, of which there are none.
#[allow(unsafe_code)] // fork(2) has no safe wrapper
fn fork() -> io::Result<ForkResult> {
    // SAFETY: the caller has one thread, so no lock is held in the child by a thread that is not there.
    Ok(unsafe { nix::unistd::fork() }?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn reap(child: Pid) {
    while matches!(waitpid(child, None), Err(nix::errno::Errno::EINTR) | Ok(WaitStatus::StillAlive)) {}
}

/// Inside, outside, and how many; an empty reason says that the program is not there.
fn map(program: &'static str, pid: u32, mappings: &[(u32, u32, u32)]) -> Result<(), (&'static str, String)> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for (inside, outside, count) in mappings {
        command.args([inside, outside, count].map(u32::to_string));
    }
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => (program, String::new()),
        _ => (program, error.to_string()),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err((program, text.lines().next().unwrap_or("it does not say why").trim().to_owned()))
}

type Mappings = Vec<(u32, u32, u32)>;

/// The user itself is root; its subordinate ids are all others, from 1 on.
fn mappings(user: u32) -> Result<(Mappings, Mappings), RootlessError> {
    let name = name_of(user);
    let of = |file: &'static str, own: u32| -> Result<Mappings, RootlessError> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut all = vec![(0, own, 1)];
        let mut next: u32 = 1;
        for (first, count) in ranges(&text, &name, user) {
            all.push((next, first, count));
            next = next.saturating_add(count);
        }
        match all.len() {
            1 => Err(RootlessError::NoIds { user: name.clone(), file }),
            _ => Ok(all),
        }
    };
    Ok((of("/etc/subuid", user)?, of("/etc/subgid", rustix::process::getegid().as_raw())?))
}

/// The ranges of a user in a text as subuid(5) has it: `NAME-OR-UID:FIRST:COUNT`.
fn ranges(text: &str, name: &str, user: u32) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_ours = owner == name || owner.parse() == Ok(user);
        (is_ours && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

fn name_of(user: u32) -> String {
    let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
    known.map_or_else(|| user.to_string(), |known| known.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_a_users_by_name_or_number() {
        let text = "alice:100000:65536\nbob:165536:65536\n1000:300000:5\nalice:x:1\nalice:5:0\n";
        assert_eq!(ranges(text, "alice", 1000), [(100_000, 65_536), (300_000, 5)]);
        assert_eq!(ranges(text, "bob", 1001), [(165_536, 65_536)]);
        assert!(ranges(text, "carol", 1002).is_empty());
    }

    #[test]
    fn a_member_is_a_pid_with_its_start_time() {
        assert_eq!(parse("17 4"), Some(ProcessRef { pid: 17, start_time: 4 }));
        assert_eq!(parse("17"), None);
    }
}
