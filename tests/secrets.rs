//! Secrets, as their users see them; and that nobody else does.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Host, Leaks, SYSTEMD_IMAGES, assert_refused, systemd_image};
use serde_json::{Value, json};

/// What must be found nowhere but in the places that are meant.
const BYTES: &str = "hunter2-Zk4x";
const BASE64: &str = "aHVudGVyMi1aazR4";

fn create(host: &Host, name: &str) {
    host.call("Secret.Create", json!({"name": name, "data": BASE64})).unwrap();
}

/// The files below a directory that hold the secret.
fn holding(directory: &Path) -> Vec<String> {
    let output = Command::new("grep").args(["-rlaF", BYTES]).arg(directory).output().unwrap();
    let mut found: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn a_container_gets_secrets_as_files_and_variables() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    create(&host, "password");
    let plan = host.sleeper().named("web").with(json!({"user": "alice", "secrets": [
        {"secret": "password"},
        {"secret": "password", "target": "renamed", "uid": 1000, "gid": 2000, "mode": 256},
        {"secret": "password", "target": "/etc/app/key", "mode": 292},
        {"secret": "password", "kind": "env", "target": "PASSWORD"},
    ]}));
    let web = plan.run();
    assert_eq!(
        web.exec_output("cd /run/secrets && stat -c '%n %a %u %g' * && cat password renamed /etc/app/key && echo :$PASSWORD"),
        format!("password 444 0 0\nrenamed 400 1000 2000\n{BYTES}{BYTES}{BYTES}:{BYTES}\n")
    );
    let environ = std::fs::read(format!("/proc/{}/environ", web.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains(&format!("PASSWORD={BYTES}")));
    let reply = web
        .call("Exec", json!({"command": ["sh", "-c", "echo x > /run/secrets/password"], "user": "0"}))
        .unwrap();
    assert_ne!(reply["exitCode"], 0, "they are read-only");

    // It is nobody's to tell.
    for told in [
        web.inspect(),
        host.call("Secret.Inspect", json!({"name": "password"})).unwrap(),
        host.call("Manager.Events", json!({})).unwrap(),
        host.call("Secret.List", json!({})).unwrap(),
    ] {
        assert!(!told.to_string().contains(BYTES) && !told.to_string().contains(BASE64), "{told}");
    }
    assert!(!host.log().contains(BYTES));
    assert_eq!(holding(&host.state_dir()).len(), 1, "{:?}", holding(&host.state_dir()));
    for path in holding(host.path()) {
        let hidden = Path::new(&path).ancestors().any(|part| {
            std::fs::metadata(part).is_ok_and(|found| found.permissions().mode() & 0o077 == 0)
                && part.starts_with(host.path().join("state")) | part.starts_with(host.path().join("run"))
        });
        assert!(hidden, "{path} can be read by others");
    }
    let kept = holding(&host.state_dir()).pop().unwrap();
    assert_eq!(std::fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);

    // An image of it holds none, and no trace of their places.
    web.call("Commit", json!({"image": "copy"})).unwrap();
    assert_eq!(holding(&host.state_dir()).len(), 1);
    assert_eq!(
        host.sh("ls -d /run/secrets /etc/app 2>&1 | grep -c 'No such'; env | grep -c PASSWORD")
            .with(json!({"image": "copy"}))
            .finish()
            .1,
        "2\n0\n"
    );
    // That something was made in /etc is all that is left to see.
    assert_eq!(
        web.call("Diff", json!({})).unwrap()["changes"],
        json!([{"path": "/etc", "kind": "modified"}])
    );
    common::wait_until("it has removed itself", || host.names() == ["web"]);
    host.call("Image.Remove", json!({"name": "copy"})).unwrap();

    // In use it stays; replaced, it is another one from the next start on.
    let refusal = assert_refused(host.call("Secret.Remove", json!({"name": "password"})), "InUse");
    assert_eq!(refusal.parameters["containers"], json!(["web"]));
    host.call("Secret.Create", json!({"name": "password", "data": "bmV3", "replace": true})).unwrap();
    assert_eq!(web.exec_output("cat /run/secrets/password"), BYTES);
    web.kill("KILL").unwrap();
    web.exit_code();
    web.start().unwrap();
    assert_eq!(web.exec_output("cat /run/secrets/password /etc/app/key"), "newnew");
    web.remove_by_force().unwrap();
    host.call("Secret.Remove", json!({"name": "password"})).unwrap();
    assert!(holding(host.path()).is_empty());
    leaks.assert_none_after();
}

#[test]
fn bad_secrets_are_refused_and_leave_nothing() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let refused = |parameters: Value, field: &str| {
        let refusal = assert_refused(host.call("Secret.Create", parameters), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{refusal:?}");
    };
    refused(json!({"name": "a/b", "data": BASE64}), "name");
    refused(json!({"name": "", "data": BASE64}), "name");
    refused(json!({"name": "a", "data": "*"}), "data");
    refused(json!({"name": "a", "data": ""}), "data");
    refused(json!({"name": "a"}), "data");
    refused(json!({"name": "a", "data": "QUFB".repeat(200_000)}), "data");
    create(&host, "a");
    assert_refused(host.call("Secret.Create", json!({"name": "a", "data": BASE64})), "AlreadyExists");
    for method in ["Inspect", "Remove"] {
        assert_refused(host.call(&format!("Secret.{method}"), json!({"name": "absent"})), "NotFound");
    }
    let with = |secret: Value| host.sleeper().with(json!({"secrets": [secret]})).try_run();
    assert_refused(with(json!({"secret": "absent"})), "SecretNotFound");
    for (secret, field) in [
        (json!({"secret": "a", "target": "../x"}), "target"),
        (json!({"secret": "a", "target": "x/y"}), "target"),
        (json!({"secret": "a", "target": "/proc/1/x"}), "target"),
        (json!({"secret": "a", "target": "/"}), "target"),
        (json!({"secret": "a", "mode": 65536}), "mode"),
        (json!({"secret": "a", "kind": "env", "target": "A=B"}), "target"),
    ] {
        let refusal = assert_refused(with(secret.clone()), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], format!("spec.secrets[0].{field}"), "{secret}");
    }
    // Bytes that no variable can hold are told at the start, and not what they are.
    host.call("Secret.Create", json!({"name": "zero", "data": "AAEC"})).unwrap();
    assert_refused(with(json!({"secret": "zero", "kind": "env"})), "InvalidSpec");
    assert_eq!(
        host.sh("wc -c < /run/secrets/zero").with(json!({"secrets": [{"secret": "zero"}]})).output(),
        "3\n"
    );
    common::wait_until("it has removed itself", || host.names().is_empty());
    for name in ["a", "zero"] {
        host.call("Secret.Remove", json!({"name": name})).unwrap();
    }
    leaks.assert_none_after();
}

