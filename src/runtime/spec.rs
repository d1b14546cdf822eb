//! Checks of a specification before anything is done with it.
//!
//! What the kernel itself would refuse is left to the kernel. Here is what it would not notice, or would do to the host: a
//! parameter of the kernel that is not the container's alone, the host's name, one thing said twice.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Process, Spec};

/// A specification that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A part that this runtime does not have.
    #[error("{field} is not supported by this runtime")]
    Unsupported {
        /// The field, with dots.
        field: &'static str,
    },
    /// A part that is needed is not there.
    #[error("{field} is missing")]
    Missing {
        /// The field, with dots.
        field: &'static str,
    },
    /// A part that contradicts itself, another one, or the specification.
    #[error("{field} can't be {value:?}: {reason}")]
    Invalid {
        /// The field, with dots.
        field: &'static str,
        /// What it is.
        value: String,
        /// Why that won't do.
        reason: &'static str,
    },
}

fn invalid<T>(field: &'static str, value: impl ToString, reason: &'static str) -> Result<T, SpecError> {
    Err(SpecError::Invalid { field, value: value.to_string(), reason })
}

/// Checks what every container's specification must keep.
pub(super) fn check(spec: &Spec) -> Result<(), SpecError> {
    let linux = spec.linux().as_ref().ok_or(SpecError::Missing { field: "linux" })?;
    check_namespaces(linux)?;
    let has = |kind| has_namespace(linux, kind);
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if let Some(name) = name
            && !has(LinuxNamespaceType::Uts)
        {
            return invalid(field, name, "without a uts namespace it would be the host's");
        }
    }
    for name in linux.sysctl().iter().flat_map(std::collections::HashMap::keys) {
        check_sysctl(linux, name)?;
    }
    if let Some(propagation) = linux.rootfs_propagation()
        && super::mounts::propagation(propagation).is_none()
    {
        return invalid(
            "linux.rootfsPropagation",
            propagation,
            "it is shared, slave, private or unbindable, or one of these with an r before",
        );
    }
    if linux.intel_rdt().is_some() {
        return Err(SpecError::Unsupported { field: "linux.intelRdt" });
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) && !has_selinux() {
        return Err(SpecError::Unsupported { field: "linux.mountLabel on a host without SELinux" });
    }
    if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())
        && !has(LinuxNamespaceType::Time)
    {
        return invalid("linux.timeOffsets", "…", "there is no time namespace to set them in");
    }
    for (field, paths) in
        [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        if let Some(path) = paths.iter().flatten().find(|path| !path.starts_with('/')) {
            return invalid(field, path, "it is not absolute");
        }
    }
    for mount in spec.mounts().iter().flatten() {
        if mount.destination().as_os_str().is_empty() {
            return Err(SpecError::Missing { field: "mounts[].destination" });
        }
        if mount.uid_mappings().is_some() != mount.gid_mappings().is_some() {
            return Err(SpecError::Missing { field: "mounts[].uidMappings or gidMappings beside the other" });
        }
    }
    if let Some(seccomp) = linux.seccomp()
        && seccomp.listener_metadata().is_some()
        && seccomp.listener_path().is_none()
    {
        return Err(SpecError::Missing { field: "linux.seccomp.listenerPath beside listenerMetadata" });
    }
    check_hooks(spec)
}

/// Checks what every process must keep, the first one and those that enter later.
pub(super) fn check_process(process: &Process) -> Result<(), SpecError> {
    if !process.cwd().is_absolute() {
        return invalid("process.cwd", process.cwd().display(), "it is not absolute");
    }
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(limit.typ().to_string()) {
            return invalid("process.rlimits[].type", limit.typ(), "it is there twice");
        }
    }
    Ok(())
}

fn check_namespaces(linux: &Linux) -> Result<(), SpecError> {
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !seen.insert(namespace.typ().to_string()) {
            return invalid("linux.namespaces[].type", namespace.typ(), "it is there twice");
        }
        if let Some(path) = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            if !path.is_absolute() {
                return invalid("linux.namespaces[].path", path.display(), "it is not absolute");
            }
            if namespace.typ() == LinuxNamespaceType::Mount {
                return Err(SpecError::Unsupported {
                    field: "linux.namespaces of type mount with a path, whose other processes would lose their root,",
                });
            }
        }
    }
    Ok(())
}

fn has_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind)
}

