//! Containers whose users are nobody on the host.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::{Container, Host, Leaks, SYSTEMD_IMAGES, assert_refused, systemd_image, wait_until};
use serde_json::{Value, json};

fn auto() -> Value {
    json!({"userNamespace": {"kind": "auto"}})
}

/// The user of the host that a container's root is.
fn root_of(container: &Container<'_>) -> u32 {
    let map = std::fs::read_to_string(format!("/proc/{}/uid_map", container.pid())).unwrap();
    let mut fields = map.split_ascii_whitespace();
    assert_eq!(fields.next(), Some("0"), "{map}");
    fields.next().unwrap().parse().unwrap()
}

/// A file that a container has written, on the disk.
fn on_disk(container: &Container<'_>, path: &str) -> PathBuf {
    container.host.state_dir().join("containers").join(container.id()).join("upper").join(path)
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn root_inside_is_nobody_outside_and_files_do_not_tell() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let box_ = host
        .sh("echo a > /new; chown 33:34 /new; echo b >> /etc/passwd; mkdir /d; ln -s x /d/l; rm /etc/not-executable; \
             trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
        .with(auto())
        .run_until_stoppable();
    let root = root_of(&box_);
    assert!((0x0008_0000..=0x6FFF_FFFF).contains(&root) && root.is_multiple_of(65_536), "{root}");
    let process = std::fs::symlink_metadata(format!("/proc/{}/cwd", box_.pid())).unwrap();
    assert_eq!(process.uid(), root);
    assert_eq!(
        box_.exec_output("stat -c %u:%g /bin/busybox /new /etc/hosts /dev/null /dev/pts"),
        "0:0\n33:34\n0:0\n0:0\n0:0\n"
    );
    assert_eq!(owner(&on_disk(&box_, "new")), (33, 34));
    assert_eq!(owner(&on_disk(&box_, "d/l")), (0, 0));
    // What is taken away, told, exported and committed is as of any other container.
    let changes = box_.call("Diff", json!({})).unwrap();
    let kinds: Vec<(&str, &str)> = changes["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["path"].as_str().unwrap(), change["kind"].as_str().unwrap()))
        .collect();
    assert!(
        kinds.contains(&("/new", "added")) && kinds.contains(&("/etc/not-executable", "deleted")),
        "{kinds:?}"
    );
    let mut tar = tempfile::tempfile().unwrap();
    box_.host
        .call_with_fds("Container.Export", json!({"name": box_.name, "archive": 0}), &[tar.as_fd()])
        .unwrap();
    std::io::Seek::rewind(&mut tar).unwrap();
    let mut archive = tar::Archive::new(tar);
    let found =
        archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().ends_with("new"));
    let header = found.unwrap().header().clone();
    assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (33, 34));
    box_.call("Commit", json!({"image": "changed"})).unwrap();
    box_.stop().unwrap();
    box_.remove().unwrap();
    let plain =
        host.sh("stat -c %u:%g /new; test ! -e /etc/not-executable").with(json!({"image": "changed"}));
    assert_eq!(plain.output(), "33:34\n");
    assert_eq!(plain.clone().with(auto()).output(), "33:34\n");
    wait_until("those that remove themselves are gone", || host.names().is_empty());
    host.call("Image.Remove", json!({"name": "changed"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn every_container_has_users_of_its_own_until_it_is_removed() {
    let Some(host) = Host::new() else { return };
    let run = |name: &str| host.sleeper().named(name).with(auto()).run_until_stoppable();
    let (one, other) = (run("one"), run("other"));
    let first = root_of(&one);
    assert_ne!(first, root_of(&other));
    one.stop().unwrap();
    one.start().unwrap();
    assert_eq!(root_of(&one), first);
    let ranges = || std::fs::read_dir(host.run_dir().join("users")).unwrap().count();
    assert_eq!(ranges(), 2);
    for container in [one, other] {
        container.remove_by_force().unwrap();
    }
    assert_eq!(ranges(), 0);
}

#[test]
fn mappings_are_as_told() {
    let Some(host) = Host::new() else { return };
    let users = json!([{"containerId": 0, "hostId": 200_000, "count": 1000}, {"containerId": 1000, "hostId": 5, "count": 1}]);
    let plan = host
        .sh("cat /proc/self/uid_map /proc/self/gid_map; touch /home; chown 1000:1000 /home; id -u alice")
        .with(json!({"userNamespace": {"kind": "private", "uidMappings": users}, "user": "root"}));
    let output = plan.output();
    let numbers: Vec<&str> = output.split_ascii_whitespace().collect();
    let table = ["0", "200000", "1000", "1000", "5", "1"];
    assert_eq!(numbers[..12], [table, table].concat());
    let container = plan.with(json!({"command": ["sleep", "1000"], "name": "told"})).run();
    assert_eq!(root_of(&container), 200_000);
    let spec = &container.inspect()["spec"]["userNamespace"];
    assert_eq!(
        (&spec["kind"], &spec["uidMappings"], &spec["gidMappings"]),
        (&json!("private"), &users, &users)
    );
    // As a user that is somebody outside.
    let user = host
        .sh("id -u; cat /proc/self/uid_map > /dev/null")
        .with(json!({"userNamespace": {"kind": "private", "uidMappings": users}, "user": "1000:1000"}));
    assert_eq!(user.output(), "1000\n");
}

#[test]
fn a_small_range_does_for_a_container_that_needs_no_more() {
    let Some(host) = Host::new() else { return };
    let small = json!({"userNamespace": {"kind": "auto", "size": 2}});
    // The group of terminals is nobody here.
    assert_eq!(host.sh("awk '{print $3}' /proc/self/uid_map; ls /dev/pts").with(small).output(), "2\nptmx\n");
}

#[test]
fn what_belongs_to_the_host_can_not_be_used_by_root_inside() {
    let Some(host) = Host::new() else { return };
    let dir = host.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("secret"), "s").unwrap();
    std::fs::set_permissions(dir.join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let mounts = json!({"mounts": [{"kind": "bind", "source": dir, "target": "/data"}]});
    let script =
        "stat -c %u /data/secret; cat /data/secret 2>&1; touch /data/x 2>&1; chown 0 /data/secret 2>&1; true";
    let output = host.sh(script).with(mounts.clone()).with(auto()).output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "65534");
    assert!(lines[1].contains("Permission denied") && lines[2].contains("Permission denied"), "{output}");
    assert!(!dir.join("x").exists());
    // All capabilities are those of its own namespace.
    let script = "cat /data/secret 2>/dev/null && echo read; mount -o remount,bind,rw /data 2>/dev/null; \
                  mknod /n b 8 0 2>&1; dmesg > /dev/null 2>&1 && echo log; reboot -f 2>/dev/null; true";
    let privileged = json!({"privileged": true});
    let output = host.sh(script).with(mounts).with(privileged).with(auto()).finish().1;
    assert!(!output.contains("read") && output.contains("not permitted"), "{output}");
}

#[test]
fn sources_of_mounts_may_lie_where_its_root_can_not_go() {
    let Some(host) = Host::new() else { return };
    let dir = host.path().join("private/inner");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("file"), "seen\n").unwrap();
    std::fs::set_permissions(
        host.path().join("private"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let mounts = json!({"mounts": [
        {"kind": "bind", "source": dir, "target": "/data", "readOnly": true},
        {"kind": "bind", "source": dir.join("file"), "target": "/one"},
        {"kind": "tmpfs", "target": "/scratch"}]});
    let plan = host
        .sh("cat /data/file /one; touch /scratch/x && stat -c %u /scratch /scratch/x")
        .with(mounts)
        .with(auto());
    assert_eq!(plan.output(), "seen\nseen\n0\n0\n");
}

#[test]
fn devices_belong_to_whom_they_should() {
    let Some(host) = Host::new() else { return };
    let devices = json!({"devices": [{"path": "/dev/null", "containerPath": "/dev/nothing"}]});
    let script =
        "stat -c '%F %u %t:%T' /dev/nothing /dev/zero; echo x > /dev/nothing; head -c 3 /dev/zero | wc -c";
    let output = host.sh(script).with(devices).with(auto()).output();
    assert_eq!(output, "character special file 0 1:3\ncharacter special file 0 1:5\n3\n");
}

#[test]
fn files_are_copied_with_the_owners_that_they_have_inside() {
    let Some(host) = Host::new() else { return };
    let box_ = host.sh("mkdir /d; echo x > /d/f; chown 33:34 /d/f; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done");
    let box_ = box_.with(auto()).run_until_stoppable();
    let stat = box_.call("StatPath", json!({"path": "/d/f"})).unwrap();
    assert_eq!((&stat["info"]["uid"], &stat["info"]["gid"]), (&json!(33), &json!(34)), "{stat}");
    for running in [true, false] {
        if !running {
            box_.stop().unwrap();
        }
        let mut tar = tempfile::tempfile().unwrap();
        box_.host
            .call_with_fds(
                "Container.CopyOut",
                json!({"name": box_.name, "path": "/d/f", "archive": 0}),
                &[tar.as_fd()],
            )
            .unwrap();
        std::io::Seek::rewind(&mut tar).unwrap();
        let mut archive = tar::Archive::new(&tar);
        let header = archive.entries().unwrap().next().unwrap().unwrap().header().clone();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (33, 34), "running: {running}");
        std::io::Seek::rewind(&mut tar).unwrap();
        let into = if running { "/tmp" } else { "/root" };
        let parameters = json!({"name": box_.name, "path": into, "archive": 0});
        box_.host.call_with_fds("Container.CopyIn", parameters, &[tar.as_fd()]).unwrap();
    }
    box_.start().unwrap();
    assert_eq!(box_.exec_output("stat -c %u:%g /tmp/f /root/f"), "33:34\n33:34\n");
    assert_eq!(owner(&on_disk(&box_, "tmp/f")), (33, 34));
    let processes = box_.call("Top", json!({})).unwrap();
    assert_eq!(
        (&processes["processes"][0]["uid"], &processes["processes"][0]["user"]),
        (&json!(0), &json!("root"))
    );
}

#[test]
fn a_directory_of_the_host_is_a_root_with_its_owners_as_they_are() {
    let Some(host) = Host::new() else { return };
    let root = host.path().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    let plan = host.sh("true").with(auto());
    let mut spec =
        plan.with(json!({"rootfs": root, "command": ["/bin/sh", "-c", "echo x > /new; test -O /bin/sh"]}));
    spec.spec.as_object_mut().unwrap().remove("image");
    assert_eq!(spec.output(), "");
    assert_eq!(owner(&root.join("new")), (0, 0));
}

#[test]
fn namespaces_of_the_host_can_be_used_as_far_as_that_is_possible() {
    let Some(host) = Host::new() else { return };
    let shared = json!({"networkNamespace": {"kind": "host"}, "ipcNamespace": {"kind": "host"}, "utsNamespace": {"kind": "host"}});
    let script = "ls /sys/class/net | sort | head -50; touch /sys/x 2>&1 | grep -c -i read-only";
    let output = host.sh(script).with(shared).with(auto()).output();
    assert!(output.lines().any(|line| line == "lo") && output.ends_with("1\n"), "{output}");
}

#[test]
fn a_network_belongs_to_the_users_of_the_container() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let network = json!({"networkNamespace": null, "capabilitiesAdd": ["NET_ADMIN"]});
    let script = "ip link set eth0 down && ip link set eth0 up && ip -4 addr show eth0 | grep -c inet; \
                  trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let plan = host.sh(script).with(network).with(auto());
    let container = match plan.try_run() {
        Ok(reply) => Container { host: &host, name: reply["name"].as_str().unwrap().to_owned(), reply },
        Err(refusal) if refusal.name() == "Unsupported" => {
            eprintln!("SKIPPED: {}", refusal.reason());
            return;
        }
        Err(refusal) => panic!("{refusal:?}"),
    };
    wait_until("it has said what it sees", || !container.log().is_empty());
    assert_eq!(container.log(), ["1"]);
    // Names of namespaces go with the end.
    container.remove_by_force().unwrap();
    let names =
        std::fs::read_dir(host.run_dir().join("netns")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(container.id())));
    leaks.assert_none_after();
}

#[test]
fn what_can_not_be_is_refused_by_field() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let refused = |namespace: Value, further: Value, field: &str| {
        let plan = host.sh("true").with(json!({"userNamespace": namespace})).with(further);
        let refusal = assert_refused(plan.try_create(), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{refusal:?}");
    };
    let one = json!([{"containerId": 0, "hostId": 5, "count": 1}]);
    refused(json!({"kind": "auto", "size": 0}), json!({}), "spec.userNamespace.size");
    refused(json!({"kind": "auto", "size": 70_000}), json!({}), "spec.userNamespace.size");
    refused(json!({"kind": "auto", "uidMappings": one}), json!({}), "spec.userNamespace.uidMappings");
    refused(json!({"kind": "host", "size": 5}), json!({}), "spec.userNamespace.size");
    refused(json!({"kind": "private"}), json!({}), "spec.userNamespace.uidMappings");
    refused(json!({"kind": "private", "uidMappings": []}), json!({}), "spec.userNamespace.uidMappings");
    let negative = json!([{"containerId": 0, "hostId": -1, "count": 1}]);
    refused(
        json!({"kind": "private", "uidMappings": negative}),
        json!({}),
        "spec.userNamespace.uidMappings[0].hostId",
    );
    let no_root = json!([{"containerId": 1, "hostId": 5, "count": 1}]);
    refused(
        json!({"kind": "private", "uidMappings": one, "gidMappings": no_root}),
        json!({}),
        "spec.userNamespace.gidMappings",
    );
    refused(json!({"kind": "auto"}), json!({"pidNamespace": {"kind": "host"}}), "spec.userNamespace");
    refused(json!({"kind": "auto"}), json!({"runtime": "crun"}), "spec.userNamespace");
    // A command that is not there leaves no namespace, range or process.
    let plan = host.command(&["/no/such"]).with(auto()).with(json!({"autoRemove": true}));
    assert_refused(plan.try_run(), "CommandNotFound");
    for name in host.names() {
        host.call("Container.Remove", json!({"name": name})).unwrap();
    }
    leaks.assert_none_after();
}

#[test]
fn a_systemd_boots_in_a_user_namespace_without_failed_units() {
    for release in SYSTEMD_IMAGES {
        let Some(host) = systemd_image(release) else { continue };
        let leaks = Leaks::before(&host);
        // With the right to mount, which here is one over its own mounts only, units have their sandboxes.
        let spec = json!({"command": ["/sbin/init"], "capabilitiesAdd": ["SYS_ADMIN"]});
        let plan = host.image(release).with(spec).with(auto());
        let vm = plan.named("vm").run_until("ready");
        let running = vm.exec("systemctl is-system-running --wait");
        assert_eq!(
            running["stdout"],
            "running\n",
            "{release}: {}",
            vm.exec("systemctl --failed --no-pager")["stdout"]
        );
        let first = root_of(&vm);
        vm.assert_root_alone_notifies();
        // Its units are told to the host's root, and started by it.
        let status = vm.unit("Status", json!({})).unwrap();
        assert_eq!((&status["systemState"], &status["failedUnits"]), (&json!("running"), &json!(0)));
        vm.exec_output("printf '[Service]\\nExecStart=/bin/sleep 1000\\nDynamicUser=yes\\nPrivateTmp=yes\\nPrivateDevices=yes\\n' \
                        > /run/systemd/system/nap.service; systemctl daemon-reload");
        vm.unit("Start", json!({"unit": "nap.service"})).unwrap();
        assert_eq!(vm.exec_output("systemctl is-active nap").trim(), "active");
        // A reboot inside is a restart, with the same users.
        let before = vm.pid();
        vm.exec("systemctl reboot");
        wait_until("it has booted again", || {
            let summary = vm.summary();
            summary["pid"].as_i64().is_some_and(|pid| pid != i64::from(before)) && summary["ready"] == true
        });
        assert_eq!(root_of(&vm), first);
        let end = vm.stop().unwrap();
        assert_eq!((&end["exitCode"], &end["killed"]), (&json!(0), &json!(false)));
        vm.remove().unwrap();
        leaks.assert_none_after();
    }
}

#[test]
fn the_program_of_the_host_is_out_of_reach() {
    let Some(host) = Host::new() else { return };
    let mut hash = Vec::new();
    std::fs::File::open(env!("CARGO_BIN_EXE_dormouse")).unwrap().read_to_end(&mut hash).unwrap();
    let container = host.sleeper().with(auto()).run_until_stoppable();
    // Neither an exec nor the first process shows anything of the host that could be opened.
    let script = "for fd in /proc/1/fd/* /proc/self/fd/*; do readlink $fd; done; ls /proc/1/cwd/ | head -1; cat /proc/1/environ > /dev/null; \
                  grep CapInh /proc/1/status /proc/self/status";
    let output = container.exec_output(script);
    assert!(!output.contains("dormouse") && output.matches("0000000000000000").count() == 2, "{output}");
}
