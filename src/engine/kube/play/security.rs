//! Security contexts. What they ask for and can't be had is refused: nothing here is passed over.

use super::fields::{Fields, Place, Rest};
use crate::engine::EngineError;
use crate::engine::spec::{ContainerSpec, Seccomp};

/// What a pod says for all of its containers, and a container may say otherwise.
#[derive(Debug, Clone, Default)]
pub(super) struct Security {
    user: Option<u32>,
    group: Option<u32>,
    not_root: Option<(bool, Place)>,
    seccomp: Seccomp,
    groups: Vec<String>,
    sysctls: Vec<(String, String)>,
}

impl Security {
    /// That of a pod.
    pub fn read_of_pod(mut fields: Fields<'_>) -> Result<Self, EngineError> {
        let mut security = Self::default();
        security.read_common(&mut fields)?;
        for (place, group) in fields.list("supplementalGroups")? {
            let group = group.as_u64().and_then(|group| u32::try_from(group).ok());
            security.groups.push(group.ok_or_else(|| place.invalid("it is no id of a group"))?.to_string());
        }
        for mut sysctl in fields.objects("sysctls")? {
            security.sysctls.push((sysctl.needed("name")?, sysctl.text("value")?.unwrap_or_default()));
            sysctl.finish(Rest::Refused)?;
        }
        if fields.has("fsGroup") {
            fields.warn("fsGroup", "volumes keep their groups");
        }
        fields.pass_over(&["fsGroup", "fsGroupChangePolicy", "supplementalGroupsPolicy"]);
        fields.finish(Rest::Refused)?;
        Ok(security)
    }

    fn read_common(&mut self, fields: &mut Fields<'_>) -> Result<(), EngineError> {
        self.user = fields.number("runAsUser")?.or(self.user);
        self.group = fields.number("runAsGroup")?.or(self.group);
        if let Some(not_root) = fields.truth("runAsNonRoot")? {
            self.not_root = Some((not_root, fields.place("runAsNonRoot")));
        }
        if let Some(mut profile) = fields.object("seccompProfile")? {
            self.seccomp = match profile.needed("type")?.as_str() {
                "RuntimeDefault" => Seccomp::Default,
                "Unconfined" => Seccomp::Unconfined,
                other => {
                    let reason = format!("{other:?} is not possible here; RuntimeDefault and Unconfined are");
                    return Err(profile.invalid("type", reason));
                }
            };
            profile.finish(Rest::Refused)?;
        }
        if let Some(mut profile) = fields.object("appArmorProfile")? {
            let kind = profile.needed("type")?;
            if kind == "Localhost" {
                return Err(profile.invalid("type", "profiles of AppArmor are not applied here"));
            }
            profile.finish(Rest::Refused)?;
        }
        Ok(())
    }

    /// That of a container, over its pod's.
    pub fn read_of_container(
        &mut self,
        mut fields: Fields<'_>,
        spec: &mut ContainerSpec,
    ) -> Result<(), EngineError> {
        self.read_common(&mut fields)?;
        spec.privileged = fields.is("privileged")?;
        spec.read_only_root = fields.is("readOnlyRootFilesystem")?;
        spec.no_new_privileges = fields.truth("allowPrivilegeEscalation")? == Some(false);
        if let Some(mut capabilities) = fields.object("capabilities")? {
            spec.capabilities_add = capabilities.texts("add")?.unwrap_or_default();
            spec.capabilities_drop = capabilities.texts("drop")?.unwrap_or_default();
            capabilities.finish(Rest::Refused)?;
        }
        match fields.text("procMount")?.as_deref() {
            None | Some("" | "Default") => {}
            Some("Unmasked") => spec.unmasked = vec!["ALL".to_owned()],
            Some(other) => return Err(fields.invalid("procMount", format!("there is no {other:?}"))),
        }
        fields.finish(Rest::Refused)
    }

    /// Says it in the specification; where it was asked that the user is not root.
    pub fn apply(self, place: &Place, spec: &mut ContainerSpec) -> Result<Option<Place>, EngineError> {
        spec.user = match (self.user, self.group) {
            (Some(user), Some(group)) => Some(format!("{user}:{group}")),
            (Some(user), None) => Some(user.to_string()),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(place.below("securityContext.runAsGroup").invalid("it needs runAsUser"));
            }
        };
        spec.seccomp = self.seccomp;
        spec.groups = self.groups;
        spec.sysctls.extend(self.sysctls);
        Ok(self.not_root.and_then(|(is, place)| is.then_some(place)))
    }
}

/// Whether this user, as an image or a specification names it, is surely not root.
pub(super) fn is_not_root(user: &str) -> bool {
    let user = user.split(':').next().unwrap_or_default();
    user.parse::<u32>().is_ok_and(|id| id != 0)
}
