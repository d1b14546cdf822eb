//! The host's binary out of the payload's reach (CVE-2019-5736).
//!
//! What makes processes in containers runs from a copy of the binary's mount that can't be written to, or, where this user
//! may not mount, from a sealed copy in memory. `/proc/PID/exe` leads nowhere else then, also for a container that runs it
//! as `#!/proc/self/exe`.

use std::ffi::{CString, OsString};
use std::io::Seek as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::error::OciError;
use crate::runtime;

/// Set by this process for itself.
const MARK: &str = "_DORMOUSE_RUNTIME_SEALED";
const EXE: &str = "/proc/self/exe";

/// Returns where this process is out of reach already, or need not be; else it goes on as the same program, out of reach.
///
/// # Errors
/// [`OciError::Host`].
pub fn ensure(arguments: &[OsString]) -> Result<(), OciError> {
    let makes_processes =
        arguments.iter().any(|word| ["create", "run", "exec"].iter().any(|verb| word == verb));
    if !makes_processes || (std::env::var_os(MARK).is_some() && is_sealed()) {
        return Ok(());
    }
    let failed =
        |errno: Errno| OciError::Host { what: "run out of the reach of containers", source: errno.into() };
    let program = match runtime::read_only_program() {
        Err(Errno::PERM) => copy().map_err(|source| OciError::Host { what: "copy this program", source })?,
        other => other.map_err(failed)?,
    };
    let c_string = |bytes: Vec<u8>| CString::new(bytes).unwrap_or_default();
    let words = std::env::args_os().map(|word| c_string(word.into_vec())).collect();
    let mut environment: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| c_string([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect();
    environment.push(c_string(format!("{MARK}=1").into_bytes()));
    Err(failed(runtime::execute_again(program.as_fd(), words, environment)))
}

/// Whether the program that runs can't be written to, by whatever path.
fn is_sealed() -> bool {
    let read_only =
        rustix::fs::statvfs(EXE).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    let in_memory =
        || std::fs::read_link(EXE).is_ok_and(|path| path.as_os_str().as_bytes().starts_with(b"/memfd:"));
    read_only || in_memory()
}

fn copy() -> std::io::Result<OwnedFd> {
    let mut memory = std::fs::File::from(rustix::fs::memfd_create(
        "dormouse-runtime",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    std::io::copy(&mut std::fs::File::open(EXE)?, &mut memory)?;
    memory.rewind()?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, all)?;
    Ok(memory.into())
}
