//! /etc/hosts, /etc/resolv.conf and /etc/hostname of a container: files in its durable directory, mounted over the image's.
//!
//! They lie beside what the container has written, on the same disk: it may write to them, and can fill no other.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::network::IpNet;
use crate::network::files::{Resolver, hosts, write_in_place};

use super::super::spec::Namespace;
use super::super::{Container, Engine, EngineError};
use super::state::NetworkState;

/// In place of an address: that of the host, as the container sees it.
pub(super) const HOST_GATEWAY: &str = "host-gateway";
/// The name of the host that podman gives too, so that the same programs find it.
const HOST_NAME: &str = "host.containers.internal";

impl Engine {
    fn etc(&self, id: &str) -> PathBuf {
        self.paths().container(id).join("etc")
    }

    /// Writes the files for a start, or after a change of networks. What the container has written to them is lost.
    pub(super) fn write_etc(
        &self,
        container: &Container,
        state: Option<&NetworkState>,
    ) -> Result<(), EngineError> {
        let dir = self.etc(&container.row.id);
        match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(EngineError::io("make directory", dir, error));
            }
            _ => {}
        }
        for (name, text) in texts(container, state)? {
            write_in_place(&dir.join(name), &text)?;
        }
        Ok(())
    }
}

pub(in super::super) fn hostname(container: &Container) -> String {
    container.definition.spec.hostname.clone().unwrap_or_else(|| container.row.id[..12].to_owned())
}

fn texts(
    container: &Container,
    state: Option<&NetworkState>,
) -> Result<Vec<(&'static str, String)>, EngineError> {
    let spec = &container.definition.spec;
    let mut texts = Vec::new();
    let own_name = spec.uts_namespace == Namespace::Private;
    if own_name {
        texts.push(("hostname", format!("{}\n", hostname(container))));
    }
    let mut names = Vec::new();
    if own_name {
        if let Some(domain) = &spec.domainname {
            names.push(format!("{}.{domain}", hostname(container)));
        }
        names.push(hostname(container));
    }
    if !names.contains(&container.row.name) {
        names.push(container.row.name.clone());
    }
    let gateway =
        state.and_then(|state| state.attached.iter().find_map(|attached| attached.gateways.first().copied()));
    let extra = spec.extra_hosts.iter().map(|(name, address)| {
        let address = if address == HOST_GATEWAY {
            let host = match (spec.network_namespace(), gateway) {
                (Namespace::Host, _) => Some(IpAddr::from([127, 0, 0, 1])),
                (_, gateway) => gateway,
            };
            host.ok_or_else(|| {
                super::invalid(format!("spec.extraHosts.{name}"), "no network leads to the host")
            })?
        } else {
            address
                .parse()
                .map_err(|_| super::invalid(format!("spec.extraHosts.{name}"), "it is no address"))?
        };
        Ok((address, vec![name.clone()]))
    });
    let mut entries: Vec<(IpAddr, Vec<String>)> = extra.collect::<Result<_, EngineError>>()?;
    match spec.network_namespace() {
        Namespace::Container(_) | Namespace::Pod(_) => return Ok(texts),
        Namespace::Host => {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_else(|_| hosts(&[]));
            for (address, names) in entries {
                text.push_str(&format!("{address}\t{}\n", names.join(" ")));
            }
            texts.push(("hosts", text));
        }
        Namespace::Private => {
            let addresses: Vec<IpAddr> = state
                .into_iter()
                .flat_map(|state| &state.attached)
                .flat_map(|attached| &attached.addresses)
                .map(IpNet::addr)
                .collect();
            if addresses.is_empty() {
                entries.push((IpAddr::from([127, 0, 0, 1]), names));
            } else {
                entries.extend(addresses.into_iter().map(|address| (address, names.clone())));
            }
            if let Some(gateway) = gateway
                && !spec.extra_hosts.contains_key(HOST_NAME)
            {
                entries.push((gateway, vec![HOST_NAME.to_owned()]));
            }
            texts.push(("hosts", hosts(&entries)));
        }
    }
    texts.push(("resolv.conf", resolver(container, state).text()));
    Ok(texts)
}

fn resolver(container: &Container, state: Option<&NetworkState>) -> Resolver {
    let spec = &container.definition.spec;
    // In the host's own namespace its loopback interface is there too.
    let mut resolver = if *spec.network_namespace() == Namespace::Host {
        Resolver::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    } else {
        Resolver::of_host()
    };
    // On a network with names these ask those that were given.
    let mut names: Vec<IpAddr> = state
        .into_iter()
        .flat_map(|state| &state.attached)
        .flat_map(|attached| attached.servers.clone())
        .collect();
    names.dedup();
    if !names.is_empty() {
        resolver.servers = names;
    } else if !spec.dns_servers.is_empty() {
        resolver.servers.clone_from(&spec.dns_servers);
    }
    if !spec.dns_search.is_empty() {
        resolver.search.clone_from(&spec.dns_search);
    }
    if !spec.dns_options.is_empty() {
        resolver.options.clone_from(&spec.dns_options);
    }
    resolver
}

/// The mounts for a start, in the form of the OCI specification. Where the caller mounts something itself, that stays.
pub(in super::super) fn etc_mounts(
    engine: &Engine,
    container: &Container,
) -> Result<Vec<oci_spec::runtime::Mount>, EngineError> {
    let spec = &container.definition.spec;
    let own = engine.etc(&container.row.id);
    let mut wanted: Vec<(&str, PathBuf)> = Vec::new();
    match &spec.uts_namespace {
        Namespace::Private => wanted.push(("hostname", own.join("hostname"))),
        Namespace::Pod(pod) => wanted.push(("hostname", engine.etc(pod).join("hostname"))),
        Namespace::Host | Namespace::Container(_) => {}
    }
    let others = match spec.network_namespace() {
        Namespace::Container(other) => engine.etc(&engine.find_row(other)?.id),
        Namespace::Pod(pod) => engine.etc(pod),
        _ => own,
    };
    wanted.push(("hosts", others.join("hosts")));
    let asks = spec.network_namespace != Some(Namespace::Private)
        || !container.definition.networks.is_empty()
        || !spec.dns_servers.is_empty();
    if asks {
        wanted.push(("resolv.conf", others.join("resolv.conf")));
    }
    let is_given = |target: &Path| {
        spec.mounts.iter().any(|mount| {
            let given: PathBuf = Path::new(&mount.target).components().collect();
            target.starts_with(given)
        })
    };
    let mut mounts = Vec::new();
    for (name, source) in wanted {
        let target = Path::new("/etc").join(name);
        // Nothing is made in a directory of the host that is only to be read.
        let missing = spec.read_only_root
            && spec
                .rootfs
                .as_ref()
                .is_some_and(|root| root.join("etc").join(name).symlink_metadata().is_err());
        if is_given(&target)
            || missing
            || !(source.exists() || source.starts_with(engine.etc(&container.row.id)))
        {
            continue;
        }
        let mount: Value = json!({"destination": target, "type": "bind", "source": source,
                                  "options": ["bind", "rprivate", "nosuid", "nodev", "noexec"]});
        mounts.push(serde_json::from_value(mount).map_err(|error| EngineError::Failed {
            attempted: "build the specification".to_owned(),
            reason: error.to_string(),
        })?);
    }
    Ok(mounts)
}
