//! Images from registries and to registries: Debian's docker-registry, with and without users and TLS, and with faults.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod image_registry;
mod image_tools;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Host, Leaks, assert_refused, wait_until};
use image_registry::{Config, Fault, PASSWORD, Proxy, Registry, USER};
use image_tools::{Tools, run};
use serde_json::{Value, json};

const NO_TLS: [&str; 1] = ["--dest-tls-verify=false"];

fn pull(host: &Host, name: &str) -> Value {
    host.call("Image.Pull", json!({"name": name})).unwrap()
}

fn images(host: &Host) -> usize {
    host.call("Image.List", json!({})).unwrap()["images"].as_array().unwrap().len()
}

/// Three layers that do not compress, each of a size.
fn build_bulky(tools: &Tools, name: &str, bytes: usize) {
    let noise = |seed: u64| {
        move |root: &Path| {
            let mut state = seed;
            let noise: Vec<u8> = (0..bytes)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[4]
                })
                .collect();
            fs::write(root.join(format!("noise-{seed}")), noise).unwrap();
        }
    };
    tools.build(name, &[&noise(1), &noise(2), &noise(3)]);
}

#[test]
fn an_image_is_pulled_with_its_digests_and_only_what_is_missing() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    let leaks = Leaks::before(&host);
    let id = tools.build_rich("localhost/rich:1");
    for (format, tag) in [("oci", "oci"), ("v2s2", "docker")] {
        let to = format!("docker://{}/team/rich:{tag}", registry.address);
        tools.skopeo_copy(
            &[&NO_TLS[..], &["--format", format]].concat(),
            &tools.stored("localhost/rich:1"),
            &to,
        );
        let name = format!("{}/team/rich:{tag}", proxy.address);
        let replies = host.call_more("Image.Pull", json!({"name": name})).unwrap();
        let last = replies.last().unwrap();
        let digest = run(Command::new("skopeo").args([
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &to,
        ]));
        assert_eq!(last["digest"], json!(digest));
        assert_eq!(last["fullName"], json!(name));
        if format == "oci" {
            assert_eq!(last["id"], json!(id));
            let layers: Vec<&Value> =
                replies.iter().flat_map(|reply| reply["layers"].as_array().unwrap()).collect();
            assert_eq!(layers.iter().filter(|layer| layer["state"] == "done").count(), 3);
            assert_eq!(proxy.blobs_seen().len(), 4, "the configuration and three layers");
        } else {
            assert_eq!(proxy.blobs_seen().len(), 1, "the layers are here, only the configuration is another");
        }
        assert_eq!(host.image(&name).output(), "second\n");
        // The same by its digest.
        let by_digest = format!("{}/team/rich@{digest}", proxy.address);
        assert_eq!(
            host.call("Image.Inspect", json!({"name": by_digest})).unwrap()["image"]["summary"]["id"],
            last["id"]
        );
        assert_eq!(pull(&host, &by_digest)["id"], last["id"]);
        let seen = proxy.seen();
        assert_eq!(
            host.call("Image.Pull", json!({"name": name, "policy": "missing"})).unwrap()["digest"],
            Value::Null
        );
        assert_eq!(proxy.seen(), [""; 0], "{seen:?}");
    }
    wait_until("the containers are removed", || host.names().is_empty());
    host.call("Image.Prune", json!({"all": true})).unwrap();
    leaks.assert_none_after();
    assert_refused(
        host.call("Image.Pull", json!({"name": format!("{}/team/rich:absent", proxy.address)})),
        "NotInRegistry",
    );
    assert_refused(host.call("Image.Pull", json!({"name": "127.0.0.1:1/x"})), "RegistryUnavailable");
    assert_refused(host.call("Image.Pull", json!({"name": "No Name"})), "InvalidSpec");
    assert_eq!(images(&host), 0);
}

