//! Pods: containers that share namespaces, and live and go together.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod network_support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Answer, Host, Leaks, Plan, assert_refused, wait_until};
use dormouse::varlink::client::Connection;
use network_support::network_host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn pod(host: &Host, method: &str, parameters: Value) -> Answer {
    host.call(&format!("Pod.{method}"), parameters)
}

/// A pod on no network, so that no test needs one.
fn make(host: &Host, name: &str, more: Value) -> String {
    let mut spec = json!({"name": name, "networks": []});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pod(host, "Create", json!({"spec": spec})).unwrap()["id"].as_str().unwrap().to_owned()
}

/// A container in a pod, whose namespaces are not its own matter.
fn within<'a>(plan: Plan<'a>, pod: &str) -> Plan<'a> {
    let mut plan = plan;
    plan.spec.as_object_mut().unwrap().remove("networkNamespace");
    plan.with(json!({"pod": pod}))
}

fn state(host: &Host, name: &str) -> String {
    let details = pod(host, "Inspect", json!({"name": name})).unwrap();
    details["pod"]["summary"]["state"].as_str().unwrap().to_owned()
}

fn holder(host: &Host, name: &str) -> Option<i32> {
    let details = pod(host, "Inspect", json!({"name": name})).unwrap();
    details["pod"]["holderPid"].as_i64().map(|pid| i32::try_from(pid).unwrap())
}

fn namespace(pid: i32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn containers_of_a_pod_share_its_namespaces_and_nothing_of_it_outlasts_them() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    make(&host, "shop", json!({"hostname": "counter", "shmSizeBytes": 1 << 20}));
    assert_eq!(state(&host, "shop"), "created");
    let web = within(host.sleeper(), "shop").named("web").run();
    let db = within(host.sleeper(), "shop").named("db").create();
    assert_eq!(state(&host, "shop"), "degraded");
    db.start().unwrap();
    assert_eq!(state(&host, "shop"), "running");
    for (kind, shared) in [("net", true), ("ipc", true), ("uts", true), ("pid", false), ("mnt", false)] {
        assert_eq!(namespace(web.pid(), kind) == namespace(db.pid(), kind), shared, "{kind}");
        assert_ne!(namespace(web.pid(), kind), namespace(host.serve_pid(), kind), "{kind}");
    }
    assert_eq!(holder(&host, "shop"), None, "no process is needed");
    assert_eq!(web.exec_output("hostname; cat /etc/hostname"), "counter\ncounter\n");
    web.exec_output("echo told > /dev/shm/note");
    assert_eq!(db.exec_output("cat /dev/shm/note"), "told\n");
    assert_ne!(web.exec("dd if=/dev/zero of=/dev/shm/big bs=1M count=2")["exitCode"], 0, "it has its size");
    // Over the common loopback interface.
    web.exec_output("(echo hello | nc -l -p 1234) >/dev/null 2>&1 & sleep 0.2");
    assert_eq!(db.exec_output("nc 127.0.0.1 1234 </dev/null"), "hello\n");
    assert_eq!(web.summary()["pod"], "shop");
    assert_eq!(web.inspect()["spec"]["pod"], "shop");
    assert_eq!(web.inspect()["spec"]["networkNamespace"], Value::Null);

    web.until_stoppable();
    db.until_stoppable();
    pod(&host, "Stop", json!({"name": "shop"})).unwrap();
    assert_eq!((web.summary()["exitCode"].clone(), db.state().as_str()), (json!(0), "exited"));
    assert_eq!(state(&host, "shop"), "exited");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(host.path().to_str().unwrap()), "nothing is mounted any more");

    pod(&host, "Start", json!({"name": "shop"})).unwrap();
    assert_eq!(namespace(web.pid(), "net"), namespace(db.pid(), "net"));
    assert_eq!(db.exec("cat /dev/shm/note")["exitCode"], 1, "it is another /dev/shm");
    pod(&host, "Remove", json!({"name": "shop", "force": true})).unwrap();
    assert_eq!(host.names(), [""; 0]);
    leaks.assert_none_after();
}

