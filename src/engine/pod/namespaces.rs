//! What the containers of a pod share: made before the first of them starts, gone after the last one has ended.
//!
//! ```text
//! RUN_DIR/netns/ID                 the network namespace
//! RUN_DIR/containers/ID/ipc, uts   the others; pid is that of the holder
//! RUN_DIR/containers/ID/shm        /dev/shm
//! RUN_DIR/containers/ID/ports      which sockets hold its ports
//! RUN_DIR/containers/ID/up         written last: all of it is there
//! ```

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::monitor::state::{Phase, RunState};
use crate::network::namespace;
use crate::store::{lock_object, try_lock_object};

use super::super::{Container, Engine, EngineError};
use super::Pod;

const UP: &str = "up";
const SHM: &str = "shm";
const SHM_SIZE_BYTES: u64 = 64 << 20;

/// That a container is about to start in a pod. Dropped, the pod is taken down again if nobody else is in it.
#[must_use]
pub(in super::super) struct PodPass<'a> {
    engine: &'a Engine,
    pod: String,
    member: String,
    armed: bool,
    reserved: Vec<OwnedFd>,
}

impl PodPass<'_> {
    /// The pod's id.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// As that of a pending network.
    pub fn take_reserved(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.reserved)
    }

    pub fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for PodPass<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.engine.settle_pod(&self.pod, Some(&self.member))
        {
            tracing::warn!(
                pod = self.pod,
                error = error.full_text(),
                "cannot take the pod down, left for the next wake"
            );
        }
    }
}

impl Engine {
    /// Where a namespace that a pod shares shows; `kind` as in `/proc/PID/ns`.
    pub(in super::super) fn namespace_of_pod(&self, id: &str, kind: &str) -> PathBuf {
        match kind {
            "net" => self.namespace_of(id),
            kind => self.paths().run_container(id).join(kind),
        }
    }

    /// The directory that is /dev/shm in the containers of a pod that shares ipc.
    pub(in super::super) fn shm_of_pod(&self, id: &str) -> PathBuf {
        self.paths().run_container(id).join(SHM)
    }

