//! `.kube`: the pods of a file for Kubernetes, which are there while the unit is active.
//!
//! The main process is `dormouse kube play --wait`: it tells when the containers run, ends when the last one has, and takes the
//! pods down when it is asked to end. Podman has a container of its own for that.

use super::{Conversion, Problem};
use crate::cli;
use crate::systemd::unit_file::words::Escapes;

const VERB: &[&str] = &["kube", "play"];

impl Conversion<'_, '_, '_> {
    pub(super) fn kube(&mut self) -> Result<(), Problem> {
        let yaml = match self.all("Yaml").as_slice() {
            [] => return Err(self.problem("", "no Yaml= says which file it is for")),
            [only] => super::unquoted(&only.value),
            _ => {
                return Err(
                    self.problem("Yaml", "is not supported more than once; documents can share a file")
                );
            }
        };
        let yaml = self.absolute(&yaml);
        match self.unit.text("Service", "KillMode") {
            None => self.unit.set("Service", "KillMode", "mixed"),
            Some("mixed" | "control-group") => {}
            Some(other) => {
                let reason = format!(
                    "KillMode={other} would leave the pods running; mixed and control-group are possible"
                );
                return Err(self.problem("", &reason));
            }
        }
        match self.unit.text("Service", "Type") {
            None => self.unit.set("Service", "Type", "notify"),
            Some("notify" | "oneshot") => {}
            Some(other) => {
                let reason = format!("Type={other} is not possible for pods; notify and oneshot are");
                return Err(self.problem("", &reason));
            }
        }
        if let Some(word) = self.text("SetWorkingDirectory") {
            let file = match word.to_ascii_lowercase().as_str() {
                "yaml" => yaml.clone(),
                "unit" => self.source.path.display().to_string(),
                _ => return Err(self.problem("SetWorkingDirectory", "is neither yaml nor unit")),
            };
            let directory = file.rsplit_once('/').map_or("/", |(directory, _)| directory).to_owned();
            self.unit.add_default("Service", "WorkingDirectory", directory);
        }
        let force = self.truth("KubeDownForce")? == Some(true);
        self.all_flags(Self::kube_key)?;
        let mut play = self.command(VERB)?;
        play.extend(["--replace", "--wait"].map(str::to_owned));
        if force {
            play.push("--force".to_owned());
        }
        play.append(&mut self.flags);
        play.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        play.push(yaml.clone());
        self.add_command("ExecStart", "", &play);
        // If the main process was killed, nobody has removed them.
        let mut down = self.command(&["kube", "down"])?;
        if force {
            down.push("--force".to_owned());
        }
        down.push(yaml);
        self.add_command("ExecStopPost", "-", &down);
        Ok(())
    }

    fn kube_key(&mut self, key: &str) -> Result<(), Problem> {
        match key {
            "AutoUpdate" if self.text(key).is_some() => {
                let at = self.source.at(key);
                self.report.warning(&format!(
                    "{at}: AutoUpdate= does nothing: nothing here pulls newer images by itself"
                ));
            }
            "ConfigMap" => {
                for file in self.words(key, Escapes::Resolved)? {
                    let path = self.absolute(&file);
                    self.flag("--configmap", path);
                }
            }
            "ExitCodePropagation" => self.one_of(key, "--service-exit-code-propagation")?,
            "LogDriver" => self.one_of(key, "--log-driver")?,
            "Network" => {
                self.networks()?;
                if self.flags.iter().any(|flag| flag.starts_with("container:")) {
                    return Err(
                        self.problem(key, "is not supported for pods: it is that of another container")
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn one_of(&mut self, key: &str, flag: &str) -> Result<(), Problem> {
        let Some(word) = self.text(key) else { return Ok(()) };
        if !cli::takes(VERB, flag, &word) {
            let reason = format!("is {word:?}, which dormouse kube play does not take for {flag}");
            return Err(self.problem(key, &reason));
        }
        self.flag(flag, word);
        Ok(())
    }
}