#[test]
fn what_is_pushed_is_pulled_by_others_and_digests_stay() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    tools.build_rich("localhost/rich:1");
    let archive = tools.path("rich.tar");
    tools.podman(&[
        "save",
        "--quiet",
        "--format",
        "oci-archive",
        "--output",
        archive.to_str().unwrap(),
        "localhost/rich:1",
    ]);
    let id = host.call("Image.Load", json!({"path": archive})).unwrap()["images"][0]["id"].clone();
    let name = format!("{}/team/rich:1", proxy.address);
    let pushed = host.call("Image.Push", json!({"name": "rich:1", "destination": name})).unwrap();
    let digest = pushed["digest"].as_str().unwrap().to_owned();
    let theirs = run(Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
        .arg(format!("docker://{}/team/rich:1", registry.address)));
    assert_eq!(digest, theirs);
    tools.podman(&["rmi", "--all", "--force"]);
    tools.podman(&["pull", "--quiet", "--tls-verify=false", &format!("{}/team/rich:1", registry.address)]);
    assert_eq!(json!(tools.id(&format!("{}/team/rich:1", registry.address))), id);
    // Once more: nothing is sent but the manifest.
    proxy.seen();
    let again = host.call("Image.Push", json!({"name": "rich:1", "destination": name})).unwrap();
    assert_eq!(again["digest"], json!(digest));
    assert!(!proxy.seen().iter().any(|line| line.starts_with("PATCH")));
    // To another repository of the registry: its blobs are taken over.
    let moved = format!("{}/other/rich:1", proxy.address);
    assert_eq!(
        host.call("Image.Push", json!({"name": "rich:1", "destination": moved})).unwrap()["digest"],
        json!(digest)
    );
    let patches: Vec<String> = proxy.seen().into_iter().filter(|line| line.starts_with("PATCH")).collect();
    assert_eq!(patches.len(), 1, "only the configuration: {patches:?}");
    // Another host pulls it and pushes it on, with the same digest.
    let (other, _config) = Config::insecure(&[&proxy.address]).host_kept().unwrap();
    assert_eq!(pull(&other, &moved)["digest"], json!(digest));
    let third = format!("{}/third/rich:1", proxy.address);
    assert_eq!(
        other.call("Image.Push", json!({"name": moved, "destination": third})).unwrap()["digest"],
        json!(digest)
    );
    assert_refused(host.call("Image.Push", json!({"name": "rich:1"})), "InvalidSpec");
    assert_refused(host.call("Image.Push", json!({"name": "absent"})), "NotFound");
    let found = host.call("Image.Search", json!({"term": "rich", "registry": proxy.address})).unwrap();
    let mut names: Vec<String> = found["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["other", "team", "third"].map(|team| format!("{}/{team}/rich", proxy.address)));
}

#[test]
fn a_push_survives_faults() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    build_bulky(&tools, "localhost/bulky:1", 300_000);
    let archive = tools.path("bulky.tar");
    tools.podman(&["save", "--quiet", "--output", archive.to_str().unwrap(), "localhost/bulky:1"]);
    host.call("Image.Load", json!({"path": archive})).unwrap();
    let name = format!("{}/bulky:1", proxy.address);
    proxy.fail("PATCH", "/blobs/uploads/", 1, Fault::Answer("503 Busy", ""));
    proxy.fail("PUT", "/blobs/uploads/", 1, Fault::Answer("500 Broken", ""));
    proxy.fail("POST", "/blobs/uploads/", 1, Fault::Answer("429 Slowly", "Retry-After: 1\r\n"));
    proxy.fail("PUT", "/manifests/", 1, Fault::Answer("502 Gateway", ""));
    host.call("Image.Push", json!({"name": "bulky:1", "destination": name})).unwrap();
    proxy.fail("POST", "/blobs/uploads/", 100, Fault::Answer("403 Forbidden", ""));
    let other = format!("{}/forbidden:1", proxy.address);
    assert_refused(host.call("Image.Push", json!({"name": "bulky:1", "destination": other})), "Unauthorized");
}

