//! Files of podman's, and ours for podman.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Host, busybox_tar, dormouse, messages, said, wait_until};
use crate::{exec, play, spec};

/// A podman with a storage of its own. Dropped, it takes its pods along.
struct Podman<'a>(&'a Host);

impl Podman<'_> {
    fn said(&self, words: &[&str]) -> String {
        let output = Command::new("podman")
            .args(["--log-level", "error", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"])
            // It takes no run directory with a path of more than 50 characters.
            .args(["--root", "r", "--runroot", &self.0.path().join("p").display().to_string()])
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "podman {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.said(&["pod", "rm", "--all", "--force"]);
            self.said(&["rm", "--all", "--force"]);
        }
    }
}

#[test]
fn podman_and_we_understand_each_other() {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !is_there("podman") || !is_there("catatonit") {
        eprintln!("SKIPPED: podman or catatonit is missing (apt install podman catatonit)");
        return;
    }
    let Some(host) = Host::new() else { return };
    let podman = Podman(&host);
    let mut tar = busybox_tar();
    std::io::copy(&mut tar, &mut fs::File::create(host.path().join("image.tar")).unwrap()).unwrap();
    podman.said(&["import", "--quiet", "image.tar", "localhost/busybox:1"]);
    said(&dormouse(&host, &["tag", "busybox", "localhost/busybox:1"]));

    // Theirs is taken here.
    let script = "echo $NAME; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    podman.said(&[
        "create",
        "--name",
        "theirs",
        "--network",
        "none",
        "--env",
        "NAME=podman",
        "--volume",
        "data:/data",
        "--volume",
        "/etc:/there:ro",
        "--memory",
        "64m",
        "--user",
        "7:8",
        "--read-only",
        // Else it describes file systems in memory as directories of the host.
        "--read-only-tmpfs=false",
        "--restart",
        "always",
        "localhost/busybox:1",
        "sh",
        "-c",
        script,
    ]);
    let theirs = podman.said(&["generate", "kube", "theirs"]);
    let (_, warnings) = play(&host, &theirs, &[]);
    assert_eq!(warnings, "", "{theirs}");
    let log = || messages(&host.call("Container.Logs", json!({"name": "theirs-pod-theirs"})).unwrap());
    wait_until("it has said something", || !log().is_empty());
    assert_eq!(log(), ["podman"]);
    assert_eq!(
        exec(&host, "theirs-pod-theirs", "id -u; id -g; ls -d /data; cat /there/hostname"),
        format!("7\n8\n/data\n{}", fs::read_to_string("/etc/hostname").unwrap().trim())
    );
    let spec = spec(&host, "theirs-pod-theirs");
    assert_eq!(
        (&spec["readOnlyRoot"], &spec["resources"]["memoryBytes"]),
        (&json!(true), &json!(64 << 20)),
        "{theirs}"
    );

    // Ours is taken there. What podman starts here wants limits that this host may not have, so it only makes it.
    said(&dormouse(&host, &["tag", "busybox", "localhost/busybox:1"]));
    for arguments in [
        &["pod", "create", "--name", "ours", "--network", "none"][..],
        &[
            "create",
            "--pod",
            "ours",
            "--name",
            "web",
            "--env",
            "NAME=dormouse",
            "--workdir",
            "/tmp",
            "--user",
            "7:8",
            "localhost/busybox:1",
            "echo",
            "$(date) $$",
        ],
    ] {
        said(&dormouse(&host, arguments));
    }
    fs::write(host.path().join("ours.yaml"), said(&dormouse(&host, &["generate", "kube", "ours"]))).unwrap();
    podman.said(&["kube", "play", "--network", "none", "--start=false", "ours.yaml"]);
    let format = "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.Env}}";
    let made = podman.said(&["inspect", "--format", format, "ours-web"]);
    assert!(made.starts_with("7:8 /tmp") && made.contains("NAME=dormouse"), "{made}");
}
