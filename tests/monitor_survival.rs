//! What lives on when a monitor dies, and what a payload tells through its monitor.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod monitor_support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dormouse::monitor::state::Phase;
use monitor_support::*;

#[test]
fn a_payload_that_writes_to_pipes_outlives_its_killed_monitor() {
    if !can_run() {
        return;
    }
    let mut container = shell("n=0; while sleep .02; do n=$((n+1)); echo $n; echo $n >/count; done").start();
    container.until_logged("stdout F 2\n");
    container.kill_monitor();
    let init = container.init();
    let count = container.directory().join("root/count");
    let now = || fs::read_to_string(&count).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let before = wait_for("a count", now);
    wait_for("the count to go on", || now().filter(|now| *now > before + 20));
    assert!(init.is_alive());
    let state = container.state();
    assert_eq!(state.phase, Phase::Running);
    assert!(!state.monitor.is_alive(), "the state tells that nobody supervises it");
}

#[test]
fn a_payload_on_a_terminal_outlives_its_killed_monitor() {
    if !can_run() {
        return;
    }
    let mut container =
        shell("n=0; while sleep .02; do n=$((n+1)); echo $n >/count; [ $n -gt 50 ] || echo $n; done")
            .with_terminal()
            .start();
    container.until_logged("stdout F 2\r\n");
    let keeper = container.state().keeper.unwrap();
    assert!(keeper.is_alive());
    container.kill_monitor();
    let count = container.directory().join("root/count");
    let now = || fs::read_to_string(&count).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let before = wait_for("a count", now);
    wait_for("the count to go on", || now().filter(|now| *now > before + 20));
    assert!(container.init().is_alive());
    // The keeper ends with the payload.
    container.kill(libc::SIGKILL);
    wait_for("the keeper's end", || (!keeper.is_alive()).then_some(()));
}

#[test]
fn a_keeper_ends_with_its_payload_and_leaves_no_zombie() {
    if !can_run() {
        return;
    }
    let mut container = shell("exit 3").with_terminal().start();
    container.until_monitor_left();
    let state = container.state();
    assert_eq!((state.exit_code, state.keeper), (Some(3), None));
}

#[test]
fn readiness_comes_through_the_notify_socket() {
    if !can_run() {
        return;
    }
    // busybox has no client for datagram sockets; the host's side of the bind is the same socket.
    let container = shell("sleep 1000").with_notify().start();
    assert!(!container.state().ready);
    let socket = container.run_dir.join("notify/notify.sock");
    let inside = format!("/proc/{}/root/run/host/notify/notify.sock", container.init().pid);
    assert!(fs::exists(inside).unwrap(), "the payload sees it");
    let payload = UnixDatagram::unbound().unwrap();
    payload.connect(socket).unwrap();
    payload.send(b"STATUS=Starting things\nX_SYSTEMD_UNIT_ACTIVE=x\n").unwrap();
    let state = container.until("the status", |state| state.status_text.is_some());
    assert_eq!(state.status_text.as_deref(), Some("Starting things"));
    assert!(!state.ready);
    payload.send(b"READY=1\nSTATUS=Up").unwrap();
    let state = container.until("readiness", |state| state.ready);
    assert!(state.ready_at_usec >= state.started_at_usec);
    container.until("the status", |state| state.status_text.as_deref() == Some("Up"));
    wait_for("the event", || (container.events() == ["start", "ready"]).then_some(()));
    payload.send(b"STOPPING=1").unwrap();
    container.until("stopping", |state| state.stopping);
}

