//! Commands in running containers. `serve` has threads, and so can't enter a container's namespaces itself: it executes
//! its own binary as `exec-session`, which does, and tells how the command ended.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};

use crate::monitor::exec_session::{DETACH_PACKET, signal_packet};
use crate::runtime::seccomp;

use super::passwd::{self, RootView};
use super::spec::Seccomp;
use super::{Container, Engine, EngineError, Event, EventKind, Phase, Streams, capabilities, launch, oci};

/// How much of each stream is collected where the caller gives no descriptors.
const COLLECTED_MAX_BYTES: u64 = 1 << 20;
/// The longest packet of an exec session: a failure's message.
const PACKET_MAX_BYTES: usize = 64 << 10;

/// A command to be run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub terminal: bool,
    /// Rows and columns.
    pub size: Option<(u16, u16)>,
    pub privileged: bool,
    /// Nobody has asked for this command: it is no event.
    pub unasked: bool,
    /// It goes on without anybody; what it writes to a terminal is dropped.
    pub detached: bool,
}

/// What a command has written, as far as it was collected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// The exit code, or 128 and the number of the signal.
    pub exit_code: i32,
    /// At most 1 MiB.
    pub stdout: Vec<u8>,
    /// At most 1 MiB.
    pub stderr: Vec<u8>,
    /// There was more.
    pub truncated: bool,
}

/// A command that runs. Dropped, the command is hung up, unless it was detached.
#[derive(Debug)]
pub struct ExecSession {
    socket: AsyncFd<OwnedFd>,
    /// Its name among the container's sessions.
    pub id: String,
    /// As the host sees it.
    pub pid: i32,
    /// The master side of its terminal, if it has one and somebody to look at it.
    pub terminal: Option<OwnedFd>,
}

/// What can be told to a command while somebody waits for its end.
#[derive(Debug)]
pub struct ExecControl {
    /// `None` if no descriptor was free.
    socket: Option<OwnedFd>,
}

impl ExecControl {
    /// Sends a signal; nothing happens if the command has ended.
    pub fn signal(&self, signal: i32) {
        self.send(&signal_packet(signal));
    }

    /// Lets the command go on when nobody waits for it any more.
    pub fn detach(&self) {
        self.send(DETACH_PACKET);
    }

    /// Sets the size of the command's terminal, in characters.
    pub fn resize(master: BorrowedFd<'_>, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // Refused only when the command has ended.
        let _ = rustix::termios::tcsetwinsize(master, size);
    }

    fn send(&self, packet: &[u8]) {
        if let Some(socket) = &self.socket
            && let Err(errno) = super::attach::send_packet(socket.as_fd(), packet, &[])
        {
            tracing::debug!(%errno, "a command has ended before it could be told something, ignoring");
        }
    }
}

impl Engine {
    /// Runs a command with an empty standard input, and collects what it writes.
    ///
    /// # Errors
    /// Those of [`Self::exec`].
    pub async fn exec_collect(&self, name: &str, request: ExecRequest) -> Result<ExecOutput, EngineError> {
        let failed = |error: std::io::Error| EngineError::Failed {
            attempted: "collect the command's output".to_owned(),
            reason: error.to_string(),
        };
        let (out, out_end) = pipe_pair().map_err(failed)?;
        let (err, err_end) = pipe_pair().map_err(failed)?;
        let streams = Streams { stdin: None, stdout: Some(out_end), stderr: Some(err_end) };
        let session = self.exec(name, request, streams).await?;
        let (stdout, stderr, exit_code) = tokio::join!(collect(out), collect(err), session.wait());
        let ((stdout, more_out), (stderr, more_err)) = (stdout.map_err(failed)?, stderr.map_err(failed)?);
        Ok(ExecOutput { exit_code: exit_code?, stdout, stderr, truncated: more_out || more_err })
    }

