//! The first use of a volume: it gets what the image has at the place where it is mounted, with owner, modes, times and
//! attributes. That is copied to a directory beside, which takes the place of the empty one in one step: whatever is cut
//! short, a volume is empty or whole. One that somebody has put something in already stays as it is.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::image::{ImageError, Owners, copy_in, part_tar};
use crate::runtime::view;
use crate::store::VolumeRow;

use super::super::copy::TRIES;
use super::super::images::from_image_error;
use super::super::passwd::{self, RootView};
use super::super::remove::remove_tree;
use super::super::{Container, Engine, EngineError};
use super::{DATA, NEW};

impl Engine {
    /// Lets a volume have what the container's root holds at `target`. The caller has the volume's lock.
    pub(super) fn populate(
        &self,
        container: &Container,
        volume: &VolumeRow,
        target: &str,
        owned: bool,
    ) -> Result<(), EngineError> {
        let directory = self.paths().volume(&volume.id);
        let (data, new) = (directory.join(DATA), directory.join(NEW));
        let io = |attempted, path: &Path| {
            let path = path.to_owned();
            move |errno: Errno| EngineError::io(attempted, path, errno.into())
        };
        let Some(image) = self.image_directory(container, target)? else {
            // As for a volume of its own: the command is to be able to write to it.
            if !owned && is_empty(&data)? {
                let spec = &container.definition.spec;
                let view = RootView::new(self, container)?;
                let user = passwd::look_up(&view, &container.definition.user, &spec.groups)?;
                let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
                rustix::fs::chown(&data, Some(uid), Some(gid)).map_err(io("give away", &data))?;
            }
            return Ok(());
        };
        remove_tree(&new);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::open(&directory, flags, Mode::empty()).map_err(io("open", &directory))?;
        let copied = copy(&image, &place).and_then(|()| {
            let made = rustix::fs::openat(&place, NEW, flags, Mode::empty()).map_err(io("open", &new))?;
            if owned {
                let asked = rustix::fs::stat(&data).map_err(io("look at", &data))?;
                let (uid, gid) = (Uid::from_raw(asked.st_uid), Gid::from_raw(asked.st_gid));
                rustix::fs::fchown(&made, Some(uid), Some(gid)).map_err(io("give away", &new))?;
            }
            if !is_empty(&new)? {
                // The record that it was used must not be on the disk before what it got.
                rustix::fs::syncfs(&made).map_err(io("write", &new))?;
            }
            // Over a directory that is empty, and no other.
            match rustix::fs::renameat(&place, NEW, &place, DATA) {
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                Err(errno) => Err(io("put in place", &new)(errno)),
            }
        });
        remove_tree(&new);
        copied
    }

    /// The directory at a path of a container's root as it is without mounts.
    fn image_directory(&self, container: &Container, target: &str) -> Result<Option<OwnedFd>, EngineError> {
        let layers = match &container.definition.spec.rootfs {
            Some(rootfs) => vec![rootfs.clone()],
            None => {
                let mut layers = vec![self.paths().container(&container.row.id).join("upper")];
                layers.extend(self.layer_directories(&container.definition)?);
                layers
            }
        };
        let io = |errno: Errno| EngineError::io("look into", target, errno.into());
        let root = view::merged(&layers).map_err(io)?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&root, target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Ok(found) => {
                    let stat = rustix::fs::fstat(&found).map_err(io)?;
                    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    return Ok(is_directory.then_some(found));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(io(errno)),
            }
        }
        Err(io(Errno::AGAIN))
    }
}

/// Copies a directory of an image to a new one in `place`: the same path as for every other tree, a tar.
fn copy(image: &OwnedFd, place: &OwnedFd) -> Result<(), EngineError> {
    let never = AtomicBool::new(false);
    let (reader, writer) =
        std::io::pipe().map_err(|source| EngineError::io("make a pipe for", NEW, source))?;
    let (written, unpacked) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            part_tar(image.as_fd(), NEW.as_bytes(), &Owners::default(), writer, &never, &mut |_| {})
        });
        let unpacked = copy_in(reader, place.as_fd(), b"", &Owners::default(), &never, &mut |_| {});
        (writing.join(), unpacked)
    });
    match written {
        // Who unpacks has left first, and knows why.
        Ok(Err(ImageError::Write { .. })) if unpacked.is_err() => {}
        Ok(written) => drop(written.map_err(from_image_error)?),
        Err(_) => {
            return Err(EngineError::Failed {
                attempted: "copy the image's files to the volume".to_owned(),
                reason: "the thread that reads them has failed".to_owned(),
            });
        }
    }
    unpacked.map(drop).map_err(from_image_error)
}

fn is_empty(directory: &Path) -> Result<bool, EngineError> {
    let mut entries =
        std::fs::read_dir(directory).map_err(|source| EngineError::io("read", directory, source))?;
    Ok(entries.next().is_none())
}
