//! The tree that is being made.
//!
//! Every name is looked up with openat2(2) below the root's descriptor, as if the root were `/`
//! (`RESOLVE_IN_ROOT`), so links of the tree lead where they would inside the container, and never out. The last
//! component is never followed. The tree of a layer is below a 0700 directory: nobody else changes it meanwhile. One that is
//! in use may change at any time; then nothing but the way of looking names up holds, and that suffices: nothing outside
//! the root is reached.
//!
//! Directories are 0700 and root's until [`Tree::finish`] gives them what their entries say, so that nothing in
//! them (a default ACL, a setgid bit, a time) gets in the way of what is made below.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
};

use super::{
    ImageError, Kind, bad,
    metadata::{Metadata, failed},
    shown, split, warn,
};
use crate::image::{
    overlay_attribute,
    record::{Place, Saver, place_of},
    remove::remove_tree_with,
};

/// How often a name is looked up again because something was renamed meanwhile: a container can go on with that for ever.
const TRIES: usize = 64;
/// Directories that are kept open; entries mostly come sorted by directory.
const OPEN_MAX: usize = 64;
/// Bound for what is remembered of directories until the end.
const PENDING_BYTES_MAX: usize = 512 << 20;
const PRIVATE_DIRECTORY: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);

pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// What is there before is somebody's: mounts are entered, directories kept.
    is_in_use: bool,
    open: HashMap<Vec<u8>, Rc<Directory>>,
    pending: BTreeMap<Vec<u8>, Pending>,
    pending_bytes: usize,
    saver: Saver<'a>,
    files: u64,
}

/// An open directory, and its path without links once somebody has asked.
struct Directory {
    fd: OwnedFd,
    place: OnceCell<Option<Vec<u8>>>,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a directory gets in the end.
#[derive(Default)]
struct Pending {
    metadata: Option<Metadata>,
    opaque: bool,
}

impl<'a> Tree<'a> {
    /// What later entries replace, and the tar's record still needs, is kept in a file made in `records`.
    pub(super) fn new(root: BorrowedFd<'a>, records: BorrowedFd<'a>) -> Self {
        Self {
            root,
            is_in_use: false,
            open: HashMap::new(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            saver: Saver::new(records),
            files: 0,
        }
    }

    /// A tree that others use, in which things are put; nothing is kept of what is replaced.
    pub(super) fn in_use(root: BorrowedFd<'a>) -> Self {
        Self { is_in_use: true, ..Self::new(root, root) }
    }

    /// Ends with what was kept of replaced files.
    pub(super) fn into_saver(self) -> Saver<'a> {
        self.saver
    }

    /// Makes a directory, or takes the one that is there.
    pub(super) fn directory(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        entry: &[u8],
    ) -> Result<(), ImageError> {
        let mut opaque = false;
        if !path.is_empty() {
            let (parent_path, name) = split(path);
            let parent = self.parent(parent_path, entry)?;
            match rustix::fs::mkdirat(&*parent, name, PRIVATE_DIRECTORY) {
                Ok(()) => {}
                Err(Errno::EXIST) => match file_type(&parent, name).map_err(failed("look at", entry))? {
                    (FileType::Directory, _) => {}
                    _ if self.is_in_use => {
                        return Err(bad(
                            entry,
                            "it is a directory, and something else is there; remove that first",
                        ));
                    }
                    (kind, device) => {
                        // What a whiteout has hidden must not shine through the directory that replaces it.
                        opaque = kind == FileType::CharacterDevice && device == 0;
                        self.remove_existing(&parent, (parent_path, name), entry)?;
                        rustix::fs::mkdirat(&*parent, name, PRIVATE_DIRECTORY)
                            .map_err(failed("create", entry))?;
                    }
                },
                Err(errno) => return Err(failed("create", entry)(errno)),
            }
        }
        let pending = self.pending(path)?;
        pending.metadata = Some(metadata);
        pending.opaque |= opaque;
        Ok(())
    }

