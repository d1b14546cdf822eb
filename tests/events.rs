//! Events: everything that changes is told, to whoever asks, whenever they ask.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Host, assert_refused, wait_until};
use dormouse::varlink::client::ClientError;
use serde_json::{Value, json};

fn events(host: &Host, parameters: Value) -> Vec<Value> {
    host.call("Manager.Events", parameters).unwrap()["events"].as_array().unwrap().clone()
}

/// As `type action`, with what else is told.
fn words(events: &[Value]) -> Vec<String> {
    let word = |event: &Value| {
        let mut text = format!("{} {}", event["type"].as_str().unwrap(), event["action"].as_str().unwrap());
        for key in ["exitCode", "signal", "oldName"] {
            match &event[key] {
                Value::Null => {}
                Value::String(value) => text.push_str(&format!(" {value}")),
                value => text.push_str(&format!(" {value}")),
            }
        }
        text
    };
    events.iter().map(word).collect()
}

fn now_usec() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

#[test]
fn the_life_of_a_container_is_told_in_order() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().named("web").create();
    container.start().unwrap();
    container.until_stoppable();
    container.call("Pause", json!({})).unwrap();
    container.call("Resume", json!({})).unwrap();
    container.call("Update", json!({"resources": {"pidsMax": 100}})).unwrap();
    container.exec("exit 3");
    container.kill("SIGUSR1").unwrap();
    container.call("Rename", json!({"newName": "www"})).unwrap();
    host.call("Container.Stop", json!({"name": "www"})).unwrap();
    host.call("Container.Restart", json!({"name": "www"})).unwrap();
    host.call("Container.Remove", json!({"name": "www", "force": true})).unwrap();
    let all = events(&host, json!({"names": [container.id()]}));
    assert_eq!(
        words(&all),
        [
            "container create",
            "container start",
            "container pause",
            "container resume",
            "container update",
            "exec create",
            "exec start",
            "exec exit 3",
            "container kill SIGUSR1",
            "container rename web",
            "container stop",
            "container exit 0",
            "container start",
            "container restart",
            "container exit 137",
            "container remove",
        ]
    );
    let exec: Vec<&Value> = all.iter().filter(|event| event["type"] == "exec").collect();
    assert!(exec[1]["pid"].as_i64().unwrap() > 1 && exec[1]["pid"] == exec[2]["pid"]);
    assert!(all.iter().all(|event| event["id"] == container.id()));
    assert!(all.is_sorted_by_key(|event| event["timeUSec"].as_i64().unwrap()));
}

#[test]
fn who_was_cut_off_goes_on_after_a_cursor_and_misses_nothing_whoever_is_killed_meanwhile() {
    let Some(mut host) = Host::new() else { return };
    let first = host.sleeper().named("first").run();
    let cursor = events(&host, json!({})).last().unwrap()["cursor"].clone();
    let (id, pid) = (first.id().to_owned(), first.pid());
    host.crash();
    // Nobody is awake, and yet:
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    host.wake();
    let missed = || events(&host, json!({"afterCursor": cursor, "names": [id]}));
    wait_until("its monitor has told", || !missed().is_empty());
    assert_eq!(words(&missed()), ["container exit 137"]);

    // As a stream, from the same place on.
    let mut connection = host.connect();
    let mut stream =
        connection.call_more("io.dormouse.Manager.Events", json!({"afterCursor": cursor}), &[]).unwrap();
    let mut next = || stream.next().unwrap().unwrap().parameters["events"].as_array().unwrap().clone();
    let mut seen = next();
    host.sh("exit 5").named("second").run_until("exited");
    while seen.last().unwrap()["exitCode"] != 5 {
        seen.extend(next());
    }
    assert_eq!(
        words(&seen),
        ["container exit 137", "container create", "container start", "container exit 5"]
    );
}

