//! A pod of a document: its containers, volumes and what they share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::container::PlannedContainer;
use super::document::{Document, Kind};
use super::fields::{Fields, Place, Rest};
use super::security::Security;
use super::sources::Sources;
use super::volumes::Volumes;
use crate::engine::pod::{PodSpec, Share};
use crate::engine::spec::{ContainerSpec, Log, Namespace, PortMapping, Restart};
use crate::engine::{EngineError, KubePlay};

/// A pod that is to be made.
pub(super) struct PlannedPod {
    pub place: Place,
    pub spec: PodSpec,
    pub volumes: Volumes,
    /// Those that run before the others first.
    pub containers: Vec<PlannedContainer>,
}

/// A pod that is being read: what its containers are told.
pub(super) struct PodReader<'a> {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub sources: &'a Sources,
    pub security: Security,
    pub restart: Restart,
    pub stop_timeout_usec: Option<u64>,
    pub log: Log,
    pub volumes: Volumes,
    pub ports: Vec<PortMapping>,
    share: Share,
    host: [bool; 3],
    names: Names,
}

/// How names are found, for a container whose network is the host's.
#[derive(Clone, Default)]
struct Names {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
    hosts: BTreeMap<String, String>,
}

/// What a single host has no use for.
const OF_CLUSTERS: &[&str] = &[
    "affinity",
    "automountServiceAccountToken",
    "dnsPolicy",
    "enableServiceLinks",
    "nodeName",
    "nodeSelector",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "schedulerName",
    "serviceAccount",
    "serviceAccountName",
    "tolerations",
    "topologySpreadConstraints",
];

/// Metadata that servers write, or that is for them.
const OF_SERVERS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "name",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads the pod of a document.
pub(super) fn read(
    mut document: Document<'_>,
    sources: &Sources,
    request: &KubePlay,
) -> Result<PlannedPod, EngineError> {
    let name = document.pod_name().unwrap_or_default();
    let fields = &mut document.fields;
    let place = fields.place("metadata.name");
    let Some(mut spec) = fields.object("spec")? else {
        return Err(fields.invalid("spec", "it is missing"));
    };
    let mut metadata = fields.object("metadata")?;
    if document.kind.has_template() {
        if document.kind == Kind::Deployment
            && spec.number::<u32>("replicas")?.is_some_and(|count| count != 1)
        {
            spec.warn("replicas", "one pod is made, as there is one host");
        }
        let Some(mut template) = spec.object("template")? else {
            return Err(spec.invalid("template", "it is missing"));
        };
        spec.pass_over(&[
            "backoffLimit",
            "completionMode",
            "completions",
            "manualSelector",
            "minReadySeconds",
            "parallelism",
            "paused",
            "podReplacementPolicy",
            "progressDeadlineSeconds",
            "revisionHistoryLimit",
            "selector",
            "strategy",
            "suspend",
            "ttlSecondsAfterFinished",
            "updateStrategy",
        ]);
        spec.finish(Rest::Told)?;
        metadata = template.object("metadata")?;
        let Some(inner) = template.object("spec")? else {
            return Err(template.invalid("spec", "it is missing"));
        };
        spec = inner;
        template.finish(Rest::Told)?;
    }
    document.fields.finish(Rest::Told)?;
    let (mut labels, mut annotations, mut namespace) = (BTreeMap::new(), BTreeMap::new(), None);
    if let Some(mut metadata) = metadata {
        labels = metadata.map("labels")?;
        annotations = metadata.map("annotations")?;
        namespace = metadata.text("namespace")?;
        metadata.pass_over(OF_SERVERS);
        metadata.finish(Rest::Told)?;
    }
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    pod(place, name, namespace, labels, annotations, spec, sources, request)
}

