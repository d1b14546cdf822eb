//! What is mounted into a container because somebody wants it: what was asked for, what its image wants, and what it takes
//! over from other containers. Which volumes and images these are is decided once, when the container is made.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use serde_json::{Value, json};

use crate::image::{Digest, ImageConfig};
use crate::runtime::SUBPATH_OPTION;
use crate::runtime::overlay::{self, Driver};
use crate::store::Uses;

use super::definition::{MountedImage, normal_path};
use super::launch::without_kernel;
use super::oci::Purpose;
use super::passwd::User;
use super::spec::{ContainerSpec, IdMap, IdRange, Mount, MountKind, Runtime, UserNamespace};
use super::sweep::is_id;
use super::users::UserMap;
use super::volumes::{PendingVolume, ReadyVolumes, Source, VolumeDefinition, check_name};
use super::{Container, Definition, Engine, EngineError};

const FLAGS: &[&str] = &["nosuid", "nodev", "noexec", "noatime", "suid", "dev", "exec"];
/// What the kernel takes, user_namespaces(7).
const ID_RANGES_MAX: usize = 340;
/// Each level of a tree takes a descriptor and a piece of the stack.
const DEPTH_MAX: usize = 256;
/// Of the container's own making, whatever an image wants a volume for.
const RESERVED: &[&str] = &["/proc", "/sys", "/dev"];
/// File systems in memory in systemd mode, which a volume would take the sense of.
const RESERVED_BY_SYSTEMD: &[&str] = &["/run", "/run/lock", "/tmp", "/var/run", "/var/log/journal"];

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.into(), reason: reason.into() }
}

/// What is wrong with the mounts of a specification, whatever the host and the image are.
pub(super) fn check_asked(spec: &ContainerSpec) -> Result<(), EngineError> {
    let mut targets = BTreeSet::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        check_mount(index, mount, &spec.user_namespace)?;
        if !targets.insert(normal_path(&mount.target)) {
            return Err(invalid(
                format!("spec.mounts[{index}].target"),
                format!("two things can't be mounted at {:?}", mount.target),
            ));
        }
    }
    for (index, from) in spec.volumes_from.iter().enumerate() {
        if from.container.is_empty() {
            return Err(invalid(
                format!("spec.volumesFrom[{index}].container"),
                "the other container's name is missing",
            ));
        }
    }
    Ok(())
}

fn check_mount(index: usize, mount: &Mount, users: &UserNamespace) -> Result<(), EngineError> {
    let field = |name: &str| format!("spec.mounts[{index}].{name}");
    check_target(&mount.target).map_err(|reason| invalid(field("target"), reason))?;
    match &mount.kind {
        MountKind::Bind { source, .. } if !source.starts_with('/') || source.contains('\0') => {
            return Err(invalid(field("source"), format!("{source:?} is no absolute path of the host")));
        }
        MountKind::Volume { name: Some(name), .. } if !is_id(name) => check_name(&field("source"), name)?,
        _ => {}
    }
    if let Some(flag) = mount.flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
        return Err(invalid(field("flags"), format!("{flag:?} is none of {}", FLAGS.join(", "))));
    }
    if let MountKind::Tmpfs { .. } = mount.kind
        && let Some(flag) = mount.flags.iter().find(|flag| matches!(flag.as_str(), "suid" | "dev"))
    {
        return Err(invalid(field("flags"), format!("a tmpfs is never mounted with {flag:?}")));
    }
    check_shape(&field, mount)?;
    if let MountKind::Volume { options, .. } = &mount.kind {
        let definition = VolumeDefinition { options: options.clone(), ..VolumeDefinition::default() };
        definition.check().map_err(|error| match error {
            EngineError::InvalidSpec { field: option, reason } => {
                invalid(field(&option.replacen("options", "volumeOptions", 1)), reason)
            }
            error => error,
        })?;
    }
    match &mount.id_map {
        Some(map) if *map != IdMap::default() => {
            check_id_map(map).map_err(|reason| invalid(field("idMap"), reason))
        }
        Some(_) if *users == UserNamespace::Host => Err(invalid(
            field("idMap"),
            "the container has no user namespace, and the mount no ranges of ids",
        )),
        _ => Ok(()),
    }
}