/// The kind of namespace that has a kernel parameter of its own; the error says why it is none that a container may set.
pub fn sysctl_namespace(name: &str) -> Result<LinuxNamespaceType, &'static str> {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let path = super::mounts::sysctl_path(name).ok_or("it is not the name of a kernel parameter")?;
    let dotted = path.to_string_lossy().replace('/', ".");
    match dotted.as_str() {
        name if OF_IPC.contains(&name) || name.starts_with("fs.mqueue.") => Ok(LinuxNamespaceType::Ipc),
        name if name.starts_with("net.") => Ok(LinuxNamespaceType::Network),
        "kernel.domainname" | "kernel.hostname" => Ok(LinuxNamespaceType::Uts),
        name if name.starts_with("user.") => Ok(LinuxNamespaceType::User),
        _ => Err("it is the whole host's"),
    }
}

/// Only parameters that exist once for each namespace, and are therefore the container's own, may be set.
fn check_sysctl(linux: &Linux, name: &str) -> Result<(), SpecError> {
    const FIELD: &str = "linux.sysctl";
    let kind = match sysctl_namespace(name) {
        Ok(kind) => kind,
        Err(reason) => return invalid(FIELD, name, reason),
    };
    if has_namespace(linux, kind) {
        return Ok(());
    }
    let reason = match kind {
        LinuxNamespaceType::Ipc => "it is the host's, without an ipc namespace",
        LinuxNamespaceType::Network => "it is the host's, without a network namespace",
        LinuxNamespaceType::Uts => "it is the host's, without a uts namespace",
        _ => "it is the host's, without a user namespace",
    };
    invalid(FIELD, name, reason)
}

fn check_hooks(spec: &Spec) -> Result<(), SpecError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated)] // they still have to run
    let all = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    all.into_iter().flatten().flatten().try_for_each(check_hook)
}

fn check_hook(hook: &Hook) -> Result<(), SpecError> {
    if !hook.path().is_absolute() {
        return invalid("hooks[].path", hook.path().display(), "it is not absolute");
    }
    match hook.timeout() {
        Some(timeout) if timeout <= 0 => invalid("hooks[].timeout", timeout, "it is not greater than zero"),
        _ => Ok(()),
    }
}

/// Whether SELinux is in force on this host.
pub(super) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refusal(change: impl FnOnce(&mut Value)) -> String {
        let mut spec = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "ipc"}]}});
        change(&mut spec);
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let process = spec.process().as_ref().map_or(Ok(()), check_process);
        check(&spec).and(process).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn a_plain_specification_passes() {
        assert_eq!(refusal(|_| ()), "");
    }

    #[test]
    fn only_the_containers_own_parameters_may_be_set() {
        let sysctl = |name: &str| refusal(|spec| spec["linux"]["sysctl"] = json!({name: "1"}));
        for own in
            ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shmmax", "fs.mqueue.msg_max"]
        {
            assert_eq!(sysctl(own), "", "{own}");
        }
        for foreign in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.swappiness",
            "net/../kernel/core_pattern",
            "net..kernel",
            "kernel.shmmax/../core_pattern",
            "",
            "/net",
            "fs.protected_symlinks",
        ] {
            assert!(sysctl(foreign).contains("linux.sysctl"), "{foreign}");
        }
    }

    #[test]
    fn what_is_said_twice_or_by_halves_is_refused() {
        for (change, field) in [
            (json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}), "namespaces[].type"),
            (
                json!({"linux": {"namespaces": [{"type": "pid", "path": "proc/1/ns/pid"}]}}),
                "namespaces[].path",
            ),
            (
                json!({"linux": {"namespaces": [{"type": "mount", "path": "/proc/1/ns/mnt"}]}}),
                "namespaces of type mount",
            ),
            (json!({"hostname": "x"}), "hostname"),
            (json!({"linux": {"rootfsPropagation": "sideways"}}), "rootfsPropagation"),
            (json!({"linux": {"intelRdt": {"closID": "x"}}}), "intelRdt"),
            (json!({"linux": {"maskedPaths": ["proc/kcore"]}}), "maskedPaths"),
            (json!({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}), "timeOffsets"),
            (json!({"mounts": [{"destination": ""}]}), "destination"),
            (json!({"hooks": {"poststop": [{"path": "true"}]}}), "hooks[].path"),
            (json!({"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}}), "hooks[].timeout"),
            (json!({"process": {"user": {}, "cwd": "tmp", "args": ["x"]}}), "process.cwd"),
            (
                json!({"process": {"user": {}, "cwd": "/", "rlimits": [
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]}}),
                "rlimits[].type",
            ),
        ] {
            let said = refusal(|spec| {
                for (key, value) in change.as_object().unwrap() {
                    spec[key] = value.clone();
                }
            });
            assert!(said.contains(field), "{change}: {said}");
        }
    }
}
