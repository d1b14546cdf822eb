//! `dormouse secret`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::noun::{Noun, filters};
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, format_size, now_usec};
use crate::cli::output::{DocumentFlag, FormatFlag};
use crate::cli::service::Service;
use crate::cli::spec::pairs;
use crate::cli::table::{Table, printable};
use crate::wire::secret::Details;

/// Keep secrets, and see who uses them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse secret create password password.txt && dormouse run --secret password postgres
  pass show db | dormouse secret create --replace db -
  dormouse run --secret db,type=env,target=DB_PASSWORD web")]
pub struct Secret {
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
}

/// Keep a secret
#[derive(Debug, Args)]
struct Create {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
    /// File that holds it, to its last byte; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// FILE is the name of an environment variable that holds it
    #[arg(long)]
    env: bool,
    /// Take the place of the one that has the name
    #[arg(long)]
    replace: bool,
    /// Label, as KEY=VALUE or KEY
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// List secrets
#[derive(Debug, Args)]
struct List {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Only those with: name=, id= or label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Tell all of secrets but what they are, as JSON
#[derive(Debug, Args)]
struct Inspect {
    /// Secrets, by name or id
    #[arg(required = true, value_name = "SECRET")]
    names: Vec<String>,
    #[command(flatten)]
    form: DocumentFlag,
}

/// Forget secrets
#[derive(Debug, Args)]
struct Remove {
    /// Secrets, by name or id
    #[arg(required = true, value_name = "SECRET")]
    names: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

const SECRETS: Noun = Noun { one: "secret", many: "secrets", interface: "io.dormouse.Secret" };

impl Secret {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Create(create) => create.run(service),
            Command::Ls(list) => list.run(service),
            Command::Inspect(given) => SECRETS.print_details(service, &given.form, &given.names),
            Command::Rm(given) => SECRETS.act(service, &given.form, &given.names, false, "Remove", json!({})),
        }
    }
}

impl Create {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("keep the secret {:?}", self.name);
        let parameters = json!({
            "name": self.name, "descriptor": 0, "replace": self.replace.then_some(true),
            "labels": pairs("--label", &self.labels, true)?,
        });
        let mut id = None;
        service.stream_with_fds(
            &attempted,
            "io.dormouse.Secret.Create",
            parameters,
            vec![self.open(&attempted)?],
            |mut reply: Value, _| {
                id = reply["secret"]["id"].take().as_str().map(str::to_owned);
                Ok(())
            },
        )?;
        tell(&self.form, Done::made(&self.name, &id.unwrap_or_default()))
    }

    fn open(&self, attempted: &str) -> Result<OwnedFd, CliError> {
        let failed = |error: io::Error| CliError::io(attempted, &error);
        if self.env {
            let value = std::env::var_os(&self.file).ok_or_else(|| {
                CliError::usage(format!("--env: there is no variable {:?} here", self.file))
            })?;
            let (reader, mut writer) = io::pipe().map_err(failed)?;
            // In a thread: it may be more than a pipe takes at once. If nobody reads on, the call says why.
            std::thread::spawn(move || {
                let _ = io::Write::write_all(&mut writer, value.as_encoded_bytes());
            });
            return Ok(reader.into());
        }
        if self.file != "-" {
            return Ok(File::open(&self.file).map_err(failed)?.into());
        }
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(CliError::usage(format!("cannot {attempted}: standard input is a terminal"))
                .with_hint("pipe it in, or name a file"));
        }
        stdin.as_fd().try_clone_to_owned().map_err(failed)
    }
}

impl List {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let wanted = filters(&self.filters, "name=, id= and label=", |_, _| false)?;
        SECRETS.print_list(service, &self.form, wanted, |secrets| Ok(self.text(secrets)))
    }

    fn text(&self, secrets: &[Details]) -> String {
        if self.quiet {
            return secrets.iter().map(|secret| format!("{}\n", printable(&secret.name))).collect();
        }
        let now = now_usec();
        let mut table = Table::new(&["NAME", "SIZE", "CREATED", "CONTAINERS"]);
        for secret in secrets {
            table.row([
                secret.name.clone(),
                format_size(secret.sizeBytes),
                format_ago(secret.createdUSec, now),
                secret.containers.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", "),
            ]);
        }
        table.render()
    }
}
