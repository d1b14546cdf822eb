//! The life of a container, from its creation to its end, as a client sees it.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use common::{Host, Leaks, answer, assert_refused, wait_until};
use serde_json::{Value, json};

#[test]
fn a_container_goes_from_created_over_running_to_exited_and_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let web = host.sleeper().named("web").create();
    assert_eq!(web.state(), "created");
    web.start().unwrap();
    assert_eq!(web.state(), "running");
    web.until_stoppable();
    let end = web.stop().unwrap();
    assert_eq!(end["exitCode"], 0);
    assert_eq!(end["killed"], false);
    assert_eq!(web.state(), "exited");
    web.remove().unwrap();
    assert_refused(web.call("Inspect", json!({})), "NotFound");
    leaks.assert_none_after();
}

#[test]
fn the_exit_code_of_the_command_is_told() {
    let Some(host) = Host::new() else { return };
    for code in [0, 1, 7, 255] {
        let container = host.sh(&format!("exit {code}")).run_until("exited");
        assert_eq!(container.reply["exitCode"], code);
        assert_eq!(container.exit_code(), Some(code), "a later wait tells the same");
        assert_eq!(container.summary()["exitCode"], code);
        assert_eq!(container.inspect()["exitSignal"], Value::Null);
    }
}

#[test]
fn an_end_by_a_signal_is_128_and_the_signal() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    container.call("Kill", json!({})).unwrap();
    assert_eq!(container.exit_code(), Some(137));
    assert_eq!(container.inspect()["exitSignal"], 9);
}

#[test]
fn kill_takes_signals_by_name_and_number() {
    let Some(host) = Host::new() else { return };
    for signal in ["TERM", "SIGTERM", "15"] {
        let container = host.sleeper().run_until_stoppable();
        container.kill(signal).unwrap();
        assert_eq!(container.exit_code(), Some(0), "{signal}");
    }
}

#[test]
fn what_does_not_hear_the_stop_signal_is_killed_after_the_timeout() {
    let Some(host) = Host::new() else { return };
    let deaf = host.command(&["sleep", "1000"]).run();
    let end = deaf.call("Stop", json!({"timeoutUSec": 200_000})).unwrap();
    assert_eq!(end["killed"], true);
    assert_eq!(end["exitCode"], 137);
}

#[test]
fn stopping_uses_the_stop_signal_of_the_specification() {
    let Some(host) = Host::new() else { return };
    let script = "trap 'exit 9' INT; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let container = host.sh(script).with(json!({"stopSignal": "SIGINT"})).run_until_stoppable();
    let end = container.stop().unwrap();
    assert_eq!((&end["exitCode"], &end["killed"]), (&json!(9), &json!(false)));
}

#[test]
fn stopping_what_does_not_run_counts_as_stopped() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("exit 3").create();
    assert_eq!(container.stop().unwrap()["exitCode"], Value::Null);
    container.start().unwrap();
    container.exit_code();
    assert_eq!(container.stop().unwrap()["exitCode"], 3);
}

#[test]
fn an_ended_container_can_be_started_again_with_what_it_wrote() {
    let Some(host) = Host::new() else { return };
    let counter = host.sh("echo x >> /count; exit $(wc -l < /count)").create();
    for round in 1..=3 {
        counter.start().unwrap();
        assert_eq!(counter.exit_code(), Some(round));
    }
}

#[test]
fn restart_gives_a_new_process() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run_until_stoppable();
    let before = container.pid();
    container.call("Restart", json!({})).unwrap();
    assert_eq!(container.state(), "running");
    assert_ne!(container.pid(), before);
    assert_eq!(container.summary()["restarts"], 0, "only its policy counts");
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    let Some(host) = Host::new() else { return };
    let clock = host.sh("while :; do echo tick; usleep 10000; done").run();
    wait_until("it ticks", || !clock.log().is_empty());
    clock.call("Pause", json!({})).unwrap();
    assert_eq!(clock.state(), "paused");
    // What was in the pipe may still arrive at the log; after that nothing comes.
    let mut ticks = clock.log().len();
    wait_until("the log is quiet", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        std::mem::replace(&mut ticks, clock.log().len()) == ticks
    });
    clock.call("Resume", json!({})).unwrap();
    assert_eq!(clock.state(), "running");
    wait_until("it ticks again", || clock.log().len() > ticks);
}

