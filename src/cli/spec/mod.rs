//! What a new container is to be: the flags of `create` and `run`, named as podman names them, and the `Spec` of
//! `io.dormouse.Container` that they make. Only the form is checked here; what can be done is for the service to say.

mod health;
mod mounts;
mod network;
mod resources;
mod security;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{parse_duration, parse_size};

pub use mounts::absolute;
pub use network::{NetworkFlags, of_played_pods};
pub use resources::LimitFlags;

/// The flags that describe a container.
#[derive(Debug, Args)]
pub struct SpecFlags {
    /// Name of the container [default: made from two words]
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    name: Option<String>,
    /// Pod to be in; new:NAME makes it, with the networks, ports and names that are given here
    #[arg(long, value_name = "POD", help_heading = "Identity")]
    pod: Option<String>,
    /// Label, as KEY=VALUE or KEY
    #[arg(short, long = "label", value_name = "KEY=VALUE", help_heading = "Identity")]
    labels: Vec<String>,
    /// OCI annotation, as KEY=VALUE
    #[arg(long = "annotation", value_name = "KEY=VALUE", help_heading = "Identity")]
    annotations: Vec<String>,
    /// Host name inside [default: the first 12 digits of the id]
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Identity")]
    hostname: Option<String>,
    /// Domain name inside
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    domainname: Option<String>,

    /// IMAGE is a directory of the host to use as the root
    #[arg(long, help_heading = "Process")]
    rootfs: bool,
    /// Replace the image's entrypoint: a program, or a JSON array; "" takes it away
    #[arg(long, value_name = "COMMAND", help_heading = "Process")]
    entrypoint: Option<String>,
    /// Environment variable; KEY alone takes the value from here
    #[arg(short, long = "env", value_name = "KEY=VALUE", help_heading = "Process")]
    env: Vec<String>,
    /// File with a KEY=VALUE in each line
    #[arg(long = "env-file", value_name = "FILE", help_heading = "Process")]
    env_files: Vec<PathBuf>,
    /// User and group, by name or number, as in the container
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    user: Option<String>,
    /// Further group, by name or number
    #[arg(long = "group-add", value_name = "GROUP", help_heading = "Process")]
    groups: Vec<String>,
    /// Working directory; made if missing
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    workdir: Option<String>,
    /// Permission bits that new files lack, octal [default: 0022]
    #[arg(long, value_name = "MASK", value_parser = parse_octal, help_heading = "Process")]
    umask: Option<i64>,
    /// Give it a terminal
    #[arg(short, long, help_heading = "Process")]
    pub tty: bool,
    /// Keep standard input open
    #[arg(short, long, help_heading = "Process")]
    pub interactive: bool,
    /// Run a small init as PID 1 that forwards signals and reaps children
    #[arg(long, help_heading = "Process")]
    init: bool,
    /// Set up what a systemd inside expects: auto (when the command is one), always, false
    #[arg(long, value_name = "MODE", value_enum, default_missing_value = "true", num_args = 0..=1, require_equals = true, help_heading = "Process")]
    systemd: Option<SystemdMode>,
    /// Who says that it is ready: started (nobody, it is at once), payload, by sd_notify(3), or healthy, its first good check
    #[arg(long = "sdnotify", value_name = "WHO", value_enum, help_heading = "Process")]
    sd_notify: Option<SdNotify>,
    /// Signal to stop it [default: the image's; for a systemd SIGRTMIN+3]
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    stop_signal: Option<String>,
    /// Time from the stop signal to SIGKILL, in seconds or as in 1m30s [default: 10; for a systemd 90]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Process")]
    stop_timeout: Option<i64>,

