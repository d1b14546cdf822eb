//! `RUN --mount`: what a command sees beside the image, and what is no part of the layer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde_json::{Value, json};

use super::plan::{self, Base};
use super::stage::Working;
use super::trouble::{StepError, refused};
use super::workplace::{MOUNT, SecretFile, StepDirectory, Workplace};
use super::{Build, paths};
use crate::engine::images::from_image_error;
use crate::engine::spec::{Mount, MountKind};
use crate::engine::{EngineError, blocking_failed};
use crate::image::build::Instruction;
use crate::image::{Digest, Hasher, Owners, Rewrite, copy_in, part_tar_as};
use crate::runtime::view;
use crate::store::{ObjectLock, try_lock_object};

/// A mount as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunMount {
    kind: Kind,
    /// Absolute.
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Bind { from: Option<Base>, source: String, writable: bool },
    Cache { id: String, sharing: Sharing, mode: u32, owner: (u32, u32), read_only: bool },
    Tmpfs { size_bytes: Option<u64> },
    Secret { id: String, required: bool, mode: u32, owner: (u32, u32) },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Shared,
    Private,
    Locked,
}

/// What is ready to be mounted, and is kept as long as the step lasts.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub mounts: Vec<Mount>,
    /// Where (relative) the start makes places for them.
    pub places: Vec<Vec<u8>>,
    _directories: Vec<StepDirectory>,
    _secrets: Vec<SecretFile>,
    _locks: Vec<ObjectLock>,
}

impl Prepared {
    pub fn add(&mut self, mount: Mount) {
        let target = paths::joined("/", &mount.target);
        let ends = target.match_indices('/').map(|(at, _)| at).skip(1).chain([target.len()]);
        for end in ends {
            let place = target.as_bytes()[1..end].to_vec();
            if !self.places.contains(&place) {
                self.places.push(place);
            }
        }
        self.mounts.push(mount);
    }

    fn bind(&mut self, source: String, target: &str, read_only: bool) {
        let kind = MountKind::Bind { source, propagation: "rprivate".to_owned(), recursive: false };
        self.add(Mount::new(kind, target, read_only));
    }

    /// A program that is there as a file. It is gone with what is returned.
    pub fn add_script(
        &mut self,
        place: &Workplace,
        content: &str,
        target: &str,
    ) -> Result<StepDirectory, EngineError> {
        use std::os::unix::fs::PermissionsExt;
        let directory = place.directory()?;
        let path = directory.path.join("script");
        std::fs::write(&path, content)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
            .map_err(|source| EngineError::io("write", &path, source))?;
        self.bind(text(&path)?, target, true);
        Ok(directory)
    }
}

