//! The manual pages, as the program itself describes its commands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::dependencies::{self, Purpose};
use crate::program::{Result, on_file, run, run_quietly};
use crate::workspace;

/// Compiles, and writes the pages below target/man/man1.
///
/// # Errors
/// A program that fails, files that can't be written.
pub fn main() -> Result<()> {
    dependencies::install(&[Purpose::Build])?;
    run(Command::new("cargo")
        .current_dir(workspace::root())
        .args(["build", "--quiet", "--bin", "dormouse"]))?;
    let directory = workspace::target().join("man/man1");
    write(&workspace::target().join("debug/dormouse"), &directory)?;
    println!("{}", directory.display());
    Ok(())
}

/// Has `binary` write its pages to `directory`, where nothing else will be.
///
/// # Errors
/// As [`main`].
pub fn write(binary: &Path, directory: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(on_file("remove", directory)(error));
        }
        _ => {}
    }
    fs::create_dir_all(directory).map_err(on_file("make", directory))?;
    run_quietly(Command::new(binary).arg("man").arg(directory))
}
