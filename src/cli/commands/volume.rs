//! `dormouse volume`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::noun::{Noun, add_label, filters, made};
use super::save::Destination;
use super::tell_warnings;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::{DocumentFlag, FormatFlag, print_pruned};
use crate::cli::progress::byte_counter;
use crate::cli::service::Service;
use crate::cli::spec::pairs;
use crate::cli::table::{Table, printable, short_id};
use crate::wire::volume::Details;

/// Make volumes, and see who uses them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse volume create data && dormouse run -v data:/var/lib/postgresql postgres
  dormouse volume create -o type=tmpfs -o o=size=64m,noexec scratch
  dormouse volume create -o type=none -o o=bind -o device=/srv/data shared
  dormouse volume export data | ssh other dormouse volume import data -")]
pub struct Volume {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    #[command(visible_alias = "list")]
    Ls(List),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Remove),
    Prune(Prune),
    Export(Export),
    Import(Import),
}

/// Make a volume
#[derive(Debug, Args)]
struct Create {
    /// Name [default: its id]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Option: type=, device= or o=, as mount(8) has them
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Who makes what it holds; only local is known
    #[arg(short, long, value_name = "DRIVER")]
    driver: Option<String>,
    /// Label, as KEY=VALUE or KEY
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// No error if it is there already
    #[arg(long)]
    ignore: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// List volumes
#[derive(Debug, Args)]
struct List {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only those with: name=, id=, label=KEY[=VALUE] or dangling=true|false
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Tell all of volumes, as JSON
#[derive(Debug, Args)]
struct Inspect {
    /// Volumes, by name or id
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
    #[command(flatten)]
    form: DocumentFlag,
}

/// Remove volumes with what they hold
#[derive(Debug, Args)]
struct Remove {
    /// Volumes, by name or id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "VOLUME")]
    names: Vec<String>,
    /// All that no container uses; with --force all
    #[arg(short, long)]
    all: bool,
    /// Remove the containers that use them first, running or not
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Remove volumes that no container uses
#[derive(Debug, Args)]
struct Prune {
    /// Only those without a name
    #[arg(long)]
    anonymous: bool,
    /// Only those with: label=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Accepted, and of no effect: nothing is asked here
    #[arg(short, long, hide = true)]
    force: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Write what a volume holds as a tar archive
#[derive(Debug, Args)]
struct Export {
    /// Volume, by name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// File to write; default is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Unpack a tar archive in a volume
#[derive(Debug, Args)]
struct Import {
    /// Volume, by name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Archive, plain or compressed by gzip or zstd; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

const VOLUMES: Noun = Noun { one: "volume", many: "volumes", interface: "io.dormouse.Volume" };

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    removed: Vec<String>,
    freed_bytes: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    bytes_written: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    bytes_read: u64,
    warnings: Vec<String>,
}

impl Volume {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Create(create) => create.run(service),
            Command::Ls(list) => list.run(service),
            Command::Inspect(given) => VOLUMES.print_details(service, &given.form, &given.names),
            Command::Rm(remove) => remove.run(service),
            Command::Prune(prune) => prune.run(service),
            Command::Export(export) => export.run(service),
            Command::Import(import) => import.run(service),
        }
    }
}

impl Create {
    fn run(self, service: &Service) -> Result<(), CliError> {
        if let Some(driver) = self.driver.as_ref().filter(|driver| *driver != "local") {
            return Err(CliError::usage(format!("--driver: there is no driver {driver:?}"))
                .with_hint("local is the only one"));
        }
        let attempted = match &self.name {
            Some(name) => format!("make the volume {name:?}"),
            None => "make a volume".to_owned(),
        };
        if let Some(name) = self.name.as_ref().filter(|_| self.ignore)
            && let Some(volume) = VOLUMES.named(service, name)?
        {
            return tell(&self.form, made(&volume).with("ignored", true));
        }
        let parameters = json!({
            "name": self.name, "options": pairs("--opt", &self.options, false)?,
            "labels": pairs("--label", &self.labels, true)?,
        });
        let reply: Value = VOLUMES.call(service, &attempted, "Create", parameters)?;
        tell(&self.form, made(&reply["volume"]))
    }
}

impl List {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let mut unused = None;
        let mut wanted =
            filters(&self.filters, "name=, id=, label= and dangling=true|false", |key, value| {
                unused = match (key, value) {
                    ("dangling", "true" | "1") => Some(true),
                    ("dangling", "false" | "0") => Some(false),
                    _ => return false,
                };
                true
            })?;
        wanted["unused"] = json!(unused);
        VOLUMES.print_list(service, &self.form, wanted, |volumes| Ok(self.text(volumes)))
    }

