//! Owner, mode, times and extended attributes.

use std::{io, os::fd::BorrowedFd};

use rustix::{
    fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{Entry, ImageError, Owners, shown, warn};

/// What an entry says of what it makes, checked.
#[derive(Debug)]
pub(super) struct Metadata {
    uid: u32,
    gid: u32,
    pub(super) mode: Mode,
    times: Timestamps,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Checks owner and attributes; names of attributes that an image has no business to set are dropped.
    pub(super) fn of(entry: &Entry, owners: &Owners, warnings: &mut Vec<String>) -> Result<Self, ImageError> {
        // -1 would mean "leave it" to chown(2).
        let id = |value: u64, what, outside: &dyn Fn(u32) -> Option<u32>| match u32::try_from(value) {
            Ok(id) if id != u32::MAX => outside(id).ok_or_else(|| {
                let reason = format!("its {what} {value} is nobody in the container's user namespace");
                ImageError::BadEntry { entry: shown(&entry.path), reason }
            }),
            _ => {
                let reason = format!("its {what} {value} does not fit");
                Err(ImageError::BadEntry { entry: shown(&entry.path), reason })
            }
        };
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            match judge(name) {
                Judgement::Keep => xattrs.push((name.clone(), value.clone())),
                Judgement::DropQuietly => {}
                Judgement::Drop => warn(warnings, || {
                    format!("{:?}: extended attribute {:?} is left out", shown(&entry.path), shown(name))
                }),
            }
        }
        let mtime = Timespec { tv_sec: entry.mtime_sec, tv_nsec: entry.mtime_nsec.into() };
        Ok(Self {
            uid: id(entry.uid, "owner", &|id| owners.user_outside(id))?,
            gid: id(entry.gid, "group", &|id| owners.group_outside(id))?,
            mode: Mode::from_raw_mode(entry.mode),
            times: Timestamps { last_access: mtime, last_modification: mtime },
            xattrs,
        })
    }

    /// Gives it to an open file or directory. The change of owner comes first: it takes setuid bits and
    /// capabilities away.
    pub(super) fn apply(
        &self,
        file: BorrowedFd<'_>,
        entry: &[u8],
        warnings: &mut Vec<String>,
    ) -> Result<(), ImageError> {
        rustix::fs::fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
            .map_err(failed("chown", entry))?;
        rustix::fs::fchmod(file, self.mode).map_err(failed("chmod", entry))?;
        for (name, value) in &self.xattrs {
            let result = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
            xattr_result(result, name, entry, warnings)?;
        }
        rustix::fs::futimens(file, &self.times).map_err(failed("set the times of", entry))
    }

    /// Gives it to what is not to be opened: a symbolic link (which has no mode), a device, a FIFO.
    pub(super) fn apply_at(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        has_mode: bool,
        entry: &[u8],
        warnings: &mut Vec<String>,
    ) -> Result<(), ImageError> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("chown", entry))?;
        if has_mode {
            rustix::fs::chmodat(parent, name, self.mode, AtFlags::empty()).map_err(failed("chmod", entry))?;
        }
        for (attribute, value) in &self.xattrs {
            // There is no setxattrat(2) before Linux 6.13; the last component is not followed by lsetxattr(2).
            let mut path =
                format!("/proc/self/fd/{}/", std::os::fd::AsRawFd::as_raw_fd(&parent)).into_bytes();
            path.extend_from_slice(name);
            let result = rustix::fs::lsetxattr(path, attribute.as_slice(), value, XattrFlags::empty());
            xattr_result(result, attribute, entry, warnings)?;
        }
        rustix::fs::utimensat(parent, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the times of", entry))
    }
}

enum Judgement {
    Keep,
    Drop,
    DropQuietly,
}

/// Whether an image may have this extended attribute.
pub(in crate::image) fn is_kept_xattr(name: &[u8]) -> bool {
    matches!(judge(name), Judgement::Keep)
}

/// Which extended attributes an image may set.
///
/// overlayfs's own would redirect names or hide files of other layers; labels of security modules are the host's
/// policy (nearly every archive made with `--selinux` has them, so there is no word about these).
fn judge(name: &[u8]) -> Judgement {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => Judgement::Keep,
        b"security.selinux" => Judgement::DropQuietly,
        _ if name.contains(&0) => Judgement::Drop,
        _ if [&b"trusted.overlay."[..], b"user.overlay.", b"user.fuseoverlayfs."]
            .iter()
            .any(|own| name.starts_with(own)) =>
        {
            Judgement::Drop
        }
        _ if name.starts_with(b"trusted.") || name.starts_with(b"user.") => Judgement::Keep,
        _ => Judgement::Drop,
    }
}

/// A file system without `user.` attributes, or a kind of file that may have none, costs only those.
fn xattr_result(
    result: rustix::io::Result<()>,
    name: &[u8],
    entry: &[u8],
    warnings: &mut Vec<String>,
) -> Result<(), ImageError> {
    match result {
        // Those of the file system's own administrator are for root of the host.
        Err(Errno::OPNOTSUPP | Errno::PERM)
            if name.starts_with(b"user.")
                || (name.starts_with(b"trusted.") && crate::identity::in_user_namespace()) =>
        {
            warn(warnings, || {
                format!(
                    "{:?}: the file system refuses the extended attribute {:?}",
                    shown(entry),
                    shown(name)
                )
            });
            Ok(())
        }
        result => result.map_err(failed("set an extended attribute of", entry)),
    }
}

/// Makes the error of one step for one entry.
pub(super) fn failed(action: &'static str, entry: &[u8]) -> impl FnOnce(Errno) -> ImageError {
    move |errno| ImageError::Entry { action, entry: shown(entry), source: io::Error::from(errno) }
}
