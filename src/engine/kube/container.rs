//! One container of a pod.
//!
//! Every field of its specification is taken as it is described; what is left is what Kubernetes has no word for, and is told.

use serde_json::{Map, Value, json};

use super::play::escape;
use super::pod::{Draft, put};
use super::{SOURCE_LABEL, dns_label};
use crate::engine::health::HealthCheck;
use crate::engine::network::DEFAULT_NETWORK;
use crate::engine::spec::{
    ContainerSpec, HealthTest, Mount, MountKind, Namespace, NetworkAttachment, Resources, Seccomp,
    SecretKind, SecretUse, UserNamespace,
};
use crate::engine::volumes::Volume;
use crate::engine::{Container, EngineError, secrets};

/// Fields that say what is said otherwise, or what matters only here.
const TOLD_OTHERWISE: &[&str] = &[
    "name",
    "pod",
    "image",
    "restart",
    "auto_remove",
    "stop_timeout_usec",
    "ports",
    "publish_all",
    "mounts",
    "volumes_from",
    "secrets",
    "env",
    "labels",
    "annotations",
    "entrypoint",
    "command",
    "health_check",
    "terminal",
    "stdin_open",
    "read_only_root",
    "privileged",
    "no_new_privileges",
    "capabilities_add",
    "capabilities_drop",
    "workdir",
    "sysctls",
    "dns_servers",
    "dns_search",
    "dns_options",
    "extra_hosts",
    "shm_size_bytes",
    "log",
];