impl Working<'_> {
    /// Reads the options `--mount`.
    pub fn run_mounts(&self, instruction: &Instruction) -> Result<Vec<RunMount>, StepError> {
        let mounts = instruction.flags.iter().filter(|flag| flag.name == "mount");
        mounts.map(|flag| self.run_mount(instruction, flag.value.as_deref().unwrap_or_default())).collect()
    }

    fn run_mount(&self, instruction: &Instruction, given: &str) -> Result<RunMount, StepError> {
        let wrong = |reason: String| refused(instruction, format!("--mount: {reason}"));
        let mut options = Vec::new();
        for option in given.split(',').filter(|option| !option.is_empty()) {
            let (key, value) =
                option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
            let value = match value {
                Some(value) => Some(self.word(instruction, value)?),
                None => None,
            };
            options.push((key.to_ascii_lowercase(), value));
        }
        let get = |names: &[&str]| {
            options
                .iter()
                .rev()
                .find(|(key, _)| names.contains(&key.as_str()))
                .and_then(|(_, value)| value.clone())
        };
        let truth = |names: &[&str]| match options.iter().rev().find(|(key, _)| names.contains(&key.as_str()))
        {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((key, Some(value))) => match value.as_str() {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                other => Err(wrong(format!("{key}={other} is neither true nor false"))),
            },
        };
        let number = |name: &str, default: u32, radix: u32| match get(&[name]) {
            None => Ok(default),
            Some(text) => {
                u32::from_str_radix(&text, radix).map_err(|_| wrong(format!("{name}={text} is no number")))
            }
        };
        let kind = get(&["type"]).unwrap_or_else(|| "bind".to_owned());
        const TARGET: &[&str] = &["target", "dst", "destination"];
        let target = get(TARGET);
        let known: &[&str] = match kind.as_str() {
            "bind" => &["source", "src", "from", "rw", "readwrite", "ro", "readonly"],
            "cache" => &["id", "sharing", "mode", "uid", "gid", "ro", "readonly", "rw", "readwrite"],
            "tmpfs" => &["size"],
            "secret" => &["id", "required", "mode", "uid", "gid"],
            other => return Err(wrong(format!("type={other} is none of bind, cache, tmpfs and secret"))),
        };
        let is_known = |key: &str| key == "type" || TARGET.contains(&key) || known.contains(&key);
        if let Some((key, _)) = options.iter().find(|(key, _)| !is_known(key)) {
            return Err(wrong(format!(
                "type={kind} has no option {key:?}; it has target, {}",
                known.join(", ")
            )));
        }
        let read_only = match truth(&["ro", "readonly"])? {
            Some(read_only) => Some(read_only),
            None => truth(&["rw", "readwrite"])?.map(|writable| !writable),
        };
        let need_target = || target.clone().ok_or_else(|| wrong(format!("type={kind} wants a target=")));
        let owner = || Ok::<_, StepError>((number("uid", 0, 10)?, number("gid", 0, 10)?));
        let (kind, target) = match kind.as_str() {
            "bind" => {
                let from = get(&["from"]);
                let from = from.map(|name| plan::named(&name, &self.build.plan.stages[..self.index]));
                let source = paths::joined("/", &get(&["source", "src"]).unwrap_or_default());
                (Kind::Bind { from, source, writable: read_only == Some(false) }, need_target()?)
            }
            "cache" => {
                let target = need_target()?;
                let sharing = match get(&["sharing"]).as_deref() {
                    None | Some("shared") => Sharing::Shared,
                    Some("private") => Sharing::Private,
                    Some("locked") => Sharing::Locked,
                    Some(other) => {
                        return Err(wrong(format!("sharing={other} is none of shared, private and locked")));
                    }
                };
                let id = get(&["id"]).unwrap_or_else(|| paths::joined("/", &target));
                let (mode, owner) = (number("mode", 0o755, 8)?, owner()?);
                (Kind::Cache { id, sharing, mode, owner, read_only: read_only == Some(true) }, target)
            }
            "tmpfs" => {
                let size_bytes = match get(&["size"]) {
                    None => None,
                    Some(size) => Some(bytes(&size).ok_or_else(|| wrong(format!("size={size} is no size")))?),
                };
                (Kind::Tmpfs { size_bytes }, need_target()?)
            }
            _ => {
                let id = match (get(&["id"]), &target) {
                    (Some(id), _) => id,
                    (None, Some(target)) => target.rsplit('/').next().unwrap_or_default().to_owned(),
                    (None, None) => return Err(wrong("type=secret wants an id=".to_owned())),
                };
                let target = target.unwrap_or_else(|| format!("/run/secrets/{id}"));
                let required = truth(&["required"])?.unwrap_or(false);
                let (mode, owner) = (number("mode", 0o400, 8)?, owner()?);
                (Kind::Secret { id, required, mode, owner }, target)
            }
        };
        let target = paths::joined(self.draft.workdir(), &target);
        if target == "/" || target == "/proc" || target.starts_with("/proc/") {
            return Err(wrong(format!("nothing can be mounted at {target}")));
        }
        Ok(RunMount { kind, target })
    }

    /// What of a mount the layer depends on: what is seen in it, but not what is in caches and secrets.
    pub fn mount_key(&self, instruction: &Instruction, mount: &RunMount) -> Result<Value, StepError> {
        let seen = match &mount.kind {
            Kind::Bind { from: Some(base), .. } => json!(self.layers_of(base)?),
            Kind::Bind { from: None, source, .. } => {
                let fd = self.in_context(instruction, source)?;
                let mut hasher = Hasher::default();
                let ignore = &self.build.context.ignore;
                let top = source.trim_start_matches('/');
                let leave_out = |path: &[u8], is_directory| {
                    let below = String::from_utf8_lossy(path);
                    let whole = if top.is_empty() { below.to_string() } else { format!("{top}/{below}") };
                    ignore.leaves_out(&whole, is_directory)
                };
                let rewrite = Rewrite { owner: Some((0, 0)), mtime: Some(0), ..Rewrite::default() };
                part_tar_as(
                    fd.as_fd(),
                    b"x",
                    &mut hasher,
                    &leave_out,
                    rewrite,
                    &self.build.stop,
                    &mut |_| {},
                )?;
                json!(hasher.finish())
            }
            _ => json!(null),
        };
        Ok(json!([format!("{mount:?}"), seen]))
    }

    fn in_context(&self, instruction: &Instruction, source: &str) -> Result<OwnedFd, StepError> {
        paths::open(self.build.context.root.as_fd(), source, OFlags::PATH).map_err(|errno| {
            let error = std::io::Error::from(errno);
            refused(instruction, format!("--mount: cannot use {source:?} of the context: {error}"))
        })
    }

    pub fn prepare_mount(
        &self,
        instruction: &Instruction,
        mount: &RunMount,
        prepared: &mut Prepared,
    ) -> Result<(), StepError> {
        let build = self.build;
        match &mount.kind {
            Kind::Bind { from, source, writable } => {
                let layers = match from {
                    None => vec![PathBuf::from(format!("/proc/self/fd/{}", build.context.root.as_raw_fd()))],
                    Some(base) => build.directories(&self.layers_of(base)?)?,
                };
                let fd = match (from, writable) {
                    // What lies in the context is seen as it is, unless it is written to.
                    (None, false) => self.in_context(instruction, source)?,
                    _ => {
                        let root = attached_tree(build, &layers, *writable, prepared)?;
                        paths::open(root.as_fd(), source, OFlags::PATH).map_err(|errno| {
                            let error = std::io::Error::from(errno);
                            refused(instruction, format!("--mount: cannot use {source:?}: {error}"))
                        })?
                    }
                };
                let path = attached(build, &fd, prepared)?;
                prepared.bind(text(&path)?, &mount.target, !writable);
            }
            Kind::Cache { id, sharing, mode, owner, read_only } => {
                let path = cache(build, id, *sharing, *mode, *owner, prepared)?;
                prepared.bind(text(&path)?, &mount.target, *read_only);
            }
            Kind::Tmpfs { size_bytes } => {
                let kind = MountKind::Tmpfs { size_bytes: *size_bytes, mode: None, copy: true };
                prepared.add(Mount::new(kind, &mount.target, false));
            }
            Kind::Secret { id, required, mode, owner } => match build.request.secrets.get(id) {
                Some(content) => {
                    let secret = build.place.secret(content, *mode, *owner)?;
                    prepared.bind(text(&secret.path)?, &mount.target, true);
                    prepared._secrets.push(secret);
                }
                None if *required => {
                    return Err(refused(
                        instruction,
                        format!("there is no secret {id:?}; give it as with --secret id={id},src=FILE"),
                    ));
                }
                None => {}
            },
        }
        Ok(())
    }
}

