//! Health checks: made by the monitor, awake or asleep the service may be.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod build_support;
mod common;
mod image_tools;

use std::path::PathBuf;
use std::process::Command;

use build_support::Context;
use common::{Container, Host, Leaks, Plan, SYSTEMD_IMAGES, assert_refused, systemd_image, wait_until};
use image_tools::Tools;
use serde_json::{Value, json};

/// A container whose check passes as long as the file `well` lies in a directory of the host.
struct Patient {
    shared: PathBuf,
}

impl Patient {
    fn new(host: &Host) -> Self {
        let shared = host.path().join("shared");
        std::fs::create_dir_all(&shared).unwrap();
        Self { shared }
    }

    fn plan<'a>(&self, host: &'a Host, check: Value) -> Plan<'a> {
        let mut health = json!({"kind": "shell", "shell": "echo seen; test -e /shared/well", "retries": 2,
                                "intervalUSec": 50_000, "startIntervalUSec": 50_000});
        health.as_object_mut().unwrap().extend(check.as_object().unwrap().clone());
        host.sleeper().with(json!({
            "mounts": [{"kind": "bind", "source": self.shared, "target": "/shared"}], "healthCheck": health}))
    }

    fn recover(&self) {
        std::fs::write(self.shared.join("well"), "").unwrap();
    }

    fn fall_ill(&self) {
        std::fs::remove_file(self.shared.join("well")).unwrap();
    }
}

fn until_health(container: &Container<'_>, wanted: &str) {
    wait_until(wanted, || container.summary()["health"] == wanted);
}

/// The healths that events have told of a container.
fn told(host: &Host, name: &str) -> Vec<String> {
    let reply = host.call("Manager.Events", json!({"names": [name], "actions": ["health"]})).unwrap();
    let health = |event: &Value| event["health"].as_str().unwrap().to_owned();
    reply["events"].as_array().unwrap().iter().map(health).collect()
}

#[test]
fn a_container_is_ready_when_its_check_has_passed_and_its_health_is_told() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let patient = Patient::new(&host);
    let container = patient.plan(&host, json!({})).named("web").run();
    assert_eq!(
        (&container.summary()["health"], &container.summary()["ready"]),
        (&json!("starting"), &json!(false))
    );
    until_health(&container, "unhealthy");
    patient.recover();
    container.call("Wait", json!({"condition": "ready"})).unwrap();
    container.call("Wait", json!({"condition": "healthy"})).unwrap();
    let details = container.inspect();
    assert_eq!(
        (&details["summary"]["health"], &details["summary"]["ready"]),
        (&json!("healthy"), &json!(true))
    );
    assert_eq!(details["healthFailures"], 0);
    assert_eq!(details["healthCheck"]["timeoutUSec"], 30_000_000);
    let results = details["healthResults"].as_array().unwrap();
    assert!((1..=5).contains(&results.len()));
    let last = results.last().unwrap();
    assert_eq!(
        (&last["passed"], &last["exitCode"], &last["output"]),
        (&json!(true), &json!(0), &json!("seen\n"))
    );
    patient.fall_ill();
    until_health(&container, "unhealthy");
    assert!(container.inspect()["healthFailures"].as_i64().unwrap() >= 2);
    // It stays ready: that it was once is what others have waited for.
    assert_eq!(container.summary()["ready"], true);
    wait_until("all is told", || told(&host, "web") == ["unhealthy", "healthy", "unhealthy"]);
    container.stop().unwrap();
    assert_eq!(container.summary()["health"], Value::Null);
    container.remove().unwrap();
    leaks.assert_none_after();
}

