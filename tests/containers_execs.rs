//! Commands that run in containers, as those see them who did not start them: listed, signalled, left alone, and gone when
//! they end.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::os::fd::AsFd as _;

use common::{Container, Host, Leaks, assert_refused, wait_until};
use serde_json::{Value, json};

fn execs(host: &Host, filter: Value) -> Vec<Value> {
    host.call("Container.ListExecs", filter).unwrap()["execs"].as_array().unwrap().clone()
}

/// Starts a command by itself; its id.
fn detached(container: &Container<'_>, command: &[&str]) -> String {
    let reply = container.call("Exec", json!({"command": command, "detach": true})).unwrap();
    assert_eq!(reply["exitCode"], Value::Null);
    reply["exec"].as_str().unwrap().to_owned()
}

/// The files by which sessions of a container are known.
fn records(host: &Host, container: &Container<'_>) -> Vec<String> {
    let directory = host.run_dir().join("containers").join(container.id()).join("execs");
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_command_is_listed_while_it_runs_and_leaves_no_record() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().named("web").run();
    let other = host.sleeper().run();
    assert_eq!(execs(&host, json!({})), [] as [Value; 0]);
    let mut connection = host.connect();
    let (_, out) = std::io::pipe().unwrap();
    let parameters = json!({"name": "web", "command": ["sleep", "1000"], "user": "alice", "stdout": 0});
    let mut replies = connection.call_more("io.dormouse.Container.Exec", parameters, &[out.as_fd()]).unwrap();
    let first = replies.next().unwrap().unwrap().parameters;
    let listed = execs(&host, json!({"name": "web"}));
    let [exec] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!(exec["exec"], first["exec"]);
    assert_eq!(exec["pid"], first["pid"]);
    assert_eq!(exec["command"], json!(["sleep", "1000"]));
    assert_eq!(
        (&exec["user"], &exec["terminal"], &exec["detached"]),
        (&json!("alice"), &json!(false), &json!(false))
    );
    assert_eq!((&exec["name"], &exec["containerId"]), (&json!("web"), &json!(container.id())));
    assert!(exec["startedUSec"].as_i64() >= container.summary()["startedUSec"].as_i64(), "{exec}");
    assert_eq!(execs(&host, json!({"name": other.name})), [] as [Value; 0]);

    container
        .call("KillExec", json!({"exec": &exec["exec"].as_str().unwrap()[..12], "signal": "TERM"}))
        .unwrap();
    assert_eq!(replies.next().unwrap().unwrap().parameters["exitCode"], 143);
    assert_eq!(execs(&host, json!({})), [] as [Value; 0], "who hears of the end finds it in no list");
    assert_eq!(records(&host, &container), [] as [&str; 0]);
    assert_refused(container.call("KillExec", json!({"exec": exec["exec"]})), "ExecNotFound");
    assert_refused(host.call("Container.ListExecs", json!({"name": "nobody"})), "NotFound");
    assert_refused(container.call("KillExec", json!({"exec": "", "signal": "LOUD"})), "InvalidSpec");
}

#[test]
fn a_detached_command_survives_the_service_and_is_known_to_the_next_one() {
    let Some(mut host) = Host::new() else { return };
    let id = host.sleeper().named("web").run().id().to_owned();
    let leaks = Leaks::before(&host).kept();
    let script =
        "trap 'echo told > /tmp/told; exit' USR1; echo > /tmp/ready; while :; do sleep 1000 & wait $!; done";
    let exec = {
        let reply = json!({"name": "web", "command": ["sh", "-c", script], "detach": true, "terminal": true});
        host.call("Container.Exec", reply).unwrap()["exec"].as_str().unwrap().to_owned()
    };
    host.crash();
    host.wake();
    let container = Container { host: &host, name: "web".into(), reply: json!({"id": id}) };
    let listed = execs(&host, json!({}));
    assert_eq!((&listed[0]["exec"], &listed[0]["detached"]), (&json!(exec), &json!(true)), "{listed:?}");
    wait_until("it handles the signal", || container.exec("test -e /tmp/ready")["exitCode"] == 0);
    container.call("KillExec", json!({"exec": exec, "signal": "USR1"})).unwrap();
    wait_until("it is gone", || execs(&host, json!({})).is_empty());
    assert_eq!(container.exec_output("cat /tmp/told"), "told\n");
    assert_eq!(records(&host, &container), [exec]);
    Leaks::since(&host, leaks).assert_none_after();
}

