//! Cgroups made by systemd (`--systemd-cgroup`): a scope for each container, and the container in a leaf of it.
//!
//! ```text
//! SLICE/PREFIX-NAME.scope/            systemd's, handed over (Delegate=yes)
//! SLICE/PREFIX-NAME.scope/holder      a process that is there only so that a scope can be, until the container is
//! SLICE/PREFIX-NAME.scope/container   the container, with its limits
//! ```
//!
//! Limits are in the leaf, which systemd never writes to; so nothing has to be told twice.

use std::io::Read as _;
use std::process::{Child, Command, ExitCode, Stdio};

use super::error::{OciError, with_causes};
use crate::runtime::Cgroup;
use crate::runtime::cgroup::{self, Layout};
use crate::systemd::host::{self, NamedScope};

const HOLDER: &str = "holder";
const LEAF: &str = "container";

/// A scope, and the process that holds it.
#[derive(Debug)]
pub struct Scope {
    /// The unit's name.
    pub unit: String,
    cgroup: String,
    holder: Child,
}

/// The role of the process that holds a scope: it waits until it may go.
pub fn hold() -> ExitCode {
    let mut nothing = Vec::new();
    // Whoever made it closes the other end, in whichever way it ends.
    let _ = std::io::stdin().read_to_end(&mut nothing);
    ExitCode::SUCCESS
}

/// Makes one, of `SLICE:PREFIX:NAME`.
///
/// # Errors
/// [`OciError::Scope`].
pub fn make(path: Option<&str>, id: &str) -> Result<Scope, OciError> {
    let refused = |reason: String| OciError::Scope { reason };
    if !matches!(cgroup::layout(), Ok(Layout::V2)) {
        return Err(refused(
            "--systemd-cgroup needs a host with cgroup v2 alone; leave it out here".to_owned(),
        ));
    }
    let default = format!("system.slice:dormouse-runtime:{id}");
    let parts: Vec<&str> = path.unwrap_or(&default).split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(refused(format!("cgroupsPath {:?} is not SLICE:PREFIX:NAME", path.unwrap_or_default())));
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    let holder = Command::new("/proc/self/exe")
        .args(["runtime", "hold"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| refused(format!("cannot make a process to hold the scope: {error}")))?;
    let pid = i32::try_from(holder.id()).unwrap_or_default();
    let mut scope = Scope { unit, cgroup: String::new(), holder };
    let description = format!("dormouse-runtime container {id}");
    host::start_named_scope(&NamedScope { unit: &scope.unit, slice, description: &description, pid })
        .map_err(|error| refused(with_causes(&error)))?;
    scope.cgroup = Cgroup::path_of(pid)?;
    // A cgroup with processes of its own has no controllers for those below.
    Cgroup::open(&format!("{}/{HOLDER}", scope.cgroup))?.take_in(pid)?;
    Ok(scope)
}

impl Scope {
    /// The leaf for the container.
    pub fn container_cgroup(&self) -> String {
        format!("{}/{LEAF}", self.cgroup)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // Its end is all that it waits for. A scope that is empty then goes by itself.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        if let Ok(cgroup) = Cgroup::open(&format!("{}/{HOLDER}", self.cgroup)) {
            let _ = cgroup.remove();
        }
    }
}
