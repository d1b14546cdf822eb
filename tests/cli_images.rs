//! The commands about images, as a user types them.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod image_registry;
mod image_tools;

use std::process::{Command, Output, Stdio};

use common::{Host, wait_until};
use image_registry::{Config, Fault, PASSWORD, Proxy, Registry, USER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    command.env("DORMOUSE_ADDRESS", host.address()).args(arguments).stdin(Stdio::null());
    command
}

fn output(host: &Host, arguments: &[&str]) -> Output {
    command(host, arguments).output().unwrap()
}

#[track_caller]
fn text(host: &Host, arguments: &[&str]) -> String {
    let output = output(host, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing but results where there is no terminal");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn complaint(host: &Host, arguments: &[&str], code: i32) -> String {
    let output = output(host, arguments);
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_image_goes_through_all_commands() {
    let Some(host) = Host::new() else { return };
    let id = text(&host, &["images", "--quiet", "--no-trunc"]).trim().to_owned();
    text(&host, &["tag", "busybox", "box:1", "box:2"]);
    text(&host, &["untag", "box:2"]);
    assert!(text(&host, &["images"]).contains("localhost/box:1"));
    let steps: Value = serde_json::from_str(&text(&host, &["history", "--format", "json", "box:1"])).unwrap();
    assert_eq!(steps.as_array().unwrap().len(), 1);

    text(&host, &["run", "--name", "changed", "box:1", "sh", "-c", "echo new > /new; rm /etc/group"]);
    assert_eq!(text(&host, &["diff", "changed"]), "C /etc\nD /etc/group\nA /new\n");
    let committed =
        text(&host, &["commit", "-m", "a test", "--change", "CMD [\"cat\", \"/new\"]", "changed", "new"]);
    assert_eq!(text(&host, &["run", "--rm", "new"]), "new\n");
    assert!(text(&host, &["history", "new"]).contains("a test"));

    // From one service to another, through a pipe.
    let other = Host::empty().unwrap();
    for format in ["docker-archive", "oci-archive"] {
        let mut save =
            command(&host, &["save", "--format", format, "new"]).stdout(Stdio::piped()).spawn().unwrap();
        let load = command(&other, &["load"]).stdin(save.stdout.take().unwrap()).output().unwrap();
        assert!(save.wait().unwrap().success());
        assert_eq!(String::from_utf8_lossy(&load.stdout), "localhost/new:latest\n");
        assert_eq!(text(&other, &["images", "--quiet", "--no-trunc"]), committed);
    }
    let layout = host.path().join("layout");
    text(&host, &["save", "--format", "oci-dir", "--output", layout.to_str().unwrap(), "new"]);
    assert_eq!(text(&other, &["load", "-i", layout.to_str().unwrap()]), "localhost/new:latest\n");

    let mut export = command(&host, &["export", "changed"]).stdout(Stdio::piped()).spawn().unwrap();
    let import =
        command(&other, &["import", "-", "flat"]).stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success() && import.status.success());
    assert_eq!(text(&other, &["run", "--rm", "flat", "cat", "/new"]), "new\n");

    text(&host, &["untag", "new"]);
    wait_until("its container is removed", || host.names() == ["changed"]);
    let pruned = text(&host, &["image", "prune"]);
    assert!(
        pruned.starts_with(&format!("removed {}", committed.trim())) && pruned.contains("\nfreed "),
        "{pruned}"
    );
    assert!(text(&host, &["images", "--quiet", "--no-trunc"]).contains(&id));

    assert!(complaint(&host, &["load", "/no/such/file"], 1).contains("no such file"));
    assert!(complaint(&host, &["save", "--format", "oci-dir", "box:1"], 2).contains("--output"));
    assert!(complaint(&host, &["tag", "absent", "x"], 1).contains("there is no image \"absent\""));
    assert!(complaint(&host, &["pull", "--platform", "linux", "x"], 2).contains("OS/ARCHITECTURE"));
    assert!(complaint(&host, &["push", "box:1"], 1).contains("of this machine"));
    assert!(complaint(&host, &["commit", "absent"], 1).contains("absent"));
}

#[test]
fn a_registry_is_logged_in_to_and_used() {
    let Some(registry) = Registry::with_users() else { return };
    let config = Config::insecure(&[&registry.address]);
    let Some(host) = config.host() else { return };
    host.import_busybox();
    let name = format!("{}/team/box:1", registry.address);
    assert!(complaint(&host, &["push", "busybox", &name], 1).contains("dormouse login"));
    let mut login = command(&host, &["login", "--username", USER, "--password-stdin", &registry.address]);
    let mut login = login.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    use std::io::Write as _;
    login.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    assert!(login.wait().unwrap().success());
    let digest = text(&host, &["push", "busybox", &name]);
    assert!(digest.starts_with("sha256:"));
    let id = text(&host, &["pull", &name]);
    assert_eq!(
        id,
        text(&host, &["images", "--quiet", "--no-trunc"]).lines().next().unwrap().to_owned() + "\n"
    );
    let found: Value = serde_json::from_str(&text(
        &host,
        &["search", "--format", "json", "--registry", &registry.address, "box"],
    ))
    .unwrap();
    assert_eq!(found[0]["name"], json!(format!("{}/team/box", registry.address)));
    text(&host, &["rmi", &name]);
    text(&host, &["rmi", "busybox"]);
    assert!(complaint(&host, &["run", "--pull", "never", &name], 125).contains("there is no image"));
    assert_eq!(text(&host, &["run", "--rm", &name, "/bin/busybox", "echo", "pulled"]), "pulled\n");
    text(&host, &["rmi", &name]);
    text(&host, &["logout", &registry.address]);
    let refused = complaint(&host, &["run", &name, "/bin/true"], 125);
    assert!(refused.contains("there is no image") && refused.contains("dormouse login"), "{refused}");
    assert!(complaint(&host, &["pull", &name], 1).contains("dormouse login"));
    let mut pull = command(&host, &["pull", "--username", USER, &name]);
    assert!(pull.env("DORMOUSE_REGISTRY_PASSWORD", PASSWORD).status().unwrap().success());
}

#[test]
fn ctrl_c_gives_a_pull_up() {
    let Some(registry) = Registry::plain() else { return };
    let proxy = Proxy::before(&registry);
    let config = Config::insecure(&[&registry.address, &proxy.address]);
    let Some(host) = config.host() else { return };
    host.import_busybox();
    text(&host, &["push", "busybox", &format!("{}/box:1", registry.address)]);
    host.call("Image.Prune", json!({"all": true})).unwrap();
    proxy.fail("GET", "/blobs/", 1000, Fault::Slow(std::time::Duration::from_millis(50)));
    let layers = || std::fs::read_dir(host.state_dir().join("layers")).unwrap().count();
    let mut pull =
        command(&host, &["pull", &format!("{}/box:1", proxy.address)]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the layer is on the way", || layers() == 1);
    kill(Pid::from_raw(i32::try_from(pull.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(!pull.wait().unwrap().success());
    wait_until("nothing is left of it", || layers() == 0);
}

/// The names in a directory, and what is in its one file.
fn only_file(directory: &std::path::Path) -> (Vec<String>, Vec<u8>) {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let bytes = std::fs::read(directory.join("archive.tar")).unwrap();
    (names, bytes)
}

#[test]
fn an_archive_takes_its_name_when_it_is_whole_and_not_before() {
    let Some(host) = Host::new() else { return };
    host.sh("exit").named("box").create();
    host.call("Volume.Create", json!({"name": "data"})).unwrap();
    let directory = host.path().join("archives");
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("archive.tar");
    let file = path.to_str().unwrap();
    let precious = || (vec!["archive.tar".to_owned()], b"precious".to_vec());
    for command_line in [["save", "-o"].as_slice(), &["export", "-o"], &["volume", "export", "-o"]] {
        let (wanted, link) = ([file], directory.with_file_name("link.tar"));
        let arguments = |name: &'static str| [command_line, wanted.as_slice(), &[name]].concat();
        let present = match command_line[0] {
            "save" => "busybox",
            "export" => "box",
            _ => "data",
        };
        std::fs::write(&path, "precious").unwrap();
        assert!(complaint(&host, &arguments("absent"), 1).contains("absent"));
        assert_eq!(only_file(&directory), precious(), "{command_line:?}");

        // Somebody gives up while the service is about to write.
        let serve = Pid::from_raw(host.serve_pid());
        kill(serve, Signal::SIGSTOP).unwrap();
        let mut client = command(&host, &arguments(present)).stderr(Stdio::null()).spawn().unwrap();
        let open = || {
            let links =
                std::fs::read_dir(format!("/proc/{}/fd", client.id())).into_iter().flatten().flatten();
            links.filter_map(|link| std::fs::read_link(link.path()).ok()).any(|to| to.starts_with(&directory))
        };
        wait_until("the file is open", open);
        kill(Pid::from_raw(i32::try_from(client.id()).unwrap()), Signal::SIGINT).unwrap();
        client.wait().unwrap();
        kill(serve, Signal::SIGCONT).unwrap();
        assert_eq!(only_file(&directory), precious(), "{command_line:?}");

        // A link stays one.
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        text(&host, &[command_line, &[link.to_str().unwrap(), present]].concat());
        assert!(link.is_symlink());
        let (names, bytes) = only_file(&directory);
        assert_eq!(
            (names, bytes.get(257..262)),
            (precious().0, Some(b"ustar".as_slice())),
            "{command_line:?}"
        );
    }
}

#[test]
fn an_archive_that_nobody_reads_ends_its_writer_without_a_word() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().named("box").run();
    container.exec("dd if=/dev/zero of=/large bs=1M count=1");
    let data = json!({"mounts": [{"kind": "volume", "source": "data", "target": "/data"}]});
    let filled = host.sh("dd if=/dev/zero of=/data/large bs=1M count=1").with(data).run_until("exited");
    assert_eq!(filled.exit_code(), Some(0));
    for arguments in [
        ["save", "busybox"].as_slice(),
        &["export", "box"],
        &["volume", "export", "data"],
        &["cp", "box:/large", "-"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(&host, arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), output.stderr.as_slice()),
            (Some(141), b"".as_slice()),
            "{arguments:?}"
        );
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(&host, &["export", "box"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "dormouse: cannot write the archive: no space left\n"
    );
}
