//! io.dormouse.Network.

use std::collections::BTreeMap;

use crate::engine::spec::NetworkAttachment;
use crate::engine::{Engine, EngineError, Member, Network, NewNetwork, NewSubnet};
use crate::network::Driver;
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::errors::to_reply;
use super::network_types::addresses_from_wire;
use super::{listing, looked_up, ordered};
use crate::wire::network as wire;

const NAME: &str = "io.dormouse.Network";

/// The interface over an engine.
pub(super) struct NetworkInterface {
    engine: Engine,
}

impl Interface for NetworkInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/io.dormouse.Network.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Create" => self.create(call).await,
                "List" => self.list(call).await,
                "Inspect" => self.inspect(call).await,
                "Remove" => self.remove(call).await,
                "Connect" => self.connect(call).await,
                "Disconnect" => self.disconnect(call).await,
                "Prune" => self.prune(call).await,
                "Reload" => self.reload(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl NetworkInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn create(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Create_Args = call.parameters()?;
        let mtu = given.mtuBytes.map(u32::try_from).transpose();
        let new = NewNetwork {
            name: given.name,
            driver: given.driver.map(|driver| match driver {
                wire::Driver::bridge => Driver::Bridge,
                wire::Driver::macvlan => Driver::Macvlan,
                wire::Driver::ipvlan => Driver::Ipvlan,
            }),
            subnets: given
                .subnets
                .unwrap_or_default()
                .into_iter()
                .map(|given| NewSubnet {
                    subnet: given.subnet,
                    gateway: given.gateway,
                    range_first: given.rangeFirst,
                    range_last: given.rangeLast,
                })
                .collect(),
            ipv6: given.ipv6.unwrap_or_default(),
            interface: given.interface,
            internal: given.internal.unwrap_or_default(),
            dns: given.dns,
            isolate: given.isolate,
            mtu: mtu.map_err(|_| CallError::InvalidParameter { parameter: "mtuBytes".to_owned() })?,
            mode: given.mode,
            labels: given.labels.unwrap_or_default().into_iter().collect(),
        };
        let engine = self.engine.clone();
        let network = ordered(call, looked_up(move || engine.create_network(new))).await.map_err(failed)?;
        call.reply(wire::Create_Reply { network: details(network, &BTreeMap::new()) }).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::List_Args = call.parameters()?;
        let wanted = listing::Wanted::new(given.names, given.labels);
        let look = move |engine: &Engine| Ok(wanted.of(all(engine)?, |it| (&it.id, &it.name, &it.labels)));
        let reply = |networks, gone| wire::List_Reply { networks, gone };
        listing::list(call, &self.engine, NAME, look, |network| &network.id, reply).await
    }

    async fn inspect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Inspect_Args = call.parameters()?;
        let engine = self.engine.clone();
        let network = looked_up(move || {
            let network = engine.find_network(&given.name)?;
            Ok(details(network, &engine.members()?))
        });
        call.reply(wire::Inspect_Reply { network: network.await.map_err(failed)? }).await
    }

    async fn remove(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Remove_Args = call.parameters()?;
        let engine = self.engine.clone();
        let force = given.force.unwrap_or_default();
        ordered(call, async move { engine.remove_network(&given.name, force).await })
            .await
            .map_err(failed)?;
        call.reply(wire::Remove_Reply {}).await
    }

    async fn connect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Connect_Args = call.parameters()?;
        let attachment = NetworkAttachment {
            network: given.name,
            addresses: addresses_from_wire("addresses", given.addresses.unwrap_or_default())
                .map_err(failed)?,
            mac: given.mac,
            aliases: given.aliases.unwrap_or_default(),
            interface: given.interface,
        };
        let engine = self.engine.clone();
        ordered(call, async move { engine.connect(attachment, &given.container).await })
            .await
            .map_err(failed)?;
        call.reply(wire::Connect_Reply {}).await
    }

    async fn disconnect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Disconnect_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.disconnect(&given.name, &given.container).await })
            .await
            .map_err(failed)?;
        call.reply(wire::Disconnect_Reply {}).await
    }

    async fn prune(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::Prune_Args {} = call.parameters()?;
        let engine = self.engine.clone();
        let removed = ordered(call, async move { engine.prune_networks().await }).await.map_err(failed)?;
        call.reply(wire::Prune_Reply { removed }).await
    }

    async fn reload(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Reload_Args = call.parameters()?;
        let engine = self.engine.clone();
        let reloaded = ordered(call, async move { engine.reload_networks(given.container.as_deref()).await })
            .await
            .map_err(failed)?;
        call.reply(wire::Reload_Reply { reloaded }).await
    }
}

fn all(engine: &Engine) -> Result<Vec<wire::Details>, EngineError> {
    let members = engine.members()?;
    Ok(engine.networks()?.into_iter().map(|network| details(network, &members)).collect())
}

fn details(network: Network, members: &BTreeMap<String, Vec<Member>>) -> wire::Details {
    let definition = network.definition;
    let text = |address: std::net::IpAddr| address.to_string();
    wire::Details {
        containers: members.get(&network.row.id).into_iter().flatten().map(member).collect(),
        id: network.row.id,
        name: network.row.name,
        driver: match definition.driver {
            Driver::Bridge => wire::Driver::bridge,
            Driver::Macvlan => wire::Driver::macvlan,
            Driver::Ipvlan => wire::Driver::ipvlan,
        },
        interface: definition.interface,
        subnets: definition
            .subnets
            .into_iter()
            .map(|subnet| wire::Subnet {
                subnet: subnet.net.to_string(),
                gateway: subnet.gateway.map(text),
                rangeFirst: subnet.range.map(|(first, _)| text(first)),
                rangeLast: subnet.range.map(|(_, last)| text(last)),
            })
            .collect(),
        internal: definition.internal,
        dns: definition.dns,
        isolate: definition.isolate,
        mtuBytes: definition.mtu.map(Into::into),
        mode: definition.mode,
        labels: definition.labels.into_iter().collect(),
        createdUSec: network.row.created_usec,
    }
}

fn member(member: &Member) -> wire::Member {
    let attached = member.attached.as_ref();
    wire::Member {
        id: member.id.clone(),
        name: member.name.clone(),
        addresses: match attached {
            Some(attached) => attached.addresses.iter().map(ToString::to_string).collect(),
            None => member.asked.addresses.iter().map(ToString::to_string).collect(),
        },
        mac: attached.map_or_else(|| member.asked.mac.clone(), |attached| attached.mac.clone()),
        interface: attached
            .map(|attached| attached.interface.clone())
            .or_else(|| member.asked.interface.clone()),
    }
}
