//! `dormouse diff`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::table::printable;
use crate::wire::container::{Change, Change_kind};

/// Show what a container has changed of its image
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse diff web\n\nA is added, C changed, D deleted.")]
pub struct Diff {
    /// Container, by name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Changes {
    changes: Vec<Value>,
}

impl Diff {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("tell the changes of {:?}", self.container);
        let found: Changes =
            service.call(&attempted, "io.dormouse.Container.Diff", json!({"name": self.container}))?;
        print_list(self.form.format, &found.changes, || {
            let mut text = String::new();
            for change in &found.changes {
                let change: Change = typed(&attempted, change)?;
                let letter = match change.kind {
                    Change_kind::added => 'A',
                    Change_kind::modified => 'C',
                    Change_kind::deleted => 'D',
                };
                text.push_str(&format!("{letter} {}\n", printable(&change.path)));
            }
            Ok(text)
        })
    }
}