    /// Makes an empty file; one that is there is replaced, not written to. Its place is told if its content is to be
    /// found there again; it can't be if the path is too long.
    pub(super) fn file<'e>(
        &mut self,
        parent_path: &[u8],
        name: &[u8],
        has_content: bool,
        entry: &'e [u8],
    ) -> Result<(NewFile<'e>, Option<Place>), ImageError> {
        let parent = self.parent(parent_path, entry)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(&*parent, name, flags, PRIVATE_FILE);
        let file = self.make(&parent, (parent_path, name), entry, make)?;
        let mut place = None;
        if has_content
            && !self.is_in_use
            && let Some(directory) = parent.place.get_or_init(|| place_of(parent.as_fd(), self.root))
        {
            self.files += 1;
            self.saver.remember(file.as_fd(), self.files).map_err(|source| ImageError::Entry {
                action: "look at",
                entry: shown(entry),
                source,
            })?;
            place = Some(Place { number: self.files, path: joined(directory, name) });
        }
        Ok((NewFile { file, entry }, place))
    }

    pub(super) fn symlink(
        &mut self,
        parent_path: &[u8],
        name: &[u8],
        target: &[u8],
        metadata: &Metadata,
        entry: &[u8],
        warnings: &mut Vec<String>,
    ) -> Result<(), ImageError> {
        let parent = self.parent(parent_path, entry)?;
        self.make(&parent, (parent_path, name), entry, || rustix::fs::symlinkat(target, &*parent, name))?;
        metadata.apply_at(parent.as_fd(), name, false, entry, warnings)
    }

    /// Makes a device or a FIFO.
    #[expect(clippy::too_many_arguments, reason = "one call site, and each is a field of the entry")]
    pub(super) fn node(
        &mut self,
        parent_path: &[u8],
        name: &[u8],
        kind: Kind,
        (major, minor): (u32, u32),
        metadata: &Metadata,
        entry: &[u8],
        warnings: &mut Vec<String>,
    ) -> Result<(), ImageError> {
        let parent = self.parent(parent_path, entry)?;
        let file_type = match kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(major, minor);
        let made = self.make(&parent, (parent_path, name), entry, || {
            rustix::fs::mknodat(&*parent, name, file_type, PRIVATE_FILE, device)
        });
        match made {
            Err(ImageError::Entry { source, .. })
                if source.raw_os_error() == Some(libc::EPERM) && crate::identity::in_user_namespace() =>
            {
                warn(warnings, || {
                    format!("{:?}: only root of the host makes devices, left out", shown(entry))
                });
                return Ok(());
            }
            other => other?,
        }
        metadata.apply_at(parent.as_fd(), name, true, entry, warnings)
    }