#[test]
fn a_registry_with_users_wants_to_know_who_is_there() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::with_users()) else { return };
    let config = Config::insecure(&[&registry.address]);
    let Some(host) = config.host() else { return };
    tools.build("localhost/small:1", &[&|root: &Path| fs::write(root.join("file"), "x").unwrap()]);
    let name = format!("{}/team/small:1", registry.address);
    tools.skopeo_copy(
        &[&NO_TLS[..], &["--dest-creds", &format!("{USER}:{PASSWORD}")]].concat(),
        &tools.stored("localhost/small:1"),
        &format!("docker://{name}"),
    );
    let refusal = assert_refused(host.call("Image.Pull", json!({"name": name})), "Unauthorized");
    assert_eq!(refusal.parameters["registry"], json!(registry.address));
    let credentials = json!({"username": USER, "password": PASSWORD});
    let wrong = json!({"username": USER, "password": "wrong"});
    assert_refused(host.call("Image.Pull", json!({"name": name, "credentials": wrong})), "Unauthorized");
    host.call("Image.Pull", json!({"name": name, "credentials": credentials})).unwrap();
    assert_refused(host.call("Image.Pull", json!({"name": name})), "Unauthorized");

    assert_refused(
        host.call("Image.Login", json!({"registry": registry.address, "credentials": wrong})),
        "Unauthorized",
    );
    assert!(!config.path("auth.json").exists());
    let reply =
        host.call("Image.Login", json!({"registry": registry.address, "credentials": credentials})).unwrap();
    assert_eq!(reply["file"], json!(config.path("auth.json")));
    pull(&host, &name);
    host.call("Image.Push", json!({"name": name})).unwrap();
    // Others understand the file.
    run(Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--authfile"])
        .arg(config.path("auth.json"))
        .arg(format!("docker://{name}")));
    assert_eq!(host.call("Image.Logout", json!({"registry": registry.address})).unwrap()["forgotten"], true);
    assert_eq!(host.call("Image.Logout", json!({"registry": registry.address})).unwrap()["forgotten"], false);
    assert_refused(host.call("Image.Pull", json!({"name": name})), "Unauthorized");
    assert_refused(
        host.call("Image.Login", json!({"registry": "no registry", "credentials": credentials})),
        "InvalidSpec",
    );
}

#[test]
fn a_registry_that_wants_tokens_gets_them() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    tools.build("localhost/small:1", &[&|root: &Path| fs::write(root.join("file"), "x").unwrap()]);
    tools.skopeo_copy(
        &NO_TLS,
        &tools.stored("localhost/small:1"),
        &format!("docker://{}/team/small:1", registry.address),
    );
    proxy.want_token("open-sesame");
    let name = format!("{}/team/small:1", proxy.address);
    let credentials = json!({"username": USER, "password": PASSWORD});
    host.call("Image.Pull", json!({"name": name, "credentials": credentials})).unwrap();
    let token = proxy.seen().into_iter().find(|line| line.contains("/token")).unwrap();
    assert!(
        token.contains("scope=repository%3Ateam%2Fsmall%3Apull") && token.contains("service=test"),
        "{token}"
    );
    assert_refused(host.call("Image.Pull", json!({"name": name})), "Unauthorized");
}

#[test]
fn tls_is_the_rule_and_its_certificates_are_checked() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::with_tls()) else { return };
    tools.build("localhost/small:1", &[&|root: &Path| fs::write(root.join("file"), "x").unwrap()]);
    let name = format!("{}/small:1", registry.address);
    tools.skopeo_copy(&NO_TLS, &tools.stored("localhost/small:1"), &format!("docker://{name}"));
    let config = Config::new("");
    let Some(host) = config.host() else { return };
    let refusal = assert_refused(host.call("Image.Pull", json!({"name": name})), "RegistryUnavailable");
    assert!(refusal.reason().contains("certificate"), "{}", refusal.reason());
    config.trust(&registry.address, &registry.certificate());
    pull(&host, &name);
    let (careless, _config) = Config::insecure(&[&registry.address]).host_kept().unwrap();
    pull(&careless, &name);
    // Without TLS there is no answer to who did not say that this is all right.
    let plain = Registry::plain().unwrap();
    assert_refused(
        host.call("Image.Pull", json!({"name": format!("{}/small:1", plain.address)})),
        "RegistryUnavailable",
    );
}

#[test]
fn a_broken_connection_goes_on_where_it_was() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    build_bulky(&tools, "localhost/bulky:1", 400_000);
    tools.skopeo_copy(
        &NO_TLS,
        &tools.stored("localhost/bulky:1"),
        &format!("docker://{}/bulky:1", registry.address),
    );
    let name = format!("{}/bulky:1", proxy.address);
    // The configuration is cut, then layers, several times.
    proxy.fail("GET", "/blobs/", 1, Fault::Cut(100));
    proxy.fail("GET", "/blobs/", 4, Fault::Cut(150_000));
    proxy.fail("GET", "/manifests/", 1, Fault::Answer("500 Broken", ""));
    proxy.fail("GET", "/v2/", 1, Fault::Answer("429 Slowly", "Retry-After: 1\r\n"));
    let begun = Instant::now();
    pull(&host, &name);
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After was heeded");
    let resumed: Vec<String> =
        proxy.blobs_seen().into_iter().filter(|line| line.contains("bytes=")).collect();
    assert!(resumed.len() >= 3, "{resumed:?}");
    assert!(resumed.iter().any(|line| line.contains("bytes=100-")), "{resumed:?}");
    assert!(resumed.iter().any(|line| line.contains("bytes=150000-")), "{resumed:?}");
    // For ever broken is too much.
    host.call("Image.Prune", json!({"all": true})).unwrap();
    proxy.fail("GET", "/blobs/", 1000, Fault::Answer("503 Busy", "Retry-After: 0\r\n"));
    let refusal = assert_refused(host.call("Image.Pull", json!({"name": name})), "RegistryUnavailable");
    assert!(refusal.reason().contains("503"), "{}", refusal.reason());
    assert_eq!(images(&host), 0);
}

