//! Capabilities, system calls, hidden paths, namespaces and kernel parameters.

use std::fs;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{nonempty, nonempty_map, pairs, put, when};
use crate::cli::errors::CliError;

#[derive(Debug, Args)]
pub(super) struct SecurityFlags {
    /// Capability to add, or ALL
    #[arg(long = "cap-add", value_name = "CAP", value_delimiter = ',', help_heading = "Security")]
    cap_add: Vec<String>,
    /// Capability to take away, or ALL
    #[arg(long = "cap-drop", value_name = "CAP", value_delimiter = ',', help_heading = "Security")]
    cap_drop: Vec<String>,
    /// All capabilities and devices, no filter on system calls, nothing hidden
    #[arg(long, help_heading = "Security")]
    privileged: bool,
    /// seccomp=unconfined, seccomp=FILE, no-new-privileges, mask=PATH:…, unmask=ALL or unmask=PATH:…
    #[arg(long = "security-opt", value_name = "OPTION", help_heading = "Security")]
    options: Vec<String>,
    /// Kernel parameter of the container, as KEY=VALUE
    #[arg(long = "sysctl", value_name = "KEY=VALUE", help_heading = "Security")]
    sysctls: Vec<String>,
    /// Processes that it sees: private, host, container:NAME
    #[arg(long, value_name = "NAMESPACE", help_heading = "Security")]
    pid: Option<String>,
    /// System V IPC and POSIX queues: private, host, container:NAME
    #[arg(long, value_name = "NAMESPACE", help_heading = "Security")]
    ipc: Option<String>,
    /// Host name: private, host, container:NAME
    #[arg(long, value_name = "NAMESPACE", help_heading = "Security")]
    uts: Option<String>,
    /// Users: host (those of the service), auto[:size=N] (a range of its own) or private, with --uidmap
    #[arg(long, value_name = "NAMESPACE", help_heading = "Security")]
    userns: Option<String>,
    /// Users of a namespace of its own, as CONTAINER-ID:HOST-ID:COUNT
    #[arg(long = "uidmap", value_name = "MAPPING", help_heading = "Security")]
    uid_mappings: Vec<String>,
    /// Groups of a namespace of its own, as CONTAINER-ID:HOST-ID:COUNT [default: as --uidmap]
    #[arg(long = "gidmap", value_name = "MAPPING", help_heading = "Security")]
    gid_mappings: Vec<String>,
}

impl SecurityFlags {
    pub(super) fn add_to(&self, spec: &mut Map<String, Value>) -> Result<(), CliError> {
        put(spec, "capabilitiesAdd", nonempty(&self.cap_add));
        put(spec, "capabilitiesDrop", nonempty(&self.cap_drop));
        put(spec, "privileged", when(self.privileged));
        put(spec, "sysctls", nonempty_map(pairs("--sysctl", &self.sysctls, false)?));
        let namespaces = [
            ("pidNamespace", "--pid", &self.pid),
            ("ipcNamespace", "--ipc", &self.ipc),
            ("utsNamespace", "--uts", &self.uts),
        ];
        for (field, flag, value) in namespaces {
            put(spec, field, value.as_deref().map(|value| namespace(flag, value)).transpose()?);
        }
        put(spec, "userNamespace", self.user_namespace()?);
        let (mut masked, mut unmasked) = (Vec::new(), Vec::new());
        for option in &self.options {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (key, value) {
                ("seccomp", "default") => put(spec, "seccomp", Some(json!({"kind": "default"}))),
                ("seccomp", "unconfined") => put(spec, "seccomp", Some(json!({"kind": "unconfined"}))),
                ("seccomp", path) if !path.is_empty() => put(spec, "seccomp", Some(seccomp_profile(path)?)),
                ("no-new-privileges", "" | "true") => put(spec, "noNewPrivileges", Some(true)),
                ("no-new-privileges", "false") => put(spec, "noNewPrivileges", Some(false)),
                ("mask", paths) if !paths.is_empty() => masked.extend(split_paths(paths)),
                ("unmask", paths) if !paths.is_empty() => unmasked.extend(split_paths(paths)),
                // Containers have no labels of SELinux and no AppArmor profile here: what these ask for is the case.
                ("label", "disable") | ("apparmor", "unconfined") => {}
                _ => {
                    return Err(CliError::usage(format!("--security-opt: there is no option {option:?}")).with_hint(
                        "seccomp=unconfined, seccomp=FILE, no-new-privileges, mask=PATH and unmask=PATH are known",
                    ));
                }
            }
        }
        put(spec, "masked", nonempty(&masked));
        put(spec, "unmasked", nonempty(&unmasked));
        Ok(())
    }

