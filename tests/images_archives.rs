//! Images out of archives that others have made, and into archives that others take.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod image_support;
mod image_tools;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Host, Leaks, assert_refused};
use image_support::Archive;
use image_tools::{Tools, run};
use serde_json::{Value, json};

fn load(host: &Host, path: &Path) -> Vec<Value> {
    let reply = host.call("Image.Load", json!({"path": path})).unwrap();
    reply["images"].as_array().unwrap().clone()
}

fn ids(host: &Host) -> Vec<String> {
    let reply = host.call("Image.List", json!({})).unwrap();
    reply["images"].as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_others_make_is_taken_in_every_form_with_its_id() {
    let Some(tools) = Tools::new() else { return };
    let Some(host) = Host::empty() else { return };
    let leaks = Leaks::before(&host);
    let id = tools.build_rich("localhost/rich:1");
    let archive = |name: &str| tools.path(name).display().to_string();
    let stored = tools.stored("localhost/rich:1");
    tools.skopeo_copy(&[], &stored, &format!("docker-archive:{}:localhost/rich:1", archive("docker.tar")));
    tools.skopeo_copy(&[], &stored, &format!("oci-archive:{}:localhost/rich:1", archive("oci.tar")));
    tools.skopeo_copy(
        &["--dest-compress-format", "zstd", "--dest-compress"],
        &stored,
        &format!("oci:{}:localhost/rich:1", archive("oci-zstd")),
    );
    tools.skopeo_copy(&[], &stored, &format!("oci:{}:localhost/rich:1", archive("oci")));
    tools.podman(&["save", "--quiet", "--output", &archive("podman.tar"), "localhost/rich:1"]);
    run(Command::new("gzip").args(["--fast", "--keep"]).arg(tools.path("docker.tar")));
    for name in ["docker.tar", "docker.tar.gz", "oci.tar", "oci", "oci-zstd", "podman.tar"] {
        let loaded = load(&host, &tools.path(name));
        assert_eq!(loaded[0]["names"], json!(["localhost/rich:1"]), "{name}");
        // Docker's form has a configuration of its own.
        if !name.contains("docker") && name != "podman.tar" {
            assert_eq!(loaded[0]["id"], json!(id), "{name}");
        }
        let image = loaded[0]["id"].as_str().unwrap();
        assert_eq!(host.image(image).output(), "second\n", "{name}");
        let listing = host.image(image).with(json!({"command": ["ls", "/", "/hidden", "/emptied"]})).output();
        assert!(!listing.contains("removed") && listing.contains("third-again"), "{listing}");
        assert!(listing.contains("/hidden:\nnew\n") && listing.contains("/emptied:\n\n"), "{listing}");
        assert_eq!(host.image(image).with(json!({"command": ["cat", "/d/old"]})).output(), "now a file");
        common::wait_until("the containers are removed", || host.names().is_empty());
        host.call("Image.Remove", json!({"name": image})).unwrap();
        leaks.assert_none_after();
    }
}

#[test]
fn the_tree_is_what_podman_makes_of_the_same_image() {
    let Some(tools) = Tools::new() else { return };
    let Some(host) = Host::empty() else { return };
    tools.build_rich("localhost/rich:1");
    let archive = tools.path("rich.tar");
    tools.podman(&["save", "--quiet", "--output", archive.to_str().unwrap(), "localhost/rich:1"]);
    tools.podman(&["rmi", "--all", "--force"]);
    tools.podman(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let theirs = tools.podman(&["image", "mount", "localhost/rich:1"]);
    let id = load(&host, &archive)[0]["id"].as_str().unwrap().to_owned();
    let image = host.call("Image.Inspect", json!({"name": id})).unwrap()["image"].clone();
    let layers: Vec<String> = image["layers"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|layer| {
            host.state_dir().join("layers").join(&layer.as_str().unwrap()[7..]).display().to_string()
        })
        .collect();
    let ours = tools.path("ours");
    fs::create_dir(&ours).unwrap();
    run(Command::new("mount")
        .args(["-t", "overlay", "-o", &format!("lowerdir={}", layers.join(":")), "overlay"])
        .arg(&ours));
    let (our_tree, their_tree) = (image_support::tree(&ours), image_support::tree(Path::new(&theirs)));
    run(Command::new("umount").arg(&ours));
    tools.podman(&["image", "umount", "localhost/rich:1"]);
    let names =
        |tree: &std::collections::BTreeMap<_, _>| tree.keys().cloned().collect::<Vec<std::path::PathBuf>>();
    assert_eq!(names(&our_tree), names(&their_tree));
    // No layer has an entry for the root, which podman then makes read-only.
    for (name, node) in our_tree.iter().filter(|(name, _)| !name.as_os_str().is_empty()) {
        assert_eq!(node, &their_tree[name], "{name:?}");
    }
}

#[test]
fn an_archive_comes_through_a_pipe_too() {
    let Some(tools) = Tools::new() else { return };
    let Some(host) = Host::empty() else { return };
    tools.build("localhost/small:1", &[&|root: &Path| fs::write(root.join("file"), "x").unwrap()]);
    for format in ["docker-archive", "oci-archive"] {
        let archive = tools.path(format);
        tools.podman(&[
            "save",
            "--quiet",
            "--format",
            format,
            "--output",
            archive.to_str().unwrap(),
            "localhost/small:1",
        ]);
        let mut cat = Command::new("cat").arg(&archive).stdout(Stdio::piped()).spawn().unwrap();
        let pipe: OwnedFd = cat.stdout.take().unwrap().into();
        let reply = host
            .call_with_fds("Image.Load", json!({"archive": 0, "name": "piped"}), &[pipe.as_fd()])
            .unwrap();
        drop(pipe);
        cat.wait().unwrap();
        assert_eq!(reply["images"][0]["names"], json!(["localhost/small:1", "localhost/piped:latest"]));
    }
    // A directory can be passed as well.
    let layout = tools.path("layout");
    tools.skopeo_copy(&[], &tools.stored("localhost/small:1"), &format!("oci:{}:v1", layout.display()));
    let directory = File::open(&layout).unwrap();
    let reply = host.call_with_fds("Image.Load", json!({"archive": 0}), &[directory.as_fd()]).unwrap();
    assert_eq!(reply["images"][0]["names"], json!(["localhost/v1:latest"]));
}

#[test]
fn what_is_saved_is_taken_by_others_and_by_us_with_the_same_id() {
    let Some(tools) = Tools::new() else { return };
    let Some(host) = Host::empty() else { return };
    tools.build_rich("localhost/rich:1");
    let original = tools.path("original.tar");
    tools.podman(&[
        "save",
        "--quiet",
        "--format",
        "oci-archive",
        "--output",
        original.to_str().unwrap(),
        "localhost/rich:1",
    ]);
    let id = load(&host, &original)[0]["id"].as_str().unwrap().to_owned();
    let other = Host::empty().unwrap();
    for (format, name, transport) in [
        ("dockerArchive", "saved-docker.tar", "docker-archive"),
        ("ociArchive", "saved-oci.tar", "oci-archive"),
        ("ociDirectory", "saved-oci", "oci"),
    ] {
        let saved = tools.path(name);
        let parameters = json!({"names": ["rich:1"], "format": format, "path": saved});
        host.call("Image.Save", parameters.clone()).unwrap();
        assert_refused(
            host.call("Image.Save", parameters),
            if format == "ociDirectory" { "Failed" } else { "InvalidSpec" },
        );
        let config = run(Command::new("skopeo").args([
            "inspect",
            "--config",
            "--raw",
            &format!("{transport}:{}", saved.display()),
        ]));
        assert_eq!(
            run(Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum", "sh", &config]))
                .split(' ')
                .next()
                .unwrap(),
            &id[7..]
        );
        // podman checks every digest as it takes it.
        tools.podman(&["rmi", "--all", "--force"]);
        tools.skopeo_copy(
            &[],
            &format!("{transport}:{}", saved.display()),
            &tools.stored("localhost/again:1"),
        );
        assert_eq!(tools.id("localhost/again:1"), id, "{format}");
        assert_eq!(load(&other, &saved)[0]["id"], json!(id), "{format}");
        let again = tools.path(&format!("again-{name}"));
        other.call("Image.Save", json!({"names": ["rich:1"], "format": format, "path": again})).unwrap();
        run(Command::new("diff").arg("-r").arg(&saved).arg(&again));
        other.call("Image.Remove", json!({"name": id})).unwrap();
    }
}

#[test]
fn an_archive_can_have_several_images_that_share_layers() {
    let Some(tools) = Tools::new() else { return };
    let Some(host) = Host::empty() else { return };
    let base: &dyn Fn(&Path) = &|root| fs::write(root.join("base"), vec![1; 100_000]).unwrap();
    tools.build("localhost/one:1", &[base]);
    let container = tools.buildah(&["from", "localhost/one:1"]);
    tools.buildah(&["config", "--env", "TWO=2", &container]);
    tools.buildah(&["commit", "--quiet", "--rm", &container, "localhost/two:2"]);
    let archive = tools.path("several.tar");
    tools.podman(&[
        "save",
        "--quiet",
        "--multi-image-archive",
        "--output",
        archive.to_str().unwrap(),
        "localhost/one:1",
        "localhost/two:2",
    ]);
    let mut names: Vec<_> = load(&host, &archive).iter().map(|image| image["names"][0].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["localhost/one:1", "localhost/two:2"]);
    assert_refused(host.call("Image.Load", json!({"path": archive, "name": "both"})), "InvalidSpec");

    for format in ["dockerArchive", "ociArchive"] {
        let saved = tools.path(format);
        host.call("Image.Save", json!({"names": ["one:1", "two:2"], "format": format, "path": saved}))
            .unwrap();
        assert!(fs::metadata(&saved).unwrap().len() < 200_000, "the layer is in it once");
        let other = Host::empty().unwrap();
        assert_eq!(load(&other, &saved).len(), 2);
        assert_eq!(ids(&other).len(), 2);
    }
}

/// An OCI layout whose parts can be wrong.
struct Layout {
    layer: Vec<u8>,
    config: Value,
    manifest: fn(&mut Value),
}

impl Layout {
    fn new() -> Self {
        let layer = Archive::new().file("file", "content").build();
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
        Self { layer, config, manifest: |_| {} }
    }

    fn pack(&self, damage: impl Fn(&str, &mut Vec<u8>)) -> Vec<u8> {
        let config = self.config.to_string().into_bytes();
        let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()});
        let mut manifest = json!({"schemaVersion": 2, "config": describe("config.v1+json", &config), "layers": [describe("layer.v1.tar", &self.layer)]});
        (self.manifest)(&mut manifest);
        let manifest = manifest.to_string().into_bytes();
        let index =
            json!({"schemaVersion": 2, "manifests": [describe("manifest.v1+json", &manifest)]}).to_string();
        let mut archive = Archive::new();
        for (what, bytes) in [("layer", &self.layer), ("config", &config), ("manifest", &manifest)] {
            let name = format!("blobs/sha256/{}", &digest(bytes)[7..]);
            let mut bytes = bytes.clone();
            damage(what, &mut bytes);
            if !bytes.is_empty() {
                archive = archive.bytes(&name, &bytes);
            }
        }
        archive.file("index.json", &index).build()
    }
}

fn digest(bytes: &[u8]) -> String {
    dormouse::image::Digest::of(bytes).to_string()
}

#[test]
fn a_wrong_byte_anywhere_is_told_and_leaves_nothing() {
    let Some(host) = Host::empty() else { return };
    let leaks = Leaks::before(&host);
    let refused = |archive: &[u8], name: &str, reason: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), archive).unwrap();
        let refusal = assert_refused(host.call("Image.Load", json!({"path": file.path()})), name);
        assert!(refusal.reason().contains(reason), "{reason}: {}", refusal.reason());
        assert_eq!(ids(&host), [""; 0]);
    };
    let good = Layout::new();
    let damaged = |what: &'static str| {
        good.pack(move |part, bytes| {
            if part == what {
                let last = bytes.len() - 1;
                bytes[last.min(600)] ^= 1;
            }
        })
    };
    refused(&damaged("layer"), "InvalidArchive", &digest(&good.layer));
    refused(&damaged("config"), "InvalidArchive", "the configuration");
    refused(&damaged("manifest"), "InvalidArchive", "the manifest");
    for part in ["layer", "config", "manifest"] {
        let missing = good.pack(|name, bytes| {
            if name == part {
                bytes.clear();
            }
        });
        refused(&missing, "InvalidArchive", "the archive has no");
    }
    let mut other = Layout::new();
    other.config["rootfs"]["diff_ids"] = json!([digest(b"something else")]);
    refused(&other.pack(|_, _| {}), "InvalidArchive", "the uncompressed layer");
    other.config["rootfs"]["diff_ids"] = json!([]);
    refused(&other.pack(|_, _| {}), "InvalidArchive", "0 layers");
    let foreign = Layout {
        manifest: |manifest| {
            manifest["layers"][0]["mediaType"] =
                json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
        },
        ..Layout::new()
    };
    refused(&foreign.pack(|_, _| {}), "Unsupported", "foreign");
    let nested = Layout { manifest: |manifest| manifest["layers"][0]["size"] = json!(3), ..Layout::new() };
    refused(&nested.pack(|_, _| {}), "InvalidArchive", "the blob");
    // docker-archive: paths, links and claims that lead elsewhere.
    let docker = |manifest: Value| Archive::new().file("manifest.json", &manifest.to_string());
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(b"x")]}}).to_string();
    for path in ["../../../../etc/passwd", "/etc/passwd", "link", "loop"] {
        let archive = docker(json!([{"Config": "config.json", "RepoTags": null, "Layers": [path]}]))
            .file("config.json", &config)
            .symlink("link", "/etc/passwd")
            .symlink("loop", "loop");
        refused(&archive.build(), "InvalidArchive", "the archive has no");
    }
    refused(&docker(json!([])).build(), "InvalidArchive", "no image in it");
    refused(&docker(json!({})).build(), "InvalidArchive", "manifest");
    refused(&Archive::new().file("etc/passwd", "").build(), "InvalidArchive", "imported, not loaded");
    refused(b"", "InvalidArchive", "");
    refused(&vec![b'x'; 5000], "InvalidArchive", "not a tar archive");
    let good_archive = good.pack(|_, _| {});
    for cut in (0..good_archive.len()).step_by(700) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &good_archive[..cut]).unwrap();
        // A layer that is whole may stay for the next attempt; here there is nothing after it but its description.
        if host.call("Image.Load", json!({"path": file.path()})).is_ok() {
            assert!(cut > good_archive.len() - 2048);
            host.call("Image.Prune", json!({"all": true})).unwrap();
        }
    }
    host.call("Image.Prune", json!({})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn names_come_and_go_and_the_image_stays() {
    let Some(host) = Host::new() else { return };
    let id = ids(&host).remove(0);
    let names =
        || host.call("Image.Inspect", json!({"name": id})).unwrap()["image"]["summary"]["names"].clone();
    let reply = host
        .call("Image.Tag", json!({"name": "busybox", "newName": "registry.example:5000/team/box:1"}))
        .unwrap();
    assert_eq!(reply["fullName"], "registry.example:5000/team/box:1");
    assert_eq!(names(), json!(["localhost/busybox:latest", "registry.example:5000/team/box:1"]));
    let refusal = assert_refused(
        host.call("Image.Tag", json!({"name": "busybox", "newName": "No Name"})),
        "InvalidSpec",
    );
    assert_eq!(refusal.parameters["field"], "newName");
    assert_refused(host.call("Image.Tag", json!({"name": "absent", "newName": "x"})), "NotFound");
    assert_refused(host.call("Image.Untag", json!({"name": id})), "InvalidSpec");
    host.call("Image.Untag", json!({"name": "registry.example:5000/team/box:1"})).unwrap();
    host.call("Image.Untag", json!({"name": "busybox"})).unwrap();
    assert_eq!(names(), json!([]));
    host.call("Image.Tag", json!({"name": &id[7..19], "newName": "docker.io/back"})).unwrap();
    assert_eq!(names(), json!(["docker.io/library/back:latest"]));
    // As it would be pulled, a short name finds it again.
    assert!(host.call("Image.Inspect", json!({"name": "back"})).is_ok());
    host.call("Image.Remove", json!({"name": "back"})).unwrap();
    assert_eq!(ids(&host), [""; 0]);
}

#[test]
fn prune_takes_what_nothing_uses_and_tells_what_it_freed() {
    let Some(host) = Host::empty() else { return };
    let before = Leaks::before(&host);
    host.import_busybox();
    let used = host.call("Manager.DiskUsage", json!({})).unwrap();
    assert_eq!((&used["images"]["count"], &used["images"]["inUse"]), (&json!(1), &json!(0)));
    assert!(used["images"]["bytes"].as_i64().unwrap() > 1 << 20);
    assert_eq!(used["images"]["bytes"], used["images"]["reclaimableBytes"]);
    assert_eq!(host.call("Image.Prune", json!({})).unwrap(), json!({"removed": [], "freedBytes": 0}));
    let container = host.sh("echo 0123456789 > /file").create();
    host.call("Image.Untag", json!({"name": "busybox"})).unwrap();
    assert_eq!(
        host.call("Manager.Prune", json!({"all": true})).unwrap()["imagesRemoved"],
        json!([]),
        "it is in use"
    );
    container.start().unwrap();
    container.exit_code();
    let now = host.call("Manager.DiskUsage", json!({})).unwrap();
    assert_eq!((&now["images"]["inUse"], &now["images"]["reclaimableBytes"]), (&json!(1), &json!(0)));
    assert!(now["containers"]["bytes"].as_i64().unwrap() >= 4096);
    assert_eq!(now["containers"]["bytes"], now["containers"]["reclaimableBytes"]);
    container.remove().unwrap();
    let pruned = host.call("Image.Prune", json!({})).unwrap();
    assert_eq!(pruned["freedBytes"], used["images"]["bytes"]);
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 1);
    assert_eq!(host.call("Manager.DiskUsage", json!({})).unwrap()["images"]["bytes"], 0);
    before.assert_none_after();
}

#[test]
fn history_tells_the_steps_newest_first() {
    let Some(tools) = Tools::new() else { return };
    let Some(host) = Host::empty() else { return };
    tools.build_rich("localhost/rich:1");
    let archive = tools.path("oci.tar");
    tools.podman(&[
        "save",
        "--quiet",
        "--format",
        "oci-archive",
        "--output",
        archive.to_str().unwrap(),
        "localhost/rich:1",
    ]);
    load(&host, &archive);
    let steps = host.call("Image.History", json!({"name": "rich:1"})).unwrap()["steps"].clone();
    let theirs: Value =
        serde_json::from_str(&tools.podman(&["history", "--format", "json", "localhost/rich:1"])).unwrap();
    assert_eq!(steps.as_array().unwrap().len(), theirs.as_array().unwrap().len());
    let layers = host.call("Image.Inspect", json!({"name": "rich:1"})).unwrap()["image"]["layers"].clone();
    assert_eq!(steps[0]["layer"], layers[2]);
    assert_eq!(steps[2]["layer"], layers[0]);
    assert_eq!(steps[0]["sizeBytes"], 6000);
    assert!(steps[0]["createdUSec"].as_i64().unwrap() > 1_600_000_000_000_000);
}
