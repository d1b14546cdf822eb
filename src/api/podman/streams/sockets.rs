//! The sockets of a container that some clients open by their paths: one of whole packets for both streams, and a FIFO for
//! the size of the terminal. They are served here, for as long as somebody is connected or may still come.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::engine::{Engine, EngineError, Since, Streams};

use super::errors::{failed, occurred};
use super::{Call, CallError, PodmanInterface, wire};

/// How long a client may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// What clients have room for, with the number of the stream.
const PACKET_BYTES: usize = 8192;
/// The numbers of the streams.
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
/// What the kernel has room for, without the NUL.
const PATH_MAX_BYTES: usize = 107;

/// The containers whose sockets are served by this process.
pub(in super::super) type Served = Arc<Mutex<HashSet<String>>>;

struct Place {
    socket: PathBuf,
    control: PathBuf,
}

impl PodmanInterface {
    pub(in super::super) async fn attach_sockets(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetAttachSockets_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed)?;
        let spec = &one.container.definition.spec;
        let cannot =
            |reason: String| occurred(format!("cannot attach to {:?} by paths: {reason}", one.listed.name));
        let place = Place::of(&self.engine, one.id()).map_err(|error| cannot(error.to_string()))?;
        let sockets = wire::Sockets {
            container_id: one.id().to_owned(),
            io_socket: place.socket.to_string_lossy().into_owned(),
            control_socket: place.control.to_string_lossy().into_owned(),
        };
        if sockets.io_socket.len() > PATH_MAX_BYTES {
            return Err(cannot(format!("{} is too long for a socket", sockets.io_socket)));
        }
        let is_new =
            self.handles.served.lock().unwrap_or_else(PoisonError::into_inner).insert(one.id().to_owned());
        if is_new {
            let (engine, id, input) = (self.engine.clone(), one.id().to_owned(), spec.stdin_open);
            let opened = place.open();
            let served = Arc::clone(&self.handles.served);
            let (listener, control) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    served.lock().unwrap_or_else(PoisonError::into_inner).remove(one.id());
                    return Err(cannot(error.to_string()));
                }
            };
            let busy = call.busy();
            tokio::spawn(async move {
                if let Err(error) = serve(&engine, &id, input, listener, control).await {
                    tracing::warn!(id, %error, "the sockets of a container are given up");
                }
                place.remove();
                served.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                drop(busy);
            });
        }
        call.reply(wire::GetAttachSockets_Reply { sockets }).await
    }
}

impl Place {
    fn of(engine: &Engine, id: &str) -> io::Result<Self> {
        let directory = engine.paths().run_dir.join("podman");
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self { socket: directory.join(&id[..12]), control: directory.join(format!("{}.ctl", &id[..12])) })
    }

    /// The socket to accept from, and our end of the FIFO, which never ends because it is also another's.
    fn open(&self) -> io::Result<(AsyncFd<OwnedFd>, pipe::Receiver)> {
        self.remove();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&self.socket)?)?;
        rustix::fs::chmod(&self.socket, Mode::from_raw_mode(0o600))?;
        rustix::net::listen(&socket, 16)?;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &self.control,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let control = rustix::fs::open(&self.control, flags, Mode::empty())?;
        let socket = crate::readiness::watch(socket, Interest::READABLE)?;
        Ok((socket, pipe::Receiver::from_owned_fd_unchecked(control)?))
    }

    fn remove(&self) {
        for path in [&self.socket, &self.control] {
            remove(path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "cannot remove a socket of a container, ignoring");
    }
}

