//! `dormouse network`

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::Nothing;
use super::noun::{Noun, filters, made};
use crate::cli::done::{Done, tell, tell_all};
use crate::cli::errors::CliError;
use crate::cli::human::parse_size;
use crate::cli::output::{DocumentFlag, FormatFlag};
use crate::cli::service::Service;
use crate::cli::spec::pairs;
use crate::cli::table::{Table, printable, short_id};
use crate::wire::network::{Details, Driver as WireDriver};

/// Make networks, and see who is on them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse network create web
  dormouse network create --subnet 10.1.2.0/24 --ipv6 web
  dormouse network create --driver macvlan --interface eth0 --subnet 192.0.2.0/24 --gateway 192.0.2.1 lan
  dormouse network connect --alias db web postgres")]
pub struct Network {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<Create>),
    #[command(visible_alias = "list")]
    Ls(List),
    Inspect(Inspect),
    Rm(Remove),
    Connect(Connect),
    Disconnect(Disconnect),
    /// Remove networks that no container refers to
    Prune(FormatFlag),
    Reload(Reload),
}

/// Make a network
#[derive(Debug, Args)]
struct Create {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
    /// What connects the containers
    #[arg(short, long, value_enum, value_name = "DRIVER")]
    driver: Option<Driver>,
    /// Subnet [default: a free one]
    #[arg(long = "subnet", value_name = "SUBNET")]
    subnets: Vec<String>,
    /// Gateway of the subnet before [default: for a bridge its first address]
    #[arg(long = "gateway", value_name = "ADDRESS")]
    gateways: Vec<String>,
    /// First and last address that are given away of the subnet before
    #[arg(long = "ip-range", value_name = "FIRST-LAST")]
    ranges: Vec<String>,
    /// Add a subnet of IPv6
    #[arg(long)]
    ipv6: bool,
    /// Name of the bridge; for macvlan and ipvlan the interface of the host to sit on
    #[arg(long, visible_aliases = ["interface-name", "parent"], value_name = "INTERFACE")]
    interface: Option<String>,
    /// No way out of the host
    #[arg(long)]
    internal: bool,
    /// Containers don't find each other by name
    #[arg(long)]
    disable_dns: bool,
    /// Let packets pass between this network and others
    #[arg(long)]
    no_isolate: bool,
    /// Size of the largest packet, in bytes
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    mtu: Option<i64>,
    /// macvlan: bridge, private, vepa or passthru; ipvlan: l2, l3 or l3s
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Label, as KEY=VALUE or KEY
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// No error if it is there already
    #[arg(long)]
    ignore: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Driver {
    Bridge,
    Macvlan,
    Ipvlan,
}

/// List networks
#[derive(Debug, Args)]
struct List {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only those with: name=, id= or label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Tell all of networks, as JSON
#[derive(Debug, Args)]
struct Inspect {
    /// Networks, by name, id or a prefix of the id
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
    #[command(flatten)]
    form: DocumentFlag,
}

/// Remove networks
#[derive(Debug, Args)]
struct Remove {
    /// Networks, by name, id or a prefix of the id
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
    /// Disconnect their containers first
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Connect a container to a network, now if it runs and at each start
#[derive(Debug, Args)]
struct Connect {
    /// Network, by name, id or a prefix of the id
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Address on the network
    #[arg(long = "ip", visible_alias = "ip6", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Hardware address on the network
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Further name on the network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Name of the interface in the container
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Disconnect a container from a network
#[derive(Debug, Args)]
struct Disconnect {
    /// Network, by name, id or a prefix of the id
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[command(flatten)]
    form: FormatFlag,
}

/// Make firewall rules, ports and names of running containers anew
#[derive(Debug, Args)]
struct Reload {
    /// Container, by name, id or a prefix of the id [default: all that run]
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
}

const NETWORKS: Noun = Noun { one: "network", many: "networks", interface: "io.dormouse.Network" };

impl Network {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Create(create) => create.run(service),
            Command::Ls(list) => list.run(service),
            Command::Inspect(given) => NETWORKS.print_details(service, &given.form, &given.names),
            Command::Rm(given) => {
                let parameters = json!({"force": given.force});
                NETWORKS.act(service, &given.form, &given.names, false, "Remove", parameters)
            }
            Command::Connect(connect) => connect.run(service),
            Command::Disconnect(given) => {
                let attempted = format!("disconnect {:?} from {:?}", given.container, given.network);
                let parameters = json!({"name": given.network, "container": given.container});
                let Nothing {} = NETWORKS.call(service, &attempted, "Disconnect", parameters)?;
                let done = Done::to(&given.network).silently();
                tell(&given.form, done.with("container", given.container))
            }
            Command::Prune(form) => {
                let reply: Value = NETWORKS.call(service, "remove unused networks", "Prune", json!({}))?;
                tell_all(&form, done_to(&reply["removed"]))
            }
            Command::Reload(given) => {
                let parameters = json!({"container": given.container});
                let reply: Value = NETWORKS.call(service, "reload networks", "Reload", parameters)?;
                tell_all(&given.form, done_to(&reply["reloaded"]))
            }
        }
    }
}

fn done_to(list: &Value) -> Vec<Done> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(Done::to).collect()
}

impl Create {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("make the network {:?}", self.name);
        if self.ignore
            && let Some(network) = NETWORKS.named(service, &self.name)?
        {
            return tell(&self.form, made(&network).with("ignored", true));
        }
        let reply: Value = NETWORKS.call(service, &attempted, "Create", self.parameters()?)?;
        tell(&self.form, made(&reply["network"]))
    }

