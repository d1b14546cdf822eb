//! Containers as Kubernetes has them: what of a definition has a word there.

use serde_json::{Map, Value, json};

use super::spec::{MountKind, Restart};
use super::{Container, Engine, EngineError};

/// Documents for Kubernetes.
#[derive(Debug, Clone, PartialEq)]
pub struct Kube {
    /// A Pod.
    pub pod: Value,
    /// A Service that leads to its published ports; `None` if it has none.
    pub service: Option<Value>,
}

impl Engine {
    /// Describes containers, which are to be in one pod, for Kubernetes.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::Unsupported`] for a container without an image.
    pub fn kube(&self, name: &str, containers: &[String]) -> Result<Kube, EngineError> {
        let mut found = Vec::new();
        for container in containers {
            found.push(self.find(container)?);
        }
        let (mut described, mut volumes) = (Vec::new(), Vec::new());
        for container in &found {
            described.push(describe(container, &mut volumes)?);
        }
        let labels = json!({"app": name});
        let restart = found.first().map_or(Restart::No, |first| first.definition.spec.restart);
        let policy = match restart {
            Restart::No => "Never",
            Restart::OnFailure { .. } => "OnFailure",
            Restart::Always | Restart::UnlessStopped => "Always",
        };
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": described, "volumes": volumes, "restartPolicy": policy},
        });
        let ports: Vec<Value> = found
            .iter()
            .flat_map(|container| &container.definition.ports)
            .flat_map(|port| {
                (0..port.range).map(|offset| {
                    let inside = port.container_port.saturating_add(offset);
                    json!({"name": format!("{}-{inside}", port.protocol.as_str()), "port": inside, "targetPort": inside,
                           "protocol": port.protocol.as_str().to_uppercase()})
                })
            })
            .collect();
        let service = (!ports.is_empty()).then(|| {
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "labels": labels},
                "spec": {"selector": labels, "type": "NodePort", "ports": ports},
            })
        });
        Ok(Kube { pod, service })
    }
}

fn describe(container: &Container, volumes: &mut Vec<Value>) -> Result<Value, EngineError> {
    let definition = &container.definition;
    let spec = &definition.spec;
    let Some(image) = &spec.image else {
        return Err(EngineError::Unsupported {
            feature: format!("describing {:?} for Kubernetes", container.row.name),
            reason: "it is made of a directory of this host, which no other has".to_owned(),
        });
    };
    let env: Vec<Value> =
        definition.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let ports: Vec<Value> = definition
        .ports
        .iter()
        .flat_map(|port| {
            (0..port.range).map(|offset| {
                let inside = port.container_port.saturating_add(offset);
                let mut described =
                    json!({"containerPort": inside, "protocol": port.protocol.as_str().to_uppercase()});
                if let Some(host) = port.host_port {
                    described["hostPort"] = json!(host.saturating_add(offset));
                }
                described
            })
        })
        .collect();
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        let name = format!("volume-{}", volumes.len());
        let volume = match &mount.kind {
            MountKind::Bind { source, .. } => json!({"name": name, "hostPath": {"path": source}}),
            // What is in a volume is on this host alone.
            other => {
                let medium = if matches!(other, MountKind::Tmpfs { .. }) { "Memory" } else { "" };
                json!({"name": name, "emptyDir": {"medium": medium}})
            }
        };
        volumes.push(volume);
        mounts.push(json!({"name": name, "mountPath": mount.target, "readOnly": mount.read_only}));
    }
    let mut limits = Map::new();
    if let Some(bytes) = spec.resources.memory_bytes {
        limits.insert("memory".to_owned(), json!(bytes.to_string()));
    }
    if let Some(quota) = spec.resources.cpu_quota_usec {
        let period = spec.resources.cpu_period_usec.and_then(|period| i64::try_from(period).ok());
        let thousandths = quota.saturating_mul(1000) / period.unwrap_or(100_000).max(1);
        limits.insert("cpu".to_owned(), json!(format!("{thousandths}m")));
    }
    let mut security = json!({
        "privileged": spec.privileged,
        "allowPrivilegeEscalation": !spec.no_new_privileges,
        "readOnlyRootFilesystem": spec.read_only_root,
        "capabilities": {"add": short(&spec.capabilities_add), "drop": short(&spec.capabilities_drop)},
    });
    if let Ok(uid) = definition.user.split(':').next().unwrap_or_default().parse::<u32>() {
        security["runAsUser"] = json!(uid);
    }
    Ok(json!({
        "name": container.row.name,
        "image": image,
        "command": definition.command,
        "env": env,
        "ports": ports,
        "volumeMounts": mounts,
        "workingDir": definition.workdir,
        "tty": spec.terminal,
        "stdin": spec.stdin_open,
        "resources": {"limits": limits},
        "securityContext": security,
    }))
}

/// Kubernetes writes capabilities without their prefix.
fn short(capabilities: &[String]) -> Vec<&str> {
    capabilities.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect()
}
