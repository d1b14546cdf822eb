//! Crashes in the middle of what makes and removes images: afterwards every image that is told is whole, and nothing is
//! left of the others.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod image_registry;
mod image_tools;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Host, Leaks, wait_until};
use dormouse::varlink::client::Connection;
use image_registry::{Config, Registry};
use image_tools::Tools;
use serde_json::{Value, json};

const ROUNDS: u32 = 25;

/// A generator of Marsaglia's kind (xorshift64): the same rounds on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Calls these methods over and over until the service is gone.
fn keep_busy(address: &str, over: &AtomicBool, calls: &[(&str, Value)]) {
    let Ok(mut connection) = Connection::connect(address) else { return };
    let _ = connection.set_timeout(Some(common::PATIENCE));
    while !over.load(Ordering::Relaxed) {
        for (method, parameters) in calls {
            use dormouse::varlink::client::ClientError;
            match connection.call(&format!("io.dormouse.{method}"), parameters.clone(), &[]) {
                // What another worker was faster with is no failure.
                Ok(_) | Err(ClientError::Service { .. }) => {}
                Err(_) => return,
            }
        }
    }
}

/// Every image can be written out to its last byte, which its digests vouch for.
fn assert_whole(host: &Host) {
    let images = host.call("Image.List", json!({})).unwrap()["images"].clone();
    let null = fs::File::options().write(true).open("/dev/null").unwrap();
    for image in images.as_array().unwrap() {
        let parameters = json!({"names": [image["id"]], "archive": 0});
        host.call_with_fds("Image.Save", parameters, &[null.as_fd()]).unwrap();
        assert!(image["sizeBytes"].as_i64().unwrap() > 0, "{image}");
    }
}

#[test]
fn after_a_crash_at_any_point_every_image_is_wholly_there_or_wholly_gone() {
    let (Some(tools), Some(registry)) = (Tools::new(), Registry::plain()) else { return };
    let Some((mut host, _config)) = Config::insecure(&[&registry.address]).host_kept() else { return };
    let calm = Leaks::before(&host).kept();
    let layer = |name: &'static str| {
        move |root: &Path| {
            for number in 0..300 {
                fs::write(root.join(format!("{name}-{number}")), format!("{number}\n").repeat(200)).unwrap();
            }
        }
    };
    tools.build("localhost/work:1", &[&layer("one"), &layer("two"), &layer("three")]);
    let remote = format!("{}/work:1", registry.address);
    tools.skopeo_copy(
        &["--dest-tls-verify=false"],
        &tools.stored("localhost/work:1"),
        &format!("docker://{remote}"),
    );
    let archive = tools.path("work.tar");
    tools.podman(&["save", "--quiet", "--output", archive.to_str().unwrap(), "localhost/work:1"]);
    host.import_busybox();
    let container = host.sh("cp -r /bin /copy; rm /etc/group").named("changed").create();
    container.start().unwrap();
    assert_eq!(container.exit_code(), Some(0));

    let pull = [("Image.Pull", json!({"name": remote})), ("Image.Remove", json!({"name": remote}))];
    let load = [
        ("Image.Load", json!({"path": archive, "name": "loaded"})),
        ("Image.Remove", json!({"name": "loaded"})),
        ("Image.Prune", json!({})),
    ];
    let commit = [
        ("Container.Commit", json!({"name": "changed", "image": "committed"})),
        ("Image.Remove", json!({"name": "committed"})),
    ];
    let mut dice = Dice(0x01a9_e5c4_a54e_d001);
    for round in 0..ROUNDS {
        let address = host.address();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for calls in [&pull[..], &load, &commit] {
                let (address, over) = (&address, &over);
                scope.spawn(move || keep_busy(address, over, calls));
            }
            std::thread::sleep(Duration::from_millis(dice.roll(600)));
            host.crash();
            over.store(true, Ordering::Relaxed);
        });
        host.wake();
        assert_whole(&host);
        wait_until(&format!("what the crash of round {round} left half done is gone"), || {
            let layers = fs::read_dir(host.state_dir().join("layers")).unwrap();
            !layers.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".tmp-"))
        });
    }
    let changed = host.call("Container.Remove", json!({"name": "changed"}));
    changed.unwrap();
    host.call("Image.Prune", json!({"all": true})).unwrap();
    assert_eq!(host.call("Image.List", json!({})).unwrap()["images"], json!([]));
    Leaks::since(&host, calm).assert_none_after();
}
