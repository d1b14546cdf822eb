//! The commands that run in containers, for whoever did not start them. Each session tells of itself in a file of its
//! container's run directory, and takes that away when it ends, unless it had no client who hears of its end: then the end
//! stays in the file, until the container is removed. A session that was killed is forgotten when it is looked for.

use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::monitor::exec_session::{DETACH_PACKET, SessionState, signal_packet, socket_name};

use super::{Engine, EngineError, sweep};

/// So many commands of a container that have ended are remembered.
const ENDED_MAX: usize = 100;
/// Below a container's run directory.
const DIRECTORY: &str = "execs";

/// A command that runs in a container beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    /// Its name: 64 hexadecimal digits.
    pub id: String,
    /// The container's id.
    pub container_id: String,
    /// The container's name.
    pub container: String,
    /// The rest.
    pub state: SessionState,
}

impl Engine {
    /// Lists the commands that run in a container, or in all, oldest first; with `ended` also those that ran without a client
    /// and have ended.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn list_execs(&self, name: Option<&str>, ended: bool) -> Result<Vec<ExecStatus>, EngineError> {
        let rows = match name {
            Some(name) => vec![self.find_row(name)?],
            None => self.store()?.containers()?,
        };
        let mut found = Vec::new();
        for row in rows {
            let directory = self.paths().run_container(&row.id).join(DIRECTORY);
            for (id, state) in sessions(&directory) {
                let (container_id, container) = (row.id.clone(), row.name.clone());
                if ended || state.ended_usec.is_none() {
                    found.push(ExecStatus { id, container_id, container, state });
                }
            }
        }
        found.sort_by_key(|exec| exec.state.started_usec);
        Ok(found)
    }

    /// A command that runs in a container, or that ran without a client and has ended.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::ExecNotFound`].
    pub fn inspect_exec(&self, name: &str, exec: &str) -> Result<ExecStatus, EngineError> {
        let row = self.find_row(name)?;
        let mut fitting =
            self.list_execs(Some(&row.id), true)?.into_iter().filter(|it| it.id.starts_with(exec));
        match (fitting.next(), fitting.next()) {
            (Some(exec), None) => Ok(exec),
            _ => Err(EngineError::ExecNotFound { name: row.name, exec: exec.to_owned() }),
        }
    }

    /// Sends a signal to a command that runs in a container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::ExecNotFound`].
    pub fn kill_exec(&self, name: &str, exec: &str, signal: i32) -> Result<(), EngineError> {
        self.tell_exec(name, exec, &signal_packet(signal))
    }

    /// Lets a command go on when its client leaves.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::ExecNotFound`].
    pub fn detach_exec(&self, name: &str, exec: &str) -> Result<(), EngineError> {
        self.tell_exec(name, exec, DETACH_PACKET)
    }

    fn tell_exec(&self, name: &str, exec: &str, packet: &[u8]) -> Result<(), EngineError> {
        let row = self.find_row(name)?;
        let not_found = || EngineError::ExecNotFound { name: row.name.clone(), exec: exec.to_owned() };
        let directory = self.paths().run_container(&row.id).join(DIRECTORY);
        let fits = |(id, state): &(String, SessionState)| id.starts_with(exec) && state.ended_usec.is_none();
        let mut fitting = sessions(&directory).into_iter().filter(fits);
        let (Some((id, _)), None) = (fitting.next(), fitting.next()) else { return Err(not_found()) };
        send(&directory, &id, packet).map_err(|errno| match errno {
            // It has ended just now.
            rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED => not_found(),
            errno => EngineError::Failed {
                attempted: format!("reach the session {id:?} in {:?}", row.name),
                reason: errno.to_string(),
            },
        })
    }

    /// The directory in which sessions of a container tell of themselves; it is made. Where many have ended, the oldest of
    /// them are forgotten.
    pub(super) fn sessions_directory(&self, id: &str) -> Result<PathBuf, EngineError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let directory = self.paths().run_container(id).join(DIRECTORY);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(EngineError::io("make", directory, error))
            }
            Err(_) => {
                forget_ended(&directory);
                Ok(directory)
            }
            Ok(()) => Ok(directory),
        }
    }
}

/// The sessions that last, and the ends that were kept; what others have left goes.
fn sessions(directory: &Path) -> Vec<(String, SessionState)> {
    if !directory.exists() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for id in sweep::entries(directory).into_iter().filter(|name| sweep::is_id(name)) {
        let text = std::fs::read(directory.join(&id)).unwrap_or_default();
        match serde_json::from_slice::<SessionState>(&text) {
            Ok(state) if state.ended_usec.is_some() || state.lasts() => found.push((id, state)),
            // Killed, or gone since.
            _ => {
                for name in [socket_name(&id), id] {
                    let _ = std::fs::remove_file(directory.join(name));
                }
            }
        }
    }
    found
}

fn forget_ended(directory: &Path) {
    // Not one file is read before there are that many.
    if sweep::entries(directory).len() <= ENDED_MAX {
        return;
    }
    let mut ended: Vec<(u64, String)> =
        sessions(directory).into_iter().filter_map(|(id, state)| Some((state.ended_usec?, id))).collect();
    ended.sort_unstable();
    for (_, id) in ended.iter().take(ended.len().saturating_sub(ENDED_MAX - 1)) {
        let _ = std::fs::remove_file(directory.join(id));
    }
}

fn send(directory: &Path, id: &str, packet: &[u8]) -> Result<(), rustix::io::Errno> {
    use std::os::fd::AsRawFd as _;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    // A path may be longer than an address has room for; the way through the directory's descriptor never is.
    let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), socket_name(id));
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sendto(&socket, packet, SendFlags::NOSIGNAL, &SocketAddrUnix::new(path)?)?;
    Ok(())
}
