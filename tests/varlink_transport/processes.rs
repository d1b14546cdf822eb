//! Processes.

use crate::toy::*;

/// The server process of the tests below: serves what it was passed, or `TOY_LISTEN`.
#[test]
#[ignore = "not a test, but the server that other tests start"]
fn toy_server_process() {
    let Ok(idle_msec) = std::env::var("TOY_IDLE_MSEC") else { return };
    // SAFETY: the harness's main thread only waits for this one.
    let mut passed = unsafe { activation::from_environment_unchecked(activation::SERVE_NAMES) }.unwrap();
    for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        assert!(std::env::var_os(variable).is_none(), "{variable} is still there");
    }
    if let Ok(names) = std::env::var("TOY_OTHERS") {
        let others: Vec<_> = passed.others.iter().map(|other| other.name.as_str()).collect();
        assert_eq!(others.join(":"), names);
    }
    if let Ok(address) = std::env::var("TOY_LISTEN") {
        passed.listeners.push(Listener::bind(&address.parse().unwrap()).unwrap());
    }
    let idle_timeout =
        Some(Duration::from_millis(idle_msec.parse().unwrap())).filter(|limit| !limit.is_zero());
    let options = ServeOptions { idle_timeout, stop_grace: Duration::from_millis(300), ..Default::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(service(), passed.listeners, options)).unwrap();
}

/// A server process, started as systemd would.
struct Process {
    child: Child,
    notified: Option<(UnixDatagram, tempfile::TempDir)>,
}

