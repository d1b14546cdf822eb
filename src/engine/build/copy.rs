//! COPY, ADD and WORKDIR: files that come from elsewhere than a command.
//!
//! What is copied goes as a tar stream from one tree into another, both taken to be hostile ([`crate::image::part_tar_as`],
//! [`crate::image::copy_in`]); the other one is an overlay over the stage's layers that nobody else sees. What the cache
//! knows a copy by is the digest of that very stream, with all times left out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::plan::{self, Base};
use super::stage::Working;
use super::trouble::{StepError, refused};
use super::{StepState, paths};
use crate::engine::changes::merged;
use crate::engine::passwd::{self, RootView};
use crate::engine::{EngineError, blocking_failed};
use crate::image::build::patterns::Ignore;
use crate::image::build::{Heredoc, Instruction, Keyword, exec_form, words};
use crate::image::{Digest, Hasher, ImageError, Owners, Rewrite, copy_in, is_tar, part_tar_as};
use crate::runtime::view;

/// What is to be copied, and how.
struct Order {
    from: Option<Base>,
    what: Vec<What>,
    /// Absolute.
    destination: String,
    /// It ends with a slash.
    into_directory: bool,
    /// `None`: as it is where it comes from.
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    exclude: Ignore,
}

enum What {
    Path(String),
    Document { name: String, content: String },
}

/// Something that was found, and is open.
struct Material {
    fd: OwnedFd,
    kind: MaterialKind,
    /// Below its root, for what is left out.
    path: String,
    /// What it is called at the destination, unless that gives it a name.
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MaterialKind {
    /// What is in it is copied.
    Directory,
    /// A file, link or node.
    Single,
    /// A text of the Containerfile.
    Document,
    /// ADD unpacks it.
    Archive,
}

impl Working<'_> {
    pub fn copy(&mut self, instruction: &Instruction) -> Result<StepState, StepError> {
        let order = self.order(instruction)?;
        let created_by = instruction.to_string();
        let how = json!([order.destination, order.into_directory, order.owner, order.mode]);
        let mut keys = Vec::new();
        let layers = match &order.from {
            None => None,
            Some(base) => {
                let layers = self.layers_of(base)?;
                // Without a look at the files: what has the same layers has the same files.
                keys.push(self.key(&json!(["copy-of-layers", created_by, layers, how])));
                Some(layers)
            }
        };
        if let Some(key) = keys.first()
            && let Some(found) = self.cached(key)?
        {
            return Ok(self.done_before(&created_by, found));
        }
        let view = match &layers {
            Some(layers) => Some(merged(&self.build.directories(layers)?)?),
            None => None,
        };
        let root = view.as_ref().map_or(self.build.context.root.as_fd(), AsFd::as_fd);
        let materials = self.materials(instruction, &order, root)?;
        let content = self.content(&order, &materials)?;
        keys.push(self.key(&json!(["copy", how, content])));
        if let Some(found) = self.cached(&keys[keys.len() - 1])? {
            return Ok(self.done_before(&created_by, found));
        }
        self.tell(instruction, StepState::Running);
        let layer =
            self.changed(&created_by, |working, root| working.put(instruction, &order, &materials, root))?;
        self.made(&created_by, keys, layer)
    }

    pub fn change_directory(&mut self, instruction: &Instruction) -> Result<StepState, StepError> {
        let path = self.word(instruction, &instruction.rest)?;
        if path.is_empty() {
            return Err(refused(instruction, "the path is empty"));
        }
        let path = paths::joined(self.draft.workdir(), &path);
        self.draft.config_mut().insert("WorkingDir".to_owned(), json!(path));
        let created_by = instruction.to_string();
        let key = self.key(&json!(["workdir", path]));
        if let Some(found) = self.cached(&key)? {
            return Ok(self.done_before(&created_by, found));
        }
        let lower = merged(&self.build.directories(&self.draft.layers)?)?;
        if paths::is_directory(lower.as_fd(), &path) {
            return self.noted(&created_by);
        }
        let owner = match self.draft.text("User").to_owned() {
            user if user.is_empty() => (0, 0),
            user => self.owner(instruction, &user)?,
        };
        self.tell(instruction, StepState::Running);
        let layer = self.changed(&created_by, |_, root| {
            paths::make_directories(root, &path, owner).map_err(|errno| unusable(instruction, &path, errno))
        })?;
        self.made(&created_by, vec![key], layer)
    }

