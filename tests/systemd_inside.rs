//! The systemd inside a container, seen and ordered from outside; and what only claims to be one.
//!
//! `cargo xtask test` unpacks Debian trees, `NAME-systemd/` each, with cron. systemd-nspawn boots them here, because it is the
//! manager that systemd itself comes with.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::symlink, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dormouse::systemd::inside::{InsideError, JobKind, Manager, UnitFilter};

const TREES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/images/trees");
const PATIENCE: Duration = Duration::from_secs(60);

/// The trees, or none if this test cannot run here; it then says so.
fn trees() -> Vec<PathBuf> {
    let found: Vec<PathBuf> = fs::read_dir(TREES)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-systemd"))
        .collect();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return Vec::new();
    }
    if !Command::new("systemd-nspawn")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("SKIPPED: systemd-nspawn is missing (apt install systemd-container)");
        return Vec::new();
    }
    if found.is_empty() {
        eprintln!("SKIPPED: there are no trees in {TREES} (cargo xtask test unpacks them)");
    }
    found
}

/// A process with a tree as its root, in its own mount namespace; the tree itself stays as it is.
struct Payload {
    child: Child,
    leader: i32,
    pidfd: OwnedFd,
    work: tempfile::TempDir,
}

impl Payload {
    /// Runs a shell command that finds the root at `$ROOT`; `is_leader` tells the leader from its ancestors by name.
    fn run(tree: &Path, command: &str, leader_name: &str) -> Self {
        let work = tempfile::Builder::new().prefix("dormouse-test-").tempdir().unwrap();
        for name in ["upper", "work", "root"] {
            fs::create_dir(work.path().join(name)).unwrap();
        }
        let at = |name: &str| work.path().join(name).display().to_string();
        let units = work.path().join("upper/etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        for (name, text) in [
            ("broken", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 3'\n"),
            ("killed", "[Service]\nExecStart=/bin/sh -c 'kill -KILL $$$$'\n"),
            ("slow", "[Service]\nType=oneshot\nExecStart=/bin/sleep 600\n"),
            (
                "talks",
                "[Service]\nType=notify\nExecStart=/bin/sh -c 'systemd-notify --ready --status=hello; sleep 600'\nNotifyAccess=all\n",
            ),
        ] {
            fs::write(units.join(format!("{name}.service")), text).unwrap();
        }
        let script = format!(
            "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {root} && ROOT={root} && {command}",
            tree.display(),
            at("upper"),
            at("work"),
            root = at("root"),
        );
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let leader = wait_for(|| descendant(child.id().cast_signed(), leader_name));
        let pid = rustix::process::Pid::from_raw(leader).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        Self { child, leader, pidfd, work }
    }

    fn boot(tree: &Path) -> Self {
        let name = format!("dt{}-{}", std::process::id(), tree.file_name().unwrap().to_str().unwrap());
        let command = format!(
            "exec systemd-nspawn -q -D $ROOT --register=no --keep-unit --machine={name} --console=pipe --boot"
        );
        Self::run(tree, &command, "systemd")
    }

    fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{path}", self.leader))
    }

    async fn connect(&self) -> Result<Manager, InsideError> {
        Manager::connect(self.leader, self.pidfd.as_fd()).await
    }

