//! What happens to a payload between its start and its last end; the loop itself is in [`turn`].

mod turn;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::turn::{NOTIFICATIONS_AT_END, Until};
use super::attach::{Clients, Streams};
use super::config::{MonitorConfig, OnFailure, RuntimeChoice, STOP_REQUESTED};
use super::events::{Action, Events};
use super::health::{Checks, Verdict};
use super::launch::{self, Failure};
use super::log::{Log, Stream};
use super::notify::Notifier;
use super::oom::OomWatch;
use super::payload::Payload;
use super::restart::{Outcome, Restarts};
use super::state::{Health, Phase, ProcessRef, RunState};
use super::{adopt, external, spawn, sys};
use crate::runtime::Cgroup;

/// How much output is read at a time. It is touched memory for the container's whole life, so it is small.
const BUFFER_BYTES: usize = 16 * 1024;
/// A payload that lives this long is worth the time that making the monitor small takes.
const SHRINK_AFTER_START: Duration = Duration::from_millis(250);
/// A state that could not be written is tried again after this.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// The code that clients get if the payload's own is unknown.
const UNKNOWN_CODE: i32 = 255;

/// Supervises one container.
#[derive(Debug)]
pub struct Supervisor {
    run_dir: PathBuf,
    config: MonitorConfig,
    state: RunState,
    events: Events,
    log: Log,
    clients: Clients,
    notifier: Option<Notifier>,
    signals: SignalFd,
    /// What the payload gets as descriptors 3, 4, …
    sockets: Vec<OwnedFd>,
    /// Held for as long as this process lives: one monitor per container.
    _lock: OwnedFd,
    /// What is held for the container between its first start and its last end, and used for nothing: closed before the end
    /// is told.
    held: Vec<OwnedFd>,
    /// The payload is no child of this process.
    adopted: bool,
    payload: Option<Payload>,
    outcome: Option<Outcome>,
    checks: Option<Box<Checks>>,
    oom: Option<OomWatch>,
    /// The payload was asked to end because it is unhealthy: when it is killed, and whether it is started again.
    ending: Option<(Instant, bool)>,
    /// SIGTERM came: no more restarts.
    terminated: bool,
    stop_watch: Option<OwnedFd>,
    store_at: Option<Instant>,
    shrink_at: Option<Instant>,
    started: Instant,
    buffer: Vec<u8>,
}

