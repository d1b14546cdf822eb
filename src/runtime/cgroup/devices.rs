//! Which devices a cgroup may use: by the files of v1, or by a program of v2.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, CgroupError, devices_bpf, write};
use crate::runtime::syscall;

impl Cgroup {
    pub(super) fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
        if let Some(directory) = self.v1("devices") {
            for rule in rules {
                let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
                write(&directory.join(file), &v1_device_rule(rule))?;
            }
            return Ok(());
        }
        let Some(directory) = self.unified() else {
            return Err(CgroupError::ControllerMissing { controller: "devices", setting: "devices".into() });
        };
        attach_device_program(&directory, rules)
            .map_err(|source| CgroupError::Devices { path: directory, source })
    }
}

/// A device rule in the words of `devices.allow`.
fn v1_device_rule(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::B => "b",
        LinuxDeviceType::C | LinuxDeviceType::U => "c",
        LinuxDeviceType::A | LinuxDeviceType::P => "a",
    };
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

/// Puts device rules into force on a cgroup2 directory, in place of those that are there.
fn attach_device_program(directory: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let cgroup: OwnedFd =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(directory)?.into();
    let program = syscall::bpf_load_device_program(&devices_bpf::program(rules))?;
    let replaced = match syscall::bpf_query_device_programs(cgroup.as_fd()) {
        Ok(ids) if ids.len() == 1 => Some(syscall::bpf_program_by_id(ids[0])?),
        _ => None,
    };
    syscall::bpf_attach_device_program(cgroup.as_fd(), program.as_fd(), replaced.as_ref().map(AsFd::as_fd))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_in_v1s_words() {
        let rules: Vec<String> =
            crate::runtime::defaults::device_rules().iter().take(4).map(v1_device_rule).collect();
        assert_eq!(rules, ["a *:* rwm", "c *:* m", "b *:* m", "c 1:3 rwm"]);
    }
}
