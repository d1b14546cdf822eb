//! The holder of a pod's pid namespace: a process of ours that is PID 1 there, for as long as a container of the pod runs.
//! What it does is told in [`crate::pod_holder`].

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::monitor::state::ProcessRef;
use crate::network::namespace;
use crate::runtime::cgroup::Cgroup;

use super::super::stop::open_process;
use super::super::{Engine, EngineError, launch, oci, place};
use super::Pod;

const HOLDER: &str = "holder";

impl Engine {
    fn holder_path(&self, id: &str) -> PathBuf {
        self.paths().run_container(id).join(HOLDER)
    }

    /// The holder that lives.
    pub(super) fn holder_of(&self, id: &str) -> Option<ProcessRef> {
        let text = std::fs::read_to_string(self.holder_path(id)).ok()?;
        let (pid, start_time) = text.trim_end().split_once(' ')?;
        let holder = ProcessRef { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? };
        holder.is_alive().then_some(holder)
    }

    pub(super) fn start_holder(&self, pod: &Pod) -> Result<(), EngineError> {
        let id = &pod.row.id;
        let failed = |reason: String| EngineError::Failed {
            attempted: format!("start the first process of the pod {:?}", pod.row.name),
            reason,
        };
        let mut command = Command::new(self.program());
        command
            .arg("pod-holder")
            .arg(self.paths().run_container(id))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        // On a thread of its own, whose children are born in another pid namespace; it reaps the first of them.
        std::thread::Builder::new()
            .name("holder".to_owned())
            .stack_size(32 << 10)
            .spawn(move || {
                let spawned = unshare(CloneFlags::CLONE_NEWPID)
                    .map_err(std::io::Error::from)
                    .and_then(|()| command.spawn())
                    .map(|mut child| (child.stdout.take(), child));
                drop(command);
                match spawned {
                    Ok((ready, mut child)) => {
                        let _ = tell.send(Ok((child.id(), ready)));
                        // Nobody else could do anything about an error.
                        let _ = child.wait();
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        let spawned = told.recv().map_err(|_| failed("its thread has ended".to_owned()))?;
        let (pid, ready) = spawned.map_err(|error| failed(error.to_string()))?;
        let holder = i32::try_from(pid)
            .ok()
            .and_then(ProcessRef::of)
            .ok_or_else(|| failed("it has ended at once".to_owned()))?;
        let record = format!("{} {}\n", holder.pid, holder.start_time);
        launch::write(&self.holder_path(id), record.as_bytes())?;
        // Nobody joins before it has left all that is the host's.
        let mut answer = [0];
        match ready.map(|mut ready| ready.read_exact(&mut answer)) {
            Some(Ok(())) if answer == *b"r" => {}
            _ => return Err(failed("it could not leave the host's file system".to_owned())),
        }
        if let Err(error) = place_holder(pod, holder.pid) {
            tracing::debug!(pod = pod.row.name, error, "the pod's first process stays where the service is");
        }
        let own = format!("/proc/{}/ns/pid", holder.pid);
        Ok(namespace::keep(own.as_ref(), &self.namespace_of_pod(id, "pid"))?)
    }

    /// Kills the holder, and with it whatever is left in its pid namespace.
    pub(super) fn end_holder(&self, id: &str) -> Result<(), EngineError> {
        if let Some(pidfd) = self.holder_of(id).and_then(open_process) {
            // It may have ended just now.
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, None));
        }
        let path = self.holder_path(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(EngineError::io("remove", path, error));
            }
            _ => {}
        }
        if let Ok(cgroup) = Cgroup::open(&oci::cgroup_path(id))
            && let Err(error) = cgroup.remove()
        {
            tracing::debug!(pod = id, %error, "cannot remove the pod's cgroup, left for the next wake");
        }
        Ok(())
    }
}

/// Out of the service's cgroup, with which it has nothing to do.
fn place_holder(pod: &Pod, pid: i32) -> Result<(), String> {
    if place::uses_scopes() {
        let name = format!("pod-{}", pod.row.name);
        return place::enter_pod_scope(&name, &pod.row.name, pid).map_err(|error| error.full_text());
    }
    Cgroup::open(&oci::cgroup_path(&pod.row.id))
        .and_then(|cgroup| cgroup.take_in(pid))
        .map_err(|error| error.to_string())
}
