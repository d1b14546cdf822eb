//! The contents of /dev: nodes, links, and the console.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::mounts;
use super::root::{Missing, Root, split};

/// What every container has (runtime-spec, config-linux, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// runtime-spec, config-linux, "Dev symbolic links".
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// A failed step, in words.
pub(super) type Failure = (String, Errno);

/// A node to be made.
pub(super) struct Node {
    pub path: PathBuf,
    pub kind: FileType,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    /// User and group, as the container has them.
    pub owner: (u32, u32),
}

/// The default nodes, and those of the specification.
pub(super) fn wanted(devices: &[LinuxDevice]) -> Result<Vec<Node>, Failure> {
    let mut nodes: Vec<Node> = DEFAULT
        .iter()
        .map(|(name, major, minor)| Node {
            path: Path::new("/dev").join(name),
            kind: FileType::CharacterDevice,
            major: *major,
            minor: *minor,
            mode: 0o666,
            owner: (0, 0),
        })
        .collect();
    for device in devices {
        let number = |number: i64| {
            u32::try_from(number).map_err(|_| (format!("make device {:?}", device.path()), Errno::INVAL))
        };
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err((format!("make device {:?} of every kind", device.path()), Errno::INVAL));
            }
        };
        nodes.push(Node {
            path: device.path().clone(),
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        });
    }
    Ok(nodes)
}

/// Makes the default nodes and those of the specification, and the links. `made`: the nodes, made before, since in a user
/// namespace nobody can make them.
pub(super) fn populate(
    root: &Root,
    devices: &[LinuxDevice],
    mut made: VecDeque<OwnedFd>,
) -> Result<(), Failure> {
    for node in wanted(devices)? {
        match made.pop_front() {
            Some(source) => bind(root, &node, &source)?,
            None => make(root, &node)?,
        }
    }
    for (target, path) in LINKS {
        root.symlink(target, Path::new(path)).map_err(|errno| (format!("make link {path}"), errno))?;
    }
    Ok(())
}

fn failed(node: &Node) -> impl Fn(Errno) -> Failure {
    move |errno| (format!("make device {:?}", node.path), errno)
}

fn bind(root: &Root, node: &Node, source: &OwnedFd) -> Result<(), Failure> {
    let place = root.place(&node.path, Missing::File).map_err(failed(node))?;
    mounts::attach(source.as_fd(), place.as_fd()).map_err(failed(node))
}

fn make(root: &Root, node: &Node) -> Result<(), Failure> {
    let failed = failed(node);
    let (parent, name) = split(&node.path).ok_or_else(|| failed(Errno::INVAL))?;
    let parent = root.make_directories(&parent).map_err(&failed)?;
    let number = rustix::fs::makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode);
    // The whole mode at once: who changes it later by name may be led to another file, where others write to the directory.
    let umask = rustix::process::umask(Mode::empty());
    let made = rustix::fs::mknodat(&parent, &name, node.kind, mode, number);
    rustix::process::umask(umask);
    match made {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let found = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            if FileType::from_raw_mode(found.st_mode) != node.kind || found.st_rdev != number {
                return Err(failed(Errno::EXIST));
            }
            return Ok(());
        }
        // The caller is in a user namespace itself, as without root: the host's own node does as well.
        Err(Errno::PERM) => {
            let source = open_of_host(node).map_err(&failed)?;
            return bind(root, node, &source);
        }
        Err(errno) => return Err(failed(errno)),
    }
    let (uid, gid) = node.owner;
    rustix::fs::chownat(
        &parent,
        &name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(&failed)
}

/// The host's node of the same device, under the same name or under that of its number, which udev makes.
pub(super) fn open_of_host(node: &Node) -> Result<OwnedFd, Errno> {
    let kind = if node.kind == FileType::BlockDevice { "block" } else { "char" };
    let by_number = PathBuf::from(format!("/dev/{kind}/{}:{}", node.major, node.minor));
    for path in [&node.path, &by_number] {
        let Ok(tree) = mounts::copy_tree(CWD, path, false) else { continue };
        let found = rustix::fs::fstat(&tree)?;
        let same = found.st_rdev == rustix::fs::makedev(node.major, node.minor);
        if same && FileType::from_raw_mode(found.st_mode) == node.kind {
            return Ok(tree);
        }
    }
    Err(Errno::PERM)
}

/// Opens the container's own /dev/null, and makes sure that it is one.
pub(super) fn open_null(root: &Root) -> Result<OwnedFd, Failure> {
    let failed = |errno| ("use /dev/null of the container".to_owned(), errno);
    let null = root.open(Path::new("/dev/null"), OFlags::PATH | OFlags::NOFOLLOW).map_err(failed)?;
    let found = rustix::fs::fstat(&null).map_err(failed)?;
    // An image that has put something else there would have that shown in place of what is to be hidden (CVE-2025-31133).
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice
        || found.st_rdev != rustix::fs::makedev(1, 3)
    {
        return Err(failed(Errno::NODEV));
    }
    Ok(null)
}

/// A pseudo terminal of the container's own devpts: the master, and the slave that became /dev/console.
pub(super) struct Console {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Makes a terminal, and binds it to /dev/console if `console`.
pub(super) fn console(
    root: &Root,
    size: Option<(u16, u16)>,
    owner: u32,
    console: bool,
) -> Result<Console, Failure> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    let failed = |what: &'static str| move |errno| (what.to_owned(), errno);
    let master = root
        .open(Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW)
        .map_err(failed("open a terminal of the container's devpts"))?;
    let found = rustix::fs::fstatfs(&master).map_err(failed("look at the terminal"))?;
    if found.f_type != DEVPTS_SUPER_MAGIC {
        return Err(("open a terminal: /dev/pts is no devpts".to_owned(), Errno::NODEV));
    }
    rustix::pty::unlockpt(&master).map_err(failed("unlock the terminal"))?;
    // By ioctl, not by name: the name is the container's to change.
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC,
    )
    .map_err(failed("open the other side of the terminal"))?;
    if let Some((rows, columns)) = size {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).map_err(failed("set the terminal's size"))?;
    }
    rustix::fs::fchown(&slave, Some(Uid::from_raw(owner)), None)
        .map_err(failed("give the terminal to the user"))?;
    if console {
        let copy =
            mounts::copy_tree(slave.as_fd(), Path::new(""), false).map_err(failed("bind the console"))?;
        let place =
            root.place(Path::new("/dev/console"), Missing::File).map_err(failed("make /dev/console"))?;
        mounts::attach(copy.as_fd(), place.as_fd()).map_err(failed("bind the console"))?;
    }
    Ok(Console { master, slave })
}