    /// Makes sure that all that the pod of a container shares is there; `None` if it is in none. Blocks the thread; the caller
    /// holds the container's lock, which also tells others that the pod is in use.
    pub(in super::super) fn enter_pod(
        &self,
        container: &Container,
    ) -> Result<Option<PodPass<'_>>, EngineError> {
        let Some(pod) = &container.definition.pod else { return Ok(None) };
        let member = container.row.id.clone();
        let mut pass = PodPass { engine: self, pod: pod.clone(), member, armed: true, reserved: Vec::new() };
        pass.reserved = self.raise_pod(pod)?;
        Ok(Some(pass))
    }

    /// Makes what a pod shares, or what of it is missing; returns what keeps others from its ports. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], those of networks, [`EngineError::Io`]; nothing is left then.
    pub fn raise_pod(&self, id: &str) -> Result<Vec<OwnedFd>, EngineError> {
        let pod = self.find_pod(id)?;
        let _lock = lock_object(&self.paths().locks(), id)?;
        if self.is_up(&pod) {
            return self.ports_of_pod(id);
        }
        // What an earlier one left that was cut short, or whose holder was killed.
        self.lower_pod(id)?;
        let raised = self.raise_locked(&pod);
        if raised.is_err()
            && let Err(error) = self.lower_pod(id)
        {
            tracing::warn!(pod = id, error = error.full_text(), "cannot undo the start of a pod, ignoring");
        }
        raised
    }

    fn is_up(&self, pod: &Pod) -> bool {
        self.paths().run_container(&pod.row.id).join(UP).exists()
            && (!pod.definition.share.pid || self.holder_of(&pod.row.id).is_some())
    }

    fn raise_locked(&self, pod: &Pod) -> Result<Vec<OwnedFd>, EngineError> {
        use std::os::unix::fs::DirBuilderExt;
        let (id, share) = (&pod.row.id, pod.definition.share);
        let run_dir = self.paths().run_container(id);
        let make = |dir: &PathBuf, mode| match std::fs::DirBuilder::new().mode(mode).create(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(EngineError::io("make directory", dir, error))
            }
            _ => Ok(()),
        };
        make(&run_dir, 0o700)?;
        let frame = pod.frame();
        let mut reserved = Vec::new();
        match self.set_up_network(&frame, None)? {
            Some(mut network) => {
                reserved = network.take_reserved();
                network.keep();
            }
            None if share.net => {
                namespace::create_of(&self.namespace_of(id), "net", CloneFlags::CLONE_NEWNET, || {
                    Ok(crate::runtime::loopback_up()?)
                })?
            }
            None => {}
        }
        if share.ipc {
            let path = self.namespace_of_pod(id, "ipc");
            namespace::create_of(&path, "ipc", CloneFlags::CLONE_NEWIPC, || Ok(()))?;
            let shm = self.shm_of_pod(id);
            make(&shm, 0o755)?;
            let size = pod.definition.spec.shm_size_bytes.unwrap_or(SHM_SIZE_BYTES);
            nix::mount::mount(
                Some("shm"),
                &shm,
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some(format!("mode=1777,size={size}").as_str()),
            )
            .map_err(|errno| EngineError::io("mount", &shm, errno.into()))?;
        }
        if share.uts {
            let hostname = pod.hostname().to_owned();
            let path = self.namespace_of_pod(id, "uts");
            namespace::create_of(&path, "uts", CloneFlags::CLONE_NEWUTS, move || {
                Ok(rustix::system::sethostname(hostname.as_bytes())?)
            })?;
        }
        if share.pid {
            self.start_holder(pod)?;
        }
        if !reserved.is_empty() {
            self.note_ports(id, &reserved)?;
        }
        let up = run_dir.join(UP);
        std::fs::write(&up, b"").map_err(|error| EngineError::io("write", up, error))?;
        Ok(reserved)
    }

    /// Takes down all that a pod shares. What is not there is no error. The caller holds the pod's lock.
    pub(in super::super) fn lower_pod(&self, id: &str) -> Result<(), EngineError> {
        let run_dir = self.paths().run_container(id);
        let gone = |path: PathBuf, done: std::io::Result<()>| match done {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("remove", path, error))
            }
            _ => Ok(()),
        };
        let up = run_dir.join(UP);
        gone(up.clone(), std::fs::remove_file(&up))?;
        let ports = self.ports_path(id);
        gone(ports.clone(), std::fs::remove_file(&ports))?;
        self.end_holder(id)?;
        for kind in ["ipc", "uts", "pid"] {
            namespace::remove(&run_dir.join(kind))?;
        }
        let shm = run_dir.join(SHM);
        if shm.exists() {
            namespace::unmount(&shm)?;
            gone(shm.clone(), std::fs::remove_dir(&shm))?;
        }
        self.tear_down_network(id, None)
    }

    /// Takes down what a pod shares, unless one of its containers is in it. `except` is one that has ended just now. Blocks the
    /// thread.
    ///
    /// # Errors
    /// Those of taking down; what is left is tried again at the next wake.
    pub fn settle_pod(&self, id: &str, except: Option<&str>) -> Result<(), EngineError> {
        let _lock = lock_object(&self.paths().locks(), id)?;
        if self.is_pod_in_use(id, except)? {
            return Ok(());
        }
        self.lower_pod(id)
    }

    /// As [`Self::settle_pod`], for the pod of a container that has ended, perhaps without a monitor to see to it.
    pub(in super::super) async fn settle_pod_of(&self, container: &Container) -> Result<(), EngineError> {
        let Some(pod) = container.definition.pod.clone() else { return Ok(()) };
        if !self.paths().run_container(&pod).join(UP).exists() {
            return Ok(());
        }
        let (engine, member) = (self.clone(), container.row.id.clone());
        super::super::blocking(move || {
            let ended = !engine.live(&member)?.phase.is_alive();
            engine.settle_pod(&pod, ended.then_some(member.as_str()))
        })
        .await
    }

    /// Whether a container of the pod has processes, will have some at once, or is just being started or changed.
    pub(in super::super) fn is_pod_in_use(
        &self,
        id: &str,
        except: Option<&str>,
    ) -> Result<bool, EngineError> {
        for member in self.store()?.pod_members(id)? {
            if except == Some(member.id.as_str()) {
                continue;
            }
            let told = RunState::load(&self.paths().run_container(&member.id)).map_err(|error| {
                EngineError::Failed {
                    attempted: "read the state of the container".to_owned(),
                    reason: error.to_string(),
                }
            })?;
            let runs = told.is_some_and(|told| {
                told.init.is_some_and(|init| init.is_alive())
                    || (told.phase == Phase::Starting && told.monitor.is_alive())
            });
            if runs || try_lock_object(&self.paths().locks(), &member.id)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes down pods of which no container runs. Blocks the thread.
    pub(in super::super) fn sweep_pods(&self) -> Result<(), EngineError> {
        for row in self.store()?.pods()? {
            let Some(_lock) = try_lock_object(&self.paths().locks(), &row.id)? else { continue };
            if !self.is_pod_in_use(&row.id, None)?
                && let Err(error) = self.lower_pod(&row.id)
            {
                tracing::warn!(
                    pod = row.name,
                    error = error.full_text(),
                    "cannot take the pod down, left for the next wake"
                );
            }
        }
        Ok(())
    }
}
