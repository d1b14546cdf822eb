//! The root of a container on the host, for who wants to look at it with the host's own programs: beside the directory that
//! the container writes to, for root alone, without rights (nosuid, nodev), and without what is mounted in the container.
//!
//! There is one overlay at a time: a container that is started, or started again by its monitor, takes the one that is mounted
//! here (`src/runtime/mounts/`). The mount stays until Unmount, the container's removal, or the end of the boot.

use std::path::PathBuf;

use crate::runtime::overlay::{self, Driver};
use crate::runtime::visible;
use crate::store::lock_object;

use super::launch::without_kernel;
use super::spec::{Runtime, UserNamespace};
use super::{Container, Engine, EngineError};

/// A container that is started again and again may not be caught.
const TRIES: usize = 8;

impl Engine {
    /// Mounts the root of a container on the host, and tells where. One that is mounted already stays. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unsupported`], [`EngineError::Failed`].
    pub fn mount_container(&self, name: &str) -> Result<PathBuf, EngineError> {
        let container = self.find(name)?;
        let spec = &container.definition.spec;
        if let Some(rootfs) = &spec.rootfs {
            return Ok(rootfs.clone());
        }
        let unsupported = |reason: &str| EngineError::Unsupported {
            feature: format!("mounting the root of {:?} on the host", container.row.name),
            reason: reason.to_owned(),
        };
        if spec.user_namespace != UserNamespace::Host {
            return Err(unsupported(
                "it has users of its own, and owners would not be told apart; use export or cp",
            ));
        }
        if overlay::driver() == Driver::Fuse {
            return Err(without_kernel("mounting the root of a container on the host"));
        }
        if spec.runtime != Runtime::Native {
            return Err(unsupported("only the native runtime shares it; use export or cp"));
        }
        let id = &container.row.id;
        let _lock = lock_object(&self.paths().locks(), id)?;
        if !self.store()?.has_container(id)? {
            return Err(EngineError::NotFound { name: name.to_owned() });
        }
        let directory = self.paths().container(id);
        let (upper, place) = (directory.join("upper"), self.root_place(id));
        if visible::is_mounted(&place) {
            return Ok(place);
        }
        let failed = |error: visible::MountRefused| EngineError::Failed {
            attempted: format!("mount the root of {:?}", container.row.name),
            reason: error.to_string(),
        };
        for _ in 0..TRIES {
            let live = self.live(id)?;
            if !live.phase.is_alive() {
                let lower = self.layer_directories(&container.definition)?;
                visible::mount_root(&lower, &upper, &directory.join("work")).map_err(failed)?;
                return Ok(place);
            }
            let init = live.told.as_ref().and_then(|told| told.init);
            if let Some(init) = init.filter(crate::monitor::state::ProcessRef::is_alive) {
                let mounted = visible::mount_running_root(init.pid, &place);
                // One that has ended meanwhile may have been started again, with an overlay of its own.
                if init.is_alive() {
                    mounted.map_err(failed)?;
                    return Ok(place);
                }
                self.detach_root(id);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(EngineError::Failed {
            attempted: format!("mount the root of {:?}", container.row.name),
            reason: "it is started again all the time; stop it first".to_owned(),
        })
    }

    /// Takes the root of a container from the host's mounts. One that is not mounted counts as unmounted. With `force` also
    /// while somebody works there. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::MountBusy`].
    pub fn unmount_container(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let id = &container.row.id;
        let _lock = lock_object(&self.paths().locks(), id)?;
        let place = self.root_place(id);
        visible::detach(&place, force).map_err(|errno| match errno {
            rustix::io::Errno::BUSY => EngineError::MountBusy { name: container.row.name, path: place },
            errno => EngineError::io("unmount", place, errno.into()),
        })
    }

    /// Where the root of a container is mounted on the host, if it is.
    pub fn mounted_root(&self, container: &Container) -> Option<PathBuf> {
        let place = self.root_place(&container.row.id);
        visible::is_mounted(&place).then_some(place)
    }

    pub(super) fn root_place(&self, id: &str) -> PathBuf {
        visible::place_of(&self.paths().container(id).join("upper"))
    }

    /// Unmounts it whoever works there.
    pub(super) fn detach_root(&self, id: &str) {
        if let Err(errno) = visible::detach(&self.root_place(id), true) {
            tracing::warn!(id, %errno, "cannot unmount its root, ignoring");
        }
    }
}
