//! `dormouse mount` and `dormouse unmount`

use clap::Args;
use serde_json::{Value, json};

use super::{Nothing, targets};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_list};
use crate::cli::service::Service;
use crate::cli::table::Table;

/// Mount the root file systems of containers on the host, running or not, and print where
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ls $(dormouse mount web)/etc
  dormouse mount                 those that are mounted

It is seen by root alone, and without what is mounted in the container.")]
pub struct Mount {
    /// Containers, by name, id or a prefix of the id [default: list those that are mounted]
    #[arg(value_name = "CONTAINER")]
    names: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Unmount the root file systems of containers from the host
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse unmount --all")]
pub struct Unmount {
    /// Containers, by name, id or a prefix of the id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CONTAINER")]
    names: Vec<String>,
    /// All that are mounted
    #[arg(short, long)]
    all: bool,
    /// Also while somebody works there
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Name and place of each container whose root is mounted.
fn mounted(service: &Service) -> Result<Vec<(String, String)>, CliError> {
    let mut found = Vec::new();
    for name in targets(service, Vec::new(), true, None)? {
        let attempted = format!("inspect {name:?}");
        let reply: Value = service.call(attempted, "io.dormouse.Container.Inspect", json!({"name": name}))?;
        if let Some(path) = reply["container"]["rootMountPoint"].as_str() {
            found.push((name, path.to_owned()));
        }
    }
    Ok(found)
}

impl Mount {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        if self.names.is_empty() {
            let found = mounted(service)?;
            let items: Vec<Value> =
                found.iter().map(|(name, path)| json!({"name": name, "path": path})).collect();
            return print_list(self.form.format, &items, || {
                let mut table = Table::new(&["NAME", "MOUNTED AT"]);
                for (name, path) in found {
                    table.row([name, path]);
                }
                Ok(table.render())
            });
        }
        each(&self.form, &self.names, |name| {
            let attempted = format!("mount {name:?}");
            let reply: Value =
                service.call(attempted, "io.dormouse.Container.Mount", json!({"name": name}))?;
            let path = reply["path"].as_str().unwrap_or_default();
            Ok(Done::to(name).with("path", path).saying(path))
        })
    }
}

impl Unmount {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names =
            if self.all { mounted(service)?.into_iter().map(|(name, _)| name).collect() } else { self.names };
        each(&self.form, &names, |name| {
            let Nothing {} = service.call(
                format!("unmount {name:?}"),
                "io.dormouse.Container.Unmount",
                json!({"name": name, "force": self.force.then_some(true)}),
            )?;
            Ok(Done::to(name))
        })
    }
}