/// An overlay, or a part of a volume.
fn check_shape(field: &dyn Fn(&str) -> String, mount: &Mount) -> Result<(), EngineError> {
    if let Some(subpath) = &mount.subpath {
        let is_below =
            Path::new(subpath).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if subpath.is_empty() || subpath.contains('\0') || !is_below {
            let reason = format!("{subpath:?} is no path below the root of a volume");
            return Err(invalid(field("subpath"), reason));
        }
        if mount.chown {
            return Err(invalid(field("chown"), "a part of a volume can't be given away alone"));
        }
    }
    if !mount.overlay {
        return Ok(());
    }
    if mount.subpath.is_some() {
        return Err(invalid(field("subpath"), "an overlay is of a whole volume"));
    }
    if mount.id_map.is_some() {
        return Err(invalid(field("idMap"), "an overlay shows the owners that are on the disk"));
    }
    Ok(())
}

fn check_target(target: &str) -> Result<(), String> {
    if !target.starts_with('/') {
        return Err(format!("{target:?} is not absolute"));
    }
    let normal = normal_path(target);
    if normal.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("a target with '..' is refused; write the path without it".to_owned());
    }
    if normal == Path::new("/") {
        return Err("the root itself can't be mounted over; use rootfs".to_owned());
    }
    // A volume there would take away what the isolation stands on (CVE-2019-16884).
    if normal.starts_with("/proc") {
        return Err("nothing may be mounted over /proc".to_owned());
    }
    if target.contains('\0') {
        return Err("a path has no NUL byte".to_owned());
    }
    Ok(())
}

fn check_id_map(map: &IdMap) -> Result<(), String> {
    if map.uids.is_empty() != map.gids.is_empty() {
        return Err("users and groups are mapped both, or none of them".to_owned());
    }
    for ranges in [&map.uids, &map.gids] {
        if ranges.len() > ID_RANGES_MAX {
            return Err(format!("the kernel takes at most {ID_RANGES_MAX} ranges"));
        }
        for IdRange { source, target, count } in ranges {
            let fits = |first: &u32| first.checked_add(*count).is_some();
            if *count == 0 || !fits(source) || !fits(target) {
                return Err(format!("{count} ids from {source} as {target} are no range of ids"));
            }
        }
    }
    Ok(())
}

/// Something that is mounted in a container when it runs.
#[derive(Debug, Clone)]
pub struct MountPoint {
    /// What it is.
    pub kind: MountKind,
    /// Of the volume; the id of the image.
    pub name: Option<String>,
    /// On the host, where it is on a path of it.
    pub source: Option<PathBuf>,
    /// In the container.
    pub target: String,
    /// With everything below it.
    pub read_only: bool,
}

/// What a container that is about to be made uses, and the volumes that are made for it.
#[derive(Default)]
pub(super) struct Resolved<'a> {
    pub uses: Uses,
    pub pending: Vec<PendingVolume<'a>>,
    pub warnings: Vec<String>,
}

