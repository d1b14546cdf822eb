//! What crun wants of the host's cgroups, where they are of both versions: it refuses to start anything while the cgroup2
//! hierarchy of such a host has a controller, whatever that is ("cgroups in hybrid mode not supported").

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::{Result, need_root, on_file, run_quietly};

const HIERARCHIES: &str = "/sys/fs/cgroup";
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Gives each controller that is left in the cgroup2 hierarchy of a hybrid host a v1 hierarchy, as the others have. Does
/// nothing on other hosts.
///
/// # Errors
/// Without root; what mount(8) says.
pub fn leave_none_to_version_2() -> Result<()> {
    let unified = Path::new(UNIFIED);
    let Ok(left) = fs::read_to_string(unified.join("cgroup.controllers")) else { return Ok(()) };
    for controller in left.split_whitespace() {
        need_root("crun starts nothing while a cgroup2 hierarchy beside v1 ones has a controller")?;
        println!(
            "mounting a v1 hierarchy for the controller {controller}, without which crun does not start"
        );
        disable(unified, controller)?;
        let place = Path::new(HIERARCHIES).join(controller);
        fs::create_dir_all(&place).map_err(on_file("make", &place))?;
        run_quietly(Command::new("mount").args(["-t", "cgroup", "-o", controller, "cgroup"]).arg(&place))?;
    }
    Ok(())
}

/// A controller can change its hierarchy only while no cgroup of the old one uses it: what containers left enabled is
/// disabled, those below first.
fn disable(cgroup: &Path, controller: &str) -> Result<()> {
    for entry in fs::read_dir(cgroup).map_err(on_file("read", cgroup))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            disable(&entry.path(), controller)?;
        }
    }
    let file = cgroup.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).map_err(on_file("read", &file))?;
    if enabled.split_whitespace().any(|name| name == controller) {
        fs::write(&file, format!("-{controller}")).map_err(on_file("write", &file))?;
    }
    Ok(())
}
