//! `dormouse completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::cli::errors::CliError;
use crate::cli::streams::print;

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse completions bash > /etc/bash_completion.d/dormouse
  dormouse completions fish > ~/.config/fish/completions/dormouse.fish")]
pub struct Completions {
    /// Shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<(), CliError> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dormouse", &mut text);
        print(&String::from_utf8_lossy(&text))
    }
}