#[test]
fn events_are_told_apart_by_what_they_are_about_and_when() {
    let Some(host) = Host::new() else { return };
    let begin = now_usec();
    host.sh("true").named("a").run_until("exited");
    host.sh("true").named("b").run_until("exited");
    host.call("Image.Tag", json!({"name": "busybox", "newName": "other"})).unwrap();
    let of = |parameters: Value| words(&events(&host, parameters));
    assert_eq!(of(json!({"types": ["image"], "sinceUSec": begin})), ["image tag"]);
    assert_eq!(
        of(json!({"names": ["b"], "actions": ["start", "exit"]})),
        ["container start", "container exit 0"]
    );
    assert_eq!(of(json!({"sinceUSec": now_usec()})), [""; 0]);
    assert_eq!(of(json!({"untilUSec": begin, "types": ["container"]})), [""; 0]);
    assert!(of(json!({"untilUSec": begin})).contains(&"image import".to_owned()));
    let cli = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address(), "events", "--no-stream", "--format", "jsonlines"])
        .args(["--filter", "container=b", "--filter", "event=exit"])
        .output()
        .unwrap();
    let lines = String::from_utf8(cli.stdout).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let event: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&event["name"], &event["exitCode"]), (&json!("b"), &json!(0)));
}

#[test]
fn a_stream_with_an_end_ends_there() {
    let Some(host) = Host::new() else { return };
    let until = now_usec() + 1_500_000;
    let mut connection = host.connect();
    let stream = connection
        .call_more("io.dormouse.Manager.Events", json!({"untilUSec": until, "types": ["container"]}), &[])
        .unwrap();
    host.sh("true").named("short").create();
    let replies: Vec<Value> = stream.map(|reply| reply.unwrap().parameters).collect();
    assert!(now_usec() >= until);
    let all: Vec<Value> =
        replies.iter().flat_map(|reply| reply["events"].as_array().unwrap().clone()).collect();
    assert_eq!(words(&all), ["container create"]);
}

#[test]
fn followers_see_a_burst_over_the_end_of_a_file_and_slow_ones_too() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().named("n".repeat(64).as_str()).run();
    let mut fast = host.connect();
    // Not only from now on: others may be served before this call is.
    let wanted = json!({"actions": ["kill"], "sinceUSec": now_usec()});
    let mut stream = fast.call_more("io.dormouse.Manager.Events", wanted, &[]).unwrap();
    // More than one file of 2 MiB holds, at 200 bytes and more each.
    const COUNT: usize = 12_000;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = host.connect();
                for _ in 0..COUNT / 4 {
                    let name = json!({"name": container.name, "signal": "SIGURG"});
                    connection.call("io.dormouse.Container.Kill", name, &[]).unwrap();
                }
            });
        }
        let mut seen = 0;
        while seen < COUNT {
            let reply = stream.next().unwrap().unwrap();
            seen += reply.parameters["events"].as_array().unwrap().len();
        }
        assert_eq!(seen, COUNT);
    });
    assert!(host.run_dir().join("events.log.1").exists());
    let kept = events(&host, json!({"actions": ["kill"]}));
    let middle = &kept[kept.len() / 2];
    let after = events(&host, json!({"actions": ["kill"], "afterCursor": middle["cursor"]}));
    assert_eq!(after.len(), kept.len() - kept.len() / 2 - 1);
    assert_eq!(after[0], kept[kept.len() / 2 + 1]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let Some(host) = Host::empty() else { return };
    let refused = |parameters: Value, field: &str| {
        let refusal = assert_refused(host.call("Manager.Events", parameters), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field);
    };
    refused(json!({"afterCursor": "nonsense"}), "afterCursor");
    refused(json!({"afterCursor": "1-1", "sinceUSec": 0}), "afterCursor");
    refused(json!({"types": ["weather"]}), "types");
    // Well formed, and of no file that there is.
    let lost = assert_refused(host.call("Manager.Events", json!({"afterCursor": "1-0"})), "CursorLost");
    assert!(lost.reason().contains("1-0"), "{lost:?}");
    let mut connection = host.connect();
    connection.set_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut stream = connection.call_more("io.dormouse.Manager.Events", json!({}), &[]).unwrap();
    assert!(
        matches!(stream.next().unwrap(), Err(error) if !matches!(error, ClientError::Service { .. })),
        "silence"
    );
}
