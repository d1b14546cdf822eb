//! `dormouse completions`

use clap::Args;

use crate::cli::completion;
use crate::cli::errors::CliError;
use crate::cli::streams::print;

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse completions bash > /etc/bash_completion.d/dormouse
  dormouse completions zsh > /usr/share/zsh/site-functions/_dormouse
  dormouse completions fish > ~/.config/fish/completions/dormouse.fish

Names of containers, images, networks and the like are asked of the service at that moment.")]
pub struct Completions {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL")]
    shell: String,
}

impl Completions {
    pub fn run(self) -> Result<(), CliError> {
        print(&String::from_utf8_lossy(&completion::script(&self.shell)?))
    }
}
