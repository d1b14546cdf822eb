//! A directory tree in, a tar stream out.
//!
//! The tree may be what a container has made, and may change meanwhile: it is hostile. Every directory is opened below
//! the root with no link and no mount on the way (`RESOLVE_BENEATH`, `NO_SYMLINKS`, `NO_XDEV`); what has vanished since its
//! directory was read is left out, and a file that shrinks is filled up with zeros, as tar(1) does. Order, and everything
//! else, depends on the tree alone.
//!
//! Sources: POSIX pax(1), OCI image-spec, layer.md ("Whiteouts"), overlayfs.rst.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use tar::{EntryType, Header};

use super::{
    ImageError, Owners, is_opaque_mark, overlay_attribute, tar_stream::shown, unpack::is_kept_xattr,
};

const COPY_BYTES: usize = 256 << 10;
const BLOCK_BYTES: u64 = 512;
/// As the unpacking side has it.
const XATTR_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES: usize = 100;
/// The largest owner that the seven octal digits of a header hold.
const ID_MAX: u32 = 0o7_777_777;
/// The largest size that the eleven octal digits of a header hold.
const SIZE_MAX: u64 = 0o77_777_777_777;

/// What a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// A whole root file system.
    Root,
    /// The upper directory of an overlay: its whiteouts become those of a layer.
    Upper,
    /// A directory as a process sees it, with what is mounted below.
    Part,
}

/// What is told of files otherwise than the tree has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Who owners are inside.
    pub owners: Owners,
    /// Whose all of them are.
    pub owner: Option<(u32, u32)>,
    /// The permission bits of all but links.
    pub mode: Option<u32>,
    /// When all were changed last, in seconds.
    pub mtime: Option<i64>,
}

/// File systems that show the kernel, and hold no files; from linux/magic.h.
const KERNEL_FILE_SYSTEMS: [u32; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
];

/// Writes what is opened at `target` as a tar whose first entry is called `name`: a directory with all that is in it, other
/// mounts included as far as they hold files, or a single file, link or node. Owners are told as they are inside. `target` may be opened by `O_PATH` only. The
/// rest is as for [`tree_tar`].
/// # Errors
/// As for [`tree_tar`].
pub fn part_tar(
    target: BorrowedFd<'_>,
    name: &[u8],
    owners: &Owners,
    out: impl Write,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let rewrite = Rewrite { owners: owners.clone(), ..Rewrite::default() };
    part_tar_as(target, name, out, &|_, _| false, rewrite, cancelled, progress)
}

/// As [`part_tar`], of which some is told otherwise; `leave_out` is asked for each path below `target`, and told whether it
/// is a directory.
/// # Errors
/// As for [`tree_tar`].
pub fn part_tar_as(
    target: BorrowedFd<'_>,
    name: &[u8],
    out: impl Write,
    leave_out: &dyn Fn(&[u8], bool) -> bool,
    rewrite: Rewrite,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let out = Counted { out: io::BufWriter::with_capacity(COPY_BYTES, out), count: 0 };
    let mut writer = Writer {
        root: target,
        kind: TreeKind::Part,
        rewrite,
        prefix: name.to_vec(),
        out,
        links: HashMap::new(),
        buffer: vec![0; COPY_BYTES],
        cancelled,
        progress,
    };
    let stat = rustix::fs::fstat(target).map_err(failed("look at", name))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
            while let Some(path) = waiting.pop() {
                writer.directory(&path, leave_out, &mut waiting)?;
            }
        }
        FileType::RegularFile => {
            // The very file that is open, whatever its name leads to by now.
            let fd = reopened(target).map_err(failed("open", name))?;
            writer.opened_file(b"", fd, &stat)?;
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(target, "", Vec::new()).map_err(failed("read", name))?;
            writer.header(b"", &stat, EntryType::Symlink, link.as_bytes(), 0, None)?;
        }
        kind => {
            if let Some(entry) = node_type(kind) {
                writer.header(b"", &stat, entry, b"", 0, None)?;
            }
        }
    }
    writer.out.write_all(&[0; 1024]).and_then(|()| writer.out.flush()).map_err(write_failed)?;
    Ok(writer.out.count)
}

/// Writes a tree as a tar. `leave_out` is asked for each path (relative, without a leading slash). Returns the bytes
/// written; `progress` is told of them on the way.
/// # Errors
/// [`ImageError::Entry`] for what can't be read, [`ImageError::Write`], [`ImageError::Cancelled`];
/// [`ImageError::BadEntry`] for what overlayfs keeps in a form that no layer has.
pub fn tree_tar(
    root: BorrowedFd<'_>,
    kind: TreeKind,
    out: impl Write,
    leave_out: &dyn Fn(&[u8]) -> bool,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let tree = LayerTree { kind, rewrite: Rewrite::default(), deleted: &|_| Vec::new() };
    tree_tar_as(root, tree, out, leave_out, cancelled, progress)
}

