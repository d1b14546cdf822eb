//! `.container`: a service whose main process is `dormouse run`.

use super::{Conversion, Problem, unquoted};
use crate::cli;
use crate::quadlet::source::Source;
use crate::systemd::unit_file::words::Escapes;

/// Where podman puts file systems in memory under a read-only root.
const WRITABLE: &[&str] = &["/run", "/tmp", "/var/tmp"];
/// What the service manager grants beyond the time that the container has for its end.
const STOP_GRACE_SECS: u64 = 15;

/// The container's name; it may have specifiers.
pub(super) fn name_of(source: &Source) -> String {
    match source.file.text("Container", "ContainerName") {
        Some(name) => unquoted(name),
        None if source.name.contains('@') => "systemd-%p_%i".to_owned(),
        None => "systemd-%N".to_owned(),
    }
}

impl Conversion<'_, '_, '_> {
    pub(super) fn container(&mut self) -> Result<(), Problem> {
        let root = match (self.text("Image"), self.text("Rootfs")) {
            (Some(_), Some(_)) => return Err(self.problem("Rootfs", "and Image= exclude each other")),
            (None, None) => return Err(self.problem("", "neither Image= nor Rootfs= says what to run")),
            (Some(image), None) => self.image_of(&image)?,
            (None, Some(rootfs)) => rootfs,
        };
        let name = name_of(self.source);
        self.service_of_a_container()?;
        self.reload(&name)?;

        self.all_flags(Self::container_key)?;
        if self.text("Rootfs").is_none() && self.text("Pull").is_none() && cli::has_flag(&["run"], "--pull") {
            // Podman's default, too.
            self.flag("--pull", "missing");
        }
        let mut run = self.command(&["run"])?;
        run.extend(["--name", &name, "--replace", "--rm"].map(str::to_owned));
        run.append(&mut self.flags);
        run.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        run.push(root);
        if let Some(exec) = self.source.file.last("Container", "Exec") {
            run.extend(exec.words(Escapes::Resolved)?);
        }
        self.add_command("ExecStart", "", &run);

        // If the main process was killed, nobody has removed it.
        let mut remove = self.command(&["rm"])?;
        remove.extend(["--force", "--ignore", &name].map(str::to_owned));
        self.add_command("ExecStopPost", "-", &remove);
        Ok(())
    }

    fn service_of_a_container(&mut self) -> Result<(), Problem> {
        match self.unit.text("Service", "KillMode") {
            None => self.unit.set("Service", "KillMode", "mixed"),
            Some("mixed" | "control-group") => {}
            Some(other) => {
                let reason = format!(
                    "KillMode={other} would leave the container running; mixed and control-group are possible"
                );
                return Err(self.problem("", &reason));
            }
        }
        match self.unit.text("Service", "Type") {
            None => self.unit.set("Service", "Type", "notify"),
            Some("notify" | "oneshot") => {}
            Some(other) => {
                let reason = format!("Type={other} is not possible for a container; notify and oneshot are");
                return Err(self.problem("", &reason));
            }
        }
        self.unit.add_default("Service", "Delegate", "yes");
        // Else the service manager could kill what has still time to end.
        if let Some(seconds) = self.text("StopTimeout").and_then(|text| text.parse::<u64>().ok()) {
            let limit = seconds.saturating_add(STOP_GRACE_SECS);
            self.unit.add_default("Service", "TimeoutStopSec", limit.to_string());
        }
        Ok(())
    }

    fn reload(&mut self, name: &str) -> Result<(), Problem> {
        let command = self.source.file.last("Container", "ReloadCmd").filter(|given| !given.value.is_empty());
        let words = match (command, self.text("ReloadSignal")) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => {
                return Err(self.problem("ReloadSignal", "and ReloadCmd= exclude each other"));
            }
            (Some(command), None) => {
                let mut words = self.command(&["exec"])?;
                words.push(name.to_owned());
                words.extend(command.words(Escapes::Resolved)?);
                words
            }
            (None, Some(signal)) => {
                let mut words = self.command(&["kill"])?;
                words.extend(["--signal", &signal, name].map(str::to_owned));
                words
            }
        };
        self.add_command("ExecReload", "", &words);
        Ok(())
    }

    fn container_key(&mut self, key: &str) -> Result<(), Problem> {
        match key {
            "AddDevice" => {
                for device in self.words(key, Escapes::Kept)? {
                    match device.strip_prefix('-') {
                        // Only if the host has it.
                        Some(device) => {
                            let path = device.split(':').next().unwrap_or_default();
                            if std::path::Path::new(path).exists() {
                                self.flag("--device", device);
                            }
                        }
                        None => self.flag("--device", device),
                    }
                }
            }
            "AppArmor" => match self.text(key).as_deref() {
                None => {}
                Some("unconfined") => self.flag("--security-opt", "apparmor=unconfined"),
                Some(_) => {
                    return Err(self.problem(key, "is not supported: only unconfined, which is the case"));
                }
            },
            "AutoUpdate" => {
                if let Some(policy) = self.text(key) {
                    let text = format!(
                        "{}: AutoUpdate= is only a label: nothing here pulls newer images by itself",
                        self.source.at(key)
                    );
                    self.report.warning(&text);
                    self.flag("--label", format!("io.containers.autoupdate={policy}"));
                }
            }
            "CgroupsMode" if self.text(key).is_some_and(|mode| mode != "split") => {
                return Err(self.problem(key, "is not supported: only split, the unit's cgroup"));
            }
            // With an empty value it takes away the image's.
            "Entrypoint" => {
                let text = self.text(key).unwrap_or_default();
                self.flag("--entrypoint", text);
            }
            "EnvironmentFile" => {
                for file in self.words(key, Escapes::Resolved)? {
                    let path = self.absolute(&file);
                    self.flag("--env-file", path);
                }
            }
            "Group" if self.text(key).is_some() && self.text("User").is_none() => {
                return Err(self.problem(key, "needs User="));
            }
            "LogDriver" => {
                // The output is the unit's in any case.
                let driver = self
                    .text(key)
                    .map(|driver| if driver == "passthrough" { "none".to_owned() } else { driver });
                if let Some(driver) = driver {
                    self.flag("--log-driver", driver);
                }
            }
            "Mask" | "Unmask" => {
                for paths in self.words(key, Escapes::Resolved)? {
                    self.flag("--security-opt", format!("{}={paths}", key.to_ascii_lowercase()));
                }
            }
            "Mount" => self.mounts()?,
            "Network" => self.networks()?,
            "NoNewPrivileges" if self.truth(key)? == Some(true) => {
                self.flag("--security-opt", "no-new-privileges");
            }
            "Notify" => self.notify()?,
            "Pod" => self.in_pod()?,
            "Pull" => {
                if let Some(policy) = self.text(key) {
                    self.flag("--pull", policy);
                }
            }
            "ReadOnly" => self.read_only()?,
            "Rootfs" => self.flags.push("--rootfs".to_owned()),
            "SeccompProfile" => {
                if let Some(profile) = self.text(key) {
                    self.flag("--security-opt", format!("seccomp={profile}"));
                }
            }
            "SecurityLabelDisable" if self.truth(key)? == Some(true) => {
                self.flag("--security-opt", "label=disable");
            }
            "User" => {
                if let Some(user) = self.text(key) {
                    let user = self.text("Group").map_or(user.clone(), |group| format!("{user}:{group}"));
                    self.flag("--user", user);
                }
            }
            "VolatileTmp" if self.truth(key)? == Some(true) && self.truth("ReadOnly")? != Some(true) => {
                self.flag("--tmpfs", "/tmp:size=512m,mode=1777");
            }
            "Volume" => self.volumes()?,
            // Read where they are needed.
            _ => {}
        }
        Ok(())
    }

    /// Without the key it is as `run` has it: a systemd says itself when it is ready, others are once they run.
    fn notify(&mut self) -> Result<(), Problem> {
        let who = match self.text("Notify") {
            None => return Ok(()),
            Some(word) if word.eq_ignore_ascii_case("healthy") => "healthy",
            Some(_) if self.truth("Notify")? == Some(true) => "payload",
            Some(_) => "started",
        };
        if !cli::takes(&["run"], "--sdnotify", who) {
            return Err(
                self.problem("Notify", &format!("is not supported: dormouse run has no --sdnotify {who}"))
            );
        }
        self.flag("--sdnotify", who);
        Ok(())
    }

    fn read_only(&mut self) -> Result<(), Problem> {
        if self.truth("ReadOnly")? != Some(true) {
            return Ok(());
        }
        self.flags.push("--read-only".to_owned());
        if self.truth("ReadOnlyTmpfs")? == Some(false) {
            return Ok(());
        }
        let mentioned: Vec<String> = ["Tmpfs", "Volume", "Mount"]
            .iter()
            .flat_map(|key| self.all(key))
            .map(|assignment| format!("{}:", assignment.value.replace(['=', ','], ":")))
            .collect();
        for path in WRITABLE {
            let in_middle = format!(":{path}:");
            let at_start = format!("{path}:");
            if !mentioned.iter().any(|text| text.contains(&in_middle) || text.starts_with(&at_start)) {
                self.flag("--tmpfs", *path);
            }
        }
        Ok(())
    }
}
