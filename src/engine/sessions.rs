//! The commands that run in containers, for whoever did not start them. Each session tells of itself in a file of its
//! container's run directory, and takes that away when it ends; one that was killed is forgotten when it is looked for.

use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::monitor::exec_session::{DETACH_PACKET, SessionState, signal_packet, socket_name};

use super::{Engine, EngineError, sweep};

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
    /// Lists the commands that run in a container, or in all, oldest first.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn list_execs(&self, name: Option<&str>) -> Result<Vec<ExecStatus>, EngineError> {
        let rows = match name {
            Some(name) => vec![self.find_row(name)?],
            None => self.store()?.containers()?,
        };
        let mut found = Vec::new();
        for row in rows {
            let directory = self.paths().run_container(&row.id).join(DIRECTORY);
            for (id, state) in sessions(&directory) {
                let (container_id, container) = (row.id.clone(), row.name.clone());
                found.push(ExecStatus { id, container_id, container, state });
            }
        }
        found.sort_by_key(|exec| exec.state.started_usec);
        Ok(found)
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
        let mut fitting = sessions(&directory).into_iter().filter(|(id, _)| id.starts_with(exec));
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

    /// The directory in which sessions of a container tell of themselves; it is made.
    pub(super) fn sessions_directory(&self, id: &str) -> Result<PathBuf, EngineError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let directory = self.paths().run_container(id).join(DIRECTORY);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(EngineError::io("make", directory, error))
            }
            _ => Ok(directory),
        }
    }
}

/// The sessions that last; what others have left goes.
fn sessions(directory: &Path) -> Vec<(String, SessionState)> {
    if !directory.exists() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for id in sweep::entries(directory).into_iter().filter(|name| sweep::is_id(name)) {
        let text = std::fs::read(directory.join(&id)).unwrap_or_default();
        match serde_json::from_slice::<SessionState>(&text) {
            Ok(state) if state.lasts() => found.push((id, state)),
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