/// Has the very thing that is open as a path of this host, whatever its name leads to by now: a container can't be told of
/// descriptors, and looks paths up in a namespace of its own.
fn attached(build: &Build<'_>, fd: &OwnedFd, prepared: &mut Prepared) -> Result<PathBuf, EngineError> {
    let directory = build.place.directory()?;
    let failed = |errno: Errno| EngineError::io("mount on", directory.path.clone(), errno.into());
    let is_directory = paths::kind(fd).map_err(failed)? == FileType::Directory;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = match open_tree(fd, "", flags) {
        Ok(tree) => {
            let mount = match is_directory {
                true => directory.make(MOUNT, 0o700)?,
                false => {
                    let path = directory.path.join(MOUNT);
                    std::fs::write(&path, "").map_err(|source| EngineError::io("write", &path, source))?;
                    path
                }
            };
            move_mount(tree.as_fd(), "", CWD, &mount, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(failed)?;
            mount
        }
        // It is of another mount namespace than this service, which its client is in. A copy will do.
        Err(Errno::INVAL) => {
            let copies = directory.make("copy", 0o755)?;
            copy(build, fd, &copies)?;
            if is_directory { copies } else { copies.join(COPY) }
        }
        Err(errno) => return Err(failed(errno)),
    };
    prepared._directories.push(directory);
    Ok(mount)
}

/// The name of a file that was copied.
const COPY: &str = "file";

fn copy(build: &Build<'_>, fd: &OwnedFd, to: &Path) -> Result<(), EngineError> {
    let to = open_directory(to)?;
    let (reader, writer) =
        std::io::pipe().map_err(|source| EngineError::io("make a pipe for", COPY, source))?;
    let is_directory = paths::kind(fd).is_ok_and(|kind| kind == FileType::Directory);
    let name: &[u8] = if is_directory { b"" } else { COPY.as_bytes() };
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            part_tar_as(fd.as_fd(), name, writer, &|_, _| false, Rewrite::default(), &build.stop, &mut |_| {})
        });
        let read = copy_in(reader, to.as_fd(), b"", &Owners::default(), &build.stop, &mut |_| {})
            .map_err(from_image_error);
        match writing.join() {
            Ok(Err(error)) if read.is_ok() => Err(from_image_error(error)),
            Ok(_) => read.map(drop),
            Err(_) => Err(blocking_failed("copy")),
        }
    })
}

