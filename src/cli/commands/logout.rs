//! `dormouse logout`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Have the service forget the credentials for a registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse logout registry.example:5000")]
pub struct Logout {
    /// Host name, with a port if it is not 443
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct LoggedOut {
    forgotten: bool,
}

impl Logout {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("log out of {:?}", self.registry);
        let done: LoggedOut =
            service.call(&attempted, "io.dormouse.Image.Logout", json!({"registry": self.registry}))?;
        let told = Done::to(&self.registry).with("forgotten", done.forgotten);
        let told = match done.forgotten {
            true => told.silently(),
            false => told.saying(&format!("there were no credentials for {}", self.registry)),
        };
        tell(&self.form, told)
    }
}
