//! The project's figures, each measured side by side with the program that it is compared to, in one run.
//!
//! Ours and theirs take turns, after a warm-up that is thrown away; the figure is the ratio of the medians. `cargo xtask bench`
//! installs what is needed and makes the images; `--only NAME` measures some of them, `--format json` is for programs.
//! State of both engines lies in directories of this run, and is removed again, also after Ctrl-C.

mod activation;
mod boot;
mod build;
mod crun;
mod cycle;
mod dormouse;
mod figure;
mod host;
mod images;
mod list;
mod memory;
mod nspawn;
mod oci;
mod podman;
mod unpack;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use figure::{Figure, Result};
use host::Bench;

/// Measures dormouse side by side with others.
#[derive(Debug, Parser)]
#[command(name = "figures")]
struct Arguments {
    /// Only figures whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// table for people, json for programs
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,

    /// Divides the number of repetitions: quicker, and less exact
    #[arg(long, default_value_t = 1, value_name = "DIVISOR")]
    hurry: u32,

    /// Fail if a figure is over its limit
    #[arg(long)]
    enforce: bool,

    /// Where the images are that `cargo xtask images` makes
    #[arg(long, value_name = "DIR", env = "DORMOUSE_BENCH_IMAGES")]
    images: PathBuf,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A name, and what measures it; one measurement can give several figures.
type Measurement = (&'static str, fn(&Bench) -> Result<Vec<Figure>>);

const MEASUREMENTS: &[Measurement] = &[
    ("activation", activation::measure),
    ("cycle-crun", cycle::against_crun),
    ("cycle-podman", cycle::against_podman),
    ("cycle-network", cycle::on_a_network),
    ("cycle-32", cycle::many_at_a_time),
    ("monitor-memory", memory::of_monitors),
    ("serve-memory", memory::of_services),
    ("list", list::measure),
    ("boot", boot::measure),
    ("unpack", unpack::measure),
    ("image", images::measure),
    ("build", build::measure),
    ("oci", oci::measure),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    host::watch_for_interrupts();
    let chosen = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()))
    };
    let bench = match Bench::prepare(&arguments.images, arguments.hurry.max(1)) {
        Ok(bench) => bench,
        Err(failure) => {
            eprintln!("figures: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let mut figures = Vec::new();
    let mut all_measured = true;
    for (name, measure) in MEASUREMENTS.iter().filter(|(name, _)| chosen(name)) {
        eprintln!("measuring {name}");
        match measure(&bench) {
            Ok(measured) => figures.extend(measured),
            Err(failure) => {
                eprintln!("figures: {name}: {failure}");
                all_measured = false;
            }
        }
        if host::interrupted() {
            eprintln!("figures: interrupted");
            return ExitCode::FAILURE;
        }
    }
    match arguments.format.as_str() {
        "json" => println!("{}", figure::as_json(&figures)),
        _ => print!("{}", figure::as_table(&figures)),
    }
    let held = figures.iter().all(Figure::is_held);
    if all_measured && (held || !arguments.enforce) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
