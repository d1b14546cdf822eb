//! SELinux: whether it lets a systemd in a container manage its cgroups.

use std::path::Path;

const SELINUX: &str = "/sys/fs/selinux";
const BOOLEAN: &str = "container_manage_cgroup";

/// What to do on this host, if it enforces a policy that keeps a systemd in a container from its cgroups.
pub fn selinux_hint() -> Option<String> {
    hint_of(Path::new(SELINUX))
}

/// Source: selinuxfs: `enforce` is 1 where the policy is enforced, a boolean is its value and the pending one.
fn hint_of(selinux: &Path) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(selinux.join(name)).ok();
    if read("enforce")?.trim() != "1" {
        return None;
    }
    // A policy without the boolean knows no such rule.
    if read(&format!("booleans/{BOOLEAN}"))?.split_whitespace().next()? != "0" {
        return None;
    }
    Some(format!(
        "SELinux is enforced here and keeps a systemd in a container from its cgroups; `setsebool -P {BOOLEAN} true` \
         allows it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enforced_policy_that_forbids_it_gives_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("booleans")).unwrap();
        let set = |enforce: &str, boolean: &str| {
            std::fs::write(dir.path().join("enforce"), enforce).unwrap();
            std::fs::write(dir.path().join("booleans").join(BOOLEAN), boolean).unwrap();
            hint_of(dir.path())
        };
        assert!(set("1", "0 0").unwrap().contains("setsebool -P container_manage_cgroup true"));
        assert_eq!(set("1", "1 1"), None);
        assert_eq!(set("0", "0 0"), None);
        assert_eq!(hint_of(&dir.path().join("missing")), None);
    }
}
