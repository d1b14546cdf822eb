//! The project's chores: install what is missing, make test images, check, test, measure, and show the main job.
//!
//! `cargo xtask --help` tells what there is. Each chore starts from nothing and repeats only what is out of date.

mod cgroups;
mod check;
mod clients;
mod deb;
mod demo;
mod dependencies;
mod docs;
mod images;
mod man;
mod measure;
mod pictures;
mod program;
mod runner;
mod tidy;
mod undo;
mod varlink;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the dormouse project. Each of them can be called on a fresh Debian machine, as root.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Do the main job from nothing: build, make a systemd image, activate the socket, boot it through varlink, look
    /// inside, stop it, and show that the service sleeps while a second container goes on
    Demo(demo::Arguments),
    /// Install what is missing, check, and run every test; ends with a line `N passed, N failed, N skipped`
    Test(runner::Arguments),
    /// Measure dormouse side by side with crun, podman, conmon and systemd-nspawn, and print a table of ratios
    Bench(measure::Arguments),
    /// Check format, lints, and the rules of the source tree
    Check,
    /// Make the images that tests use, below target/images
    Images(images::Arguments),
    /// Install varlink clients that others wrote, below target/clients; tests use them
    Clients,
    /// Write the manual pages, below target/man
    Man,
    /// Make the Debian package, below target/deb
    Deb(deb::Arguments),
    /// Write the reference of the varlink interfaces, docs/api, anew
    Docs,
    /// Draw the pictures of the terminal, docs/pictures, anew: of real commands, on a real terminal
    Pictures(pictures::Arguments),
    /// A shell in a virtual host: Debian 13, systemd as PID 1, cgroup v2
    Vm(vm::ShellArguments),
    /// Run the checks of tests/vm in a virtual host with dormouse's package installed
    VmTest(vm::TestArguments),
    /// Install the Debian packages that are missing
    InstallDependencies(dependencies::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Demo(arguments) => demo::main(&arguments),
        Chore::Test(arguments) => runner::main(&arguments),
        Chore::Bench(arguments) => measure::main(&arguments),
        Chore::Check => check::main(),
        Chore::Images(arguments) => images::main(&arguments),
        Chore::Clients => clients::main(),
        Chore::Man => man::main(),
        Chore::Deb(arguments) => deb::main(&arguments),
        Chore::Docs => docs::main(),
        Chore::Pictures(arguments) => pictures::main(&arguments),
        Chore::Vm(arguments) => vm::shell(&arguments),
        Chore::VmTest(arguments) => vm::test(&arguments),
        Chore::InstallDependencies(arguments) => dependencies::main(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cargo xtask: {}", program::with_causes(&failure));
            ExitCode::FAILURE
        }
    }
}
