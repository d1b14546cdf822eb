//! Where Quadlet files are looked for; earlier directories win over later ones.
//!
//! Ours are `dormouse/systemd` in each of the usual places. Those of `containers/systemd` are shared with podman: they are
//! read only where podman's own generator does not read them, so that no container is ever run by both. It does not where
//! it is not installed, or masked as systemd masks generators: by a link to /dev/null in /etc/systemd.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Names that they go by below each of the usual places, ours first.
const OURS: &str = "dormouse/systemd";
const SHARED: &str = "containers/systemd";
/// Not below /run/dormouse, which is the service's own.
const OURS_IN_RUN: &str = "dormouse-systemd";

/// Where systemd looks for generators, the first of a name wins. Source: systemd.generator(7).
const GENERATOR_PARENTS: &[&str] =
    &["/run/systemd", "/etc/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd"];

/// Files below a directory that lies deeper than this are not found; links could lead in circles.
const DEPTH_MAX: usize = 8;

/// The directories, with those below them, that exist.
pub(super) fn directories(is_user: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // As podman's, for trying out.
    if let Some(given) = std::env::var_os("QUADLET_UNIT_DIRS").filter(|given| !given.is_empty()) {
        for dir in std::env::split_paths(&given).filter(|dir| dir.is_absolute()) {
            add(&mut found, &dir, 0, &|_| true);
        }
        return found;
    }
    let is_shared_ours = !podman_reads(is_user);
    let names = [Some(OURS), is_shared_ours.then_some(SHARED)];
    let names = || names.into_iter().flatten();
    if is_user {
        let uid = rustix::process::getuid().as_raw().to_string();
        for name in names() {
            if let Some(runtime) = variable("XDG_RUNTIME_DIR") {
                let below = if name == OURS { OURS_IN_RUN } else { name };
                add(&mut found, &runtime.join(below), 0, &|_| true);
            }
            let config =
                variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
            if let Some(config) = config {
                add(&mut found, &config.join(name), 0, &|_| true);
            }
            let users = Path::new("/etc").join(name).join("users");
            add(&mut found, &users.join(&uid), 0, &|_| true);
            // Not the directories of other users.
            add(&mut found, &users, 0, &|dir| !is_number(dir));
            add(&mut found, &Path::new("/usr/share").join(name).join("users"), 0, &|dir| !is_number(dir));
        }
    } else {
        for name in names() {
            let run = Path::new("/run").join(if name == OURS { OURS_IN_RUN } else { name });
            for base in [run, Path::new("/etc").join(name), Path::new("/usr/share").join(name)] {
                let users = base.join("users");
                add(&mut found, &base, 0, &|dir| dir != users);
            }
        }
    }
    found
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_number(dir: &Path) -> bool {
    let digits =
        |name: &OsStr| name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    dir.file_name().is_some_and(digits)
}

/// Adds a directory and those below it, but drop-ins, in the order of their names.
fn add(found: &mut Vec<PathBuf>, dir: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool) {
    let Ok(resolved) = dir.canonicalize() else { return };
    if depth > DEPTH_MAX || found.contains(&resolved) || !resolved.is_dir() || !wanted(dir) {
        return;
    }
    found.push(resolved);
    let Ok(entries) = dir.read_dir() else { return };
    let mut below: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "d") && path.is_dir())
        .collect();
    below.sort();
    for dir in below {
        add(found, &dir, depth + 1, wanted);
    }
}

/// Whether podman's generator is at work on this host.
fn podman_reads(is_user: bool) -> bool {
    let (dir, name) = if is_user {
        ("user-generators", "podman-user-generator")
    } else {
        ("system-generators", "podman-system-generator")
    };
    GENERATOR_PARENTS
        .iter()
        .map(|parent| Path::new(parent).join(dir).join(name))
        .find(|path| path.symlink_metadata().is_ok())
        .is_some_and(|path| path.canonicalize().is_ok_and(|target| target != Path::new("/dev/null")))
}