#[test]
fn a_wrong_byte_fails_the_pull_by_name_and_whole_layers_stay() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    let leaks = Leaks::before(&host);
    build_bulky(&tools, "localhost/bulky:1", 300_000);
    let to = format!("docker://{}/bulky:1", registry.address);
    tools.skopeo_copy(&NO_TLS, &tools.stored("localhost/bulky:1"), &to);
    let raw = run(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &to]));
    let manifest: Value = serde_json::from_str(&raw).unwrap();
    let digest = |number: usize| manifest["layers"][number]["digest"].as_str().unwrap().to_owned();
    let name = format!("{}/bulky:1", proxy.address);
    // The header of gzip, its data, its checksum; each layer in turn.
    let size = manifest["layers"][1]["size"].as_u64().unwrap();
    for place in [0, 5, 20, size / 2, size - 6, size - 1] {
        proxy.fail("GET", &digest(1), 1000, Fault::Flip(place));
        let refusal = assert_refused(host.call("Image.Pull", json!({"name": name})), "InvalidImage");
        assert!(refusal.reason().contains(&digest(1)), "byte {place}: {}", refusal.reason());
        assert_eq!(images(&host), 0);
        proxy.heal();
    }
    let config = manifest["config"]["digest"].as_str().unwrap();
    proxy.fail("GET", config, 1, Fault::Flip(10));
    let refusal = assert_refused(host.call("Image.Pull", json!({"name": name})), "InvalidImage");
    assert!(refusal.reason().contains("the configuration"), "{}", refusal.reason());
    let by_digest = format!(
        "{}/bulky@{}",
        proxy.address,
        run(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", "--tls-verify=false", &to]))
    );
    proxy.fail("GET", "/manifests/", 1, Fault::Flip(10));
    let refusal = assert_refused(host.call("Image.Pull", json!({"name": by_digest})), "InvalidImage");
    assert!(refusal.reason().contains("the manifest of"), "{}", refusal.reason());
    // What came whole is not asked for again.
    proxy.seen();
    pull(&host, &name);
    let asked = proxy.blobs_seen();
    assert!(asked.iter().any(|line| line.contains(&digest(1))) && asked.len() <= 3, "{asked:?}");
    host.call("Image.Prune", json!({"all": true})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_pull_that_is_given_up_leaves_no_litter_and_keeps_whole_layers() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((mut host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    build_bulky(&tools, "localhost/bulky:1", 300_000);
    let to = format!("docker://{}/bulky:1", registry.address);
    tools.skopeo_copy(&NO_TLS, &tools.stored("localhost/bulky:1"), &to);
    let raw = run(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &to]));
    let manifest: Value = serde_json::from_str(&raw).unwrap();
    let slow = manifest["layers"][2]["digest"].as_str().unwrap();
    let name = format!("{}/bulky:1", proxy.address);
    let layers = |host: &Host| fs::read_dir(host.state_dir().join("layers")).unwrap().count();
    proxy.fail("GET", slow, 1000, Fault::Slow(Duration::from_millis(100)));
    for crash in [false, true] {
        let mut connection = host.connect();
        let mut replies = connection.call_more("io.dormouse.Image.Pull", json!({"name": name}), &[]).unwrap();
        replies.next().unwrap().unwrap();
        wait_until("two layers are whole", || {
            let known = fs::read_dir(host.state_dir().join("layers")).unwrap();
            known
                .filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
                .count()
                == 2
        });
        wait_until("the third is on the way", || layers(&host) == 3);
        let begun = Instant::now();
        drop(replies);
        drop(connection);
        if crash {
            host.crash();
            host.wake();
        }
        wait_until("the third is gone", || layers(&host) == 2);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(images(&host), 0);
    }
    proxy.heal();
    proxy.seen();
    pull(&host, &name);
    assert_eq!(proxy.blobs_seen().len(), 2, "the configuration and the third layer");
    assert_eq!(layers(&host), 3);
}

#[test]
fn two_pulls_at_once_do_the_work_once() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    let Some((host, _config)) = Config::insecure(&[&proxy.address]).host_kept() else { return };
    build_bulky(&tools, "localhost/bulky:1", 100_000);
    tools.skopeo_copy(
        &NO_TLS,
        &tools.stored("localhost/bulky:1"),
        &format!("docker://{}/bulky:1", registry.address),
    );
    let name = format!("{}/bulky:1", proxy.address);
    proxy.fail("GET", "/blobs/", 1000, Fault::Slow(Duration::from_millis(5)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pull(&host, &name));
        }
    });
    let mut blobs = proxy.blobs_seen();
    blobs.sort();
    let count = blobs.len();
    blobs.dedup();
    assert_eq!((blobs.len(), count), (4, 3 + 4), "each layer once, the configuration by each: {blobs:?}");
    assert_eq!(images(&host), 1);
}

