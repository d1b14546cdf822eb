//! A real host: Debian 13 with systemd as PID 1 and cgroup v2 alone, booted under qemu, with dormouse installed from its
//! package.
//!
//! `cargo xtask vm-test` runs the checks of `tests/vm/checks` inside it; `cargo xtask vm` gives a shell in it. The root
//! file system is made once and kept below `target/vm`; what a guest writes is thrown away with it.

mod payload;
mod qemu;
mod root;

use std::time::{Duration, Instant};

use crate::dependencies::{self, Purpose};
use crate::program::{Failure, Result, exists, need_root};
use crate::runner::Tally;
use crate::undo::Undo;
use crate::workspace;

use qemu::{End, Guest};

/// After this time the guest is ended, whatever it does.
const LIMIT: Duration = Duration::from_secs(1500);

#[derive(Debug, clap::Args)]
pub struct ShellArguments {
    #[command(flatten)]
    build: payload::Build,
}

#[derive(Debug, clap::Args)]
pub struct TestArguments {
    #[command(flatten)]
    build: payload::Build,

    /// Only checks whose name matches this (an extended regular expression); those that prepare the host run all the same
    filter: Option<String>,
}

/// `cargo xtask vm`
pub fn shell(arguments: &ShellArguments) -> Result<()> {
    // No undoing on Ctrl-C: that is for the guest.
    prepare()?;
    let root = root::make()?;
    let payload = payload::make(&arguments.build, None)?;
    println!("root logs in by itself; `poweroff` leaves. dormouse's package is on the disk LABEL=vm-checks");
    Guest::interactive(&root, &payload)
}

/// `cargo xtask vm-test`
pub fn test(arguments: &TestArguments) -> Result<()> {
    let undo = Undo::at_the_end();
    let tally = run(&arguments.build, arguments.filter.as_deref());
    drop(undo);
    let tally = tally?;
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed == 0 {
        return Ok(());
    }
    std::process::exit(1);
}

/// Why there can be no virtual machine here; `None` where there can.
pub fn impossible() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the virtual host is made for x86_64".to_owned());
    }
    if !exists("qemu-system-x86_64")
        && let Err(failure) = dependencies::install(&[Purpose::Vm])
    {
        return Some(format!("there is no qemu-system-x86_64: {failure}"));
    }
    None
}

/// As part of all tests: with the binary that they have built already.
pub fn run_as_part_of_all() -> Result<Tally> {
    run(&payload::Build::default(), None)
}

fn prepare() -> Result<()> {
    dependencies::install(&[Purpose::Build, Purpose::Images, Purpose::Vm])?;
    need_root("a root file system keeps the owners of its files")
}

fn run(build: &payload::Build, filter: Option<&str>) -> Result<Tally> {
    let since = Instant::now();
    prepare()?;
    let root = root::make()?;
    let payload = payload::make(build, filter)?;
    let accelerator = qemu::accelerator(&root);
    println!("booting a host with systemd 257 under qemu ({accelerator})");
    let mut tally = Tally::default();
    let mut guest = Guest::boot(&root, &payload, accelerator, LIMIT)?;
    let end = guest.follow(|line| {
        println!("  {line}");
        match line.split(' ').next() {
            Some("ok") => tally.passed += 1,
            Some("FAILED") => tally.failed += 1,
            Some("SKIPPED") => tally.skipped += 1,
            _ => {}
        }
    });
    let seconds = since.elapsed().as_secs();
    match end {
        End::Done => println!("the checks in the virtual host took {seconds} s"),
        other => {
            println!("  FAILED the virtual host: {other}");
            for line in guest.last_words() {
                println!("  | {line}");
            }
            println!("  its whole console is in {}", guest.console().display());
            tally.failed += 1;
        }
    }
    if tally.passed + tally.failed + tally.skipped == 0 {
        return Err(Failure::Unsuccessful { what: format!("no check was run; the filter is {filter:?}") });
    }
    Ok(tally)
}

/// Where everything about virtual hosts lies.
fn directory() -> std::path::PathBuf {
    workspace::target().join("vm")
}