    fn text(&self, volumes: &[Details]) -> String {
        if self.quiet {
            return volumes.iter().map(|volume| format!("{}\n", printable(&volume.name))).collect();
        }
        let mut table = Table::new(&["NAME", "DRIVER", "CONTAINERS", "LABELS"]);
        for volume in volumes {
            let mut labels: Vec<String> =
                volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            labels.sort();
            table.row([
                // The name of one without a name is its id.
                if volume.anonymous { short_id(&volume.name, self.no_trunc) } else { volume.name.clone() },
                "local".to_owned(),
                volume.containers.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", "),
                labels.join(", "),
            ]);
        }
        table.render()
    }
}

impl Remove {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let names = if self.all {
            let unused = (!self.force).then_some(true);
            let listed = VOLUMES.list(service, json!({ "unused": unused }))?;
            listed.iter().filter_map(|volume| volume["name"].as_str().map(str::to_owned)).collect()
        } else {
            self.names
        };
        let parameters = json!({"force": self.force.then_some(true)});
        VOLUMES.act(service, &self.form, &names, false, "Remove", parameters)
    }
}

impl Prune {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let mut labels = serde_json::Map::new();
        for filter in &self.filters {
            let Some(("label", label)) = filter.split_once('=') else {
                return Err(CliError::usage(format!("--filter: {filter:?} is no filter"))
                    .with_hint("label= is known"));
            };
            add_label(&mut labels, label);
        }
        let parameters = json!({"anonymous": self.anonymous.then_some(true), "labels": labels});
        let pruned: Pruned = VOLUMES.call(service, "remove unused volumes", "Prune", parameters)?;
        print_pruned(&self.form, &pruned.removed, pruned.freed_bytes)
    }
}

impl Export {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("export the volume {:?}", self.volume);
        self.form.only_with("--output", self.output.is_some())?;
        let output = Destination::open(&attempted, self.output.as_deref())?;
        let bar = byte_counter(self.quiet);
        let mut bytes = 0;
        let result = service.stream_with_fds(
            &attempted,
            "io.dormouse.Volume.Export",
            json!({"name": self.volume, "archive": 0}),
            vec![output.descriptor(&attempted)?],
            |progress: Exported, _| {
                bytes = progress.bytes_written;
                bar.set_position(bytes);
                Ok(())
            },
        );
        bar.finish_and_clear();
        output.finish(&attempted, result)?;
        tell(&self.form, Done::to(&self.volume).silently().with("bytes", bytes))
    }
}

impl Import {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("import {:?} into the volume {:?}", self.file, self.volume);
        let failed = |error: io::Error| CliError::io(&attempted, &error);
        let archive: OwnedFd = if self.file == "-" {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                return Err(CliError::usage(format!("cannot {attempted}: standard input is a terminal"))
                    .with_hint(
                        "pipe an archive in, as in `tar -C DIR -c . | dormouse volume import NAME -`",
                    ));
            }
            stdin.as_fd().try_clone_to_owned().map_err(failed)?
        } else {
            File::open(&self.file).map_err(failed)?.into()
        };
        let bar = byte_counter(self.quiet);
        let (mut bytes, mut warnings) = (0, Vec::new());
        let result = service.stream_with_fds(
            &attempted,
            "io.dormouse.Volume.Import",
            json!({"name": self.volume, "archive": 0}),
            vec![archive],
            |progress: Imported, _| {
                bytes = progress.bytes_read;
                bar.set_position(bytes);
                warnings = progress.warnings;
                Ok(())
            },
        );
        bar.finish_and_clear();
        tell_warnings(&warnings);
        result?;
        let done = Done::to(&self.volume).silently().with("bytes", bytes);
        tell(&self.form, done.with("warnings", warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::typed;

    #[test]
    fn a_volume_has_a_row() {
        let volume = |name: &str, anonymous: bool, users: Value| -> Details {
            typed(
                "test",
                &json!({
                    "id": "0".repeat(64), "name": name, "driver": "local", "options": {}, "labels": {"b": "2", "a": "1"},
                    "createdUSec": 0, "anonymous": anonymous, "mountPoint": "/x", "fresh": false, "containers": users,
                }),
            )
            .unwrap()
        };
        let list = List {
            quiet: false,
            no_trunc: false,
            filters: vec![],
            form: FormatFlag { format: crate::cli::output::Format::Table },
        };
        let users = json!([{"id": "1", "name": "db"}, {"id": "2", "name": "web"}]);
        assert_eq!(
            list.text(&[volume("data", false, users), volume(&"ab".repeat(32), true, json!([]))]),
            "NAME          DRIVER  CONTAINERS  LABELS\n\
             data          local   db, web     a=1, b=2\n\
             abababababab  local               a=1, b=2\n"
        );
    }
}
