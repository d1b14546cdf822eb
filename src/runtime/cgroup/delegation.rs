//! Cgroups that belong to somebody else than root of the host: given to a container's root, or to the user that this is.

use std::path::Path;

use super::{Cgroup, CgroupError, Hierarchy, Version, is_gone, read, write};

impl Cgroup {
    /// The path of this process's own cgroup, if it is the same in every hierarchy and this user may make others below it.
    ///
    /// # Errors
    /// [`CgroupError::File`]; [`CgroupError::NotMounted`] on a host without cgroups.
    pub fn own_delegated() -> Result<Option<String>, CgroupError> {
        let table = read(Path::new("/proc/self/cgroup"))?;
        let mut paths = table.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let Some(own) = paths.next().filter(|own| *own != "/") else { return Ok(None) };
        let cgroup = Self::open(own)?;
        let is_ours = |hierarchy: &Hierarchy| {
            let directory = cgroup.directory(hierarchy);
            [directory.clone(), directory.join("cgroup.procs")].iter().all(|path| {
                let access = rustix::fs::Access::WRITE_OK;
                rustix::fs::accessat(rustix::fs::CWD, path, access, rustix::fs::AtFlags::EACCESS).is_ok()
            })
        };
        let all_ours = paths.all(|path| path == own) && cgroup.hierarchies().iter().all(is_ours);
        Ok(all_ours.then(|| own.to_owned()))
    }

    /// Whether this user may make it: in every hierarchy, what of its path is there can be written to.
    pub fn can_be_made(&self) -> bool {
        self.hierarchies().iter().all(|hierarchy| {
            let directory = self.directory(hierarchy);
            let there = directory.ancestors().find(|path| path.is_dir()).unwrap_or(&hierarchy.mount);
            let access = rustix::fs::Access::WRITE_OK;
            rustix::fs::accessat(rustix::fs::CWD, there, access, rustix::fs::AtFlags::EACCESS).is_ok()
        })
    }

    /// Bounds how many cgroups there can be below it on v2. Who can't write to it can't change that.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn bound_descendants(&self, most: u32) -> Result<(), CgroupError> {
        match self.unified() {
            Some(directory) => write(&directory.join("cgroup.max.descendants"), &most.to_string()),
            None => Ok(()),
        }
    }

    /// Lets another user make cgroups below it, as the root of a container with a user namespace may: on v2 the files that the
    /// kernel says, and in the hierarchy that systemd uses on v1.
    ///
    /// Source: runtime-spec, config-linux, "Cgroup ownership"; systemd's CGROUP_DELEGATION.md.
    pub(in super::super) fn give_to(&self, uid: u32, gid: u32) -> Result<(), CgroupError> {
        const V1_FILES: &str = "cgroup.procs\ntasks\ncgroup.clone_children\n";
        for hierarchy in self.hierarchies() {
            let directory = self.directory(hierarchy);
            let files = match hierarchy.version {
                Version::V2 => std::fs::read_to_string("/sys/kernel/cgroup/delegate")
                    .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned()),
                Version::V1 if hierarchy.name.as_deref() == Some("systemd") => V1_FILES.to_owned(),
                Version::V1 => continue,
            };
            for path in
                std::iter::once(directory.clone()).chain(files.lines().map(|name| directory.join(name)))
            {
                match std::os::unix::fs::chown(&path, Some(uid), Some(gid)) {
                    // A controller that is not enabled has no files.
                    Err(error) if is_gone(&error) => {}
                    other => other.map_err(|source| CgroupError::File { what: "give away", path, source })?,
                }
            }
        }
        Ok(())
    }
}