async fn serve(
    engine: &Engine,
    id: &str,
    with_input: bool,
    listener: AsyncFd<OwnedFd>,
    mut control: pipe::Receiver,
) -> io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let mut clients = JoinSet::new();
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    loop {
        tokio::select! {
            accepted = accept(&listener) => {
                let (engine, id, client) = (engine.clone(), id.to_owned(), accepted?);
                clients.spawn(async move {
                    if let Err(error) = connect(&engine, &id, with_input, client).await {
                        tracing::debug!(id, error = error.full_text(), "a client of a container's socket has left");
                    }
                });
            }
            read = control.read(&mut buffer) => {
                line.extend(&buffer[..read?]);
                while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                    let told: Vec<u8> = line.drain(..=end).collect();
                    resize(engine, id, &String::from_utf8_lossy(&told));
                }
                line.truncate(buffer.len());
            }
            Some(_) = clients.join_next() => {}
            () = tokio::time::sleep(PATIENCE), if clients.is_empty() => return Ok(()),
            // Nobody's work would be finished by waiting.
            _ = stop.recv() => return Ok(()),
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|socket| Ok(rustix::net::accept_with(socket, flags)?)) {
            return crate::readiness::watch(accepted?, Interest::READABLE | Interest::WRITABLE);
        }
    }
}

/// `1 ROWS COLUMNS` is a size; `2`, for a log to be opened again, needs nothing here.
fn resize(engine: &Engine, id: &str, line: &str) {
    let mut words = line.split_whitespace();
    if words.next() != Some("1") {
        return;
    }
    let mut number = || words.next()?.parse::<u16>().ok();
    if let (Some(rows), Some(columns)) = (number(), number())
        && let Err(error) = engine.resize(id, rows, columns)
    {
        tracing::debug!(id, error = error.full_text(), "cannot resize, ignoring");
    }
}

/// Serves one client, from the start of the container to its end.
async fn connect(
    engine: &Engine,
    id: &str,
    with_input: bool,
    client: AsyncFd<OwnedFd>,
) -> Result<(), EngineError> {
    let broken = |error: io::Error| EngineError::Failed {
        attempted: "serve a client of a container's socket".to_owned(),
        reason: error.to_string(),
    };
    let mut events = engine.follow_events(Since::Now)?;
    while !engine.live(id)?.phase.is_alive() {
        events.next().await?;
    }
    let (stdout, stdout_end) = output_pipe().map_err(broken)?;
    let (stderr, stderr_end) = output_pipe().map_err(broken)?;
    let mut streams = Streams { stdin: None, stdout: Some(stdout_end), stderr: Some(stderr_end) };
    let mut input = None;
    if with_input {
        let (stdin, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| broken(errno.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| broken(errno.into()))?;
        input = Some(pipe::Sender::from_owned_fd(ours).map_err(broken)?);
        streams.stdin = Some(stdin);
    }
    let outward =
        async { tokio::try_join!(packets(stdout, STDOUT, &client), packets(stderr, STDERR, &client)) };
    let inward = read_input(&client, input);
    // The attachment lasts as long as it is waited for.
    let attached = engine.attach(id, streams);
    let attached = async {
        let result = attached.await;
        if result.is_ok() { std::future::pending().await } else { result.map(drop) }
    };
    tokio::select! {
        result = outward => result.map(drop).map_err(broken),
        result = inward => result.map_err(broken),
        result = attached => result,
    }
}

fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((pipe::Receiver::from_owned_fd(ours)?, theirs))
}

async fn packets(mut from: pipe::Receiver, number: u8, client: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut packet = [number; PACKET_BYTES];
    loop {
        let count = from.read(&mut packet[1..]).await?;
        if count == 0 {
            return Ok(());
        }
        loop {
            let mut ready = client.writable().await?;
            let sent = ready.try_io(|socket| {
                Ok(rustix::net::send(socket.as_fd(), &packet[..=count], SendFlags::NOSIGNAL)?)
            });
            if let Ok(sent) = sent {
                sent?;
                break;
            }
        }
    }
}

/// Returns when the client has gone.
async fn read_input(client: &AsyncFd<OwnedFd>, mut input: Option<pipe::Sender>) -> io::Result<()> {
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let mut ready = client.readable().await?;
        let received = ready
            .try_io(|socket| Ok(rustix::net::recv(socket.as_fd(), &mut packet[..], RecvFlags::empty())?));
        match received {
            Ok(Ok((0, _))) => return Ok(()),
            Ok(Ok((count, _))) => {
                if let Some(open) = &mut input
                    && open.write_all(&packet[..count]).await.is_err()
                {
                    // The payload reads no more.
                    input = None;
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
