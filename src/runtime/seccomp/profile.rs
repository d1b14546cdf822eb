//! Profiles in the JSON format that Docker and Podman share: the runtime specification's, with conditions.

use oci_spec::runtime::{Capability, LinuxSeccomp};
use serde::Deserialize;
use serde_json::Value;

use super::SeccompError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: Value,
    #[serde(default)]
    default_errno_ret: Option<Value>,
    #[serde(default)]
    flags: Option<Value>,
    #[serde(default)]
    architectures: Option<Vec<Value>>,
    /// The newer form of `architectures`.
    #[serde(default)]
    arch_map: Option<Vec<Machine>>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    architecture: Value,
    #[serde(default)]
    sub_architectures: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The older form.
    #[serde(default)]
    name: Option<String>,
    action: Value,
    #[serde(default)]
    errno_ret: Option<Value>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
}

impl Condition {
    fn caps(&self) -> &[String] {
        self.caps.as_deref().unwrap_or_default()
    }

    fn arches(&self) -> &[String] {
        self.arches.as_deref().unwrap_or_default()
    }
}

/// Reads a profile, and keeps what applies to a container with these capabilities on this machine.
///
/// # Errors
/// [`SeccompError::Format`] for what is no such profile.
pub fn profile_from_json(profile: &Value, capabilities: &[Capability]) -> Result<LinuxSeccomp, SeccompError> {
    let profile = Profile::deserialize(profile)?;
    let has = |wanted: &String| {
        capabilities
            .iter()
            .any(|have| serde_json::to_value(have).is_ok_and(|name| name.as_str() == Some(wanted)))
    };
    let here = |arch: &String| {
        matches!((arch.as_str(), std::env::consts::ARCH), ("amd64", "x86_64") | ("arm64", "aarch64"))
    };
    let mut rules = Vec::new();
    for rule in profile.syscalls {
        let included = rule.includes.caps().iter().all(has)
            && (rule.includes.arches().is_empty() || rule.includes.arches().iter().any(here));
        let excluded = rule.excludes.caps().iter().any(has) || rule.excludes.arches().iter().any(here);
        if !included || excluded {
            continue;
        }
        let mut names = rule.names;
        names.extend(rule.name);
        let mut kept = serde_json::json!({"names": names, "action": rule.action});
        if let Some(errno) = rule.errno_ret.filter(|errno| !errno.is_null()) {
            kept["errnoRet"] = errno;
        }
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            kept["args"] = Value::Array(args);
        }
        rules.push(kept);
    }
    let mut architectures = profile.architectures.unwrap_or_default();
    let own = super::bpf::architectures().first().and_then(|name| serde_json::to_value(name).ok());
    for machine in profile.arch_map.unwrap_or_default() {
        if Some(&machine.architecture) == own.as_ref() {
            architectures.extend(machine.sub_architectures.unwrap_or_default());
        }
    }
    let mut whole = serde_json::json!({"defaultAction": profile.default_action, "syscalls": rules});
    if !architectures.is_empty() {
        whole["architectures"] = Value::Array(architectures);
    }
    if let Some(errno) = profile.default_errno_ret.filter(|errno| !errno.is_null()) {
        whole["defaultErrnoRet"] = errno;
    }
    if let Some(flags) = profile.flags.filter(|flags| !flags.is_null()) {
        whole["flags"] = flags;
    }
    Ok(serde_json::from_value(whole)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_kept_by_capability_and_machine() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["c"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"name": "e", "action": "SCMP_ACT_ALLOW", "args": null}]});
        let kept = |capabilities: &[Capability]| {
            let profile = profile_from_json(&profile, capabilities).unwrap();
            let rules = profile.syscalls().clone().unwrap_or_default();
            rules.iter().flat_map(|rule| rule.names().clone()).collect::<Vec<_>>().join("")
        };
        assert_eq!(kept(&[]), "ace");
        assert_eq!(kept(&[Capability::SysAdmin]), "abe");
        assert!(profile_from_json(&json!({"x": 1}), &[]).is_err());
        assert!(profile_from_json(&json!({"defaultAction": "SCMP_ACT_NONSENSE"}), &[]).is_err());
    }
}
