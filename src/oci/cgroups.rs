//! Which cgroup a container gets.

use oci_spec::runtime::Spec;

use super::Context;
use super::error::OciError;
use super::scope::{self, Scope};
use crate::runtime::Cgroup;
use crate::runtime::cgroup::{self, CgroupError};

/// Where containers are whose specification says nothing.
pub const DEFAULT_PARENT: &str = "/dormouse-runtime";

/// The place that was chosen.
#[derive(Debug)]
pub struct Place {
    /// Its path in all hierarchies; [`cgroup::NONE`] for those who may not make any, and on a host without.
    pub path: String,
    /// Whether it was there before, and is not ours to remove.
    pub was_there: bool,
    /// The scope that it is in, held until the container is.
    pub scope: Option<Scope>,
}

/// Chooses it, and has systemd make it where that is asked for.
///
/// # Errors
/// [`OciError::Scope`], [`OciError::Cgroup`].
pub fn choose(context: &Context, spec: &Spec, id: &str) -> Result<Place, OciError> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let wanted = wanted.map(|path| path.to_string_lossy().into_owned()).filter(|path| !path.is_empty());
    if context.systemd_cgroup {
        let scope = scope::make(wanted.as_deref(), id)?;
        return Ok(Place { path: scope.container_cgroup(), was_there: false, scope: Some(scope) });
    }
    let path = wanted.unwrap_or_else(|| format!("{DEFAULT_PARENT}/{id}"));
    let none = Place { path: cgroup::NONE.to_owned(), was_there: false, scope: None };
    match Cgroup::open(&path) {
        // An ordinary user to whom nothing is delegated does without; limits are refused later.
        Ok(cgroup) if is_ordinary() && !cgroup.can_be_made() => Ok(none),
        Ok(cgroup) => {
            let was_there = cgroup.exists();
            if was_there && !cgroup.processes()?.is_empty() {
                return Err(CgroupError::Busy { path: path.into() }.into());
            }
            Ok(Place { was_there, path, scope: None })
        }
        Err(CgroupError::NotMounted) => Ok(none),
        Err(error) => Err(error.into()),
    }
}

fn is_ordinary() -> bool {
    !rustix::process::geteuid().is_root() || crate::identity::in_user_namespace()
}
