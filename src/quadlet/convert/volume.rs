//! `.volume`: a volume that is made if it is missing.

use super::{Conversion, Problem, resource_name};
use crate::systemd::unit_file::words::{Escapes, quote};

impl Conversion<'_, '_, '_> {
    pub(super) fn volume(&mut self) -> Result<(), Problem> {
        self.all_flags(Self::volume_key)?;
        self.volume_options()?;
        let mut create = self.command(&["volume", "create", "--ignore"])?;
        create.append(&mut self.flags);
        create.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        create.push(resource_name(self.source, "VolumeName"));
        self.add_command("ExecStart", "", &create);
        self.is_made_once(true);
        Ok(())
    }

    fn volume_key(&mut self, key: &str) -> Result<(), Problem> {
        if key == "Image" && self.text(key).is_some() {
            return Err(self
                .problem(key, "is not supported: there are no volumes of images; Mount=type=image is one"));
        }
        Ok(())
    }

    fn volume_options(&mut self) -> Result<(), Problem> {
        let device = self.text("Device");
        let mut mount_options = Vec::new();
        for (key, option) in [("User", "uid"), ("Group", "gid")] {
            if let Some(id) = self.text(key) {
                let id: u32 = id.parse().map_err(|_| self.problem(key, "is no number"))?;
                mount_options.push(format!("{option}={id}"));
            }
        }
        if self.truth("Copy")? == Some(false) {
            mount_options.push("nocopy".to_owned());
        }
        for key in ["Type", "Options"] {
            if self.text(key).is_some() && device.is_none() {
                return Err(self.problem(key, "needs Device="));
            }
        }
        if let Some(device) = device {
            let kind = self.text("Type");
            let options = self.text("Options");
            let is_bind = kind.as_deref() == Some("bind")
                || options.iter().flat_map(|options| options.split(',')).any(|option| option == "bind");
            if is_bind {
                self.unit.add("Unit", "RequiresMountsFor", quote(&device));
            }
            self.flag("--opt", format!("device={device}"));
            if let Some(kind) = kind {
                self.flag("--opt", format!("type={kind}"));
            }
            mount_options.extend(options);
        }
        if !mount_options.is_empty() {
            self.flag("--opt", format!("o={}", mount_options.join(",")));
        }
        Ok(())
    }
}