    /// Mount a volume, which is made if it is not there, or a file or directory: [data:|/host:]/container[:ro,nocopy,U,…]
    #[arg(short, long = "volume", value_name = "[VOLUME|HOST:]CTR[:OPTIONS]", help_heading = "Files")]
    volumes: Vec<String>,
    /// Mount: type=volume|bind|tmpfs|image,source=…,target=…[,readonly,…]
    #[arg(long = "mount", value_name = "KEY=VALUE,…", help_heading = "Files")]
    mounts: Vec<String>,
    /// Mount what is mounted in another container, at the same places
    #[arg(long = "volumes-from", value_name = "CONTAINER[:ro]", help_heading = "Files")]
    volumes_from: Vec<String>,
    /// Give it a secret: a file in /run/secrets, or a variable: NAME[,type=env,target=…,uid=…,gid=…,mode=…]
    #[arg(long = "secret", value_name = "NAME[,KEY=VALUE,…]", help_heading = "Files")]
    secrets: Vec<String>,
    /// Mount an empty file system in memory
    #[arg(long = "tmpfs", value_name = "CTR[:size=…,mode=…]", help_heading = "Files")]
    tmpfs: Vec<String>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Files")]
    shm_size: Option<i64>,
    /// Device of the host that may be used
    #[arg(long = "device", value_name = "HOST[:CTR][:rwm]", help_heading = "Files")]
    devices: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long, help_heading = "Files")]
    read_only: bool,

    #[command(flatten)]
    health: health::HealthFlags,
    #[command(flatten)]
    network: network::NetworkFlags,
    #[command(flatten)]
    security: security::SecurityFlags,
    #[command(flatten)]
    resources: resources::ResourceFlags,

    /// What happens when it ends: no, on-failure[:RETRIES], always, unless-stopped
    #[arg(long, value_name = "POLICY", help_heading = "Lifecycle")]
    restart: Option<String>,
    /// Remove it when it has ended
    #[arg(long, help_heading = "Lifecycle")]
    pub rm: bool,
    /// Where its output goes
    #[arg(long, value_name = "DRIVER", value_enum, help_heading = "Lifecycle")]
    log_driver: Option<LogDriver>,
    /// Option of the log driver: max-size=SIZE, max-file=COUNT
    #[arg(long = "log-opt", value_name = "KEY=VALUE", help_heading = "Lifecycle")]
    log_options: Vec<String>,
    /// What makes the processes: native is built in, the others are programs of the host
    #[arg(long, value_name = "RUNTIME", value_enum, help_heading = "Lifecycle")]
    runtime: Option<Runtime>,

    /// Image: its name, its id or a prefix of it
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Command and its arguments [default: the image's]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SystemdMode {
    #[value(name = "auto", alias = "true")]
    Auto,
    #[value(name = "always")]
    Always,
    #[value(name = "false", alias = "off")]
    Off,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum SdNotify {
    Started,
    Payload,
    Healthy,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogDriver {
    #[value(name = "k8s-file", alias = "json-file")]
    K8sFile,
    #[value(name = "journald")]
    Journald,
    #[value(name = "none")]
    None,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Runtime {
    Native,
    Crun,
    Runc,
}

impl SpecFlags {
    /// What to call the container before it has an id: its name, or its image.
    pub fn subject(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.image)
    }

    /// The image, as it was called; `None` for a container that is made of a directory.
    pub fn image(&self) -> Option<&str> {
        (!self.rootfs).then_some(&*self.image)
    }

    /// Makes the specification; what was not given is not in it.
    ///
    /// # Errors
    /// For a flag whose form is wrong, and for a file named by a flag that can't be read.
    pub fn to_spec(&self) -> Result<Map<String, Value>, CliError> {
        let mut spec = Map::new();
        if self.rootfs {
            put(&mut spec, "rootfs", Some(absolute(&self.image)?));
        } else {
            put(&mut spec, "image", Some(&self.image));
        }
        put(&mut spec, "name", self.name.as_ref());
        put(&mut spec, "pod", self.pod.as_ref());
        put(&mut spec, "command", nonempty(&self.command));
        put(&mut spec, "entrypoint", self.entrypoint.as_deref().map(parse_entrypoint).transpose()?);
        put(&mut spec, "env", nonempty_map(self.environment()?));
        put(&mut spec, "user", self.user.as_ref());
        put(&mut spec, "groups", nonempty(&self.groups));
        put(&mut spec, "workdir", self.workdir.as_ref());
        put(&mut spec, "umask", self.umask);
        put(&mut spec, "hostname", self.hostname.as_ref());
        put(&mut spec, "domainname", self.domainname.as_ref());
        put(&mut spec, "mounts", nonempty(&mounts::mounts(&self.volumes, &self.mounts, &self.tmpfs)?));
        put(&mut spec, "volumesFrom", nonempty(&mounts::volumes_from(&self.volumes_from)?));
        put(&mut spec, "secrets", nonempty(&mounts::secrets(&self.secrets)?));
        put(&mut spec, "devices", nonempty(&mounts::devices(&self.devices)?));
        put(&mut spec, "readOnlyRoot", when(self.read_only));
        put(&mut spec, "shmSizeBytes", self.shm_size);
        put(&mut spec, "stopSignal", self.stop_signal.as_ref());
        put(&mut spec, "stopTimeoutUSec", self.stop_timeout);
        put(
            &mut spec,
            "systemd",
            self.systemd.map(|mode| match mode {
                SystemdMode::Auto => "auto",
                SystemdMode::Always => "always",
                SystemdMode::Off => "off",
            }),
        );
        put(&mut spec, "sdNotify", self.sd_notify);
        put(&mut spec, "terminal", when(self.tty));
        put(&mut spec, "stdinOpen", when(self.interactive));
        put(&mut spec, "labels", nonempty_map(pairs("--label", &self.labels, true)?));
        put(&mut spec, "annotations", nonempty_map(pairs("--annotation", &self.annotations, false)?));
        put(&mut spec, "restart", self.restart.as_deref().map(parse_restart).transpose()?);
        put(&mut spec, "init", when(self.init));
        put(&mut spec, "log", log_config(self.log_driver, &self.log_options)?);
        put(&mut spec, "runtime", self.runtime);
        put(&mut spec, "autoRemove", when(self.rm));
        self.health.add_to(&mut spec)?;
        self.network.add_to(&mut spec)?;
        self.security.add_to(&mut spec)?;
        self.resources.add_to(&mut spec)?;
        Ok(spec)
    }

    /// Takes out of a specification what is for a pod that is to be made first (`--pod new:NAME`); `None` if none is.
    pub fn new_pod(spec: &mut Map<String, Value>) -> Option<Map<String, Value>> {
        let name = spec.get("pod")?.as_str()?.strip_prefix("new:")?.to_owned();
        let mut pod = Map::new();
        for field in ["hostname", "networks", "ports", "dnsServers", "dnsSearch", "dnsOptions", "extraHosts"]
        {
            pod.extend(spec.remove(field).map(|value| (field.to_owned(), value)));
        }
        put(&mut pod, "name", Some(&name));
        put(spec, "pod", Some(&name));
        Some(pod)
    }

    fn environment(&self) -> Result<BTreeMap<String, String>, CliError> {
        environment(&self.env, &self.env_files)
    }
}

/// The `log` of a specification.
pub fn log_config(driver: Option<LogDriver>, options: &[String]) -> Result<Option<Value>, CliError> {
    let mut log = Map::new();
    for (key, value) in pairs("--log-opt", options, false)? {
        match key.as_str() {
            "max-size" => put(&mut log, "sizeMaxBytes", Some(flag_value("--log-opt", parse_size(&value))?)),
            "max-file" => {
                let count: i64 = value.parse().map_err(|_| {
                    CliError::usage(format!("--log-opt: max-file must be a number, not {value:?}"))
                })?;
                put(&mut log, "filesMax", Some(count));
            }
            _ => {
                return Err(CliError::usage(format!("--log-opt: there is no option {key:?}"))
                    .with_hint("max-size and max-file are known"));
            }
        }
    }
    if driver.is_none() && log.is_empty() {
        return Ok(None);
    }
    let word = match driver {
        None | Some(LogDriver::K8sFile) => "k8sFile",
        Some(LogDriver::Journald) => "journald",
        Some(LogDriver::None) => "none",
    };
    put(&mut log, "driver", Some(word));
    Ok(Some(Value::Object(log)))
}

/// The flags alone, as a whole command.
#[derive(Debug, clap::Parser)]
#[command(name = "create", no_binary_name = true, disable_help_flag = true)]
struct Alone {
    #[command(flatten)]
    flags: SpecFlags,
}

/// Reads the flags of `create` for somebody who is not at a shell; the error is one line for a person.
///
/// # Errors
/// For a flag that there is none of, or whose form is wrong.
pub fn of_flags(arguments: Vec<String>) -> Result<Map<String, Value>, String> {
    let alone = <Alone as clap::Parser>::try_parse_from(arguments).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    })?;
    alone.flags.to_spec().map_err(|error| match error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message,
    })
}

