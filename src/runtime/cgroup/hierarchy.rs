//! Which cgroup hierarchies the host has mounted, and where.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CgroupError, Layout};

/// The version of a hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub version: Version,
    /// Where the host has it mounted.
    pub mount: PathBuf,
    /// v1: its controllers. v2: empty here, `cgroup.controllers` says.
    pub controllers: Vec<String>,
    /// v1: the name of a named hierarchy, such as `systemd`.
    pub name: Option<String>,
}

impl Hierarchy {
    /// The directory's name below `/sys/fs/cgroup`, as it is kept in containers.
    pub fn directory_name(&self) -> String {
        match self.mount.file_name().and_then(|name| name.to_str()) {
            Some(name) => name.to_owned(),
            None => self.controllers.join(","),
        }
    }
}

/// Where there are few mounts, the table is read at once.
const TABLE_BYTES: usize = 8 << 10;

/// The hierarchies of this host. Cheap to clone: whoever looks at many cgroups reads the mount table once.
#[derive(Debug, Clone)]
pub struct Mounted(Arc<[Hierarchy]>);

/// The table that was read last, by which process, and what was found in it.
static LAST: Mutex<Option<(File, u32, Mounted)>> = Mutex::new(None);

impl Mounted {
    /// Reads them from this process's mount table, which takes long; while nothing is mounted, once.
    ///
    /// # Errors
    /// [`CgroupError::NotMounted`] on a host without cgroups; [`CgroupError::File`] when the table can't be read.
    pub fn read() -> Result<Self, CgroupError> {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        // After a fork the table may be another one, and who asks about changes takes the answer away from the other.
        if let Some((table, process, mounted)) = &*last
            && *process == std::process::id()
            && !has_changed(table)
        {
            return Ok(mounted.clone());
        }
        *last = None;
        let path = PathBuf::from("/proc/self/mountinfo");
        let failed = |source| CgroupError::File { what: "read", path: path.clone(), source };
        let mut file = File::open(&path).map_err(failed)?;
        let mut table = String::with_capacity(TABLE_BYTES);
        file.read_to_string(&mut table).map_err(failed)?;
        let hierarchies = parse(&table);
        if hierarchies.is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let mounted = Self(hierarchies.into());
        *last = Some((file, std::process::id(), mounted.clone()));
        Ok(mounted)
    }

    /// As if there were none.
    pub(super) fn none() -> Self {
        Self(Arc::new([]))
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.0
    }
}

/// Whether something was mounted or unmounted since the table was opened or this was asked last.
///
/// Source: proc_pid_mounts(5), which is about the same table.
fn has_changed(table: &File) -> bool {
    let mut asked = [PollFd::new(table, PollFlags::PRI)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut asked, Some(&at_once)), Ok(0))
}

/// The layout that a set of hierarchies makes.
pub(super) fn layout_of(hierarchies: &[Hierarchy]) -> Layout {
    let has = |version| hierarchies.iter().any(|hierarchy| hierarchy.version == version);
    match (has(Version::V1), has(Version::V2)) {
        (false, _) => Layout::V2,
        (true, true) => Layout::Hybrid,
        (true, false) => Layout::V1,
    }
}

/// Options of a v1 mount that are neither controllers nor a name.
const OPTIONS: [&str; 9] =
    ["rw", "ro", "none", "all", "noprefix", "clone_children", "xattr", "favordynmods", "cpuset_v2_mode"];

/// Reads the cgroup mounts out of a `mountinfo` table (proc_pid_mountinfo(5)). The first mount of a hierarchy
/// counts, and only one that shows its root.
fn parse(table: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let Some((mount_part, super_part)) = line.split_once(" - ") else { continue };
        let mut fields = mount_part.split(' ').skip(3);
        let (Some(root), Some(mount)) = (fields.next(), fields.next()) else { continue };
        let mut super_fields = super_part.split(' ');
        let (kind, options) = (super_fields.next().unwrap_or(""), super_fields.nth(1).unwrap_or(""));
        let version = match kind {
            "cgroup2" => Version::V2,
            "cgroup" => Version::V1,
            _ => continue,
        };
        // A root of `/..` marks a mount from outside this process's cgroup namespace: not ours to use.
        if root != "/" {
            continue;
        }
        let (mut controllers, mut name) = (Vec::new(), None);
        if version == Version::V1 {
            for option in options.split(',') {
                if let Some(given) = option.strip_prefix("name=") {
                    name = Some(given.to_owned());
                } else if !OPTIONS.contains(&option) && !option.starts_with("release_agent=") {
                    controllers.push(option.to_owned());
                }
            }
        }
        let hierarchy = Hierarchy { version, mount: unescape(mount), controllers, name };
        let known = found.iter().any(|other| {
            other.version == hierarchy.version
                && other.controllers == hierarchy.controllers
                && other.name == hierarchy.name
        });
        if !known {
            found.push(hierarchy);
        }
    }
    found
}

/// Undoes the octal escapes of a mount table (`\040` for a space).
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(byte) = u8::from_str_radix(digits, 8)
        {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
29 25 0:26 /somewhere /mnt/part rw,relatime - cgroup cgroup rw,memory
30 25 0:23 / /mnt/again\\040here rw,relatime - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn hierarchies_are_read_from_the_mount_table_once_each() {
        let found = parse(HYBRID);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found[0].directory_name(), "cpu,cpuacct");
        assert_eq!(found[1].name.as_deref(), Some("systemd"));
        assert!(found[1].controllers.is_empty());
        assert_eq!(found[2].version, Version::V2);
        assert_eq!(layout_of(&found), Layout::Hybrid);
        assert_eq!(layout_of(&found[..2]), Layout::V1);
        assert_eq!(layout_of(&found[2..]), Layout::V2);
    }

    #[test]
    fn spaces_in_mount_points_are_unescaped() {
        assert_eq!(unescape("/mnt/again\\040here"), PathBuf::from("/mnt/again here"));
        assert_eq!(unescape("/a\\04"), PathBuf::from("/a\\04"));
    }
}
