//! One container of a document, as a specification of ours.

use std::collections::BTreeMap;

use super::fields::{Fields, Place, Rest};
use super::pod::PodReader;
use super::sources::missing;
use super::words::{expand, thousandths};
use crate::engine::EngineError;
use crate::engine::spec::{
    ContainerSpec, HealthSpec, HealthTest, PortMapping, Resources, Restart, SecretKind, SecretUse,
};
use crate::monitor::config::OnFailure;
use crate::network::ports::Protocol;

/// When an image is asked of its registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pull {
    Always,
    /// Podman's default, too, but for tags that move; what is here under such a name may have been built here.
    #[default]
    Missing,
    Never,
}

/// A container that is to be made.
#[derive(Debug)]
pub(super) struct PlannedContainer {
    pub place: Place,
    /// As the document has it.
    pub name: String,
    pub pull: Pull,
    pub spec: ContainerSpec,
    /// Mounts of the specification, and which of the pod's own volumes they are of.
    pub shared: Vec<(usize, usize)>,
    /// It must not be root.
    pub not_root: Option<Place>,
    /// It ends before those that are not so begin.
    pub is_init: bool,
}

/// What a variable is.
enum Variable {
    Text(String),
    /// Ours.
    Secret(String),
}

impl PodReader<'_> {
    pub fn container(
        &mut self,
        mut fields: Fields<'_>,
        is_init: bool,
    ) -> Result<PlannedContainer, EngineError> {
        let name = fields.needed("name")?;
        let image = fields.needed("image")?;
        let pull = match fields.text("imagePullPolicy")?.as_deref() {
            None | Some("") => Pull::default(),
            Some("Always") => Pull::Always,
            Some("IfNotPresent") => Pull::Missing,
            Some("Never") => Pull::Never,
            Some(other) => return Err(fields.invalid("imagePullPolicy", format!("there is no {other:?}"))),
        };
        if is_init && fields.has("restartPolicy") {
            return Err(fields.invalid("restartPolicy", "init containers run to their end here"));
        }
        let mut spec = ContainerSpec {
            image: Some(image),
            name: Some(format!("{}-{name}", self.name)),
            annotations: self.annotations.clone(),
            labels: self.labels.clone(),
            restart: if is_init { Restart::No } else { self.restart },
            stop_timeout_usec: self.stop_timeout_usec,
            log: self.log,
            terminal: fields.is("tty")?,
            stdin_open: fields.is("stdin")?,
            workdir: fields.text("workingDir")?,
            ..ContainerSpec::default()
        };
        self.share(&mut spec);
        let variables = self.variables(&mut fields)?;
        for (field, to) in [("command", &mut spec.entrypoint), ("args", &mut spec.command)] {
            let place = fields.place(field);
            let words = fields.texts(field)?.filter(|words| !words.is_empty());
            let expanded = |word: String| replaced(&place, &word, &variables);
            *to = words.map(|words| words.into_iter().map(expanded).collect()).transpose()?;
        }
        for (name, variable) in variables {
            match variable {
                Variable::Text(value) => drop(spec.env.insert(name, value)),
                Variable::Secret(secret) => {
                    spec.secrets.push(SecretUse { secret, kind: SecretKind::Env { name: Some(name) } });
                }
            }
        }
        self.ports(&mut fields)?;
        if let Some(given) = fields.object("resources")? {
            spec.resources = resources(given)?;
        }
        let mut security = self.security.clone();
        if let Some(given) = fields.object("securityContext")? {
            security.read_of_container(given, &mut spec)?;
        }
        let not_root = security.apply(&fields.place, &mut spec)?;
        if !is_init {
            health(&mut fields, &mut spec)?;
            if let Some(mut lifecycle) = fields.object("lifecycle")? {
                spec.stop_signal = lifecycle.text("stopSignal")?;
                lifecycle.finish(Rest::Told)?;
            }
        }
        let shared = self.volumes.mount(&mut fields, is_init, &mut spec)?;
        fields.pass_over(&["stdinOnce", "terminationMessagePath", "terminationMessagePolicy"]);
        let place = fields.place.clone();
        fields.finish(Rest::Told)?;
        Ok(PlannedContainer { place, name, pull, spec, shared, not_root, is_init })
    }

    /// Later ones take the place of earlier ones.
    fn variables(&self, fields: &mut Fields<'_>) -> Result<BTreeMap<String, Variable>, EngineError> {
        let mut variables = BTreeMap::new();
        for mut from in fields.objects("envFrom")? {
            let prefix = from.text("prefix")?.unwrap_or_default();
            if let Some(mut map) = from.object("configMapRef")? {
                let (name, optional) = (map.needed("name")?, map.is("optional")?);
                match self.sources.map(&name) {
                    Some(entries) => {
                        for (key, bytes) in entries {
                            let value = text_of(&map.place, key, bytes)?;
                            variables.insert(format!("{prefix}{key}"), Variable::Text(value));
                        }
                    }
                    None if optional => {}
                    None => return Err(map.invalid("name", missing("ConfigMap", &name))),
                }
                map.finish(Rest::Told)?;
            }
            if let Some(mut secret) = from.object("secretRef")? {
                let (name, optional) = (secret.needed("name")?, secret.is("optional")?);
                match self.sources.keys_of(&name) {
                    Some(keys) => {
                        for (key, ours) in keys {
                            variables.insert(format!("{prefix}{key}"), Variable::Secret(ours));
                        }
                    }
                    None if optional => {}
                    None => return Err(secret.invalid("name", missing("Secret", &name))),
                }
                secret.finish(Rest::Told)?;
            }
            from.finish(Rest::Refused)?;
        }
        for mut one in fields.objects("env")? {
            let name = one.needed("name")?;
            let place = one.place("value");
            let value = match (one.text("value")?, one.object("valueFrom")?) {
                (Some(_), Some(_)) => return Err(place.invalid("and valueFrom exclude each other")),
                (Some(text), None) => Some(Variable::Text(replaced(&place, &text, &variables)?)),
                (None, Some(from)) => self.variable_from(from)?,
                (None, None) => Some(Variable::Text(String::new())),
            };
            if let Some(value) = value {
                variables.insert(name, value);
            }
            one.finish(Rest::Told)?;
        }
        Ok(variables)
    }

    /// `None` for what is optional and not there.
    fn variable_from(&self, mut from: Fields<'_>) -> Result<Option<Variable>, EngineError> {
        let mut found = None;
        if let Some(mut reference) = from.object("configMapKeyRef")? {
            let (name, key) = (reference.needed("name")?, reference.needed("key")?);
            let optional = reference.is("optional")?;
            found = match self.sources.map(&name).map(|entries| entries.get(&key)) {
                Some(Some(bytes)) => Some(Variable::Text(text_of(&reference.place, &key, bytes)?)),
                _ if optional => None,
                Some(None) => {
                    return Err(reference.invalid("key", format!("{name:?} has no key {key:?}")));
                }
                None => return Err(reference.invalid("name", missing("ConfigMap", &name))),
            };
            reference.finish(Rest::Told)?;
        }
        if let Some(mut reference) = from.object("secretKeyRef")? {
            let (name, key) = (reference.needed("name")?, reference.needed("key")?);
            let optional = reference.is("optional")?;
            found = match self.sources.secret(&name, &key) {
                Some(ours) => Some(Variable::Secret(ours)),
                None if optional => None,
                None => {
                    let reason = format!("{}; the key {key:?} is wanted of it", missing("Secret", &name));
                    return Err(reference.invalid("name", reason));
                }
            };
            reference.finish(Rest::Told)?;
        }
        if let Some(mut reference) = from.object("fieldRef")? {
            let path = reference.needed("fieldPath")?;
            found = Some(Variable::Text(self.own_field(&reference, &path)?));
            reference.pass_over(&["apiVersion"]);
            reference.finish(Rest::Told)?;
        }
        from.finish(Rest::Refused)?;
        Ok(found)
    }

    fn own_field(&self, reference: &Fields<'_>, path: &str) -> Result<String, EngineError> {
        let of_map = |map: &BTreeMap<String, String>, kind: &str| {
            let key = path.strip_prefix(kind)?.strip_prefix("['")?.strip_suffix("']")?;
            Some(map.get(key).cloned().unwrap_or_default())
        };
        let value = match path {
            "metadata.name" => Some(self.name.clone()),
            "metadata.namespace" => Some(self.namespace.clone()),
            "spec.nodeName" => Some(rustix::system::uname().nodename().to_string_lossy().into_owned()),
            _ => of_map(&self.labels, "metadata.labels")
                .or_else(|| of_map(&self.annotations, "metadata.annotations")),
        };
        value.ok_or_else(|| {
            reference.invalid(
                "fieldPath",
                format!(
                    "{path:?} is not known before the start; metadata.name, metadata.namespace, metadata.labels['KEY'], metadata.annotations['KEY'] and spec.nodeName are"
                ),
            )
        })
    }

    fn ports(&mut self, fields: &mut Fields<'_>) -> Result<(), EngineError> {
        for mut port in fields.objects("ports")? {
            let Some(container_port) = port.number::<u16>("containerPort")?.filter(|port| *port > 0) else {
                return Err(port.invalid("containerPort", "it is missing"));
            };
            let host_port = port.number::<u16>("hostPort")?.filter(|port| *port > 0);
            let host_ip = match port.text("hostIP")?.filter(|ip| !ip.is_empty()) {
                None => None,
                Some(ip) => match ip.parse() {
                    Ok(ip) => Some(ip),
                    Err(_) => return Err(port.invalid("hostIP", format!("{ip:?} is no address"))),
                },
            };
            let word = port.text("protocol")?.unwrap_or_else(|| "TCP".to_owned());
            let Some(protocol) = Protocol::parse(&word.to_ascii_lowercase()) else {
                return Err(port.invalid("protocol", format!("{word:?} is none of TCP, UDP and SCTP")));
            };
            port.pass_over(&["name"]);
            port.finish(Rest::Told)?;
            // Without one it only says what is served, as with podman.
            if host_port.is_some() {
                self.ports.push(PortMapping { container_port, host_port, host_ip, protocol, range: 1 });
            }
        }
        Ok(())
    }
}

