//! The main job from nothing to nothing: a call on a socket wakes the service, it boots a systemd container, and it goes
//! back to sleep while a container goes on.
//!
//! Everything after the building is done by varlink calls, with a client that is not the project's own. What is printed is
//! checked; the exit code is 0 only if all of it was true. Whatever was made is removed again, also after Ctrl-C.

mod activation;
mod script;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dependencies::{self, Purpose};
use crate::images::{self, Image};
use crate::program::{Result, need_root, on_file, run};
use crate::undo::Undo;
use crate::{undo, workspace};

use activation::Activation;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The Debian release in the container: bookworm has systemd 252, trixie has 257
    #[arg(long, default_value = "bookworm", value_parser = ["bookworm", "trixie"])]
    suite: String,

    /// Use this binary instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

pub fn main(arguments: &Arguments) -> Result<()> {
    let undo = Undo::at_the_end();
    let result = demonstrate(arguments);
    drop(undo);
    result
}

fn demonstrate(arguments: &Arguments) -> Result<()> {
    script::heading("Preparing");
    dependencies::install(&[Purpose::Build, Purpose::Images, Purpose::Demo])?;
    need_root("the demonstration runs containers of the system")?;
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().map_err(on_file("find", binary))?,
        None => {
            println!("  building a release binary");
            run(Command::new("cargo").current_dir(workspace::root()).args([
                "build",
                "--quiet",
                "--release",
                "--bin",
                "dormouse",
            ]))?;
            workspace::target().join("release/dormouse")
        }
    };
    let machine = images::make(if arguments.suite == "trixie" {
        Image::TrixieSystemd
    } else {
        Image::BookwormSystemd
    })?;
    let small = images::make(Image::Busybox)?;
    println!(
        "  the binary is {}, the images are {} and {}",
        binary.display(),
        machine.display(),
        small.display()
    );

    let place = tempfile::Builder::new()
        .prefix("dormouse-demo-")
        .tempdir()
        .map_err(on_file("make", Path::new("a temporary directory")))?
        .keep();
    let removed = place.clone();
    undo::later(move || {
        if let Err(error) = std::fs::remove_dir_all(&removed) {
            eprintln!("cannot remove {}: {error}", removed.display());
        }
    });
    let activation = Activation::start(&binary, &place)?;
    let guard = activation.clone();
    undo::later(move || guard.stop());
    let socket = activation.socket().to_owned();
    undo::later(move || script::remove_everything(&socket));
    script::play(&activation, &machine, &small)
}