/// Sets a field unless it has no value, for which the service takes the default.
pub fn put(object: &mut Map<String, Value>, field: &str, value: Option<impl Serialize>) {
    // Only maps with keys that are no strings, and failing serializers, can fail here: there are none of either.
    if let Some(Ok(value)) = value.map(serde_json::to_value) {
        object.insert(field.to_owned(), value);
    }
}

fn when(flag: bool) -> Option<bool> {
    flag.then_some(true)
}

fn nonempty<T>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

fn nonempty_map<V>(map: BTreeMap<String, V>) -> Option<BTreeMap<String, V>> {
    (!map.is_empty()).then_some(map)
}

/// Turns a value that its own parser refused into a usage error that names the flag.
fn flag_value<T>(flag: &str, value: Result<T, impl std::fmt::Display>) -> Result<T, CliError> {
    value.map_err(|error| CliError::usage(format!("{flag}: {error}")))
}

/// Reads KEY=VALUE pairs; a later one replaces an earlier one. With `bare`, KEY alone has an empty value.
pub fn pairs(flag: &str, texts: &[String], bare: bool) -> Result<BTreeMap<String, String>, CliError> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            None if bare && !text.is_empty() => Ok((text.clone(), String::new())),
            _ => Err(CliError::usage(format!("{flag}: {text:?} is not KEY=VALUE"))),
        })
        .collect()
}

