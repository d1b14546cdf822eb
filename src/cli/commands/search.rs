//! `dormouse search`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::table::{Table, truncated};
use crate::wire::image::Found;

const DESCRIPTION_WIDTH: usize = 60;

/// Look for images in a registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse search --registry registry.example:5000 web")]
pub struct Search {
    /// Part of the name
    #[arg(value_name = "TERM")]
    term: String,
    /// Where; default is the first registry of registries.conf(5) on the service's host
    #[arg(long, value_name = "REGISTRY")]
    registry: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Images {
    images: Vec<Value>,
}

impl Search {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("search for {:?}", self.term);
        let parameters = json!({"term": self.term, "registry": self.registry, "limit": self.limit});
        let found: Images = service.call(&attempted, "io.dormouse.Image.Search", parameters)?;
        print_list(self.form.format, &found.images, || {
            let mut table = Table::new(&["NAME", "STARS", "OFFICIAL", "DESCRIPTION"]);
            for image in &found.images {
                let image: Found = typed(&attempted, image)?;
                table.row([
                    image.name,
                    image.stars.map_or_else(|| "-".to_owned(), |stars| stars.to_string()),
                    if image.official { "yes" } else { "-" }.to_owned(),
                    truncated(&image.description, DESCRIPTION_WIDTH),
                ]);
            }
            Ok(table.render())
        })
    }
}
