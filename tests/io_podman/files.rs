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
