//! Prepares what the benchmarks need, and runs them: they are in `benches/figures`.

use std::process::Command;

use crate::dependencies::{self, Purpose};
use crate::images::{self, Image};
use crate::program::{Result, need_root, run};
use crate::{cgroups, workspace};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only figures whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// table for people, json for programs
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,

    /// Divides the number of repetitions: quicker, and less exact
    #[arg(long, default_value_t = 1, value_name = "DIVISOR")]
    hurry: u32,
}

pub fn main(arguments: &Arguments) -> Result<()> {
    need_root("containers of several engines are run side by side")?;
    dependencies::install(&[Purpose::Build, Purpose::Images, Purpose::Bench])?;
    cgroups::leave_none_to_version_2()?;
    for image in [Image::Busybox, Image::BookwormSystemd] {
        images::make(image)?;
    }
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args([
        "bench",
        "--quiet",
        "--package",
        "dormouse",
        "--bench",
        "figures",
        "--",
    ]);
    for name in &arguments.only {
        command.args(["--only", name]);
    }
    command.args(["--format", &arguments.format, "--hurry", &arguments.hurry.to_string()]);
    command.env("DORMOUSE_BENCH_IMAGES", workspace::images());
    run(&mut command)
}
