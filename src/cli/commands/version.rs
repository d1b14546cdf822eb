//! `dormouse version`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_one};
use crate::cli::service::Service;
use crate::cli::table::render_fields;

/// Tell the versions of this client and of the service
#[derive(Debug, Args)]
pub struct Version {
    /// Only this client, without asking the service
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    form: FormatFlag,
}

impl Version {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let client = env!("CARGO_PKG_VERSION");
        if self.client {
            let item = json!({"client": {"version": client}});
            return print_one(self.form.format, &item, || {
                Ok(render_fields(&[("Client", client.to_owned())]))
            });
        }
        let server: Value =
            service.call("ask for the version of the service", "io.dormouse.Manager.Version", json!({}))?;
        let item = json!({"client": {"version": client}, "server": server});
        print_one(self.form.format, &item, || {
            let version = server["version"].as_str().unwrap_or("unknown").to_owned();
            Ok(render_fields(&[("Client", client.to_owned()), ("Service", version)]))
        })
    }
}
