//! `dormouse history`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, format_size, now_usec};
use crate::cli::output::{FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::table::{Table, short_id};
use crate::wire::image::HistoryEntry;

const CREATED_BY_LENGTH: usize = 60;

/// Show how an image came about
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse history --no-trunc web")]
pub struct History {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Whole commands and digests
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Steps {
    steps: Vec<Value>,
}

impl History {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("tell the history of {:?}", self.image);
        let steps: Steps =
            service.call(&attempted, "io.dormouse.Image.History", json!({"name": self.image}))?;
        print_list(self.form.format, &steps.steps, || {
            let steps: Vec<HistoryEntry> =
                steps.steps.iter().map(|step| typed(&attempted, step)).collect::<Result<_, _>>()?;
            Ok(self.text(&steps, now_usec()))
        })
    }

    fn text(&self, steps: &[HistoryEntry], now: i64) -> String {
        let mut table =
            Table::new(&["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"]).whole(self.no_trunc);
        let dash = || "-".to_owned();
        for step in steps {
            let mut created_by = step.createdBy.clone().unwrap_or_else(dash);
            if !self.no_trunc && created_by.chars().count() > CREATED_BY_LENGTH {
                created_by = created_by.chars().take(CREATED_BY_LENGTH - 1).collect::<String>() + "…";
            }
            table.row([
                step.layer.as_ref().map_or_else(dash, |layer| short_id(layer, self.no_trunc)),
                step.createdUSec.map_or_else(dash, |created| format_ago(created, now)),
                created_by,
                format_size(step.sizeBytes),
                step.comment.clone().unwrap_or_default(),
            ]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;

    #[test]
    fn a_step_is_a_row() {
        let step = HistoryEntry {
            createdUSec: Some(0),
            createdBy: Some("/bin/sh -c ".to_owned() + &"x".repeat(80)),
            comment: None,
            layer: None,
            sizeBytes: 0,
        };
        let history =
            History { image: "web".to_owned(), no_trunc: false, form: FormatFlag { format: Format::Table } };
        let text = history.text(&[step], 180_000_000);
        assert!(text.lines().nth(1).unwrap().starts_with("-      3 minutes ago  /bin/sh -c xxx"), "{text}");
        assert!(text.contains("x…"), "{text}");
    }
}
