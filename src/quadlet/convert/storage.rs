//! What containers, pods and builds share: volumes, mounts and networks, which may be those of other files.

use super::{Conversion, Problem};
use crate::quadlet::Kind;
use crate::systemd::unit_file::words::{Escapes, quote};

impl Conversion<'_, '_, '_> {
    /// `[SOURCE:]TARGET[:OPTIONS]`
    pub(super) fn volumes(&mut self) -> Result<(), Problem> {
        for assignment in self.all("Volume") {
            let text = assignment.value.as_str();
            match text.split_once(':') {
                Some((source, rest)) if !source.is_empty() => {
                    let source = self.storage(source)?;
                    self.flag("--volume", format!("{source}:{rest}"));
                }
                _ => self.flag("--volume", text.trim_start_matches(':')),
            }
        }
        Ok(())
    }

    /// `type=…,source=…,target=…`
    pub(super) fn mounts(&mut self) -> Result<(), Problem> {
        for text in self.words("Mount", Escapes::Resolved)? {
            let mut options = Vec::new();
            let takes_source = !text.split(',').any(|option| option == "type=tmpfs");
            for option in text.split(',') {
                match option.split_once('=') {
                    Some(("source" | "src", source)) if takes_source => {
                        options.push(format!("source={}", self.storage(source)?));
                    }
                    _ => options.push(option.to_owned()),
                }
            }
            self.flag("--mount", options.join(","));
        }
        Ok(())
    }

    /// A path of the host, which must be mounted first; or the volume or image of another file; or a volume's name.
    fn storage(&mut self, source: &str) -> Result<String, Problem> {
        if source.starts_with('/') || source.starts_with('.') {
            let path = self.absolute(source);
            self.unit.add("Unit", "RequiresMountsFor", quote(&path));
            return Ok(path);
        }
        match Kind::of(source) {
            Some(Kind::Volume | Kind::Image | Kind::Build) => self.required(source),
            _ => Ok(source.to_owned()),
        }
    }

    /// `NAME[:OPTIONS]`; the network of another file, or that of its container.
    pub(super) fn networks(&mut self) -> Result<(), Problem> {
        for assignment in self.all("Network") {
            let text = assignment.value.as_str();
            let (name, options) = match text.split_once(':') {
                Some((name, options)) => (name, Some(options)),
                None => (text, None),
            };
            let network = match (Kind::of(name), options) {
                (Some(Kind::Network), None) => self.required(name)?,
                (Some(Kind::Network), Some(options)) => format!("{}:{options}", self.required(name)?),
                (Some(Kind::Container), None) => format!("container:{}", self.required(name)?),
                (Some(Kind::Container), Some(_)) => {
                    return Err(
                        self.problem("Network", "has options, but the network of a container takes none")
                    );
                }
                _ => text.to_owned(),
            };
            self.flag("--network", network);
        }
        Ok(())
    }

    /// `OS/ARCHITECTURE[/VARIANT]` of three keys.
    pub(super) fn platform(&mut self, key: &str) {
        // Once, at the first of them that is there.
        let first = ["Arch", "OS", "Variant"].into_iter().find(|key| self.text(key).is_some());
        if first == Some(key) {
            let os = self.text("OS").unwrap_or_else(|| "linux".to_owned());
            let architecture = self.text("Arch");
            let architecture = of_images(architecture.as_deref().unwrap_or(std::env::consts::ARCH));
            let variant = self.text("Variant").map(|variant| format!("/{variant}")).unwrap_or_default();
            self.flag("--platform", format!("{os}/{architecture}{variant}"));
        }
    }

    /// What is so in any case.
    pub(super) fn only(&self, key: &str, wanted: bool, reason: &str) -> Result<(), Problem> {
        match self.truth(key)? {
            Some(value) if value != wanted => Err(self.problem(key, reason)),
            _ => Ok(()),
        }
    }
}

/// An architecture, as images name it.
fn of_images(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
