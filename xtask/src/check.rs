//! Format, lints and tidiness: what needs no running container.

use std::process::Command;

use crate::program::{Failure, Result, run};
use crate::{dependencies, docs, tidy, workspace};

pub fn main() -> Result<()> {
    dependencies::install_rust_components()?;
    let failed: Vec<&str> = all().into_iter().filter(|(_, passed)| !passed).map(|(name, _)| name).collect();
    if failed.is_empty() {
        println!("format, lints, tidiness and documentation are in order");
        return Ok(());
    }
    Err(Failure::Unsuccessful { what: format!("not in order: {}", failed.join(", ")) })
}

/// Runs every check, each told by its name, and whether it passed. They tell what is wrong themselves.
pub fn all() -> Vec<(&'static str, bool)> {
    vec![
        ("format", format()),
        ("lints", lints()),
        ("tidiness", tidiness()),
        ("documentation", documentation()),
    ]
}

fn format() -> bool {
    println!("checking the format");
    told(run(cargo().args(["fmt", "--all", "--check"])))
}

fn lints() -> bool {
    println!("checking with clippy");
    told(run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"])))
}

fn tidiness() -> bool {
    println!("checking tidiness");
    without_violations(tidy::violations(&workspace::root()))
}

fn documentation() -> bool {
    println!("checking the documentation");
    without_violations(docs::violations(&workspace::root()))
}

fn without_violations(violations: Result<Vec<String>>) -> bool {
    match violations {
        Ok(violations) => {
            for violation in &violations {
                eprintln!("{violation}");
            }
            violations.is_empty()
        }
        Err(failure) => told(Err(failure)),
    }
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root());
    command
}

fn told(result: Result<()>) -> bool {
    if let Err(failure) = &result {
        eprintln!("{}", crate::program::with_causes(failure));
    }
    result.is_ok()
}
