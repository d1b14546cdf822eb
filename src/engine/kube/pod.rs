//! What containers of one pod have in common, and what follows from all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{GeneratedKube, KubeRequest, dns_label};
use crate::engine::pod::PodDefinition;
use crate::engine::spec::{PortMapping, Restart};
use crate::engine::{Container, Engine, EngineError};

/// A pod that is being described.
pub(super) struct Draft<'a> {
    pub engine: &'a Engine,
    name: String,
    /// Words of the owner that Kubernetes takes as labels, and those that it only keeps.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    containers: Vec<Value>,
    pub volumes: Vec<Value>,
    /// Other fields of the specification.
    pub spec: Map<String, Value>,
    pub dns: Dns,
    /// Fields of the pod's security context.
    pub security: Map<String, Value>,
    /// What the volumes without a name are called that several containers have, by id.
    pub nameless: BTreeMap<String, String>,
    /// Those of the pod, which its first container gets.
    pub ports: Vec<PortMapping>,
    published: Vec<Value>,
    restart: Option<Restart>,
    stop_usec: u64,
    pub warnings: Vec<String>,
}

/// How names are found.
#[derive(Default)]
pub(super) struct Dns {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
    pub hosts: BTreeMap<String, String>,
}

impl<'a> Draft<'a> {
    pub fn new(engine: &'a Engine, name: &str) -> Self {
        Self {
            engine,
            name: dns_label(name),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
            spec: Map::new(),
            dns: Dns::default(),
            security: Map::new(),
            nameless: BTreeMap::new(),
            ports: Vec::new(),
            published: Vec::new(),
            restart: None,
            stop_usec: 0,
            warnings: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// What a pod of ours says for all of its containers.
    pub fn describe_pod(&mut self, definition: &PodDefinition) {
        let spec = &definition.spec;
        self.keep_labels(&spec.labels);
        self.ports.clone_from(&spec.ports);
        self.dns.servers.clone_from(&spec.dns_servers);
        self.dns.search.clone_from(&spec.dns_search);
        self.dns.options.clone_from(&spec.dns_options);
        self.dns.hosts.clone_from(&spec.extra_hosts);
        if let Some(hostname) = &spec.hostname {
            self.spec.insert("hostname".to_owned(), json!(hostname));
        }
        let share = definition.share;
        if share.pid {
            self.spec.insert("shareProcessNamespace".to_owned(), json!(true));
        }
        if !(share.net && share.ipc && share.uts) {
            self.warn("a pod there shares net, ipc and uts, whatever is shared here");
        }
        if spec.networks.is_some() {
            self.warn("networks are those of the cluster");
        }
        if spec.shm_size_bytes.is_some() {
            self.warn("the size of a common /dev/shm has no word");
        }
    }

    pub fn warn(&mut self, what: impl std::fmt::Display) {
        self.warnings.push(format!("{}: {what}", self.name));
    }

    /// Labels that Kubernetes would refuse are annotations.
    pub fn keep_labels(&mut self, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            let kept = if is_label(key, value) { &mut self.labels } else { &mut self.annotations };
            kept.insert(key.clone(), value.clone());
        }
    }

    /// Adds a container of the pod.
    pub fn add(&mut self, container: &Container) -> Result<(), EngineError> {
        let mut described = self.describe(container)?;
        let taken = |name: &str, containers: &[Value]| containers.iter().any(|other| other["name"] == name);
        // What was made of a document has its pod's name before its own.
        let own = container.row.name.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('-'));
        let is_in_pod = container.definition.pod.is_some();
        let mut name =
            dns_label(own.filter(|own| is_in_pod && !own.is_empty()).unwrap_or(&container.row.name));
        while taken(&name, &self.containers) {
            name.push('x');
        }
        described.insert("name".to_owned(), json!(name));
        self.containers.push(described.into());
        let Container { definition, row } = container;
        match self.restart.replace(definition.spec.restart) {
            Some(first) if policy(first) != policy(definition.spec.restart) => {
                self.warn(format_args!(
                    "containers of a pod have one restart policy, and {:?} another one",
                    row.name
                ));
                self.restart = Some(first);
            }
            Some(first) => self.restart = Some(first),
            None => {}
        }
        self.stop_usec = self.stop_usec.max(definition.stop_timeout_usec);
        Ok(())
    }