    fn user_namespace(&self) -> Result<Option<Value>, CliError> {
        let mappings = |flag: &str, texts: &[String]| {
            texts.iter().map(|text| id_mapping(flag, text)).collect::<Result<Vec<_>, _>>()
        };
        let users = mappings("--uidmap", &self.uid_mappings)?;
        let groups = mappings("--gidmap", &self.gid_mappings)?;
        let kind = match self.userns.as_deref() {
            None if users.is_empty() && groups.is_empty() => return Ok(None),
            None => "private",
            Some(text) => text,
        };
        let mut namespace = Map::new();
        match kind.split_once(':').unwrap_or((kind, "")) {
            ("auto", "") => put(&mut namespace, "kind", Some("auto")),
            ("auto", option) => {
                let size = option.strip_prefix("size=").and_then(|size| size.parse::<i64>().ok());
                let size = size.ok_or_else(|| {
                    CliError::usage(format!("--userns: {option:?} is no option of auto"))
                        .with_hint("auto:size=65536 is one")
                })?;
                put(&mut namespace, "kind", Some("auto"));
                put(&mut namespace, "size", Some(size));
            }
            ("host" | "private", "") => put(&mut namespace, "kind", Some(kind)),
            _ => {
                return Err(CliError::usage(format!("--userns: there is no user namespace {kind:?}"))
                    .with_hint("host, auto, auto:size=N and private are known"));
            }
        }
        put(&mut namespace, "uidMappings", nonempty(&users));
        put(&mut namespace, "gidMappings", nonempty(&groups));
        Ok(Some(Value::Object(namespace)))
    }
}

fn id_mapping(flag: &str, text: &str) -> Result<Value, CliError> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([inside, outside, count]) => {
            Ok(json!({"containerId": inside, "hostId": outside, "count": count}))
        }
        _ => Err(CliError::usage(format!("{flag}: {text:?} is not CONTAINER-ID:HOST-ID:COUNT"))),
    }
}

/// Paths separated by colons, as podman has them; `all` in any case is ALL.
fn split_paths(paths: &str) -> impl Iterator<Item = String> {
    paths
        .split(':')
        .filter(|path| !path.is_empty())
        .map(|path| if path.eq_ignore_ascii_case("all") { "ALL".to_owned() } else { path.to_owned() })
}

fn seccomp_profile(path: &str) -> Result<Value, CliError> {
    let text = fs::read_to_string(path)
        .map_err(|error| CliError::io(format!("read the seccomp profile {path:?}"), &error))?;
    let profile: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        CliError::usage(format!("--security-opt: the seccomp profile {path:?} is no JSON object: {error}"))
    })?;
    Ok(json!({"kind": "profile", "profile": profile}))
}

pub(super) fn namespace(flag: &str, text: &str) -> Result<Value, CliError> {
    match text {
        "private" => Ok(json!({"kind": "private"})),
        "none" if flag == "--ipc" || flag == "--network" => Ok(json!({"kind": "private"})),
        "host" => Ok(json!({"kind": "host"})),
        _ => match text.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(json!({"kind": "container", "container": name})),
            _ => Err(CliError::usage(format!("{flag}: there is no namespace {text:?}"))
                .with_hint("private, host and container:NAME are known")),
        },
    }
}