    /// Has the stage's tree changed by `change`, and makes a layer of that.
    fn changed(
        &mut self,
        attempted: &str,
        change: impl FnOnce(&mut Self, BorrowedFd<'_>) -> Result<(), StepError>,
    ) -> Result<Digest, StepError> {
        let directory = self.build.place.directory()?;
        let (upper, work) = (directory.make("upper", 0o755)?, directory.make("work", 0o700)?);
        let lower = self.build.directories(&self.draft.layers)?;
        let root = view::writable(&lower, &upper, &work)
            .map_err(|errno| EngineError::io("write to", &upper, errno.into()))?;
        change(self, root.as_fd())?;
        drop(root);
        let (upper, lower) = (merged(&[upper])?, merged(&lower)?);
        let rewrite = Rewrite { mtime: self.build.request.timestamp_sec, ..Rewrite::default() };
        let build = self.build;
        let trees = (upper.as_fd(), lower.as_fd());
        Ok(build.engine.import_upper(trees, &[], rewrite, attempted, &build.stop)?.diff_id)
    }

    fn order(&self, instruction: &Instruction) -> Result<Order, StepError> {
        for name in ["parents", "checksum", "keep-git-dir", "unpack"] {
            if instruction.flag(name).is_some() {
                return Err(refused(instruction, format!("--{name} is not possible here")));
            }
        }
        let value = |name: &str| -> Result<Option<String>, StepError> {
            match instruction.flag(name) {
                None => Ok(None),
                Some(flag) => self.word(instruction, flag.value.as_deref().unwrap_or_default()).map(Some),
            }
        };
        let from = value("from")?.map(|name| plan::named(&name, &self.build.plan.stages[..self.index]));
        let (mut what, last) = self.arguments(instruction)?;
        let Some(destination) = last else {
            return Err(refused(instruction, "a source and a destination are wanted"));
        };
        if what.is_empty() {
            return Err(refused(instruction, "the destination is missing"));
        }
        for each in &mut what {
            if let What::Path(path) = each {
                let is_url =
                    ["http://", "https://", "ftp://", "git@"].iter().any(|scheme| path.starts_with(scheme));
                if instruction.keyword == Keyword::Add && is_url {
                    let reason =
                        format!("{path:?}: nothing is downloaded here; use RUN with a program that does");
                    return Err(refused(instruction, reason));
                }
            }
        }
        let owner = match value("chown")? {
            Some(owner) => Some(self.owner(instruction, &owner)?),
            None if from.is_some() => None,
            None => Some((0, 0)),
        };
        let mode = match value("chmod")? {
            None => None,
            Some(mode) => match u32::from_str_radix(&mode, 8) {
                Ok(bits) if bits <= 0o7777 => Some(bits),
                _ => return Err(refused(instruction, format!("--chmod: {mode:?} is not octal, as 755 is"))),
            },
        };
        let mut lines = String::new();
        for flag in instruction.flags.iter().filter(|flag| flag.name == "exclude") {
            lines.push_str(&self.word(instruction, flag.value.as_deref().unwrap_or_default())?);
            lines.push('\n');
        }
        let ends_like_directory = matches!(destination.rsplit('/').next(), Some("" | "." | ".."));
        let several =
            what.len() > 1 || what.iter().any(|each| matches!(each, What::Path(path) if is_pattern(path)));
        Ok(Order {
            from,
            what,
            destination: paths::joined(self.draft.workdir(), &destination),
            into_directory: ends_like_directory || several,
            owner,
            mode,
            exclude: Ignore::parse(&lines),
        })
    }

    /// What is to be copied, and where to.
    fn arguments(&self, instruction: &Instruction) -> Result<(Vec<What>, Option<String>), StepError> {
        let escape = self.build.escape;
        let exec = exec_form(&instruction.rest);
        let is_exec = exec.is_some();
        let mut documents = instruction.heredocs.iter();
        let mut what = Vec::new();
        for word in exec.unwrap_or_else(|| words::split(&instruction.rest, escape)) {
            match documents.as_slice().first() {
                Some(document) if !is_exec && Heredoc::is_announced_by(&word) => {
                    documents.next();
                    let content = match document.expand {
                        false => document.content.clone(),
                        true => {
                            words::expand_document(&document.content, escape, &|name| self.variable(name))
                                .map_err(|error| refused(instruction, error.to_string()))?
                        }
                    };
                    what.push(What::Document { name: document.name.clone(), content });
                }
                _ => what.push(What::Path(self.word(instruction, &word)?)),
            }
        }
        match what.pop() {
            Some(What::Path(destination)) => Ok((what, Some(destination))),
            Some(document) => {
                what.push(document);
                Ok((what, None))
            }
            None => Ok((what, None)),
        }
    }

    /// `user[:group]`, by name as the stage's own files have it, or by number.
    fn owner(&self, instruction: &Instruction, text: &str) -> Result<(u32, u32), StepError> {
        if let Ok(number) = text.parse::<u32>() {
            return Ok((number, number));
        }
        let view = RootView::of(self.build.directories(&self.draft.layers)?);
        match passwd::look_up(&view, text, &[]) {
            Ok(user) => Ok((user.uid, user.gid)),
            Err(EngineError::InvalidSpec { reason, .. }) => Err(refused(instruction, reason)),
            Err(error) => Err(error.into()),
        }
    }

    fn materials(
        &self,
        instruction: &Instruction,
        order: &Order,
        root: BorrowedFd<'_>,
    ) -> Result<Vec<Material>, StepError> {
        let ignore = if order.from.is_none() { Some(&self.build.context.ignore) } else { None };
        let mut materials = Vec::new();
        for what in &order.what {
            let pattern = match what {
                What::Document { name, content } => {
                    let fd = document(content).map_err(|errno| unusable(instruction, name, errno))?;
                    let (kind, path, name) = (MaterialKind::Document, String::new(), name.clone());
                    materials.push(Material { fd, kind, path, name });
                    continue;
                }
                What::Path(pattern) => pattern,
            };
            let before = materials.len();
            let found =
                paths::matching(root, pattern).map_err(|errno| unusable(instruction, pattern, errno))?;
            for path in found {
                if ignore.is_some_and(|ignore| {
                    !path.is_empty() && ignore.leaves_out(&path, paths::is_directory(root, &path))
                }) {
                    continue;
                }
                let fd = match paths::open(root, &path, OFlags::PATH) {
                    Ok(fd) => fd,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(errno) => return Err(unusable(instruction, &path, errno)),
                };
                let kind = match paths::kind(&fd).map_err(|errno| unusable(instruction, &path, errno))? {
                    FileType::Directory => MaterialKind::Directory,
                    FileType::RegularFile if instruction.keyword == Keyword::Add && is_archive(&fd) => {
                        MaterialKind::Archive
                    }
                    _ => MaterialKind::Single,
                };
                let name = path.rsplit('/').next().unwrap_or_default().to_owned();
                materials.push(Material { fd, kind, path, name });
            }
            if materials.len() == before {
                return Err(refused(instruction, self.not_found(order, pattern)));
            }
        }
        Ok(materials)
    }

    fn not_found(&self, order: &Order, pattern: &str) -> String {
        match &order.from {
            None if self.build.context.ignore.is_empty() => {
                format!("there is nothing at {pattern:?} in the context")
            }
            None => {
                format!("there is nothing at {pattern:?} in the context, or the ignore file leaves it out")
            }
            Some(Base::Stage(index)) => {
                let stage = self.build.plan.stages[*index].shown(*index);
                format!("there is nothing at {pattern:?} in the stage {stage}")
            }
            Some(Base::Image(name)) => format!("there is nothing at {pattern:?} in the image {name}"),
            Some(Base::Scratch) => "there is nothing in scratch".to_owned(),
        }
    }

    fn rewrite(order: &Order, material: &Material) -> Rewrite {
        let mode = match material.kind {
            MaterialKind::Document => order.mode.or(Some(0o644)),
            _ => order.mode,
        };
        let owner = match material.kind {
            MaterialKind::Document => order.owner.or(Some((0, 0))),
            _ => order.owner,
        };
        Rewrite { owner, mode, ..Rewrite::default() }
    }

    /// Whether something below a material is left out.
    fn leaves_out(&self, order: &Order, material: &Material, path: &[u8], is_directory: bool) -> bool {
        let below = String::from_utf8_lossy(path);
        let whole =
            if material.path.is_empty() { below.to_string() } else { format!("{}/{below}", material.path) };
        (order.from.is_none() && self.build.context.ignore.leaves_out(&whole, is_directory))
            || order.exclude.leaves_out(&below, is_directory)
            || order.exclude.leaves_out(&whole, is_directory)
    }

    /// The digest of all that is copied, but for its times.
    fn content(&self, order: &Order, materials: &[Material]) -> Result<Value, StepError> {
        let mut digests = Vec::new();
        for material in materials {
            let mut hasher = Hasher::default();
            if material.kind == MaterialKind::Archive {
                std::io::copy(&mut reopened(&material.fd)?, &mut hasher)
                    .map_err(|source| EngineError::io("read", &material.path, source))?;
            } else {
                let rewrite = Rewrite { mtime: Some(0), ..Self::rewrite(order, material) };
                self.write(order, material, b"x", rewrite, &mut hasher)?;
            }
            let is_archive = material.kind == MaterialKind::Archive;
            digests.push(json!([material.name, is_archive, hasher.finish()]));
        }
        Ok(Value::Array(digests))
    }

    fn write(
        &self,
        order: &Order,
        material: &Material,
        name: &[u8],
        rewrite: Rewrite,
        out: impl Write,
    ) -> Result<u64, ImageError> {
        let leave_out = |path: &[u8], is_directory| self.leaves_out(order, material, path, is_directory);
        let name = if material.kind == MaterialKind::Directory { b"" } else { name };
        part_tar_as(material.fd.as_fd(), name, out, &leave_out, rewrite, &self.build.stop, &mut |_| {})
    }

    /// Puts everything into the stage's tree.
    fn put(
        &self,
        instruction: &Instruction,
        order: &Order,
        materials: &[Material],
        root: BorrowedFd<'_>,
    ) -> Result<(), StepError> {
        let destination = order.destination.as_str();
        let is_directory = order.into_directory || paths::is_directory(root, destination);
        let owner = order.owner.unwrap_or((0, 0));
        for material in materials {
            let inside = matches!(material.kind, MaterialKind::Directory | MaterialKind::Archive);
            let (directory, name) = if inside || is_directory {
                (destination, material.name.as_str())
            } else {
                destination.rsplit_once('/').unwrap_or(("", destination))
            };
            if name.contains('/') || name.is_empty() && !inside {
                return Err(refused(instruction, format!("{destination:?} is no name for a file")));
            }
            paths::make_directories(root, directory, owner)
                .map_err(|errno| unusable(instruction, directory, errno))?;
            let place = directory.trim_start_matches('/').as_bytes();
            if material.kind == MaterialKind::Archive {
                copy_in(
                    reopened(&material.fd)?,
                    root,
                    place,
                    &Owners::default(),
                    &self.build.stop,
                    &mut |_| {},
                )?;
                continue;
            }
            let (reader, writer) =
                std::io::pipe().map_err(|source| EngineError::io("make a pipe for", destination, source))?;
            let rewrite = Self::rewrite(order, material);
            std::thread::scope(|scope| {
                let writing = scope.spawn(|| self.write(order, material, name.as_bytes(), rewrite, writer));
                let read = copy_in(reader, root, place, &Owners::default(), &self.build.stop, &mut |_| {});
                match (writing.join(), read) {
                    (Ok(Ok(_)), Ok(_)) => Ok(()),
                    // The writer has only stopped because nobody reads.
                    (Ok(Err(ImageError::Write { .. }) | Ok(_)), Err(error)) => Err(StepError::from(error)),
                    (Ok(Err(error)), _) => Err(StepError::from(error)),
                    (Err(_), _) => Err(blocking_failed("copy").into()),
                }
            })?;
        }
        Ok(())
    }

    /// The layers of a stage that is finished, or an image.
    pub fn layers_of(&self, base: &Base) -> Result<Vec<Digest>, StepError> {
        match base {
            Base::Scratch => Ok(Vec::new()),
            Base::Stage(index) => Ok(self.build.finished(*index)?.draft.layers.clone()),
            Base::Image(name) => Ok(self.build.image(name)?.layers),
        }
    }
}

fn is_pattern(path: &str) -> bool {
    crate::image::build::patterns::is_pattern(path)
}

/// A file without a name that holds a text.
fn document(content: &str) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::memfd_create("document", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(content.as_bytes())
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(file.into())
}

/// The very file that is open by `O_PATH`, to be read.
fn reopened(fd: &OwnedFd) -> Result<File, EngineError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(&path, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| EngineError::io("open", path, errno.into()))
}

/// A tar, plain or compressed. What can't be read now can't be later, and is told then.
fn is_archive(fd: &OwnedFd) -> bool {
    reopened(fd).is_ok_and(|file| is_tar(file.take(1 << 20)))
}

fn unusable(instruction: &Instruction, path: &str, errno: Errno) -> StepError {
    let reason = match errno {
        Errno::NOTDIR => "it, or something on the way, is no directory".to_owned(),
        Errno::LOOP => "links on the way lead in a circle".to_owned(),
        Errno::TOOBIG => "the pattern fits too much".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    };
    refused(instruction, format!("cannot use {path:?}: {reason}"))
}