#[test]
fn checks_go_on_while_the_service_is_gone_and_under_another_monitor() {
    let Some(mut host) = Host::new() else { return };
    let patient = Patient::new(&host);
    patient.plan(&host, json!({})).named("web").run();
    host.crash();
    patient.recover();
    let state = std::fs::read_dir(host.run_dir().join("containers")).unwrap().next().unwrap().unwrap().path();
    let state = || std::fs::read_to_string(state.join("state")).unwrap();
    wait_until("the monitor has told", || state().contains("health=healthy\n"));
    host.wake_and_sweep();
    let inspect = || host.call("Container.Inspect", json!({"name": "web"})).unwrap()["container"].clone();
    let monitor = i32::try_from(inspect()["monitorPid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the monitor is gone", || inspect()["monitorPid"].is_null());
    host.crash();
    host.wake();
    patient.fall_ill();
    let inspect = || host.call("Container.Inspect", json!({"name": "web"})).unwrap()["container"].clone();
    wait_until("another monitor checks", || inspect()["summary"]["health"] == "unhealthy");
}

#[test]
fn what_becomes_unhealthy_is_killed_restarted_or_stopped_as_asked() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let patient = Patient::new(&host);
    let begin = |action: &str| {
        patient.recover();
        let container = patient.plan(&host, json!({"onFailure": action})).run_until("ready");
        container.until_stoppable();
        patient.fall_ill();
        container
    };
    let killed = begin("kill");
    assert_eq!(killed.exit_code(), Some(137));
    killed.remove().unwrap();

    let stopped = begin("stop");
    assert_eq!(stopped.exit_code(), Some(0), "it was asked to end by SIGTERM");
    assert_eq!(stopped.state(), "exited");
    stopped.remove().unwrap();

    let restarted = begin("restart");
    let pid = restarted.pid();
    wait_until("it was restarted", || restarted.summary()["restarts"] == 1);
    patient.recover();
    until_health(&restarted, "healthy");
    assert_ne!(restarted.pid(), pid);
    restarted.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn what_does_not_end_on_its_stop_signal_is_killed_when_its_time_is_over() {
    let Some(host) = Host::new() else { return };
    let patient = Patient::new(&host);
    patient.recover();
    let deaf = patient.plan(&host, json!({"onFailure": "stop"}));
    let deaf = deaf.with(json!({"command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], "stopTimeoutUSec": 300_000}));
    let deaf = deaf.run_until("ready");
    patient.fall_ill();
    assert_eq!(deaf.exit_code(), Some(137));
}

#[test]
fn a_check_that_does_not_end_has_failed_and_nothing_of_it_stays() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host
        .sleeper()
        .with(json!({"healthCheck": {"kind": "shell", "shell": "echo begun; sleep 4321; true", "retries": 1,
                     "intervalUSec": 100_000, "startIntervalUSec": 1000, "timeoutUSec": 200_000}}))
        .run();
    until_health(&container, "unhealthy");
    let result = container.inspect()["healthResults"][0].clone();
    assert!(result["output"].as_str().unwrap().starts_with("begun\n"), "{result}");
    assert_eq!(result["exitCode"], 137);
    container.call("Pause", json!({})).unwrap();
    let failures = container.inspect()["healthFailures"].clone();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let more = container.inspect()["healthFailures"].as_i64().unwrap() - failures.as_i64().unwrap();
    assert!(more <= 1, "a paused container is not checked: {more}");
    container.call("Resume", json!({})).unwrap();
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn in_the_start_period_failures_do_not_count() {
    let Some(host) = Host::new() else { return };
    let patient = Patient::new(&host);
    let container = patient.plan(&host, json!({"startPeriodUSec": 600_000_000_i64})).run();
    wait_until("it was checked often", || {
        container.inspect()["healthResults"].as_array().unwrap().len() == 5
    });
    assert_eq!(container.summary()["health"], "starting");
    patient.recover();
    until_health(&container, "healthy");
    patient.fall_ill();
    until_health(&container, "unhealthy");
}

#[test]
fn a_check_is_made_on_request_and_changes_nothing() {
    let Some(host) = Host::new() else { return };
    let patient = Patient::new(&host);
    let hour = 3_600_000_000_i64;
    let container =
        patient.plan(&host, json!({"intervalUSec": hour, "startIntervalUSec": hour})).named("web").run();
    let result = container.call("HealthCheck", json!({})).unwrap()["result"].clone();
    assert_eq!((&result["passed"], &result["exitCode"]), (&json!(false), &json!(1)));
    let run = || {
        let output = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["--address", &host.address(), "healthcheck", "run", "web"])
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run(), (1, "unhealthy\nseen\n".to_owned()));
    patient.recover();
    assert_eq!(run(), (0, "healthy\nseen\n".to_owned()));
    let details = container.inspect();
    assert_eq!(details["summary"]["health"], "starting");
    assert_eq!(details["healthResults"].as_array().unwrap().len(), 3);

    container.call("Pause", json!({})).unwrap();
    assert_refused(container.call("HealthCheck", json!({})), "WrongState");
    container.remove_by_force().unwrap();
    let unchecked = host.sleeper().named("unchecked").run();
    assert_refused(unchecked.call("HealthCheck", json!({})), "NoHealthCheck");
    assert_refused(unchecked.call("Wait", json!({"condition": "healthy"})), "NoHealthCheck");
    assert_refused(host.call("Container.HealthCheck", json!({"name": "nobody"})), "NotFound");
}

#[test]
fn what_can_not_be_executed_is_unhealthy_and_says_why() {
    let Some(host) = Host::new() else { return };
    let container = host
        .sleeper()
        .with(json!({"healthCheck": {"kind": "command", "command": ["/no/such"], "retries": 1, "startIntervalUSec": 1000}}))
        .run();
    until_health(&container, "unhealthy");
    let result = container.inspect()["healthResults"][0].clone();
    assert_eq!(result["exitCode"], Value::Null);
    assert!(result["output"].as_str().unwrap().contains("/no/such"), "{result}");
}

#[test]
fn a_check_runs_as_the_containers_user_and_with_its_environment() {
    let Some(host) = Host::new() else { return };
    let container = host
        .sleeper()
        .with(json!({"user": "1234:5678", "env": {"COLOUR": "red"}, "workdir": "/etc",
                     "healthCheck": {"kind": "shell", "shell": "echo $(id -u):$(id -g) $COLOUR $(pwd) $$ $(cat | wc -c)",
                                     "startIntervalUSec": 1000}}))
        .run_until("healthy");
    let output = container.inspect()["healthResults"][0]["output"].as_str().unwrap().to_owned();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[2], words[4]), ("1234:5678", "red", "/etc", "0"), "{output}");
    assert_ne!(words[3], "1");
}

#[test]
fn an_image_says_how_its_containers_are_checked_whoever_built_it() {
    let Some(host) = Host::new() else { return };
    let patient = Patient::new(&host);
    let volume = json!({"mounts": [{"kind": "bind", "source": patient.shared, "target": "/signs"}], "stopSignal": "KILL"});
    patient.recover();
    let check = "--interval=1h --start-interval=50ms --start-period=1h --timeout=30s --retries=2 CMD echo $WORD; test -e /signs/well";
    let context = Context::new(&format!(
        "FROM busybox\nENV WORD=seen\nHEALTHCHECK {check}\nCMD [\"sleep\", \"1000\"]\n"
    ));
    context.make(&host);
    let ours = |container: &Container<'_>| {
        let config = container.inspect()["healthCheck"].clone();
        assert_eq!(
            (&config["retries"], &config["intervalUSec"]),
            (&json!(2), &json!(3_600_000_000_i64)),
            "{config}"
        );
        assert_eq!(config["timeoutUSec"], 30_000_000);
        until_health(container, "starting");
        patient.recover();
        until_health(container, "healthy");
        assert_eq!(container.inspect()["healthResults"][0]["output"], "seen\n");
        container.remove_by_force().unwrap();
    };
    patient.fall_ill();
    ours(&host.image("it").with(volume.clone()).run());
    context.write("Containerfile", "FROM it\nHEALTHCHECK NONE\n");
    context.make(&host);
    let unchecked = host.image("it").run();
    assert_eq!(unchecked.summary()["health"], Value::Null);
    unchecked.remove_by_force().unwrap();

    // What another engine has built, in the form that knows such checks.
    let Some(tools) = Tools::new() else { return };
    let root = context.path().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let links = "RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]";
    let file = format!(
        "FROM scratch\nCOPY root /\n{links}\nENV WORD=seen PATH=/bin\nHEALTHCHECK {}\nCMD [\"sleep\", \"1000\"]\n",
        check.replace("--start-interval=50ms ", "")
    );
    context.write("Containerfile", &file);
    let directory = context.path().display().to_string();
    tools.buildah(&[
        "build",
        "--quiet",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        "--tag",
        "localhost/theirs",
        &directory,
    ]);
    let archive = tools.path("theirs.tar").display().to_string();
    tools.podman(&[
        "save",
        "--quiet",
        "--format",
        "docker-archive",
        "--output",
        &archive,
        "localhost/theirs",
    ]);
    host.call("Image.Load", json!({"path": archive})).unwrap();
    patient.fall_ill();
    ours(
        &host
            .image("localhost/theirs")
            .with(volume)
            .with(json!({"healthCheck": {"startIntervalUSec": 50_000}}))
            .run(),
    );
}

