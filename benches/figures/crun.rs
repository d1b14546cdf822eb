//! Their side: crun with the very specification that dormouse makes for its own containers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::figure::{Result, failed, ms};
use crate::host::run;

/// A bundle for `crun run`.
#[derive(Debug)]
pub struct Bundle {
    place: PathBuf,
    state: PathBuf,
    runs: u32,
}

impl Bundle {
    /// From the OCI specification of a container of ours: the same namespaces, limits, mounts and filter.
    pub fn from_ours(
        config: &Path,
        rootfs: &Path,
        place: &Path,
        state: &Path,
        command: &[&str],
    ) -> Result<Self> {
        let text = std::fs::read_to_string(config).map_err(failed(format!("read {}", config.display())))?;
        let mut spec: Value =
            serde_json::from_str(&text).map_err(failed(format!("understand {}", config.display())))?;
        // crun 1.8 knows no later one, and nothing of a later one is in it.
        spec["ociVersion"] = json!("1.0.2");
        spec["root"]["path"] = json!(rootfs);
        spec["process"]["args"] = json!(command);
        spec["linux"]["cgroupsPath"] = json!("/dormouse-bench-crun");
        let path = place.join("config.json");
        std::fs::write(&path, spec.to_string()).map_err(failed(format!("write {}", path.display())))?;
        Ok(Self { place: place.to_owned(), state: state.to_owned(), runs: 0 })
    }

    /// The time of one `crun run`, from its start to its end, in milliseconds.
    pub fn run(&mut self) -> Result<f64> {
        self.runs += 1;
        let id = format!("dormouse-bench-{}-{}", std::process::id(), self.runs);
        let mut command = Command::new("crun");
        command.arg("--root").arg(&self.state).args(["run", "--bundle"]).arg(&self.place).arg(id);
        let since = Instant::now();
        run(&mut command)?;
        Ok(ms(since.elapsed()))
    }
}
