//! `dormouse images`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, format_size, now_usec};
use crate::cli::output::{FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::table::{Table, short_id};
use crate::wire::image::Summary;

const ATTEMPTED: &str = "list images";

/// List images
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dormouse images\n  dormouse images --format json | jq -r '.[].names[]'")]
pub struct Images {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct List {
    images: Vec<Value>,
}

impl Images {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let list: List = service.call(ATTEMPTED, "io.dormouse.Image.List", json!({}))?;
        print_list(self.form.format, &list.images, || {
            let images: Vec<Summary> =
                list.images.iter().map(|image| typed(ATTEMPTED, image)).collect::<Result<_, _>>()?;
            Ok(self.text(&images, now_usec()))
        })
    }

    fn text(&self, images: &[Summary], now: i64) -> String {
        if self.quiet {
            return images.iter().map(|image| short_id(&image.id, self.no_trunc) + "\n").collect();
        }
        let mut table =
            Table::new(&["NAME", "IMAGE ID", "CREATED", "SIZE", "CONTAINERS"]).whole(self.no_trunc);
        for image in images {
            let unnamed = ["-".to_owned()];
            let names = if image.names.is_empty() { &unnamed[..] } else { &image.names };
            for name in names {
                table.row([
                    name.clone(),
                    short_id(&image.id, self.no_trunc),
                    format_ago(image.createdUSec, now),
                    format_size(image.sizeBytes),
                    image.containers.to_string(),
                ]);
            }
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;

    #[test]
    fn an_image_has_a_row_for_each_of_its_names() {
        let image: Summary = typed(
            "test",
            &json!({
                "id": "sha256:0123456789abcdef", "names": ["debian:12", "base:latest"], "sizeBytes": 123_207_680,
                "createdUSec": 0, "labels": {}, "containers": 2, "digests": [],
            }),
        )
        .unwrap();
        let images = Images { quiet: false, no_trunc: false, form: FormatFlag { format: Format::Table } };
        assert_eq!(
            images.text(&[image], 180_000_000),
            "NAME         IMAGE ID      CREATED        SIZE       CONTAINERS\n\
             debian:12    0123456789ab  3 minutes ago  117.5 MiB  2\n\
             base:latest  0123456789ab  3 minutes ago  117.5 MiB  2\n"
        );
    }
}
