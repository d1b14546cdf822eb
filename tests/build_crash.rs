//! Builds that are given up, and builds whose service is killed: nothing half made is left, and nothing is told.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod build_support;
mod common;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Duration;

use build_support::{Context, client};
use common::{Host, Leaks, wait_until};
use dormouse::varlink::client::Connection;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Two stages that wait for ever, with everything that a step can hold.
const ENDLESS: &str = "FROM busybox AS a\nRUN --mount=type=bind,from=busybox,target=/b echo first; sleep 1000 & wait\n\
    FROM busybox AS b\nCOPY Containerfile /x\nRUN --mount=type=secret,id=s --mount=type=cache,target=/c,sharing=locked sleep 1000\n\
    FROM busybox\nCOPY --from=a /x /\nCOPY --from=b /x /\n";

/// Begins the build of [`ENDLESS`], and returns once both stages are at their last step.
fn begin(host: &Host, context: &Context) -> Connection {
    let directory = File::open(context.path()).unwrap();
    let secret = tempfile::tempfile().unwrap();
    let parameters = json!({"context": 0, "tags": ["it"], "secrets": [{"id": "s", "descriptor": 1}]});
    let mut connection = host.connect();
    let mut running = 0;
    let replies = connection
        .call_more("io.dormouse.Image.Build", parameters, &[directory.as_fd(), secret.as_fd()])
        .unwrap();
    for reply in replies {
        let step = reply.unwrap().parameters["step"].clone();
        let is_last = step["instruction"].as_str().is_some_and(|text| text.contains("sleep 1000"));
        running += usize::from(is_last && step["state"] == "running");
        if running == 2 {
            break;
        }
    }
    wait_until("both commands run", || {
        let containers = std::fs::read_dir(host.run_dir().join("containers")).unwrap();
        containers.flatten().filter(|entry| entry.path().join("state").exists()).count() >= 2
    });
    connection
}

#[track_caller]
fn nothing_is_told(host: &Host) {
    let images = host.call("Image.List", json!({})).unwrap();
    assert_eq!(images["images"].as_array().unwrap().len(), 1, "{images}");
    assert_eq!(host.names(), Vec::<String>::new());
}

#[test]
fn a_client_that_leaves_takes_its_build_along() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let context = Context::new(ENDLESS);
    let connection = begin(&host, &context);
    assert_eq!(host.names(), Vec::<String>::new(), "steps are nobody's containers");
    drop(connection);
    wait_until("the build is over", || {
        std::fs::read_dir(host.state_dir().join("builds")).unwrap().next().is_none()
    });
    nothing_is_told(&host);
    host.call("Image.Prune", json!({})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn ctrl_c_gives_a_build_up() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let context = Context::new("FROM busybox\nRUN sleep 1000\n");
    let mut build = client(&host)
        .args(["build", "--network", "none"])
        .arg(context.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the command runs", || {
        std::fs::read_dir(host.state_dir().join("containers")).unwrap().next().is_some()
    });
    kill(Pid::from_raw(i32::try_from(build.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(!build.wait().unwrap().success());
    wait_until("the build is over", || {
        std::fs::read_dir(host.state_dir().join("builds")).unwrap().next().is_none()
    });
    host.call("Image.Prune", json!({})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_service_that_is_killed_leaves_nothing_of_its_builds() {
    let Some(mut host) = Host::new() else { return };
    let calm = Leaks::before(&host).kept();
    let context = Context::new(ENDLESS);
    for pause_msec in [0, 30, 200, 500] {
        let connection = begin(&host, &context);
        drop(connection);
        std::thread::sleep(Duration::from_millis(pause_msec / 10));
        host.crash();
        host.wake();
        nothing_is_told(&host);
        wait_until("what the build left is gone", || {
            let gone = |dir: std::path::PathBuf| std::fs::read_dir(dir).unwrap().next().is_none();
            gone(host.state_dir().join("builds"))
                && gone(host.run_dir().join("builds"))
                && gone(host.state_dir().join("containers"))
        });
    }
    host.call("Image.Prune", json!({})).unwrap();
    Leaks::since(&host, calm).assert_none_after();
}

#[test]
fn a_service_that_is_killed_while_it_makes_layers_leaves_whole_ones_alone() {
    let Some(mut host) = Host::new() else { return };
    let calm = Leaks::before(&host).kept();
    let mut text = "FROM busybox\n".to_owned();
    for number in 0..4 {
        text.push_str(&format!("COPY --chmod=64{number} . /copy{number}\nRUN cp -r /bin /bin{number}\n"));
    }
    let context = Context::new(&text);
    for number in 0..100 {
        context.write(&format!("file-{number}"), &format!("{number}\n").repeat(100));
    }
    for round in 0..6_u64 {
        let directory = File::open(context.path()).unwrap();
        let address = host.address();
        let building = std::thread::spawn(move || {
            let mut connection = Connection::connect(&address).unwrap();
            let parameters = json!({"context": 0, "network": "none", "noCache": true, "tags": ["it"]});
            let _ = connection.call("io.dormouse.Image.Build", parameters, &[directory.as_fd()]);
        });
        std::thread::sleep(Duration::from_millis(100 + round * 170));
        host.crash();
        building.join().unwrap();
        host.wake();
        wait_until("what the build left is gone", || {
            let gone = |dir: &str| std::fs::read_dir(host.path().join(dir)).unwrap().next().is_none();
            gone("state/builds") && gone("run/builds") && gone("state/containers")
        });
    }
    // What the killed ones have finished is good enough for this one.
    let told = context.make(&host);
    assert_eq!(told.cached.len() + told.done.len(), 9);
    assert_eq!(
        build_support::in_image(&host, "it", "ls /copy3 | wc -l; cmp /bin/busybox /bin3/busybox"),
        "101\n"
    );
    // The container that looked removes itself a moment after its end.
    wait_until("the image is free", || host.call("Image.Remove", json!({"name": "it"})).is_ok());
    host.call("Image.Prune", json!({})).unwrap();
    Leaks::since(&host, calm).assert_none_after();
}