    /// Makes another name for what is at `target`, a normalised path; a link at `target` itself is not followed.
    pub(super) fn hard_link(
        &mut self,
        parent_path: &[u8],
        name: &[u8],
        target: &[u8],
        entry: &[u8],
    ) -> Result<(), ImageError> {
        let (target_parent, target_name) = split(target);
        if target_name.is_empty() {
            return Err(bad(entry, "it is a hard link to the root directory"));
        }
        let from = match self.lookup(target_parent) {
            Ok(from) => from,
            Err(errno) => return Err(hard_link_failed(entry, target, errno)),
        };
        let parent = self.parent(parent_path, entry)?;
        let link = || rustix::fs::linkat(&*from, target_name, &*parent, name, AtFlags::empty());
        match link() {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let existing = rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW);
                let wanted = rustix::fs::statat(&*from, target_name, AtFlags::SYMLINK_NOFOLLOW);
                match (existing, wanted) {
                    (Ok(existing), Ok(wanted)) if existing.st_ino == wanted.st_ino => return Ok(()),
                    (_, Err(errno)) => return Err(hard_link_failed(entry, target, errno)),
                    _ => {}
                }
                self.remove_existing(&parent, (parent_path, name), entry)?;
                link().map_err(|errno| hard_link_failed(entry, target, errno))
            }
            Err(errno) => Err(hard_link_failed(entry, target, errno)),
        }
    }

    /// Hides `name` of the layers below, unless this layer itself has it: then only what is below shows not.
    pub(super) fn whiteout(&mut self, parent: &[u8], name: &[u8], entry: &[u8]) -> Result<(), ImageError> {
        let directory = self.parent(parent, entry)?;
        match rustix::fs::mknodat(&*directory, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                if let (FileType::Directory, _) =
                    file_type(&directory, name).map_err(failed("look at", entry))?
                {
                    self.pending(&joined(parent, name))?.opaque = true;
                }
                Ok(())
            }
            Err(errno) => Err(failed("create", entry)(errno)),
        }
    }

    /// Hides everything that the layers below have in a directory.
    pub(super) fn opaque(&mut self, directory: &[u8], entry: &[u8]) -> Result<(), ImageError> {
        self.parent(directory, entry)?;
        self.pending(directory)?.opaque = true;
        Ok(())
    }

    /// Gives the directories their owners, modes, attributes and times.
    pub(super) fn finish(&mut self, warnings: &mut Vec<String>) -> Result<(), ImageError> {
        self.open.clear();
        if !self.is_in_use && self.pending.get(&b""[..]).is_none_or(|root| root.metadata.is_none()) {
            // Many archives have no entry for the root; it is as any other directory that has none.
            let root = rustix::fs::openat(self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
            root.and_then(|root| rustix::fs::fchmod(root, Mode::from_raw_mode(0o755)))
                .map_err(failed("chmod", b"/"))?;
        }
        for (path, pending) in std::mem::take(&mut self.pending) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match self.open_in_root(&path, flags) {
                Ok(directory) => directory,
                // Later entries have moved something else to this place, or to one on the way.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed("open", &path)(errno)),
            };
            if pending.opaque {
                rustix::fs::fsetxattr(&directory, overlay_attribute("opaque"), b"y", XattrFlags::empty())
                    .map_err(failed("set an extended attribute of", &path))?;
            }
            if let Some(metadata) = pending.metadata {
                metadata.apply(directory.as_fd(), &path, warnings)?;
            }
        }
        Ok(())
    }

    /// Makes something that must be new, after removing what is there.
    fn make<T>(
        &mut self,
        parent: &Directory,
        (parent_path, name): (&[u8], &[u8]),
        entry: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, ImageError> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove_existing(parent, (parent_path, name), entry)?;
                make().map_err(failed("create", entry))
            }
            result => result.map_err(failed("create", entry)),
        }
    }

    /// Removes what a later entry of the same name replaces.
    fn remove_existing(
        &mut self,
        parent: &Directory,
        (parent_path, name): (&[u8], &[u8]),
        entry: &[u8],
    ) -> Result<(), ImageError> {
        let (kind, _) = file_type(parent, name).map_err(failed("look at", entry))?;
        if self.is_in_use && kind == FileType::Directory {
            return Err(bad(entry, "a directory is there, and it is none itself; remove that first"));
        }
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            // Open directories may be below it, or have been reached through it.
            self.open.clear();
        }
        if kind == FileType::Directory {
            self.forget(&joined(parent_path, name));
        }
        let saver = &mut self.saver;
        remove_tree_with(parent.as_fd(), OsStr::from_bytes(name), &mut |directory, name| {
            saver.save(directory, name)
        })
        .map_err(|source| ImageError::Entry { action: "replace", entry: shown(entry), source })
    }

    /// Drops what is pending for a directory that goes, and for those below it.
    fn forget(&mut self, path: &[u8]) {
        self.pending.remove(path);
        // '0' is the byte after '/'.
        let (begin, end) = ([path, b"/"].concat(), [path, b"0"].concat());
        let below: Vec<_> = self.pending.range(begin..end).map(|(key, _)| key.clone()).collect();
        for key in below {
            self.pending.remove(&key);
        }
    }

    /// Returns the directory that an entry is made in, making it (0755, root's) if the archive has no entry for it.
    fn parent(&mut self, path: &[u8], entry: &[u8]) -> Result<Rc<Directory>, ImageError> {
        match self.lookup(path) {
            Err(Errno::NOENT) => {}
            result => return result.map_err(failed("open the directory of", entry)),
        }
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let ancestor = &path[..end];
            match self.lookup(ancestor) {
                Err(Errno::NOENT) => {}
                Ok(_) => continue,
                Err(errno) => return Err(failed("open the directory of", entry)(errno)),
            }
            let (above, name) = split(ancestor);
            let above = self.lookup(above).map_err(failed("open the directory of", entry))?;
            match rustix::fs::mkdirat(&*above, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    return Err(bad(entry, "a directory on its way is a symbolic link to nothing"));
                }
                Err(errno) => return Err(failed("create the directory of", entry)(errno)),
            }
        }
        self.lookup(path).map_err(failed("open the directory of", entry))
    }

    /// Opens a directory below the root, only as a place to look names up in.
    fn lookup(&mut self, path: &[u8]) -> rustix::io::Result<Rc<Directory>> {
        if let Some(directory) = self.open.get(path) {
            return Ok(Rc::clone(directory));
        }
        let fd = self.open_in_root(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        let directory = Rc::new(Directory { fd, place: OnceCell::new() });
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), Rc::clone(&directory));
        Ok(directory)
    }

    fn open_in_root(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if !self.is_in_use {
            resolve |= ResolveFlags::NO_XDEV;
        }
        for _ in 0..TRIES {
            match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                // Something was renamed anywhere on the machine while `..` of a link was looked up.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    fn pending(&mut self, path: &[u8]) -> Result<&mut Pending, ImageError> {
        if !self.pending.contains_key(path) {
            self.pending_bytes += path.len() + 256;
            if self.pending_bytes > PENDING_BYTES_MAX {
                return Err(ImageError::TooLarge { what: "directories", limit: self.pending.len() as u64 });
            }
        }
        Ok(self.pending.entry(path.to_vec()).or_default())
    }
}

