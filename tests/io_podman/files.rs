//! Files over upgraded connections, which go back to calls afterwards.

use std::io::Read as _;

use serde_json::json;

use crate::common::*;
use crate::podman;
use crate::wire::Raw;

fn busybox() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tar = busybox_tar();
    tar.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_file_is_sent_and_imported_on_the_same_connection() {
    let Some(host) = Host::empty() else { return };
    let bytes = busybox();
    let mut raw = Raw::connect(&host);
    // The data come right behind the call, and the next call right behind the data.
    let import = b"{\"method\":\"io.podman.GetVersion\"}\0";
    raw.call(
        "SendFile",
        &json!({"type": "", "length": bytes.len()}),
        &["upgrade"],
        &[&bytes[..], import].concat(),
    );
    let reply = raw.reply();
    let handle = reply["parameters"]["file_handle"].as_str().unwrap().to_owned();
    assert!(!handle.contains(':'));
    assert_eq!(raw.bytes(handle.len() + 1), format!("{handle}:").into_bytes());
    assert_eq!(raw.reply()["parameters"]["version"], "1.9.3");
    let call = json!({"source": handle, "reference": "sent", "message": "m", "changes": ["CMD=true"], "delete": true});
    raw.call("ImportImage", &call, &[], b"");
    assert_eq!(raw.reply()["parameters"]["image"].as_str().unwrap().len(), 64);
    assert!(!std::path::Path::new(&handle).exists());
    let history = podman(&host, "HistoryImage", json!({"name": "sent"})).unwrap();
    assert_eq!(history["history"][0]["comment"], "m");

    // And back: an archive, loaded again.
    let save = json!({"options": {"name": "sent", "format": "oci-archive", "moreTags": []}});
    let saved = host.call_more("io.podman.ImageSave", save).unwrap();
    let file = saved.last().unwrap()["reply"]["id"].as_str().unwrap().to_owned();
    raw.call("ReceiveFile", &json!({"path": file, "delete": true}), &["upgrade"], b"");
    let length = raw.reply()["parameters"]["len"].as_u64().unwrap();
    let archive = raw.bytes(usize::try_from(length).unwrap());
    assert!(!std::path::Path::new(&file).exists());
    raw.call("SendFile", &json!({"length": archive.len()}), &["upgrade"], &archive);
    let handle = raw.reply()["parameters"]["file_handle"].as_str().unwrap().to_owned();
    raw.bytes(handle.len() + 1);
    podman(&host, "RemoveImage", json!({"name": "sent"})).unwrap();
    raw.call("LoadImage", &json!({"name": "", "inputFile": handle, "deleteFile": true}), &["more"], b"");
    let last = loop {
        let reply = raw.reply();
        if reply["continues"] != json!(true) {
            break reply;
        }
    };
    assert_eq!(last["parameters"]["reply"]["id"], "localhost/sent:latest");
    assert!(!std::path::Path::new(&handle).exists());
}

#[test]
fn only_files_that_were_sent_or_made_are_given_out() {
    let Some(host) = Host::empty() else { return };
    let mut raw = Raw::connect(&host);
    for path in ["/etc/passwd", "", "file-x", "/nowhere"] {
        raw.call("ReceiveFile", &json!({"path": path, "delete": true}), &["upgrade"], b"");
        assert_eq!(raw.reply()["error"], "io.podman.ErrorOccurred", "{path}");
    }
    assert!(std::path::Path::new("/etc/passwd").exists());
    // Without the flag there is an error, and no hang; the connection goes on.
    raw.call("SendFile", &json!({"length": 3}), &[], b"");
    assert_eq!(raw.reply()["error"], "io.podman.ErrorOccurred");
    raw.call("SendFile", &json!({"length": -1}), &["upgrade"], b"");
    assert_eq!(raw.reply()["error"], "io.podman.ErrorOccurred");
    raw.call("SendFile", &json!({"length": 0}), &["upgrade"], b"");
    let handle = raw.reply()["parameters"]["file_handle"].as_str().unwrap().to_owned();
    raw.bytes(handle.len() + 1);
    raw.call("ReceiveFile", &json!({"path": handle, "delete": true}), &["upgrade"], b"");
    assert_eq!(raw.reply()["parameters"]["len"], 0);
    // Half a file is none.
    raw.call("SendFile", &json!({"length": 10}), &["upgrade"], b"half");
    let handle = raw.reply()["parameters"]["file_handle"].as_str().unwrap().to_owned();
    drop(raw);
    wait_until("the half file is gone", || !std::path::Path::new(&handle).exists());
    // A file of the host may be read, but is not taken away.
    let own = host.path().join("own.tar");
    std::fs::write(&own, busybox()).unwrap();
    podman(&host, "ImportImage", json!({"source": own, "reference": "own", "delete": true})).unwrap();
    assert!(own.exists());
}