#[test]
fn a_paused_container_can_be_stopped() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run_until_stoppable();
    container.call("Pause", json!({})).unwrap();
    assert_eq!(container.stop().unwrap()["exitCode"], 0);
    assert_eq!(container.state(), "exited");
}

#[test]
fn a_renamed_container_answers_to_the_new_name_only() {
    let Some(host) = Host::new() else { return };
    let mut container = host.sh("exit").named("old").create();
    container.call("Rename", json!({"newName": "new"})).unwrap();
    assert_refused(container.start(), "NotFound");
    container.name = "new".into();
    assert_eq!(container.state(), "created");
    host.sh("exit").named("old").create();
}

#[test]
fn a_container_is_found_by_name_id_and_prefix_of_the_id() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("exit").named("web").create();
    for name in ["web", container.id(), &container.id()[..12]] {
        let details = host.call("Container.Inspect", json!({"name": name})).unwrap();
        assert_eq!(details["container"]["summary"]["id"], container.id());
    }
}

#[test]
fn a_running_container_is_removed_only_by_force() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host.sleeper().run();
    let refusal = assert_refused(container.remove(), "WrongState");
    assert_eq!(refusal.parameters["state"], "running");
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn lists_are_narrowed_by_names_states_and_labels() {
    let Some(host) = Host::new() else { return };
    host.sleeper().named("one").with(json!({"labels": {"tier": "web", "blue": ""}})).run();
    host.sh("exit").named("two").with(json!({"labels": {"tier": "db"}})).create();
    host.sh("exit").named("three").run_until("exited");
    assert_eq!(host.names(), ["one", "two", "three"], "oldest first");
    assert_eq!(host.names_where(json!({"names": ["three", "one"]})), ["one", "three"]);
    assert_eq!(host.names_where(json!({"states": ["created", "exited"]})), ["two", "three"]);
    assert_eq!(host.names_where(json!({"labels": {"tier": "web"}})), ["one"]);
    assert_eq!(host.names_where(json!({"labels": {"tier": ""}})), ["one", "two"]);
    assert_eq!(host.names_where(json!({"labels": {"tier": "", "blue": ""}})), ["one"]);
    assert_eq!(host.names_where(json!({"names": ["nobody"]})), [""; 0]);
}

#[test]
fn inspect_tells_what_was_asked_for_and_what_came_of_it() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().named("web").with(json!({"env": {"A": "b"}, "workdir": "/tmp"})).run();
    let details = container.inspect();
    assert_eq!(details["spec"]["env"], json!({"A": "b"}));
    assert!(details["env"].as_array().unwrap().contains(&json!("A=b")));
    assert_eq!(details["workdir"], "/tmp");
    assert_eq!(details["stopSignal"], "SIGTERM");
    assert_eq!(details["stopTimeoutUSec"], 10_000_000);
    assert_eq!(details["summary"]["image"], "busybox");
    assert_eq!(details["summary"]["systemd"], false);
    let alive = |pid: &Value| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(alive(&details["monitorPid"]) && alive(&details["summary"]["pid"]), "{details}");
    let cgroup = details["cgroup"].as_str().unwrap();
    assert!(cgroup.contains(container.id()), "{cgroup}");
}

#[test]
fn a_container_with_auto_remove_tells_its_exit_code_and_is_gone() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host.sh("exit 7").with(json!({"autoRemove": true})).run_until("exited");
    assert_eq!(container.reply["exitCode"], 7);
    wait_until("it is removed", || host.names().is_empty());
    leaks.assert_none_after();
}

#[test]
fn on_failure_restarts_as_often_as_allowed() {
    let Some(host) = Host::new() else { return };
    let plan = host.sh("echo run; exit 3").with(json!({"restart": {"mode": "onFailure", "retriesMax": 2}}));
    let container = plan.run_until("exited");
    assert_eq!(container.reply["exitCode"], 3);
    assert_eq!(container.summary()["restarts"], 2);
    assert_eq!(container.log(), ["run"; 3]);
}

#[test]
fn on_failure_leaves_a_good_end_alone() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("exit 0").with(json!({"restart": {"mode": "onFailure"}})).run_until("exited");
    assert_eq!(container.summary()["restarts"], 0);
}

#[test]
fn a_stopped_container_is_not_restarted_by_its_policy() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().with(json!({"restart": {"mode": "always"}})).run_until_stoppable();
    let first = container.pid();
    container.kill("TERM").unwrap();
    wait_until("it has been restarted", || {
        container.summary()["pid"].as_i64().is_some_and(|pid| pid != i64::from(first))
    });
    container.until_stoppable();
    container.stop().unwrap();
    assert_eq!(container.state(), "exited");
}

