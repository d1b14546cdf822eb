//! Containers.

mod create;
mod document;
mod inspect;
mod life;
mod list;
mod logs;
mod membership;
mod processes;
mod ps;
mod stats;

pub(super) use life::{signal_of, usec_of_seconds};
pub(super) use list::{One, containers_count};
pub(super) use processes::{Columns, table};
pub(super) use stats::stats_of;

use super::{Call, CallError, PodmanInterface};

impl PodmanInterface {
    pub(super) async fn container_call(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "ListContainers" => self.list_containers(call).await,
            "GetContainersByStatus" => self.containers_by_status(call).await,
            "GetContainersByContext" => self.containers_by_context(call).await,
            "GetContainer" => self.get_container(call).await,
            "ContainerExists" => self.container_exists(call).await,
            "Ps" => self.ps(call).await,
            "InspectContainer" | "ContainerInspectData" => self.inspect_container(call).await,
            "ContainerConfig" => self.container_config(call).await,
            "ContainerStateData" => self.container_state(call).await,
            "ContainerArtifacts" => self.container_artifacts(call).await,
            "Spec" => self.spec(call).await,
            "CreateContainer" => self.create_container(call).await,
            "StartContainer" => self.start_container(call).await,
            "StopContainer" => self.stop_container(call).await,
            "InitContainer" => self.init_container(call).await,
            "RestartContainer" => self.restart_container(call).await,
            "KillContainer" => self.kill_container(call).await,
            "PauseContainer" => self.pause_container(call).await,
            "UnpauseContainer" => self.unpause_container(call).await,
            "WaitContainer" => self.wait_container(call).await,
            "RemoveContainer" => self.remove_container(call).await,
            "EvictContainer" => self.evict_container(call).await,
            "DeleteStoppedContainers" => self.delete_stopped(call).await,
            "HealthCheckRun" => self.health_check(call).await,
            "ContainerCheckpoint" | "ContainerRestore" => self.checkpoint(call).await,
            "ListContainerMounts" => self.list_mounts(call).await,
            "MountContainer" => self.mount(call).await,
            "UnmountContainer" => self.unmount(call).await,
            "GetContainerLogs" => self.container_logs(call).await,
            "GetContainersLogs" => self.containers_logs(call).await,
            "Top" | "ListContainerProcesses" => self.top(call).await,
            "GetContainerStats" => self.container_stats(call).await,
            "GetContainerStatsWithHistory" => self.container_stats_since(call).await,
            "ListContainerChanges" => self.container_changes(call).await,
            "ExportContainer" => self.export_container(call).await,
            _ => Err(CallError::MethodNotImplemented),
        }
    }
}
