//! The mounts and paths of systemd mode.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, Spec, get_default_readonly_paths,
};

use super::SystemdContext;

pub(super) const NOTIFY_SOCKET: &str = "/run/host/notify";
pub(super) const CREDENTIALS: &str = "/run/host/credentials";
const HOST: &str = "/run/host";
const CGROUP: &str = "/sys/fs/cgroup";

/// Target and options of the file systems in memory. What the image has there is copied (`tmpcopyup`). The sizes are
/// those that systemd itself gives to the first three on a host; none is noexec, for some units run things there.
const IN_MEMORY: [(&str, &[&str]); 4] = [
    ("/run", &["mode=755", "size=20%", "nr_inodes=800k"]),
    ("/run/lock", &["mode=755", "size=5m"]),
    ("/tmp", &["mode=1777", "size=50%", "nr_inodes=1m"]),
    ("/var/log/journal", &["mode=755"]),
];

pub(super) fn apply(spec: &mut Spec, context: &SystemdContext<'_>) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (target, options) in IN_MEMORY {
        let options = ["rw", "rprivate", "nosuid", "nodev", "tmpcopyup"].iter().chain(options);
        add(&mut mounts, mount(target, "tmpfs", Path::new("tmpfs"), options));
    }
    if let Some(directory) = context.host_directory {
        add(&mut mounts, bind(HOST, directory, "ro"));
        if let Some(socket) = context.notify_socket {
            add(&mut mounts, bind(NOTIFY_SOCKET, socket, "rw"));
        }
        if let Some(directory) = context.credentials {
            add(&mut mounts, bind(CREDENTIALS, directory, "ro"));
        }
    }
    cgroup(&mut mounts);
    if !context.privileged {
        for mount in &mut mounts {
            if mount.destination() == Path::new("/sys") && mount.typ().as_deref() == Some("sysfs") {
                set_writable(mount, false);
            }
        }
    }
    spec.set_mounts(Some(mounts));
    let mut linux = spec.linux().clone().unwrap_or_default();
    private_cgroup_namespace(&mut linux);
    if !context.privileged {
        read_only_sysctls(&mut linux);
    }
    spec.set_linux(Some(linux));
}

/// The container's own part of the control groups is writable; which part that is, the runtime sees to.
fn cgroup(mounts: &mut Vec<Mount>) {
    for mount in mounts.iter_mut().filter(|mount| mount.destination() == Path::new(CGROUP)) {
        if matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) {
            set_writable(mount, true);
        }
    }
    let options = ["rw", "nosuid", "noexec", "nodev", "relatime"];
    add(mounts, mount(CGROUP, "cgroup", Path::new("cgroup"), options.iter()));
}

/// Without a namespace of its own systemd would see, and take for its own, the host's tree.
fn private_cgroup_namespace(linux: &mut Linux) {
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup) {
        // Only a required field that is missing makes this fail.
        if let Ok(namespace) = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup).build() {
            namespaces.push(namespace);
        }
        linux.set_namespaces(Some(namespaces));
    }
}

/// udevd, networkd, sysctl.d and others inside look for this to know that the kernel is not theirs.
fn read_only_sysctls(linux: &mut Linux) {
    let mut paths = linux.readonly_paths().clone().unwrap_or_else(get_default_readonly_paths);
    if !paths.iter().any(|path| path == "/proc/sys") {
        paths.push("/proc/sys".to_owned());
        linux.set_readonly_paths(Some(paths));
    }
}

fn mount<'a>(target: &str, kind: &str, source: &Path, options: impl Iterator<Item = &'a &'a str>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.map(|&option| option.to_owned()).collect()));
    mount
}

fn bind(target: &str, source: &Path, access: &str) -> Mount {
    mount(target, "bind", source, ["bind", "rprivate", "nosuid", "nodev", "noexec", access].iter())
}

/// Adds a mount, unless there is one at its target; before those that are below it, which it would cover.
fn add(mounts: &mut Vec<Mount>, new: Mount) {
    let target = new.destination().clone();
    if mounts.iter().any(|mount| mount.destination() == &target) {
        return;
    }
    let below = |mount: &Mount| mount.destination().starts_with(&target);
    let position = mounts.iter().position(below).unwrap_or(mounts.len());
    mounts.insert(position, new);
}