    /// Starts a command, with the caller's own descriptors as its streams (those left out are /dev/null), or with a
    /// terminal.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`], [`EngineError::InvalidSpec`],
    /// [`EngineError::CommandNotFound`], [`EngineError::CommandNotExecutable`], [`EngineError::LaunchFailed`].
    pub async fn exec(
        &self,
        name: &str,
        request: ExecRequest,
        streams: Streams,
    ) -> Result<ExecSession, EngineError> {
        let container = self.find(name)?;
        let live = self.live(&container.row.id)?;
        let wrong = || EngineError::WrongState {
            attempted: "run a command in",
            name: container.row.name.clone(),
            state: live.phase,
            wanted: "running",
        };
        if !matches!(live.phase, Phase::Running | Phase::Stopping) {
            return Err(wrong());
        }
        let init = live.told.as_ref().and_then(|told| told.init).ok_or_else(wrong)?;
        let process = self.exec_process(&container, &request)?;
        let id = super::names::new_id()?;
        let message = json!({
            "record": {"id": id, "directory": self.sessions_directory(&container.row.id)?, "user": request.user},
            "detached": request.detached,
            "leader": init.pid,
            "leader_start_time": init.start_time,
            "cgroup": self.cgroup_path(&container.row.id),
            "process": process.0,
            "seccomp": process.1,
            "events": (!request.unasked).then(|| json!({
                "id": container.row.id, "name": container.row.name, "exec": id, "path": self.paths().events()})),
        });
        if !request.unasked {
            let event = Event::new(EventKind::Exec, "create", &container.row.id, &container.row.name);
            self.record(&Event { exec: Some(id.clone()), ..event });
        }
        let failed = |attempted: &str, reason: String| EngineError::Failed {
            attempted: format!("{attempted} a session in {:?}", container.row.name),
            reason,
        };
        let message = serde_json::to_vec(&message).map_err(|error| failed("describe", error.to_string()))?;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed("connect to", errno.to_string()))?;
        let request_file = request_file(&message).map_err(|error| failed("describe", error.to_string()))?;
        let [stdin, stdout, stderr] =
            streams.filled().map_err(|error| failed("open /dev/null for", error.to_string()))?;
        let passed = [&request_file, &stdin, &stdout, &stderr].map(AsFd::as_fd);
        super::attach::send_packet(ours.as_fd(), b"Q", &passed)
            .map_err(|errno| failed("pass descriptors to", errno.to_string()))?;
        let mut child = Command::new(self.program())
            .arg("exec-session")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed("execute", error.to_string()))?;
        drop((request_file, stdin, stdout, stderr));
        // It must be reaped while this process lives, and ends by itself with its command, perhaps later.
        std::thread::Builder::new()
            .stack_size(16 << 10)
            .spawn(move || child.wait())
            .map_err(|error| failed("watch", error.to_string()))?;
        let socket = crate::readiness::watch(ours, Interest::READABLE)
            .map_err(|error| failed("hear from", error.to_string()))?;
        let command = request.command.first().cloned().unwrap_or_default();
        let mut terminal = None;
        loop {
            match receive(&socket).await.map_err(|errno| failed("hear from", errno.to_string()))? {
                Packet::Terminal(fd) => terminal = Some(fd),
                Packet::Pid(pid) => return Ok(ExecSession { socket, id, pid, terminal }),
                Packet::Failed { step, errno, message } => {
                    return Err(launch::command_error(container.row.name, command, step, errno, message));
                }
                Packet::Exited(_) | Packet::End => {
                    return Err(failed("start", "it ended without an answer".to_owned()));
                }
            }
        }
    }

    /// The process and its seccomp filter, as OCI has them.
    pub(super) fn exec_process(
        &self,
        container: &Container,
        request: &ExecRequest,
    ) -> Result<(serde_json::Value, Option<serde_json::Value>), EngineError> {
        let definition = &container.definition;
        let invalid = |field: &str, reason: &str| EngineError::InvalidSpec {
            field: field.into(),
            reason: reason.into(),
        };
        if request.command.first().is_none_or(String::is_empty) {
            return Err(invalid("command", "nothing to run is given"));
        }
        if request.command.iter().any(|argument| argument.contains('\0')) {
            return Err(invalid("command", "a NUL byte can't be passed to a program"));
        }
        if request
            .env
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
        {
            return Err(invalid("env", "a variable has a name without '=', and no NUL byte"));
        }
        let workdir = request.workdir.as_deref().unwrap_or(&definition.workdir);
        if !workdir.starts_with('/') || workdir.contains('\0') {
            return Err(invalid("workdir", "it is not absolute"));
        }
        let view = RootView::new(self, container)?;
        let wanted = request.user.as_deref().unwrap_or(&definition.user);
        let user = passwd::look_up(&view, wanted, &definition.spec.groups)?;
        let mut env = definition.env.clone();
        env.entry("HOME".to_owned()).or_insert_with(|| user.home.clone());
        if request.terminal {
            env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
        }
        env.extend(self.secret_variables(container)?);
        env.extend(request.env.clone());
        let env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let capabilities =
            if request.privileged { capabilities::available() } else { oci::capabilities(definition)? };
        let effective: &[String] = if user.uid == 0 || request.privileged { &capabilities } else { &[] };
        let mut process = json!({
            "terminal": request.terminal,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups,
                     "umask": definition.spec.umask.unwrap_or(0o022)},
            "args": request.command,
            "env": env,
            "cwd": workdir,
            "capabilities": {"bounding": capabilities, "effective": effective, "permitted": effective,
                             "inheritable": [], "ambient": []},
            "noNewPrivileges": definition.spec.no_new_privileges,
        });
        if let Some((rows, columns)) = request.size {
            process["consoleSize"] = json!({"height": rows, "width": columns});
        }
        let filter = match &definition.spec.seccomp {
            _ if request.privileged => None,
            Seccomp::Default => Some(seccomp::default_profile(&capabilities::typed(&capabilities))),
            _ => oci::seccomp_profile(definition, &capabilities)?,
        };
        let filter = filter.and_then(|filter| serde_json::to_value(filter).ok());
        Ok((process, filter))
    }
}

