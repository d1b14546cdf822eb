//! features.md: "Features Structure".

use serde_json::{Value, json};

use crate::oci_support::{Bundle, output, runtime};

fn features() -> Value {
    let mut command = runtime();
    command.arg("features");
    serde_json::from_str(&output(command).good()).unwrap()
}

#[test]
fn specification_version() {
    let features = features();
    for version in [&features["ociVersionMin"], &features["ociVersionMax"]] {
        let Some(bundle) = Bundle::new() else { return };
        bundle.at("/ociVersion", version.clone()).run().good();
    }
}

#[test]
fn hooks() {
    let all = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(features()["hooks"], json!(all));
}

#[test]
fn mount_options() {
    let features = features();
    let options: Vec<&str> =
        features["mountOptions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for wanted in [
        "async",
        "atime",
        "bind",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "private",
        "rbind",
        "relatime",
        "remount",
        "ro",
        "rprivate",
        "rshared",
        "rslave",
        "runbindable",
        "rw",
        "shared",
        "silent",
        "slave",
        "strictatime",
        "suid",
        "sync",
        "unbindable",
        "rro",
        "rnosuid",
        "nosymfollow",
    ] {
        assert!(options.contains(&wanted), "{wanted}");
    }
}

#[test]
fn linux() {
    let features = features();
    let namespaces = &features["linux"]["namespaces"];
    assert_eq!(*namespaces, json!(["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]));
    assert!(features["linux"]["capabilities"].as_array().unwrap().contains(&json!("CAP_SYS_ADMIN")));
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(features["linux"]["intelRdt"]["enabled"], false);
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    assert!(features["linux"]["memoryPolicy"]["modes"].as_array().unwrap().contains(&json!("MPOL_BIND")));
}