impl Draft<'_> {
    /// All but its name. What belongs to the pod goes there.
    pub fn describe(&mut self, container: &Container) -> Result<Map<String, Value>, EngineError> {
        let definition = &container.definition;
        let spec = &definition.spec;
        let Some(image) = &spec.image else {
            return Err(EngineError::Unsupported {
                feature: format!("describing {:?} for Kubernetes", container.row.name),
                reason: "it is made of a directory of this host, which no other has".to_owned(),
            });
        };
        let mut left = left_over(spec)?;
        let mut fields = Map::new();
        fields.insert("image".to_owned(), json!(image));
        // Kubernetes would replace $(NAME) in these.
        let is_known = |name: &str| {
            spec.env.contains_key(name) || secrets::variables_of(definition).any(|known| known == name)
        };
        let words = |words: Option<&[String]>| {
            json!(words.map(|words| words.iter().map(|word| escape(word, is_known)).collect::<Vec<_>>()))
        };
        let command = words(spec.command.as_deref());
        match spec.entrypoint.as_deref() {
            // The command is all that is executed.
            Some([]) => put(&mut fields, "command", command),
            Some(entrypoint) => {
                put(&mut fields, "command", words(Some(entrypoint)));
                put(&mut fields, "args", command);
            }
            None => put(&mut fields, "args", command),
        }
        put(&mut fields, "workingDir", json!(spec.workdir));
        put(&mut fields, "tty", json!(spec.terminal));
        put(&mut fields, "stdin", json!(spec.stdin_open));
        let ports =
            if definition.pod.is_some() { std::mem::take(&mut self.ports) } else { definition.ports.clone() };
        let ports = self.publish(&ports);
        put(&mut fields, "ports", ports.into());

        let variable =
            |(name, value): (&String, &String)| json!({"name": name, "value": escape(value, is_known)});
        let mut env: Vec<Value> = spec.env.iter().map(variable).collect();
        let mut mounts = Vec::new();
        for mount in definition.mounts() {
            self.mount(container, mount, &mut mounts)?;
        }
        for secret in &spec.secrets {
            self.secret(secret, &mut env, &mut mounts);
        }
        if let Some(bytes) = spec.shm_size_bytes {
            let name =
                self.volume("shm", json!({"emptyDir": {"medium": "Memory", "sizeLimit": bytes.to_string()}}));
            mounts.push(json!({"name": name, "mountPath": "/dev/shm"}));
        }
        put(&mut fields, "env", env.into());
        put(&mut fields, "volumeMounts", mounts.into());

        put(&mut fields, "resources", limits(&spec.resources, &mut left));
        let security = self.security_of(spec, &mut left);
        put(&mut fields, "securityContext", security);
        if let Some(health) = &definition.health {
            fields.insert("livenessProbe".to_owned(), probe(health));
        }
        self.keep_labels(&spec.labels);
        self.annotations.extend(spec.annotations.clone());
        self.share(spec, &mut left);
        if !left.is_empty() {
            let names: Vec<String> = left.keys().map(|field| field.replace('_', " ")).collect();
            self.warn(format_args!(
                "Kubernetes has no word for what {:?} says of {}",
                container.row.name,
                names.join(", ")
            ));
        }
        Ok(fields)
    }

    /// A volume of the pod; its name.
    fn volume(&mut self, wanted: &str, mut volume: Value) -> String {
        let wanted = dns_label(wanted);
        let name = |number: usize| if number == 0 { wanted.clone() } else { format!("{wanted}-{number}") };
        for number in 0.. {
            let name = name(number);
            let taken = self.volumes.iter().find(|other| other["name"] == name.as_str());
            volume["name"] = json!(name);
            match taken {
                // Several containers have one volume.
                Some(same) if *same == volume && volume.get("emptyDir").is_none() => return name,
                Some(_) => {}
                None => {
                    self.volumes.push(volume);
                    return name;
                }
            }
        }
        wanted
    }

    fn mount(
        &mut self,
        container: &Container,
        mount: &Mount,
        mounts: &mut Vec<Value>,
    ) -> Result<(), EngineError> {
        let target = &mount.target;
        if !mount.flags.is_empty() || mount.chown || mount.id_map.is_some() {
            self.warn(format_args!("flags and owners of the mount at {target} have no word"));
        }
        let mut mounted = Map::new();
        let (name, volume) = match &mount.kind {
            MountKind::Bind { source, propagation, .. } => {
                let there = match propagation.trim_start_matches('r') {
                    "shared" => "Bidirectional",
                    "slave" => "HostToContainer",
                    _ => "",
                };
                put(&mut mounted, "mountPropagation", json!(there));
                (source.as_str(), json!({"hostPath": {"path": source}}))
            }
            MountKind::Tmpfs { size_bytes, .. } => {
                let mut about = json!({"medium": "Memory"});
                if let Some(size) = size_bytes {
                    about["sizeLimit"] = json!(size.to_string());
                }
                (target.as_str(), json!({"emptyDir": about}))
            }
            MountKind::Volume { name, .. } => {
                let id = container.definition.volumes.get(target);
                let volume = id.map(|id| self.engine.find_volume(id)).transpose()?;
                match volume.filter(|_| name.is_some()) {
                    Some(volume) if volume.row.anonymous => {
                        let name = self.nameless(&volume, target);
                        mounted.insert("name".to_owned(), json!(name));
                        ("", Value::Null)
                    }
                    Some(volume) => {
                        let claim = volume.row.name;
                        let about = json!({"persistentVolumeClaim": {"claimName": claim}});
                        let name = self.volume(&claim, about);
                        mounted.insert("name".to_owned(), json!(name));
                        ("", Value::Null)
                    }
                    None => (target.as_str(), json!({"emptyDir": {}})),
                }
            }
            MountKind::Image { image } => (target.as_str(), json!({"image": {"reference": image}})),
        };
        if !volume.is_null() {
            let name = self.volume(name, volume);
            mounted.insert("name".to_owned(), json!(name));
        }
        mounted.insert("mountPath".to_owned(), json!(target));
        put(&mut mounted, "readOnly", json!(mount.read_only));
        put(&mut mounted, "subPath", json!(mount.subpath));
        mounts.push(mounted.into());
        Ok(())
    }

    /// A volume that lives no longer than its containers, and that several of them may have.
    fn nameless(&mut self, volume: &Volume, target: &str) -> String {
        if let Some(name) = self.nameless.get(&volume.row.id) {
            return name.clone();
        }
        // One that was made of a document is what it was there.
        let told = volume.definition.labels.get(SOURCE_LABEL);
        let told: Option<Value> = told.and_then(|told| serde_json::from_str(told).ok());
        let mut source = told.filter(Value::is_object).unwrap_or_else(|| json!({"emptyDir": {}}));
        let wanted = source["name"].as_str().unwrap_or(target).to_owned();
        if let Some(map) = source["configMap"]["name"].as_str() {
            self.warn(format_args!("the ConfigMap {map:?} is not part of it"));
        }
        if let Some(fields) = source.as_object_mut() {
            fields.remove("name");
        }
        let name = self.volume(&wanted, source);
        self.nameless.insert(volume.row.id.clone(), name.clone());
        name
    }

    /// A secret there has keys; ours is the one that is called as the secret.
    fn secret(&mut self, used: &SecretUse, env: &mut Vec<Value>, mounts: &mut Vec<Value>) {
        let SecretUse { secret: ours, kind } = used;
        let found = self.engine.find_secret(ours).ok();
        let is_of_a_document = found.is_some_and(|found| found.definition.labels.contains_key(SOURCE_LABEL));
        let (there, secret) = match ours.split_once('_').filter(|_| is_of_a_document) {
            Some((name, key)) => (name.to_owned(), key),
            None => (dns_label(ours), ours.as_str()),
        };
        match kind {
            SecretKind::Env { name } => {
                let from = json!({"secretKeyRef": {"name": there, "key": secret}});
                env.push(json!({"name": name.as_ref().unwrap_or(ours), "valueFrom": from}));
            }
            SecretKind::File { target, mode, uid, gid } => {
                let target = target.as_ref().unwrap_or(ours);
                let path =
                    if target.starts_with('/') { target.clone() } else { format!("/run/secrets/{target}") };
                let about = json!({"secret": {"secretName": there, "defaultMode": mode}});
                let name = self.volume(&format!("secret-{ours}"), about);
                mounts.push(json!({"name": name, "mountPath": path, "subPath": secret, "readOnly": true}));
                if (*uid, *gid) != (0, 0) {
                    self.warn(format_args!("the secret {secret:?} belongs to root there"));
                }
            }
        }
        let hint = format!("kubectl create secret generic {there} --from-file={secret}=FILE");
        self.warn(format_args!("the secret {ours:?} is not part of it: {hint}"));
    }

    fn security_of(&mut self, spec: &ContainerSpec, left: &mut Map<String, Value>) -> Value {
        let mut security = Map::new();
        put(&mut security, "privileged", json!(spec.privileged));
        put(&mut security, "readOnlyRootFilesystem", json!(spec.read_only_root));
        if spec.no_new_privileges {
            security.insert("allowPrivilegeEscalation".to_owned(), json!(false));
        }
        let mut capabilities = Map::new();
        put(&mut capabilities, "add", json!(short(&spec.capabilities_add)));
        put(&mut capabilities, "drop", json!(short(&spec.capabilities_drop)));
        put(&mut security, "capabilities", capabilities.into());
        let user = spec.user.as_deref().unwrap_or_default();
        let (user, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
        let ids: Result<Vec<u32>, _> = [Some(user), group].into_iter().flatten().map(str::parse).collect();
        if let Ok(ids) = ids {
            left.remove("user");
            for (field, id) in ["runAsUser", "runAsGroup"].into_iter().zip(ids) {
                security.insert(field.to_owned(), json!(id));
            }
        }
        if spec.seccomp == Seccomp::Unconfined {
            left.remove("seccomp");
            security.insert("seccompProfile".to_owned(), json!({"type": "Unconfined"}));
        }
        if spec.unmasked.iter().any(|path| path.eq_ignore_ascii_case("all")) {
            left.remove("unmasked");
            security.insert("procMount".to_owned(), json!("Unmasked"));
        }
        security.into()
    }

    /// What is the pod's there, and the container's own here.
    fn share(&mut self, spec: &ContainerSpec, left: &mut Map<String, Value>) {
        let namespaces = [
            ("network_namespace", "hostNetwork", spec.network_namespace()),
            ("pid_namespace", "hostPID", &spec.pid_namespace),
            ("ipc_namespace", "hostIPC", &spec.ipc_namespace),
            ("uts_namespace", "", &spec.uts_namespace),
        ];
        for (ours, theirs, namespace) in namespaces {
            match namespace {
                Namespace::Host if !theirs.is_empty() => {
                    left.remove(ours);
                    self.spec.insert(theirs.to_owned(), json!(true));
                }
                Namespace::Pod(_) => drop(left.remove(ours)),
                _ => {}
            }
        }
        if matches!(spec.user_namespace, UserNamespace::Auto { .. }) {
            left.remove("user_namespace");
            self.spec.insert("hostUsers".to_owned(), json!(false));
        }
        let default =
            [NetworkAttachment { network: DEFAULT_NETWORK.to_owned(), ..NetworkAttachment::default() }];
        if spec.networks.as_deref() == Some(&default[..]) {
            left.remove("networks");
        }
        if let Some(hostname) = &spec.hostname {
            left.remove("hostname");
            self.spec.entry("hostname").or_insert_with(|| json!(hostname));
        }
        let groups: Result<Vec<u32>, _> = spec.groups.iter().map(|group| group.parse()).collect();
        if let Ok(groups) = groups.as_deref() {
            left.remove("groups");
            put(&mut self.security, "supplementalGroups", json!(groups));
        }
        let sysctls = spec.sysctls.iter().map(|(name, value)| json!({"name": name, "value": value}));
        put(&mut self.security, "sysctls", sysctls.collect());
        self.dns.servers.extend(&spec.dns_servers);
        self.dns.search.extend(spec.dns_search.clone());
        self.dns.options.extend(spec.dns_options.clone());
        for (name, address) in &spec.extra_hosts {
            match address.parse::<std::net::IpAddr>() {
                Ok(_) => drop(self.dns.hosts.insert(name.clone(), address.clone())),
                Err(_) => self.warn(format_args!("the name {name} can't lead to {address} there")),
            }
        }
    }
}

