//! `dormouse inspect`

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::for_each;
use crate::cli::errors::{CliError, FailureKind};
use crate::cli::output::{DocumentFlag, typed};
use crate::cli::service::Service;
use crate::wire::container::Details;

/// Tell all of containers or images, as JSON
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse inspect web | jq '.[].summary.state'
  dormouse inspect --type image debian")]
pub struct Inspect {
    /// Containers or images, by name, id or a prefix of the id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// What it is [default: a container, or if there is none an image]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
    #[command(flatten)]
    form: DocumentFlag,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Container,
    Image,
}

impl Inspect {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let mut found = Vec::new();
        let told = for_each(&self.names, |name| {
            let details = match self.kind {
                Some(Kind::Container) => container(service, name)?,
                Some(Kind::Image) => image(service, name)?,
                None => match container(service, name) {
                    Err(error) if error.kind == FailureKind::NotFound => {
                        image(service, name).map_err(|other| {
                            if other.kind == FailureKind::NotFound {
                                CliError {
                                    message: format!(
                                        "cannot inspect {name:?}: there is no container or image of this name"
                                    ),
                                    ..other
                                }
                                .with_hint("see `dormouse ps --all` and `dormouse images`")
                            } else {
                                other
                            }
                        })?
                    }
                    result => result?,
                },
            };
            found.push(details);
            Ok(())
        });
        self.form.print(&found)?;
        told
    }
}

fn container(service: &Service, name: &str) -> Result<Value, CliError> {
    let mut reply: Value = service.call(
        format!("inspect {name:?}"),
        "io.dormouse.Container.Inspect",
        json!({ "name": name }),
    )?;
    Ok(reply["container"].take())
}

fn image(service: &Service, name: &str) -> Result<Value, CliError> {
    let mut reply: Value =
        service.call(format!("inspect {name:?}"), "io.dormouse.Image.Inspect", json!({ "name": name }))?;
    Ok(reply["image"].take())
}

/// What other commands need to know of a container.
pub(super) fn inspect_container(service: &Service, attempted: &str, name: &str) -> Result<Details, CliError> {
    let reply: Value = service.call(attempted, "io.dormouse.Container.Inspect", json!({ "name": name }))?;
    typed(attempted, &reply["container"])
}
