//! What is done to all containers of a pod at once, and its end.

use std::future::Future;

use crate::store::{ObjectLock, lock_object};

use super::super::{Engine, EngineError, EventKind, Phase, Process, Streams, blocking};
use super::{Pod, PodMember, PodPhase};

impl Engine {
    /// Starts all containers of a pod that do not run, oldest first. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], [`EngineError::PodEmpty`], [`EngineError::PodPartly`].
    pub async fn start_pod(&self, name: &str) -> Result<(), EngineError> {
        let pod = self.find_pod(name)?;
        self.start_members(&pod).await?;
        self.record_event(EventKind::Pod, "start", &pod.row.id, &pod.row.name);
        Ok(())
    }

    async fn start_members(&self, pod: &Pod) -> Result<(), EngineError> {
        let members = self.pod_members(&pod.row.id)?;
        if members.is_empty() {
            return Err(EngineError::PodEmpty { pod: pod.row.name.clone() });
        }
        let mut failures = Vec::new();
        // One after the other: later ones may need what earlier ones serve.
        for member in members.into_iter().filter(|member| !member.phase.is_alive()) {
            match self.start(&member.id, Streams::default()).await {
                // Somebody else has started it, or it is gone.
                Ok(_) | Err(EngineError::WrongState { .. } | EngineError::NotFound { .. }) => {}
                Err(error) => failures.push((member.name, error.full_text())),
            }
        }
        partly(pod, "start", failures)
    }

    /// Stops all containers of a pod at once. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], [`EngineError::PodPartly`].
    pub async fn stop_pod(&self, name: &str, timeout_usec: Option<u64>) -> Result<(), EngineError> {
        let pod = self.find_pod(name)?;
        self.stop_members(&pod, timeout_usec).await?;
        self.record_event(EventKind::Pod, "stop", &pod.row.id, &pod.row.name);
        Ok(())
    }

    async fn stop_members(&self, pod: &Pod, timeout_usec: Option<u64>) -> Result<(), EngineError> {
        let members = self.pod_members(&pod.row.id)?;
        let stop =
            move |engine: Engine, id: String| async move { engine.stop(&id, timeout_usec).await.map(drop) };
        self.at_once(pod, "stop", members, stop).await
    }

    /// Stops all containers of a pod that run, and starts all. Must run to its end once begun.
    ///
    /// # Errors
    /// Those of [`Self::stop_pod`] and [`Self::start_pod`].
    pub async fn restart_pod(&self, name: &str, timeout_usec: Option<u64>) -> Result<(), EngineError> {
        let pod = self.find_pod(name)?;
        self.stop_members(&pod, timeout_usec).await?;
        self.start_members(&pod).await?;
        self.record_event(EventKind::Pod, "restart", &pod.row.id, &pod.row.name);
        Ok(())
    }

    /// Sends a signal to the first process of each container that runs.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], [`EngineError::PodNotRunning`], [`EngineError::PodPartly`].
    pub async fn kill_pod(&self, name: &str, signal: i32) -> Result<(), EngineError> {
        let kill = move |engine: Engine, id: String| async move { engine.kill(&id, signal) };
        self.to_those(name, "kill", "runs", Phase::is_alive, kill).await
    }

    /// Freezes all containers that run.
    ///
    /// # Errors
    /// As for [`Self::kill_pod`].
    pub async fn pause_pod(&self, name: &str) -> Result<(), EngineError> {
        let pause = |engine: Engine, id: String| async move { engine.pause(&id).await };
        self.to_those(name, "pause", "runs", |phase| phase == Phase::Running, pause).await
    }

    /// Lets all paused containers go on.
    ///
    /// # Errors
    /// As for [`Self::kill_pod`].
    pub async fn resume_pod(&self, name: &str) -> Result<(), EngineError> {
        let resume = |engine: Engine, id: String| async move { engine.resume(&id).await };
        self.to_those(name, "resume", "is paused", |phase| phase == Phase::Paused, resume).await
    }

