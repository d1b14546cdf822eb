//! Installs varlink clients that others wrote, for the tests to drive the service with.

use std::process::Command;

use crate::dependencies::{self, Purpose};
use crate::program::{Result, run_quietly};
use crate::workspace;

/// Their versions are fixed: a test should fail for what we changed.
const PYPI: &[&str] = &["varlink==31.0.0", "podman==1.6.0"];
const CRATE: (&str, &str) = ("varlink-cli", "5.0.0");

/// Below `target/clients`: a Python environment, and the `varlink` command beside it.
pub fn make() -> Result<()> {
    let place = workspace::target().join("clients");
    let done = place.join(format!("{} {} {}", PYPI.join(" "), CRATE.0, CRATE.1));
    if done.exists() {
        return Ok(());
    }
    println!("installing varlink clients");
    run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    // Not by the script bin/pip, which names the place where it was made.
    run_quietly(
        Command::new(place.join("bin/python3")).args(["-m", "pip", "install", "--quiet"]).args(PYPI),
    )?;
    run_quietly(
        Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--debug", CRATE.0, "--version", CRATE.1, "--root"])
            .arg(&place),
    )?;
    std::fs::write(&done, "").map_err(crate::program::on_file("write", &done))
}

pub fn main() -> Result<()> {
    dependencies::install(&[Purpose::Build, Purpose::Test])?;
    make()
}