/// What [`tree_tar_as`] makes of a tree.
pub struct LayerTree<'a> {
    /// What it is.
    pub kind: TreeKind,
    /// What is told otherwise.
    pub rewrite: Rewrite,
    /// The names that a directory (relative, without a leading slash) has lost, each told by a whiteout.
    pub deleted: &'a dyn Fn(&[u8]) -> Vec<Vec<u8>>,
}

impl std::fmt::Debug for LayerTree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerTree").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// As [`tree_tar`], of which some is told otherwise.
/// # Errors
/// As for [`tree_tar`].
pub fn tree_tar_as(
    root: BorrowedFd<'_>,
    tree: LayerTree<'_>,
    out: impl Write,
    leave_out: &dyn Fn(&[u8]) -> bool,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let out = Counted { out: io::BufWriter::with_capacity(COPY_BYTES, out), count: 0 };
    let mut writer = Writer {
        root,
        kind: tree.kind,
        rewrite: tree.rewrite,
        prefix: Vec::new(),
        out,
        links: HashMap::new(),
        buffer: vec![0; COPY_BYTES],
        cancelled,
        progress,
    };
    let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        // The root has no entry in an upper directory: it says nothing of the image's.
        writer.directory(&path, &|path, _| leave_out(path), &mut waiting)?;
        for name in (tree.deleted)(&path) {
            writer.marker(&joined(&path, &[b".wh.", name.as_slice()].concat()))?;
        }
    }
    writer.out.write_all(&[0; 1024]).and_then(|()| writer.out.flush()).map_err(write_failed)?;
    Ok(writer.out.count)
}

struct Counted<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Writer<'a, W> {
    root: BorrowedFd<'a>,
    kind: TreeKind,
    rewrite: Rewrite,
    /// Before each path, and the name of the root; empty for none.
    prefix: Vec<u8>,
    out: W,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    cancelled: &'a AtomicBool,
    progress: &'a mut dyn FnMut(u64),
}

