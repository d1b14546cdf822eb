//! `dormouse man`: the manual pages, made from what `--help` says. For the package; hidden from people.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};

use crate::cli::Cli;
use crate::cli::errors::CliError;

/// Write the manual pages
#[derive(Debug, Args)]
pub struct Man {
    /// Where to
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Man {
    pub fn run(self) -> Result<(), CliError> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        write_pages(&command, &self.directory).map_err(|error| {
            CliError::io(format!("write manual pages to {}", self.directory.display()), &error)
        })
    }
}

/// The page of a command, and those of the commands below it: `dormouse-network-create.1`.
fn write_pages(command: &Command, directory: &Path) -> std::io::Result<()> {
    let page = clap_mangen::Man::new(command.clone())
        .source(format!("dormouse {}", env!("CARGO_PKG_VERSION")))
        .manual("dormouse");
    page.generate_to(directory)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        write_pages(below, directory)?;
    }
    Ok(())
}