impl Engine {
    /// Finds out which volumes and images are mounted, and begins to make those volumes that are not there.
    pub(super) fn resolve_mounts(
        &self,
        definition: &mut Definition,
        image: Option<&ImageConfig>,
    ) -> Result<Resolved<'_>, EngineError> {
        let mut resolved = Resolved::default();
        let mut taken: BTreeSet<PathBuf> =
            definition.spec.mounts.iter().map(|mount| normal_path(&mount.target)).collect();
        let mut added = self.mounts_of_others(&definition.spec, &mut taken)?;
        for path in image.iter().flat_map(|image| image.config.volumes.keys()) {
            let normal = normal_path(path);
            let reserved = RESERVED.iter().any(|place| normal.starts_with(place))
                || (definition.systemd && RESERVED_BY_SYSTEMD.iter().any(|place| normal == Path::new(place)));
            if reserved {
                continue;
            }
            if let Err(reason) = check_target(path) {
                resolved
                    .warnings
                    .push(format!("the image wants a volume at {path:?}, and gets none: {reason}"));
                continue;
            }
            let target = normal.to_string_lossy().into_owned();
            if !taken.insert(normal) {
                continue;
            }
            let kind = MountKind::Volume { name: None, copy: true, options: BTreeMap::new() };
            added.push(Mount::new(kind, target, false));
        }
        definition.added_mounts = added;
        let (mut volumes, mut images) = (BTreeMap::new(), BTreeMap::new());
        for mount in definition.spec.mounts.iter().chain(&definition.added_mounts) {
            if mount.subpath.is_some() && definition.spec.runtime != Runtime::Native {
                return Err(EngineError::Unsupported {
                    feature: format!("a part of a volume at {:?}", mount.target),
                    reason: "only the native runtime follows no link out of the volume; use that".to_owned(),
                });
            }
            match &mount.kind {
                MountKind::Volume { name, options, .. } => {
                    let id = self.volume_for(name.as_deref(), options, &mut resolved)?;
                    volumes.insert(mount.target.clone(), id);
                }
                MountKind::Image { image } => {
                    let image = self.find_image(image)?;
                    resolved.uses.images.push(image.row.id.clone());
                    let mounted = MountedImage { id: image.row.id, layers: image.row.layers };
                    images.insert(mount.target.clone(), mounted);
                }
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        definition.volumes = volumes;
        definition.mounted_images = images;
        Ok(resolved)
    }

    fn volume_for<'a>(
        &'a self,
        name: Option<&str>,
        options: &BTreeMap<String, String>,
        resolved: &mut Resolved<'a>,
    ) -> Result<String, EngineError> {
        if let Some(name) = name {
            if let Some(volume) = self.volume_named(name)? {
                resolved.uses.volumes.push(volume.id.clone());
                return Ok(volume.id);
            }
            if let Some(pending) = resolved.pending.iter().find(|pending| pending.row.name == name) {
                return Ok(pending.row.id.clone());
            }
            if is_id(name) {
                return Err(EngineError::VolumeNotFound { volume: name.to_owned() });
            }
        }
        let definition = VolumeDefinition { options: options.clone(), ..VolumeDefinition::default() };
        let pending = self.pending_volume(name.map(str::to_owned), &definition)?;
        let id = pending.row.id.clone();
        resolved.uses.new_volumes.push(pending.row.clone());
        resolved.pending.push(pending);
        Ok(id)
    }

    /// Volumes, binds and images of the containers that this one takes them over from, where it has nothing of its own.
    fn mounts_of_others(
        &self,
        spec: &ContainerSpec,
        taken: &mut BTreeSet<PathBuf>,
    ) -> Result<Vec<Mount>, EngineError> {
        let mut mounts = Vec::new();
        for (index, from) in spec.volumes_from.iter().enumerate() {
            let other = self.find(&from.container).map_err(|error| {
                invalid(format!("spec.volumesFrom[{index}].container"), error.full_text())
            })?;
            for mount in other.definition.mounts() {
                if matches!(mount.kind, MountKind::Tmpfs { .. }) || !taken.insert(normal_path(&mount.target))
                {
                    continue;
                }
                let mut mount = mount.clone();
                mount.read_only |= from.read_only;
                if let MountKind::Volume { name, .. } = &mut mount.kind {
                    *name = other.definition.volumes.get(&mount.target).cloned();
                }
                if let (MountKind::Image { image }, Some(mounted)) =
                    (&mut mount.kind, other.definition.mounted_images.get(&mount.target))
                {
                    image.clone_from(&mounted.id);
                }
                mounts.push(mount);
            }
        }
        Ok(mounts)
    }