fn text_of(place: &Place, key: &str, bytes: &[u8]) -> Result<String, EngineError> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let refused = || place.invalid(format!("the key {key:?} holds bytes that no variable can hold"));
    text.map(str::to_owned).ok_or_else(refused)
}

/// A text with its variables replaced. A secret stays where nobody reads it.
fn replaced(
    place: &Place,
    text: &str,
    variables: &BTreeMap<String, Variable>,
) -> Result<String, EngineError> {
    expand(text, |name| {
        match variables.get(name) {
        None => Ok(None),
        Some(Variable::Text(value)) => Ok(Some(value.clone())),
        Some(Variable::Secret(_)) => Err(place.invalid(format!(
            "$({name}) is a secret, and would be one no more in there; have the program read its variable {name}"
        ))),
    }
    })
}

fn resources(mut given: Fields<'_>) -> Result<Resources, EngineError> {
    let mut resources = Resources::default();
    let quantity = |fields: &mut Fields<'_>, name: &str| match fields.scalar(name)? {
        None => Ok(None),
        Some(text) => match thousandths(&text).and_then(|quantity| i64::try_from(quantity).ok()) {
            Some(quantity) => Ok(Some(quantity)),
            None => Err(fields.invalid(name, format!("{text:?} is no quantity, as 500m and 64Mi are"))),
        },
    };
    let bytes = |quantity: i64| (quantity / 1000).saturating_add((quantity % 1000).min(1));
    if let Some(mut limits) = given.object("limits")? {
        resources.memory_bytes = quantity(&mut limits, "memory")?.filter(|memory| *memory > 0).map(bytes);
        if let Some(cpu) = quantity(&mut limits, "cpu")?.filter(|cpu| *cpu > 0) {
            resources.cpu_period_usec = Some(100_000);
            // The kernel has no less.
            resources.cpu_quota_usec = Some(cpu.saturating_mul(100).max(1_000));
        }
        limits.finish(Rest::Told)?;
    }
    if let Some(mut requests) = given.object("requests")? {
        resources.memory_reservation_bytes =
            quantity(&mut requests, "memory")?.filter(|memory| *memory > 0).map(bytes);
        // 1024 are one processor. Source: Kubernetes, MilliCPUToShares.
        let shares = |cpu: i64| u64::try_from(cpu.saturating_mul(1024) / 1000).unwrap_or(0).clamp(2, 262_144);
        resources.cpu_shares = quantity(&mut requests, "cpu")?.filter(|cpu| *cpu > 0).map(shares);
        requests.finish(Rest::Told)?;
    }
    given.finish(Rest::Told)?;
    Ok(resources)
}

