//! Mounts, volumes and secrets of containers, between the wire and the engine.

use crate::engine::spec as engine;
use crate::engine::{Container, Engine, EngineError};

use super::convert::{invalid, number};
use crate::wire::container as wire;

/// What has a meaning only for some kinds of mounts is refused for the others, instead of passed over.
fn refuse_others(index: usize, mount: &wire::MountSpec) -> Result<(), EngineError> {
    use wire::MountSpec_kind::{bind, image, tmpfs, volume};
    let (kind, name) = match &mount.kind {
        bind => (0, "bind"),
        tmpfs => (1, "tmpfs"),
        volume => (2, "volume"),
        image => (3, "image"),
    };
    for (field, given, kinds) in [
        ("source", mount.source.is_some(), [true, false, true, true]),
        ("propagation", mount.propagation.is_some(), [true, false, false, false]),
        ("nonRecursive", mount.nonRecursive.is_some(), [true, false, false, false]),
        ("sizeBytes", mount.sizeBytes.is_some(), [false, true, false, false]),
        ("mode", mount.mode.is_some(), [false, true, false, false]),
        ("noCopy", mount.noCopy.is_some(), [false, true, true, false]),
        ("chown", mount.chown.is_some(), [true, false, true, false]),
        ("overlay", mount.overlay.is_some(), [true, false, true, false]),
        ("subpath", mount.subpath.is_some(), [false, false, true, false]),
        ("volumeOptions", mount.volumeOptions.is_some(), [false, false, true, false]),
        ("idMap", mount.idMap.is_some(), [true, false, true, false]),
    ] {
        if given && !kinds[kind] {
            return Err(invalid(
                format!("spec.mounts[{index}].{field}"),
                format!("it has no meaning for {name}"),
            ));
        }
    }
    Ok(())
}

pub(super) fn mount_from_wire(index: usize, mount: wire::MountSpec) -> Result<engine::Mount, EngineError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    refuse_others(index, &mount)?;
    let missing = |what: &str| invalid(format!("spec.{}", field("source")), format!("{what} is missing"));
    let is_image = mount.kind == wire::MountSpec_kind::image;
    let kind = match mount.kind {
        wire::MountSpec_kind::bind => {
            let source = mount.source.ok_or_else(|| missing("what to bind"))?;
            let propagation = match mount.propagation {
                None | Some(wire::MountSpec_propagation::rprivate) => "rprivate",
                Some(wire::MountSpec_propagation::private) => "private",
                Some(wire::MountSpec_propagation::shared) => "shared",
                Some(wire::MountSpec_propagation::rshared) => "rshared",
                Some(wire::MountSpec_propagation::slave) => "slave",
                Some(wire::MountSpec_propagation::rslave) => "rslave",
            };
            engine::MountKind::Bind {
                source,
                propagation: propagation.to_owned(),
                recursive: !mount.nonRecursive.unwrap_or_default(),
            }
        }
        wire::MountSpec_kind::tmpfs => {
            let mode: Option<u32> = number(&field("mode"), mount.mode)?;
            if mode.is_some_and(|mode| mode > 0o7777) {
                return Err(invalid(
                    format!("spec.{}", field("mode")),
                    "permission bits lie between 0 and 07777 (4095)",
                ));
            }
            engine::MountKind::Tmpfs {
                size_bytes: number(&field("sizeBytes"), mount.sizeBytes)?,
                mode,
                copy: !mount.noCopy.unwrap_or_default(),
            }
        }
        wire::MountSpec_kind::volume => {
            // What the image has at the target belongs at the root of a volume.
            let copy = !mount.noCopy.unwrap_or(mount.subpath.is_some());
            let options = mount.volumeOptions.unwrap_or_default().into_iter().collect();
            engine::MountKind::Volume { name: mount.source, copy, options }
        }
        wire::MountSpec_kind::image => {
            engine::MountKind::Image { image: mount.source.ok_or_else(|| missing("the image"))? }
        }
    };
    let id_map = match mount.idMap {
        None => None,
        Some(map) => Some(engine::IdMap {
            uids: ranges_from_wire(&field("idMap.uids"), map.uids)?,
            gids: ranges_from_wire(&field("idMap.gids"), map.gids)?,
        }),
    };
    Ok(engine::Mount {
        kind,
        target: mount.target,
        read_only: mount.readOnly.unwrap_or(is_image),
        flags: mount.flags.unwrap_or_default(),
        chown: mount.chown.unwrap_or_default(),
        id_map,
        overlay: mount.overlay.unwrap_or_default(),
        subpath: mount.subpath,
    })
}

fn ranges_from_wire(field: &str, ranges: Vec<wire::IdRange>) -> Result<Vec<engine::IdRange>, EngineError> {
    let needed = |name: &str, value: i64| {
        number::<u32>(&format!("{field}.{name}"), Some(value)).map(Option::unwrap_or_default)
    };
    let range = |range: wire::IdRange| {
        Ok(engine::IdRange {
            source: needed("source", range.source)?,
            target: needed("target", range.target)?,
            count: needed("count", range.count)?,
        })
    };
    ranges.into_iter().map(range).collect()
}