    /// What is mounted in a container when it runs, because somebody wants it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn mount_points(&self, container: &Container) -> Result<Vec<MountPoint>, EngineError> {
        let definition = &container.definition;
        let mut points = Vec::new();
        for mount in definition.mounts() {
            let (name, source) = match &mount.kind {
                MountKind::Bind { source, .. } => (None, Some(source.into())),
                MountKind::Tmpfs { .. } => (None, None),
                MountKind::Volume { .. } => {
                    let Some(id) = definition.volumes.get(&mount.target) else { continue };
                    let volume = self.find_volume(id)?;
                    let path = self.volume_path(&volume);
                    (Some(volume.row.name), Some(path))
                }
                MountKind::Image { .. } => {
                    (definition.mounted_images.get(&mount.target).map(|image| image.id.clone()), None)
                }
            };
            points.push(MountPoint {
                kind: mount.kind.clone(),
                name,
                source,
                target: mount.target.clone(),
                read_only: mount.read_only,
            });
        }
        Ok(points)
    }

    /// The mounts of a start, as the runtime's specification has them.
    pub(super) fn mounts_of(
        &self,
        container: &Container,
        volumes: &ReadyVolumes<'_>,
        user: &User,
        users: Option<&UserMap>,
        purpose: Purpose,
    ) -> Result<Vec<Value>, EngineError> {
        let definition = &container.definition;
        let mut all = Vec::new();
        for mount in definition.mounts() {
            let built = match &mount.kind {
                MountKind::Bind { source, propagation, recursive } => {
                    bind_source(definition, mount)?;
                    let source = Source { path: source.into(), flags: Vec::new(), is_ours: false };
                    if purpose == Purpose::Start {
                        give_if_wanted(mount, &source, user, users)?;
                    }
                    match mount.overlay {
                        true => self.overlay_mount(container, mount, &source.path, users, purpose)?,
                        false => bind(mount, &source, propagation, *recursive, users),
                    }
                }
                MountKind::Tmpfs { size_bytes, mode, copy } => tmpfs(mount, *size_bytes, *mode, *copy),
                MountKind::Volume { .. } => {
                    let source = definition.volumes.get(&mount.target).and_then(|id| volumes.source(id));
                    let source = source.ok_or_else(|| EngineError::Failed {
                        attempted: format!("mount a volume at {:?}", mount.target),
                        reason: "the container's record does not say which".to_owned(),
                    })?;
                    if purpose == Purpose::Start {
                        give_if_wanted(mount, source, user, users)?;
                    }
                    match mount.overlay {
                        true => self.overlay_mount(container, mount, &source.path, users, purpose)?,
                        false => bind(mount, source, "rprivate", true, users),
                    }
                }
                MountKind::Image { .. } => self.image_mount(container, mount, users, purpose)?,
            };
            all.push(built);
        }
        Ok(all)
    }

    /// Those mounts at `wanted` targets, for who looks into a container that does not run; with owners as on the disk.
    pub(super) fn mounts_on_disk(
        &self,
        container: &Container,
        volumes: &ReadyVolumes<'_>,
        wanted: &[String],
    ) -> Result<Vec<oci_spec::runtime::Mount>, EngineError> {
        let definition = &container.definition;
        let mut all = Vec::new();
        for mount in definition.mounts().into_iter().filter(|mount| wanted.contains(&mount.target)) {
            // Nobody is given anything, and nobody is kept from writing by what is for the payload.
            let mut mount = Mount { chown: false, id_map: None, ..mount.clone() };
            mount.read_only &= matches!(mount.kind, MountKind::Image { .. });
            let built = match &mount.kind {
                MountKind::Bind { source, recursive, .. } => {
                    let source = Source { path: source.into(), flags: Vec::new(), is_ours: false };
                    bind(&mount, &source, "rprivate", *recursive, None)
                }
                MountKind::Volume { .. } => {
                    let id = definition.volumes.get(&mount.target);
                    let Some(source) = id.and_then(|id| volumes.source(id)) else { continue };
                    bind(&mount, source, "rprivate", true, None)
                }
                MountKind::Image { .. } => self.image_mount(container, &mount, None, Purpose::Start)?,
                MountKind::Tmpfs { .. } => continue,
            };
            all.push(serde_json::from_value(built).map_err(|error| EngineError::Failed {
                attempted: format!("describe what is mounted at {:?}", mount.target),
                reason: error.to_string(),
            })?);
        }
        Ok(all)
    }

    /// The tree of an image: its layers as an overlay of their own. What is written to it lies beside what the container
    /// writes, and goes with it.
    fn image_mount(
        &self,
        container: &Container,
        mount: &Mount,
        users: Option<&UserMap>,
        purpose: Purpose,
    ) -> Result<Value, EngineError> {
        let failed = |reason: &str| EngineError::Failed {
            attempted: format!("mount an image at {:?}", mount.target),
            reason: reason.to_owned(),
        };
        let image = container.definition.mounted_images.get(&mount.target);
        let image = image.ok_or_else(|| failed("the container's record does not say which"))?;
        let layers = image.layers.iter().map(|layer| layer.parse().map_err(super::images::from_image_error));
        let lower = self.directories_of_layers(&layers.collect::<Result<Vec<_>, _>>()?)?;
        let mut options = mount.flags.clone();
        options.push("nodev".to_owned());
        if mount.read_only {
            options.push("ro".to_owned());
            if let [only] = lower.as_slice() {
                options.extend(["bind", "rprivate"].map(str::to_owned));
                // A layer of the container's own image is shown so already, where its root is made.
                let is_own =
                    image.layers.first().is_some_and(|layer| container.definition.layers.contains(layer));
                options.extend(users.filter(|_| !is_own).map(|_| "idmap".to_owned()));
                return Ok(
                    json!({"destination": mount.target, "type": "bind", "source": only, "options": options}),
                );
            }
        }
        if users.is_some() {
            return Err(EngineError::Unsupported {
                feature: format!("mounting an image at {:?}", mount.target),
                reason: "in a user namespace only an image of one layer can be mounted, and read-only"
                    .to_owned(),
            });
        }
        if overlay::driver() == Driver::Fuse {
            return Err(without_kernel("mounting an image of several layers, or to be written to,"));
        }
        let text =
            |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| failed("a path is not UTF-8"));
        for layer in &lower {
            options.push(format!("lowerdir+={}", text(layer)?));
        }
        if !mount.read_only {
            options.extend(writable(&self.own_directory(container, mount, "images"), purpose)?);
        }
        Ok(json!({"destination": mount.target, "type": "overlay", "source": "overlay", "options": options}))
    }

    /// What lies at `lower`, which is only read; what is written is the container's, until its next start.
    fn overlay_mount(
        &self,
        container: &Container,
        mount: &Mount,
        lower: &Path,
        users: Option<&UserMap>,
        purpose: Purpose,
    ) -> Result<Value, EngineError> {
        let unsupported = |reason: &str| EngineError::Unsupported {
            feature: format!("an overlay at {:?}", mount.target),
            reason: reason.to_owned(),
        };
        if users.is_some() {
            return Err(unsupported("in a user namespace the owners of its files would be nobody"));
        }
        if !lower.is_dir() {
            return Err(unsupported(&format!("{lower:?} is no directory")));
        }
        let lower = lower.to_str().ok_or_else(|| unsupported("its path is not UTF-8"))?;
        let own = self.own_directory(container, mount, "overlays");
        if purpose == Purpose::Start {
            super::remove::remove_tree(&own);
        }
        let mut options = mount.flags.clone();
        options.extend(["nosuid", "nodev"].map(str::to_owned));
        options.push(format!("lowerdir+={lower}"));
        options.extend(writable(&own, purpose)?);
        if mount.read_only {
            options.push("ro".to_owned());
        }
        Ok(json!({"destination": mount.target, "type": "overlay", "source": "overlay", "options": options}))
    }

    fn own_directory(&self, container: &Container, mount: &Mount, kind: &str) -> PathBuf {
        let name = Digest::of(mount.target.as_bytes());
        self.paths().container(&container.row.id).join(kind).join(name.hex())
    }
}

