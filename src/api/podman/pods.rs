//! Pods.

use serde_json::{Value, json};

use crate::api::{looked_up, ordered};
use crate::engine::{
    Engine, EngineError, KubeRequest, Phase, PodMember, PodPhase, PodSpec, PodSummary, Share,
};

use super::containers::{Columns, signal_of, stats_of, table, usec_of_seconds};
use super::errors::{failed, failed_if_idle, occurred};
use super::text::{state, time};
use super::{Call, CallError, PodmanInterface, wire};

/// The states that a pod may be asked for by.
const STATES: [&str; 6] = ["Created", "Running", "Paused", "Stopped", "Exited", "Error"];
/// What StopPod says for the containers' own times.
const OWN_TIMEOUT: i64 = -1;

/// Removes all pods.
pub(super) async fn remove_all(engine: &Engine) -> Result<(), EngineError> {
    for summary in engine.pods()? {
        match engine.remove_pod(&summary.pod.row.id, true).await {
            Ok(()) | Err(EngineError::PodNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As Podman calls it.
fn status(summary: &PodSummary) -> &'static str {
    match summary.phase {
        PodPhase::Created => "Created",
        PodPhase::Running | PodPhase::Degraded => "Running",
        PodPhase::Paused => "Paused",
        PodPhase::Exited => "Exited",
    }
}

fn to_wire(summary: &PodSummary) -> wire::ListPodData {
    let member = |member: &PodMember| wire::ListPodContainerInfo {
        name: member.name.clone(),
        id: member.id.clone(),
        status: state(member.phase).to_owned(),
    };
    wire::ListPodData {
        id: summary.pod.row.id.clone(),
        name: summary.pod.row.name.clone(),
        createdat: time(Some(summary.pod.row.created_usec)),
        cgroup: String::new(),
        status: status(summary).to_owned(),
        labels: summary.pod.definition.spec.labels.clone().into_iter().collect(),
        numberofcontainers: summary.members.len().to_string(),
        containersinfo: summary.members.iter().map(member).collect(),
    }
}

/// All of a pod. An empty one has null for its containers, which a client compares with.
fn document(summary: &PodSummary) -> Value {
    let definition = &summary.pod.definition;
    let containers: Vec<Value> =
        summary.members.iter().map(|member| json!({"id": member.id, "state": state(member.phase)})).collect();
    json!({
        "Config": {
            "id": summary.pod.row.id,
            "name": summary.pod.row.name,
            "namespace": "",
            "hostname": definition.spec.hostname.clone().unwrap_or_default(),
            "labels": definition.spec.labels,
            "cgroupParent": "",
            "sharesCgroup": false,
            "sharesIpc": definition.share.ipc,
            "sharesNet": definition.share.net,
            "sharesPid": definition.share.pid,
            "sharesUts": definition.share.uts,
            "infraConfig": {"makeInfraContainer": false, "infraPortBindings": null},
            "created": time(Some(summary.pod.row.created_usec)),
            "lockID": 0,
        },
        "State": {"cgroupPath": "", "infraContainerID": "", "status": status(summary)},
        "Containers": if containers.is_empty() { Value::Null } else { json!(containers) },
    })
}

/// Errors of methods that know pods.
fn failed_pod(error: EngineError) -> CallError {
    let reason = error.full_text();
    match error {
        EngineError::PodNotFound { pod } | EngineError::PodAmbiguous { pod } => {
            CallError::reply("io.podman.PodNotFound", json!({"name": pod, "reason": reason}))
        }
        EngineError::PodEmpty { pod } => {
            CallError::reply("io.podman.NoContainersInPod", json!({"name": pod}))
        }
        EngineError::PodPartly { pod, failures, .. } => {
            let errors: Vec<Value> = failures
                .iter()
                .map(|(container, reason)| json!({"containerid": container, "reason": reason}))
                .collect();
            CallError::reply("io.podman.PodContainerError", json!({"podname": pod, "errors": errors}))
        }
        error => failed(error),
    }
}

/// Errors of methods that know ErrorOccurred alone.
fn failed_anyhow(error: EngineError) -> CallError {
    occurred(error.full_text())
}

impl PodmanInterface {
    pub(super) async fn pod_call(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "CreatePod" => self.create_pod(call).await,
            "ListPods" => {
                let engine = self.engine.clone();
                let pods = looked_up(move || Ok(engine.pods()?.iter().map(to_wire).collect()));
                call.reply(wire::ListPods_Reply { pods: pods.await.map_err(failed)? }).await
            }
            "GetPod" => {
                let given: wire::GetPod_Args = call.parameters()?;
                let pod = to_wire(&self.pod(given.name).await.map_err(failed_pod)?);
                call.reply(wire::GetPod_Reply { pod }).await
            }
            "InspectPod" => {
                let given: wire::InspectPod_Args = call.parameters()?;
                let pod = document(&self.pod(given.name).await.map_err(failed_pod)?).to_string();
                call.reply(wire::InspectPod_Reply { pod }).await
            }
            "PodStateData" => {
                let given: wire::PodStateData_Args = call.parameters()?;
                let config = document(&self.pod(given.name).await.map_err(failed_anyhow)?).to_string();
                call.reply(wire::PodStateData_Reply { config }).await
            }
            "GetPodsByStatus" => self.pods_by_status(call).await,
            "GetPodsByContext" => self.pods_by_context(call).await,
            "TopPod" => self.top_pod(call).await,
            "GetPodStats" => self.pod_stats(call).await,
            "GenerateKube" => self.generate_kube(call).await,
            _ => self.act_on_pod(call).await,
        }
    }

    async fn pod(&self, name: String) -> Result<PodSummary, EngineError> {
        if name.is_empty() {
            // The beginning of every id.
            return Err(EngineError::PodNotFound { pod: name });
        }
        let engine = self.engine.clone();
        looked_up(move || engine.inspect_pod(&name)).await
    }

    async fn create_pod(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::CreatePod_Args { create } = call.parameters()?;
        if create.infra && create.share.is_empty() {
            return Err(occurred("cannot make a pod with an infra container that shares nothing"));
        }
        let mut share = Share { net: false, ipc: false, uts: false, pid: false };
        for word in create.share.iter().flat_map(|words| words.split(',')) {
            match word {
                "net" => share.net = true,
                "ipc" => share.ipc = true,
                "uts" => share.uts = true,
                "pid" => share.pid = true,
                // Each container has a cgroup of its own, which is all that it sees.
                "cgroup" | "" => {}
                other => {
                    return Err(occurred(format!(
                        "{other:?} can't be shared; cgroup, ipc, net, pid and uts can"
                    )));
                }
            }
        }
        let mut flags: Vec<String> = create.publish.iter().map(|port| format!("--publish={port}")).collect();
        flags.extend(["--".to_owned(), "none".to_owned()]);
        let given = (self.read_flags)(flags).map_err(occurred)?;
        let ports = serde_json::from_value(given.get("ports").cloned().unwrap_or_else(|| json!([])))
            .map_err(|error| occurred(format!("cannot publish that: {error}")))?;
        let spec = PodSpec {
            name: Some(create.name).filter(|name| !name.is_empty()),
            share: Some(share),
            ports: crate::api::network_types::ports_from_wire(ports).map_err(failed_anyhow)?,
            labels: create.labels.into_iter().collect(),
            ..PodSpec::default()
        };
        let engine = self.engine.clone();
        let pod = ordered(call, async move { engine.create_pod(spec).await }).await.map_err(failed_anyhow)?;
        call.reply(wire::CreatePod_Reply { pod: pod.row.id }).await
    }

    async fn pods_by_status(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetPodsByStatus_Args = call.parameters()?;
        let known = |word: &String| STATES.iter().any(|state| state.eq_ignore_ascii_case(word));
        if let Some(wrong) = given.statuses.iter().find(|word| !known(word)) {
            return Err(occurred(format!("{wrong:?} is no state of a pod; {} are", STATES.join(", "))));
        }
        let engine = self.engine.clone();
        let pods = looked_up(move || {
            let all = engine.pods()?;
            let wanted = all.iter().filter(|pod| {
                let now = status(pod);
                given.statuses.iter().any(|word| word.eq_ignore_ascii_case(now))
            });
            Ok(wanted.map(|pod| pod.pod.row.id.clone()).collect())
        });
        call.reply(wire::GetPodsByStatus_Reply { pods: pods.await.map_err(failed)? }).await
    }

    async fn pods_by_context(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetPodsByContext_Args = call.parameters()?;
        let engine = self.engine.clone();
        let pods = looked_up(move || {
            if !given.all && !given.latest {
                return given.args.iter().map(|name| Ok(engine.inspect_pod(name)?.pod.row.id)).collect();
            }
            let mut ids = engine.pods()?.into_iter().map(|pod| pod.pod.row.id);
            Ok(if given.all { ids.collect() } else { ids.next_back().into_iter().collect() })
        });
        call.reply(wire::GetPodsByContext_Reply { pods: pods.await.map_err(failed_anyhow)? }).await
    }

    /// Methods that do something to all containers of a pod.
    async fn act_on_pod(&self, call: &mut Call) -> Result<(), CallError> {
        let method = call.method().to_owned();
        let given: Value = call.parameters()?;
        let name = given["name"].as_str().unwrap_or_default().to_owned();
        let pod = self.pod(name).await.map_err(failed_pod)?;
        let id = pod.pod.row.id.clone();
        let (engine, same) = (self.engine.clone(), id.clone());
        let number = |key: &str| given[key].as_i64().unwrap_or_default();
        let timeout = Some(number("timeout")).filter(|seconds| *seconds != OWN_TIMEOUT).map(usec_of_seconds);
        let force = given["force"].as_bool().unwrap_or_default();
        let signal = if method == "KillPod" { signal_of(number("signal"))? } else { 0 };
        let done = ordered(call, async move {
            match method.as_str() {
                "StartPod" => engine.start_pod(&same).await,
                "StopPod" => engine.stop_pod(&same, timeout).await,
                "RestartPod" => engine.restart_pod(&same, None).await,
                "KillPod" => engine.kill_pod(&same, signal).await,
                "PausePod" => engine.pause_pod(&same).await,
                "UnpausePod" => engine.resume_pod(&same).await,
                _ => engine.remove_pod(&same, force).await,
            }
        });
        match done.await {
            // Nothing was to be done for any of them.
            Ok(()) | Err(EngineError::PodNotRunning { .. }) => {}
            Err(error) => return Err(failed_pod(error)),
        }
        call.reply(json!({"pod": id})).await
    }

    async fn top_pod(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::TopPod_Args = call.parameters()?;
        let columns = Columns::parse(&given.descriptors)?;
        let mut name = given.pod;
        if given.latest {
            let engine = self.engine.clone();
            let newest = looked_up(move || Ok(engine.pods()?.pop()));
            name = newest.await.map_err(failed)?.map(|pod| pod.pod.row.id).unwrap_or_default();
        }
        let pod = self.pod(name).await.map_err(failed_pod)?;
        let (engine, id, name) = (self.engine.clone(), pod.pod.row.id, pod.pod.row.name);
        let stats = looked_up(move || {
            let found = engine.top_pod(&id)?;
            let processes: Vec<_> = found.into_iter().flat_map(|(_, processes)| processes).collect();
            Ok(table(&columns, &processes))
        });
        let stats = stats.await.map_err(|error| match error {
            EngineError::PodNotRunning { .. } => occurred(format!("no container of {name:?} runs")),
            error => failed(error),
        })?;
        call.reply(wire::TopPod_Reply { stats }).await
    }

    async fn pod_stats(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetPodStats_Args = call.parameters()?;
        let pod = self.pod(given.name).await.map_err(failed_pod)?;
        let mut containers = Vec::new();
        for member in pod.members.iter().filter(|member| member.phase != Phase::Created) {
            match stats_of(&self.engine, &member.id, None).await {
                Ok(stats) => containers.push(stats),
                Err(EngineError::NotFound { .. } | EngineError::WrongState { .. }) => {}
                Err(error) => return Err(failed_if_idle(error)),
            }
        }
        if containers.is_empty() {
            return Err(CallError::reply("io.podman.NoContainerRunning", json!({})));
        }
        call.reply(wire::GetPodStats_Reply { pod: pod.pod.row.id, containers }).await
    }

    async fn generate_kube(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GenerateKube_Args = call.parameters()?;
        let id = match self.pod(given.name.clone()).await {
            Ok(pod) => pod.pod.row.id,
            Err(_) => self.one(given.name).await.map_err(failed_anyhow)?.listed.id,
        };
        let request = KubeRequest { names: vec![id], service: given.service, ..KubeRequest::default() };
        let engine = self.engine.clone();
        let generated = looked_up(move || engine.generate_kube(&request)).await.map_err(failed_anyhow)?;
        // Never nothing: clients read it as a document.
        let document =
            |index: usize| generated.documents.get(index).map_or("{}".to_owned(), ToString::to_string);
        let pod = wire::KubePodService { pod: document(0), service: document(1) };
        call.reply(wire::GenerateKube_Reply { pod }).await
    }
}
