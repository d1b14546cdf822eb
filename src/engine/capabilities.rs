//! Capabilities by name, capabilities(7).

use oci_spec::runtime::Capability;

use crate::runtime::defaults;

/// In the order of their numbers, `linux/capability.h`.
const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What this process could give away: its bounding set.
pub(super) fn available() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |number: usize| mask & (1 << number) != 0;
    NAMES.iter().enumerate().filter(|(number, _)| has(*number)).map(|(_, name)| (*name).to_owned()).collect()
}

/// What a container has unless it is told otherwise.
pub(super) fn default_set() -> Vec<String> {
    defaults::CAPABILITIES
        .iter()
        .filter_map(|capability| serde_json::to_value(capability).ok()?.as_str().map(str::to_owned))
        .collect()
}

/// As oci-spec has them.
pub(super) fn typed(names: &[String]) -> Vec<Capability> {
    names.iter().filter_map(|name| serde_json::from_value(name.as_str().into()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_that_oci_knows_too() {
        let names: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
        assert_eq!(typed(&names).len(), NAMES.len());
        assert!(default_set().iter().all(|name| NAMES.contains(&name.as_str())));
    }
}
