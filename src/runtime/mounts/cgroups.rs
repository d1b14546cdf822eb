//! The cgroup hierarchies, as a container sees them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{
    ATIME_MASK, Cgroups, MountFailure, NODEV, NOEXEC, NOSUID, Options, RDONLY, attach, copy_tree, detached,
    failed, refuse_proc,
};
use crate::runtime::cgroup::{Hierarchy, Version};
use crate::runtime::root::{Missing, Root};
use crate::runtime::syscall::{self, MountAttr};

/// The host's layout, seen from the container's own cgroup. With `rw`, only what it needs to make cgroups of its own
/// below is writable: the unified hierarchy, and that named `systemd`. The unified one beside others is of use to nobody who
/// can't, and a systemd that is given the other one would take it for its own.
pub(super) fn mount(
    root: &Root,
    target: &Path,
    options: &Options,
    of_host: &Cgroups<'_>,
) -> Result<(), MountFailure> {
    let what = |name: &str| format!("mount the cgroup hierarchy {name} in the container");
    let attributes = (options.set | NOSUID | NODEV | NOEXEC) & !RDONLY;
    let writable = options.set & RDONLY == 0;
    let freeze = |mount: &OwnedFd, what: String| {
        let attr = MountAttr { set: RDONLY, ..MountAttr::default() };
        syscall::mount_setattr(mount.as_fd(), false, &attr).map_err(failed(what))
    };
    let place =
        root.place(target, Missing::Directory).map_err(failed(format!("make the mount point {target:?}")))?;
    refuse_proc(place.as_fd(), false, target)?;
    if let [Hierarchy { version: Version::V2, .. }] = of_host.hierarchies {
        let mount = detached("cgroup2", "cgroup2", &[], attributes).map_err(failed(what("v2")))?;
        if !writable {
            freeze(&mount, what("v2"))?;
        }
        return attach(mount.as_fd(), place.as_fd()).map_err(failed(what("v2")));
    }
    let mode = [("mode".to_owned(), Some("755".to_owned()))];
    let parent = detached("tmpfs", "tmpfs", &mode, attributes)
        .map_err(failed("mount a tmpfs for the cgroup hierarchies"))?;
    attach(parent.as_fd(), place.as_fd()).map_err(failed("mount a tmpfs for the cgroup hierarchies"))?;
    for hierarchy in of_host.hierarchies {
        if hierarchy.version == Version::V2 && !writable {
            continue;
        }
        let name = hierarchy.directory_name();
        rustix::fs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o755))
            .map_err(failed(what(&name)))?;
        let (kind, data) = match hierarchy.version {
            Version::V2 => ("cgroup2", Vec::new()),
            Version::V1 => {
                let mut data: Vec<_> =
                    hierarchy.controllers.iter().map(|name| (name.clone(), None)).collect();
                if let Some(name) = &hierarchy.name {
                    data.push(("none".to_owned(), None));
                    data.push(("name".to_owned(), Some(name.clone())));
                }
                ("cgroup", data)
            }
        };
        let mount = match of_host.own {
            Some(own) => own_part(&hierarchy.mount.join(own), attributes),
            None => detached(kind, kind, &data, attributes),
        };
        let mount = mount.map_err(failed(what(&name)))?;
        let own = hierarchy.version == Version::V2 || hierarchy.name.as_deref() == Some("systemd");
        if !(writable && own) {
            freeze(&mount, what(&name))?;
        }
        let place = rustix::fs::openat(&parent, name.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed(what(&name)))?;
        attach(mount.as_fd(), place.as_fd()).map_err(failed(what(&name)))?;
        // As systemd has them on a host: a link for each of several that are mounted together.
        if hierarchy.controllers.len() > 1 {
            for controller in &hierarchy.controllers {
                let _ = rustix::fs::symlinkat(name.as_str(), &parent, controller.as_str());
            }
        }
    }
    // The tmpfs itself needs no more directories.
    freeze(&parent, "make the cgroup hierarchies' parent read-only".to_owned())
}

/// A part of a hierarchy, in place of a namespace that begins there.
fn own_part(path: &Path, attributes: u64) -> Result<OwnedFd, Errno> {
    let part = copy_tree(CWD, path, false)?;
    let attr = MountAttr {
        set: attributes,
        clear: ATIME_MASK,
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    syscall::mount_setattr(part.as_fd(), false, &attr)?;
    Ok(part)
}