#[test]
fn of_several_platforms_the_right_one_is_taken() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let Some((host, _config)) = Config::insecure(&[&registry.address]).host_kept() else { return };
    tools.buildah(&["manifest", "create", "localhost/list:1"]);
    for architecture in ["amd64", "arm64", "riscv64"] {
        let name = format!("localhost/{architecture}:1");
        let container = tools.buildah(&["from", "scratch"]);
        let tree = tools.buildah(&["mount", &container]);
        fs::write(Path::new(&tree).join("architecture"), architecture).unwrap();
        tools.buildah(&["umount", &container]);
        tools.buildah(&["config", "--arch", architecture, "--os", "linux", &container]);
        tools.buildah(&["commit", "--quiet", "--rm", &container, &name]);
        tools.buildah(&[
            "manifest",
            "add",
            "--arch",
            architecture,
            "--os",
            "linux",
            "localhost/list:1",
            &name,
        ]);
    }
    let name = format!("{}/list:1", registry.address);
    tools.buildah(&[
        "manifest",
        "push",
        "--all",
        "--tls-verify=false",
        "localhost/list:1",
        &format!("docker://{name}"),
    ]);
    let architecture = |id: &Value| {
        host.call("Image.Inspect", json!({"name": id})).unwrap()["image"]["architecture"].clone()
    };
    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    assert_eq!(architecture(&pull(&host, &name)["id"]), here);
    let platform = json!({"os": "linux", "architecture": "riscv64"});
    let reply = host.call("Image.Pull", json!({"name": name, "platform": platform})).unwrap();
    assert_eq!(architecture(&reply["id"]), "riscv64");
    let platform = json!({"os": "plan9", "architecture": "mips"});
    let refusal =
        assert_refused(host.call("Image.Pull", json!({"name": name, "platform": platform})), "Unsupported");
    assert!(refusal.reason().contains("linux/arm64"), "{}", refusal.reason());
}

#[test]
fn mirrors_and_short_names_are_as_configured() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    tools.build("localhost/small:1", &[&|root: &Path| fs::write(root.join("file"), "x").unwrap()]);
    for repository in ["mirrored/small", "team/small", "aliased"] {
        tools.skopeo_copy(
            &NO_TLS,
            &tools.stored("localhost/small:1"),
            &format!("docker://{}/{repository}:1", registry.address),
        );
    }
    let config = Config::new(&format!(
        r#"
        unqualified-search-registries = ["127.0.0.1:1", "{proxy}"]
        [[registry]]
        location = "{proxy}"
        insecure = true
        [[registry]]
        prefix = "images.example/team"
        location = "127.0.0.1:1/team"
        [[registry.mirror]]
        location = "127.0.0.1:2/dead"
        insecure = true
        [[registry.mirror]]
        location = "{proxy}/mirrored"
        insecure = true
        [[registry]]
        prefix = "blocked.example"
        blocked = true
        [aliases]
        "alias" = "{proxy}/aliased"
        "#,
        proxy = proxy.address
    ));
    let Some(host) = config.host() else { return };
    let names = |name: &str| {
        let id = pull(&host, name)["id"].clone();
        host.call("Image.Inspect", json!({"name": id})).unwrap()["image"]["summary"]["names"].clone()
    };
    assert_eq!(
        names("images.example/team/small:1"),
        json!(["images.example/team/small:1"]),
        "the name is not the mirror's"
    );
    assert!(names("alias:1").to_string().contains(&format!("{}/aliased:1", proxy.address)));
    assert!(names("team/small:1").to_string().contains(&format!("{}/team/small:1", proxy.address)));
    // By the short name it is found again, and that is the one of its names that goes.
    let inspect = |name: &str| host.call("Image.Inspect", json!({"name": name}));
    for name in ["alias:1", "team/small:1"] {
        assert_eq!(inspect(name).unwrap()["image"]["summary"]["names"], names("images.example/team/small:1"));
    }
    assert_eq!(host.call("Image.Remove", json!({"name": "alias:1"})).unwrap()["removed"], Value::Null);
    assert_refused(inspect("alias:1"), "NotFound");
    assert_refused(host.call("Image.Pull", json!({"name": "blocked.example/x"})), "Unsupported");
    assert_refused(
        host.call("Image.Pull", json!({"name": "images.example/team/absent"})),
        "RegistryUnavailable",
    );
}

