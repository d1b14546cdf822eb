//! `dormouse logout`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::streams::print;

/// Have the service forget the credentials for a registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse logout registry.example:5000")]
pub struct Logout {
    /// Host name, with a port if it is not 443
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
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
        if !done.forgotten {
            print(&format!("there were no credentials for {}\n", self.registry))?;
        }
        Ok(())
    }
}