/// The socket of a service manager that waits for readiness, and its path, in this directory.
fn service_manager(directory: &Path) -> (UnixDatagram, PathBuf) {
    let path = directory.join("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    (manager, path)
}

#[test]
fn readiness_is_passed_on_to_the_one_who_asked_for_it() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (manager, path) = service_manager(directory.path());
    let container =
        shell("sleep 1000").with_notify().in_environment("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    let payload = UnixDatagram::unbound().unwrap();
    payload.connect(container.run_dir.join("notify/notify.sock")).unwrap();
    payload.send(b"FDSTORE=1\nREADY=1\nMAINPID=1\nSTATUS=Up").unwrap();
    let mut buffer = [0; 100];
    let length = manager.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1\nSTATUS=Up\n");
}

#[test]
fn a_payload_that_floods_its_notify_socket_is_still_supervised() {
    if !can_run() {
        return;
    }
    let container = shell("sleep 1000").with_notify().start();
    let payload = UnixDatagram::unbound().unwrap();
    payload.connect(container.run_dir.join("notify/notify.sock")).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut number = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                number += 1;
                if payload.send(format!("STATUS={number} {}", "x".repeat(2000)).as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    let state = container.until("a status", |state| state.status_text.is_some());
    assert!(state.status_text.unwrap().len() <= 512);
    container.kill(libc::SIGKILL);
    assert_eq!(container.until_exited().exit_code, Some(137));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(container);
    flood.join().unwrap();
}

#[test]
fn of_a_flood_of_statuses_a_few_are_passed_on_and_the_last_one() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (manager, path) = service_manager(directory.path());
    // logger(1) sends datagrams too, and what follows the line end is ours.
    let script = "busybox ln -s /run/host/notify/notify.sock /dev/log; say() { busybox logger \"x
$1\"; }; flood() { i=$1; while [ $i -lt $2 ]; do i=$((i+1)); say STATUS=$i; done; }
flood 0 1000; say READY=1; flood 1000 2000; while [ ! -e /go ]; do sleep .1; done
flood 2000 2500; say STOPPING=1; flood 2500 3000; say STATUS=bye";
    let began = Instant::now();
    let container =
        shell(script).with_notify().in_environment("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    let mut statuses = 0;
    let mut hear_until = |last: &str| {
        let mut states = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            let length = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            for line in text.lines() {
                match line.strip_prefix("STATUS=") {
                    Some(_) => statuses += 1,
                    None => states.push(line.to_owned()),
                }
            }
            if text.ends_with(&format!("{last}\n")) {
                return states;
            }
        }
    };
    // While it does nothing, the last one comes all the same.
    assert_eq!(hear_until("STATUS=2000"), ["READY=1"]);
    let state = container.until("the status", |state| state.status_text.as_deref() == Some("2000"));
    assert!(state.ready);
    fs::write(container.directory().join("root/go"), "").unwrap();
    // So does that of one that has ended.
    assert_eq!(hear_until("STATUS=bye"), ["STOPPING=1"]);
    let took = began.elapsed();
    assert_eq!(container.until_exited().status_text.as_deref(), Some("bye"));
    // Four a second, with the state lines, and the last ones of both floods.
    let most = 4 * took.as_secs() + 8;
    assert!(statuses <= most, "{statuses} in {took:?}");
}

#[test]
fn external_runtimes_make_the_same_container_and_leave_nothing() {
    if !can_run() {
        return;
    }
    for program in ["crun", "runc"] {
        if std::process::Command::new(program).arg("--version").output().is_err() {
            eprintln!("SKIPPED: {program} is not installed");
            continue;
        }
        // An overlay cannot lie on an overlay: a tmpfs takes the changes.
        let mut container = shell("echo hello >/new; cat /new; exit 6").over(program);
        let changes = container.directory().join("changes");
        fs::create_dir(&changes).unwrap();
        rustix::mount::mount(
            c"tmpfs",
            &changes,
            c"tmpfs",
            rustix::mount::MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .unwrap();
        for name in ["upper", "work"] {
            fs::create_dir(changes.join(name)).unwrap();
        }
        container.config.rootfs = dormouse::runtime::Rootfs::Overlay {
            lower: vec![container.rootfs()],
            upper: changes.join("upper"),
            work: changes.join("work"),
            driver: dormouse::runtime::overlay::Driver::Kernel,
        };
        let mut container = container.start();
        let state = container.until_exited();
        container.until_monitor_left();
        let new = fs::read_to_string(changes.join("upper/new"));
        rustix::mount::unmount(&changes, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!((state.exit_code, new.unwrap().as_str()), (Some(6), "hello\n"), "{program}");
        assert_eq!(container.log(), "stdout F hello\n");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(container.run_dir.to_str().unwrap()), "{program} leaves a mount");
        let mut left: Vec<_> =
            fs::read_dir(&container.run_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["config.json", "monitor.json", "state"]);
        assert_eq!(container.cgroup_directories(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn an_external_runtimes_terminal_is_the_monitors() {
    if !can_run() {
        return;
    }
    let container = shell("tty; exit 2").with_terminal().over("crun").start();
    assert_eq!(container.until_exited().exit_code, Some(2));
    assert_eq!(container.log(), "stdout F /dev/pts/0\r\n");
}

#[test]
fn an_external_runtimes_refusal_is_told_in_its_words() {
    if !can_run() {
        return;
    }
    let (_running, answer) = command(&["/no/such/program"]).over("crun").try_start();
    assert!(answer.starts_with("failed\tcreate\t0\t\"crun\" cannot create the container: "), "{answer}");
    assert!(answer.contains("/no/such/program"), "{answer}");
    let (_running, answer) = shell("true").over("/no/such/runtime").try_start();
    assert!(
        answer.starts_with("failed\truntime\t2\tcannot run the runtime \"/no/such/runtime\""),
        "{answer}"
    );
}

#[test]
fn a_new_monitor_takes_over_with_no_output_lost_and_learns_the_exit_code() {
    if !can_run() {
        return;
    }
    let script =
        "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo $n; echo $n >/count; sleep .01; done; exit 19";
    for terminal in [false, true] {
        let mut container = shell(script);
        if terminal {
            container = container.with_terminal();
        }
        let mut container = container.start();
        container.until_logged("stdout F 5");
        container.kill_monitor();
        let count = container.directory().join("root/count");
        wait_for("output that waits", || {
            fs::read_to_string(&count).ok()?.trim().parse::<u32>().ok().filter(|count| *count > 50)
        });
        assert_eq!(container.adopt(), "started\n");
        assert!(container.state().monitor.is_alive());
        let state = container.until_exited();
        assert_eq!((state.exit_code, state.exit_signal, state.restarts), (Some(19), None, 0));
        let end = if terminal { "\r\n" } else { "\n" };
        let expected: String = (1..=300).map(|n| format!("stdout F {n}{end}")).collect();
        assert_eq!(container.log(), expected, "with a terminal: {terminal}");
        container.until_monitor_left();
        assert_eq!(container.events(), ["start", "exit 19"]);
    }
}

#[test]
fn a_new_monitor_learns_the_signal_and_restarts_as_the_old_one_would_have() {
    if !can_run() {
        return;
    }
    let mut container =
        shell("sleep 1000").restarting(dormouse::monitor::config::RestartPolicy::Always).start();
    container.kill_monitor();
    assert_eq!(container.adopt(), "started\n");
    container.kill(libc::SIGKILL);
    let state = container.until("the restart", |state| state.restarts == 1 && state.phase == Phase::Running);
    assert!(state.init.unwrap().is_alive());
    assert_eq!(container.events()[..2], ["start", "exit 137"]);
}

#[test]
fn a_container_that_ended_unwatched_is_put_in_order_by_a_new_monitor() {
    if !can_run() {
        return;
    }
    let mut container = shell("sleep 1000").start();
    container.kill_monitor();
    let init = container.init();
    container.kill(libc::SIGKILL);
    wait_for("its end", || (!init.is_alive()).then_some(()));
    assert_eq!(container.adopt(), "started\n");
    let state = container.until_exited();
    assert_eq!((state.phase, state.exit_code), (Phase::Exited, None));
    assert_eq!(container.cgroup_directories(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_container_has_one_monitor() {
    if !can_run() {
        return;
    }
    let mut container = shell("sleep 1000").start();
    assert_eq!(
        container.adopt(),
        format!("failed\tlock\t{}\tanother monitor supervises this container\n", libc::EWOULDBLOCK)
    );
    assert!(container.state().monitor.is_alive());
}