/// Reads `--env` and `--env-file`; what `--env` says is preferred.
pub fn environment(texts: &[String], files: &[PathBuf]) -> Result<BTreeMap<String, String>, CliError> {
    let mut env = BTreeMap::new();
    for path in files {
        let content = fs::read_to_string(path)
            .map_err(|error| CliError::io(format!("read the environment file {path:?}"), &error))?;
        add_env_file(&mut env, path, &content)?;
    }
    for text in texts {
        add_variable(&mut env, "--env", text)?;
    }
    Ok(env)
}

fn add_env_file(env: &mut BTreeMap<String, String>, path: &Path, content: &str) -> Result<(), CliError> {
    for (index, line) in content.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        add_variable(env, &format!("{}, line {}", path.display(), index + 1), line.trim_start())?;
    }
    Ok(())
}

/// Adds KEY=VALUE, or KEY with the value that it has here, if it has one.
fn add_variable(env: &mut BTreeMap<String, String>, origin: &str, text: &str) -> Result<(), CliError> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if key.is_empty() || key.contains('\0') {
        return Err(CliError::usage(format!("{origin}: {text:?} is not KEY=VALUE")));
    }
    if let Some(value) = value {
        env.insert(key.to_owned(), value);
    }
    Ok(())
}

fn parse_octal(text: &str) -> Result<i64, String> {
    i64::from_str_radix(text, 8)
        .ok()
        .filter(|mask| (0..=0o7777).contains(mask))
        .ok_or_else(|| format!("{text:?} is not octal, as in 0022"))
}

fn parse_entrypoint(text: &str) -> Result<Vec<String>, CliError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text)
            .map_err(|_| CliError::usage(format!("--entrypoint: {text:?} is no JSON array of strings")));
    }
    Ok(vec![text.to_owned()])
}

fn parse_restart(text: &str) -> Result<Value, CliError> {
    let error = || {
        CliError::usage(format!("--restart: there is no policy {text:?}"))
            .with_hint("no, on-failure[:RETRIES], always and unless-stopped are known")
    };
    if let Some(retries) = text.strip_prefix("on-failure:") {
        let retries: u32 = retries.parse().map_err(|_| error())?;
        return Ok(json!({"mode": "onFailure", "retriesMax": retries}));
    }
    let mode = match text {
        "no" | "never" => "no",
        "on-failure" => "onFailure",
        "always" => "always",
        "unless-stopped" => "unlessStopped",
        _ => return Err(error()),
    };
    Ok(json!({ "mode": mode }))
}

#[cfg(test)]
mod tests;