#[test]
fn everything_is_done_to_all_of_a_pod() {
    let Some(host) = Host::new() else { return };
    make(&host, "shop", json!({}));
    let a = within(host.sleeper(), "shop").named("a").run_until_stoppable();
    let b = within(host.sleeper(), "shop").named("b").run_until_stoppable();
    pod(&host, "Pause", json!({"name": "shop"})).unwrap();
    assert_eq!((a.state(), state(&host, "shop")), ("paused".to_owned(), "paused".to_owned()));
    pod(&host, "Resume", json!({"name": "shop"})).unwrap();
    assert_refused(pod(&host, "Resume", json!({"name": "shop"})), "NotRunning");
    let pid = b.pid();
    pod(&host, "Restart", json!({"name": "shop"})).unwrap();
    assert_ne!(b.pid(), pid);
    a.until_stoppable();
    b.until_stoppable();
    pod(&host, "Kill", json!({"name": "shop", "signal": "TERM"})).unwrap();
    assert_eq!((a.exit_code(), b.exit_code()), (Some(0), Some(0)));
    assert_refused(pod(&host, "Kill", json!({"name": "shop"})), "NotRunning");
    let events = host.call("Manager.Events", json!({"types": ["pod"], "names": ["shop"]})).unwrap();
    let actions: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create", "pause", "resume", "restart", "kill"]);
    assert_eq!(pod(&host, "Prune", json!({})).unwrap()["removed"].as_array().unwrap().len(), 1);
    assert_eq!(host.names(), [""; 0]);
}

#[test]
fn a_subscription_to_the_list_sees_pods_and_their_containers_change() {
    let Some(host) = Host::new() else { return };
    let mut connection = host.connect();
    let mut replies = connection
        .call_more("io.dormouse.Pod.List", json!({}), &[])
        .unwrap()
        .map(|reply| common::answer(reply).unwrap());
    assert_eq!(replies.next().unwrap(), json!({"pods": [], "gone": []}));
    let id = make(&host, "shop", json!({"labels": {"team": "red"}}));
    let mut until = |wanted: &str| {
        while replies.next().unwrap()["pods"][0]["state"] != wanted {}
    };
    until("created");
    let job = within(host.sh("exit 3"), "shop").run();
    until("running");
    until("exited");
    job.remove().unwrap();
    until("created");
    pod(&host, "Remove", json!({"name": "shop"})).unwrap();
    assert_eq!(replies.next().unwrap()["gone"], json!([id]));
}

#[test]
fn a_pod_that_shares_pids_has_a_first_process_that_gives_nothing_away() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    make(&host, "shop", json!({"share": ["net", "ipc", "uts", "pid"]}));
    let a = within(host.sleeper(), "shop").named("a").run();
    let b = within(host.sleeper(), "shop").named("b").run();
    assert_eq!(namespace(a.pid(), "pid"), namespace(b.pid(), "pid"));
    let holder = holder(&host, "shop").unwrap();
    assert_eq!(namespace(holder, "pid"), namespace(a.pid(), "pid"));
    assert_eq!(a.exec_output("cat /proc/1/comm").trim(), "dormouse-pod");
    // Even root of a container that may trace finds nothing behind it.
    let tracer = within(host.sleeper(), "shop").with(json!({"capabilitiesAdd": ["SYS_PTRACE"]})).run();
    for container in [&a, &tracer] {
        assert_ne!(container.exec("ls /proc/1/root/etc")["exitCode"], 0);
        assert_eq!(container.exec("ls -A /proc/1/root/")["stdout"], "");
        assert_ne!(container.exec("echo x > /proc/1/root/x")["exitCode"], 0);
    }
    let status = std::fs::read_to_string(format!("/proc/{holder}/status")).unwrap();
    for none in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.contains(none), "{status}");
    }
    for kind in ["net", "ipc", "uts", "mnt", "cgroup"] {
        assert_ne!(namespace(holder, kind), namespace(host.serve_pid(), kind), "{kind}");
    }
    // What nobody waits for falls to it, and is reaped.
    b.exec_output("sh -c '(sleep 0.1; exit 7) & exit 0' & wait");
    wait_until("no zombie is left", || !a.exec_output("cat /proc/[0-9]*/stat").contains(") Z 1 "));
    pod(&host, "Remove", json!({"name": "shop", "force": true})).unwrap();
    assert!(!Path::new(&format!("/proc/{holder}")).exists());
    leaks.assert_none_after();
}

