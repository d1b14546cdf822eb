//! A container whose first process is our reaper (`init`): the command is its child, and nobody has to care for zombies.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use common::{Host, Leaks, Plan, assert_refused, wait_until};
use serde_json::json;

fn with_init(plan: Plan<'_>) -> Plan<'_> {
    plan.with(json!({"init": true}))
}

#[test]
fn the_first_process_is_the_reaper_and_shows_nothing_of_the_host() {
    let Some(host) = Host::new() else { return };
    let script = "echo $$; tr -d '\\0' < /proc/1/cmdline; echo; cat /proc/1/comm; \
        ls /proc/1/fd | wc -l; readlink /proc/1/exe || echo no";
    assert_eq!(with_init(host.sh(script)).output(), "2\ninit\ninit\n0\nno\n");
}

#[test]
fn it_ends_as_its_program_ends() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        assert_eq!(with_init(host.sh(script)).finish().0, code, "{script}");
    }
    leaks.assert_none_after();
}

#[test]
fn orphans_are_reaped() {
    let Some(host) = Host::new() else { return };
    let script = "for n in 1 2 3 4 5; do (sleep 0 & exec true); done; usleep 100000; \
        for stat in /proc/[0-9]*/stat; do read -r line < $stat && case \"$line\" in *') Z '*) echo zombie;; esac; done; true";
    assert_eq!(with_init(host.sh(script)).output(), "");
}

#[test]
fn signals_reach_the_program_and_real_time_ones_too() {
    let Some(host) = Host::new() else { return };
    for (signal, code) in [("TERM", 11), ("HUP", 12), ("RTMIN+3", 13)] {
        let script = "trap 'exit 11' TERM; trap 'exit 12' HUP; trap 'exit 13' 37; echo ready; \
            while :; do sleep 1000 & wait $!; done";
        let container = with_init(host.sh(script)).run();
        wait_until("the traps are set", || container.log().concat().contains("ready"));
        container.kill(signal).unwrap();
        assert_eq!(container.exit_code(), Some(code), "{signal}");
    }
}

#[test]
fn a_program_that_cannot_be_run_is_told_as_without_it() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    assert_refused(with_init(host.command(&["missing"])).try_run(), "CommandNotFound");
    leaks.assert_none_after();
}

#[test]
fn the_program_has_the_terminal() {
    let Some(host) = Host::new() else { return };
    let script = "test -t 0 && ps -o pid,pgid,tty,args | grep -q 'ps -o' && echo fine > /dev/tty";
    let container = with_init(host.sh(script)).with(json!({"terminal": true})).run_until("exited");
    assert_eq!(container.reply["exitCode"], 0);
    assert!(container.log().concat().contains("fine"));
}

#[test]
fn the_user_is_the_one_that_was_asked_for() {
    let Some(host) = Host::new() else { return };
    let script = "id -u; grep -h ^Uid: /proc/1/status; kill -0 1 && echo same";
    let told = with_init(host.sh(script)).with(json!({"user": "1234"})).output();
    assert_eq!(told, "1234\nUid:\t1234\t1234\t1234\t1234\nsame\n");
}

#[test]
fn another_runtime_has_none() {
    let Some(host) = Host::new() else { return };
    let refusal = assert_refused(
        with_init(host.sh("exit")).with(json!({"runtime": "crun"})).try_create(),
        "InvalidSpec",
    );
    assert_eq!(refusal.parameters["field"], "spec.init");
}