#[test]
fn bad_checks_are_refused_by_field_and_nothing_is_made() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for (check, field) in [
        (json!({"kind": "command"}), "spec.healthCheck.command"),
        (json!({"kind": "command", "command": []}), "spec.healthCheck.command"),
        (json!({"kind": "shell", "shell": ""}), "spec.healthCheck.shell"),
        (json!({"kind": "systemd"}), "spec.healthCheck.kind"),
        (json!({"retries": 3}), "spec.healthCheck.kind"),
        (json!({"kind": "shell", "shell": "x", "retries": 0}), "spec.healthCheck.retries"),
        (json!({"kind": "shell", "shell": "x", "retries": -1}), "spec.healthCheck.retries"),
        (json!({"kind": "shell", "shell": "x", "intervalUSec": 1}), "spec.healthCheck.intervalUSec"),
        (json!({"kind": "shell", "shell": "x", "timeoutUSec": 0}), "spec.healthCheck.timeoutUSec"),
        (json!({"kind": "none", "shell": "x"}), "spec.healthCheck.shell"),
    ] {
        let refusal =
            assert_refused(host.sleeper().with(json!({"healthCheck": check})).try_create(), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{refusal:?}");
    }
    let ready = host.sleeper().with(json!({"sdNotify": "healthy"})).try_create();
    assert_eq!(assert_refused(ready, "InvalidSpec").parameters["field"], "spec.sdNotify");
    leaks.assert_none_after();
}

