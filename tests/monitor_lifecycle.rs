//! What a monitor tells about the start and the end of its container.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod monitor_support;

use std::fs;
use std::time::Duration;

use dormouse::monitor::config::RestartPolicy;
use dormouse::monitor::state::{Phase, ProcessRef};
use monitor_support::*;

#[test]
fn the_answer_comes_when_the_program_runs_and_the_state_says_so() {
    if !can_run() {
        return;
    }
    let container = shell("sleep 1000").start();
    let state = container.state();
    assert_eq!(state.phase, Phase::Running);
    assert!(state.init.unwrap().is_alive());
    assert!(state.monitor.is_alive());
    assert!(state.ready, "without a notify socket, running is ready");
    assert_eq!(state.exit_code, None);
    assert_eq!(state.restarts, 0);
    let command = fs::read_to_string(format!("/proc/{}/cmdline", state.init.unwrap().pid)).unwrap();
    // The shell may still be on its way to become the other program.
    assert!(command.contains("sleep\x001000") || command.contains("sleep 1000"), "{command:?}");
}

#[test]
fn exit_codes_are_exact() {
    if !can_run() {
        return;
    }
    for code in [0, 1, 42, 255] {
        let mut container = shell(&format!("exit {code}")).start();
        let state = container.until_exited();
        assert_eq!((state.exit_code, state.exit_signal), (Some(code), None));
        assert_eq!(state.init, None);
        assert!(state.finished_at_usec >= state.started_at_usec);
        container.until_monitor_left();
        assert_eq!(container.events(), ["start".to_owned(), format!("exit {code}")]);
    }
}

#[test]
fn signals_are_exact_real_time_ones_too() {
    if !can_run() {
        return;
    }
    // Init of a pid namespace has only the signals that it does not handle and that come from outside: KILL.
    let container = shell("sleep 1000").start();
    container.kill(libc::SIGKILL);
    let state = container.until_exited();
    assert_eq!((state.exit_code, state.exit_signal), (Some(137), Some(9)));
    assert!(!state.oom_killed);
    // In the host's pid namespace every signal does what it does.
    for signal in [libc::SIGTERM, libc::SIGRTMIN() + 3] {
        let mut container = shell("exec sleep 1000");
        container.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        let container = container.start();
        container.kill(signal);
        let state = container.until_exited();
        assert_eq!((state.exit_code, state.exit_signal), (Some(128 + signal), Some(signal)));
    }
}

