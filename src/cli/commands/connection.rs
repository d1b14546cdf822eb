//! `dormouse connection`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::connections::{self, Connections, is_name};
use crate::cli::done::{Done, tell, tell_all};
use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_list};
use crate::cli::table::Table;

/// Name the services of other hosts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse connection add web ssh://root@web.example
  dormouse --connection web ps
  DORMOUSE_CONNECTION=web dormouse logs -f nginx

They are kept in $XDG_CONFIG_HOME/dormouse/connections.toml. Only dormouse and an ssh server are needed there.")]
pub struct Connection {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Give an address a name, or a name another address
    Add {
        /// What it shall be called
        #[arg(value_name = "NAME")]
        name: String,
        /// ssh://[USER@]HOST[:PORT][/SOCKET], or unix:PATH
        #[arg(value_name = "ADDRESS")]
        address: String,
        #[command(flatten)]
        form: FormatFlag,
    },
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        form: FormatFlag,
    },
    /// Forget some
    Rm {
        /// What they are called
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        form: FormatFlag,
    },
}

impl Connection {
    pub fn run(self) -> Result<(), CliError> {
        let mut known = Connections::load()?;
        match self.action {
            Action::Add { name, address, form } => {
                if !is_name(&name) {
                    return Err(CliError::usage(format!("{name:?} is no name for a connection"))
                        .with_hint("letters, digits, '_', '.' and '-' make one"));
                }
                connections::at(&address)?;
                let done = Done::to(&name).silently().with("address", address.as_str());
                known.connections.insert(name, address);
                known.store()?;
                tell(&form, done)
            }
            Action::Ls { form } => {
                let list: Vec<Value> = known
                    .connections
                    .iter()
                    .map(|(name, address)| json!({"name": name, "address": address}))
                    .collect();
                print_list(form.format, &list, || {
                    let mut table = Table::new(&["NAME", "ADDRESS"]);
                    for (name, address) in &known.connections {
                        table.row([name.clone(), address.clone()]);
                    }
                    Ok(table.render())
                })
            }
            Action::Rm { names, form } => {
                for name in &names {
                    if known.connections.remove(name).is_none() {
                        return Err(CliError::new(format!("there is no connection {name:?}"))
                            .with_hint("`dormouse connection ls` lists them"));
                    }
                }
                known.store()?;
                tell_all(&form, names.iter().map(|name| Done::to(name).silently()).collect())
            }
        }
    }
}