#[test]
fn when_the_first_process_is_killed_what_is_to_be_restarted_comes_back_under_another_one() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    make(&host, "shop", json!({"share": ["ipc", "uts", "pid"], "networks": null}));
    let stays =
        host.sleeper().with(json!({"pod": "shop", "restart": {"mode": "always"}})).named("stays").run();
    let goes = host.sleeper().with(json!({"pod": "shop"})).named("goes").run();
    let first = holder(&host, "shop").unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    assert_eq!(goes.exit_code(), Some(137));
    wait_until("it runs again", || stays.summary()["restarts"] == 1 && stays.state() == "running");
    let second = holder(&host, "shop").unwrap();
    assert_ne!(first, second);
    assert_eq!(namespace(stays.pid(), "pid"), namespace(second, "pid"));
    goes.start().unwrap();
    assert_eq!(namespace(goes.pid(), "pid"), namespace(second, "pid"));
    pod(&host, "Remove", json!({"name": "shop", "force": true})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_pod_goes_on_without_the_service_and_its_monitors() {
    let Some(mut host) = Host::new() else { return };
    let calm = Leaks::before(&host).kept();
    make(&host, "shop", json!({}));
    let (a, monitor) = {
        let a = within(host.sleeper(), "shop").named("a").run_until_stoppable();
        (a.pid(), i32::try_from(a.inspect()["monitorPid"].as_i64().unwrap()).unwrap())
    };
    let net = namespace(a, "net");
    // It is still in use, and so stays.
    host.wake_and_sweep();
    let b = within(host.sleeper(), "shop").named("b").run().pid();
    assert_eq!(namespace(b, "net"), net);
    // A monitor that was killed can't take the pod down; whoever stops the last container does.
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    host.call("Container.Remove", json!({"name": "b", "force": true})).unwrap();
    assert_eq!(state(&host, "shop"), "running");
    assert_eq!(namespace(a, "net"), net);
    host.call("Container.Stop", json!({"name": "a"})).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(host.path().to_str().unwrap()), "{mounts}");
    pod(&host, "Remove", json!({"name": "shop"})).unwrap();
    Leaks::since(&host, calm).assert_none_after();
}

#[test]
fn after_a_boot_the_pods_containers_are_started_as_their_policies_say() {
    let Some(mut host) = Host::new() else { return };
    make(&host, "shop", json!({"share": ["net", "ipc", "uts", "pid"]}));
    let always =
        within(host.sleeper(), "shop").with(json!({"restart": {"mode": "always"}})).named("always").run();
    let never = within(host.sleeper(), "shop").named("never").run();
    // As a machine that loses its power: all processes and all that is in memory is gone.
    let monitors: Vec<i64> = [&always, &never]
        .iter()
        .map(|container| container.inspect()["monitorPid"].as_i64().unwrap())
        .collect();
    let first = holder(&host, "shop").unwrap();
    host.crash();
    for monitor in monitors {
        kill(Pid::from_raw(i32::try_from(monitor).unwrap()), Signal::SIGKILL).unwrap();
    }
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let run = host.run_dir();
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounted.lines().filter(|line| line.contains(run.to_str().unwrap())) {
        let target = line.split(' ').nth(4).unwrap();
        // Those who were killed just now may still be on their way out.
        wait_until("it is unmounted", || {
            Command::new("umount").arg(target).output().unwrap().status.success()
        });
    }
    wait_until("the run directory is gone", || std::fs::remove_dir_all(&run).is_ok() || !run.exists());
    let boot = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["boot", "start", "--state-dir"])
        .arg(host.state_dir())
        .arg("--run-dir")
        .arg(&run)
        .output()
        .unwrap();
    assert!(boot.status.success(), "{}", String::from_utf8_lossy(&boot.stderr));
    host.wake();
    assert_eq!(state(&host, "shop"), "degraded");
    let summary = |name: &str| {
        host.call("Container.Inspect", json!({"name": name})).unwrap()["container"]["summary"].clone()
    };
    assert_eq!(
        (&summary("always")["state"], &summary("never")["state"]),
        (&json!("running"), &json!("created"))
    );
    pod(&host, "Start", json!({"name": "shop"})).unwrap();
    assert_eq!(state(&host, "shop"), "running");
    pod(&host, "Remove", json!({"name": "shop", "force": true})).unwrap();
}