/// Makes the directories in which an overlay keeps what is written; its options.
fn writable(own: &Path, purpose: Purpose) -> Result<Vec<String>, EngineError> {
    let make = |(key, name): (&str, &str)| {
        let directory = own.join(name);
        if purpose == Purpose::Start {
            std::fs::create_dir_all(&directory)
                .map_err(|source| EngineError::io("make directory", &directory, source))?;
        }
        let path = directory.to_str().ok_or_else(|| EngineError::Failed {
            attempted: format!("write to {directory:?}"),
            reason: "the path is not UTF-8".to_owned(),
        })?;
        Ok(format!("{key}={path}"))
    };
    [("upperdir", "upper"), ("workdir", "work")].into_iter().map(make).collect()
}

/// Finds sources on the host that are not there.
pub(super) fn check_sources(definition: &Definition) -> Result<(), EngineError> {
    definition.mounts().into_iter().try_for_each(|mount| bind_source(definition, mount))
}

fn bind_source(definition: &Definition, mount: &Mount) -> Result<(), EngineError> {
    if let MountKind::Bind { source, .. } = &mount.kind
        && let Err(error) = std::fs::symlink_metadata(source)
    {
        let reason = format!("cannot bind {source:?}: {error}; make it on the host first");
        let field = match definition.spec.mounts.iter().position(|asked| std::ptr::eq(asked, mount)) {
            Some(index) => format!("spec.mounts[{index}].source"),
            None => "spec.volumesFrom".to_owned(),
        };
        return Err(invalid(field, reason));
    }
    Ok(())
}

