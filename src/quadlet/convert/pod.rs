//! `.pod`: a pod that is there while its unit is; its containers are units of their own, bound to it.

use super::{Conversion, Problem, resource_name};
use crate::quadlet::Kind;
use crate::systemd::unit_file::words::Escapes;

impl Conversion<'_, '_, '_> {
    pub(super) fn pod(&mut self) -> Result<(), Problem> {
        let name = resource_name(self.source, "PodName");
        for service in self.context.members.remove(&self.source.name).unwrap_or_default() {
            self.unit.add("Unit", "Wants", service.clone());
            self.unit.add("Unit", "Before", service);
        }
        self.all_flags(Self::pod_key)?;
        // One that a crash has left goes first; its containers are units of their own, and come anew.
        let mut remove = self.command(&["pod", "rm", "--force", "--ignore"])?;
        remove.push(name.clone());
        self.add_command("ExecStartPre", "-", &remove);
        let mut create = self.command(&["pod", "create", "--name", &name])?;
        create.append(&mut self.flags);
        create.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        self.add_command("ExecStart", "", &create);
        self.add_command("ExecStopPost", "-", &remove);
        self.is_made_once(true);
        Ok(())
    }

    fn pod_key(&mut self, key: &str) -> Result<(), Problem> {
        match key {
            "Network" => self.networks(),
            "Volume" => self.volumes(),
            _ => Ok(()),
        }
    }

    /// Makes the container that is converted a part of its pod.
    pub(super) fn in_pod(&mut self) -> Result<(), Problem> {
        let Some(pod) = self.text("Pod") else { return Ok(()) };
        if Kind::of(&pod) != Some(Kind::Pod) {
            return Err(self.problem("Pod", "names no .pod file"));
        }
        let known = self.known(&pod)?;
        let (service, name) = (known.service.clone(), known.resource.clone().unwrap_or_default());
        self.flag("--pod", name);
        self.unit.add("Unit", "BindsTo", service.clone());
        self.unit.add("Unit", "After", service);
        if self.truth("StartWithPod")?.unwrap_or(true) {
            self.context.members.entry(pod).or_default().push(self.name.clone());
        }
        Ok(())
    }
}
