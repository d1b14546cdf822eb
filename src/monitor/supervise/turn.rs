//! The monitor's one loop: a turn waits for something to happen and handles it.
//!
//! Nothing in it blocks but poll(2): clients and the payload are read and written only as far as it goes, logs never
//! wait for space. The order in a turn is: control first (clients, sizes), then output, then ends, so that
//! who attached before the payload ended sees its output.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::WaitOptions;

use super::super::adopt;
use super::super::attach::{Control, Typed};
use super::super::events::Action;
use super::super::log::Stream;
use super::super::notify::{Message, Notifier};
use super::super::oom::OomWatch;
use super::super::payload::{Output, Payload};
use super::super::restart::Outcome;
use super::{Supervisor, now_usec};

/// So long after it had something to do, the monitor is made small again.
const SHRINK_AFTER_WORK: Duration = Duration::from_secs(5);
/// No more notifications are read in one turn, so that a payload that floods its socket is still supervised.
const NOTIFICATIONS_PER_TURN: usize = 32;
/// More than wait in a socket's queue: what was said last, by a payload that has ended.
pub(super) const NOTIFICATIONS_AT_END: usize = 1000;

/// When the loop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The payload's first process has ended.
    PayloadEnded,
    /// This time has come, or a stop was asked for.
    Deadline(Instant),
    /// Every client has all of its output.
    ClientsLeft,
}

/// What a turn waits for, beside the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Notifications,
    StopRequest,
    PayloadEnd,
    Oom,
    Listener,
    Control(usize),
    Output(Stream),
    Input,
    Typed(usize),
    Delivery(usize, Stream),
}

impl Supervisor {
    /// Takes turns until then.
    ///
    /// # Errors
    /// What poll(2) says.
    pub(super) fn turn_until(&mut self, until: Until) -> io::Result<()> {
        loop {
            self.clients.forget_gone();
            match until {
                Until::PayloadEnded if self.outcome.is_some() => return Ok(()),
                Until::ClientsLeft if self.clients.list.is_empty() => return Ok(()),
                Until::Deadline(at) if at <= Instant::now() || self.stop_requested() => return Ok(()),
                _ => {}
            }
            let deadline = match until {
                Until::Deadline(at) => Some(at),
                _ => None,
            };
            self.turn(deadline)?;
        }
    }

    /// Waits for something to happen, until `deadline` at most, and handles it.
    fn turn(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let shrink = self.shrink_at.is_some_and(|at| at <= Instant::now());
        if shrink {
            self.shrink_at = None;
            // Not at its start: most of those that end soon have no use for it.
            self.watch_memory();
        }
        let ready = self.wait(deadline, shrink)?;
        let now = Instant::now();
        if !ready.is_empty() && self.payload.is_some() {
            self.shrink_at.get_or_insert(now + SHRINK_AFTER_WORK);
        }
        if let Some(payload) = &mut self.payload {
            payload.tick(now);
        }
        self.end_by_force(now);
        if let Some(checks) = &mut self.checks {
            checks.tick(now);
        }
        for source in ready {
            self.handle(source);
        }
        if self.oom.as_mut().is_some_and(|oom| oom.is_due(Instant::now(), &self.config.cgroup)) {
            self.tell_oom();
            self.store();
        }
        if let Some(message) = self.notifier.as_mut().and_then(|notifier| notifier.due(now)) {
            self.tell(message);
        }
        if self.store_at.is_some_and(|at| at <= now) {
            self.store();
        }
        Ok(())
    }

