//! A container's cgroup: made, limited, read, emptied and removed, on every layout that hosts have.
//!
//! One path names the cgroup in all hierarchies: on v2 below `/sys/fs/cgroup`, on hybrid hosts below each v1
//! hierarchy and below the cgroup2 beside them. It is made in *every* mounted hierarchy, also in those whose
//! controllers nobody limits: a cgroup namespace shows a container the host's root in each hierarchy that it
//! did not join. On Linux 6.18 a hierarchy costs about 40 µs to make, 50 µs to join and 35 µs to remove.
//!
//! Joining is done by the new process itself, which writes `0` into the `tasks` file of each v1 hierarchy:
//! moving one thread by `tasks` spares the global lock and the RCU wait that `cgroup.procs` costs (a
//! millisecond and more). The cgroup2 is entered by `CLONE_INTO_CGROUP`, which needs no move at all.
//!
//! Where a cgroup2 is mounted, it kills (`cgroup.kill`) and freezes (`cgroup.freeze`) for the hybrid layout too.

mod create;
mod delegation;
mod devices;
mod devices_bpf;
mod entrance;
mod error;
mod files;
mod hierarchy;
mod limits;
mod oom;
mod processes;
mod remove;
mod tree;
mod update;
mod usage;

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

pub(super) use self::create::PendingCgroup;
pub(super) use self::entrance::Entrance;
pub use self::error::CgroupError;
use self::files::{is_gone, keyed, read, write};
pub use self::hierarchy::Mounted;
pub(super) use self::hierarchy::{Hierarchy, Version};
pub use self::limits::{io_weight, weight_from_shares};
pub use self::oom::OomSignal;
pub use self::usage::{IoUsage, Usage};

/// Which cgroup file systems the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Only cgroup2, at `/sys/fs/cgroup`.
    V2,
    /// v1 hierarchies with the controllers, and a cgroup2 beside them at `/sys/fs/cgroup/unified`.
    Hybrid,
    /// Only v1 hierarchies.
    V1,
}

/// The layout of this host's cgroups.
///
/// # Errors
/// [`CgroupError::NotMounted`] when there is no cgroup file system, [`CgroupError::File`] when the mount table
/// cannot be read.
pub fn layout() -> Result<Layout, CgroupError> {
    Ok(hierarchy::layout_of(Mounted::read()?.hierarchies()))
}

/// The path of no cgroup at all: what is made stays where its maker is, without limits.
pub const NONE: &str = "none";

/// How long [`Cgroup::remove`] and [`Cgroup::freeze`] wait at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// A container's cgroup, in every hierarchy that the host has.
///
/// It is only a name: nothing happens to the cgroup when this is dropped.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
    /// Without the leading slash.
    relative: PathBuf,
    mounted: Mounted,
}

impl Cgroup {
    /// The cgroup of that path (`linux.cgroupsPath`, such as `/dormouse/ID`), which need not exist yet.
    ///
    /// # Errors
    /// [`CgroupError::Path`] for a path that is empty, the root, or has `..` in it;
    /// [`CgroupError::NotMounted`] on a host without cgroups.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        if path == NONE {
            return Self::open_on(&Mounted::none(), path);
        }
        Self::open_on(&Mounted::read()?, path)
    }

    /// As [`Self::open`], where the hierarchies are known.
    ///
    /// # Errors
    /// [`CgroupError::Path`].
    pub fn open_on(mounted: &Mounted, path: &str) -> Result<Self, CgroupError> {
        if path == NONE {
            return Ok(Self { path: path.to_owned(), relative: PathBuf::new(), mounted: Mounted::none() });
        }
        let refused = || CgroupError::Path { path: path.to_owned() };
        let mut relative = PathBuf::new();
        for component in Path::new(path).components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => relative.push(name),
                Component::ParentDir | Component::Prefix(_) => return Err(refused()),
            }
        }
        if relative.as_os_str().is_empty() || path.contains(['\0', '\n', ':']) {
            return Err(refused());
        }
        Ok(Self { path: path.to_owned(), relative, mounted: mounted.clone() })
    }

    /// The path of the cgroup2 that a process is in.
    ///
    /// # Errors
    /// [`CgroupError::File`] where it can't be read, as for a process that has ended; [`CgroupError::NotMounted`] without
    /// cgroup2.
    pub fn path_of(pid: i32) -> Result<String, CgroupError> {
        let table = read(&PathBuf::from(format!("/proc/{pid}/cgroup")))?;
        let line = table.lines().find_map(|line| line.strip_prefix("0::"));
        line.map(str::to_owned).ok_or(CgroupError::NotMounted)
    }

    /// Makes it on the cgroup2 if it is not there, and moves a process into it.
    ///
    /// # Errors
    /// [`CgroupError::File`]; [`CgroupError::NotMounted`] without cgroup2.
    pub fn take_in(&self, pid: i32) -> Result<(), CgroupError> {
        let hierarchy = self.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2);
        let hierarchy = hierarchy.ok_or(CgroupError::NotMounted)?;
        let directory = self.directory(hierarchy);
        create::make_directory(hierarchy, &directory)?;
        write(&directory.join("cgroup.procs"), &pid.to_string())
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The layout of the host that it is on.
    pub fn layout(&self) -> Layout {
        hierarchy::layout_of(self.hierarchies())
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.hierarchies().iter().any(|hierarchy| self.directory(hierarchy).is_dir())
    }

    pub(super) fn hierarchies(&self) -> &[Hierarchy] {
        self.mounted.hierarchies()
    }

    pub(super) fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(&self.relative)
    }

    fn unified(&self) -> Option<PathBuf> {
        self.hierarchies()
            .iter()
            .find(|hierarchy| hierarchy.version == Version::V2)
            .map(|hierarchy| self.directory(hierarchy))
    }

    /// The directory in the v1 hierarchy of a controller.
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies()
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
            .map(|hierarchy| self.directory(hierarchy))
    }

    /// Whether there is one: of [`NONE`] there is not.
    pub fn is_none(&self) -> bool {
        self.hierarchies().is_empty()
    }

    /// The hierarchy whose list of processes counts.
    fn primary(&self) -> PathBuf {
        self.unified()
            .or_else(|| self.v1("freezer"))
            .or_else(|| self.hierarchies().first().map(|hierarchy| self.directory(hierarchy)))
            .expect("a cgroup is opened only where a hierarchy is mounted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_no_cgroup_are_refused() {
        for path in ["", "/", "/a/../b", "..", "/a\nb", "slice:prefix:name"] {
            assert!(matches!(Cgroup::open(path), Err(CgroupError::Path { .. })), "{path:?}");
        }
        assert_eq!(Cgroup::open("/dormouse//x").unwrap().relative, Path::new("dormouse/x"));
    }
}