#[test]
fn the_exit_code_of_a_detached_command_is_kept_with_its_container() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host.sleeper().named("web").run();
    let exec = detached(&container, &["sh", "-c", "exit 42"]);
    let inspect = || container.call("InspectExec", json!({"exec": &exec[..12]})).unwrap()["exec"].clone();
    wait_until("it has ended", || inspect()["exitCode"] == 42);
    assert!(inspect()["endedUSec"].as_i64() >= inspect()["startedUSec"].as_i64());
    assert_eq!(execs(&host, json!({})), [] as [Value; 0], "it runs no more");
    assert_eq!(execs(&host, json!({"name": "web", "all": true}))[0]["exec"], exec);
    assert_refused(container.call("KillExec", json!({"exec": exec})), "ExecNotFound");
    assert_refused(container.call("InspectExec", json!({"exec": "f00"})), "ExecNotFound");
    // Who has a client hears of it there.
    container.exec("exit 7");
    assert_eq!(execs(&host, json!({"all": true})).len(), 1);
    let events = host.call("Manager.Events", json!({"names": ["web"]})).unwrap()["events"].clone();
    let told =
        events.as_array().unwrap().iter().any(|event| event["exec"] == exec && event["exitCode"] == 42);
    assert!(told, "{events}");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address(), "execs", "--all", "web"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("exited (42)"), "{output:?}");
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_detached_command_that_writes_much_to_its_terminal_goes_on() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let script = "tty; seq 100000; echo done > /tmp/done; sleep 1000";
    let reply =
        container.call("Exec", json!({"command": ["sh", "-c", script], "detach": true, "terminal": true}));
    assert_eq!(reply.unwrap()["terminalDescriptor"], Value::Null);
    wait_until("it is through", || container.exec("test -e /tmp/done")["exitCode"] == 0);
}

#[test]
fn a_command_with_a_terminal_goes_on_when_its_client_has_detached() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let mut connection = host.connect();
    let script = "echo > /tmp/ready; seq 100000; echo > /tmp/done; sleep 1000";
    let parameters = json!({"name": container.name, "command": ["sh", "-c", script], "terminal": true});
    let mut replies = connection.call_more("io.dormouse.Container.Exec", parameters, &[]).unwrap();
    let first = replies.next().unwrap().unwrap();
    let exec = first.parameters["exec"].clone();
    container.call("DetachExec", json!({"exec": exec})).unwrap();
    drop(first);
    drop(replies);
    wait_until("it is through", || container.exec("test -e /tmp/done")["exitCode"] == 0);
    assert_eq!(execs(&host, json!({}))[0]["exec"], exec);
    container.call("KillExec", json!({"exec": exec})).unwrap();
    wait_until("it is gone", || execs(&host, json!({})).is_empty());
}

#[test]
fn records_go_with_the_container_and_with_a_session_that_was_killed() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host.sleeper().run();
    detached(&container, &["sleep", "1000"]);
    container.kill("KILL").unwrap();
    container.exit_code();
    wait_until("its end is kept", || execs(&host, json!({})).is_empty());
    let ended = execs(&host, json!({"name": container.name, "all": true}));
    assert_eq!((ended.len(), &ended[0]["exitCode"]), (1, &json!(137)), "{ended:?}");
    assert_eq!(records(&host, &container), [ended[0]["exec"].as_str().unwrap()], "its socket is gone");
    std::fs::remove_file(
        host.run_dir()
            .join("containers")
            .join(container.id())
            .join("execs")
            .join(&records(&host, &container)[0]),
    )
    .unwrap();

    container.start().unwrap();
    let exec = detached(&container, &["sleep", "1000"]);
    let record = host.run_dir().join("containers").join(container.id()).join("execs").join(&exec);
    let state: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let session = i32::try_from(state["session_pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(session), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the session is in no list", || execs(&host, json!({})).is_empty());
    assert_eq!(records(&host, &container), [] as [&str; 0]);
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}
