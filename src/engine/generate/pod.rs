//! The unit of a pod: the pod is there while it is active, and its containers' units are bound to it.

use super::{GeneratedUnit, PROGRAM, UnitRequest, command, finished, flags};
use crate::engine::{EngineError, Pod};
use crate::systemd::unit_file::words::literal;

impl UnitRequest {
    pub(super) fn unit_of_pod(&self, pod: &Pod, members: &[String]) -> Result<GeneratedUnit, EngineError> {
        let name = pod.row.name.as_str();
        let verb = |words: &[&str]| {
            let words = [PROGRAM, "pod"].iter().chain(words).map(|word| (*word).to_owned());
            words.collect::<Vec<String>>()
        };
        let mut unit = self.begin(format!("Pod {}", literal(name)));
        // Wanted, and not required: one that fails or is stopped does not take the others along.
        let members: Vec<String> = members.iter().map(|member| self.name_of(member)).collect();
        unit.add("Unit", "Wants", members.join(" "));
        unit.add("Unit", "Before", members.join(" "));

        unit.add("Service", "Type", "oneshot");
        unit.add("Service", "RemainAfterExit", "yes");
        if self.new {
            // One that a crash has left goes first; its containers are units of their own, and come anew.
            let remove = format!("-{}", command(&verb(&["rm", "--force", "--ignore", name])));
            let mut create = verb(&["create", "--name", name]);
            create.extend(flags::pod_flags(&pod.definition.spec)?);
            unit.add("Service", "ExecStartPre", &remove);
            unit.add("Service", "ExecStart", command(&create));
            unit.add("Service", "ExecStopPost", remove);
        } else {
            unit.add("Service", "ExecStart", command(&verb(&["exists", name])));
            // Its containers that have units have ended by then; here go the others.
            unit.add("Service", "ExecStop", command(&verb(&["stop", "--ignore", name])));
        }
        unit.add("Install", "WantedBy", "default.target");
        Ok(finished(self.name_of_pod(name), &unit))
    }
}
