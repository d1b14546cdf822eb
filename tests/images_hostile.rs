//! Images of several layers that try to get out, or to be more than they are.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod image_support;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use common::{Host, Leaks, assert_refused};
use dormouse::image::Digest;
use image_support::Archive;
use serde_json::{Value, json};

/// A docker-archive of an image with these layers.
fn archive(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["localhost/hostile:1"], "Layers": names}]);
    let mut archive =
        Archive::new().file("manifest.json", &manifest.to_string()).file("config.json", &config.to_string());
    for (name, layer) in names.iter().zip(layers) {
        archive = archive.bytes(name, layer);
    }
    archive.build()
}

fn load(host: &Host, layers: &[Vec<u8>]) -> common::Answer {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), archive(layers)).unwrap();
    host.call("Image.Load", json!({"path": file.path()}))
}

fn layer(host: &Host, bytes: &[u8]) -> PathBuf {
    host.state_dir().join("layers").join(Digest::of(bytes).hex())
}

#[test]
fn a_link_of_one_layer_leads_the_next_one_nowhere() {
    let Some(host) = Host::empty() else { return };
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let target = outside.to_str().unwrap();
    let first =
        Archive::new().symlink("link", target).symlink("up", "../../../../..").file("file", "x").build();
    for second in [
        Archive::new().file("link/victim", "overwritten"),
        Archive::new().file("link/.wh.victim", ""),
        Archive::new()
            .directory("link", 0o755)
            .file("link/.wh..wh..opq", "")
            .file("link/victim", "overwritten"),
        Archive::new().hard_link("mine", "link/victim"),
        Archive::new().file(&format!("up{target}/victim"), "overwritten"),
        Archive::new().file(".wh.link", "").file("link/victim", "overwritten"),
        Archive::new().symlink("link2", target).file("link2/victim", "overwritten"),
    ] {
        // A hard link to what another layer has is none; the rest is contained.
        let loaded = load(&host, &[first.clone(), second.build()]);
        if let Ok(reply) = loaded {
            host.call("Image.Remove", json!({"name": reply["images"][0]["id"]})).unwrap();
        }
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}

#[test]
fn whiteouts_hide_and_do_not_reach() {
    let Some(host) = Host::empty() else { return };
    let first = Archive::new().directory("d", 0o755).file("d/a", "1").file("d/b", "2").file("c", "3").build();
    let second = Archive::new().file("d/.wh.a", "").file(".wh.c", "").file(".wh.never-there", "").build();
    load(&host, &[first, second.clone()]).unwrap();
    let tree = layer(&host, &second);
    for name in ["d/a", "c", "never-there"] {
        assert!(fs::symlink_metadata(tree.join(name)).unwrap().file_type().is_char_device(), "{name}");
    }
    for bad in [".wh...", ".wh..", "d/.wh.", "../.wh.x"] {
        let layers = [Archive::new().file(bad, "").build()];
        assert_refused(load(&host, &layers), "InvalidArchive");
    }
}

#[test]
fn names_of_any_bytes_are_kept_and_too_long_ones_refused() {
    let Some(host) = Host::empty() else { return };
    let leaks = Leaks::before(&host);
    let odd = Archive::new()
        .file("new\nline", "x")
        .file("\u{202e}txt.exe", "x")
        .file("tab\t and \u{7f}", "x")
        .pax(&[("path", "\u{fffd}\u{1}")])
        .file("ignored", "x")
        .file("-rf", "x")
        .build();
    let id = load(&host, std::slice::from_ref(&odd)).unwrap()["images"][0]["id"].clone();
    let names: Vec<_> =
        fs::read_dir(layer(&host, &odd)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5);
    assert!(names.iter().any(|name| name == "new\nline"));
    host.call("Image.Remove", json!({"name": id})).unwrap();
    for bad in ["x".repeat(256), "d/".repeat(2100)] {
        assert!(load(&host, &[Archive::new().file(&bad, "").build()]).is_err());
    }
    leaks.assert_none_after();
}

#[test]
fn bombs_take_no_more_than_they_are() {
    let Some(host) = Host::empty() else { return };
    // A file of 8 TiB that is one hole, another whose length no file can have, and an entry that claims what is not there.
    let sparse = |size: u64| {
        Archive::new()
            .pax(&[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "huge"),
                ("GNU.sparse.realsize", &size.to_string()),
            ])
            .bytes("GNUSparseFile.0/huge", &[b"0\n".as_slice(), &[0; 510]].concat())
            .build()
    };
    let reply = load(&host, &[sparse(8 << 40)]);
    if let Ok(reply) = &reply {
        let used: Value = host.call("Manager.DiskUsage", json!({})).unwrap();
        assert!(used["images"]["bytes"].as_i64().unwrap() < 1 << 20, "{used}");
        // It is saved as the small tar that it came as.
        let parameters = json!({"names": [reply["images"][0]["id"]], "path": host.path().join("saved.tar")});
        assert!(host.call("Image.Save", parameters).unwrap()["bytesWritten"].as_i64().unwrap() < 1 << 20);
        host.call("Image.Prune", json!({"all": true})).unwrap();
    }
    let leaks = Leaks::before(&host);
    assert!(load(&host, &[sparse(u64::MAX / 2)]).is_err());
    assert_refused(load(&host, &[Archive::new().claim(b'0', "more", 1 << 40).build()]), "InvalidArchive");
    leaks.assert_none_after();
}

#[test]
fn devices_are_made_but_give_nothing() {
    let Some(host) = Host::new() else { return };
    let id = host.call("Image.List", json!({})).unwrap()["images"][0]["id"].clone();
    let base = host.call("Image.Inspect", json!({"name": id})).unwrap()["image"]["layers"][0].clone();
    let tar = host.path().join("base.tar");
    host.call("Image.Save", json!({"names": [id], "path": tar})).unwrap();
    assert!(base.is_string());
    // The disk of this machine, as a node of the image: the container's cgroup does not let it be opened.
    let container = host.sh("mknod /disk b 254 0 && cat /disk").create();
    container.start().unwrap();
    assert_ne!(container.exit_code(), Some(0));
    assert!(container.log().join("\n").contains("not permitted"), "{:?}", container.log());
}
