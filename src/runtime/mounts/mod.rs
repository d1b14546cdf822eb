//! Mounts of a container, made in its own mount namespace by the new mount API: a file system is configured and mounted
//! detached, and then attached to an opened place. No path inside the root is walked by the kernel for us.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

mod cgroups;
mod copy_up;

use self::copy_up::copy_content;
use super::Rootfs;
use super::overlay::Driver;
use super::root::{Missing, Root, file_type};
use super::syscall::{self, MountAttr};
use super::userns::{UserNamespace, mappings_of_option};
use super::{view, visible};

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME_MASK: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// A failed mount, in words, with what the kernel said.
#[derive(Debug)]
pub(super) struct MountFailure {
    pub what: String,
    pub errno: Errno,
}

fn failed(what: impl Into<String>) -> impl FnOnce(Errno) -> MountFailure {
    let what = what.into();
    move |errno| MountFailure { what, errno }
}

/// The options of a mount, sorted by whom they are for.
#[derive(Debug, Default)]
struct Options {
    set: u64,
    clear: u64,
    /// For the mounts below too.
    set_below: u64,
    clear_below: u64,
    propagation: Option<(u64, bool)>,
    bind: bool,
    recursive: bool,
    remount: bool,
    copy_up: bool,
    /// Users are mapped; for the mounts below too if true.
    id_mapped: Option<bool>,
    /// Of the source of a bind.
    subpath: Option<PathBuf>,
    /// By these, as `uids=0-1000-10#10-2000-5;gids=…`; the place to begin with in the mount, what that is on the host, how many.
    id_mappings: Option<String>,
    /// For the file system itself.
    data: Vec<(String, Option<String>)>,
}

/// The options that are attributes of a mount: what they set, and what they clear. With an `r` before, they are for the
/// mounts below too.
const ATTRIBUTES: [(&str, u64, u64); 20] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("noatime", NOATIME, ATIME_MASK),
    ("atime", 0, ATIME_MASK),
    ("strictatime", STRICTATIME, ATIME_MASK),
    ("nostrictatime", 0, ATIME_MASK),
    ("relatime", 0, ATIME_MASK),
    ("norelatime", STRICTATIME, ATIME_MASK),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
    ("defaults", 0, 0),
    ("loud", 0, 0),
];

/// Of a bind mount, an option of ours: only what is at this path below the source is mounted, and no link leads out of there.
pub const SUBPATH_OPTION: &str = "x-dormouse.subpath";

/// What the kernel does by itself, or does not know any more.
const WITHOUT_EFFECT: [&str; 9] =
    ["async", "nouser", "auto", "silent", "nolazytime", "nomand", "iversion", "noiversion", "norealtime"];

const OTHERS: [&str; 6] = ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"];
/// What the file system gets, under names that all of them share.
const SHARED_DATA: [&str; 4] = ["dirsync", "sync", "lazytime", "mand"];
const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

/// All options that are not for a file system alone.
pub(super) fn known_options() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name);
    let plain = attributes.clone().chain(WITHOUT_EFFECT).chain(OTHERS).chain(SHARED_DATA).chain(PROPAGATIONS);
    let below = attributes.filter(|name| !["defaults", "loud"].contains(name)).map(|name| format!("r{name}"));
    let mut all: Vec<String> = plain.map(str::to_owned).chain(below).collect();
    all.sort();
    all
}

