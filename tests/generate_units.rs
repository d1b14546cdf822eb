//! Unit files of containers that are there: what they ask for is what was asked for.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod common;

use common::{Host, Leaks, dormouse, said};
use dormouse::systemd::unit_file::UnitFile;
use dormouse::systemd::unit_file::words::Escapes;
use serde_json::{Value, json};

fn spec(host: &Host, name: &str) -> Value {
    let reply = host.call("Container.Inspect", json!({"name": name})).unwrap();
    reply["container"]["spec"].clone()
}

/// The words that systemd would execute, without specifiers and variables.
fn words(unit: &UnitFile, key: &str) -> Vec<String> {
    let words = unit.last("Service", key).unwrap().words(Escapes::Resolved).unwrap();
    words.into_iter().map(|word| word.replace("%%", "%").replace("$$", "$")).collect()
}

#[test]
fn a_unit_that_makes_the_container_anew_asks_for_the_same() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let create = [
        "create",
        "--name",
        "first",
        "--hostname",
        "box",
        "--env",
        "COST=5$ or 50%",
        "--env",
        "LINES=a\nb",
        "--label",
        "a=b c",
        "--annotation",
        "x=y",
        "--user",
        "0:0",
        "--group-add",
        "7",
        "--workdir",
        "/srv",
        "--umask",
        "0027",
        "--tty",
        "--interactive",
        "--init",
        "--stop-signal",
        "SIGINT",
        "--stop-timeout",
        "90",
        "--volume",
        "/etc:/host-etc:ro,nosuid",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
        "--shm-size",
        "1m",
        "--device",
        "/dev/null:/dev/nothing:rw",
        "--read-only",
        "--network",
        "none",
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "MKNOD",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "mask=/proc/a:/proc/b",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--uts",
        "private",
        "--pid",
        "host",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--cpus",
        "1.5",
        "--ulimit",
        "nofile=64:128",
        "--oom-score-adj",
        "5",
        "--log-driver",
        "k8s-file",
        "--log-opt",
        "max-size=1m",
        "--systemd=false",
        "--sdnotify",
        "payload",
        "--entrypoint",
        "[\"/bin/sh\", \"-c\"]",
        "--health-cmd",
        "true",
        "--health-interval",
        "1m30s",
        "busybox",
        "echo \"$COST\" 'in $HOME' 50% \\ done",
        "",
    ];
    said(&dormouse(&host, &create));
    let text =
        said(&dormouse(&host, &["generate", "systemd", "--new", "--restart-policy", "always", "first"]));
    let unit = UnitFile::read("first", &text).unwrap();
    for (key, value) in [
        ("Type", "notify"),
        ("Delegate", "yes"),
        ("KillMode", "mixed"),
        ("Restart", "always"),
        ("TimeoutStopSec", "105"),
    ] {
        assert_eq!(unit.text("Service", key), Some(value), "{text}");
    }
    let start = words(&unit, "ExecStart");
    assert_eq!(start[..6], ["/usr/bin/dormouse", "run", "--rm", "--replace", "--name", "first"]);
    let mut again = vec!["create", "--name", "second"];
    again.extend(start[6..].iter().map(String::as_str));
    said(&dormouse(&host, &again));
    let (mut first, mut second) = (spec(&host, "first"), spec(&host, "second"));
    for spec in [&mut first, &mut second] {
        spec.as_object_mut().unwrap().remove("name");
    }
    assert_eq!(first, second);
    said(&dormouse(&host, &["rm", "first", "second"]));
    leaks.assert_none_after();
}

#[test]
fn networks_ports_and_names_are_asked_for_again() {
    let Some(host) = Host::new() else { return };
    said(&dormouse(&host, &["network", "create", "back"]));
    said(&dormouse(
        &host,
        &[
            "create",
            "--name",
            "first",
            "--network",
            "back:alias=db,mac=02:00:00:00:00:01",
            "--publish",
            "127.0.0.1:18080:80",
            "--publish",
            "8000-8003:80-83/udp",
            "--publish",
            "99",
            "--dns",
            "10.0.0.1",
            "--dns-search",
            "example",
            "--add-host",
            "a:10.0.0.2",
            "--restart",
            "always",
            "busybox",
            "true",
        ],
    ));
    let text = said(&dormouse(&host, &["generate", "units", "--new", "first"]));
    let start = words(&UnitFile::read("first", &text).unwrap(), "ExecStart");
    let mut again = vec!["create", "--name", "second", "--restart", "always"];
    again.extend(start[6..].iter().map(String::as_str));
    said(&dormouse(&host, &again));
    let (mut first, mut second) = (spec(&host, "first"), spec(&host, "second"));
    for spec in [&mut first, &mut second] {
        spec.as_object_mut().unwrap().remove("name");
    }
    assert_eq!(first, second);
}