fn bind(
    mount: &Mount,
    source: &Source,
    propagation: &str,
    recursive: bool,
    users: Option<&UserMap>,
) -> Value {
    let mut options = source.flags.clone();
    if matches!(mount.kind, MountKind::Volume { .. }) {
        options.extend(["nosuid", "nodev"].map(str::to_owned));
    }
    options.extend(mount.flags.iter().cloned());
    options.extend(mount.subpath.as_ref().map(|subpath| format!("{SUBPATH_OPTION}={subpath}")));
    options.push(if recursive { "rbind" } else { "bind" }.to_owned());
    options.push(propagation.to_owned());
    if mount.read_only {
        options.push(if recursive { "rro" } else { "ro" }.to_owned());
    }
    if is_shifted(mount, source, users) {
        options.push("idmap".to_owned());
    }
    let mut built =
        json!({"destination": mount.target, "type": "bind", "source": source.path, "options": options});
    let mappings = |ranges: &[IdRange]| {
        ranges
            .iter()
            .map(|range| json!({"containerID": range.source, "hostID": range.target, "size": range.count}))
            .collect::<Vec<_>>()
    };
    if let Some(map) = mount.id_map.as_ref().filter(|map| !map.uids.is_empty()) {
        built["uidMappings"] = json!(mappings(&map.uids));
        built["gidMappings"] = json!(mappings(&map.gids));
    }
    built
}

/// Whether owners on the disk are users of the container, whoever they are outside.
fn is_shifted(mount: &Mount, source: &Source, users: Option<&UserMap>) -> bool {
    match &mount.id_map {
        Some(map) => map.uids.is_empty(),
        None => users.is_some() && source.is_ours,
    }
}

/// Gives what is to be mounted to the container's user, if that is asked for.
fn give_if_wanted(
    mount: &Mount,
    source: &Source,
    user: &User,
    users: Option<&UserMap>,
) -> Result<(), EngineError> {
    if !mount.chown {
        return Ok(());
    }
    if is_shifted(mount, source, users) {
        return give_to(&source.path, user.uid, user.gid);
    }
    let outside = match users {
        Some(users) => (users.user_outside(user.uid), users.group_outside(user.gid)),
        None => (Some(user.uid), Some(user.gid)),
    };
    let on_disk = |ranges: &[IdRange], seen: u32| {
        if ranges.is_empty() {
            return Some(seen);
        }
        ranges.iter().find_map(|range| {
            let step = seen.checked_sub(range.target).filter(|step| *step < range.count)?;
            Some(range.source + step)
        })
    };
    let map = mount.id_map.clone().unwrap_or_default();
    let uid = outside.0.and_then(|uid| on_disk(&map.uids, uid));
    let gid = outside.1.and_then(|gid| on_disk(&map.gids, gid));
    match uid.zip(gid) {
        Some((uid, gid)) => give_to(&source.path, uid, gid),
        None => Err(invalid(
            "spec.mounts",
            format!("{:?} can't be given to the container's user, who is nobody there", mount.target),
        )),
    }
}

fn tmpfs(mount: &Mount, size_bytes: Option<u64>, mode: Option<u32>, copy: bool) -> Value {
    let mut options = mount.flags.clone();
    options.extend(["nosuid", "nodev"].map(str::to_owned));
    if copy {
        options.push("tmpcopyup".to_owned());
    }
    if let Some(size) = size_bytes {
        options.push(format!("size={size}"));
    }
    options.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
    if mount.read_only {
        options.push("ro".to_owned());
    }
    json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// Gives everything in a directory, or one file, to a user, unless its root is that user's already. Nothing is followed.
fn give_to(path: &Path, uid: u32, gid: u32) -> Result<(), EngineError> {
    let failed = |errno: rustix::io::Errno| EngineError::io("give away", path, errno.into());
    let root = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&root).map_err(failed)?;
    if (stat.st_uid, stat.st_gid) == (uid, gid) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        give_below(root.as_fd(), uid, gid, 0).map_err(failed)?;
    }
    // Last: if this is cut short, the next start begins again.
    rustix::fs::chownat(&root, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(failed)
}

fn give_below(directory: BorrowedFd<'_>, uid: Uid, gid: Gid, depth: usize) -> rustix::io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(rustix::io::Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::openat(&opened, name, flags, Mode::empty()) {
            Ok(below) => give_below(below.as_fd(), uid, gid, depth + 1)?,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        match rustix::fs::chownat(&opened, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
