//! User namespaces: whom the users of a container are outside of it.
//!
//! A new namespace begins with a process that does nothing, whose users are mapped by us; the container joins it. So one
//! that is new and one that exists already are the same to all that follows, and the mapping is known before anything is
//! mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::launch::{Child, host};
use super::syscall::{self, Cloned, MountAttr};
use super::{RuntimeError, Step};

/// `MOUNT_ATTR_IDMAP`, Linux 5.12.
const IDMAP: u64 = 0x0010_0000;

/// A user namespace, and who its users are as the caller sees them.
#[derive(Debug)]
pub(super) struct UserNamespace {
    fd: OwnedFd,
    users: Table,
    groups: Table,
}

impl UserNamespace {
    /// Makes a new one.
    pub fn new(
        users: &Option<Vec<LinuxIdMapping>>,
        groups: &Option<Vec<LinuxIdMapping>>,
    ) -> Result<Self, RuntimeError> {
        let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(host(Step::UserMapping, "open /proc"))?;
        Self::with_proc(proc.as_fd(), users, groups)
    }

    /// As [`Self::new`], for who is in another pid namespace than the procfs at /proc; `proc` is of its own.
    pub fn with_proc(
        proc: BorrowedFd<'_>,
        users: &Option<Vec<LinuxIdMapping>>,
        groups: &Option<Vec<LinuxIdMapping>>,
    ) -> Result<Self, RuntimeError> {
        let users = Table::of(users.iter().flatten());
        let groups = Table::of(groups.iter().flatten());
        let holder = Holder::new(None, 0).map_err(host(Step::UserMapping, "make a user namespace"))?;
        holder.map(proc, &users, &groups)?;
        let path = format!("{}/ns/user", holder.child.pid);
        let fd = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(host(Step::UserMapping, "open the new user namespace"))?;
        Ok(Self { fd, users, groups })
    }

    /// One that exists.
    pub fn existing(fd: OwnedFd) -> Result<Self, RuntimeError> {
        let holder =
            Holder::new(Some(fd.as_fd()), 0).map_err(host(Step::Namespaces, "join the user namespace"))?;
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", holder.child.pid);
            std::fs::read_to_string(&path).map(|text| Table::parse(&text)).map_err(|source| {
                RuntimeError::Host { step: Step::UserMapping, what: format!("read {path}"), source }
            })
        };
        let (users, groups) = (read("uid_map")?, read("gid_map")?);
        drop(holder);
        Ok(Self { fd, users, groups })
    }

    /// Who a user of the namespace is outside.
    pub fn user(&self, inside: u32) -> Option<u32> {
        self.users.outside(inside)
    }

    /// Which group one of the namespace is outside.
    pub fn group(&self, inside: u32) -> Option<u32> {
        self.groups.outside(inside)
    }

    /// Shows the owners of a mount's files as they are in this namespace: what belongs to user 5 outside belongs to user 5
    /// inside. `recursive`: of the whole tree.
    ///
    /// # Errors
    /// EINVAL for a file system that can't do it, EPERM for who has not mounted it.
    pub fn shift(&self, mount: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
        let userns_fd = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&self.fd)).map_err(|_| Errno::BADF)?;
        let attr = MountAttr { set: IDMAP, userns_fd, ..MountAttr::default() };
        syscall::mount_setattr(mount, recursive, &attr)
    }

    /// Joins it, as its root. Nothing of what the caller could do outside can be done after this.
    pub fn enter(&self) -> Result<(), Errno> {
        syscall::setns(self.fd.as_fd(), libc::CLONE_NEWUSER)?;
        syscall::change_user(0, 0, Some(&[]))?;
        // Changing the user made it dumpable again.
        syscall::prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
    }
}

/// Lines of `/proc/PID/uid_map`: the first id inside, the first outside, and how many. Source: user_namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table(Vec<(u32, u32, u32)>);

impl Table {
    fn of<'a>(mappings: impl Iterator<Item = &'a LinuxIdMapping>) -> Self {
        Self(mappings.map(|one| (one.container_id(), one.host_id(), one.size())).collect())
    }

    /// Everybody whom it names is who it is outside; `own` is among them.
    fn of_outside(&self, own: u32) -> Self {
        let mut all: Vec<_> = self.0.iter().map(|(_, outside, count)| (*outside, *outside, *count)).collect();
        if !all.iter().any(|(first, _, count)| own.checked_sub(*first).is_some_and(|step| step < *count)) {
            all.push((own, own, 1));
        }
        Self(all)
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.split_ascii_whitespace().map(str::parse);
            Some((fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn text(&self) -> String {
        self.0.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect()
    }

    fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|(inside, outside, count)| {
            let step = id.checked_sub(*inside).filter(|step| step < count)?;
            outside.checked_add(step)
        })
    }
}

/// Makes a user namespace and a network namespace in it, for who gives them names. It may be called with threads about.
///
/// # Errors
/// [`RuntimeError::Host`].
pub fn hold_network_of_users(
    users: &[LinuxIdMapping],
    groups: &[LinuxIdMapping],
) -> Result<Holder, RuntimeError> {
    let holder = Holder::new(None, libc::CLONE_NEWNET)
        .map_err(host(Step::Namespaces, "make a user and a network namespace"))?;
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(host(Step::UserMapping, "open /proc"))?;
    holder.map(proc.as_fd(), &Table::of(users.iter()), &Table::of(groups.iter()))?;
    Ok(holder)
}

