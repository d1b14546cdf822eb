//! What a container gets unless its owner says otherwise: no weaker than podman's and docker's.
//!
//! The engine builds specifications from these; the runtime itself adds nothing that a specification does not
//! ask for.

use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxDeviceCgroup, LinuxDeviceType, Mount};

/// The capabilities of a container that is not privileged.
pub const CAPABILITIES: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Paths that read as empty in a container: they tell about the host, or reach into it.
pub const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/proc/asound",
];

/// Paths that a container can read and not change.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked paths of this machine: [`MASKED_PATHS`], and the thermal throttling counters of each processor.
pub fn masked_paths() -> Vec<String> {
    let mut paths: Vec<String> = MASKED_PATHS.iter().map(|path| (*path).to_owned()).collect();
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu") else { return paths };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_cpu = name
            .strip_prefix("cpu")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        if is_cpu && entry.path().join("thermal_throttle").exists() {
            paths.push(format!("/sys/devices/system/cpu/{name}/thermal_throttle"));
        }
    }
    paths
}

/// The size of `/dev/shm` unless another is asked for, in bytes.
pub const SHM_SIZE_BYTES: u64 = 64 << 20;

/// The mounts that every container has, in the order in which they are made.
///
/// `/sys/fs/cgroup` is read-only; in systemd mode the engine replaces `ro` by `rw` there.
pub fn mounts(shm_size_bytes: u64) -> Vec<Mount> {
    let shm_size = format!("size={shm_size_bytes}");
    [
        ("/proc", "proc", "proc", vec!["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", vec!["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/mqueue", "mqueue", "mqueue", vec!["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", "shm", vec!["nosuid", "noexec", "nodev", "mode=1777", &shm_size]),
        ("/sys", "sysfs", "sysfs", vec!["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", vec!["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
    .into_iter()
    .map(|(destination, kind, source, options)| {
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(destination))
            .set_typ(Some(kind.to_owned()))
            .set_source(Some(PathBuf::from(source)))
            .set_options(Some(options.into_iter().map(str::to_owned).collect()));
        mount
    })
    .collect()
}

/// The device rules of a container that is not privileged: nodes of any kind may be made, and only the
/// harmless ones used.
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let rule = |allow, kind: LinuxDeviceType, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(kind))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx; then every pseudo terminal.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, LinuxDeviceType::C, Some(136), None, "rwm"));
    rules
}
