//! `dormouse create`

use clap::{ArgAction, Args};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::pull::PullFlag;
use super::tell_warnings;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::spec::SpecFlags;
use crate::cli::streams::complain;

/// Make a container without starting it
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  dormouse create --name web -v ./site:/var/www/html:ro debian /sbin/init
  dormouse create --rootfs --read-only /srv/trees/debian /bin/true

Prints the id; `dormouse start` starts it."
)]
pub struct Create {
    #[command(flatten)]
    pull: PullFlag,
    #[command(flatten)]
    spec: SpecFlags,
    #[command(flatten)]
    form: FormatFlag,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// The answer of Create and Run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Created {
    pub fn done(&self) -> Done {
        Done::made(&self.name, &self.id).with("warnings", self.warnings.as_slice())
    }
}

/// Makes the container's pod first, if that was asked for; it goes again if the container can't be made.
pub(super) fn with_pod<T>(
    service: &Service,
    mut spec: Map<String, Value>,
    make: impl FnOnce(Map<String, Value>) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let Some(pod) = SpecFlags::new_pod(&mut spec) else { return make(spec) };
    let name = pod["name"].clone();
    let _: Value =
        service.call(format!("make the pod {name}"), "io.dormouse.Pod.Create", json!({"spec": pod}))?;
    let made = make(spec);
    if made.is_err() {
        let removed: Result<Value, CliError> =
            service.call(format!("remove the pod {name}"), "io.dormouse.Pod.Remove", json!({"name": name}));
        if let Err(error) = removed {
            complain(&error.render());
        }
    }
    made
}

impl Create {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let subject = self.spec.subject();
        let spec = self.spec.to_spec()?;
        self.pull.ask_first(service, &self.spec)?;
        let created: Created = with_pod(service, spec, |spec| {
            self.pull.with_image(service, &self.spec, || {
                let parameters = json!({"spec": spec});
                service.call(format!("create {subject:?}"), "io.dormouse.Container.Create", parameters)
            })
        })?;
        tell_warnings(&created.warnings);
        tell(&self.form, created.done())
    }
}
