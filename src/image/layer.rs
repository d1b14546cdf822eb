//! Layers as directories, named by the digest of their content.
//!
//! ```text
//! STATE/layers/            0700
//!   0f3a…/                 a complete layer: the extracted tree itself, named by its diff id
//!   .tmp-PID-N/            half made, or being removed; flock(2)ed by the process at work
//! STATE/records/           0700
//!   0f3a…                  what it takes to make the layer's tar again; see `record`
//! ```
//!
//! A layer is made in a `.tmp-` directory and renamed when everything is there: extracted, its digest known, and
//! written to the disk by one syncfs(2) (no fsync per file: thousands of them would cost more than all the rest);
//! the rename itself is made durable by an fsync of `layers/`. A name without `.tmp-` is therefore a complete layer,
//! also after a power cut. Whoever works in a `.tmp-` directory holds an exclusive flock(2) on it, so that
//! [`LayerStore::sweep`] can tell what a crash left behind from what another process is making right now.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{
    Digest, ImageError, Owners,
    record::{LayerTar, give_name},
    remove::remove_tree,
    unpack,
};

const TMP_PREFIX: &str = ".tmp-";
const SAVED_SUFFIX: &str = ".saved";

/// Bounds for one archive. All of them are on what the archive claims or holds uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// At most so many entries; default 4,000,000.
    pub entries_max: u64,
    /// At most so many bytes of file content; `None`, the default, for as much as the disk holds.
    pub size_bytes_max: Option<u64>,
    /// At most so many bytes in one name; default 4095, the kernel's own limit.
    pub path_bytes_max: usize,
    /// An archive without a zero block at its end is taken as cut off; default true. Of some tools the archives have
    /// none; where the digest is known beforehand, as in a pull, nothing is lost by `false`.
    pub end_marker_required: bool,
    /// What to do with OCI whiteouts; default [`Whiteouts::Overlay`].
    pub whiteouts: Whiteouts,
    /// Who owners are where it is unpacked; by default the same.
    pub owners: Owners,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 4_000_000,
            size_bytes_max: None,
            path_bytes_max: 4095,
            end_marker_required: true,
            whiteouts: Whiteouts::Overlay,
            owners: Owners::default(),
        }
    }
}

/// What to do with the whiteouts of a layer: `.wh.NAME` and `.wh..wh..opq`.
///
/// Source: OCI image-spec, layer.md, "Whiteouts".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Turn them into overlayfs's own: a character device 0:0, and `trusted.overlay.opaque=y`.
    Overlay,
    /// Leave them out: the layer has nothing below it.
    Drop,
    /// Take them for files like all others.
    Keep,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read from the stream so far, as they come (compressed, if it is).
    pub bytes_read: u64,
    /// Entries unpacked so far.
    pub entries: u64,
}

/// What an import has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedLayer {
    /// The digest of the uncompressed tar, all of it, as OCI's `diff_id`.
    pub diff_id: Digest,
    /// Bytes of file content; a sparse file counts with its length, a hard link with nothing.
    pub size_bytes: u64,
    /// Bytes of the stream as it came.
    pub compressed_bytes: u64,
    /// Entries in the archive.
    pub entries: u64,
    /// False if this layer was there before.
    pub newly_made: bool,
    /// What was passed over, for a person; at most 16 lines.
    pub warnings: Vec<String>,
}

/// The layers of one state directory. Any number of processes may use it at once.
#[derive(Debug)]
pub struct LayerStore {
    directory: PathBuf,
    handle: File,
    records: PathBuf,
    records_handle: File,
}