fn set_writable(mount: &mut Mount, writable: bool) {
    let (wanted, other) = if writable { ("rw", "ro") } else { ("ro", "rw") };
    let mut options = mount.options().clone().unwrap_or_default();
    options.retain(|option| option != other);
    if !options.iter().any(|option| option == wanted) {
        options.push(wanted.to_owned());
    }
    mount.set_options(Some(options));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::mode;

    fn context() -> SystemdContext<'static> {
        SystemdContext {
            container_id: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            host_directory: Some(Path::new("/run/dormouse/containers/ID/host")),
            notify_socket: Some(Path::new("/run/dormouse/containers/ID/notify/notify.sock")),
            ..SystemdContext::default()
        }
    }

    fn find<'a>(spec: &'a Spec, target: &str) -> (usize, &'a Mount) {
        let mounts = spec.mounts().as_ref().unwrap();
        let found: Vec<_> =
            mounts.iter().enumerate().filter(|(_, mount)| mount.destination() == Path::new(target)).collect();
        assert_eq!(found.len(), 1, "{target}");
        found[0]
    }

    fn has(spec: &Spec, target: &str, option: &str) -> bool {
        find(spec, target).1.options().as_ref().unwrap().iter().any(|found| found == option)
    }

    #[test]
    fn a_default_specification_gets_everything_that_systemd_expects() {
        let mut spec = Spec::default();
        mode::apply(&mut spec, &context());
        for target in ["/run", "/run/lock", "/tmp", "/var/log/journal"] {
            let (_, mount) = find(&spec, target);
            assert_eq!(mount.typ().as_deref(), Some("tmpfs"));
            assert!(has(&spec, target, "nosuid") && has(&spec, target, "nodev"));
            assert!(has(&spec, target, "tmpcopyup") && !has(&spec, target, "noexec"));
        }
        assert!(has(&spec, "/tmp", "mode=1777"));
        assert!(has(&spec, "/sys", "ro") && !has(&spec, "/sys", "rw"));
        assert!(has(&spec, "/sys/fs/cgroup", "rw") && !has(&spec, "/sys/fs/cgroup", "ro"));
        assert!(has(&spec, "/run/host", "ro"));
        assert!(find(&spec, "/run").0 < find(&spec, "/run/lock").0);
        assert!(find(&spec, "/run").0 < find(&spec, "/run/host").0);
        assert!(find(&spec, "/run/host").0 < find(&spec, "/run/host/notify").0);
        assert!(find(&spec, "/sys").0 < find(&spec, "/sys/fs/cgroup").0);
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.readonly_paths().as_ref().unwrap().iter().any(|path| path == "/proc/sys"));
        let cgroup = |namespace: &oci_spec::runtime::LinuxNamespace| {
            namespace.typ() == LinuxNamespaceType::Cgroup && namespace.path().is_none()
        };
        assert_eq!(linux.namespaces().as_ref().unwrap().iter().filter(|ns| cgroup(ns)).count(), 1);
    }

    #[test]
    fn applying_it_twice_is_applying_it_once() {
        let mut spec = Spec::default();
        mode::apply(&mut spec, &context());
        let once = spec.clone();
        mode::apply(&mut spec, &context());
        assert_eq!(spec, once);
    }

    #[test]
    fn mounts_of_the_user_are_kept_and_not_covered() {
        let mut spec = Spec::default();
        let mut mounts = spec.mounts().clone().unwrap();
        mounts.push(bind("/run/secrets", Path::new("/srv/secrets"), "ro"));
        mounts.push(bind("/tmp", Path::new("/srv/tmp"), "rw"));
        spec.set_mounts(Some(mounts));
        mode::apply(&mut spec, &context());
        assert_eq!(find(&spec, "/tmp").1.typ().as_deref(), Some("bind"));
        assert!(find(&spec, "/run").0 < find(&spec, "/run/secrets").0);
    }

    #[test]
    fn a_privileged_container_keeps_sys_and_its_sysctls_as_they_are() {
        let mut spec = Spec::default();
        let mut mounts = spec.mounts().clone().unwrap();
        for mount in &mut mounts {
            if mount.destination() == Path::new("/sys") {
                set_writable(mount, true);
            }
        }
        spec.set_mounts(Some(mounts));
        let mut linux = spec.linux().clone().unwrap();
        linux.set_readonly_paths(Some(Vec::new()));
        spec.set_linux(Some(linux));
        mode::apply(&mut spec, &SystemdContext { privileged: true, ..context() });
        assert!(has(&spec, "/sys", "rw"));
        assert!(spec.linux().as_ref().unwrap().readonly_paths().as_ref().unwrap().is_empty());
    }
}
