//! Who the users of a container are outside of it, where it has a user namespace of its own.
//!
//! Nothing on the disk depends on it: files lie there as the container has them, and are shown to it as its own by mounts
//! alone. So `auto` takes ids at the start, and whatever free ones. A range that is taken is a link `RUN_DIR/users/FIRST` to
//! the container's id: link(2) decides among those who come at once, and what a container has it keeps until it is removed.
//!
//! Ranges are of those that systemd's "Users, Groups, UIDs and GIDs on systemd systems" leaves to containers, without what
//! the host's files give to others.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::identity;
use crate::image::Owners;

use super::spec::{ContainerSpec, IdMapping, UserNamespace};
use super::sweep::entries;
use super::{Container, Engine, EngineError};

/// What a range of its own holds: every id of 16 bits.
pub(super) const RANGE_SIZE: u32 = 1 << 16;
/// From UIDS-GIDS.md of systemd, "Container UIDs".
const POOL_FIRST: u32 = 0x0008_0000;
const POOL_LAST: u32 = 0x6FFF_FFFF;
/// So many ranges are looked at before there is said to be none.
const TRIES: u32 = 4096;

/// The users and groups of a container outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserMap {
    pub users: Vec<IdMapping>,
    pub groups: Vec<IdMapping>,
}

impl UserMap {
    /// As the OCI specification has them.
    pub fn linux(&self) -> (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>) {
        let linux = |mappings: &[IdMapping]| {
            let one = |mapping: &IdMapping| {
                LinuxIdMappingBuilder::default()
                    .container_id(mapping.inside)
                    .host_id(mapping.outside)
                    .size(mapping.count)
                    .build()
                    .ok()
            };
            mappings.iter().filter_map(one).collect()
        };
        (linux(&self.users), linux(&self.groups))
    }

    /// Whether a user of the container is somebody.
    pub fn has_user(&self, inside: u32) -> bool {
        knows(&self.users, inside)
    }

    /// Who a user of the container is outside.
    pub fn user_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.users, inside)
    }

    /// Which group outside one of the container is.
    pub fn group_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.groups, inside)
    }

    /// Whether a group of the container exists.
    pub fn has_group(&self, inside: u32) -> bool {
        knows(&self.groups, inside)
    }
}

fn knows(mappings: &[IdMapping], inside: u32) -> bool {
    outside(mappings, inside).is_some()
}

fn outside(mappings: &[IdMapping], inside: u32) -> Option<u32> {
    mappings.iter().find_map(|one| {
        let step = inside.checked_sub(one.inside).filter(|step| *step < one.count)?;
        Some(one.outside + step)
    })
}

/// The first id of the range that is tried for a container after so many others.
fn slot(id: &str, step: u32) -> u32 {
    let slots = (POOL_LAST - POOL_FIRST) / RANGE_SIZE;
    let seed = id.get(..7).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0);
    POOL_FIRST + (seed.wrapping_add(step) % slots) * RANGE_SIZE
}

impl Engine {
    fn ranges(&self) -> PathBuf {
        self.paths().run_dir.join("users")
    }

    /// The mapping for a start; `None` for who has no user namespace of its own. The caller holds the container's lock.
    pub(super) fn user_map(&self, container: &Container) -> Result<Option<UserMap>, EngineError> {
        match &container.definition.spec.user_namespace {
            UserNamespace::Host => Ok(None),
            UserNamespace::Private { users, groups } => {
                Ok(Some(UserMap { users: users.clone(), groups: groups.clone() }))
            }
            UserNamespace::Auto { size } => {
                let first = self.take_range(&container.row.id)?;
                let all = vec![IdMapping { inside: 0, outside: first, count: size.unwrap_or(RANGE_SIZE) }];
                Ok(Some(UserMap { users: all.clone(), groups: all }))
            }
        }
    }

    /// As [`Self::user_map`], for who only wants to know: a range that no start has taken yet is the one that is tried first.
    pub(super) fn likely_user_map(&self, container: &Container) -> Option<UserMap> {
        match &container.definition.spec.user_namespace {
            UserNamespace::Host => None,
            UserNamespace::Private { users, groups } => {
                Some(UserMap { users: users.clone(), groups: groups.clone() })
            }
            UserNamespace::Auto { size } => {
                let id = &container.row.id;
                let first = self.taken_range(id).unwrap_or_else(|| slot(id, 0));
                let all = vec![IdMapping { inside: 0, outside: first, count: size.unwrap_or(RANGE_SIZE) }];
                Some(UserMap { users: all.clone(), groups: all })
            }
        }
    }

    fn taken_range(&self, id: &str) -> Option<u32> {
        let dir = self.ranges();
        let is_its =
            |name: &String| std::fs::read_link(dir.join(name)).is_ok_and(|owner| owner == Path::new(id));
        // The last one, should there be two.
        if !dir.exists() {
            return None;
        }
        entries(&dir).into_iter().filter(is_its).filter_map(|name| name.parse().ok()).next_back()
    }