/// The fields that differ from their defaults, and have no place of their own below.
fn left_over(spec: &ContainerSpec) -> Result<Map<String, Value>, EngineError> {
    let object = |spec: &ContainerSpec| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(EngineError::Failed {
            attempted: "read a specification".to_owned(),
            reason: error.to_string(),
        }),
    };
    let default = object(&ContainerSpec::default())?;
    let mut fields = object(spec)?;
    fields.retain(|field, value| {
        default.get(field) != Some(value) && !TOLD_OTHERWISE.contains(&field.as_str())
    });
    Ok(fields)
}

fn limits(resources: &Resources, left: &mut Map<String, Value>) -> Value {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    let bytes = |bytes: Option<i64>| json!(bytes.map(|bytes| bytes.to_string()));
    put(&mut limits, "memory", bytes(resources.memory_bytes));
    put(&mut requests, "memory", bytes(resources.memory_reservation_bytes));
    let period = resources.cpu_period_usec.and_then(|period| i64::try_from(period).ok()).unwrap_or(100_000);
    let quota = resources.cpu_quota_usec.filter(|quota| *quota > 0);
    let cpu = quota.map(|quota| format!("{}m", quota.saturating_mul(1000) / period.max(1)));
    put(&mut limits, "cpu", json!(cpu));
    // 1024 are one processor. Source: Kubernetes, MilliCPUToShares.
    let cpu = resources.cpu_shares.map(|shares| format!("{}m", shares.saturating_mul(1000) / 1024));
    put(&mut requests, "cpu", json!(cpu));
    let told = Resources {
        memory_bytes: resources.memory_bytes,
        memory_reservation_bytes: resources.memory_reservation_bytes,
        cpu_quota_usec: resources.cpu_quota_usec,
        cpu_period_usec: resources.cpu_period_usec,
        cpu_shares: resources.cpu_shares,
        ..Resources::default()
    };
    if told == *resources {
        left.remove("resources");
    } else if left.remove("resources").is_some() {
        left.insert("some_limits".to_owned(), Value::Null);
    }
    let mut fields = Map::new();
    put(&mut fields, "limits", limits.into());
    put(&mut fields, "requests", requests.into());
    fields.into()
}

/// Kubernetes does not look at the image's check: what is checked here is checked there.
fn probe(health: &HealthCheck) -> Value {
    let command = match &health.test {
        HealthTest::Command(words) => json!(words),
        HealthTest::Shell(text) => json!(["/bin/sh", "-c", text]),
        HealthTest::Systemd => json!(["systemctl", "is-system-running", "--quiet"]),
        HealthTest::None => json!(["true"]),
    };
    let seconds = |usec: u64| usec.div_ceil(1_000_000);
    let mut probe = json!({
        "exec": {"command": command},
        "periodSeconds": seconds(health.interval_usec).max(1),
        "timeoutSeconds": seconds(health.timeout_usec).max(1),
        "failureThreshold": health.retries.max(1),
    });
    if health.start_period_usec > 0 {
        probe["initialDelaySeconds"] = json!(seconds(health.start_period_usec));
    }
    probe
}

/// Kubernetes writes capabilities without their prefix.
fn short(capabilities: &[String]) -> Vec<&str> {
    capabilities.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect()
}
