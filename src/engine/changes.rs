//! What a container has changed of its image: told, written out, or made an image of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::image::{
    Digest, ImageConfig, ImageError, ImportedLayer, LayerTree, Limits, Process, Reference, Rewrite, TreeKind,
    is_opaque_mark, overlay_attribute, rfc3339, tree_tar, tree_tar_as,
};
use crate::runtime::view;

use super::definition::normal_path;
use super::images::{NewImage, PatientWriter, from_image_error, sink};
use super::{Container, Engine, EngineError, SaveTo, now_usec, secrets};

/// Made by the start of every container as places for mounts; they are no change of the container's doing while empty.
const MOUNT_PLACES: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run",
    "run/.containerenv",
    "etc",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
];

/// How a path differs from the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The image has it not.
    Added,
    /// Its content, its owner, mode or times, or something in it.
    Modified,
    /// Only the image has it.
    Deleted,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute, as seen in the container.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}

/// What is to become an image.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Its name.
    pub image: Option<String>,
    /// What is set here replaces what the container's image says.
    pub config: Process,
    /// Whose work it is.
    pub author: Option<String>,
    /// What to say of it.
    pub comment: Option<String>,
}

impl Engine {
    /// Writes the root file system of a container as a tar: the image's layers with what the container has written, without
    /// what is mounted over it. It may run meanwhile. Blocks the thread. Returns the bytes written.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::InvalidSpec`], [`EngineError::Cancelled`], [`EngineError::Failed`].
    pub fn export(
        &self,
        name: &str,
        to: SaveTo,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, EngineError> {
        let container = self.find(name)?;
        let (root, parts) = match &container.definition.spec.rootfs {
            Some(path) => (merged(std::slice::from_ref(path))?, None),
            None => {
                let upper = [self.upper(&container)?];
                let lower = self.layer_directories(&container.definition)?;
                let root = merged(&[&upper[..], &lower].concat())?;
                (root, Some((merged(&upper)?, merged(&lower)?)))
            }
        };
        let places = places_of(&container);
        let leave_out = |path: &[u8]| {
            parts.as_ref().is_some_and(|(upper, lower)| is_place(upper.as_fd(), lower.as_fd(), path, &places))
        };
        let (file, made) = sink(to)?;
        let out = PatientWriter::new(file, cancelled);
        let written = tree_tar(root.as_fd(), TreeKind::Root, out, &leave_out, cancelled, progress);
        made.finish(written.is_ok());
        written.map_err(|error| match error {
            ImageError::Write { .. } if cancelled.load(Ordering::Relaxed) => EngineError::Cancelled,
            error => from_image_error(error),
        })
    }

    /// What a container has added, modified and deleted, sorted by path. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::Unsupported`] for a container that works on a directory of the host.
    pub fn diff(&self, name: &str) -> Result<Vec<Change>, EngineError> {
        let container = self.find(name)?;
        let upper = merged(&[self.upper(&container)?])?;
        let lower = merged(&self.layer_directories(&container.definition)?)?;
        let places = places_of(&container);
        let mut changes = Vec::new();
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            compare(upper.as_fd(), lower.as_fd(), &path, &places, &mut changes, &mut waiting)?;
        }
        changes.sort_by(|one: &Change, other| one.path.cmp(&other.path));
        Ok(changes)
    }

    /// Makes an image of what a container has written, on top of its own. The container may run; what it writes meanwhile
    /// may be in it or not. Blocks the thread. Returns the image's id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::InvalidSpec`], [`EngineError::Unsupported`],
    /// [`EngineError::StorageFull`], [`EngineError::Cancelled`].
    pub fn commit(
        &self,
        name: &str,
        request: CommitRequest,
        cancelled: &AtomicBool,
    ) -> Result<String, EngineError> {
        let image: Option<Reference> = match &request.image {
            Some(image) => Some(image.parse().map_err(|error: ImageError| EngineError::InvalidSpec {
                field: "image".into(),
                reason: error.to_string(),
            })?),
            None => None,
        };
        let container = self.find(name)?;
        let upper = merged(&[self.upper(&container)?])?;
        let lower = merged(&self.layer_directories(&container.definition)?)?;
        let mut config = self.config_of(&container)?;
        let _layers = self.hold_layers(cancelled)?;
        let layer = self.import_upper(
            (upper.as_fd(), lower.as_fd()),
            &places_of(&container),
            Rewrite::default(),
            &format!("commit {name:?}"),
            cancelled,
        )?;
        let now = now_usec();
        let mut layers: Vec<Digest> = Vec::new();
        for digest in &container.definition.layers {
            layers.push(digest.parse().map_err(from_image_error)?);
        }
        layers.push(layer.diff_id);
        change_config(&mut config, &request, &layers, now);
        let loaded = self.record_image(
            "commit",
            NewImage {
                names: image.iter().map(ToString::to_string).collect(),
                config: config.to_string().into_bytes(),
                layers,
                manifest: None,
                digests: Vec::new(),
            },
        )?;
        Ok(loaded.id)
    }