impl LayerStore {
    /// Opens `state_dir/layers` and `state_dir/records`, making them (0700) if they are not there.
    pub fn open(state_dir: &Path) -> Result<Self, ImageError> {
        let open = |name: &str| {
            let directory = state_dir.join(name);
            let failed = |action| {
                let path = directory.clone();
                move |source| ImageError::Store { action, path, source }
            };
            DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed("create"))?;
            let handle = File::open(&directory).map_err(failed("open"))?;
            Ok::<_, ImageError>((directory, handle))
        };
        let (directory, handle) = open("layers")?;
        let (records, records_handle) = open("records")?;
        Ok(Self { directory, handle, records, records_handle })
    }

    /// Returns where the layer is, or would be. The directory is the tree itself, ready to be an overlay's lower.
    pub fn path(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join(diff_id.hex())
    }

    /// Says whether the layer is there.
    pub fn contains(&self, diff_id: &Digest) -> bool {
        self.path(diff_id).is_dir()
    }

    /// Unpacks a tar (plain, gzip or zstd, told by its first bytes) into a layer.
    ///
    /// `progress` is called at most every 100 ms, and once at the end. The call blocks; it reads and decompresses in
    /// a second thread. For a stream that may stall, see [`super::DescriptorReader`].
    /// # Errors
    /// Whatever goes wrong, and if `cancelled` is set on the way ([`ImageError::Cancelled`]), nothing is left behind.
    pub fn import(
        &self,
        reader: impl Read + Send,
        limits: &Limits,
        progress: &mut dyn FnMut(Progress),
        cancelled: &AtomicBool,
    ) -> Result<ImportedLayer, ImageError> {
        self.import_expected(None, reader, limits, progress, cancelled)
    }

    /// As [`Self::import`], but only a layer of this digest.
    /// # Errors
    /// Those of [`Self::import`]; [`ImageError::WrongDigest`].
    pub fn import_expected(
        &self,
        expected: Option<&Digest>,
        reader: impl Read + Send,
        limits: &Limits,
        progress: &mut dyn FnMut(Progress),
        cancelled: &AtomicBool,
    ) -> Result<ImportedLayer, ImageError> {
        let tmp = self.make_tmp()?;
        let records = self.records_handle.as_fd();
        let unpacked = unpack::unpack(reader, tmp.handle.as_fd(), records, limits, progress, cancelled)
            .map_err(|error| match error {
                ImageError::Entry { entry, source, .. } if is_full(&source) => {
                    ImageError::NoSpace { directory: self.directory.clone(), entry, source }
                }
                error => error,
            })?;
        if let Some(expected) = expected
            && *expected != unpacked.diff_id
        {
            return Err(ImageError::WrongDigest {
                what: "the uncompressed layer".to_owned(),
                expected: expected.clone(),
                found: unpacked.diff_id,
            });
        }
        rustix::fs::syncfs(&tmp.handle).map_err(|errno| self.failed("sync", &tmp.path, errno.into()))?;
        if cancelled.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        let newly_made = self.publish(tmp, &unpacked.diff_id, &unpacked.record)?;
        Ok(ImportedLayer {
            diff_id: unpacked.diff_id,
            size_bytes: unpacked.size_bytes,
            compressed_bytes: unpacked.compressed_bytes,
            entries: unpacked.entries,
            newly_made,
            warnings: unpacked.warnings,
        })
    }

    /// The tar that the layer came as (uncompressed), to the byte.
    /// # Errors
    /// [`ImageError::Store`] if the layer is not there.
    pub fn tar(&self, diff_id: &Digest) -> Result<LayerTar, ImageError> {
        let path = self.path(diff_id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| self.failed("open", &path, errno.into()))?;
        let (record, saved) = self.record_paths(diff_id);
        LayerTar::open(diff_id, tree, &record, &saved)
    }

    fn record_paths(&self, diff_id: &Digest) -> (PathBuf, PathBuf) {
        (self.records.join(diff_id.hex()), self.records.join(format!("{}{SAVED_SUFFIX}", diff_id.hex())))
    }

    fn remove_record(&self, diff_id: &Digest) -> Result<(), ImageError> {
        let (record, saved) = self.record_paths(diff_id);
        for path in [record, saved] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a layer; one that is not there is no error. A crash on the way leaves only what [`Self::sweep`] takes.
    ///
    /// The caller makes sure that nothing uses it.
    pub fn remove(&self, diff_id: &Digest) -> Result<(), ImageError> {
        let path = self.path(diff_id);
        // Lock first, so that a sweep does not take the directory between the rename and the lock.
        let Some(handle) = self.lock(&path)? else { return Ok(()) };
        let doomed = Tmp { path: self.tmp_path(), handle, parent: &self.handle };
        match rustix::fs::renameat(rustix::fs::CWD, &path, rustix::fs::CWD, &doomed.path) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(self.failed("rename", &path, errno.into())),
        }
        self.remove_record(diff_id)?;
        doomed.remove().map_err(|source| self.failed("remove", &path, source))
    }

    /// Removes what crashes left behind, and complete layers that `is_known` denies; returns how many directories.
    ///
    /// What another process is making at this moment is left alone. The caller makes sure that no import finishes
    /// between the look of `is_known` and its own record of the layer (or answers true when in doubt).
    pub fn sweep(&self, is_known: impl Fn(&Digest) -> bool) -> Result<usize, ImageError> {
        let mut removed = 0;
        let listing = std::fs::read_dir(&self.directory)
            .map_err(|source| self.failed("list", &self.directory, source))?;
        for entry in listing {
            let path = entry.map_err(|source| self.failed("list", &self.directory, source))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with(TMP_PREFIX) {
                if let Some(handle) = self.lock(&path)? {
                    let tmp = Tmp { path: path.clone(), handle, parent: &self.handle };
                    tmp.remove().map_err(|source| self.failed("remove", &path, source))?;
                    removed += 1;
                }
            } else if let Ok(diff_id) = Digest::from_hex(name)
                && !is_known(&diff_id)
            {
                self.remove(&diff_id)?;
                removed += 1;
            }
        }
        let listing =
            std::fs::read_dir(&self.records).map_err(|source| self.failed("list", &self.records, source))?;
        for entry in listing {
            let path = entry.map_err(|source| self.failed("list", &self.records, source))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Ok(diff_id) = Digest::from_hex(name.trim_end_matches(SAVED_SUFFIX))
                && !self.contains(&diff_id)
                && !is_known(&diff_id)
            {
                self.remove_record(&diff_id)?;
            }
        }
        Ok(removed)
    }

    /// Makes an empty, locked `.tmp-` directory.
    fn make_tmp(&self) -> Result<Tmp<'_>, ImageError> {
        loop {
            let path = self.tmp_path();
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) if is_full(&source) => {
                    let directory = self.directory.clone();
                    return Err(ImageError::NoSpace { directory, entry: String::new(), source });
                }
                Err(source) => return Err(self.failed("create", &path, source)),
            }
            // A sweep may have come between the two steps and taken the directory for a left-over.
            if let Some(handle) = self.lock(&path)? {
                return Ok(Tmp { path, handle, parent: &self.handle });
            }
        }
    }

    /// A name that no living process uses; a dead one's is found by `mkdir` to exist.
    fn tmp_path(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.directory.join(format!("{TMP_PREFIX}{}-{number}", std::process::id()))
    }

    /// Opens and locks a directory of the store; `None` if it is gone or none, or another process has the lock.
    fn lock(&self, path: &Path) -> Result<Option<File>, ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Ok(None);
            }
            Err(errno) => return Err(self.failed("open", path, errno.into())),
        };
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(self.failed("lock", path, errno.into())),
        }
        let same = |found: io::Result<std::fs::Metadata>| match (found, handle.metadata()) {
            (Ok(found), Ok(locked)) => (found.dev(), found.ino()) == (locked.dev(), locked.ino()),
            _ => false,
        };
        Ok(same(path.symlink_metadata()).then_some(handle))
    }

    /// Gives a finished tree its name; says whether it is a new one.
    fn publish(
        &self,
        tmp: Tmp<'_>,
        diff_id: &Digest,
        (record, saved): &(File, Option<File>),
    ) -> Result<bool, ImageError> {
        let path = self.path(diff_id);
        // First, so that no layer is ever without its record.
        if !path.exists() {
            let (hex, saved_name) = (diff_id.hex(), format!("{}{SAVED_SUFFIX}", diff_id.hex()));
            let records = self.records_handle.as_fd();
            saved
                .as_ref()
                .map_or(Ok(()), |saved| give_name(saved, records, &saved_name))
                .and_then(|()| give_name(record, records, hex))
                .and_then(|()| self.records_handle.sync_all())
                .map_err(|source| self.failed("name", &self.records.join(hex), source))?;
        }
        match std::fs::rename(&tmp.path, &path) {
            Ok(()) => {
                tmp.keep();
                self.handle.sync_all().map_err(|source| self.failed("sync", &self.directory, source))?;
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(false)
            }
            Err(source) => Err(self.failed("rename", &tmp.path, source)),
        }
    }

    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> ImageError {
        if is_full(&source) {
            ImageError::NoSpace { directory: self.directory.clone(), entry: String::new(), source }
        } else {
            ImageError::Store { action, path: path.to_owned(), source }
        }
    }
}

/// No room, no inode, or no quota.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A locked `.tmp-` directory that is removed again unless it was kept.
#[must_use]
struct Tmp<'a> {
    path: PathBuf,
    handle: File,
    parent: &'a File,
}

impl Tmp<'_> {
    fn keep(mut self) {
        self.path = PathBuf::new();
    }

    fn remove(mut self) -> io::Result<()> {
        self.remove_now()
    }

    fn remove_now(&mut self) -> io::Result<()> {
        let path = std::mem::take(&mut self.path);
        match path.file_name() {
            Some(name) => remove_tree(self.parent.as_fd(), name),
            None => Ok(()),
        }
    }
}

impl Drop for Tmp<'_> {
    fn drop(&mut self) {
        let path = self.path.clone();
        if let Err(error) = self.remove_now() {
            tracing::warn!(?path, %error, "cannot remove an unfinished layer, ignoring; a later sweep will");
        }
    }
}