/// Gives an ordinary user the rights that it takes to make a container, in a user namespace around it: there the ids that the
/// container is to have are who they are outside. What this process was before it is no more. It has one thread.
///
/// # Errors
/// [`RuntimeError::Host`], for ids that are not this user's to give.
pub fn enter_own_namespace(
    users: &Option<Vec<LinuxIdMapping>>,
    groups: &Option<Vec<LinuxIdMapping>>,
) -> Result<(), RuntimeError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let users = Table::of(users.iter().flatten()).of_outside(uid);
    let groups = Table::of(groups.iter().flatten()).of_outside(gid);
    let holder = Holder::new(None, 0).map_err(host(Step::UserMapping, "make a user namespace"))?;
    holder.map_own(&users, &groups)?;
    let path = holder.path("user");
    let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(host(Step::UserMapping, format!("open {path:?}")))?;
    syscall::setns(namespace.as_fd(), libc::CLONE_NEWUSER)
        .map_err(host(Step::Namespaces, "join the own user namespace"))
}

/// A process in a user namespace, which stays until this is dropped.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    alive: OwnedFd,
}

impl Holder {
    /// Where a namespace of it can be found, by its name in `/proc/PID/ns`.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{name}", self.child.pid))
    }

    fn map(&self, proc: BorrowedFd<'_>, users: &Table, groups: &Table) -> Result<(), RuntimeError> {
        for (file, table) in [("uid_map", users), ("gid_map", groups)] {
            let path = format!("{}/{file}", self.child.pid);
            let text = table.text();
            // All of it by one write(2), user_namespaces(7).
            rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|map| rustix::io::write(&map, text.as_bytes()))
                .map_err(host(Step::UserMapping, format!("map the users of the container by {file}")))?;
        }
        Ok(())
    }

    /// As [`Self::map`], for an ordinary user: its own id by its own hand, others by the programs that know whose they are.
    fn map_own(&self, users: &Table, groups: &Table) -> Result<(), RuntimeError> {
        let pid = self.child.pid.to_string();
        let put = |file: &str, text: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::write(&path, text).map_err(|source| RuntimeError::Host {
                step: Step::UserMapping,
                what: format!("map this user's own id by {path}"),
                source,
            })
        };
        for (file, program, table) in [("uid_map", "newuidmap", users), ("gid_map", "newgidmap", groups)] {
            let refused = |source| RuntimeError::Host {
                step: Step::UserMapping,
                what: format!(
                    "map users of this user by {program} (package uidmap), with ids of /etc/subuid and /etc/subgid"
                ),
                source,
            };
            if let [(_, _, 1)] = table.0[..] {
                if file == "gid_map" {
                    // Else one could leave a group that something is forbidden to: user_namespaces(7).
                    put("setgroups", "deny")?;
                }
                put(file, &table.text())?;
                continue;
            }
            let words = table.0.iter().flat_map(|(inside, outside, count)| [inside, outside, count]);
            let output = std::process::Command::new(program)
                .arg(&pid)
                .args(words.map(u32::to_string))
                .output()
                .map_err(refused)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(refused(std::io::Error::other(said)));
            }
        }
        Ok(())
    }

    /// In a new one with further new namespaces, or in the one given.
    fn new(existing: Option<BorrowedFd<'_>>, further: libc::c_int) -> Result<Self, Errno> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let flags = further | if existing.is_none() { libc::CLONE_NEWUSER } else { 0 };
        match syscall::clone3(u64::from(flags.cast_unsigned()), libc::SIGCHLD, None)? {
            // System calls only from here: the caller may have threads, with locks that are never released here.
            Cloned::Child => {
                drop(ours);
                let joined = existing.map_or(Ok(()), |fd| syscall::setns(fd, libc::CLONE_NEWUSER));
                if joined.is_ok() && rustix::io::write(&theirs, b"+").is_ok() {
                    // Until the other side is closed, however that happens.
                    let _ = rustix::io::retry_on_intr(|| rustix::io::read(&theirs, &mut [0; 1]));
                }
                syscall::exit_now(0)
            }
            Cloned::Parent { pid, pidfd } => {
                let holder = Self { child: Child::new(pid, pidfd), alive: ours };
                drop(theirs);
                match rustix::io::retry_on_intr(|| rustix::io::read(&holder.alive, &mut [0; 1]))? {
                    1 => Ok(holder),
                    _ => Err(Errno::PERM),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_somebody_is_outside_is_found_in_any_line_of_a_table() {
        let table = Table::parse("         0     100000      10\n 100 5 1\nx\n");
        for (inside, outside) in [
            (0, Some(100_000)),
            (9, Some(100_009)),
            (10, None),
            (100, Some(5)),
            (101, None),
            (u32::MAX, None),
        ] {
            assert_eq!(table.outside(inside), outside, "{inside}");
        }
        assert_eq!(table.text(), "0 100000 10\n100 5 1\n");
        assert_eq!(Table::parse("0 4294967295 2").outside(1), None);
        assert_eq!(table.of_outside(7).0, [(100_000, 100_000, 10), (5, 5, 1), (7, 7, 1)]);
        assert_eq!(table.of_outside(5).0, [(100_000, 100_000, 10), (5, 5, 1)]);
    }
}