    /// Makes a layer of an upper directory, and records it. `places` are paths (relative) that were made for mounts, beside
    /// those that every start makes. The caller holds the layers.
    pub(super) fn import_upper(
        &self,
        (upper, lower): (BorrowedFd<'_>, BorrowedFd<'_>),
        places: &[Vec<u8>],
        rewrite: Rewrite,
        attempted: &str,
        cancelled: &AtomicBool,
    ) -> Result<ImportedLayer, EngineError> {
        let leave_out = |path: &[u8]| is_place(upper, lower, path, places);
        let tree = LayerTree { kind: TreeKind::Upper, rewrite, deleted: &|_| Vec::new() };
        self.import_tree(attempted, cancelled, |out| {
            tree_tar_as(upper, tree, out, &leave_out, cancelled, &mut |_| {})
        })
    }

    /// Makes a layer of a tar that is written meanwhile, and records it: the same path as for every other layer.
    pub(super) fn import_tree(
        &self,
        attempted: &str,
        cancelled: &AtomicBool,
        write: impl FnOnce(std::io::PipeWriter) -> Result<u64, ImageError>,
    ) -> Result<ImportedLayer, EngineError> {
        let (reader, writer) =
            std::io::pipe().map_err(|source| EngineError::io("make a pipe for", attempted, source))?;
        let store = self.layers()?;
        let (layer, written) = std::thread::scope(|scope| {
            let importing = scope.spawn(|| {
                store.import(reader, &Limits::default(), &mut |_| {}, cancelled).map_err(from_image_error)
            });
            // Here, where it need not be sent to another thread.
            let written = write(writer);
            (importing.join(), written)
        });
        let failed =
            |reason: &str| EngineError::Failed { attempted: attempted.to_owned(), reason: reason.to_owned() };
        let layer = layer.map_err(|_| failed("the reader of the layer has failed"))?;
        // If both have failed, the reader's trouble is the cause, unless the writer just stopped in the middle.
        match written {
            Ok(_) => {}
            Err(ImageError::Write { .. }) if layer.is_err() => {}
            Err(error) => return Err(from_image_error(error)),
        }
        let layer = layer?;
        let size_bytes = i64::try_from(layer.size_bytes).unwrap_or(i64::MAX);
        self.store()?.record_layer(layer.diff_id.as_str(), size_bytes, now_usec())?;
        Ok(layer)
    }

    fn upper(&self, container: &Container) -> Result<PathBuf, EngineError> {
        if container.definition.spec.rootfs.is_some() {
            return Err(EngineError::Unsupported {
                feature: "telling the changes of a container without an image".into(),
                reason: "it works on a directory of the host".into(),
            });
        }
        Ok(self.paths().container(&container.row.id).join("upper"))
    }

    /// The configuration of a container's image, with all that it holds.
    fn config_of(&self, container: &Container) -> Result<Value, EngineError> {
        let damaged = |reason: String| EngineError::Failed {
            attempted: format!("read the image of {:?}", container.row.name),
            reason,
        };
        let id = container.row.image_id.as_deref().unwrap_or_default();
        let row = self.store()?.image(id)?.ok_or_else(|| damaged("it is gone".to_owned()))?;
        serde_json::from_str(&row.config).map_err(|error| damaged(error.to_string()))
    }
}

fn change_config(config: &mut Value, request: &CommitRequest, layers: &[Digest], now: i64) {
    let created = rfc3339(u64::try_from(now).unwrap_or_default());
    let set = serde_json::to_value(&request.config).unwrap_or_default();
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    for (key, value) in set.as_object().into_iter().flatten() {
        match (key.as_str(), config["config"].get_mut(key)) {
            // These add to what there is.
            ("Labels" | "ExposedPorts" | "Volumes", Some(Value::Object(known))) => {
                known.extend(value.as_object().cloned().unwrap_or_default());
            }
            ("Env", Some(Value::Array(known))) => {
                let added = value.as_array().cloned().unwrap_or_default();
                let name =
                    |pair: &Value| pair.as_str().and_then(|pair| pair.split('=').next().map(str::to_owned));
                known.retain(|pair| !added.iter().any(|new| name(new) == name(pair)));
                known.extend(added);
            }
            _ => config["config"][key] = value.clone(),
        }
    }
    // History without the steps of layers makes others take the wrong layer for a step.
    let mut history = config["history"].as_array().cloned().unwrap_or_default();
    let with_layers = history.iter().filter(|step| step["empty_layer"] != json!(true)).count();
    history.extend((with_layers..layers.len() - 1).map(|_| json!({"comment": "not told"})));
    let mut step = json!({"created": created, "created_by": "dormouse commit"});
    for (key, text) in [("author", &request.author), ("comment", &request.comment)] {
        if let Some(text) = text {
            step[key] = json!(text);
        }
    }
    history.push(step);
    config["history"] = json!(history);
    config["created"] = json!(created);
    if let Some(author) = &request.author {
        config["author"] = json!(author);
    }
    config["rootfs"] = json!({"type": "layers", "diff_ids": layers});
    debug_assert!(ImageConfig::from_json(config.to_string().as_bytes()).is_ok());
}