impl Process {
    /// `socket` becomes descriptor 3, by way of stdin, so that nothing else inherits it.
    fn start(socket: Option<OwnedFd>, idle_msec: u64, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let notify_path = directory.path().join("notify");
        let notified = UnixDatagram::bind(&notify_path).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let passing = if socket.is_some() {
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=${LISTEN_FDS:-1}; "
        } else {
            ""
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{passing}exec \"$@\""), "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "processes::toy_server_process", "--ignored", "--nocapture"])
            .env("TOY_IDLE_MSEC", idle_msec.to_string())
            .env("NOTIFY_SOCKET", notify_path)
            .envs(variables.iter().copied())
            .stdin(socket.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), notified: Some((notified, directory)) }
    }

    fn next_notification(&self) -> String {
        let mut buffer = [0; 200];
        let length = self.notified.as_ref().unwrap().0.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn assert_exits_well(mut self) {
        let mut status = None;
        await_true(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listening() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy");
    let listener = UnixListener::bind(&path).unwrap();
    (directory, path, listener)
}

fn connect(path: &Path) -> Raw {
    Raw::new(UnixStream::connect(path).unwrap())
}

#[test]
fn a_passed_socket_is_served_and_kept_and_systemd_is_told() {
    let (_directory, path, listener) = listening();
    let mut client = connect(&path);
    client.send(echo("woken"));
    let server =
        Process::start(Some(listener.try_clone().unwrap().into()), 100, &[("LISTEN_FDNAMES", "varlink")]);
    assert_eq!(server.next_notification(), "READY=1");
    assert_eq!(client.reply()["parameters"]["text"], "woken");
    assert_eq!(server.next_notification(), "STOPPING=1");
    server.assert_exits_well();
    assert!(path.exists(), "a socket that was passed is not ours to unlink");
}

#[test]
fn a_passed_connection_is_served_to_its_end() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Process::start(Some(theirs.into()), 0, &[("LISTEN_FDNAMES", "connection")]);
    let mut client = Raw::new(ours);
    client.send(echo("one") + &echo("two"));
    assert_eq!(client.reply()["parameters"]["text"], "one");
    assert_eq!(client.reply()["parameters"]["text"], "two");
    drop(client);
    server.assert_exits_well();
}

#[test]
fn a_passed_socket_of_another_name_is_left_to_others() {
    let (_directory, path, other) = listening();
    let own = path.with_extension("own");
    let address = format!("unix:{}", own.display());
    let variables = [("LISTEN_FDNAMES", "http"), ("TOY_LISTEN", &address), ("TOY_OTHERS", "http")];
    let server = Process::start(Some(other.into()), 200, &variables);
    assert_eq!(server.next_notification(), "READY=1");
    let mut client = connect(&own);
    client.send(echo("served"));
    assert_eq!(client.reply()["parameters"]["text"], "served");
    server.assert_exits_well();
    assert!(!own.exists());
}

#[test]
fn names_that_do_not_fit_the_number_of_descriptors_are_refused() {
    let (_directory, _path, listener) = listening();
    let mut server = Process::start(Some(listener.into()), 100, &[("LISTEN_FDNAMES", "varlink:http")]);
    await_true(|| server.child.try_wait().unwrap().is_some_and(|status| !status.success()));
}

#[test]
fn no_call_is_lost_when_connections_race_with_the_idle_exit() {
    const IDLE_MSEC: u64 = 30;
    let (_directory, path, listener) = listening();
    let done = Arc::new(Mutex::new(false));
    let wakes = Arc::new(AtomicUsize::new(0));
    // What systemd does: start the service whenever something waits in the queue.
    let (until, counted) = (Arc::clone(&done), Arc::clone(&wakes));
    let supervisor = std::thread::spawn(move || {
        while !*until.lock().unwrap() {
            let mut polled = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            if rustix::event::poll(&mut polled, Some(&timeout)).unwrap() > 0 {
                counted.fetch_add(1, Ordering::SeqCst);
                Process::start(Some(listener.try_clone().unwrap().into()), IDLE_MSEC, &[])
                    .assert_exits_well();
            }
        }
    });
    for round in 0..60_u64 {
        let mut client = connect(&path);
        client.send(echo(&round.to_string()));
        assert_eq!(client.reply()["parameters"]["text"], round.to_string());
        // Around the moment at which the service decides to go.
        sleep(Duration::from_micros(IDLE_MSEC * 1000 - 1000 + round * 50));
    }
    *done.lock().unwrap() = true;
    supervisor.join().unwrap();
    let wakes = wakes.load(Ordering::SeqCst);
    assert!(wakes > 1, "the service never exited in between");
}

#[test]
fn an_old_connection_is_answered_or_refused_but_never_ignored_at_the_idle_exit() {
    const IDLE_MSEC: u64 = 30;
    let (mut answered, mut refused) = (0, 0);
    for round in 0..20_u64 {
        let server = Server::with(idle_after(IDLE_MSEC));
        let mut client = server.raw();
        client.send(echo("first"));
        client.reply();
        sleep(Duration::from_micros(IDLE_MSEC * 1000 - 1000 + round * 100));
        if client.0.write_all(echo("second").as_bytes()).is_err() {
            refused += 1;
        } else {
            assert_eq!(client.reply()["parameters"]["text"], "second");
            answered += 1;
        }
    }
    assert_eq!(answered + refused, 20);
}

#[test]
fn sigterm_finishes_what_was_ordered_and_ends_streams() {
    let directory = tempfile::tempdir().unwrap();
    let (path, finished) = (directory.path().join("toy"), directory.path().join("finished"));
    let address = format!("unix:{}", path.display());
    let variables = [("TOY_LISTEN", address.as_str()), ("TOY_FINISHED", finished.to_str().unwrap())];
    let server = Process::start(None, 0, &variables);
    assert_eq!(server.next_notification(), "READY=1");
    let mut stream = connect(&path);
    stream.send(flagged("Gate", json!({}), "more"));
    stream.reply();
    let (mut idle, mut worker, mut deserter, mut waiter) =
        (connect(&path), connect(&path), connect(&path), connect(&path));
    idle.send(echo("a"));
    idle.reply();
    waiter.send(message("Hang", json!({})));
    worker.send(message("Work", json!({ "msec": 800 })));
    deserter.send(message("Work", json!({ "msec": 1000 })));
    // All of them are running once a call that was made after them is answered.
    let mut last = connect(&path);
    last.send(echo("last"));
    last.reply();
    drop(deserter);

    server.terminate();
    assert_eq!(server.next_notification(), "STOPPING=1");
    assert_eq!(server.next_notification(), "EXTEND_TIMEOUT_USEC=20000000");
    assert!(stream.is_closed());
    assert!(idle.is_closed());
    assert!(UnixStream::connect(&path).is_err(), "nobody is accepted any more");
    assert_eq!(worker.reply(), json!({ "parameters": {} }), "ordered work is finished and answered");
    assert!(waiter.is_closed(), "who only waits is let go");
    server.assert_exits_well();
    assert!(finished.exists());
    assert!(!path.exists());
}

#[test]
fn sigterm_lets_a_quick_call_finish() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy");
    let server = Process::start(None, 0, &[("TOY_LISTEN", &format!("unix:{}", path.display()))]);
    assert_eq!(server.next_notification(), "READY=1");
    let mut client = connect(&path);
    client.send(message("Delay", json!({ "msec": 100 })));
    let mut last = connect(&path);
    last.send(echo("last"));
    last.reply();
    server.terminate();
    assert_eq!(client.reply(), json!({ "parameters": {} }));
    server.assert_exits_well();
}
