//! A new cgroup: its directories, and the controllers that are enabled for it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::XattrFlags;

use super::remove::is_populated;
use super::{Cgroup, CgroupError, Hierarchy, Version, limits, read, write};

/// The mark of a cgroup that was made for one below it, and goes with the last of those.
pub(super) const MADE: &str = "user.dormouse.made";
/// A parent may be removed, empty as it still is, before its child is made. So often that is tried again.
const TRIES: usize = 16;

/// A new cgroup, which is removed again unless [`PendingCgroup::keep`] is called.
#[derive(Debug)]
#[must_use]
pub(in super::super) struct PendingCgroup {
    cgroup: Option<Cgroup>,
}

impl PendingCgroup {
    /// The cgroup, which stays from now on.
    pub fn keep(mut self) -> Cgroup {
        self.cgroup.take().expect("it is taken only here, and this consumes the guard")
    }

    pub fn cgroup(&self) -> &Cgroup {
        self.cgroup.as_ref().expect("it is taken only by `keep`, which consumes the guard")
    }
}

impl Drop for PendingCgroup {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!(path = cgroup.path, %error, "cannot remove the cgroup after a failed start, ignoring");
        }
    }
}

impl Cgroup {
    /// Makes it in every hierarchy and sets the limits.
    pub(in super::super) fn create(
        self,
        resources: Option<&LinuxResources>,
    ) -> Result<PendingCgroup, CgroupError> {
        let wanted = resources.map(limits_wanted).unwrap_or_default();
        let mut made: Vec<PathBuf> = Vec::new();
        let outcome = self.hierarchies().iter().try_for_each(|hierarchy| {
            let directory = self.directory(hierarchy);
            match make_directory(hierarchy, &directory) {
                Ok(true) => made.push(directory.clone()),
                Ok(false) if is_populated(&directory) => return Err(CgroupError::Busy { path: directory }),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
            if hierarchy.version == Version::V2 {
                enable_controllers(hierarchy, &self.relative, &wanted);
            }
            Ok(())
        });
        if let Err(error) = outcome {
            for directory in made {
                if let Err(source) = std::fs::remove_dir(&directory) {
                    tracing::warn!(path = ?directory, error = %source, "cannot undo a cgroup, ignoring");
                }
            }
            return Err(error);
        }
        let pending = PendingCgroup { cgroup: Some(self) };
        if let Some(resources) = resources {
            pending.cgroup().update(resources)?;
        }
        Ok(pending)
    }
}

/// The controllers that a set of limits needs, so that a v2 host gets exactly those enabled for sure.
fn limits_wanted(resources: &LinuxResources) -> Vec<&'static str> {
    let mut wanted: Vec<&'static str> =
        limits::v2(resources).unwrap_or_default().iter().map(|setting| setting.controller).collect();
    wanted.dedup();
    wanted
}

/// Makes the directory and its parents, which are marked; whether it was made, or there already.
pub(super) fn make_directory(hierarchy: &Hierarchy, directory: &Path) -> Result<bool, CgroupError> {
    let failed = |what, source| CgroupError::File { what, path: directory.into(), source };
    let mut tries = TRIES;
    while let Err(error) = std::fs::create_dir(directory) {
        let parent = directory.parent().filter(|parent| parent.starts_with(&hierarchy.mount));
        match (error.kind(), parent) {
            (io::ErrorKind::AlreadyExists, _) => return Ok(false),
            (io::ErrorKind::NotFound, Some(parent)) if tries > 0 => {
                tries -= 1;
                if make_directory(hierarchy, parent)? {
                    // Where marks are not to be had (before Linux 5.7) it is not removed.
                    let _ = rustix::fs::setxattr(parent, MADE, b"1", XattrFlags::empty());
                }
            }
            _ => return Err(failed("create", error)),
        }
    }
    // Every user of the container may look at it, whatever the service's umask.
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755))
        .map_err(|source| failed("open to all users", source))?;
    if hierarchy.version == Version::V1 && hierarchy.controllers.iter().any(|name| name == "cpuset") {
        inherit_cpuset(directory)?;
    }
    Ok(true)
}

/// A v1 cpuset starts empty, and nothing may run in it until it has processors and memory nodes.
fn inherit_cpuset(directory: &Path) -> Result<(), CgroupError> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = read(&directory.join(file))?;
        if own.trim().is_empty() {
            write(&directory.join(file), read(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Enables controllers for the cgroup in all its parents.
///
/// A refusal (a parent with processes of its own, say) is no failure here: a limit that needs the controller
/// will name it, and without such a limit nothing is missed.
fn enable_controllers(hierarchy: &Hierarchy, relative: &Path, wanted: &[&str]) {
    let Ok(available) = read(&hierarchy.mount.join("cgroup.controllers")) else { return };
    let useful = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];
    let controllers: Vec<&str> =
        available.split_whitespace().filter(|name| useful.contains(name) || wanted.contains(name)).collect();
    if controllers.is_empty() {
        return;
    }
    let components: Vec<_> = relative.components().collect();
    // What is above the cgroup that a unit was given is its service manager's to write to.
    let is_unit = |component: &Component<'_>| {
        let name = component.as_os_str().to_string_lossy();
        name.ends_with(".scope") || name.ends_with(".service")
    };
    let ours = components.iter().rposition(is_unit).map_or(0, |unit| unit + 1);
    let mut directory = hierarchy.mount.clone();
    for (depth, component) in components.into_iter().enumerate() {
        let file = directory.join("cgroup.subtree_control");
        directory.push(component);
        if depth < ours {
            continue;
        }
        let enabled = read(&file).unwrap_or_default();
        let enabled: Vec<&str> = enabled.split_whitespace().collect();
        for controller in &controllers {
            if !enabled.contains(controller)
                && let Err(error) = write(&file, &format!("+{controller}"))
            {
                tracing::debug!(path = ?file, controller, %error, "cannot enable a controller, ignoring");
            }
        }
    }
}