    /// The first id of a range that is the container's alone.
    fn take_range(&self, id: &str) -> Result<u32, EngineError> {
        let dir = self.ranges();
        let io = |attempted, path: &Path, error| EngineError::io(attempted, path, error);
        std::fs::create_dir_all(&dir).map_err(|error| io("make directory", &dir, error))?;
        if let Some(first) = self.taken_range(id) {
            return Ok(first);
        }
        let others = ids_of_host();
        let slots = (POOL_LAST - POOL_FIRST) / RANGE_SIZE;
        for step in 0..TRIES.min(slots) {
            let first = slot(id, step);
            let last = first + (RANGE_SIZE - 1);
            if others.iter().any(|(other_first, other_last)| *other_first <= last && first <= *other_last) {
                continue;
            }
            let path = dir.join(first.to_string());
            match std::os::unix::fs::symlink(id, &path) {
                Ok(()) => return Ok(first),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io("make link", &path, error)),
            }
        }
        Err(EngineError::Unsupported {
            feature: "a user namespace".to_owned(),
            reason: "no range of user ids is free on this host; map them yourself".to_owned(),
        })
    }

    /// Gives the range of a container back that is gone, or with `None` those of all that are gone.
    pub(super) fn free_ranges(&self, id: Option<&str>) -> Result<(), EngineError> {
        let dir = self.ranges();
        if !dir.exists() {
            return Ok(());
        }
        for name in entries(&dir) {
            let path = dir.join(&name);
            let Ok(owner) = std::fs::read_link(&path) else { continue };
            let owner = owner.to_string_lossy().into_owned();
            let is_free = match id {
                Some(id) => owner == id,
                None => !self.store()?.has_container(&owner)?,
            };
            if is_free && let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(?path, %error, "cannot give a range of user ids back, left for the next wake");
            }
        }
        Ok(())
    }
}

/// Refuses a user namespace that this user can't make.
pub(super) fn check_on_this_host(spec: &ContainerSpec) -> Result<(), EngineError> {
    if spec.user_namespace == UserNamespace::Host || identity::is_root() {
        return Ok(());
    }
    Err(EngineError::Unsupported {
        feature: "a user namespace of a single container".to_owned(),
        reason: "only root of the host can show layers with other owners; all containers of this service are in one together"
            .to_owned(),
    })
}

/// What is wrong with a user namespace whatever the host is.
pub(super) fn check(spec: &ContainerSpec) -> Result<(), EngineError> {
    use super::spec::{Namespace, Runtime};
    let invalid = |field: &str, reason: String| {
        Err(EngineError::InvalidSpec { field: format!("spec.userNamespace{field}"), reason })
    };
    match &spec.user_namespace {
        UserNamespace::Host => return Ok(()),
        UserNamespace::Auto { size } => {
            if size.is_some_and(|size| !(1..=RANGE_SIZE).contains(&size)) {
                return invalid(".size", format!("it must lie between 1 and {RANGE_SIZE}"));
            }
        }
        UserNamespace::Private { users, groups } => {
            for (field, mappings) in [(".uidMappings", users), (".gidMappings", groups)] {
                if let Err(reason) = check_mappings(mappings) {
                    return invalid(field, reason);
                }
            }
        }
    }
    if spec.runtime != Runtime::Native {
        return invalid(
            "",
            "only the native runtime shows layers with other owners; leave one of them out".to_owned(),
        );
    }
    if spec.pid_namespace != Namespace::Private {
        return invalid(
            "",
            "it needs a private pid namespace too: /proc of another one can't be mounted".to_owned(),
        );
    }
    Ok(())
}

fn check_mappings(mappings: &[IdMapping]) -> Result<(), String> {
    if !mappings.iter().any(|one| one.inside == 0 && one.count > 0) {
        return Err("it must say who the container's root (0) is".to_owned());
    }
    // A limit of the kernel, user_namespaces(7).
    if mappings.len() > 340 {
        return Err("the kernel takes 340 at most".to_owned());
    }
    for (index, one) in mappings.iter().enumerate() {
        let fits = |first: u32| {
            one.count > 0 && first.checked_add(one.count - 1).is_some_and(|last| last < u32::MAX)
        };
        if !fits(one.inside) || !fits(one.outside) {
            return Err(format!("mapping {index} has no ids, or some that do not exist"));
        }
        let overlap = |a: u32, b: u32, other: &IdMapping| {
            a < b.saturating_add(other.count) && b < a.saturating_add(one.count)
        };
        if mappings.iter().take(index).any(|other| {
            overlap(one.inside, other.inside, other) || overlap(one.outside, other.outside, other)
        }) {
            return Err(format!("mapping {index} overlaps another one"));
        }
    }
    Ok(())
}

/// Ids that the host's files give to somebody: first and last.
fn ids_of_host() -> Vec<(u32, u32)> {
    let mut ids = Vec::new();
    for (path, is_range) in
        [("/etc/passwd", false), ("/etc/group", false), ("/etc/subuid", true), ("/etc/subgid", true)]
    {
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
            match (is_range, number(1), number(2)) {
                (true, Some(first), Some(count)) => ids.push((first, first.saturating_add(count))),
                (false, _, Some(id)) => ids.push((id, id)),
                _ => {}
            }
        }
    }
    ids
}

/// Who the users of a running container are outside, as this process sees them.
pub(super) fn owners(leader: i32) -> Owners {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let theirs = namespace(&leader.to_string());
    if theirs.is_none() || theirs == namespace("self") {
        return Owners::default();
    }
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{leader}/{name}")).unwrap_or_default();
    Owners::new(&table("uid_map"), &table("gid_map"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(inside: u32, outside: u32, count: u32) -> IdMapping {
        IdMapping { inside, outside, count }
    }

    #[test]
    fn mappings_that_the_kernel_would_refuse_are_refused_before() {
        for good in [vec![map(0, 100_000, 65_536)], vec![map(0, 1000, 1), map(1, 100_000, 65_535)]] {
            assert_eq!(check_mappings(&good), Ok(()));
        }
        for bad in [
            vec![],
            vec![map(1, 100_000, 10)],
            vec![map(0, 100_000, 0)],
            vec![map(0, u32::MAX - 1, 2)],
            vec![map(0, 100, 10), map(9, 200, 10)],
            vec![map(0, 100, 10), map(10, 105, 10)],
        ] {
            assert!(check_mappings(&bad).is_err(), "{bad:?}");
        }
    }
}