#[test]
fn an_image_is_built_of_a_context_that_was_sent() {
    let Some(host) = Host::new() else { return };
    let recipe = "FROM localhost/busybox\nARG WHAT=nothing\nRUN echo $WHAT > /made && cat /host/file >> /made && df -k /dev/shm | tail -1 | awk '{print $2}' >> /made && grep CapEff /proc/self/status >> /made\nCMD [\"cat\", \"/made\"]\n";
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(recipe.len() as u64);
    tar.append_data(&mut header, "Recipe", recipe.as_bytes()).unwrap();
    let context = tar.into_inner().unwrap();
    let shared = host.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host\n").unwrap();
    let mut raw = Raw::connect(&host);
    raw.call("SendFile", &json!({"length": context.len()}), &["upgrade"], &context);
    let handle = raw.reply()["parameters"]["file_handle"].as_str().unwrap().to_owned();
    raw.bytes(handle.len() + 1);
    // As podman-remote sends it: the path of its own file, and a compression that is a NUL.
    let build = json!({"contextDir": handle, "dockerfiles": ["/home/me/project/Recipe"], "output": "built",
        "additionalTags": ["also:1"], "buildArgs": {"WHAT": "that"}, "compression": "\u{0}", "pullPolicy": "PullIfMissing",
        "dropCapabilities": ["ALL"], "addCapabilities": ["NET_RAW"],
        "outputFormat": "application/vnd.oci.image.manifest.v1+json",
        "buildOptions": {"ulimit": ["nproc=32768:32768"], "shmSize": "1024k", "addHosts": [], "memory": 64 << 20,
            "volume": [format!("{}:/host:ro", shared.display())]}});
    raw.call("BuildImage", &json!({"build": build}), &["more"], b"");
    let mut logs = Vec::new();
    let last = loop {
        let reply = raw.reply();
        assert_eq!(reply.get("error"), None, "{reply}");
        logs.extend(reply["parameters"]["image"]["logs"].as_array().unwrap().clone());
        if reply["continues"] != json!(true) {
            break reply["parameters"]["image"]["id"].as_str().unwrap().to_owned();
        }
    };
    assert!(logs.iter().any(|line| line.as_str().unwrap().starts_with("STEP ")), "{logs:?}");
    let image = podman(&host, "GetImage", json!({"id": "built"})).unwrap()["image"].take();
    assert_eq!(image["id"], json!(last));
    assert!(image["repoTags"].as_array().unwrap().contains(&json!("localhost/also:1")), "{image}");
    assert_eq!(host.image("built").output(), "that\nfrom the host\n1024\nCapEff:\t0000000000002000\n");
    // What is no context, and what has no recipe, is told.
    let refused = json!({"build": {"contextDir": "/etc", "dockerfiles": []}});
    assert_refused(podman(&host, "BuildImage", refused), "ErrorOccurred");
    let empty = assert_refused(podman(&host, "BuildImage", json!({"build": {}})), "ErrorOccurred");
    assert_eq!(empty.reason(), "unable to open context dir tar file ");
}