#[test]
fn secrets_and_what_comes_of_other_containers_are_asked_for_again() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.path().join("token"), "hush").unwrap();
    said(&dormouse(&host, &["secret", "create", "token", "token"]));
    let create = ["create", "--network", "none", "--name"];
    said(&dormouse(&host, &[&create[..], &["data", "-v", "kept:/srv", "busybox", "true"]].concat()));
    let data =
        host.call("Container.Inspect", json!({"name": "data"})).unwrap()["container"]["summary"]["id"].take();
    let from = format!("{}:ro", data.as_str().unwrap());
    let flags = [
        "first",
        "--volumes-from",
        &from,
        "--secret",
        "token,target=/etc/token,uid=7,gid=8,mode=0400",
        "--secret",
        "token,type=env,target=TOKEN",
        "busybox",
        "sh",
        "-c",
        "cat /etc/token; echo $TOKEN; ls -d /srv",
    ];
    said(&dormouse(&host, &[&create[..], &flags].concat()));
    let output = dormouse(&host, &["generate", "systemd", "--new", "first", "data"]);
    let texts = said(&output);
    // Both are printed; the first ends where the second begins.
    let (text, _) = texts.split_once("# container-data.service").unwrap();
    let unit = UnitFile::read("first", text).unwrap();
    let start = words(&unit, "ExecStart");
    // The container that is there by then has another id, and the same name.
    assert!(start.windows(2).any(|pair| pair == ["--volumes-from", "data:ro"]), "{start:?}");
    assert_eq!(unit.text("Unit", "Requires"), Some("container-data.service"), "{text}");
    assert!(unit.all("Unit", "After").iter().any(|after| after.value == "container-data.service"), "{text}");
    let mut again = vec!["create", "--name", "second"];
    again.extend(start[6..].iter().map(String::as_str));
    said(&dormouse(&host, &again));
    assert_eq!(spec(&host, "first")["secrets"], spec(&host, "second")["secrets"]);
    let ran = dormouse(&host, &["start", "--attach", "second"]);
    assert_eq!(said(&ran), "hushhush\n/srv\n");
    let alone = said(&dormouse(&host, &["generate", "systemd", "--new", "first"]));
    assert_eq!(UnitFile::read("first", &alone).unwrap().text("Unit", "Requires"), None, "it has no unit");
}

#[test]
fn a_pod_gets_a_unit_and_each_of_its_containers_one_that_is_bound_to_it() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for arguments in [
        &[
            "pod",
            "create",
            "--name",
            "shop",
            "--share",
            "net,ipc,pid",
            "--network",
            "none",
            "--shm-size",
            "1m",
            "--label",
            "a=b",
            "--add-host",
            "db:10.0.0.2",
        ][..],
        &["create", "--pod", "shop", "--name", "front", "busybox", "sleep", "1000"],
        &["create", "--pod", "shop", "--name", "back", "--restart", "always", "busybox", "sleep", "1000"],
    ] {
        said(&dormouse(&host, arguments));
    }
    let read = |name: &str| {
        let text = std::fs::read_to_string(host.path().join(name)).unwrap();
        (UnitFile::read(name, &text).unwrap(), text)
    };
    let files = |more: &[&str]| {
        let output = dormouse(&host, &[&["generate", "systemd", "--files"], more, &["shop"]].concat());
        (said(&output).lines().count(), String::from_utf8(output.stderr).unwrap())
    };

    // Those for what is there.
    let (written, warnings) = files(&["--pod-prefix", "p", "--after", "a.target"]);
    assert_eq!(written, 3);
    assert!(warnings.contains("\"back\" has a restart policy of its own"), "{warnings}");
    let (pod, text) = read("p-shop.service");
    assert_eq!(words(&pod, "ExecStart"), ["/usr/bin/dormouse", "pod", "exists", "shop"]);
    assert_eq!(words(&pod, "ExecStop"), ["/usr/bin/dormouse", "pod", "stop", "--ignore", "shop"]);
    assert!(pod.all("Unit", "After").iter().any(|after| after.value == "a.target"), "{text}");
    assert_eq!(read("container-front.service").0.text("Unit", "BindsTo"), Some("p-shop.service"));

    // Those that make it anew.
    assert_eq!(files(&["--new"]).0, 3);
    let (pod, text) = read("pod-shop.service");
    for (section, key, value) in [
        ("Unit", "Wants", "container-front.service container-back.service"),
        ("Unit", "Before", "container-front.service container-back.service"),
        ("Service", "Type", "oneshot"),
        ("Service", "RemainAfterExit", "yes"),
        ("Service", "ExecStartPre", "-/usr/bin/dormouse pod rm --force --ignore shop"),
        ("Service", "ExecStopPost", "-/usr/bin/dormouse pod rm --force --ignore shop"),
    ] {
        assert_eq!(pod.text(section, key), Some(value), "{text}");
    }
    let (front, text) = read("container-front.service");
    assert_eq!(front.text("Unit", "BindsTo"), Some("pod-shop.service"), "{text}");
    assert!(front.all("Unit", "After").iter().any(|after| after.value == "pod-shop.service"), "{text}");

    // What they would execute makes the same again.
    let pod_spec = || host.call("Pod.Inspect", json!({"name": "shop"})).unwrap()["pod"]["spec"].take();
    let before = (pod_spec(), spec(&host, "front"), spec(&host, "back"));
    said(&dormouse(&host, &["pod", "rm", "shop"]));
    let execute = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        said(&dormouse(&host, &words));
    };
    execute(&words(&pod, "ExecStart")[1..]);
    for name in ["front", "back"] {
        let start = words(&read(&format!("container-{name}.service")).0, "ExecStart");
        assert_eq!(start[..6], ["/usr/bin/dormouse", "run", "--rm", "--replace", "--name", name]);
        let run = [&["run".to_owned(), "--detach".to_owned()], &start[2..]].concat();
        execute(&run);
    }
    let mut after = (pod_spec(), spec(&host, "front"), spec(&host, "back"));
    for spec in [&mut after.1, &mut after.2] {
        assert_eq!(spec["autoRemove"].take(), json!(true));
        spec.as_object_mut().unwrap().remove("autoRemove");
    }
    let mut before = before;
    for spec in [&mut before.1, &mut before.2] {
        // Starting again is the unit's business.
        spec.as_object_mut().unwrap().remove("restart");
        spec.as_object_mut().unwrap().remove("autoRemove");
    }
    for spec in [&mut after.1, &mut after.2] {
        spec.as_object_mut().unwrap().remove("restart");
    }
    assert_eq!(after, before);
    let state = host.call("Pod.Inspect", json!({"name": "shop"})).unwrap();
    assert_eq!(state["pod"]["summary"]["state"], "running");

    // Alone, its container could not be made anew.
    let refused = dormouse(&host, &["generate", "systemd", "--new", "front"]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && why.contains("it is in a pod; name the pod"), "{why}");
    said(&dormouse(&host, &["generate", "systemd", "front"]));
    // Behind the sign that says that it may fail.
    execute(&words(&pod, "ExecStopPost")[1..]);
    host.call("Pod.Create", json!({"spec": {"name": "empty", "networks": []}})).unwrap();
    assert_eq!(host.call("Manager.GenerateUnits", json!({"names": ["empty"]})).unwrap_err().name(), "Empty");
    said(&dormouse(&host, &["pod", "rm", "empty"]));
    leaks.assert_none_after();
}

