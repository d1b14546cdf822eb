//! `.image`: an image that is fetched.

use super::{Conversion, Problem};
use crate::systemd::unit_file::words::Escapes;

impl Conversion<'_, '_, '_> {
    pub(super) fn image(&mut self) -> Result<(), Problem> {
        let image = self.text("Image").ok_or_else(|| self.problem("", "no Image= says what to fetch"))?;
        self.all_flags(Self::image_key)?;
        let mut pull = self.command(&["pull", "--quiet"])?;
        pull.append(&mut self.flags);
        pull.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        pull.push(image);
        self.add_command("ExecStart", "", &pull);
        self.is_made_once(true);
        Ok(())
    }

    fn image_key(&mut self, key: &str) -> Result<(), Problem> {
        match key {
            "Arch" | "OS" | "Variant" => self.platform(key),
            "Policy" => {
                if let Some(policy) = self.text(key) {
                    if !crate::cli::takes(&["pull"], "--policy", &policy) {
                        return Err(
                            self.problem(key, "is not supported: always, missing, newer and never are")
                        );
                    }
                    self.flag("--policy", policy);
                }
            }
            "TLSVerify" => {
                self.only(key, true, "is not supported: registries.conf(5) says which registries go without")?
            }
            _ => {}
        }
        Ok(())
    }
}