/// A word for propagation (config-linux, "Rootfs Mount Propagation"): its kind, and whether mounts below have it too.
pub(super) fn propagation(word: &str) -> Option<(u64, bool)> {
    let kind = match word.strip_prefix('r').unwrap_or(word) {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((kind, word.starts_with('r')))
}

fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    let attribute = |option: &str| ATTRIBUTES.iter().find(|(name, ..)| *name == option);
    for option in options {
        if let Some((_, set, clear)) = attribute(option) {
            parsed.set = (parsed.set & !clear) | set;
            parsed.clear = (parsed.clear & !set) | clear;
            continue;
        }
        if let Some((_, set, clear)) = option.strip_prefix('r').and_then(attribute) {
            parsed.set_below = (parsed.set_below & !clear) | set;
            parsed.clear_below = (parsed.clear_below & !set) | clear;
            continue;
        }
        if let Some(propagation) = propagation(option) {
            parsed.propagation = Some(propagation);
            continue;
        }
        match option.as_str() {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "remount" => parsed.remount = true,
            "tmpcopyup" => parsed.copy_up = true,
            "idmap" => parsed.id_mapped = Some(false),
            "ridmap" => parsed.id_mapped = Some(true),
            // Engines leave an empty one behind where they have nothing to say.
            "" => {}
            other if other.starts_with(SUBPATH_OPTION) => {
                parsed.subpath = other[SUBPATH_OPTION.len()..].strip_prefix('=').map(PathBuf::from);
            }
            other if WITHOUT_EFFECT.contains(&other) => {}
            other if other.starts_with("idmap=") || other.starts_with("ridmap=") => {
                parsed.id_mapped = Some(other.starts_with('r'));
                parsed.id_mappings = other.split_once('=').map(|(_, mappings)| mappings.to_owned());
            }
            other => parsed.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }
    parsed
}

/// Options of a new file system on the host: the attributes of its mount, and what is for the file system itself.
pub(super) fn sorted(options: &[String]) -> (u32, Vec<(String, Option<String>)>) {
    let mut parsed = parse(options);
    if parsed.set & RDONLY != 0 {
        // A device that can only be read wants to hear it too.
        parsed.data.push(("ro".to_owned(), None));
    }
    (u32::try_from(parsed.set).unwrap_or_default(), parsed.data)
}

impl Options {
    /// Puts the attributes into force on a mount, and on those below what is for them.
    fn apply(&self, mount: BorrowedFd<'_>) -> Result<(), Errno> {
        let own = MountAttr { set: self.set, clear: self.clear & !self.set, ..MountAttr::default() };
        if own != MountAttr::default() {
            syscall::mount_setattr(mount, false, &own)?;
        }
        self.apply_below(mount)
    }

    fn apply_below(&self, mount: BorrowedFd<'_>) -> Result<(), Errno> {
        let below = MountAttr {
            set: self.set_below,
            clear: self.clear_below & !self.set_below,
            ..MountAttr::default()
        };
        if below == MountAttr::default() { Ok(()) } else { syscall::mount_setattr(mount, true, &below) }
    }
}

/// The path below /proc/sys of a kernel parameter, in whichever way its name is written (sysctl(8)); `None` for what is no
/// such name.
pub(super) fn sysctl_path(name: &str) -> Option<PathBuf> {
    let dotted_first = name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'.'));
    // Where dots come first, a slash stands for a dot within a part, and the other way round.
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = if dotted_first { name.chars().map(swap).collect() } else { name.to_owned() };
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    (path.contains('/') && path.split('/').all(is_part)).then(|| PathBuf::from(path))
}

/// A procfs of the pid namespace that this process is in, attached nowhere: nobody can have mounted anything over a part of
/// it (CVE-2025-52881).
pub(super) fn own_proc() -> Result<OwnedFd, Errno> {
    detached("proc", "proc", &[], NOSUID | NODEV | NOEXEC)
}

/// Sets the propagation of the root, once it is the root.
pub(super) fn propagate_root(kind: u64, recursive: bool) -> Result<(), MountFailure> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the root"))?;
    let attr = MountAttr { propagation: kind, ..MountAttr::default() };
    syscall::mount_setattr(root.as_fd(), recursive, &attr).map_err(failed("set the propagation of the root"))
}