    fn parameters(&self) -> Result<Value, CliError> {
        for (flag, list) in [("--gateway", &self.gateways), ("--ip-range", &self.ranges)] {
            if list.len() > self.subnets.len() {
                return Err(CliError::usage(format!("{flag}: there are more of them than subnets")));
            }
        }
        let mut subnets = Vec::new();
        for (index, subnet) in self.subnets.iter().enumerate() {
            let range = match self.ranges.get(index) {
                None => None,
                Some(text) => Some(
                    text.split_once('-')
                        .ok_or_else(|| CliError::usage(format!("--ip-range: {text:?} is not FIRST-LAST")))?,
                ),
            };
            subnets.push(json!({
                "subnet": subnet, "gateway": self.gateways.get(index),
                "rangeFirst": range.map(|(first, _)| first), "rangeLast": range.map(|(_, last)| last),
            }));
        }
        Ok(json!({
            "name": self.name, "driver": self.driver, "subnets": (!subnets.is_empty()).then_some(subnets),
            "ipv6": self.ipv6, "interface": self.interface, "internal": self.internal,
            "dns": self.disable_dns.then_some(false), "isolate": self.no_isolate.then_some(false),
            "mtuBytes": self.mtu, "mode": self.mode, "labels": pairs("--label", &self.labels, true)?,
        }))
    }
}

impl List {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let wanted = filters(&self.filters, "name=, id= and label=", |_, _| false)?;
        NETWORKS.print_list(service, &self.form, wanted, |networks| Ok(self.text(networks)))
    }

    fn text(&self, networks: &[Details]) -> String {
        if self.quiet {
            return networks.iter().map(|network| format!("{}\n", printable(&network.name))).collect();
        }
        let mut table = Table::new(&["NAME", "NETWORK ID", "DRIVER", "INTERFACE", "SUBNETS", "CONTAINERS"])
            .whole(self.no_trunc);
        for network in networks {
            table.row([
                network.name.clone(),
                short_id(&network.id, self.no_trunc),
                match network.driver {
                    WireDriver::bridge => "bridge",
                    WireDriver::macvlan => "macvlan",
                    WireDriver::ipvlan => "ipvlan",
                }
                .to_owned(),
                network.interface.clone(),
                network.subnets.iter().map(|subnet| subnet.subnet.clone()).collect::<Vec<_>>().join(", "),
                network.containers.len().to_string(),
            ]);
        }
        table.render()
    }
}

impl Connect {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let parameters = json!({
            "name": self.network, "container": self.container, "addresses": some(&self.addresses),
            "mac": self.mac_address, "aliases": some(&self.aliases), "interface": self.interface,
        });
        let attempted = format!("connect {:?} to {:?}", self.container, self.network);
        let Nothing {} = NETWORKS.call(service, &attempted, "Connect", parameters)?;
        tell(&self.form, Done::to(&self.network).silently().with("container", self.container))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::typed;

    #[test]
    fn a_network_has_a_row() {
        let network: Details = typed(
            "test",
            &json!({
                "id": "0123456789abcdef", "name": "web", "driver": "bridge", "interface": "dm0123456789",
                "subnets": [{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}], "internal": false, "dns": true,
                "isolate": true, "labels": {}, "createdUSec": 0, "containers": [],
            }),
        )
        .unwrap();
        let list = List {
            quiet: false,
            no_trunc: false,
            filters: vec![],
            form: FormatFlag { format: crate::cli::output::Format::Table },
        };
        assert_eq!(
            list.text(&[network]),
            "NAME  NETWORK ID    DRIVER  INTERFACE     SUBNETS                 CONTAINERS\n\
             web   0123456789ab  bridge  dm0123456789  10.1.2.0/24, fd00::/64  0\n"
        );
    }
}
