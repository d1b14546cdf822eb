//! What commands tell programs of what they did: the same shape for every verb.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::process::{Command, Output, Stdio};

use common::{Host, Leaks};
use serde_json::{Value, json};

fn dormouse(host: &Host, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .env("DORMOUSE_ADDRESS", host.address())
        .env_remove("DORMOUSE_CONNECTION")
        .stdin(Stdio::null())
        .args(arguments)
        .output()
        .unwrap()
}

/// The one document that a command writes, and its exit code.
#[track_caller]
fn told(host: &Host, arguments: &[&str]) -> (Value, i32) {
    let output = dormouse(host, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}: {text}{:?}", String::from_utf8_lossy(&output.stderr))
    });
    (document, output.status.code().unwrap())
}

/// The only object that a command which must succeed tells of. The form follows the verb.
#[track_caller]
fn one(host: &Host, verb: &str, rest: &[&str]) -> Value {
    let arguments: Vec<&str> =
        verb.split(' ').chain(["--format", "json"]).chain(rest.iter().copied()).collect();
    let (document, code) = told(host, &arguments);
    assert_eq!(code, 0, "{arguments:?}: {document}");
    let [only] = document.as_array().unwrap().as_slice() else { panic!("{arguments:?}: {document}") };
    only.clone()
}

#[track_caller]
fn assert_made(told: &Value, name: &str) {
    let id = told["id"].as_str().unwrap_or_default();
    assert!(told["name"] == name && id.trim_start_matches("sha256:").len() == 64, "{told}");
}

#[test]
fn every_verb_tells_of_each_container_by_name_and_of_what_it_made_the_id() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let created = one(
        &host,
        "create",
        &["--pull", "newer", "--name", "web", "--net", "none", "busybox", "sleep", "1000"],
    );
    assert_made(&created, "web");
    assert_eq!(created["warnings"], json!([]));
    let started = json!({"name": "web", "exitCode": null, "warnings": []});
    assert_eq!(one(&host, "start", &["web"]), started);
    for (verb, flags) in [
        ("pause", vec![]),
        ("resume", vec![]),
        ("update", vec!["--pids-limit", "50"]),
        ("kill", vec!["--signal", "URG"]),
        ("restart", vec!["--time", "0"]),
    ] {
        let arguments: Vec<&str> = flags.into_iter().chain(["web"]).collect();
        assert_eq!(one(&host, verb, &arguments), json!({"name": "web"}), "{verb}");
    }
    assert_made(&one(&host, "exec", &["--detach", "web", "true"]), "web");
    let path = one(&host, "mount", &["web"])["path"].clone();
    assert!(path.as_str().unwrap().starts_with('/'), "{path}");
    assert_eq!(one(&host, "unmount", &["web"]), json!({"name": "web"}));
    assert_eq!(one(&host, "stop", &["--time", "0", "web"]), json!({"name": "web", "killed": true}));
    assert_eq!(one(&host, "wait", &["web"]), json!({"name": "web", "exitCode": 137}));
    assert_eq!(one(&host, "rename", &["web", "old"]), json!({"name": "old", "oldName": "web"}));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwd").display().to_string();
    assert_eq!(
        one(&host, "cp", &["old:/etc/passwd", &file]),
        json!({"name": file, "source": "old:/etc/passwd"})
    );
    let tar = dir.path().join("old.tar").display().to_string();
    let exported = one(&host, "export", &["--output", &tar, "old"]);
    assert_eq!(exported["bytes"], std::fs::metadata(&tar).unwrap().len(), "{exported}");
    assert_made(&one(&host, "commit", &["old", "kept"]), "kept");
    assert_made(&one(&host, "import", &[&tar, "flat"]), "flat");
    let tagged = one(&host, "tag", &["flat", "localhost/other"]);
    assert_eq!(tagged, json!({"name": "localhost/other", "fullName": "localhost/other:latest"}));
    assert_eq!(one(&host, "untag", &["localhost/other"]), json!({"name": "localhost/other"}));
    for image in ["flat", "kept"] {
        let removed = one(&host, "rmi", &[image])["removed"].clone();
        assert!(removed.is_string(), "{removed}");
    }
    assert_eq!(one(&host, "rm", &["old"]), json!({"name": "old"}));
    for verb in ["rm", "stop", "rmi"] {
        assert_eq!(one(&host, verb, &["--ignore", "old"]), json!({"name": "old", "ignored": true}), "{verb}");
        let output = dormouse(&host, &[verb, "old"]);
        assert_eq!(output.status.code(), Some(1), "{verb}: {output:?}");
    }
    let job = ["--detach", "--wait", "exited", "--rm", "--name", "job", "--net", "none", "busybox", "true"];
    let run = one(&host, "run", &job);
    assert_made(&run, "job");
    assert_eq!(run["exitCode"], 0);
    leaks.assert_none_after();
}