#[test]
fn files_are_written_where_the_caller_is() {
    let Some(host) = Host::new() else { return };
    for name in ["one", "two"] {
        said(&dormouse(
            &host,
            &["create", "--name", name, "--network", "none", "--restart", "always", "busybox", "true"],
        ));
    }
    let arguments = [
        "generate",
        "systemd",
        "--files",
        "--container-prefix",
        "c",
        "--separator",
        "_",
        "--restart-sec",
        "2",
        "--start-timeout",
        "1m",
        "--stop-timeout",
        "5",
        "--wants",
        "a.service",
        "--after",
        "b.target,c.service",
        "--requires",
        "d.mount",
        "one",
        "two",
    ];
    let output = dormouse(&host, &arguments);
    assert_eq!(said(&output).lines().count(), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("restart policy of its own"));
    let text = std::fs::read_to_string(host.path().join("c_two.service")).unwrap();
    let unit = UnitFile::read("c_two.service", &text).unwrap();
    assert_eq!(unit.text("Service", "ExecStart"), Some("/usr/bin/dormouse start --attach two"));
    for (section, key, value) in [
        ("Service", "RestartSec", "2"),
        ("Service", "TimeoutStartSec", "60"),
        ("Service", "TimeoutStopSec", "20"),
        ("Unit", "Wants", "a.service"),
        ("Unit", "After", "b.target c.service"),
        ("Unit", "Requires", "d.mount"),
    ] {
        assert_eq!(unit.text(section, key), Some(value), "{text}");
    }
}

#[test]
fn what_can_be_no_unit_is_refused() {
    let Some(host) = Host::new() else { return };
    said(&dormouse(&host, &["create", "--name", "one", "--network", "none", "busybox", "true"]));
    let refused = |parameters: Value| host.call("Manager.GenerateUnits", parameters).unwrap_err();
    assert_eq!(refused(json!({"names": ["none"]})).name(), "NotFound");
    for wrong in [
        json!({"names": ["one"], "wants": ["a.service\nExecStart=/bin/evil"]}),
        json!({"names": ["one"], "after": ["no-type"]}),
        json!({"names": ["one"], "prefix": "../../etc"}),
        json!({"names": ["one"], "separator": "/"}),
        json!({"names": ["one"], "podPrefix": "a b"}),
        json!({"names": ["one"], "restartUSec": -1}),
    ] {
        let refusal = refused(wrong.clone());
        assert_eq!(refusal.name(), "InvalidSpec", "{wrong}: {}", refusal.reason());
    }
    assert!(
        refused(json!({"names": ["one"], "restartPolicy": "sometimes"})).error.ends_with("InvalidParameter")
    );
}
