//! A specification made ready for the runtime: what the command line adds to it, and what it leaves to be found out.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Process, Spec};

use super::error::OciError;
use crate::runtime::cgroup::NONE;
use crate::runtime::{self, SpecError, defaults};

/// The root file system of a specification.
///
/// # Errors
/// [`SpecError::Missing`]; [`OciError::File`] if it is no directory.
pub fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf, OciError> {
    let root = spec.root().as_ref().ok_or(SpecError::Missing { field: "root" })?;
    if root.path().as_os_str().is_empty() {
        return Err(SpecError::Missing { field: "root.path" }.into());
    }
    let path = bundle.join(root.path());
    let failed = super::error::on_file("use as root file system", &path);
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(_) => Err(failed(std::io::Error::from_raw_os_error(libc::ENOTDIR))),
        Err(error) => Err(failed(error)),
    }
}

/// An ordinary user has the rights that it takes in a user namespace only, which is made for it around the container's own.
///
/// # Errors
/// [`OciError::NoRights`] where the container is to have none; [`OciError::Runtime`] for ids that are not the user's.
pub fn take_rights(spec: &Spec) -> Result<(), OciError> {
    if runtime::may_mount() {
        return Ok(());
    }
    let linux = spec.linux().as_ref().ok_or(SpecError::Missing { field: "linux" })?;
    let is_new = |namespace: &oci_spec::runtime::LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::User
            && namespace.path().as_deref().is_none_or(|path| path.as_os_str().is_empty())
    };
    if !linux.namespaces().iter().flatten().any(is_new) {
        return Err(OciError::NoRights);
    }
    Ok(runtime::enter_own_namespace(linux.uid_mappings(), linux.gid_mappings())?)
}

/// Fills in what depends on where the bundle is, and on who calls. Sockets that the caller was given are the payload's too.
pub fn complete(spec: &mut Spec, bundle: &Path, cgroup: &str, sockets: u32) {
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(PathBuf::from(cgroup)));
        if cgroup == NONE
            && let Some(resources) = linux.resources_mut()
        {
            // Who may make no cgroup can make no devices either.
            resources.set_devices(None);
        }
        if let Some(rules) =
            linux.resources_mut().as_mut().and_then(|resources| resources.devices_mut().as_mut())
        {
            allow_default_devices(rules);
        }
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bound = mount.typ().as_deref() == Some("bind")
            || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        let relative = mount.source().as_ref().filter(|source| bound && source.is_relative());
        if let Some(absolute) = relative.map(|source| bundle.join(source)) {
            mount.set_source(Some(absolute));
        }
    }
    if let Some(process) = spec.process_mut() {
        complete_process(process);
        if sockets > 0 {
            let mut environment = process.env().clone().unwrap_or_default();
            environment.push(format!("LISTEN_FDS={sockets}"));
            // The first process, whichever pid it has outside.
            environment.push("LISTEN_PID=1".to_owned());
            environment
                .extend(std::env::var("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
            process.set_env(Some(environment));
        }
    }
}

/// The devices that each container has (config-linux, "Default Devices") can be made and used, unless a rule for them says
/// otherwise: a rule against all of them does not.
fn allow_default_devices(rules: &mut Vec<LinuxDeviceCgroup>) {
    let is_against_all = |rule: &LinuxDeviceCgroup| {
        let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
        !rule.allow()
            && matches!(rule.typ(), None | Some(LinuxDeviceType::A))
            && any(rule.major())
            && any(rule.minor())
    };
    if let Some(last) = rules.iter().rposition(is_against_all) {
        // The first of the defaults is against all itself.
        rules.splice(last + 1..last + 1, defaults::device_rules().into_iter().skip(1));
    }
}

/// A mask that nobody names is the caller's (config, "POSIX-platform User").
pub fn complete_process(process: &mut Process) {
    if process.user().umask().is_none() {
        let own = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(own);
        process.user_mut().set_umask(Some(own.bits()));
    }
}

/// What stands in for a process that the specification does not have, which only `start` needs.
pub fn stand_in() -> Process {
    let mut process = Process::default();
    process
        .set_args(Some(vec!["/".to_owned()]))
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(None);
    process
}

/// How many sockets systemd has given to this process (sd_listen_fds(3)).
pub fn sockets_given() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_bind_mounts_are_looked_for_in_the_bundle() {
        let mut spec: Spec =
            serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "linux": {}, "mounts": [
            {"destination": "/a", "source": "data", "options": ["rbind"]},
            {"destination": "/b", "source": "/data", "type": "bind"},
            {"destination": "/c", "source": "tmpfs", "type": "tmpfs"}]}))
            .unwrap();
        complete(&mut spec, Path::new("/bundle"), "/x", 0);
        let sources: Vec<_> =
            spec.mounts().iter().flatten().map(|mount| mount.source().clone().unwrap()).collect();
        assert_eq!(sources, ["/bundle/data", "/data", "tmpfs"].map(PathBuf::from));
    }
}