impl<W: Write> Writer<'_, Counted<W>> {
    /// Writes a directory and what is in it; the directories in it are left to `waiting`.
    fn directory(
        &mut self,
        path: &[u8],
        leave_out: &dyn Fn(&[u8], bool) -> bool,
        waiting: &mut Vec<Vec<u8>>,
    ) -> Result<(), ImageError> {
        let Some(directory) = self.open(path, OFlags::DIRECTORY)? else { return Ok(()) };
        if self.kind == TreeKind::Part && shows_the_kernel(directory.as_fd()) {
            return Ok(());
        }
        let stat = rustix::fs::fstat(&directory).map_err(failed("look at", path))?;
        if !(path.is_empty() && self.kind == TreeKind::Upper) {
            self.header(path, &stat, EntryType::Directory, b"", 0, Some(directory.as_fd()))?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed("list", path))? {
            let entry = entry.map_err(failed("list", path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        if self.kind == TreeKind::Upper {
            let listed = names.len();
            names.retain(|name| !is_opaque_mark(name));
            if self.overlay_marks(path, directory.as_fd())? || names.len() < listed {
                self.marker(&joined(path, b".wh..wh..opq"))?;
            }
        }
        let mut below = Vec::new();
        for name in names {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled);
            }
            let child = joined(path, &name);
            let stat = match rustix::fs::statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("look at", &child)(errno)),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if leave_out(&child, kind == FileType::Directory) {
                continue;
            }
            match kind {
                FileType::Directory => below.push(child),
                kind => self.other(directory.as_fd(), (&child, &name), &stat, kind)?,
            }
            (self.progress)(self.out.count);
        }
        waiting.extend(below.into_iter().rev());
        Ok(())
    }

    /// Writes what is no directory.
    fn other(
        &mut self,
        directory: BorrowedFd<'_>,
        (path, name): (&[u8], &[u8]),
        stat: &Stat,
        kind: FileType,
    ) -> Result<(), ImageError> {
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&identity) {
                let first = first.clone();
                return self.header(path, stat, EntryType::Link, &first, 0, None);
            }
            self.links.insert(identity, path.to_vec());
        }
        match kind {
            FileType::RegularFile => self.file(path),
            FileType::Symlink => match rustix::fs::readlinkat(directory, name, Vec::new()) {
                Ok(target) => self.header(path, stat, EntryType::Symlink, target.as_bytes(), 0, None),
                Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(failed("read", path)(errno)),
            },
            FileType::CharacterDevice if stat.st_rdev == 0 && self.kind == TreeKind::Upper => {
                let parent = path.len().saturating_sub(name.len() + 1);
                self.marker(&joined(&path[..parent], &[b".wh.", name].concat()))
            }
            kind => match node_type(kind) {
                Some(entry) => self.header(path, stat, entry, b"", 0, None),
                None => Ok(()),
            },
        }
    }

    fn file(&mut self, path: &[u8]) -> Result<(), ImageError> {
        // Not for reading yet: what it was exchanged for may be a device, and to open that does things to the host.
        let Some(found) = self.open(path, OFlags::PATH)? else { return Ok(()) };
        let now = rustix::fs::fstat(&found).map_err(failed("look at", path))?;
        if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
            // Exchanged since: what it is now was not meant.
            return Ok(());
        }
        let fd = reopened(found.as_fd()).map_err(failed("open", path))?;
        if self.kind == TreeKind::Upper {
            self.overlay_marks(path, fd.as_fd())?;
        }
        self.opened_file(path, fd, &now)
    }

    /// Writes a regular file that is open for reading.
    fn opened_file(&mut self, path: &[u8], fd: OwnedFd, now: &Stat) -> Result<(), ImageError> {
        let size = u64::try_from(now.st_size).unwrap_or(0);
        self.header(path, now, EntryType::Regular, b"", size, Some(fd.as_fd()))?;
        let file = File::from(fd);
        let mut at = 0;
        while at < size {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled);
            }
            let wanted = usize::try_from(size - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let count = file.read_at(&mut self.buffer[..wanted], at).map_err(|source| ImageError::Entry {
                action: "read",
                entry: shown(path),
                source,
            })?;
            let count = if count == 0 {
                self.buffer[..wanted].fill(0);
                wanted
            } else {
                count
            };
            self.out.write_all(&self.buffer[..count]).map_err(write_failed)?;
            at += count as u64;
        }
        self.pad(size)
    }

    /// Opens something below the root; `None` if it is gone, or on another mount.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, ImageError> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        if self.kind != TreeKind::Part {
            resolve |= ResolveFlags::NO_XDEV;
        }
        loop {
            match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO) => {
                    return Ok(None);
                }
                Err(errno) => return Err(failed("open", path)(errno)),
            }
        }
    }

    /// Reads what overlayfs has noted: whether a directory is opaque.
    fn overlay_marks(&self, path: &[u8], fd: BorrowedFd<'_>) -> Result<bool, ImageError> {
        let mut value = [0; 8];
        let mut has = |name: &str| match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(count) => Ok(Some(value.get(..count).map(<[u8]>::to_vec).unwrap_or_default())),
            // Longer than any that is of interest, and there.
            Err(Errno::RANGE) => Ok(Some(Vec::new())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(failed("read the attributes of", path)(errno)),
        };
        for name in ["redirect", "metacopy"].map(overlay_attribute) {
            if has(&name)?.is_some() {
                return Err(ImageError::BadEntry {
                    entry: shown(path),
                    reason: format!(
                        "overlayfs keeps only a part of it here ({name}), which no layer can tell; mount overlays with redirect_dir=off and metacopy=off"
                    ),
                });
            }
        }
        Ok(has(&overlay_attribute("opaque"))?.as_deref() == Some(b"y"))
    }

    /// Writes the empty file that stands for a whiteout.
    fn marker(&mut self, path: &[u8]) -> Result<(), ImageError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let mut pax = Pax::default();
        set_name(&mut header.as_old_mut().name, "path", path, &mut pax);
        self.entry(header, &pax)
    }

    fn header(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: EntryType,
        link: &[u8],
        size: u64,
        attributes_of: Option<BorrowedFd<'_>>,
    ) -> Result<(), ImageError> {
        let mut header = Header::new_ustar();
        let mut pax = Pax::default();
        header.set_entry_type(kind);
        let mode = self.rewrite.mode.filter(|_| kind != EntryType::Symlink).unwrap_or(stat.st_mode);
        header.set_mode(mode & 0o7777);
        let inside = || self.rewrite.owners.inside(stat.st_uid, stat.st_gid);
        let (uid, gid) = self.rewrite.owner.unwrap_or_else(inside);
        let mtime = self.rewrite.mtime.unwrap_or(stat.st_mtime);
        let mut name = match (path, self.prefix.as_slice()) {
            (b"", b"") => b".".to_vec(),
            (b"", prefix) => prefix.to_vec(),
            (path, prefix) => joined(prefix, path),
        };
        let first_name = (kind == EntryType::Link).then(|| joined(&self.prefix, link));
        let link = first_name.as_deref().unwrap_or(link);
        if kind == EntryType::Directory {
            name.push(b'/');
        }
        set_name(&mut header.as_old_mut().name, "path", &name, &mut pax);
        set_name(&mut header.as_old_mut().linkname, "linkpath", link, &mut pax);
        for (key, id) in [("uid", uid), ("gid", gid)] {
            if id > ID_MAX {
                pax.add(key, id.to_string().as_bytes());
            }
        }
        header.set_uid(uid.min(ID_MAX).into());
        header.set_gid(gid.min(ID_MAX).into());
        if size > SIZE_MAX {
            pax.add("size", size.to_string().as_bytes());
        }
        header.set_size(size.min(SIZE_MAX));
        match u64::try_from(mtime) {
            Ok(mtime) if mtime <= SIZE_MAX => header.set_mtime(mtime),
            _ => {
                header.set_mtime(0);
                pax.add("mtime", mtime.to_string().as_bytes());
            }
        }
        if matches!(kind, EntryType::Char | EntryType::Block)
            && let Some(ustar) = header.as_ustar_mut()
        {
            ustar.set_device_major(rustix::fs::major(stat.st_rdev));
            ustar.set_device_minor(rustix::fs::minor(stat.st_rdev));
        }
        if let Some(fd) = attributes_of {
            attributes(path, fd, &mut pax)?;
        }
        self.entry(header, &pax)
    }

    /// Writes a header, after an extended one if there is need.
    fn entry(&mut self, mut header: Header, pax: &Pax) -> Result<(), ImageError> {
        if !pax.records.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_size(pax.records.len() as u64);
            extended.as_old_mut().name[..3].copy_from_slice(b"pax");
            extended.set_cksum();
            self.out.write_all(extended.as_bytes()).map_err(write_failed)?;
            self.out.write_all(&pax.records).map_err(write_failed)?;
            self.pad(pax.records.len() as u64)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(write_failed)
    }

    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        let padding = usize::try_from(size.next_multiple_of(BLOCK_BYTES) - size).unwrap_or(0);
        self.out.write_all(&[0; 512][..padding]).map_err(write_failed)
    }
}