/// A file that is being written.
pub(super) struct NewFile<'a> {
    file: OwnedFd,
    entry: &'a [u8],
}

impl NewFile<'_> {
    pub(super) fn write(&mut self, mut data: &[u8]) -> Result<(), ImageError> {
        while !data.is_empty() {
            match rustix::io::write(&self.file, data) {
                Ok(count) => data = &data[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("write", self.entry)(errno)),
            }
        }
        Ok(())
    }

    /// Goes to a place in the file, which leaves a hole.
    pub(super) fn seek(&mut self, offset: u64) -> Result<(), ImageError> {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(offset))
            .map(drop)
            .map_err(failed("write", self.entry))
    }

    pub(super) fn set_length(&mut self, length: u64) -> Result<(), ImageError> {
        rustix::fs::ftruncate(&self.file, length).map_err(failed("write", self.entry))
    }

    pub(super) fn finish(self, metadata: &Metadata, warnings: &mut Vec<String>) -> Result<(), ImageError> {
        metadata.apply(self.file.as_fd(), self.entry, warnings)
    }
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The kind of what is there, and a device's number.
fn file_type(parent: &Directory, name: &[u8]) -> rustix::io::Result<(FileType, u64)> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(stat.st_mode), stat.st_rdev))
}

fn hard_link_failed(entry: &[u8], target: &[u8], errno: Errno) -> ImageError {
    let reason = match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => "which the archive does not have before it".to_owned(),
        Errno::PERM => "which is a directory".to_owned(),
        Errno::MLINK => "which has too many names already".to_owned(),
        errno => return failed("link", entry)(errno),
    };
    bad(entry, &format!("it is a hard link to {:?}, {reason}", shown(target)))
}
