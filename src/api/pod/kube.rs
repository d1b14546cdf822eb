//! The methods of io.dormouse.Pod that take documents of Kubernetes.

use std::sync::Arc;

use super::{failed, spec_from_wire, wire};
use crate::api::convert::log_from_wire;
use crate::api::{CancelOnDrop, finished, looked_up, ordered};
use crate::engine::{Engine, EngineError, KubePlay, PlayedKube};
use crate::varlink::{Call, CallError};
use crate::wire::container;

pub(super) async fn play(engine: &Engine, call: &mut Call) -> Result<(), CallError> {
    let given: wire::PlayKube_Args = call.parameters()?;
    let request = request(given).map_err(failed)?;
    let reader = engine.clone();
    let plan = looked_up(move || reader.plan_kube(&request)).await.map_err(failed)?;

    // As long as only images are fetched, a client that leaves ends it.
    let cancelled = CancelOnDrop(Arc::default());
    let flag = Arc::clone(&cancelled.0);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<String>();
    let puller = engine.clone();
    let mut task = tokio::task::spawn_blocking(move || {
        let begun = |image: &str| {
            // Nobody wants to know it any more if the client has left.
            let _ = tell.send(image.to_owned());
        };
        puller.pull_for_kube(&plan, &flag, &begun).map(|()| plan)
    });
    let pulled = loop {
        tokio::select! {
            biased;
            Some(image) = told.recv(), if call.wants_more() => {
                call.reply_continues(reply(PlayedKube::default(), Some(image))).await?;
            }
            result = &mut task => break finished(result),
        }
    };
    let plan = pulled.map_err(failed)?;
    let player = engine.clone();
    let played = ordered(call, async move { player.play_kube(plan).await }).await.map_err(failed)?;
    call.reply(reply(played, None)).await
}

pub(super) async fn remove(engine: &Engine, call: &mut Call) -> Result<(), CallError> {
    let given: wire::RemoveKube_Args = call.parameters()?;
    let engine = engine.clone();
    let removed =
        ordered(call, async move { engine.remove_kube(&given.yaml, given.volumes.unwrap_or(false)).await });
    let removed = removed.await.map_err(failed)?;
    call.reply(wire::RemoveKube_Reply {
        pods: removed.pods,
        volumes: removed.volumes,
        secrets: removed.secrets,
        warnings: removed.warnings,
    })
    .await
}

fn reply(played: PlayedKube, pulling: Option<String>) -> wire::PlayKube_Reply {
    let container = |(id, name)| wire::PlayedContainer { id, name };
    let pods = played.pods.into_iter().map(|pod| wire::PlayedPod {
        id: pod.id,
        name: pod.name,
        containers: pod.containers.into_iter().map(container).collect(),
    });
    wire::PlayKube_Reply {
        pods: pods.collect(),
        volumes: played.volumes,
        secrets: played.secrets,
        warnings: played.warnings,
        pulling,
    }
}

fn request(given: wire::PlayKube_Args) -> Result<KubePlay, EngineError> {
    let log = given.log.map(|log| container::LogConfig {
        driver: match log.driver {
            wire::LogConfig_driver::k8sFile => container::LogConfig_driver::k8sFile,
            wire::LogConfig_driver::journald => container::LogConfig_driver::journald,
            wire::LogConfig_driver::none => container::LogConfig_driver::none,
        },
        sizeMaxBytes: log.sizeMaxBytes,
        filesMax: log.filesMax,
    });
    // Both are as they are for a pod that is made alone.
    let of_pod = spec_from_wire(wire::Spec {
        name: None,
        share: None,
        hostname: None,
        networks: given.networks,
        ports: given.ports,
        dnsServers: None,
        dnsSearch: None,
        dnsOptions: None,
        extraHosts: None,
        shmSizeBytes: None,
        labels: None,
    });
    let of_pod = of_pod.map_err(|error| match error {
        EngineError::InvalidSpec { field, reason } => EngineError::InvalidSpec {
            field: field.strip_prefix("spec.").unwrap_or(&field).to_owned(),
            reason,
        },
        other => other,
    })?;
    let host_network = given.hostNetwork.unwrap_or(false);
    if host_network && (of_pod.networks.is_some() || !of_pod.ports.is_empty()) {
        return Err(EngineError::InvalidSpec {
            field: "hostNetwork".to_owned(),
            reason: "on the network of the host there are no others, and no ports to publish".to_owned(),
        });
    }
    Ok(KubePlay {
        yaml: given.yaml,
        config_maps: given.configMaps.unwrap_or_default(),
        replace: given.replace.unwrap_or(false),
        start: given.start.unwrap_or(true),
        networks: of_pod.networks,
        host_network,
        ports: of_pod.ports,
        log: log_from_wire(log)?,
    })
}