    /// The descriptors to wait on, in the order in which they are handled.
    fn interests(&self) -> Vec<(Source, PollFd<'_>)> {
        let mut interests = Vec::with_capacity(8);
        let mut add = |source, fd, flags| interests.push((source, PollFd::from_borrowed_fd(fd, flags)));
        for (index, client) in self.clients.list.iter().enumerate() {
            if let Some(socket) = client.socket() {
                add(Source::Control(index), socket, PollFlags::IN);
            }
        }
        if let Some(listener) = self.clients.listener() {
            add(Source::Listener, listener, PollFlags::IN);
        }
        if let Some(notifier) = &self.notifier {
            add(Source::Notifications, notifier.as_fd(), PollFlags::IN);
        }
        if let Some(watch) = &self.stop_watch {
            add(Source::StopRequest, watch.as_fd(), PollFlags::IN);
        }
        if let Some(payload) = &self.payload {
            if self.clients.have_room() {
                for stream in [Stream::Stdout, Stream::Stderr] {
                    if let Some(fd) = payload.source(stream) {
                        add(Source::Output(stream), fd, PollFlags::IN);
                    }
                }
            }
            if let Some(fd) = payload.input_waiting() {
                add(Source::Input, fd, PollFlags::OUT);
            }
        }
        let wants_input = self.payload.as_ref().is_some_and(Payload::wants_input);
        for (index, client) in self.clients.list.iter().enumerate() {
            if let Some(stdin) = client.stdin().filter(|_| wants_input) {
                add(Source::Typed(index), stdin, PollFlags::IN);
            }
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = client.waiting(stream) {
                    add(Source::Delivery(index, stream), fd, PollFlags::OUT);
                }
            }
        }
        if let Some(payload) = self.payload.as_ref().filter(|_| self.adopted) {
            add(Source::PayloadEnd, payload.pidfd.as_fd(), PollFlags::IN);
        }
        if let Some((fd, flags)) = self.oom.as_ref().and_then(OomWatch::interest) {
            add(Source::Oom, fd, flags);
        }
        add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
        interests
    }

    /// Waits for the first of the sources that is ready. With `shrink` the memory is given back last of all, so that
    /// what remains is what a sleeping monitor needs.
    fn wait(&self, deadline: Option<Instant>, shrink: bool) -> io::Result<Vec<Source>> {
        let (sources, mut fds): (Vec<_>, Vec<_>) = self.interests().into_iter().unzip();
        let tick = self.payload.as_ref().and_then(Payload::next_tick);
        let check = self.checks.as_ref().and_then(|checks| checks.deadline());
        let end = self.ending.map(|(at, _)| at);
        let oom = self.oom.as_ref().and_then(OomWatch::deadline);
        let told = self.notifier.as_ref().and_then(Notifier::deadline);
        let timeout = [deadline, tick, check, end, oom, told, self.store_at, self.shrink_at]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|t| Timespec::try_from(t).unwrap_or_default());
        if shrink {
            crate::memory::shrink();
        }
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).map(|(source, _)| source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Control(index) => {
                let control = self.clients.list.get_mut(index).map_or(Control::Nothing, |c| c.control());
                if let (Control::Resize(rows, columns), Some(payload)) = (control, &self.payload) {
                    payload.resize(rows, columns);
                }
                self.let_inputs_go();
            }
            Source::Listener => self.clients.accept(),
            Source::Notifications => self.read_notifications(NOTIFICATIONS_PER_TURN),
            Source::StopRequest => {
                let mut events = [0; 1024];
                if let Some(watch) = &self.stop_watch {
                    // What happened does not matter: whether the file is there is looked at next.
                    let _ = rustix::io::read(watch, &mut events);
                }
            }
            Source::Output(stream) => self.read_output(stream),
            Source::Input => {
                if let Some(payload) = &mut self.payload {
                    payload.flush_input();
                }
                self.let_inputs_go();
            }
            Source::Typed(index) => self.read_typed(index),
            Source::Delivery(index, stream) => {
                if let Some(client) = self.clients.list.get_mut(index) {
                    client.flush(stream);
                }
            }
            Source::PayloadEnd => {
                if let Some(payload) = &self.payload {
                    self.outcome =
                        Some(adopt::outcome(payload.init, &payload.pidfd, self.config.systemd_mode));
                }
            }
            Source::Oom => {
                if let Some(oom) = &mut self.oom {
                    oom.hear(Instant::now());
                }
            }
            Source::Signals => self.read_signals(),
        }
    }

    fn read_output(&mut self, stream: Stream) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(payload) = &mut self.payload
            && let Output::Bytes(length) = payload.read(stream, &mut buffer)
        {
            self.output(stream, &buffer[..length]);
        }
        self.buffer = buffer;
    }

    fn read_typed(&mut self, index: usize) {
        let Some(payload) = &mut self.payload else { return };
        // What was typed by another client in this turn may wait already.
        if !payload.wants_input() {
            return;
        }
        let Some(client) = self.clients.list.get_mut(index) else { return };
        match client.read(&mut self.buffer) {
            Typed::Bytes(length) => payload.input(&self.buffer[..length]),
            Typed::End => payload.end_input(),
            Typed::Nothing => {}
        }
        self.let_inputs_go();
    }

    /// Closes the clients' stdins when the payload's is closed: who writes into one learns of it.
    fn let_inputs_go(&mut self) {
        if self.payload.as_ref().is_some_and(Payload::is_deaf) {
            self.clients.close_stdins();
        }
    }

    /// Takes so many messages of the payload at most.
    pub(super) fn read_notifications(&mut self, most: usize) {
        let now = Instant::now();
        for _ in 0..most {
            let Some(notifier) = &mut self.notifier else { return };
            let Some(message) = notifier.receive() else { return };
            if message == Message::default() {
                continue;
            }
            let changes = (message.ready && !self.state.ready) || (message.stopping && !self.state.stopping);
            if let Some(message) = notifier.take_in(message, changes, now) {
                self.tell(message);
            }
        }
    }

    /// Passes on what the payload says of itself.
    pub(super) fn tell(&mut self, message: Message) {
        if let Some(notifier) = &self.notifier {
            notifier.forward(&message);
        }
        let becomes_ready = message.ready && !self.state.ready;
        let stops = message.stopping && !self.state.stopping;
        let says_more = message.status.is_some() && message.status != self.state.status_text;
        if becomes_ready {
            self.state.ready = true;
            self.state.ready_at_usec = Some(now_usec());
        }
        self.state.stopping |= stops;
        if says_more {
            self.state.status_text = message.status;
        }
        if becomes_ready || stops || says_more {
            self.store();
        }
        if becomes_ready {
            self.events.write(now_usec(), Action::Ready);
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if i32::try_from(signal.ssi_signo) == Ok(libc::SIGTERM) {
                self.terminated = true;
            }
        }
        // One SIGCHLD may stand for several children; orphans of external runtimes come here too.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let health = self.state.health;
            let verdict = self.checks.as_mut().and_then(|checks| checks.ended(pid, status, health));
            if let Some(verdict) = verdict {
                self.heed(verdict);
            }
            if self.payload.as_ref().is_some_and(|p| p.init.pid == pid.as_raw_nonzero().get()) {
                self.outcome = Some(Outcome::of(status, self.config.systemd_mode));
            }
        }
    }
}