#[test]
fn what_is_here_goes_before_registries_as_the_policy_says() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let proxy = Proxy::before(&registry);
    tools.build("localhost/small:1", &[&|root: &Path| fs::write(root.join("file"), "1").unwrap()]);
    tools.build("localhost/small:2", &[&|root: &Path| fs::write(root.join("file"), "2").unwrap()]);
    let publish = |from: &str, to: &str| {
        let to = format!("docker://{}/{to}", registry.address);
        tools.skopeo_copy(&NO_TLS, &tools.stored(from), &to);
    };
    publish("localhost/small:1", "busybox:latest");
    publish("localhost/small:1", "small:latest");
    let config = Config::new(&format!(
        "unqualified-search-registries = [\"{0}\"]\n[[registry]]\nlocation = \"{0}\"\ninsecure = true\n",
        proxy.address
    ));
    let Some(host) = config.host() else { return };
    let remote = format!("{}/small:latest", proxy.address);
    let pull = |name: &str, policy: &str| host.call("Image.Pull", json!({"name": name, "policy": policy}));

    // What is not here.
    assert_refused(pull("small", "never"), "NotFound");
    assert_refused(pull("127.0.0.1:1/absent", "newer"), "RegistryUnavailable");
    assert_eq!(proxy.seen(), [""; 0]);
    let first = pull("small", "missing").unwrap();
    assert_eq!(first["fullName"], json!(remote));
    proxy.seen();
    for policy in ["missing", "never"] {
        let again = pull("small", policy).unwrap();
        assert_eq!((&again["id"], &again["fullName"]), (&first["id"], &json!(remote)), "{policy}");
        assert_eq!((&again["digest"], proxy.seen()), (&Value::Null, Vec::new()), "{policy}");
    }
    assert_eq!(pull(first["id"].as_str().unwrap(), "missing").unwrap()["id"], first["id"]);

    // The registry has another one now, and then does not answer.
    publish("localhost/small:2", "small:latest");
    let second = pull("small", "newer").unwrap();
    assert_ne!(second["id"], first["id"]);
    proxy.fail("GET", "/v2/", usize::MAX, Fault::Answer("503 Service Unavailable", ""));
    assert_eq!(pull("small", "newer").unwrap()["id"], second["id"]);
    assert_refused(pull("small", "always"), "RegistryUnavailable");
    proxy.heal();

    // One of this machine: as for a container, a short name is first that.
    host.call("Image.Tag", json!({"name": "small", "newName": "localhost/busybox"})).unwrap();
    proxy.seen();
    for policy in ["missing", "newer", "never"] {
        let here = pull("busybox", policy).unwrap();
        assert_eq!(
            (&here["id"], &here["fullName"]),
            (&second["id"], &json!("localhost/busybox:latest")),
            "{policy}"
        );
    }
    assert_eq!(proxy.seen(), [""; 0]);
    assert_eq!(pull("busybox", "always").unwrap()["id"], first["id"]);
    let other =
        json!({"name": "busybox", "policy": "missing", "platform": {"os": "linux", "architecture": "s390x"}});
    assert_ne!(host.call("Image.Pull", other).unwrap()["fullName"], "localhost/busybox:latest");
}