#[test]
fn what_a_dead_payload_leaves_in_the_hosts_pid_namespace_is_ended_with_it() {
    if !can_run() {
        return;
    }
    let mut container = shell("sleep 1000 & echo $!; exit 3");
    container.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let container = container.start();
    let state = container.until_exited();
    assert_eq!(state.exit_code, Some(3));
    let log = container.log();
    let pid: i32 = log.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(!ProcessRef::of(pid).is_some_and(|process| process.is_alive()));
    assert_eq!(container.cgroup_directories(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_failed_start_names_its_step_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let (mut container, answer) = command(&["/bin/no-such-program"]).try_start();
    let fields: Vec<&str> = answer.trim_end().split('\t').collect();
    let [failed, step, errno, message] = *fields else { panic!("{answer:?}") };
    assert_eq!(failed, "failed");
    if std::env::var_os("MONITOR_TEST_RUNTIME").is_none() {
        assert_eq!((step, errno), ("exec", "2"));
    }
    assert!(message.contains("/bin/no-such-program"), "{message}");
    container.until_monitor_left();
    let state = container.state();
    assert_eq!(state.phase, Phase::Failed);
    assert_eq!(state.error.as_deref(), Some(message));
    assert_eq!(container.cgroup_directories(), Vec::<std::path::PathBuf>::new());
    let mut left: Vec<_> =
        fs::read_dir(&container.run_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.json", "monitor.json", "state"]);
    assert_eq!(container.events(), Vec::<String>::new());
}

#[test]
fn a_configuration_that_is_none_is_answered_and_not_run() {
    if !can_run() {
        return;
    }
    let mut container = shell("true");
    container.spec = serde_json::json!("nonsense");
    let (_, answer) = container.try_start();
    assert!(
        answer.starts_with("failed\tconfig\t0\t\"") || answer.starts_with("failed\tconfig\t0\t"),
        "{answer}"
    );
    assert!(answer.contains("config.json"), "{answer}");
}

#[test]
fn a_failing_payload_is_restarted_with_growing_pauses_up_to_its_limit() {
    if !can_run() {
        return;
    }
    let mut container = shell("exit 7").restarting(RestartPolicy::OnFailure { retries_max: Some(2) }).start();
    container.until_monitor_left();
    let state = container.state();
    assert_eq!((state.phase, state.exit_code, state.restarts), (Phase::Exited, Some(7), 2));
    assert_eq!(
        container.events(),
        ["start", "exit 7", "restart 7", "start", "exit 7", "restart 7", "start", "exit 7"]
    );
    let times: Vec<u64> = fs::read_to_string(container.directory().join("events.log"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["time"].as_u64().unwrap())
        .collect();
    let pause = |from: usize| Duration::from_micros(times[from + 1] - times[from]);
    assert!(pause(1) >= Duration::from_millis(99), "{:?}", pause(1));
    assert!(pause(4) >= Duration::from_millis(199), "{:?}", pause(4));
}

#[test]
fn a_stop_request_ends_restarts_at_once_even_during_a_pause() {
    if !can_run() {
        return;
    }
    let mut container = shell("exit 1").restarting(RestartPolicy::Always).start();
    let waiting =
        container.until("a long pause", |state| state.restarts >= 3 && state.restart_at_usec.is_some());
    assert_eq!((waiting.phase, waiting.exit_code), (Phase::Starting, Some(1)));
    fs::write(container.run_dir.join("stop-requested"), "").unwrap();
    let state = container.until_exited();
    assert_eq!((state.exit_code, state.restart_at_usec), (Some(1), None));
    assert!(state.restarts <= 4);
    container.until_monitor_left();
}

#[test]
fn a_payload_that_was_asked_to_stop_is_not_restarted() {
    if !can_run() {
        return;
    }
    let mut container = shell("sleep 1000").restarting(RestartPolicy::Always).start();
    fs::write(container.run_dir.join("stop-requested"), "").unwrap();
    container.kill(libc::SIGKILL);
    let state = container.until_exited();
    assert_eq!((state.exit_code, state.restarts), (Some(137), 0));
    container.until_monitor_left();
}

#[test]
fn a_reboot_inside_restarts_and_a_power_off_is_a_clean_exit() {
    if !can_run() {
        return;
    }
    let script =
        "if [ -e /rebooted ]; then exec busybox poweroff -f; else >/rebooted; exec busybox reboot -f; fi";
    let mut container = shell(script).in_systemd_mode();
    container.spec["process"]["capabilities"] = serde_json::json!({
        "bounding": ["CAP_SYS_BOOT"], "effective": ["CAP_SYS_BOOT"], "permitted": ["CAP_SYS_BOOT"]
    });
    let mut container = container.start();
    container.until_monitor_left();
    let state = container.state();
    assert_eq!((state.exit_code, state.exit_signal, state.restarts), (Some(0), Some(libc::SIGINT), 1));
}

#[test]
fn running_out_of_memory_is_noticed() {
    if !can_run() {
        return;
    }
    // tail keeps what has no line end in memory.
    let mut container = shell("exec tail /dev/zero").with_memory(32 << 20);
    container.spec["mounts"].as_array_mut().unwrap().push(serde_json::json!(
        {"destination": "/dev/zero", "type": "bind", "source": "/dev/zero", "options": ["bind"]}
    ));
    let mut container = container.start();
    let state = container.until_exited();
    assert_eq!((state.exit_code, state.oom_killed), (Some(137), true));
    container.until_monitor_left();
    assert_eq!(container.events(), ["start", "oom", "exit 137"]);
}

#[test]
fn the_clean_up_command_runs_in_the_monitors_place_after_the_last_exit() {
    if !can_run() {
        return;
    }
    let mut container = shell("exit 1").restarting(RestartPolicy::OnFailure { retries_max: Some(1) });
    let mark = container.directory().join("cleaned");
    container.config.auto_remove = true;
    container.config.cleanup_command =
        vec!["/bin/sh".into(), "-c".into(), format!("echo $PPID $$ >> {}", mark.display())];
    let mut container = container.start();
    let monitor = container.monitor.id();
    container.until_monitor_left();
    let text = fs::read_to_string(&mark).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(text.trim(), format!("{} {monitor}", std::process::id()));
}

#[test]
fn orphans_that_fall_to_the_monitor_are_reaped() {
    if !can_run() {
        return;
    }
    let container = shell("sleep 1000").start();
    let monitor = container.monitor.id();
    // A process of the host's pid namespace whose parent dies goes to the nearest subreaper only below the monitor, so
    // the launcher is the test: it was a child, and no zombie of it is left.
    let init = container.init().pid;
    wait_for("the launcher's end", || (children(monitor) == [init]).then_some(()));
}

fn children(pid: u32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn a_monitor_holds_nothing_of_where_it_was_started_from() {
    if !can_run() {
        return;
    }
    let container = shell("sleep 1000").start();
    let pid = container.monitor.id();
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(link("cwd"), std::path::Path::new("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(fd), std::path::Path::new("/dev/null"));
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own");
    assert_eq!(fields[4], "0", "no controlling terminal");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    assert_eq!(threads, 1);
    // stdin, stdout, stderr; lock, attach socket, signals, log; pidfd and two pipes. While it works there may be one more.
    let fds = || -> Vec<_> {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|fd| fs::read_link(fd.unwrap().path()).unwrap_or_default())
            .collect()
    };
    wait_for("nothing but its own descriptors", || (fds().len() == 10).then_some(()));
}

#[test]
fn a_monitor_that_sleeps_has_little_memory_of_its_own() {
    if !can_run() {
        return;
    }
    let container = shell("sleep 1000").start();
    let own_kib = || -> u64 {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", container.monitor.id())).unwrap();
        let mut counted = false;
        let mut sum = 0;
        for line in smaps.lines() {
            if let Some(size) = line.strip_prefix("Private_Dirty:") {
                sum += if counted { size.trim().split(' ').next().unwrap().parse().unwrap() } else { 0 };
            } else if !line.split(' ').next().unwrap().ends_with(':') {
                counted = line.ends_with("[heap]") || line.ends_with("[stack]");
            }
        }
        sum
    };
    // What parsing a spec takes is several times as much; where in the heap the few things lie that stay differs by some pages.
    wait_for("the monitor to be small", || (own_kib() <= 96).then_some(()));
}