#[test]
fn a_systemd_is_healthy_as_long_as_no_unit_has_failed_and_each_failure_is_an_event() {
    for release in SYSTEMD_IMAGES {
        let Some(host) = systemd_image(release) else { continue };
        eprintln!("with {release}");
        let vm = host
            .image(release)
            .with(json!({"command": ["/sbin/init"], "healthCheck": {
                "kind": "systemd", "intervalUSec": 200_000, "startIntervalUSec": 200_000, "retries": 1}}))
            .named("vm")
            .run_until("healthy");
        assert_eq!(vm.summary()["ready"], true);
        assert_eq!(vm.inspect()["healthResults"][0]["output"], "running");
        vm.exec("systemd-run --unit=broken /bin/false");
        until_health(&vm, "unhealthy");
        let results = vm.inspect()["healthResults"].as_array().unwrap().clone();
        assert_eq!(results.last().unwrap()["output"], "degraded: broken.service");
        let failures = || {
            let events = host.call("Manager.Events", json!({"names": ["vm"], "actions": ["fail"]})).unwrap();
            let unit = |event: &Value| (event["type"].clone(), event["unit"].clone());
            events["events"].as_array().unwrap().iter().map(unit).collect::<Vec<_>>()
        };
        assert_eq!(
            failures(),
            [(json!("unit"), json!("broken.service"))],
            "once, however often it is looked at"
        );
        vm.exec("systemctl reset-failed broken");
        until_health(&vm, "healthy");
        vm.exec("systemd-run --unit=broken /bin/false");
        wait_until("it is told again", || failures().len() == 2);
        let result = vm.call("HealthCheck", json!({})).unwrap()["result"].clone();
        assert_eq!((&result["passed"], &result["exitCode"]), (&json!(false), &Value::Null));
    }
}
