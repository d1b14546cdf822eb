//! The contents of /dev: nodes, links, and the console.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
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

/// Makes the default nodes and those of the specification, and the links. `bind`: in a user namespace nodes can't be
/// made, and the host's are bound instead.
pub(super) fn populate(root: &Root, devices: &[LinuxDevice], bind: bool) -> Result<(), Failure> {
    for (name, major, minor) in DEFAULT {
        let path = Path::new("/dev").join(name);
        node(root, &path, FileType::CharacterDevice, (major, minor), 0o666, (0, 0), bind)?;
    }
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
        let numbers = (number(device.major())?, number(device.minor())?);
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        node(root, device.path(), kind, numbers, device.file_mode().unwrap_or(0o666), owner, bind)?;
    }
    for (target, path) in LINKS {
        root.symlink(target, Path::new(path)).map_err(|errno| (format!("make link {path}"), errno))?;
    }
    Ok(())
}

fn node(
    root: &Root,
    path: &Path,
    kind: FileType,
    (major, minor): (u32, u32),
    mode: u32,
    (uid, gid): (u32, u32),
    bind: bool,
) -> Result<(), Failure> {
    let failed = |errno| (format!("make device {path:?}"), errno);
    if bind {
        let source = mounts::copy_tree(rustix::fs::CWD, path, false).map_err(failed)?;
        let place = root.place(path, Missing::File).map_err(failed)?;
        return mounts::attach(source.as_fd(), place.as_fd()).map_err(failed);
    }
    let (parent, name) = split(path).ok_or_else(|| failed(Errno::INVAL))?;
    let parent = root.make_directories(&parent).map_err(failed)?;
    let number = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(&parent, &name, kind, Mode::from_raw_mode(mode), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let found = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            if FileType::from_raw_mode(found.st_mode) != kind || found.st_rdev != number {
                return Err(failed(Errno::EXIST));
            }
        }
        Err(errno) => return Err(failed(errno)),
    }
    // The umask took some of the mode.
    rustix::fs::chmodat(&parent, &name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed)?;
    rustix::fs::chownat(
        &parent,
        &name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(failed)
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
