//! `.build`: an image that is built.

use super::{Conversion, Problem};
use crate::systemd::unit_file::words::Escapes;

impl Conversion<'_, '_, '_> {
    pub(super) fn build(&mut self) -> Result<(), Problem> {
        if self.all("ImageTag").is_empty() {
            return Err(self.problem("", "no ImageTag= says what the image is called"));
        }
        let context = self.build_context()?;
        self.all_flags(Self::build_key)?;
        let mut build = self.command(&["build"])?;
        build.append(&mut self.flags);
        build.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        build.push(context);
        self.add_command("ExecStart", "", &build);
        self.is_made_once(false);
        Ok(())
    }

    /// The directory that files come from.
    fn build_context(&self) -> Result<String, Problem> {
        let parent =
            |path: String| path.rsplit_once('/').map_or_else(|| "/".to_owned(), |(dir, _)| dir.to_owned());
        let file = self.text("File");
        let context = match self.text("SetWorkingDirectory") {
            Some(word) if word.eq_ignore_ascii_case("unit") => parent(self.source.path.display().to_string()),
            Some(word) if word.eq_ignore_ascii_case("file") => {
                let file = file.ok_or_else(|| self.problem("SetWorkingDirectory", "needs File="))?;
                parent(self.absolute(&file))
            }
            Some(other) => self.absolute(&other),
            None => match (self.unit.text("Service", "WorkingDirectory"), file) {
                (Some(directory), _) => directory.to_owned(),
                (None, Some(file)) if file.starts_with(['/', '%']) => parent(file),
                (None, Some(_)) => {
                    return Err(self.problem("File", "is relative, and needs SetWorkingDirectory="));
                }
                (None, None) => {
                    return Err(self.problem("", "neither File= nor SetWorkingDirectory= says what to build"));
                }
            },
        };
        if context.contains("://") {
            return Err(self.problem("SetWorkingDirectory", "is not supported: a context is a directory"));
        }
        Ok(context)
    }

    fn build_key(&mut self, key: &str) -> Result<(), Problem> {
        match key {
            "Arch" | "Variant" => self.platform(key),
            "File" => {
                if let Some(file) = self.text(key) {
                    let is_relative = !file.starts_with(['/', '%']);
                    let is_to_the_file = self
                        .text("SetWorkingDirectory")
                        .is_some_and(|word| word.eq_ignore_ascii_case("file"));
                    let file = if is_relative && is_to_the_file { self.absolute(&file) } else { file };
                    self.flag("--file", file);
                }
            }
            "ForceRM" => self.only(key, true, "is not supported: nothing is left of a step that failed")?,
            "Network" => self.networks()?,
            "Pull" => {
                if let Some(policy) = self.text(key) {
                    self.flags.push(format!("--pull={policy}"));
                }
            }
            "TLSVerify" => {
                self.only(key, true, "is not supported: registries.conf(5) says which registries go without")?
            }
            "Volume" => self.volumes()?,
            _ => {}
        }
        Ok(())
    }
}
