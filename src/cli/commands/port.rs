//! `dormouse port`

use clap::Args;
use serde_json::Value;

use super::inspect::inspect_container;
use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_list};
use crate::cli::service::Service;
use crate::wire::container::{Protocol, PublishedPort};

/// List the ports of the host that lead to a container
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dormouse port web\n  dormouse port web 80/tcp     only where this port is found"
)]
pub struct Port {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
}

impl Port {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("list the ports of {:?}", self.name);
        let wanted = self.port.as_deref().map(parse).transpose()?;
        let details = inspect_container(service, &attempted, &self.name)?;
        let one_by_one = details.summary.ports.iter().flat_map(each);
        let ports: Vec<PublishedPort> = one_by_one
            .filter(|port| {
                wanted.as_ref().is_none_or(|(number, protocol)| {
                    port.containerPort == *number && protocol_name(&port.protocol) == protocol
                })
            })
            .collect();
        if ports.is_empty()
            && let Some(port) = &self.port
        {
            return Err(CliError::new(format!("cannot {attempted}: the port {port} is not published")));
        }
        let items: Vec<Value> = ports.iter().filter_map(|port| serde_json::to_value(port).ok()).collect();
        print_list(self.form.format, &items, || Ok(ports.iter().map(line).collect()))
    }
}

fn parse(text: &str) -> Result<(i64, String), CliError> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number: u16 = number.parse().map_err(|_| CliError::usage(format!("{text:?} is no port")))?;
    Ok((number.into(), protocol.to_ascii_lowercase()))
}

/// Each port of a range on its own.
fn each(port: &PublishedPort) -> impl Iterator<Item = PublishedPort> {
    (0..port.range).map(|step| PublishedPort {
        hostPort: port.hostPort + step,
        containerPort: port.containerPort + step,
        range: 1,
        ..port.clone()
    })
}

fn line(port: &PublishedPort) -> String {
    let ip = port.hostIp.as_deref().unwrap_or("0.0.0.0");
    let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{}/{} -> {ip}:{}\n", port.containerPort, protocol_name(&port.protocol), port.hostPort)
}

fn protocol_name(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::tcp => "tcp",
        Protocol::udp => "udp",
        Protocol::sctp => "sctp",
    }
}

/// As a table of containers shows it: `127.0.0.1:8000-8003->80-83/tcp`.
pub(super) fn port_text(port: &PublishedPort) -> String {
    let range = |first: i64| match port.range {
        1 => first.to_string(),
        count => format!("{first}-{}", first + count - 1),
    };
    let ip = port.hostIp.as_ref().map_or(String::new(), |ip| format!("{ip}:"));
    format!("{ip}{}->{}/{}", range(port.hostPort), range(port.containerPort), protocol_name(&port.protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_shown_whole_in_a_table_and_line_by_line_in_a_list() {
        let port = PublishedPort {
            hostIp: Some("127.0.0.1".into()),
            hostPort: 8000,
            containerPort: 80,
            protocol: Protocol::udp,
            range: 2,
        };
        assert_eq!(port_text(&port), "127.0.0.1:8000-8001->80-81/udp");
        let lines: String = each(&port).map(|port| line(&port)).collect();
        assert_eq!(lines, "80/udp -> 127.0.0.1:8000\n81/udp -> 127.0.0.1:8001\n");
    }
}