pub(super) fn merged(layers: &[PathBuf]) -> Result<OwnedFd, EngineError> {
    view::merged(layers).map_err(|errno| {
        EngineError::io("look into", layers.first().cloned().unwrap_or_default(), errno.into())
    })
}

fn failed(path: &[u8]) -> impl FnOnce(Errno) -> EngineError {
    let path = PathBuf::from(String::from_utf8_lossy(path).into_owned());
    move |errno| EngineError::io("look into", path, errno.into())
}

/// Compares a directory of the upper tree with the image's.
fn compare(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    path: &[u8],
    places: &[Vec<u8>],
    changes: &mut Vec<Change>,
    waiting: &mut Vec<Vec<u8>>,
) -> Result<(), EngineError> {
    let Some(directory) = open_directory(upper, path).map_err(failed(path))? else { return Ok(()) };
    let lower_directory = open_directory(lower, path).map_err(failed(path))?;
    let mut names = names(&directory).map_err(failed(path))?;
    let listed = names.len();
    names.retain(|name| !is_opaque_mark(name));
    for name in &names {
        let child = [path, b"/", name].concat();
        let Some(now) = look(directory.as_fd(), name).map_err(failed(&child))? else { continue };
        let before = match &lower_directory {
            Some(lower) => look(lower.as_fd(), name).map_err(failed(&child))?,
            None => None,
        };
        let is_directory = FileType::from_raw_mode(now.st_mode) == FileType::Directory;
        let kind = match (is_whiteout(&now), before) {
            (true, Some(_)) => ChangeKind::Deleted,
            // It hides nothing.
            (true, None) => continue,
            (false, Some(_)) => ChangeKind::Modified,
            (false, None) if is_place(upper, lower, &child[1..], places) => continue,
            (false, None) => ChangeKind::Added,
        };
        changes.push(Change { path: String::from_utf8_lossy(&child).into_owned(), kind });
        if is_directory && kind != ChangeKind::Deleted {
            waiting.push(child);
        }
    }
    // An opaque directory hides all of the image's that it has not itself.
    if (names.len() < listed || is_opaque(directory.as_fd()))
        && let Some(lower) = &lower_directory
    {
        for name in self::names(lower).map_err(failed(path))? {
            if !names.contains(&name) {
                let child = [path, b"/", &name].concat();
                let path = String::from_utf8_lossy(&child).into_owned();
                changes.push(Change { path, kind: ChangeKind::Deleted });
            }
        }
    }
    Ok(())
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, overlay_attribute("opaque"), &mut value[..]) == Ok(1) && value == *b"y"
}

/// What starts of a container have made as places for its secrets, and the directories on the way there.
fn places_of(container: &Container) -> Vec<Vec<u8>> {
    let mut places = Vec::new();
    for target in secrets::targets(&container.definition.spec) {
        let normal = normal_path(&target);
        let below_root = normal.strip_prefix("/").unwrap_or(&normal);
        let on_the_way = below_root.ancestors().map(|place| place.as_os_str().as_bytes().to_vec());
        places.extend(on_the_way.filter(|place| !place.is_empty()));
    }
    places
}

/// Whether the start of the container has made this, which is one of those places of every container or one of `more`, and nobody
/// has put anything in.
fn is_place(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>, path: &[u8], more: &[Vec<u8>]) -> bool {
    if !MOUNT_PLACES.iter().any(|place| place.as_bytes() == path) && !more.iter().any(|place| place == path) {
        return false;
    }
    let known = stat_below(lower, path).is_ok_and(|stat| stat.is_some());
    let empty = match stat_below(upper, path) {
        Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            let directory = open_directory(upper, &[b"/", path].concat());
            directory.is_ok_and(|directory| {
                directory.is_some_and(|directory| {
                    names(&directory).is_ok_and(|names| {
                        names.iter().all(|name| is_place(upper, lower, &[path, b"/", name].concat(), more))
                    })
                })
            })
        }
        Ok(Some(stat)) => stat.st_size == 0 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        _ => false,
    };
    !known && empty
}

pub(super) fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn look(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn stat_below(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Option<Stat>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match open_below(root, path, flags)? {
        Some(fd) => rustix::fs::fstat(&fd).map(Some),
        None => Ok(None),
    }
}

/// `path` begins with a slash, or is empty for the root.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_below(root, path.strip_prefix(b"/").unwrap_or(path), flags)
}

fn open_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<Option<OwnedFd>> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}