/// Microseconds of CLOCK_REALTIME.
pub(super) fn now_usec() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Supervisor {
    /// Makes the sockets, the log and the first state.
    ///
    /// # Errors
    /// A [`Failure`] to be reported to the one who waits; the container is not started then.
    pub fn new(
        run_dir: &Path,
        config: MonitorConfig,
        first_client: Option<Streams>,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, Failure> {
        let own = own_reference()?;
        let state = RunState::starting(own, config.cgroup.clone());
        let mut supervisor = Self::with_state(run_dir, config, state, first_client)?;
        supervisor.sockets = sockets;
        supervisor.state.store(run_dir).map_err(|error| Failure::new("state", None, &error))?;
        Ok(supervisor)
    }

    /// Takes over a container that runs although its monitor has died.
    ///
    /// # Errors
    /// A [`Failure`] to be reported to the one who waits; the container is as it was then.
    pub fn adopt(run_dir: &Path, config: MonitorConfig) -> Result<Self, Failure> {
        let no_container = || Failure {
            step: "adopt".into(),
            errno: libc::ESRCH,
            message: "cannot take the container over: it does not run".into(),
        };
        let state = RunState::load(run_dir)
            .map_err(|error| Failure::new("adopt", None, &error))?
            .filter(|state| state.phase == Phase::Running)
            .ok_or_else(no_container)?;
        let state = RunState { monitor: own_reference()?, ..state };
        let mut supervisor = Self::with_state(run_dir, config, state, None)?;
        supervisor.adopted = true;
        let io = |error: io::Error| Failure::io("adopt", "take the payload's streams over", &error);
        match adopt::find(&supervisor.state).map_err(io)? {
            Some(launched) => {
                supervisor.payload = Some(Payload::new(launched, supervisor.config.stdin_open).map_err(io)?);
            }
            // It ended while nobody watched; what follows an end still has to be done.
            None => supervisor.outcome = Some(Outcome::unknown()),
        }
        let now = Instant::now();
        if let Some(checks) = &mut supervisor.checks {
            let ran = now_usec().saturating_sub(supervisor.state.started_at_usec.unwrap_or_default());
            checks.begin(now, Duration::from_micros(ran));
        }
        supervisor.shrink_at = Some(now + SHRINK_AFTER_START);
        supervisor.store();
        Ok(supervisor)
    }

    fn with_state(
        run_dir: &Path,
        config: MonitorConfig,
        state: RunState,
        first_client: Option<Streams>,
    ) -> Result<Self, Failure> {
        let lock = lock(run_dir)?;
        let signals = watch_signals().map_err(|error| Failure::io("signals", "watch signals", &error))?;
        let log = Log::open(&config).map_err(|error| Failure::new("log", None, &error))?;
        let mut clients = Clients::bind(run_dir)
            .map_err(|error| Failure::io("attach", "make the attach socket", &error))?;
        if let Some(streams) = first_client {
            clients.add_first(streams);
        }
        let notifier = Notifier::bind(run_dir, config.notify)
            .map_err(|error| Failure::io("notify", "make the notify socket", &error))?;
        Ok(Self {
            run_dir: run_dir.to_owned(),
            checks: config.health.clone().map(|health| Box::new(Checks::new(health))),
            oom: None,
            ending: None,
            events: Events::new(&config.events_path, &config.id, &config.name),
            config,
            state,
            log,
            clients,
            notifier,
            signals,
            sockets: Vec::new(),
            _lock: lock,
            held: Vec::new(),
            adopted: false,
            payload: None,
            outcome: None,
            terminated: false,
            stop_watch: None,
            store_at: None,
            shrink_at: None,
            started: Instant::now(),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Starts the payload; it runs when this returns, and the state says so.
    ///
    /// # Errors
    /// A [`Failure`]; it is in the state too, and nothing of the payload is left.
    pub fn start(&mut self) -> Result<(), Failure> {
        match launch::launch(&self.run_dir, &self.config, &self.sockets).and_then(|launched| {
            let warnings = launched.warnings.clone();
            let payload = Payload::new(launched, self.config.stdin_open)
                .map_err(|error| Failure::io("stdio", "set the payload's streams up", &error))?;
            Ok((payload, warnings))
        }) {
            Ok((payload, warnings)) => {
                let now = now_usec();
                let waits = self.checks.as_ref().is_some_and(|checks| checks.config().makes_ready);
                let ready = self.notifier.is_none() && !waits;
                self.state = RunState {
                    phase: Phase::Running,
                    init: Some(payload.init),
                    started_at_usec: Some(now),
                    ready,
                    ready_at_usec: ready.then_some(now),
                    health: self.checks.as_ref().map(|_| Health::Starting),
                    restarts: self.state.restarts,
                    warnings,
                    pipes: payload.pipes(),
                    // Without a keeper the payload runs as well, only not beyond its monitor.
                    keeper: payload.start_keeper().ok().flatten(),
                    ..RunState::starting(self.state.monitor, self.config.cgroup.clone())
                };
                self.payload = Some(payload);
                self.oom = None;
                self.adopted = false;
                self.outcome = None;
                self.started = Instant::now();
                self.shrink_at = Some(self.started + SHRINK_AFTER_START);
                if let Some(checks) = &mut self.checks {
                    checks.begin(self.started, Duration::ZERO);
                }
                self.store();
                self.events.write(now, Action::Start);
                // Reaped with all other children.
                let _ = spawn(&self.config.start_command);
                Ok(())
            }
            Err(failure) => {
                self.state.phase = Phase::Failed;
                self.state.error = Some(failure.message.clone());
                self.state.finished_at_usec = Some(now_usec());
                self.state.restart_at_usec = None;
                self.clean_up_container();
                self.run_end_command();
                self.store();
                Err(failure)
            }
        }
    }

    /// Supervises the running payload until it has ended for good and every client has its output.
    ///
    /// # Errors
    /// What poll(2) says, which leaves the payload running unsupervised.
    pub fn run(&mut self) -> io::Result<()> {
        let mut restarts = Restarts::new(self.config.restart);
        loop {
            self.turn_until(Until::PayloadEnded)?;
            let outcome = self.outcome.take().unwrap_or(Outcome::unknown());
            let ran = self.started.elapsed();
            self.finish_run(outcome);
            let again = self.ending.take().is_some_and(|(_, again)| again);
            let next = match self.stop_requested() {
                true => None,
                // As after a reboot inside: whatever the policy is.
                false => restarts.next(Outcome { reboot: outcome.reboot || again, ..outcome }, ran),
            };
            if let Some(pause) = next {
                self.announce(Phase::Starting, outcome, Some(pause));
                if self.pause(pause)? && self.restart(outcome).is_ok() {
                    continue;
                }
                if self.state.phase != Phase::Failed {
                    self.run_end_command();
                    self.state.phase = Phase::Exited;
                    self.state.restart_at_usec = None;
                    self.store();
                }
            } else {
                // Before anybody is told: who hears of the end finds nothing left of the container.
                self.run_end_command();
                self.announce(Phase::Exited, outcome, None);
            }
            return self.finish();
        }
    }

    fn restart(&mut self, outcome: Outcome) -> Result<(), Failure> {
        run_to_its_end(&self.config.restart_command);
        self.state.restarts = self.state.restarts.saturating_add(1);
        self.events.write(now_usec(), Action::Restart(outcome.code));
        if let Some(notifier) = &mut self.notifier {
            // Messages of the last run that came too late.
            for _ in 0..NOTIFICATIONS_AT_END {
                if notifier.receive().is_none() {
                    break;
                }
            }
            drop(notifier.last());
        }
        self.start()
    }

    /// Takes the last output, and what is left of the container, after the payload's end.
    fn finish_run(&mut self, outcome: Outcome) {
        self.shrink_at = None;
        if let Some(checks) = &mut self.checks {
            checks.end();
        }
        let kills = self.oom_kills();
        let told = self.oom.take().map_or(0, |oom| oom.told());
        if kills > told {
            self.tell_oom();
        }
        // Who came at the last moment sees the last output.
        self.clients.welcome();
        // With a pid namespace of its own, everybody is gone already.
        self.clean_up_container();
        if let Some(mut payload) = self.payload.take() {
            let mut buffer = std::mem::take(&mut self.buffer);
            payload.drain(&mut buffer, |stream, data| self.output(stream, data));
            self.buffer = buffer;
        }
        self.read_notifications(NOTIFICATIONS_AT_END);
        if let Some(message) = self.notifier.as_mut().and_then(Notifier::last) {
            self.tell(message);
        }
        self.state.init = None;
        self.state.keeper = None;
        self.state.pipes = None;
        self.state.finished_at_usec = Some(now_usec());
        self.state.exit_code = outcome.code;
        self.state.exit_signal = outcome.signal;
    }

    /// Publishes the end: to the events, to the state, to clients.
    fn announce(&mut self, phase: Phase, outcome: Outcome, pause: Option<Duration>) {
        self.state.phase = phase;
        self.state.restart_at_usec =
            pause.map(|p| now_usec().saturating_add(u64::try_from(p.as_micros()).unwrap_or(u64::MAX)));
        // Who has waited for the end finds its events.
        self.events.write(now_usec(), Action::Exit(outcome.code));
        self.store();
        self.clients.dismiss(outcome.code.unwrap_or(UNKNOWN_CODE));
    }

    /// How many processes the kernel has killed in this run for want of memory.
    fn oom_kills(&self) -> u64 {
        Cgroup::open(&self.config.cgroup).and_then(|cgroup| cgroup.oom_kills()).unwrap_or(0)
    }

    /// Has the kernel tell when memory runs out in the container; what has happened before is told now.
    fn watch_memory(&mut self) {
        if self.oom.is_some() || self.payload.is_none() {
            return;
        }
        let mut oom = OomWatch::new(&self.config.cgroup);
        let killed = oom.count(self.oom_kills());
        self.oom = Some(oom);
        // Another monitor may have told it.
        if killed && !self.state.oom_killed {
            self.tell_oom();
            self.store();
        }
    }

    fn tell_oom(&mut self) {
        self.state.oom_killed = true;
        self.events.write(now_usec(), Action::Oom);
    }

    /// A health check has found something.
    fn heed(&mut self, verdict: Verdict) {
        let Some(checks) = &self.checks else { return };
        let before = (self.state.health.unwrap_or(Health::Starting), self.state.health_failures);
        let (health, failures) = checks.judge(verdict, before.0, before.1, Instant::now());
        if (health, failures) == before {
            return;
        }
        let becomes_ready = health == Health::Healthy && checks.config().makes_ready && !self.state.ready;
        let (on_failure, now) = (checks.config().on_failure, now_usec());
        self.state.health = Some(health);
        self.state.health_failures = failures;
        if becomes_ready {
            self.state.ready = true;
            self.state.ready_at_usec = Some(now);
        }
        self.store();
        if health != before.0 {
            self.events.write(now, Action::Health(health));
        }
        if becomes_ready {
            self.events.write(now, Action::Ready);
        }
        if health == Health::Unhealthy && before.0 != Health::Unhealthy {
            self.give_up(on_failure);
        }
    }

    /// The payload does not work any more.
    fn give_up(&mut self, on_failure: OnFailure) {
        let (Some(payload), Some(checks)) = (&self.payload, &self.checks) else { return };
        let signal = match on_failure {
            OnFailure::None => return,
            OnFailure::Kill => libc::SIGKILL,
            OnFailure::Restart | OnFailure::Stop => {
                let time = Duration::from_micros(checks.config().stop_timeout_usec.min(u64::MAX >> 12));
                self.ending = Some((Instant::now() + time, on_failure == OnFailure::Restart));
                checks.config().stop_signal
            }
        };
        if on_failure == OnFailure::Stop {
            // As the engine asks for a stop, so that everybody sees it the same way. Without it the policy decides.
            let _ = std::fs::write(self.run_dir.join(STOP_REQUESTED), b"");
        }
        // Where it has ended just now there is nothing to do.
        let _ = crate::runtime::pidfd_send_signal(payload.pidfd.as_fd(), signal);
    }

    /// What was asked to end and has not done so is killed.
    fn end_by_force(&mut self, now: Instant) {
        if let (Some((at, again)), Some(payload)) = (self.ending, &self.payload)
            && at <= now
        {
            let _ = crate::runtime::pidfd_send_signal(payload.pidfd.as_fd(), libc::SIGKILL);
            self.ending = Some((now + STORE_RETRY, again));
        }
    }

    /// Ends what processes are left and removes the cgroup, and what an external runtime has made.
    fn clean_up_container(&self) {
        // Whatever cannot be removed here is found by the engine, which knows the container's cgroup.
        let cgroup = Cgroup::open(&self.config.cgroup).ok();
        if let Some(cgroup) = &cgroup {
            let _ = cgroup.kill_all(libc::SIGKILL);
        }
        if let RuntimeChoice::External { program } = &self.config.runtime {
            external::clean_up(program, &self.run_dir, &self.config.id);
        }
        if let Some(cgroup) = &cgroup {
            let _ = cgroup.remove();
        }
    }

    /// Holds descriptors open until the container has ended for good.
    pub fn hold(&mut self, descriptors: Vec<OwnedFd>) {
        self.held = descriptors;
    }

    /// Has what is outside of the container taken down; between restarts it stays. The payload has ended and its output is
    /// taken, so nothing is missed meanwhile.
    fn run_end_command(&mut self) {
        // First: who takes down gives back what these stand for.
        self.held = Vec::new();
        // If there is no child, the engine does it at its next wake.
        run_to_its_end(&self.config.end_command);
    }

    /// Waits before a restart; `false` if a stop was asked for meanwhile.
    fn pause(&mut self, pause: Duration) -> io::Result<bool> {
        use rustix::fs::inotify;
        self.stop_watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        if let Some(watch) = &self.stop_watch {
            let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            // Without a watch the request is seen at the end of the pause.
            let _ = inotify::add_watch(watch, &self.run_dir, flags);
        }
        self.turn_until(Until::Deadline(Instant::now() + pause))?;
        self.stop_watch = None;
        Ok(!self.stop_requested())
    }

    fn stop_requested(&self) -> bool {
        self.terminated || self.run_dir.join(STOP_REQUESTED).exists()
    }

    /// Waits for the last clients, and removes the container where that was asked for.
    fn finish(&mut self) -> io::Result<()> {
        self.clients.close();
        self.notifier = None;
        let cleanup = self.config.auto_remove && !self.config.cleanup_command.is_empty();
        if self.clients.list.is_empty() {
            if cleanup {
                return Err(self.exec_cleanup());
            }
            return Ok(());
        }
        if cleanup {
            // Not in our place: slow clients still have to get their output.
            match sys::fork()? {
                sys::Fork::Child => {
                    self.exec_cleanup();
                    sys::exit_now(1)
                }
                sys::Fork::Parent(_) => {}
            }
        }
        self.turn_until(Until::ClientsLeft)
    }

    /// Becomes the program that removes the container; returns only if that fails.
    fn exec_cleanup(&self) -> io::Error {
        use std::os::unix::process::CommandExt as _;
        let [program, arguments @ ..] = self.config.cleanup_command.as_slice() else {
            return io::ErrorKind::InvalidInput.into();
        };
        sys::reset_signals();
        sys::restore_oom_score();
        std::process::Command::new(program).args(arguments).exec()
    }

    fn store(&mut self) {
        // A full /run must not stop the container.
        self.store_at = self.state.store(&self.run_dir).is_err().then(|| Instant::now() + STORE_RETRY);
    }

    fn output(&mut self, stream: Stream, data: &[u8]) {
        if let Err(error) = self.log.write(stream, data)
            && self.state.log_error.is_none()
        {
            self.state.log_error = Some(Failure::new("log", None, &error).message);
            self.store_at.get_or_insert_with(Instant::now);
        }
        self.clients.deliver(stream, data);
    }
}

fn run_to_its_end(command: &[String]) {
    if let Some(child) = spawn(command) {
        let wait = || rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
        while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
    }
}

fn own_reference() -> Result<ProcessRef, Failure> {
    i32::try_from(std::process::id()).ok().and_then(ProcessRef::of).ok_or_else(|| Failure {
        step: "monitor".into(),
        errno: 0,
        message: "cannot read /proc/self/stat; mount procfs on /proc".into(),
    })
}

/// Makes sure that no other monitor supervises this container.
fn lock(run_dir: &Path) -> Result<OwnedFd, Failure> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(run_dir, flags, Mode::empty())
        .and_then(|directory| {
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
            Ok(directory)
        })
        .map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => Failure {
                step: "lock".into(),
                errno: error.raw_os_error(),
                message: "another monitor supervises this container".into(),
            },
            error => Failure::io("lock", &format!("lock {}", run_dir.display()), &error.into()),
        })
}

fn watch_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