    /// The ports of a container, of which the service knows from now on.
    pub fn publish(&mut self, ports: &[PortMapping]) -> Vec<Value> {
        let mut described = Vec::new();
        for port in ports {
            for offset in 0..port.range {
                let inside = port.container_port.saturating_add(offset);
                let protocol = port.protocol.as_str();
                let mut one = json!({"containerPort": inside, "protocol": protocol.to_uppercase()});
                if let Some(host) = port.host_port {
                    one["hostPort"] = json!(host.saturating_add(offset));
                }
                if let Some(ip) = port.host_ip {
                    one["hostIP"] = json!(ip);
                }
                described.push(one);
                self.published.push(
                    json!({"name": format!("{protocol}-{inside}"), "port": inside, "targetPort": inside,
                    "protocol": protocol.to_uppercase()}),
                );
            }
        }
        described
    }

    /// The documents.
    pub fn finish(mut self, request: &KubeRequest, generated: &mut GeneratedKube) {
        self.labels.insert("app".to_owned(), self.name.clone());
        let mut metadata = json!({"name": self.name, "labels": self.labels});
        if !self.annotations.is_empty() {
            metadata["annotations"] = json!(self.annotations);
        }
        let mut spec = std::mem::take(&mut self.spec);
        spec.insert("containers".to_owned(), self.containers.into());
        spec.insert("restartPolicy".to_owned(), json!(policy(self.restart.unwrap_or_default())));
        spec.insert("terminationGracePeriodSeconds".to_owned(), json!(self.stop_usec.div_ceil(1_000_000)));
        put(&mut spec, "volumes", self.volumes.into());
        put(&mut spec, "securityContext", self.security.into());
        self.dns.add_to(&mut spec);
        generated.documents.push(request.document(&self.name, metadata, spec));
        if request.service && !self.published.is_empty() {
            generated.documents.push(json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": self.name, "labels": {"app": self.name}},
                "spec": {"selector": {"app": self.name}, "type": "NodePort", "ports": self.published},
            }));
        }
        generated.warnings.append(&mut self.warnings);
    }
}

impl Dns {
    fn add_to(self, spec: &mut Map<String, Value>) {
        let mut config = Map::new();
        if !self.servers.is_empty() {
            // Only these, as here.
            spec.insert("dnsPolicy".to_owned(), json!("None"));
        }
        put(&mut config, "nameservers", json!(self.servers));
        put(&mut config, "searches", json!(self.search));
        let options = self.options.iter().map(|option| match option.split_once(':') {
            Some((name, value)) => json!({"name": name, "value": value}),
            None => json!({"name": option}),
        });
        put(&mut config, "options", options.collect());
        put(spec, "dnsConfig", config.into());
        let mut aliases = BTreeMap::<String, Vec<String>>::new();
        for (name, address) in self.hosts {
            aliases.entry(address).or_default().push(name);
        }
        let aliases = aliases.into_iter().map(|(ip, names)| json!({"ip": ip, "hostnames": names}));
        put(spec, "hostAliases", aliases.collect());
    }
}

/// What is empty is left out.
pub(super) fn put(fields: &mut Map<String, Value>, name: &str, value: Value) {
    let is_empty = match &value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(truth) => !truth,
        Value::Number(_) => false,
    };
    if !is_empty {
        fields.insert(name.to_owned(), value);
    }
}

fn policy(restart: Restart) -> &'static str {
    match restart {
        Restart::No => "Never",
        Restart::OnFailure { .. } => "OnFailure",
        Restart::Always | Restart::UnlessStopped => "Always",
    }
}

/// Whether Kubernetes takes it for a label. Source: its documentation, "Labels and Selectors", syntax and character set.
fn is_label(key: &str, value: &str) -> bool {
    let is_word = |text: &str| {
        let ends = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        text.len() <= 63
            && ends(text.chars().next())
            && ends(text.chars().next_back())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
    };
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("dormouse", key));
    let is_prefix = prefix.len() <= 253
        && prefix.split('.').all(|part| {
            is_word(part)
                && part
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
        });
    is_prefix && is_word(name) && (value.is_empty() || is_word(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kubernetes_takes_is_a_label() {
        for (key, value) in [("a", ""), ("example.org/a", "b"), ("a.b_c-d", "1.2")] {
            assert!(is_label(key, value), "{key}={value}");
        }
        for (key, value) in [("", "a"), ("a b", "c"), ("a", "b c"), ("a/", "b"), ("A.org/a", "b"), ("a", "-")]
        {
            assert!(!is_label(key, value), "{key}={value}");
        }
    }
}
