//! `dormouse secret`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Nothing, for_each};
use crate::cli::done::{Done, each, tell};
use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, format_size, now_usec};
use crate::cli::output::{DocumentFlag, FormatFlag, print_list, typed};
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

#[derive(Debug, Deserialize)]
struct Listed {
    secrets: Vec<Value>,
}

impl Secret {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Create(create) => create.run(service),
            Command::Ls(list) => list.run(service),
            Command::Inspect(inspect) => inspect.run(service),
            Command::Rm(remove) => each(&remove.form, &remove.names, |name| {
                let attempted = format!("remove the secret {name:?}");
                let Nothing {} = call(service, &attempted, "Remove", json!({ "name": name }))?;
                Ok(Done::to(name))
            }),
        }
    }
}

fn call<T: serde::de::DeserializeOwned>(
    service: &Service,
    attempted: &str,
    method: &str,
    parameters: Value,
) -> Result<T, CliError> {
    service.call(attempted, &format!("io.dormouse.Secret.{method}"), parameters)
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
        const ATTEMPTED: &str = "list secrets";
        let (mut names, mut labels) = (Vec::new(), serde_json::Map::new());
        for filter in &self.filters {
            match filter.split_once('=') {
                Some(("name" | "id", name)) => names.push(name),
                Some(("label", label)) => {
                    let (key, value) = label.split_once('=').unwrap_or((label, ""));
                    labels.insert(key.to_owned(), json!(value));
                }
                _ => {
                    return Err(CliError::usage(format!("--filter: {filter:?} is no filter"))
                        .with_hint("name=, id= and label= are known"));
                }
            }
        }
        let listed: Listed = call(service, ATTEMPTED, "List", json!({"names": names, "labels": labels}))?;
        print_list(self.form.format, &listed.secrets, || {
            let secrets: Vec<Details> =
                listed.secrets.iter().map(|secret| typed(ATTEMPTED, secret)).collect::<Result<_, _>>()?;
            Ok(self.text(&secrets))
        })
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

impl Inspect {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let mut found = Vec::new();
        let told = for_each(&self.names, |name| {
            let mut reply: Value =
                call(service, &format!("inspect the secret {name:?}"), "Inspect", json!({ "name": name }))?;
            found.push(reply["secret"].take());
            Ok(())
        });
        self.form.print(&found)?;
        told
    }
}