pub(super) fn mount_to_wire(mount: engine::Mount) -> wire::MountSpec {
    let mut wire = wire::MountSpec {
        kind: wire::MountSpec_kind::bind,
        source: None,
        target: mount.target,
        readOnly: mount.read_only.then_some(true),
        propagation: None,
        nonRecursive: None,
        sizeBytes: None,
        mode: None,
        flags: if mount.flags.is_empty() { None } else { Some(mount.flags) },
        noCopy: None,
        overlay: mount.overlay.then_some(true),
        subpath: mount.subpath.clone(),
        volumeOptions: None,
        chown: mount.chown.then_some(true),
        idMap: mount.id_map.map(|map| wire::IdMap {
            uids: map.uids.iter().map(range_to_wire).collect(),
            gids: map.gids.iter().map(range_to_wire).collect(),
        }),
    };
    match mount.kind {
        engine::MountKind::Bind { source, propagation, recursive } => {
            wire.source = Some(source);
            wire.nonRecursive = (!recursive).then_some(true);
            wire.propagation = match propagation.as_str() {
                "private" => Some(wire::MountSpec_propagation::private),
                "shared" => Some(wire::MountSpec_propagation::shared),
                "rshared" => Some(wire::MountSpec_propagation::rshared),
                "slave" => Some(wire::MountSpec_propagation::slave),
                "rslave" => Some(wire::MountSpec_propagation::rslave),
                _ => None,
            };
        }
        engine::MountKind::Tmpfs { size_bytes, mode, copy } => {
            wire.noCopy = (!copy).then_some(true);
            wire.kind = wire::MountSpec_kind::tmpfs;
            wire.sizeBytes = size_bytes.and_then(|size| i64::try_from(size).ok());
            wire.mode = mode.map(Into::into);
        }
        engine::MountKind::Volume { name, copy, options } => {
            wire.kind = wire::MountSpec_kind::volume;
            wire.source = name;
            wire.noCopy = (!copy && mount.subpath.is_none()).then_some(true);
            wire.volumeOptions = (!options.is_empty()).then(|| options.into_iter().collect());
        }
        engine::MountKind::Image { image } => {
            wire.kind = wire::MountSpec_kind::image;
            wire.source = Some(image);
            wire.readOnly = (!mount.read_only).then_some(false);
        }
    }
    wire
}

fn range_to_wire(range: &engine::IdRange) -> wire::IdRange {
    wire::IdRange { source: range.source.into(), target: range.target.into(), count: range.count.into() }
}

pub(super) fn volumes_from_from_wire(from: wire::VolumesFrom) -> engine::VolumesFrom {
    engine::VolumesFrom { container: from.container, read_only: from.readOnly.unwrap_or_default() }
}

pub(super) fn volumes_from_to_wire(from: engine::VolumesFrom) -> wire::VolumesFrom {
    wire::VolumesFrom { container: from.container, readOnly: from.read_only.then_some(true) }
}

const SECRET_MODE: u32 = 0o444;

pub(super) fn secret_from_wire(
    index: usize,
    wanted: wire::SecretUse,
) -> Result<engine::SecretUse, EngineError> {
    let field = |name: &str| format!("secrets[{index}].{name}");
    let kind = match wanted.kind {
        None | Some(wire::SecretUse_kind::file) => engine::SecretKind::File {
            target: wanted.target,
            uid: number(&field("uid"), wanted.uid)?.unwrap_or_default(),
            gid: number(&field("gid"), wanted.gid)?.unwrap_or_default(),
            mode: number(&field("mode"), wanted.mode)?.unwrap_or(SECRET_MODE),
        },
        Some(wire::SecretUse_kind::env) => {
            for (name, given) in [("uid", wanted.uid), ("gid", wanted.gid), ("mode", wanted.mode)] {
                if given.is_some() {
                    return Err(invalid(format!("spec.{}", field(name)), "it has no meaning for env"));
                }
            }
            engine::SecretKind::Env { name: wanted.target }
        }
    };
    Ok(engine::SecretUse { secret: wanted.secret, kind })
}

pub(super) fn secret_to_wire(wanted: engine::SecretUse) -> wire::SecretUse {
    let mut wire =
        wire::SecretUse { secret: wanted.secret, kind: None, target: None, uid: None, gid: None, mode: None };
    match wanted.kind {
        engine::SecretKind::File { target, uid, gid, mode } => {
            wire.target = target;
            wire.uid = (uid != 0).then_some(uid.into());
            wire.gid = (gid != 0).then_some(gid.into());
            wire.mode = (mode != SECRET_MODE).then_some(mode.into());
        }
        engine::SecretKind::Env { name } => {
            wire.kind = Some(wire::SecretUse_kind::env);
            wire.target = name;
        }
    }
    wire
}

/// What is mounted in a container when it runs.
pub(super) fn mount_points(
    engine: &Engine,
    container: &Container,
) -> Result<Vec<wire::MountPoint>, EngineError> {
    let points = engine.mount_points(container)?;
    let point = |point: crate::engine::MountPoint| wire::MountPoint {
        kind: match point.kind {
            engine::MountKind::Bind { .. } => wire::MountPoint_kind::bind,
            engine::MountKind::Tmpfs { .. } => wire::MountPoint_kind::tmpfs,
            engine::MountKind::Volume { .. } => wire::MountPoint_kind::volume,
            engine::MountKind::Image { .. } => wire::MountPoint_kind::image,
        },
        name: point.name,
        source: point.source.map(|source| source.to_string_lossy().into_owned()),
        target: point.target,
        readOnly: point.read_only,
    };
    Ok(points.into_iter().map(point).collect())
}