/// The liveness probe is the health check, and a startup probe the time in which that may fail.
fn health(fields: &mut Fields<'_>, spec: &mut ContainerSpec) -> Result<(), EngineError> {
    let startup = fields.object("startupProbe")?.map(Probe::read).transpose()?.flatten();
    let Some(alive) = fields.object("livenessProbe")?.map(Probe::read).transpose()?.flatten() else {
        if startup.is_some() {
            fields.warn("startupProbe", "without a livenessProbe it is not carried out");
        }
        return Ok(());
    };
    let mut start_period = alive.delay;
    if let Some(startup) = startup {
        if startup.test != alive.test {
            fields.warn("startupProbe", "the livenessProbe is run in its time, and may fail in it");
        }
        start_period = startup.delay.saturating_add(startup.period.saturating_mul(startup.threshold.into()));
    }
    let usec = |seconds: u64| seconds.saturating_mul(1_000_000);
    spec.health_check = Some(HealthSpec {
        test: Some(alive.test),
        interval_usec: Some(usec(alive.period)),
        timeout_usec: Some(usec(alive.timeout)),
        retries: Some(alive.threshold),
        start_period_usec: Some(usec(start_period)),
        start_interval_usec: None,
        // The restart policy decides, there too.
        on_failure: OnFailure::Kill,
    });
    Ok(())
}