#[test]
fn a_pod_is_removed_with_all_its_containers_or_not_at_all() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    make(&host, "shop", json!({}));
    let ended = within(host.sh("true"), "shop").named("ended").run_until("exited");
    let runs = within(host.sleeper(), "shop").named("runs").run();
    let refusal = assert_refused(pod(&host, "Remove", json!({"name": "shop"})), "StillRunning");
    assert_eq!(refusal.parameters["container"], "runs");
    assert_eq!((ended.state().as_str(), runs.state().as_str()), ("exited", "running"));
    runs.remove_by_force().unwrap();
    pod(&host, "Remove", json!({"name": "shop"})).unwrap();
    assert_eq!(host.names(), [""; 0]);
    assert_refused(pod(&host, "Inspect", json!({"name": "shop"})), "NotFound");
    leaks.assert_none_after();
}

#[test]
fn what_can_not_be_is_refused_and_nothing_is_left() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let refused = |spec: Value, field: &str| {
        let refusal = assert_refused(pod(&host, "Create", json!({"spec": spec})), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{refusal:?}");
    };
    refused(json!({"name": "../x"}), "spec.name");
    refused(json!({"name": "shop", "hostname": "a b"}), "spec.hostname");
    refused(json!({"name": "shop", "share": ["ipc"], "ports": [{"containerPort": 80}]}), "spec.ports");
    refused(json!({"name": "shop", "networks": [], "ports": [{"containerPort": 80}]}), "spec.ports");
    refused(json!({"name": "shop", "share": [], "hostname": "a"}), "spec.hostname");
    refused(json!({"name": "shop", "networks": [], "shmSizeBytes": -1}), "spec.shmSizeBytes");
    let id = make(&host, "shop", json!({}));
    assert_refused(pod(&host, "Create", json!({"spec": {"name": "shop", "networks": []}})), "AlreadyExists");
    for method in ["Start", "Restart"] {
        assert_refused(pod(&host, method, json!({"name": "shop"})), "Empty");
    }
    assert_refused(pod(&host, "Kill", json!({"name": "shop", "signal": "NOVEL"})), "InvalidSpec");
    for method in ["Inspect", "Start", "Stop", "Kill", "Restart", "Pause", "Resume", "Remove"] {
        assert_refused(pod(&host, method, json!({"name": "nobody"})), "NotFound");
    }

    let unfit = |fields: Value, field: &str| {
        let refusal = assert_refused(within(host.sleeper(), "shop").with(fields).try_create(), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{refusal:?}");
    };
    unfit(json!({"networkNamespace": {"kind": "host"}}), "spec.networks");
    unfit(json!({"networks": []}), "spec.networks");
    unfit(json!({"ports": [{"containerPort": 80}]}), "spec.ports");
    unfit(json!({"ipcNamespace": {"kind": "host"}}), "spec.ipcNamespace");
    unfit(json!({"hostname": "own"}), "spec.hostname");
    unfit(json!({"shmSizeBytes": 4096}), "spec.shmSizeBytes");
    unfit(json!({"dnsServers": ["192.0.2.1"]}), "spec.dnsServers");
    unfit(json!({"sysctls": {"net.ipv4.ip_forward": "1"}}), "spec.sysctls.net.ipv4.ip_forward");
    unfit(json!({"userNamespace": {"kind": "auto"}}), "spec.userNamespace");
    let refusal = assert_refused(within(host.sleeper(), "nobody").try_create(), "PodNotFound");
    assert_eq!(refusal.parameters["pod"], "nobody");

    // One that can't be started does not keep the others from it, and leaves the pod as it was.
    let good = within(host.sleeper(), &id).named("good").create();
    let bad = within(host.command(&["/no/such"]), "shop").named("bad").create();
    let partly = assert_refused(pod(&host, "Start", json!({"name": "shop"})), "PartlyFailed");
    assert_eq!(partly.parameters["failures"][0]["container"], "bad", "{partly:?}");
    assert_eq!(good.state(), "running");
    good.remove_by_force().unwrap();
    assert_refused(bad.start(), "CommandNotFound");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(host.path().to_str().unwrap()), "{mounts}");
    pod(&host, "Remove", json!({"name": "shop"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn ports_and_networks_belong_to_the_pod() {
    let Some(host) = network_host() else { return };
    let leaks = Leaks::before(&host);
    let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
    let cli = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["--address", &host.address()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let script = "while :; do echo from the pod | nc -l -p 80; done";
    cli(&[
        "run",
        "-d",
        "--pod",
        "new:shop",
        "-p",
        &format!("{port}:80"),
        "--name",
        "web",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    cli(&["run", "-d", "--pod", "shop", "--name", "db", "busybox", "sleep", "1000"]);
    let details = pod(&host, "Inspect", json!({"name": "shop"})).unwrap()["pod"].clone();
    assert_eq!(details["summary"]["ports"][0]["hostPort"], port);
    let address = details["summary"]["addresses"][0].as_str().unwrap().to_owned();
    let exec = |script: &str| {
        let command = json!({"name": "db", "command": ["sh", "-c", script]});
        host.call("Container.Exec", command).unwrap()["stdout"].as_str().unwrap().to_owned()
    };
    assert!(exec("cat /etc/hosts").contains(&address));
    wait_until("the port answers", || {
        use std::io::Read as _;
        let mut text = String::new();
        let answered = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .and_then(|mut stream| stream.read_to_string(&mut text));
        answered.is_ok() && text == "from the pod\n"
    });
    let table = cli(&["pod", "ls"]);
    assert!(
        table.contains("shop") && table.contains("web, db") && table.contains(&format!("{port}->80/tcp")),
        "{table}"
    );
    let top = cli(&["pod", "top", "shop", "pid,args"]);
    assert!(
        top.starts_with("CONTAINER")
            && top.lines().any(|line| line.starts_with("db") && line.ends_with("sleep 1000")),
        "{top}"
    );
    assert_eq!(cli(&["pod", "stats", "--no-stream", "--format", "jsonlines", "shop"]).lines().count(), 2);
    // The address stays while one of them runs, and so does the port, though another had it first.
    host.call("Container.Remove", json!({"name": "web", "force": true})).unwrap();
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err(), "the port is held");
    let again =
        pod(&host, "Inspect", json!({"name": "shop"})).unwrap()["pod"]["summary"]["addresses"][0].clone();
    assert_eq!(again, json!(address));
    cli(&["pod", "stop", "-t", "0", "shop"]);
    let stopped = pod(&host, "Inspect", json!({"name": "shop"})).unwrap()["pod"]["summary"].clone();
    assert_eq!((&stopped["addresses"], &stopped["ports"]), (&json!([]), &json!([])));
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(), "the port is free again");
    cli(&["pod", "rm", "shop"]);
    leaks.assert_none_after();
}

#[test]
fn what_its_containers_do_and_use_is_told_of_a_pod() {
    let Some(host) = Host::new() else { return };
    make(&host, "shop", json!({}));
    let name = json!({"name": "shop"});
    assert_refused(pod(&host, "Top", name.clone()), "NotRunning");
    assert_refused(pod(&host, "Stats", name.clone()), "NotRunning");
    assert_refused(pod(&host, "Top", json!({"name": "nobody"})), "NotFound");
    assert_refused(pod(&host, "Stats", json!({"name": "nobody"})), "NotFound");
    let web = within(host.sleeper(), "shop").named("web").run();
    within(host.sh("exit"), "shop").named("job").create();
    let top = pod(&host, "Top", name.clone()).unwrap()["containers"].clone();
    assert_eq!((top.as_array().unwrap().len(), &top[0]["name"]), (1, &json!("web")), "{top}");
    assert_eq!((&top[0]["id"], &top[0]["processes"][0]["pid"]), (&json!(web.id()), &json!(1)));
    let short = json!({"name": "shop", "intervalUSec": 5});
    assert_eq!(assert_refused(pod(&host, "Stats", short), "InvalidSpec").parameters["field"], "intervalUSec");

    let mut connection = host.connect();
    let often = json!({"name": "shop", "intervalUSec": 100_000});
    let mut replies = connection.call_more("io.dormouse.Pod.Stats", often, &[]).unwrap();
    let mut names = || -> Vec<String> {
        let reply = replies.next().unwrap().unwrap().parameters;
        let stats = reply["stats"].as_array().unwrap().iter();
        stats.map(|usage| usage["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), ["web"]);
    // One that comes later is told of too, and with the last one the stream ends.
    within(host.sleeper(), "shop").named("db").run();
    wait_until("it is told of", || names() == ["web", "db"]);
    pod(&host, "Kill", name).unwrap();
    assert!(replies.count() < 100, "it ends");
}

#[test]
fn volumes_without_a_name_go_with_the_pod_and_others_stay() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    make(&host, "shop", json!({}));
    let volume = |source: Value, target: &str| json!({"kind": "volume", "source": source, "target": target});
    let mounts = json!([volume(Value::Null, "/own"), volume(json!("named"), "/named")]);
    let web = within(host.sleeper(), "shop").named("web").with(json!({"mounts": mounts})).run();
    let mounted = web.inspect()["mounts"].clone();
    let own = mounted.as_array().unwrap().iter().find(|mount| mount["target"] == "/own").unwrap();
    let own = own["name"].as_str().unwrap().to_owned();
    // A container outside of the pod uses another one of it.
    within(host.sleeper(), "shop").named("db").with(json!({"mounts": [volume(Value::Null, "/lent")]})).run();
    let outside =
        host.sleeper().named("outside").with(json!({"volumesFrom": [{"container": "db"}]})).create();
    pod(&host, "Remove", json!({"name": "shop", "force": true})).unwrap();
    let volumes = host.call("Volume.List", json!({})).unwrap()["volumes"].clone();
    let names: Vec<&str> =
        volumes.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"named") && names.len() == 2 && !names.contains(&own.as_str()), "{names:?}");
    outside.call("Remove", json!({"volumes": true})).unwrap();
    host.call("Volume.Remove", json!({"name": "named"})).unwrap();
    leaks.assert_none_after();
}

/// Makes pods with containers, starts, stops and removes them until the service is gone.
fn keep_busy(address: &str, over: &AtomicBool, worker: usize) {
    let Ok(mut connection) = Connection::connect(address) else { return };
    let _ = connection.set_timeout(Some(common::PATIENCE));
    for round in 0.. {
        let name = format!("busy-{worker}-{round}");
        let share = if round % 2 == 0 { json!(["net", "ipc", "uts", "pid"]) } else { json!(["ipc", "uts"]) };
        let networks = if round % 2 == 0 { json!([]) } else { Value::Null };
        let container = |number: usize| {
            json!({"spec": {"image": "busybox", "command": ["sleep", "1000"], "stopSignal": "KILL", "pod": name,
                            "name": format!("{name}-{number}"),
                            "networkNamespace": if round % 2 == 0 { Value::Null } else { json!({"kind": "private"}) }}})
        };
        let calls: [(&str, Value); 6] = [
            ("Pod.Create", json!({"spec": {"name": name, "share": share, "networks": networks}})),
            ("Container.Run", container(0)),
            ("Container.Create", container(1)),
            ("Pod.Start", json!({"name": name})),
            ("Pod.Stop", json!({"name": name})),
            ("Pod.Remove", json!({"name": name})),
        ];
        for (method, parameters) in calls {
            if over.load(Ordering::Relaxed)
                || connection.call(&format!("io.dormouse.{method}"), parameters, &[]).is_err()
            {
                return;
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_point_every_pod_is_wholly_there_or_wholly_gone() {
    let Some(mut host) = Host::new() else { return };
    let calm = Leaks::before(&host).kept();
    let mut dice: u64 = 0x5eed_d0e5_0123_4567;
    for round in 0..12 {
        let address = host.address();
        let over = AtomicBool::new(false);
        // A generator of Marsaglia's kind (xorshift64): the same rounds on every run.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (address, over) = (&address, &over);
                scope.spawn(move || keep_busy(address, over, worker));
            }
            std::thread::sleep(Duration::from_millis(dice % 900));
            host.crash();
            over.store(true, Ordering::Relaxed);
        });
        host.wake();
        let listed = pod(&host, "List", json!({})).unwrap()["pods"].as_array().unwrap().clone();
        let containers =
            host.call("Container.List", json!({})).unwrap()["containers"].as_array().unwrap().clone();
        let ids: BTreeSet<String> =
            listed.iter().chain(&containers).map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        wait_until("what has no record is swept away", || {
            let entries = std::fs::read_dir(host.state_dir().join("containers")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
                == ids
        });
        for pod_listed in &listed {
            let name = json!({"name": pod_listed["id"]});
            let settled = |host: &Host| {
                let now = pod(host, "Inspect", name.clone()).unwrap()["pod"]["summary"]["containers"].clone();
                now.as_array().unwrap().iter().all(|member| member["state"] != "starting")
            };
            wait_until("the monitors have finished what they were about", || settled(&host));
            if !pod_listed["containers"].as_array().unwrap().is_empty() {
                // A stop that was cut short is finished first.
                pod(&host, "Stop", name.clone()).unwrap();
                pod(&host, "Start", name.clone()).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
                assert_eq!(state(&host, pod_listed["id"].as_str().unwrap()), "running");
            }
            let force = json!({"name": pod_listed["id"], "force": true});
            pod(&host, "Remove", force).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        }
        Leaks::since(&host, calm.clone()).assert_none_after();
    }
}