#[allow(clippy::too_many_arguments)] // all of it is of one pod
fn pod(
    place: Place,
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    mut spec: Fields<'_>,
    sources: &Sources,
    request: &KubePlay,
) -> Result<PlannedPod, EngineError> {
    let host = [spec.is("hostNetwork")? || request.host_network, spec.is("hostPID")?, spec.is("hostIPC")?];
    let share =
        Share { net: !host[0], pid: spec.is("shareProcessNamespace")? && !host[1], ipc: !host[2], uts: true };
    if spec.truth("hostUsers")? == Some(false) {
        return Err(spec.invalid("hostUsers", "pods have the users of the host here; take it out"));
    }
    let restart = match spec.text("restartPolicy")?.as_deref() {
        None | Some("" | "Always") => Restart::Always,
        Some("OnFailure") => Restart::OnFailure { retries_max: None },
        Some("Never") => Restart::No,
        Some(other) => return Err(spec.invalid("restartPolicy", format!("there is no {other:?}"))),
    };
    let stop_timeout_usec =
        spec.number::<u32>("terminationGracePeriodSeconds")?.map(|seconds| u64::from(seconds) * 1_000_000);
    let hostname = spec.text("hostname")?.filter(|hostname| !hostname.is_empty());
    let security = spec.object("securityContext")?.map(Security::read_of_pod).transpose()?;
    let names = Names::read(&mut spec)?;
    let init = spec.objects("initContainers")?;
    if !init.is_empty() && !request.start {
        let reason = "they run before the start of the others, which is not wanted";
        return Err(spec.invalid("initContainers", reason));
    }
    let containers = spec.objects("containers")?;
    if containers.is_empty() {
        return Err(spec.invalid("containers", "there is none"));
    }
    let mut mounts = BTreeMap::new();
    for container in init.iter().chain(&containers) {
        for mounted in container.look("volumeMounts").and_then(Value::as_array).into_iter().flatten() {
            if let Some(volume) = mounted["name"].as_str() {
                *mounts.entry(volume.to_owned()).or_insert(0) += 1;
            }
        }
    }
    let volumes = Volumes::read(&mut spec, sources, &mounts)?;
    spec.pass_over(OF_CLUSTERS);
    spec.finish(Rest::Told)?;

    let mut reader = PodReader {
        name,
        namespace,
        labels,
        annotations,
        sources,
        security: security.unwrap_or_default(),
        restart,
        stop_timeout_usec,
        log: request.log,
        volumes,
        ports: Vec::new(),
        share,
        host,
        names: names.clone(),
    };
    let mut planned: Vec<PlannedContainer> = Vec::new();
    let all = init.into_iter().map(|one| (one, true)).chain(containers.into_iter().map(|one| (one, false)));
    for (fields, is_init) in all {
        let container = reader.container(fields, is_init)?;
        if planned.iter().any(|other| other.name == container.name) {
            let reason = format!("there are two containers {:?}", container.name);
            return Err(container.place.below("name").invalid(reason));
        }
        planned.push(container);
    }
    let mut ports = std::mem::take(&mut reader.ports);
    // What was asked for beside the document takes its place.
    for asked in &request.ports {
        let last = asked.container_port.saturating_add(asked.range.saturating_sub(1));
        ports.retain(|port| {
            port.protocol != asked.protocol || !(asked.container_port..=last).contains(&port.container_port)
        });
    }
    ports.extend(request.ports.iter().cloned());
    let mut spec = PodSpec {
        name: Some(reader.name),
        share: (share != Share::default()).then_some(share),
        hostname,
        shm_size_bytes: reader.volumes.shm_size,
        labels: reader.labels,
        ..PodSpec::default()
    };
    if share.net {
        spec.networks.clone_from(&request.networks);
        spec.ports = ports;
        spec.dns_servers = names.servers;
        spec.dns_search = names.search;
        spec.dns_options = names.options;
        spec.extra_hosts = names.hosts;
    }
    Ok(PlannedPod { place, spec, volumes: reader.volumes, containers: planned })
}

impl PodReader<'_> {
    /// What is not the pod's own is said by each container.
    pub fn share(&self, spec: &mut ContainerSpec) {
        let [network, pids, ipc] = self.host;
        if network {
            spec.network_namespace = Some(Namespace::Host);
        }
        if !self.share.net {
            spec.dns_servers.clone_from(&self.names.servers);
            spec.dns_search.clone_from(&self.names.search);
            spec.dns_options.clone_from(&self.names.options);
            spec.extra_hosts.clone_from(&self.names.hosts);
        }
        if pids {
            spec.pid_namespace = Namespace::Host;
        }
        if ipc {
            spec.ipc_namespace = Namespace::Host;
        }
    }
}

impl Names {
    fn read(pod: &mut Fields<'_>) -> Result<Self, EngineError> {
        let mut names = Self::default();
        if let Some(mut config) = pod.object("dnsConfig")? {
            let place = config.place("nameservers");
            for server in config.texts("nameservers")?.unwrap_or_default() {
                let address =
                    server.parse().map_err(|_| place.invalid(format!("{server:?} is no address")))?;
                names.servers.push(address);
            }
            names.search = config.texts("searches")?.unwrap_or_default();
            for mut option in config.objects("options")? {
                let name = option.needed("name")?;
                names.options.push(match option.scalar("value")? {
                    Some(value) => format!("{name}:{value}"),
                    None => name,
                });
                option.finish(Rest::Told)?;
            }
            config.finish(Rest::Told)?;
        }
        for mut alias in pod.objects("hostAliases")? {
            let address = alias.needed("ip")?;
            if address.parse::<IpAddr>().is_err() {
                return Err(alias.invalid("ip", format!("{address:?} is no address")));
            }
            for name in alias.texts("hostnames")?.unwrap_or_default() {
                names.hosts.insert(name, address.clone());
            }
            alias.finish(Rest::Told)?;
        }
        Ok(names)
    }
}
