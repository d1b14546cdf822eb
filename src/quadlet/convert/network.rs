//! `.network`: a network that is made if it is missing.

use ipnet::IpNet;

use super::{Conversion, Problem, resource_name};
use crate::systemd::unit_file::words::Escapes;

impl Conversion<'_, '_, '_> {
    pub(super) fn network(&mut self) -> Result<(), Problem> {
        let name = resource_name(self.source, "NetworkName");
        self.all_flags(Self::network_key)?;
        let mut create = self.command(&["network", "create", "--ignore"])?;
        create.append(&mut self.flags);
        create.extend(self.words("PodmanArgs", Escapes::Resolved)?);
        create.push(name.clone());
        self.add_command("ExecStart", "", &create);
        if self.truth("NetworkDeleteOnStop")? == Some(true) {
            let mut remove = self.command(&["network", "rm"])?;
            remove.push(name);
            self.add_command("ExecStopPost", "", &remove);
        }
        self.is_made_once(true);
        Ok(())
    }

    fn network_key(&mut self, key: &str) -> Result<(), Problem> {
        match key {
            "Subnet" => self.subnets()?,
            "Gateway" | "IPRange" if self.all(key).len() > self.all("Subnet").len() => {
                return Err(self.problem(key, "has no Subnet= that it belongs to"));
            }
            "IPAMDriver" if self.text(key).is_some_and(|driver| driver != "host-local") => {
                return Err(self.problem(key, "is not supported: only host-local, which is the case"));
            }
            "Options" => {
                for option in self.words(key, Escapes::Resolved)? {
                    self.network_option(&option)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A gateway and a range belong to the subnet before them.
    fn subnets(&mut self) -> Result<(), Problem> {
        let (gateways, ranges) = (self.all("Gateway"), self.all("IPRange"));
        for (index, subnet) in self.all("Subnet").into_iter().enumerate() {
            self.flag("--subnet", &subnet.value);
            if let Some(gateway) = gateways.get(index) {
                self.flag("--gateway", &gateway.value);
            }
            if let Some(range) = ranges.get(index) {
                self.flag("--ip-range", first_and_last(&range.value));
            }
        }
        Ok(())
    }

    fn network_option(&mut self, option: &str) -> Result<(), Problem> {
        match option.split_once('=').unwrap_or((option, "")) {
            ("mtu" | "com.docker.network.driver.mtu", value) => self.flag("--mtu", value),
            ("mode", value) => self.flag("--mode", value),
            ("parent", value) => self.flag("--interface", value),
            ("isolate", "true" | "1") => {}
            ("isolate", "false" | "0") => self.flags.push("--no-isolate".to_owned()),
            _ => return Err(self.problem("Options", &format!("has {option:?}, which is not supported"))),
        }
        Ok(())
    }
}

/// A part of a subnet as our command has it; podman takes both forms.
fn first_and_last(range: &str) -> String {
    match range.parse::<IpNet>() {
        Ok(part) => format!("{}-{}", part.network(), part.broadcast()),
        Err(_) => range.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::first_and_last;

    #[test]
    fn a_part_of_a_subnet_is_its_first_and_last_address() {
        assert_eq!(first_and_last("10.0.0.128/25"), "10.0.0.128-10.0.0.255");
        assert_eq!(first_and_last("fd00::/126"), "fd00::-fd00::3");
        assert_eq!(first_and_last("10.0.0.5-10.0.0.9"), "10.0.0.5-10.0.0.9");
    }
}
