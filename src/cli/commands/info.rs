//! `dormouse info`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::format_duration;
use crate::cli::output::{FormatFlag, print_one, typed};
use crate::cli::service::Service;
use crate::cli::table::render_fields;
use crate::wire::manager::{Info_Reply, Info_Reply_cgroupLayout as Layout};

const ATTEMPTED: &str = "ask what the service stands on";

/// Tell what the service stands on
#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    form: FormatFlag,
}

impl Info {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let reply: Value = service.call(ATTEMPTED, "io.dormouse.Manager.Info", json!({}))?;
        print_one(self.form.format, &reply, || Ok(text(&typed(ATTEMPTED, &reply)?)))
    }
}

fn text(info: &Info_Reply) -> String {
    let layout = match info.cgroupLayout {
        Layout::v2 => "v2",
        Layout::hybrid => "hybrid",
        Layout::v1 => "v1",
    };
    render_fields(&[
        ("Version", info.version.clone()),
        ("Kernel", info.kernel.clone()),
        ("Architecture", info.architecture.clone()),
        ("cgroups", format!("{layout} ({})", info.cgroupControllers.join(", "))),
        ("User", info.uid.to_string()),
        ("State", info.stateDirectory.clone()),
        ("Run", info.runDirectory.clone()),
        ("Containers", format!("{}, of them running {}", info.containers, info.containersRunning)),
        ("Images", info.images.to_string()),
        ("Runtimes", info.runtimes.join(", ")),
        ("Sleeps after", info.idleTimeoutUSec.map_or("never".to_owned(), format_duration)),
    ])
}