    /// The processes of each container that runs, in the order of the containers. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], [`EngineError::PodNotRunning`].
    pub fn top_pod(&self, name: &str) -> Result<Vec<(PodMember, Vec<Process>)>, EngineError> {
        let pod = self.find_pod(name)?;
        let mut found = Vec::new();
        for member in self.pod_members(&pod.row.id)?.into_iter().filter(|member| member.phase.is_alive()) {
            match self.top(&member.id) {
                Ok(processes) => found.push((member, processes)),
                // It has ended meanwhile.
                Err(EngineError::NotFound { .. } | EngineError::WrongState { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            let attempted = "list the processes of";
            return Err(EngineError::PodNotRunning { attempted, pod: pod.row.name, wanted: "runs" });
        }
        Ok(found)
    }

    async fn to_those<F>(
        &self,
        name: &str,
        attempted: &'static str,
        wanted: &'static str,
        fits: impl Fn(Phase) -> bool,
        act: impl Fn(Engine, String) -> F,
    ) -> Result<(), EngineError>
    where
        F: Future<Output = Result<(), EngineError>> + Send + 'static,
    {
        let pod = self.find_pod(name)?;
        let mut members = self.pod_members(&pod.row.id)?;
        members.retain(|member| fits(member.phase));
        if members.is_empty() {
            return Err(EngineError::PodNotRunning { attempted, pod: pod.row.name, wanted });
        }
        self.at_once(&pod, attempted, members, act).await?;
        self.record_event(EventKind::Pod, attempted, &pod.row.id, &pod.row.name);
        Ok(())
    }

    async fn at_once<F>(
        &self,
        pod: &Pod,
        attempted: &'static str,
        members: Vec<PodMember>,
        act: impl Fn(Engine, String) -> F,
    ) -> Result<(), EngineError>
    where
        F: Future<Output = Result<(), EngineError>> + Send + 'static,
    {
        let begin = |member: PodMember| (member.name, tokio::spawn(act(self.clone(), member.id)));
        let tasks: Vec<_> = members.into_iter().map(begin).collect();
        let mut failures = Vec::new();
        for (name, task) in tasks {
            match task.await {
                Ok(Ok(()) | Err(EngineError::NotFound { .. })) => {}
                Ok(Err(error)) => failures.push((name, error.full_text())),
                Err(error) => failures.push((name, error.to_string())),
            }
        }
        partly(pod, attempted, failures)
    }

    /// Removes a pod with all its containers, and their volumes without a name that no other container uses. Their records go in one step; what is left on the disk if this is cut short goes at
    /// the next wake. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`]; [`EngineError::PodStillRunning`] unless `force`.
    pub async fn remove_pod(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let pod = self.find_pod(name)?;
        let id = pod.row.id.clone();
        loop {
            let members = self.pod_members(&id)?;
            if force {
                for member in members.iter().filter(|member| member.phase.is_alive()) {
                    self.end_at_once(&member.id).await?;
                }
            }
            let (engine, of) = (self.clone(), id.clone());
            match blocking(move || engine.remove_pod_locked(&of, &members)).await? {
                Removal::Done(members) => {
                    for member in members {
                        self.record_event(EventKind::Container, "remove", &member.id, &member.name);
                    }
                    self.record_event(EventKind::Pod, "remove", &id, &pod.row.name);
                    return Ok(());
                }
                Removal::Runs(container) if !force => {
                    return Err(EngineError::PodStillRunning { pod: pod.row.name, container });
                }
                Removal::Gone => return Err(EngineError::PodNotFound { pod: name.to_owned() }),
                // Somebody has started one, or put one in, meanwhile.
                Removal::Runs(_) | Removal::Changed => {}
            }
        }
    }

    fn remove_pod_locked(&self, id: &str, members: &[PodMember]) -> Result<Removal, EngineError> {
        let mut ids: Vec<String> = members.iter().map(|member| member.id.clone()).collect();
        ids.sort();
        let dir = self.paths().locks();
        let mut locks: Vec<ObjectLock> =
            ids.iter().map(|member| lock_object(&dir, member)).collect::<Result<_, _>>()?;
        locks.push(lock_object(&dir, id)?);
        for member in members {
            if self.live(&member.id)?.phase.is_alive() {
                return Ok(Removal::Runs(member.name.clone()));
            }
        }
        let mut used = Vec::new();
        for member in &ids {
            used.push((member, self.store()?.volumes_of_container(member)?));
        }
        let Some(gone) = self.store()?.delete_pod(id, &ids)? else {
            return Ok(if self.store()?.has_pod(id)? { Removal::Changed } else { Removal::Gone });
        };
        if let Err(error) = self.lower_pod(id) {
            tracing::warn!(
                pod = id,
                error = error.full_text(),
                "cannot take the pod down, left for the next wake"
            );
        }
        for (member, volumes) in &used {
            // Mounted still only if a monitor was killed.
            if let Err(error) = self.release_these_volumes(member, volumes) {
                tracing::warn!(
                    id = member,
                    error = error.full_text(),
                    "cannot release its volumes, ignoring"
                );
            }
        }
        self.remove_volumes_of_container(&gone);
        for member in ids.iter().map(String::as_str).chain([id]) {
            self.remove_remains(member);
        }
        Ok(Removal::Done(members.to_vec()))
    }

    /// Removes all pods of which no container runs any more; their ids. Must run to its end once begun.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn prune_pods(&self) -> Result<Vec<String>, EngineError> {
        let mut removed = Vec::new();
        for summary in self.pods()? {
            if summary.phase != PodPhase::Exited {
                continue;
            }
            match self.remove_pod(&summary.pod.row.id, false).await {
                Ok(()) => removed.push(summary.pod.row.id),
                // Somebody else was quicker.
                Err(EngineError::PodNotFound { .. } | EngineError::PodStillRunning { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

enum Removal {
    Done(Vec<PodMember>),
    /// This container.
    Runs(String),
    /// Other containers are in it.
    Changed,
    Gone,
}

fn partly(pod: &Pod, attempted: &'static str, failures: Vec<(String, String)>) -> Result<(), EngineError> {
    if failures.is_empty() {
        return Ok(());
    }
    Err(EngineError::PodPartly { attempted, pod: pod.row.name.clone(), failures })
}