/// Cuts the tie to the host's mounts, or loosens it: what is mounted here must not show there.
pub(super) fn isolate(propagation: Option<&str>) -> Result<(), MountFailure> {
    let kind = match propagation {
        // Shared within the container is set on its root later; towards the host it is a slave at most.
        Some("slave" | "rslave" | "shared" | "rshared") => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the host's root"))?;
    let attr = MountAttr { propagation: kind, ..MountAttr::default() };
    syscall::mount_setattr(root.as_fd(), true, &attr).map_err(failed("detach the mounts from the host's"))
}

/// Mounts the root file system and attaches it over a directory of the host, in this mount namespace only.
/// `served`: what a process serves that its maker has started.
pub(super) fn root(rootfs: &Rootfs, served: Option<OwnedFd>) -> Result<Root, MountFailure> {
    let (mount, place) = match rootfs {
        Rootfs::Directory { path } => (directory(path)?, path),
        // Without a user namespace there is nothing to shift.
        Rootfs::ShiftedDirectory { path } => (directory(path)?, path),
        Rootfs::Overlay { lower, upper, work, .. } => {
            match (served, super::furnished::shared(&visible::place_of(upper))) {
                (Some(mount), _) => (mount, upper),
                // Two overlays with the same directory to write to would not see each other's changes.
                (None, Some(mount)) => {
                    let attr = MountAttr { clear: NOSUID | NODEV, ..MountAttr::default() };
                    syscall::mount_setattr(mount.as_fd(), false, &attr)
                        .map_err(failed("take the root that is mounted on the host"))?;
                    (mount, upper)
                }
                (None, None) => (overlay(lower, upper, work)?, upper),
            }
        }
    };
    make_private(mount.as_fd())?;
    move_mount(mount.as_fd(), "", CWD, place.as_path(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("attach the root"))?;
    Ok(Root::new(mount))
}

/// As [`root`], for a container with a user namespace: the files belong inside to whom they belong on the disk. It is not
/// attached. Leaves mounts over the places of the layers.
pub(super) fn shifted_root(rootfs: &Rootfs, users: &UserNamespace) -> Result<OwnedFd, MountFailure> {
    let mount = match rootfs {
        Rootfs::Directory { path } => directory(path)?,
        Rootfs::ShiftedDirectory { path } => {
            let tree = directory(path)?;
            users.shift(tree.as_fd(), true).map_err(failed(shift_text(path)))?;
            tree
        }
        Rootfs::Overlay { driver: Driver::Fuse, .. } => {
            return Err(failed("shift the owners of what fuse-overlayfs shows")(Errno::NOTSUP));
        }
        Rootfs::Overlay { lower, upper, work, .. } => {
            // upper and work have to be on the same mount; names that stay right wherever a layer lies.
            let own = upper.parent().filter(|own| work.starts_with(own)).unwrap_or(upper);
            for path in lower.iter().map(PathBuf::as_path).chain([own]) {
                let layer =
                    copy_tree(CWD, path, false).map_err(failed(format!("open the layer {path:?}")))?;
                users.shift(layer.as_fd(), false).map_err(failed(shift_text(path)))?;
                move_mount(layer.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                    .map_err(failed(format!("attach the layer {path:?}")))?;
            }
            // overlayfs makes files of its own as whoever mounts it, and that one has to be somebody on these mounts.
            let (uid, gid) = (users.user(0).unwrap_or(0), users.group(0).unwrap_or(0));
            syscall::with_file_ids(uid, gid, || overlay(lower, upper, work))
                .map_err(failed("become the container's root for files"))??
        }
    };
    make_private(mount.as_fd())?;
    Ok(mount)
}

fn shift_text(path: &Path) -> String {
    format!(
        "show the owners of {path:?} as the container has them (its file system may not be able to, or this user may not)"
    )
}

fn make_private(mount: BorrowedFd<'_>) -> Result<(), MountFailure> {
    let attr = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    syscall::mount_setattr(mount, true, &attr).map_err(failed("make the root private"))
}

fn directory(path: &Path) -> Result<OwnedFd, MountFailure> {
    copy_tree(CWD, path, true).map_err(failed(format!("open the root directory {path:?}")))
}

pub(super) fn overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, MountFailure> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("configure an overlay"))?;
    let set = |key: &str, path: &Path| {
        fsconfig_set_string(overlay.as_fd(), key, path)
            .map_err(failed(format!("use {path:?} as {key} of the overlay")))
    };
    set("source", Path::new("overlay"))?;
    view::set_attributes(overlay.as_fd()).map_err(failed("configure an overlay"))?;
    // One at a time (Linux 6.5), else all in one string.
    let single = lower
        .first()
        .is_some_and(|first| fsconfig_set_string(overlay.as_fd(), "lowerdir+", first.as_path()).is_ok());
    if single {
        lower.iter().skip(1).try_for_each(|layer| set("lowerdir+", layer))?;
    } else {
        let joined = lower.iter().map(|layer| layer.to_string_lossy()).collect::<Vec<_>>().join(":");
        set("lowerdir", Path::new(&joined))?;
    }
    set("upperdir", upper)?;
    set("workdir", work)?;
    fsconfig_create(overlay.as_fd()).map_err(failed("make the overlay of the image's layers"))?;
    fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(failed("mount the overlay of the image's layers"))
}

/// Attaches what [`shifted_root`] has made to the working directory.
pub(super) fn attach_root(mount: OwnedFd) -> Result<Root, MountFailure> {
    // Not by a name: the container's root may not look one up there.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), "", CWD, "", flags).map_err(failed("attach the root"))?;
    Ok(Root::new(mount))
}

/// Attaches a detached mount to an opened place.
pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

/// A new file system, mounted detached. The source is what mount tables show for it.
pub(super) fn detached(
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", source)?;
    for (key, value) in data {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context.as_fd(), key.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// A copy of a mount tree, detached.
pub(super) fn copy_tree(from: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(from, path, flags)
}

/// Whether a mount shows something that is there already.
pub(super) fn is_bind(mount: &Mount) -> bool {
    let has = |name: &str| mount.options().iter().flatten().any(|option| option == name);
    (mount.typ().as_deref() == Some("bind") || has("bind") || has("rbind")) && !has("remount")
}

/// Opens what a bind mount is of, with all that its options say, attached nowhere.
pub(super) fn bind_source(mount: &Mount, users: Option<&UserNamespace>) -> Result<OwnedFd, MountFailure> {
    let options = parse(mount.options().as_deref().unwrap_or_default());
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let what = format!("mount {source:?} on {:?} in the container", mount.destination());
    let tree = match &options.subpath {
        None => copy_tree(CWD, source, options.recursive),
        Some(subpath) => open_below(source, subpath)
            .and_then(|part| copy_tree(part.as_fd(), Path::new(""), options.recursive)),
    };
    let tree = tree.map_err(failed(what.clone()))?;
    // Propagation first: it must not reach the host's own mounts.
    let propagation = options.propagation.unwrap_or((libc::MS_PRIVATE, true));
    let attr = MountAttr { propagation: propagation.0, ..MountAttr::default() };
    syscall::mount_setattr(tree.as_fd(), propagation.1, &attr).map_err(failed(what.clone()))?;
    shift(mount, &options, tree.as_fd(), users)?;
    options.apply(tree.as_fd()).map_err(failed(what))?;
    Ok(tree)
}

/// Opens a part of a tree that others may change at the same time: nothing leads out of it.
fn open_below(source: &Path, subpath: &Path) -> Result<OwnedFd, Errno> {
    let root = rustix::fs::open(source, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Owners as the container has them, or as the mount says itself. Source: runtime-spec, config.md, "POSIX-platform Mounts".
fn shift(
    mount: &Mount,
    options: &Options,
    tree: BorrowedFd<'_>,
    users: Option<&UserNamespace>,
) -> Result<(), MountFailure> {
    let Some(recursive) = options.id_mapped.or((mount.uid_mappings().is_some()).then_some(false)) else {
        return Ok(());
    };
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let of_option = options.id_mappings.as_deref().map(|text| {
        mappings_of_option(text).ok_or_else(|| MountFailure {
            what: format!("map the owners of {source:?} by {text:?}, which is not uids=FROM-TO-COUNT;gids=…"),
            errno: Errno::INVAL,
        })
    });
    let of_option = of_option.transpose()?;
    let (users_wanted, groups_wanted) = of_option
        .as_ref()
        .map_or((mount.uid_mappings(), mount.gid_mappings()), |(users, groups)| (users, groups));
    let of_its_own = match (users_wanted, groups_wanted) {
        (None, None) => None,
        (users, groups) => {
            // The one at /proc is of the host.
            let proc = own_proc().map_err(failed("mount a procfs"))?;
            let made = UserNamespace::with_proc(proc.as_fd(), users, groups);
            Some(made.map_err(|error| MountFailure {
                what: format!("map the owners of {source:?}: {error}"),
                errno: error.errno().map_or(Errno::INVAL, Errno::from_raw_os_error),
            })?)
        }
    };
    let users = of_its_own.as_ref().or(users).ok_or_else(|| MountFailure {
        what: format!(
            "map the owners of {source:?}: the container has no user namespace, and the mount no mappings"
        ),
        errno: Errno::INVAL,
    })?;
    users.shift(tree, recursive).map_err(failed(shift_text(source)))
}

/// What a container is to see of the host's cgroups.
pub(super) struct Cgroups<'a> {
    pub hierarchies: &'a [super::cgroup::Hierarchy],
    /// The container's own, below each hierarchy, where it has no cgroup namespace that begins there.
    pub own: Option<&'a Path>,
}

/// Makes one mount of a specification. `bound`: the source of a bind mount, opened before.
pub(super) fn mount(
    root: &Root,
    mount: &Mount,
    of_host: &Cgroups<'_>,
    bound: Option<OwnedFd>,
) -> Result<(), MountFailure> {
    let target = mount.destination();
    let options = parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "none" });
    // One that is not absolute is below the root all the same.
    let target = &Path::new("/").join(target);
    let describe = |source: &str| format!("mount {source} on {target:?} in the container");
    if options.remount {
        return remount(root, target, &options);
    }
    let detached_mount = if let Some(bound) = bound {
        bound
    } else if is_bind(mount) {
        bind_source(mount, None)?
    } else if kind == "cgroup" || kind == "cgroup2" {
        return cgroups::mount(root, target, &options, of_host);
    } else {
        let what = describe(&format!("a {kind}"));
        let source = mount.source().as_deref().and_then(Path::to_str).filter(|source| !source.is_empty());
        let mounted = detached(kind, source.unwrap_or(kind), &options.data, options.set & !RDONLY)
            .map_err(failed(what.clone()))?;
        if options.copy_up
            && let Ok(below) = root.open(target, OFlags::RDONLY | OFlags::DIRECTORY)
        {
            let into = rustix::fs::openat(
                &mounted,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(failed(what.clone()))?;
            copy_content(below.as_fd(), into.as_fd(), 0)
                .map_err(failed(format!("copy the image's content of {target:?} up to the tmpfs on it")))?;
        }
        if options.set & RDONLY != 0 {
            let attr = MountAttr { set: RDONLY, ..MountAttr::default() };
            syscall::mount_setattr(mounted.as_fd(), false, &attr).map_err(failed(what.clone()))?;
        }
        shift(mount, &options, mounted.as_fd(), None)?;
        options.apply_below(mounted.as_fd()).map_err(failed(what.clone()))?;
        if let Some((propagation, recursive)) = options.propagation {
            let attr = MountAttr { propagation, ..MountAttr::default() };
            syscall::mount_setattr(mounted.as_fd(), recursive, &attr).map_err(failed(what))?;
        }
        mounted
    };
    let missing = match file_type(detached_mount.as_fd()) {
        Ok(FileType::Directory) => Missing::Directory,
        Ok(_) => Missing::File,
        Err(errno) => return Err(MountFailure { what: describe("it"), errno }),
    };
    let place = root
        .place(target, missing)
        .map_err(failed(format!("make the mount point {target:?} in the container")))?;
    refuse_proc(place.as_fd(), kind == "proc" && !options.bind, target)?;
    attach(detached_mount.as_fd(), place.as_fd()).map_err(failed(describe(kind)))
}

/// Changes the attributes of a mount that is there.
fn remount(root: &Root, target: &Path, options: &Options) -> Result<(), MountFailure> {
    let what = format!("remount {target:?}");
    let place = root.open(target, OFlags::PATH).map_err(failed(what.clone()))?;
    options.apply(place.as_fd()).map_err(failed(what.clone()))?;
    match options.propagation {
        Some((propagation, recursive)) => {
            let attr = MountAttr { propagation, ..MountAttr::default() };
            syscall::mount_setattr(place.as_fd(), recursive, &attr).map_err(failed(what))
        }
        None => Ok(()),
    }
}

/// Nothing may be mounted over what is in a procfs: the isolation stands on it. Whatever links led there.
fn refuse_proc(place: BorrowedFd<'_>, is_proc: bool, target: &Path) -> Result<(), MountFailure> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let found = rustix::fs::fstatfs(place).map_err(failed(format!("look at {target:?}")))?;
    if found.f_type == PROC_SUPER_MAGIC && !is_proc {
        return Err(MountFailure {
            what: format!("mount on {target:?}, which lies in a procfs"),
            errno: Errno::PERM,
        });
    }
    Ok(())
}

/// Hides a path: a directory under an empty, read-only tmpfs, a file under the container's own /dev/null.
pub(super) fn mask(root: &Root, path: &Path, null: BorrowedFd<'_>) -> Result<(), MountFailure> {
    let what = || format!("hide {path:?}");
    let place = match root.open(path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
        Err(errno) => return Err(MountFailure { what: what(), errno }),
    };
    let cover = if file_type(place.as_fd()).map_err(failed(what()))? == FileType::Directory {
        let data = [("size".to_owned(), Some("0k".to_owned())), ("mode".to_owned(), Some("555".to_owned()))];
        let cover = detached("tmpfs", "tmpfs", &data, NOSUID | NODEV | NOEXEC).map_err(failed(what()))?;
        let attr = MountAttr { set: RDONLY, ..MountAttr::default() };
        syscall::mount_setattr(cover.as_fd(), false, &attr).map_err(failed(what()))?;
        cover
    } else {
        let cover = copy_tree(null, Path::new(""), false).map_err(failed(what()))?;
        freeze(cover.as_fd()).map_err(failed(what()))?;
        cover
    };
    attach(cover.as_fd(), place.as_fd()).map_err(failed(what()))
}

/// Makes a path and what is below it read-only.
pub(super) fn read_only(root: &Root, path: &Path) -> Result<(), MountFailure> {
    let what = || format!("make {path:?} read-only");
    let place = match root.open(path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
        Err(errno) => return Err(MountFailure { what: what(), errno }),
    };
    let copy = copy_tree(place.as_fd(), Path::new(""), true).map_err(failed(what()))?;
    let attr = MountAttr { set: RDONLY | NOSUID | NODEV | NOEXEC, ..MountAttr::default() };
    syscall::mount_setattr(copy.as_fd(), true, &attr).map_err(failed(what()))?;
    attach(copy.as_fd(), place.as_fd()).map_err(failed(what()))
}

/// Gives the container a boot id of its own, as a machine has another one after each boot. The working directory is another
/// one afterwards.
pub(super) fn boot_id(root: &Root) -> Result<(), MountFailure> {
    const NAME: &str = "boot-id";
    let what = || "give the container a boot id".to_owned();
    let place = match root.open(Path::new("/proc/sys/kernel/random/boot_id"), OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(MountFailure { what: what(), errno }),
    };
    let text = std::fs::read("/proc/sys/kernel/random/uuid")
        .map_err(|error| failed(what())(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let memory = detached("tmpfs", "tmpfs", &[], NOSUID | NODEV | NOEXEC).map_err(failed(what()))?;
    // Only what is attached can be copied (before Linux 6.15); nobody looks there yet.
    let directory = root.open(Path::new("/"), OFlags::PATH).map_err(failed(what()))?;
    attach(memory.as_fd(), directory.as_fd()).map_err(failed(what()))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(&memory, NAME, flags, Mode::from_raw_mode(0o444)).map_err(failed(what()))?;
    rustix::io::write(&file, &text).map_err(failed(what()))?;
    let copy = copy_tree(memory.as_fd(), Path::new(NAME), false).map_err(failed(what()))?;
    drop(file);
    freeze(copy.as_fd()).map_err(failed(what()))?;
    rustix::process::fchdir(&memory)
        .and_then(|()| rustix::mount::unmount(".", UnmountFlags::DETACH))
        .map_err(failed(what()))?;
    attach(copy.as_fd(), place.as_fd()).map_err(failed(what()))
}

/// Makes the root itself read-only; what is mounted below stays as it is.
pub(super) fn read_only_root(root: &Root) -> Result<(), MountFailure> {
    freeze(root.as_fd()).map_err(failed("make the root read-only"))
}

/// What a mount on the host is never to do, whatever the container's is: lend rights.
pub(super) fn tame(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = MountAttr { set: NOSUID | NODEV, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    syscall::mount_setattr(mount, false, &attr)
}

/// Makes one mount read-only.
pub(super) fn freeze(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    syscall::mount_setattr(mount, false, &MountAttr { set: RDONLY, ..MountAttr::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_by_whom_they_are_for() {
        let options: Vec<String> = [
            "ro",
            "nosuid",
            "",
            "mode=755",
            "size=1k",
            "newinstance",
            "tmpcopyup",
            "rslave",
            "noatime",
            "rw",
        ]
        .map(str::to_owned)
        .to_vec();
        let parsed = parse(&options);
        assert_eq!(parsed.set, NOSUID | NOATIME, "the last word counts");
        assert_eq!(parsed.propagation, Some((libc::MS_SLAVE, true)));
        assert!(parsed.copy_up && !parsed.bind);
        let keys: Vec<_> = parsed.data.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["mode", "size", "newinstance"]);
    }

    #[test]
    fn mappings_of_an_option_are_read() {
        let options = parse(&["ridmap=uids=0-1000-10#10-2000-5;gids=0-0-1".to_owned()]);
        assert_eq!(options.id_mapped, Some(true));
        let (users, groups) = mappings_of_option(options.id_mappings.as_deref().unwrap()).unwrap();
        let users: Vec<_> =
            users.iter().flatten().map(|one| (one.container_id(), one.host_id(), one.size())).collect();
        assert_eq!((users, groups.map(|groups| groups.len())), (vec![(0, 1000, 10), (10, 2000, 5)], Some(1)));
        for wrong in
            ["", "uids=0-1-1", "uids=0-1-1;gids=0-1", "uids=0-1-1;gids=@0-1-1", "uids=0-1-1;uids=0-1-1"]
        {
            assert!(mappings_of_option(wrong).is_none(), "{wrong}");
        }
    }
}