/// Layers as one tree that can be mounted elsewhere: the kernel (before 6.15) copies no mount that is attached nowhere.
fn attached_tree(
    build: &Build<'_>,
    layers: &[PathBuf],
    writable: bool,
    prepared: &mut Prepared,
) -> Result<OwnedFd, EngineError> {
    let directory = build.place.directory()?;
    let failed = |errno: Errno| EngineError::io("mount on", directory.path.clone(), errno.into());
    let tree = match (writable, layers) {
        (true, _) => {
            let (upper, work) = (directory.make("upper", 0o755)?, directory.make("work", 0o700)?);
            view::writable(layers, &upper, &work).map_err(failed)?
        }
        // No mount, but the layer's directory itself.
        (false, [only]) => return open_directory(only),
        (false, _) => view::merged(layers).map_err(failed)?,
    };
    let mount = directory.make(MOUNT, 0o700)?;
    move_mount(tree.as_fd(), "", CWD, &mount, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed)?;
    let root = open_directory(&mount);
    prepared._directories.push(directory);
    root
}

fn open_directory(path: &Path) -> Result<OwnedFd, EngineError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map_err(|errno| EngineError::io("open", path, errno.into()))
}

/// The directory of a cache, made if there is none yet.
fn cache(
    build: &Build<'_>,
    id: &str,
    sharing: Sharing,
    mode: u32,
    (uid, gid): (u32, u32),
    prepared: &mut Prepared,
) -> Result<PathBuf, EngineError> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let locks = build.engine.paths().locks();
    let mut number = 0;
    let name = loop {
        let name = Digest::of(format!("{id}\0{number}").as_bytes()).hex().to_owned();
        if sharing == Sharing::Shared {
            break name;
        }
        if let Some(lock) = try_lock_object(&locks, &format!("build-cache-{name}"))? {
            prepared._locks.push(lock);
            break name;
        }
        if sharing == Sharing::Private {
            number += 1;
            continue;
        }
        if build.stop.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        std::thread::sleep(super::TICK);
    };
    let path = build.engine.paths().build_caches().join(name);
    let failed = |source| EngineError::io("make directory", path.clone(), source);
    match std::fs::create_dir(&path) {
        Ok(()) => {
            chown(&path, Some(uid), Some(gid)).map_err(failed)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(path)
}

fn text(path: &Path) -> Result<String, EngineError> {
    path.to_str().map(str::to_owned).ok_or_else(|| EngineError::Failed {
        attempted: format!("mount {path:?}"),
        reason: "the path is not UTF-8".to_owned(),
    })
}

/// `64m`, `1g`, `4096`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(lower.len());
    let factor: u64 = match lower[digits..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    lower[..digits].parse::<u64>().ok()?.checked_mul(factor)
}