    /// Connects when the boot is over.
    async fn booted(&self) -> Manager {
        let began = Instant::now();
        loop {
            let state = match self.connect().await {
                Ok(manager) => match manager.system_state().await {
                    Ok(state) if matches!(state.state.as_str(), "running" | "degraded") => return manager,
                    state => state,
                },
                Err(error) => Err(error),
            };
            assert!(began.elapsed() < PATIENCE, "it does not boot: {state:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        // nspawn, and the shell, end with their payload; what does not is killed.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        eprintln!("{:?} had to be killed", self.work.path());
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The process called `name` below `ancestor`, or that itself.
fn descendant(ancestor: i32, name: &str) -> Option<i32> {
    if fs::read_to_string(format!("/proc/{ancestor}/comm")).ok()?.trim() == name {
        return Some(ancestor);
    }
    let children = fs::read_to_string(format!("/proc/{ancestor}/task/{ancestor}/children")).ok()?;
    children.split_whitespace().find_map(|child| descendant(child.parse().ok()?, name))
}

/// Runs one asynchronous test.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_systemd_inside_is_seen_and_ordered_from_outside() {
    for tree in trees() {
        eprintln!("{}", tree.display());
        let payload = Payload::boot(&tree);
        run(async {
            let manager = payload.booted().await;
            the_system_and_its_units_are_seen(&manager).await;
            jobs_are_ordered_and_their_ends_awaited(&manager).await;
            jobs_that_fail_say_how(&manager).await;
            failed_units_are_seen_and_forgotten(&manager).await;
            many_orders_at_once_all_end(&payload).await;
        });
        run(async {
            let before = open_descriptors();
            for _ in 0..20 {
                payload.connect().await.unwrap().system_state().await.unwrap();
            }
            // The reader of a connection that was dropped ends when the runtime comes round to it.
            let began = Instant::now();
            while open_descriptors() > before && began.elapsed() < Duration::from_secs(5) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(open_descriptors(), before, "connections are left open");
        });
    }
}

async fn the_system_and_its_units_are_seen(manager: &Manager) {
    let state = manager.system_state().await.unwrap();
    assert!(state.version.starts_with("25"), "{state:?}");
    assert!(state.names > 50, "{state:?}");
    let all = manager.list_units(&UnitFilter::default()).await.unwrap();
    let cron = all.iter().find(|unit| unit.name == "cron.service").unwrap();
    assert_eq!((cron.active_state.as_str(), cron.sub_state.as_str()), ("active", "running"));
    assert_eq!(cron.job, None);
    assert!(all.is_sorted_by(|a, b| a.name <= b.name));
    let names = async |states: &[&str], patterns: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let filter = UnitFilter { states: owned(states), patterns: owned(patterns) };
        let units = manager.list_units(&filter).await.unwrap();
        units.into_iter().map(|unit| unit.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[], &["cron"]).await, ["cron.service"]);
    assert_eq!(names(&["running"], &["c?on.*"]).await, ["cron.service"]);
    assert_eq!(names(&["failed"], &["cron"]).await, Vec::<String>::new());
    let cron = manager.unit("cron").await.unwrap();
    assert!(cron.fragment_path.unwrap().ends_with("/systemd/system/cron.service"));
    assert!(cron.main_pid.is_some() && cron.active_enter_usec.is_some());
    assert_eq!(cron.result.as_deref(), Some("success"));
    assert_eq!(cron.unit_file_state.as_deref(), Some("enabled"));
    assert_eq!(manager.unit("multi-user.target").await.unwrap().main_pid, None);
    assert!(
        matches!(manager.unit("missing").await, Err(InsideError::NoSuchUnit { unit }) if unit == "missing.service")
    );
}

async fn jobs_are_ordered_and_their_ends_awaited(manager: &Manager) {
    let first = manager.unit("cron").await.unwrap().main_pid;
    manager.run_job(JobKind::Restart, "cron", PATIENCE).await.unwrap();
    let second = manager.unit("cron").await.unwrap().main_pid;
    assert!(first.is_some() && second.is_some() && first != second);
    manager.run_job(JobKind::Stop, "cron", PATIENCE).await.unwrap();
    let stopped = manager.unit("cron").await.unwrap();
    assert_eq!((stopped.info.active_state.as_str(), stopped.main_pid), ("inactive", None));
    assert!(stopped.inactive_enter_usec.is_some());
    manager.run_job(JobKind::Start, "cron", PATIENCE).await.unwrap();
    manager.run_job(JobKind::Start, "cron", PATIENCE).await.unwrap();
    assert_eq!(manager.unit("cron").await.unwrap().info.active_state, "active");
    manager.run_job(JobKind::Start, "talks", PATIENCE).await.unwrap();
    assert_eq!(manager.unit("talks").await.unwrap().status_text.as_deref(), Some("hello"));
}

async fn jobs_that_fail_say_how(manager: &Manager) {
    match manager.run_job(JobKind::Start, "broken", PATIENCE).await {
        Err(InsideError::JobFailed { unit, result }) => {
            assert_eq!((unit.as_str(), result.as_str()), ("broken.service", "failed"));
        }
        other => panic!("{other:?}"),
    }
    let broken = manager.unit("broken").await.unwrap();
    assert_eq!((broken.exit_code, broken.exit_signal), (Some(3), None));
    assert_eq!(broken.result.as_deref(), Some("exit-code"));
    match manager.run_job(JobKind::Start, "missing", PATIENCE).await {
        Err(InsideError::NoSuchUnit { unit }) => assert_eq!(unit, "missing.service"),
        other => panic!("{other:?}"),
    }
    match manager.run_job(JobKind::Reload, "cron", PATIENCE).await {
        Err(InsideError::Refused { error, reason, .. }) => {
            assert_eq!(error, "org.freedesktop.systemd1.JobTypeNotApplicable");
            assert!(reason.contains("cron.service"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let wait = Duration::from_millis(300);
    match manager.run_job(JobKind::Start, "slow", wait).await {
        Err(InsideError::JobTimeout { unit, waited }) => {
            assert_eq!((unit.as_str(), waited), ("slow.service", wait));
        }
        other => panic!("{other:?}"),
    }
    let slow = UnitFilter { patterns: vec!["slow".to_owned()], ..UnitFilter::default() };
    assert_eq!(manager.list_units(&slow).await.unwrap()[0].job.as_deref(), Some("start"));
    manager.run_job(JobKind::Stop, "slow", PATIENCE).await.unwrap();
}

async fn failed_units_are_seen_and_forgotten(manager: &Manager) {
    manager.reset_failed(None).await.unwrap();
    let _ = manager.run_job(JobKind::Start, "broken", PATIENCE).await;
    let _ = manager.run_job(JobKind::Start, "killed", PATIENCE).await;
    let failed = UnitFilter { states: vec!["failed".to_owned()], ..UnitFilter::default() };
    let began = Instant::now();
    while manager.list_units(&failed).await.unwrap().len() < 2 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(manager.unit("killed").await.unwrap().exit_signal, Some(9));
    let state = manager.system_state().await.unwrap();
    assert_eq!((state.state.as_str(), state.failed_units), ("degraded", 2));
    manager.reset_failed(Some("broken")).await.unwrap();
    assert_eq!(manager.list_units(&failed).await.unwrap()[0].name, "killed.service");
    manager.reset_failed(None).await.unwrap();
    assert_eq!(manager.system_state().await.unwrap().state, "running");
}

async fn many_orders_at_once_all_end(payload: &Payload) {
    let jobs = (0..20).map(async |number: u32| {
        let manager = payload.connect().await.unwrap();
        let kind = if number.is_multiple_of(2) { JobKind::Start } else { JobKind::Restart };
        let unit = ["cron", "talks", "systemd-journald", "dbus.socket"][number as usize % 4];
        manager.run_job(kind, unit, PATIENCE).await
    });
    for job in join(jobs.collect()).await {
        // Orders for one unit can cancel one another; none may hang.
        assert!(matches!(job, Ok(()) | Err(InsideError::JobFailed { .. })), "{job:?}");
    }
}

/// Awaits all of some futures.
async fn join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    results.into_iter().map(Option::unwrap).collect()
}

#[test]
fn what_is_not_pid_1_of_the_container_is_not_talked_to() {
    let Some(tree) = trees().into_iter().next() else { return };
    // A payload that is no systemd at all.
    let payload = Payload::run(&tree, "exec chroot $ROOT sleep 600", "sleep");
    let private = payload.inside("run/systemd/private");
    fs::create_dir_all(private.parent().unwrap()).unwrap();
    let outside = tempfile::tempdir().unwrap();
    let outside_socket = outside.path().join("socket");
    let _listener = UnixListener::bind(&outside_socket).unwrap();
    let nothing = |result: Result<Manager, InsideError>, expected: &str| match result {
        Err(InsideError::NotSystemd { reason }) => assert_eq!(reason, expected),
        other => panic!("{expected}: {other:?}"),
    };
    run(async {
        nothing(payload.connect().await, "it does not exist");
        fs::write(&private, "").unwrap();
        nothing(payload.connect().await, "it is not a socket");
        for target in [outside_socket.as_os_str(), OsStr::new("/proc/1/root/run"), OsStr::new("private")] {
            fs::remove_file(&private).unwrap();
            symlink(target, &private).unwrap();
            nothing(payload.connect().await, "it is not a socket");
        }
        fs::remove_file(&private).unwrap();
        let impostor = UnixListener::bind(&private).unwrap();
        nothing(payload.connect().await, "another process than PID 1 listens");
        drop(impostor);
        nothing(payload.connect().await, "nobody listens");
        // A directory that leads out: inside, it leads nowhere.
        fs::rename(payload.inside("run/systemd"), payload.inside("run/was")).unwrap();
        symlink(outside.path(), payload.inside("run/systemd")).unwrap();
        fs::rename(&outside_socket, outside.path().join("private")).unwrap();
        nothing(payload.connect().await, "it does not exist");
    });
}

#[test]
fn a_payload_that_has_ended_is_not_running() {
    let Some(tree) = trees().into_iter().next() else { return };
    let payload = Payload::run(&tree, "exec chroot $ROOT sleep 600", "sleep");
    rustix::process::pidfd_send_signal(&payload.pidfd, rustix::process::Signal::KILL).unwrap();
    wait_for(|| {
        let mut poll = [rustix::event::PollFd::new(&payload.pidfd, rustix::event::PollFlags::IN)];
        (rustix::event::poll(&mut poll, Some(&Default::default())).unwrap() == 1).then_some(())
    });
    run(async {
        assert!(matches!(payload.connect().await, Err(InsideError::NotRunning)));
        // Its number may be somebody else's by now: here, this process's.
        let own = std::process::id().cast_signed();
        let result = Manager::connect(own, payload.pidfd.as_fd()).await;
        assert!(matches!(result, Err(InsideError::NotRunning)));
    });
}

/// A payload whose PID 1 (as far as we can tell) listens, and says what the given Perl code says.
fn impostor(tree: &Path, code: &str) -> Payload {
    let program = format!(
        "use Socket; mkdir q(/run/systemd); socket(S, AF_UNIX, SOCK_STREAM, 0); \
         bind(S, pack_sockaddr_un(q(/run/systemd/private))) or die; listen(S, 5); $0 = q(imposes); \
         while (accept(C, S)) {{ C->autoflush(1); {code} }} sleep 600;"
    );
    // Perl reads a program that is an argument through /dev/null, which the trees do not have.
    let command = format!(
        "mkdir -p $ROOT/dev && : > $ROOT/dev/null && exec chroot $ROOT perl -MIO::Handle -e '{program}'"
    );
    let payload = Payload::run(tree, &command, "imposes");
    assert!(payload.inside("run/systemd/private").exists());
    payload
}

#[test]
fn a_payload_that_answers_nonsense_costs_time_and_memory_only_within_bounds() {
    let Some(tree) = trees().into_iter().next() else { return };
    let accept =
        "sysread(C, $x, 1000); print C qq(OK 0123456789abcdef0123456789abcdef\\r\\n); sysread(C, $x, 1000);";
    // A method reply of 100 MiB is announced, and then endless zeros come.
    let huge =
        "print C pack(q(a4 V V V), qq(l\\2\\0\\1), 100 << 20, 1, 16); print C qq(\\0) x 65536 while 1;";
    let junk = "print C qq(x) x 65536 while 1;";
    for (what, code, seconds) in [
        ("silence", "sleep 600;".to_owned(), 13),
        ("no greeting", "print C qq(x) x 65536 while 1;".to_owned(), 13),
        ("an endless line", "print C qq(x) while 1;".to_owned(), 13),
        ("the end at once", "close C;".to_owned(), 3),
        ("a greeting and then silence", format!("{accept} sleep 600;"), 13),
        ("a greeting and then junk", format!("{accept} {junk}"), 13),
        ("a message that is too large", format!("{accept} {huge}"), 13),
        ("a greeting and then the end", format!("{accept} close C;"), 13),
    ] {
        let payload = impostor(&tree, &code);
        let began = Instant::now();
        run(async {
            let result = match payload.connect().await {
                Ok(manager) => manager.system_state().await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert!(
                matches!(
                    result,
                    Err(InsideError::Timeout { .. }
                        | InsideError::Unreachable { .. }
                        | InsideError::Protocol { .. })
                ),
                "{what}: {result:?}"
            );
        });
        assert!(began.elapsed() < Duration::from_secs(seconds), "{what}: {:?}", began.elapsed());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let peak_kib: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 300 << 10, "{peak}");
}