#[test]
fn waiting_has_an_end_after_which_the_container_goes_on() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    assert_refused(container.call("Wait", json!({"timeoutUSec": 100_000})), "Timeout");
    assert_eq!(container.state(), "running");
}

#[test]
fn a_subscription_to_the_list_sees_containers_come_change_and_go() {
    let Some(host) = Host::new() else { return };
    let mut connection = host.connect();
    let replies = connection.call_more("io.dormouse.Container.List", json!({}), &[]).unwrap();
    let mut replies = replies.map(|reply| answer(reply).unwrap());
    let first = replies.next().unwrap();
    assert_eq!(first, json!({"containers": [], "gone": []}));
    let container = host.sleeper().named("web").create();
    let mut until_state = |wanted: &str| {
        loop {
            let reply = replies.next().unwrap();
            let summary = &reply["containers"][0];
            assert_eq!(summary["name"], "web", "{reply}");
            if summary["state"] == wanted {
                break;
            }
        }
    };
    until_state("created");
    container.start().unwrap();
    until_state("running");
    container.until_stoppable();
    container.stop().unwrap();
    until_state("exited");
    container.remove().unwrap();
    let gone = replies.map(|reply| reply["gone"].clone()).find(|gone| *gone != json!([])).unwrap();
    assert_eq!(gone, json!([container.id()]));
}

#[test]
fn events_tell_the_whole_life_in_order() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("exit 7").named("web").create();
    container.start().unwrap();
    container.exit_code();
    container.remove().unwrap();
    let events = host.call("Manager.Events", json!({"names": ["web"]})).unwrap();
    let events = events["events"].as_array().unwrap();
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create", "start", "exit", "remove"]);
    assert_eq!(events[2]["exitCode"], 7);
    assert!(events.iter().all(|event| event["id"] == container.id()));
    assert!(events.is_sorted_by_key(|event| event["timeUSec"].as_i64()));
    let exits = host.call("Manager.Events", json!({"actions": ["exit"]})).unwrap();
    assert_eq!(exits["events"].as_array().unwrap().len(), 1);
}

#[test]
fn followed_events_come_as_they_happen() {
    let Some(host) = Host::new() else { return };
    let mut connection = host.connect();
    let replies = connection
        .call_more("io.dormouse.Manager.Events", json!({"names": ["web"], "sinceUSec": 0}), &[])
        .unwrap();
    host.sh("exit").named("web").run_until("exited").remove().unwrap();
    let mut actions = Vec::new();
    for reply in replies {
        let reply = answer(reply).unwrap();
        let events = reply["events"].as_array().unwrap();
        actions.extend(events.iter().map(|event| event["action"].as_str().unwrap().to_owned()));
        if actions.last().is_some_and(|action| action == "remove") {
            break;
        }
    }
    assert_eq!(actions, ["create", "start", "exit", "remove"]);
}

#[test]
fn whoever_waits_for_the_end_of_one_that_removes_itself_hears_its_exit_code() {
    let Some(host) = Host::new() else { return };
    let round = |code: usize| {
        let script = format!("sleep 0.0{code}; exit {code}");
        let plan = host.sh(&script).with(json!({"autoRemove": true}));
        let run = host.call("Container.Run", json!({"spec": plan.spec})).unwrap();
        std::thread::scope(|scope| {
            let wait = || host.call("Container.Wait", json!({"name": run["id"], "condition": "exited"}));
            let waiters: Vec<_> = (0..3).map(|_| scope.spawn(wait)).collect();
            for waiter in waiters {
                match waiter.join().unwrap() {
                    Ok(reply) => assert_eq!(reply["exitCode"], code, "{reply}"),
                    // It came when all was over.
                    Err(refusal) => assert_eq!(refusal.name(), "NotFound", "{refusal:?}"),
                }
            }
        });
        let reply = host.call("Container.Run", json!({"spec": plan.spec, "wait": "exited"})).unwrap();
        assert_eq!(reply["exitCode"], code, "{reply}");
    };
    std::thread::scope(|scope| {
        for code in 1..=4 {
            let round = &round;
            scope.spawn(move || (0..15).for_each(|_| round(code)));
        }
    });
}