/// Kubernetes asks from outside, and looks at no certificate. Which program an image has for it, if any, is not known.
const GET: &str = "curl -fks -o /dev/null \"$0\" || wget -q -O /dev/null \"$0\"";
/// The same for a port; busybox has no `-z`.
const CONNECT: &str =
    r#"nc -z -w 1 "$0" "$1" || nc -w 1 "$0" "$1" -e true || bash -c ': <"/dev/tcp/$0/$1"' "$0" "$1""#;

/// Times are seconds.
struct Probe {
    test: HealthTest,
    delay: u64,
    period: u64,
    timeout: u64,
    threshold: u32,
}

impl Probe {
    fn read(mut fields: Fields<'_>) -> Result<Option<Self>, EngineError> {
        let mut test = None;
        if let Some(mut exec) = fields.object("exec")? {
            let Some(command) = exec.texts("command")?.filter(|command| !command.is_empty()) else {
                return Err(exec.invalid("command", "it is missing"));
            };
            exec.finish(Rest::Told)?;
            test = Some(HealthTest::Command(command));
        }
        if let Some(mut get) = fields.object("httpGet")? {
            let port = port(&mut get)?;
            let scheme = get.text("scheme")?.unwrap_or_else(|| "HTTP".to_owned()).to_ascii_lowercase();
            if !matches!(scheme.as_str(), "http" | "https") {
                return Err(get.invalid("scheme", format!("{scheme:?} is neither HTTP nor HTTPS")));
            }
            let host = get.text("host")?.unwrap_or_else(|| "localhost".to_owned());
            let path = get.text("path")?.unwrap_or_default();
            let url = format!("{scheme}://{host}:{port}/{}", path.trim_start_matches('/'));
            get.finish(Rest::Told)?;
            test = Some(HealthTest::Command(script(GET, &[&url])));
        }
        if let Some(mut socket) = fields.object("tcpSocket")? {
            let port = port(&mut socket)?;
            let host = socket.text("host")?.unwrap_or_else(|| "localhost".to_owned());
            socket.finish(Rest::Told)?;
            test = Some(HealthTest::Command(script(CONNECT, &[&host, &port.to_string()])));
        }
        let mut seconds = |name: &str, default: u64| -> Result<u64, EngineError> {
            Ok(fields.number::<u32>(name)?.map_or(default, u64::from))
        };
        let delay = seconds("initialDelaySeconds", 0)?;
        let period = seconds("periodSeconds", 10)?.max(1);
        let timeout = seconds("timeoutSeconds", 1)?.max(1);
        let threshold = fields.number::<u32>("failureThreshold")?.unwrap_or(3).max(1);
        fields.pass_over(&["successThreshold"]);
        fields.finish(Rest::Told)?;
        Ok(test.map(|test| Self { test, delay, period, timeout, threshold }))
    }
}

fn script(text: &str, arguments: &[&str]) -> Vec<String> {
    ["/bin/sh", "-c", text].iter().chain(arguments).map(|word| (*word).to_owned()).collect()
}

fn port(fields: &mut Fields<'_>) -> Result<u16, EngineError> {
    let text = fields.scalar("port")?.unwrap_or_default();
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        fields.invalid("port", format!("{text:?} is no port; names of ports are not known here, numbers are"))
    })
}