/// Records of an extended header.
#[derive(Default)]
struct Pax {
    records: Vec<u8>,
}

impl Pax {
    fn add(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.records.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }
}

fn set_name(field: &mut [u8; NAME_BYTES], key: &str, name: &[u8], pax: &mut Pax) {
    if name.len() > NAME_BYTES {
        pax.add(key, name);
    }
    let count = name.len().min(NAME_BYTES);
    field[..count].copy_from_slice(&name[..count]);
}

fn attributes(path: &[u8], fd: BorrowedFd<'_>, pax: &mut Pax) -> Result<(), ImageError> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let count = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(count) => count,
        Err(errno) => return Err(failed("read the attributes of", path)(errno)),
    };
    let mut names: Vec<&[u8]> =
        names[..count].split(|&byte| byte == 0).filter(|name| is_kept_xattr(name)).collect();
    names.sort_unstable();
    for name in names {
        let mut value = vec![0; XATTR_BYTES_MAX];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(count) => pax.add(&format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), &value[..count]),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(failed("read the attributes of", path)(errno)),
        }
    }
    Ok(())
}

/// What stands for a device or a FIFO. A socket is of the process that listens, not of the file system.
fn node_type(kind: FileType) -> Option<EntryType> {
    match kind {
        FileType::CharacterDevice => Some(EntryType::Char),
        FileType::BlockDevice => Some(EntryType::Block),
        FileType::Fifo => Some(EntryType::Fifo),
        _ => None,
    }
}

fn shows_the_kernel(directory: BorrowedFd<'_>) -> bool {
    // The magic has 32 bits, in a field whose width and sign differ between architectures.
    rustix::fs::fstatfs(directory).is_ok_and(|status| {
        KERNEL_FILE_SYSTEMS.iter().any(|magic| i128::from(*magic) == i128::from(status.f_type))
    })
}

/// The very file that is open by `O_PATH`, to be read.
fn reopened(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> ImageError {
    move |errno| ImageError::Entry { action, entry: shown(path), source: errno.into() }
}

fn write_failed(source: io::Error) -> ImageError {
    ImageError::Write { source }
}
