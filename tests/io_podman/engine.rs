//! What the engine can do, it does for these clients too.

use std::fs;

use serde_json::{Value, json};

use crate::common::*;
use crate::{SLEEPER, create, document, podman};

#[test]
fn the_root_of_a_container_of_an_image_is_mounted_on_the_host() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let id = create(&host, "c1", SLEEPER, json!({}));
    let mounts = || podman(&host, "ListContainerMounts", json!({})).unwrap()["mounts"].take();
    assert_eq!(mounts(), json!({}));
    let path = podman(&host, "MountContainer", json!({"name": "c1"})).unwrap()["path"].take();
    let place = path.as_str().unwrap();
    assert!(fs::exists(format!("{place}/bin/sh")).unwrap());
    assert_eq!(mounts(), json!({&id: path}));
    podman(&host, "StartContainer", json!({"name": "c1"})).unwrap();
    fs::write(format!("{place}/note"), "from the host\n").unwrap();
    let exec = host.call("Container.Exec", json!({"name": "c1", "command": ["cat", "/note"]})).unwrap();
    assert_eq!(exec["stdout"], "from the host\n");
    podman(&host, "UnmountContainer", json!({"name": "c1", "force": false})).unwrap();
    assert_eq!(mounts(), json!({}));
    assert_refused(podman(&host, "MountContainer", json!({"name": "nobody"})), "ErrorOccurred");
    assert_refused(podman(&host, "UnmountContainer", json!({"name": "nobody"})), "ErrorOccurred");
    podman(&host, "RemoveContainer", json!({"name": "c1", "force": true})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_look_at_a_container_that_never_ran_changes_nothing_and_tells_no_secret() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    host.call("Secret.Create", json!({"name": "key", "data": "aGlkZGVu"})).unwrap();
    let mounts = json!([
        {"kind": "volume", "source": "data", "target": "/etc"},
        {"kind": "volume", "source": "given", "target": "/given", "chown": true},
        {"kind": "image", "source": "busybox", "target": "/image", "readOnly": false},
        {"kind": "volume", "source": "data", "target": "/over", "overlay": true},
    ]);
    let secrets = json!([{"secret": "key"}, {"secret": "key", "kind": "env", "target": "KEY"}]);
    let never = host
        .sh("test ${#KEY} = 6")
        .named("never")
        .with(json!({"mounts": mounts, "secrets": secrets, "user": "1000", "userNamespace": null}))
        .create();
    let tree = || -> Vec<String> {
        let roots = [host.state_dir().join("containers"), host.state_dir().join("volumes"), host.run_dir()];
        let mut waiting = roots.to_vec();
        let mut found = Vec::new();
        while let Some(path) = waiting.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            use std::os::unix::fs::MetadataExt as _;
            found.push(format!("{} {} {:o}", path.display(), metadata.uid(), metadata.mode()));
            if metadata.is_dir() {
                waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        found.sort();
        found
    };
    let fresh = || host.call("Volume.Inspect", json!({"name": "data"})).unwrap()["volume"]["fresh"].take();
    let before = tree();
    let spec = document(&podman(&host, "Spec", json!({"name": "never"})).unwrap(), "config");
    let at = |target: &str| -> Value {
        let mounts = spec["mounts"].as_array().unwrap();
        mounts
            .iter()
            .find(|mount| mount["destination"] == target)
            .unwrap_or_else(|| panic!("{target}"))
            .clone()
    };
    assert!(at("/etc")["source"].as_str().unwrap().ends_with("/data"), "{spec}");
    assert_eq!((&at("/image")["type"], &at("/over")["type"]), (&json!("overlay"), &json!("overlay")));
    at("/run/secrets");
    podman(&host, "InspectContainer", json!({"name": "never"})).unwrap();
    podman(&host, "ContainerConfig", json!({"name": "never"})).unwrap();
    assert_eq!(tree(), before);
    assert_eq!(fresh(), true);

    never.start().unwrap();
    assert_eq!(never.exit_code(), Some(0));
    assert_eq!(fresh(), false);
    let after = podman(&host, "Spec", json!({"name": "never"})).unwrap();
    for spec in [spec, document(&after, "config")] {
        assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("KEY=")), "{spec}");
        assert!(!spec.to_string().contains("hidden"), "{spec}");
    }
    never.remove().unwrap();
    for volume in ["data", "given"] {
        host.call("Volume.Remove", json!({"name": volume})).unwrap();
    }
    host.call("Secret.Remove", json!({"name": "key"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn what_would_keep_a_container_from_its_start_is_told_when_it_is_to_be_prepared() {
    let Some(host) = Host::new() else { return };
    let source = host.path().join("source");
    fs::create_dir(&source).unwrap();
    let id = create(&host, "c1", SLEEPER, json!({"volume": [format!("{}:/there", source.display())]}));
    let init = || podman(&host, "InitContainer", json!({"name": "c1"}));
    assert_eq!(init().unwrap()["container"], json!(id));
    fs::remove_dir(&source).unwrap();
    assert!(assert_refused(init(), "ErrorOccurred").reason().contains("source"));
    fs::create_dir(&source).unwrap();
    podman(&host, "StartContainer", json!({"name": "c1"})).unwrap();
    assert_refused(init(), "InvalidState");
}

#[test]
fn the_command_of_a_label_makes_a_container_and_nothing_else() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let maker = create(&host, "maker", &["true"], json!({}));
    let label = |key: &str, command: &str| format!("LABEL={key}=\"{command}\"");
    let touched = host.path().join("touched");
    let changes = [
        label("RUN", "podman run -d --net none --name NAME -e FROM=$IMAGE -l kept=${OPT1} IMAGE sleep 1000"),
        label("INSTALL", "podman create --net none IMAGE"),
        label("UNINSTALL", &format!("touch {}", touched.display())),
    ];
    let commit = json!({"name": maker, "image_name": "labelled", "changes": changes});
    host.call_more("io.podman.Commit", commit).unwrap();
    podman(&host, "RemoveContainer", json!({"name": "maker"})).unwrap();
    let run = |label: &str, more: Value| {
        let mut wanted = json!({"image": "labelled", "label": label, "name": "made"});
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        podman(&host, "ContainerRunlabel", json!({"runlabel": wanted}))
    };
    assert_eq!(run("RUN", json!({"display": true})).unwrap(), json!({}));
    assert!(host.names().is_empty(), "only what would be done was asked for");
    run("RUN", json!({"opts": {"opt1": "well"}})).unwrap();
    let details = host.call("Container.Inspect", json!({"name": "made"})).unwrap()["container"].take();
    assert_eq!(
        (&details["summary"]["state"], &details["spec"]["labels"]["kept"]),
        (&json!("running"), &json!("well"))
    );
    assert!(details["env"].as_array().unwrap().contains(&json!("FROM=labelled")), "{details}");
    run("INSTALL", json!({"extraArgs": ["true"]})).unwrap();
    assert_eq!(host.names().len(), 2);
    let refused = assert_refused(run("UNINSTALL", json!({})), "ErrorOccurred");
    assert!(refused.reason().contains("podman run") && !touched.exists(), "{refused:?}");
    assert_refused(run("OTHER", json!({})), "ErrorOccurred");
    assert_refused(run("RUN", json!({"image": "nobody"})), "ImageNotFound");
    for name in host.names() {
        podman(&host, "RemoveContainer", json!({"name": name, "force": true})).unwrap();
    }
    podman(&host, "RemoveImage", json!({"name": "labelled"})).unwrap();
    leaks.assert_none_after();
}
