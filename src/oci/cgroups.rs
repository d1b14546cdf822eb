//! Which cgroup a container gets.

use oci_spec::runtime::Spec;

use super::Context;
use super::error::OciError;
use super::scope::{self, Scope};
use crate::runtime::Cgroup;
use crate::runtime::cgroup::CgroupError;

/// Where containers are whose specification says nothing.
const DEFAULT_PARENT: &str = "/dormouse-runtime";

/// The place that was chosen.
#[derive(Debug, Default)]
pub struct Place {
    /// Its path in all hierarchies.
    pub path: Option<String>,
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
        return Ok(Place { path: Some(scope.container_cgroup()), was_there: false, scope: Some(scope) });
    }
    let path = wanted.unwrap_or_else(|| format!("{DEFAULT_PARENT}/{id}"));
    match Cgroup::open(&path) {
        Ok(cgroup) => {
            let was_there = cgroup.exists();
            if was_there && !cgroup.processes()?.is_empty() {
                return Err(CgroupError::Busy { path: path.into() }.into());
            }
            Ok(Place { was_there, path: Some(path), scope: None })
        }
        Err(CgroupError::NotMounted) => Ok(Place::default()),
        Err(error) => Err(error.into()),
    }
}
