//! Limits, put into force.

use std::io;

use oci_spec::runtime::LinuxResources;

use super::limits::{self, Setting};
use super::{Cgroup, CgroupError, Layout, write};

impl Cgroup {
    /// Changes limits; what `resources` leaves open stays as it is.
    ///
    /// # Errors
    /// [`CgroupError::ControllerMissing`] when the host cannot limit what is asked; the limits before it in the
    /// order memory, cpu, pids, block IO, huge pages, network are in force then.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let settings = match self.layout() {
            Layout::V2 => limits::v2(resources)?,
            Layout::V1 | Layout::Hybrid => limits::v1(resources)?,
        };
        let mut postponed = None;
        for setting in &settings {
            match self.apply(setting) {
                // A memory limit above the one for memory and swap is refused until that one is raised.
                Err(CgroupError::File { source, .. })
                    if setting.files[0] == "memory.limit_in_bytes"
                        && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    postponed = Some(setting);
                }
                other => other?,
            }
        }
        if let Some(setting) = postponed {
            self.apply(setting)?;
        }
        match resources.devices().as_deref() {
            Some(rules) if !rules.is_empty() => self.restrict_devices(rules),
            _ => Ok(()),
        }
    }

    fn apply(&self, setting: &Setting) -> Result<(), CgroupError> {
        let missing = || CgroupError::ControllerMissing {
            controller: setting.controller,
            setting: setting.files[0].clone(),
        };
        let directory = match self.layout() {
            Layout::V2 => self.unified(),
            Layout::V1 | Layout::Hybrid => self.v1(setting.controller),
        }
        .ok_or_else(missing)?;
        for file in &setting.files {
            match write(&directory.join(file), &setting.value) {
                Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(missing())
    }
}
