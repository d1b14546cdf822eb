//! The service's side: one task for each channel, one that reads what the client sends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use super::frame::{self, FrameError, HEADER_BYTES, Header, Kind};
use super::input::Input;
use super::output::{self, State};
use crate::varlink::UpgradedStream;
use crate::varlink::connection::Link;

/// What a client says of its own accord. More than so many wait for nobody.
const CONTROLS_MAX: usize = 32;

/// What the client says beside data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The size of its terminal.
    Window {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// A signal for the process: its name or number, as the client has written it.
    Signal(String),
    /// It detaches.
    Leave,
}

/// When a channel of output has ended, if its writer does not say so by closing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Only with its writers: nobody but who was given the descriptor holds it.
    AtEnd,
    /// With what is there at the last reply: processes that outlive the call may hold the descriptor.
    WithWhatIsThere,
}

/// Sends whole frames; each task has a copy.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    link: Arc<Link>,
    stream: Arc<Mutex<UpgradedStream>>,
}

impl Writer {
    fn new(link: &Arc<Link>) -> Self {
        let stream = Arc::new(Mutex::new(UpgradedStream::new(Arc::clone(link))));
        Self { link: Arc::clone(link), stream }
    }

    /// Sends a frame. A client that can't be written to has left.
    pub(super) async fn send(&self, frame: &[u8]) -> io::Result<()> {
        let result = self.stream.lock().await.write_all(frame).await;
        if result.is_err() {
            self.link.stream_left();
        }
        result
    }
}

/// The channels of one call.
#[derive(Debug)]
pub(in crate::varlink) struct Channels {
    inputs: Vec<(u8, OwnedFd)>,
    outputs: Vec<(u8, OwnedFd)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    finish: Finish,
    writer: Writer,
    states: Vec<watch::Sender<State>>,
    outputs: JoinSet<()>,
    /// Ends with this.
    _others: JoinSet<()>,
    controls: mpsc::Receiver<Control>,
}

impl Channels {
    pub(in crate::varlink) fn new() -> Self {
        Self { inputs: Vec::new(), outputs: Vec::new(), running: None }
    }

    fn is_taken(&self, channel: u8) -> bool {
        self.inputs.iter().chain(&self.outputs).any(|(taken, _)| *taken == channel)
    }

    /// Opens a channel that the client sends on; returns what its data can be read from. `None` for one that is open.
    pub(in crate::varlink) fn open_input(&mut self, channel: u8) -> io::Result<Option<OwnedFd>> {
        if self.is_taken(channel) {
            return Ok(None);
        }
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        self.inputs.push((channel, ours));
        Ok(Some(theirs))
    }

    /// Opens a channel that the client receives on; returns what its data is to be written to. `None` for one that is open.
    pub(in crate::varlink) fn open_output(&mut self, channel: u8) -> io::Result<Option<OwnedFd>> {
        if self.is_taken(channel) {
            return Ok(None);
        }
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        self.outputs.push((channel, ours));
        Ok(Some(theirs))
    }

    /// Makes channels of the master side of a terminal. False if one of them is open already.
    pub(in crate::varlink) fn connect_terminal(
        &mut self,
        input: Option<u8>,
        output: Option<u8>,
        master: OwnedFd,
    ) -> io::Result<bool> {
        if input.or(output).is_some_and(|_| input == output)
            || [input, output].into_iter().flatten().any(|channel| self.is_taken(channel))
        {
            return Ok(false);
        }
        if let Some(input) = input {
            self.inputs.push((input, master.try_clone()?));
        }
        if let Some(output) = output {
            self.outputs.push((output, master));
        }
        Ok(true)
    }