impl ExecSession {
    /// What can be told to the command while [`Self::wait`] is waited for.
    pub fn control(&self) -> ExecControl {
        ExecControl { socket: self.socket.get_ref().try_clone().ok() }
    }

    /// Waits for the command's end. Dropped before, the command is sent SIGHUP.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where the session was killed.
    pub async fn wait(self) -> Result<i32, EngineError> {
        let failed =
            |reason: String| EngineError::Failed { attempted: "wait for the command".to_owned(), reason };
        loop {
            match receive(&self.socket).await.map_err(|errno| failed(errno.to_string()))? {
                Packet::Exited(code) => return Ok(code),
                Packet::End => {
                    return Err(failed("its session was killed, and how it ended is unknown".to_owned()));
                }
                _ => {}
            }
        }
    }
}

enum Packet {
    Terminal(OwnedFd),
    Pid(i32),
    Exited(i32),
    Failed { step: String, errno: i32, message: String },
    End,
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> Result<Packet, rustix::io::Errno> {
    let mut buffer = vec![0; PACKET_MAX_BYTES];
    loop {
        let mut guard = socket
            .readable()
            .await
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            socket.get_ref(),
            &mut [std::io::IoSliceMut::new(&mut buffer)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        let length = match received {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN) => {
                guard.clear_ready();
                continue;
            }
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno),
        };
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let number = |bytes: &[u8]| Some(i32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?));
        return match (&buffer[..length], fd) {
            ([b'T', ..], Some(fd)) => Ok(Packet::Terminal(fd)),
            (bytes @ [b'P', ..], _) => number(bytes).map(Packet::Pid).ok_or(rustix::io::Errno::PROTO),
            (bytes @ [b'X', ..], _) => number(bytes).map(Packet::Exited).ok_or(rustix::io::Errno::PROTO),
            ([b'E', text @ ..], _) => {
                let text = String::from_utf8_lossy(text).into_owned();
                let mut fields = text.splitn(3, '\t').map(str::to_owned);
                Ok(Packet::Failed {
                    step: fields.next().unwrap_or_default(),
                    errno: fields.next().and_then(|errno| errno.parse().ok()).unwrap_or_default(),
                    message: fields.next().unwrap_or_default(),
                })
            }
            ([], _) => Ok(Packet::End),
            _ => Err(rustix::io::Errno::PROTO),
        };
    }
}

/// The request lies in a memory file: no limit of a packet's size applies, and nothing is left on a disk.
fn request_file(message: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create("dormouse-exec", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(message)?;
    file.rewind()?;
    Ok(file.into())
}

pub(super) fn pipe_pair() -> std::io::Result<(tokio::net::unix::pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((tokio::net::unix::pipe::Receiver::from_owned_fd(read)?, write))
}

/// Reads to the end, keeps the beginning, and tells whether there was more.
async fn collect(pipe: tokio::net::unix::pipe::Receiver) -> std::io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let mut limited = pipe.take(COLLECTED_MAX_BYTES);
    limited.read_to_end(&mut kept).await?;
    let mut rest = limited.into_inner();
    let more = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok((kept, more > 0))
}
