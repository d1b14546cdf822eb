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