#[test]
fn the_commands_never_show_it() {
    let Some(host) = Host::new() else { return };
    let dormouse = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command
            .args(["--address", &host.address()])
            .args(arguments)
            .stdin(Stdio::null())
            .current_dir(host.path());
        command
    };
    let said = |arguments: &[&str]| {
        let output = dormouse(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    std::fs::write(host.path().join("key.txt"), BYTES).unwrap();
    assert_eq!(said(&["secret", "create", "-l", "a=b", "key", "key.txt"]).len(), 65);
    let output =
        dormouse(&["secret", "create", "--env", "other", "KEY"]).env("KEY", "from-env").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        said(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--secret",
            "key",
            "--secret",
            "other,type=env,target=OTHER",
            "busybox",
            "sh",
            "-c",
            "cat /run/secrets/key; echo :$OTHER"
        ]),
        format!("{BYTES}:from-env\n")
    );
    common::wait_until("it has removed itself", || host.names().is_empty());
    let shown = said(&["secret", "ls"]) + &said(&["secret", "inspect", "key", "other"]);
    assert!(shown.contains("key") && !shown.contains(BYTES), "{shown}");
    assert_eq!(said(&["secret", "rm", "key", "other"]), "key\nother\n");
    assert_eq!(said(&["secret", "ls", "-q"]), "");
}

#[test]
fn a_systemd_inside_gets_them_as_credentials() {
    for release in SYSTEMD_IMAGES {
        let Some(host) = systemd_image(release) else { return };
        create(&host, "app.key");
        let secrets = json!({"secrets": [{"secret": "app.key"}]});
        let plan = host.image(release).with(json!({"command": ["/sbin/init"]})).with(secrets);
        let machine = plan.run_until("ready");
        assert_eq!(machine.exec_output("cat /run/secrets/app.key"), BYTES);
        assert_eq!(
            machine.exec_output("stat -c '%a %u' /run/host/credentials /run/host/credentials/app.key"),
            "500 0\n400 0\n"
        );
        // As a unit takes it.
        let unit = "systemd-run --quiet --wait --pipe -p LoadCredential=app.key sh -c 'cat $CREDENTIALS_DIRECTORY/app.key'";
        assert_eq!(machine.exec_output(unit), BYTES);
        machine.remove_by_force().unwrap();
    }
}