#[test]
fn volumes_networks_secrets_pods_and_connections_are_told_the_same_way() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file").display().to_string();
    std::fs::write(&file, "text").unwrap();
    assert_made(&one(&host, "volume create", &["data"]), "data");
    let again = one(&host, "volume create", &["--ignore", "data"]);
    assert_made(&again, "data");
    assert_eq!(again["ignored"], true);
    let tar = dir.path().join("data.tar").display().to_string();
    let size = one(&host, "volume export", &["--output", &tar, "data"])["bytes"].clone();
    assert_eq!(size, std::fs::metadata(&tar).unwrap().len());
    let imported = one(&host, "volume import", &["data", &tar]);
    assert_eq!((&imported["name"], &imported["bytes"]), (&json!("data"), &size));
    assert_eq!(one(&host, "volume inspect", &["data"])["name"], "data");
    assert_eq!(one(&host, "volume rm", &["data"]), json!({"name": "data"}));
    assert_made(&one(&host, "network create", &["back"]), "back");
    assert_eq!(one(&host, "network rm", &["back"]), json!({"name": "back"}));
    assert_made(&one(&host, "secret create", &["key", &file]), "key");
    assert_eq!(one(&host, "secret rm", &["key"]), json!({"name": "key"}));
    for name in [&["shop"][..], &["--name", "flagged"]] {
        let arguments = [&["--net", "none"], name].concat();
        assert_made(&one(&host, "pod create", &arguments), name[name.len() - 1]);
    }
    assert_eq!(one(&host, "pod rm", &["flagged"]), json!({"name": "flagged"}));
    let twice = dormouse(&host, &["pod", "create", "--name", "one", "two"]);
    assert_eq!(twice.status.code(), Some(2), "{twice:?}");
    host.sleeper().with(json!({"pod": "shop", "networkNamespace": null})).named("db").create();
    for verb in ["start", "restart", "pause", "resume", "kill", "stop"] {
        assert_eq!(one(&host, &format!("pod {verb}"), &["shop"]), json!({"name": "shop"}), "{verb}");
    }
    assert_eq!(one(&host, "pod rm", &["shop"]), json!({"name": "shop"}));
    for verb in ["pod stop", "pod rm"] {
        let gone = json!({"name": "shop", "ignored": true});
        assert_eq!(one(&host, verb, &["--ignore", "shop"]), gone, "{verb}");
        let (_, code) = told(&host, &[&verb[..3], &verb[4..], "--format", "json", "shop"]);
        assert_eq!(code, 1, "{verb}");
    }
    for prune in ["volume", "image"] {
        let (pruned, code) = told(&host, &[prune, "prune", "--format", "json"]);
        assert_eq!((pruned, code), (json!({"removed": [], "freedBytes": 0}), 0), "{prune}");
    }
    for prune in ["network", "pod"] {
        let (pruned, code) = told(&host, &[prune, "prune", "--format", "json"]);
        assert_eq!((pruned, code), (json!([]), 0), "{prune}");
    }
    leaks.assert_none_after();
}

#[test]
fn what_failed_is_told_beside_what_did_not_and_the_exit_code_is_the_same() {
    let Some(host) = Host::new() else { return };
    host.sh("exit").named("one").create();
    host.sh("exit").named("two").create();
    let (list, code) = told(&host, &["rm", "--format", "json", "one", "nobody", "two"]);
    assert_eq!((code, &list[0], &list[2]), (1, &json!({"name": "one"}), &json!({"name": "two"})));
    assert_eq!(list[1]["name"], "nobody");
    assert!(list[1]["error"].as_str().unwrap().contains("nobody"), "{list}");
    let (list, code) = told(&host, &["stop", "--format", "json", "nobody"]);
    assert!(code == 1 && list[0]["error"].is_string(), "{list}");

    let output = dormouse(&host, &["start", "--format", "jsonlines", "nobody", "none"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let names: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].clone()).collect();
    assert_eq!(names, ["nobody", "none"]);

    for arguments in [
        vec!["run", "--format", "json", "busybox", "true"],
        vec!["exec", "--format", "json", "one", "true"],
        vec!["export", "--format", "json", "one"],
    ] {
        let output = dormouse(&host, &arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("--format"), "{arguments:?}: {complaint}");
    }
}
