//! Who this process is: root of the host, an ordinary user, or root of a user namespace only.

use std::path::PathBuf;
use std::sync::OnceLock;

/// The map of a process that is in the first user namespace, user_namespaces(7).
const EVERYBODY: [&str; 3] = ["0", "0", "4294967295"];

/// Whether this process is in a user namespace, whoever made it: its capabilities are over that one alone.
pub fn in_user_namespace() -> bool {
    static YES: OnceLock<()> = OnceLock::new();
    let read = || map().is_some_and(|fields| fields != EVERYBODY);
    // Only a yes is for ever.
    if YES.get().is_none() && read() {
        // Two threads may have found it out.
        let _ = YES.set(());
    }
    YES.get().is_some()
}

/// The user who is root in the namespace of its own instance, as the host knows it; `None` in any other one.
pub fn outer_user() -> Option<u32> {
    static USER: OnceLock<u32> = OnceLock::new();
    if let Some(user) = USER.get() {
        return Some(*user);
    }
    // One user alone is root, and it is not the host's.
    match map()?.each_ref().map(String::as_str) {
        ["0", user, "1"] => {
            let user = user.parse().ok().filter(|user| *user != 0)?;
            Some(*USER.get_or_init(|| user))
        }
        _ => None,
    }
}

/// The first line of this process's map.
fn map() -> Option<[String; 3]> {
    let table = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let fields: Vec<String> = table.lines().next()?.split_ascii_whitespace().map(str::to_owned).collect();
    fields.try_into().ok()
}

/// Whether this process is root only in the namespace of an ordinary user's own instance.
pub fn is_rootless() -> bool {
    outer_user().is_some()
}

/// Whether this process is root of the host, or of what passes for one.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root() && !is_rootless()
}

/// The user that this process belongs to, as the host knows it.
pub fn user() -> u32 {
    outer_user().unwrap_or_else(|| rustix::process::geteuid().as_raw())
}

/// The directory of an ordinary user for what does not survive a reboot.
pub fn runtime_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        return PathBuf::from(directory);
    }
    let usual = PathBuf::from(format!("/run/user/{}", user()));
    // Made by logind; without it a directory that has the user in its name.
    if usual.is_dir() { usual } else { std::env::temp_dir().join(format!("user-{}", user())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_who_it_is() {
        assert_eq!(is_rootless(), outer_user().is_some());
        assert!(!is_root() || rustix::process::geteuid().is_root());
        assert!(in_user_namespace() || outer_user().is_none());
    }
}