    pub(in crate::varlink) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to carry, after the reply that upgraded the connection.
    pub(in crate::varlink) fn begin(&mut self, link: &Arc<Link>, finish: Finish) -> io::Result<()> {
        let writer = Writer::new(link);
        let (mut outputs, mut others) = (JoinSet::new(), JoinSet::new());
        let mut open = Open { inputs: Vec::new(), outputs: Vec::new() };
        for (channel, sink) in self.inputs.drain(..) {
            open.inputs.push(Input::start(channel, sink, &writer, &mut others)?);
        }
        let mut states = Vec::new();
        for (channel, source) in self.outputs.drain(..) {
            let (state, seen) = watch::channel(State::Open);
            output::start(channel, source, seen, &writer, &mut outputs)?;
            open.outputs.push((channel, state.clone()));
            states.push(state);
        }
        let (sender, controls) = mpsc::channel(CONTROLS_MAX);
        let link = Arc::clone(link);
        others.spawn(async move {
            let mut from = BufReader::new(UpgradedStream::new(Arc::clone(&link)));
            if let Err(error) = receive(&mut from, open, sender).await
                && error.kind() == io::ErrorKind::InvalidData
            {
                tracing::warn!(peer = link.peer().pid, %error, "closing a stream");
            }
            link.stream_left();
        });
        self.running = Some(Running { finish, writer, states, outputs, _others: others, controls });
        Ok(())
    }

    /// Sends a reply, or with `last` the one that nothing follows: after all output.
    pub(in crate::varlink) async fn reply(&mut self, message: &[u8], last: bool) -> io::Result<()> {
        let Some(running) = &mut self.running else { return Err(io::ErrorKind::NotConnected.into()) };
        if last {
            if running.finish == Finish::WithWhatIsThere {
                running.take_what_is_there();
            }
            while running.outputs.join_next().await.is_some() {}
        }
        let message = message.strip_suffix(b"\0").unwrap_or(message);
        running.writer.send(&frame::encode(Kind::Reply, 0, message)).await
    }

    /// From here on no writer of output is waited for: the call has failed, and who it is may go on.
    pub(in crate::varlink) fn take_what_is_there(&self) {
        if let Some(running) = &self.running {
            running.take_what_is_there();
        }
    }

    /// What the client says next; waits for ever where nothing comes any more. Cancelled, it loses nothing.
    pub(in crate::varlink) async fn control(&mut self) -> Control {
        if let Some(running) = &mut self.running
            && let Some(control) = running.controls.recv().await
        {
            return control;
        }
        std::future::pending().await
    }
}

impl Running {
    fn take_what_is_there(&self) {
        for state in &self.states {
            state.send_if_modified(|state| {
                let open = *state == State::Open;
                if open {
                    *state = State::Finishing;
                }
                open
            });
        }
    }
}

/// The channels, as who hears the client knows them.
struct Open {
    inputs: Vec<Input>,
    outputs: Vec<(u8, watch::Sender<State>)>,
}

/// Hears the client until it leaves.
async fn receive(
    from: &mut BufReader<UpgradedStream>,
    mut open: Open,
    controls: mpsc::Sender<Control>,
) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header).await?;
        let Header { kind, channel, length } = Header::decode(header)?;
        let mut body = vec![0; if kind == Kind::Reply { 0 } else { length }];
        from.read_exact(&mut body).await?;
        match kind {
            Kind::Data => {
                // On a channel that is not open, it is for nobody.
                if let Some(input) = open.inputs.iter_mut().find(|input| input.channel == channel) {
                    input.take(body)?;
                }
            }
            Kind::Closed => {
                for (_, state) in open.outputs.iter().filter(|(output, _)| *output == channel) {
                    state.send_replace(State::Closed);
                }
            }
            Kind::Window => {
                let (rows, columns) = frame::decode_window(body.try_into().unwrap_or_default());
                let _ = controls.send(Control::Window { rows, columns }).await;
            }
            Kind::Signal => {
                let name = String::from_utf8_lossy(&body).into_owned();
                let _ = controls.send(Control::Signal(name)).await;
            }
            Kind::Leave => {
                let _ = controls.send(Control::Leave).await;
            }
            Kind::Credit | Kind::Reply => return Err(FrameError::Direction { kind }.into()),
        }
    }
}

/// Makes a descriptor of ours non-blocking, and watches it.
pub(super) fn watched(
    fd: OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
    crate::readiness::watch(fd, interest)
}
