//! The second disk of the virtual host: dormouse's package, and the checks.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::deb;
use crate::program::{Result, on_file, run_quietly};
use crate::workspace;

/// How many activations in a row are checked; see tests/vm/checks/1-20-activation.sh.
const ACTIVATIONS: &str = "DORMOUSE_VM_ACTIVATIONS";

/// Which binary is installed in the guest.
#[derive(Debug, Default, clap::Args)]
pub struct Build {
    /// Install this package instead of building one
    #[arg(long, value_name = "DEB")]
    package: Option<PathBuf>,

    /// Build with optimisations, as for a release
    #[arg(long)]
    release: bool,
}

/// Makes the disk anew.
///
/// # Errors
/// Programs that fail.
pub fn make(build: &Build, filter: Option<&str>) -> Result<PathBuf> {
    let package = match &build.package {
        Some(package) => package.clone(),
        None => deb::build(if build.release { deb::Profile::Release } else { deb::Profile::Dev }, "1")?,
    };
    // A newer version of the same, to upgrade to.
    let newer = match &build.package {
        Some(package) => package.clone(),
        None => deb::package(if build.release { deb::Profile::Release } else { deb::Profile::Dev }, "2")?,
    };
    let dir = super::directory();
    let tree = tempfile::tempdir_in(&dir).map_err(on_file("make a directory in", &dir))?;
    let tree = tree.path();
    for (file, name) in [(&package, "dormouse.deb"), (&newer, "dormouse-newer.deb")] {
        fs::copy(file, tree.join(name)).map_err(on_file("copy", file))?;
    }
    let checks = workspace::root().join("tests/vm");
    for name in ["run", "library.sh", "checks"] {
        run_quietly(Command::new("cp").arg("--recursive").arg(checks.join(name)).arg(tree))?;
    }
    let page = workspace::root().join("docs/peers.md");
    fs::copy(&page, tree.join("peers.md")).map_err(on_file("copy", &page))?;
    let filter_file = tree.join("filter");
    fs::write(&filter_file, filter.unwrap_or_default()).map_err(on_file("write", &filter_file))?;
    if let Ok(number) = std::env::var(ACTIVATIONS) {
        let file = tree.join("activations");
        fs::write(&file, number).map_err(on_file("write", &file))?;
    }
    let image = dir.join("payload.img");
    super::root::make_file_system(tree, &image, "256M", "vm-checks")?;
    Ok(image)
}
