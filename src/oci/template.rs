//! `spec`: a specification to begin with.

use std::path::Path;

use serde_json::{Value, json};

use super::error::{OciError, on_file};
use crate::runtime::{defaults, hooks::SPEC_VERSION};

/// Writes `config.json` into a directory where there is none.
///
/// # Errors
/// [`OciError::File`].
pub fn write(bundle: &Path, rootless: bool) -> Result<(), OciError> {
    let path = bundle.join("config.json");
    let text = format!("{:#}\n", template(rootless));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(on_file("make", &path))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(on_file("write", &path))
}

fn template(rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let mut mounts = json!(defaults::mounts(defaults::SHM_SIZE_BYTES));
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "maskedPaths": defaults::masked_paths(),
        "readonlyPaths": defaults::READONLY_PATHS,
    });
    if rootless {
        namespaces.retain(|name| *name != "network");
        namespaces.push("user");
        let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        linux["uidMappings"] = mapping(rustix::process::geteuid().as_raw());
        linux["gidMappings"] = mapping(rustix::process::getegid().as_raw());
        linux["resources"] = Value::Null;
        for mount in mounts.as_array_mut().into_iter().flatten() {
            match mount["destination"].as_str() {
                // A group that is not mapped can't own anything.
                Some("/dev/pts") => {
                    mount["options"] =
                        json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
                }
                // The host's: one of its own belongs to a network namespace of its own.
                Some("/sys") => {
                    mount["type"] = json!("none");
                    mount["source"] = json!("/sys");
                    mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
                }
                _ => {}
            }
        }
    }
    linux["namespaces"] = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    if linux["resources"].is_null() {
        linux.as_object_mut().map(|linux| linux.remove("resources"));
    }
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "dormouse",
        "mounts": mounts,
        "linux": linux,
    })
}
