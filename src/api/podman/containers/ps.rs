//! Containers for a table.

use crate::api::looked_up;
use crate::engine::{Engine, EngineError, Phase};

use super::super::errors::{failed, occurred};
use super::super::text::{ago, state, time};
use super::super::{Call, CallError, PodmanInterface, bare, wire};
use super::list::{One, Port};

impl PodmanInterface {
    pub(super) async fn ps(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::Ps_Args { opts } = call.parameters()?;
        let filters = opts.filters.clone().unwrap_or_default();
        let filters = filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>();
        let filters = filters.map_err(occurred)?;
        let engine = self.engine.clone();
        let containers = looked_up(move || listed(&engine, &opts, &filters)).await.map_err(failed)?;
        call.reply(wire::Ps_Reply { containers }).await
    }
}

fn listed(
    engine: &Engine,
    opts: &wire::PsOpts,
    filters: &[Filter],
) -> Result<Vec<wire::PsContainer>, EngineError> {
    let mut found = One::all(engine)?;
    let limits = opts.last.unwrap_or_default() > 0 || opts.latest == Some(true);
    // A filter on the state, and a number of the newest, are about those that do not run too.
    let all = opts.all || limits || filters.iter().any(|filter| filter.is_about_state());
    let mut bounds = Vec::new();
    for filter in filters {
        bounds.push(filter.bound(engine)?);
    }
    found.retain(|one| {
        (all || one.phase().is_alive())
            && filters.iter().zip(&bounds).all(|(filter, bound)| filter.fits(one, *bound))
    });
    found.reverse();
    if opts.latest == Some(true) {
        found.truncate(1);
    } else if let Some(last) = opts.last.filter(|last| *last > 0) {
        found.truncate(usize::try_from(last).unwrap_or(usize::MAX));
    }
    let sized = opts.size == Some(true);
    let mut rows: Vec<wire::PsContainer> =
        found.iter().map(|one| row(engine, one, sized, opts.noTrunc == Some(true))).collect();
    match opts.sort.as_deref().unwrap_or_default() {
        "command" => rows.sort_by(|one, other| one.command.cmp(&other.command)),
        "id" => rows.sort_by(|one, other| one.id.cmp(&other.id)),
        "image" => rows.sort_by(|one, other| one.image.cmp(&other.image)),
        "names" => rows.sort_by(|one, other| one.names.cmp(&other.names)),
        "runningfor" => rows.sort_by(|one, other| one.startedAt.cmp(&other.startedAt)),
        "size" => rows.sort_by_key(|one| one.rootFsSize),
        "status" => rows.sort_by(|one, other| one.status.cmp(&other.status)),
        "pod" => rows.sort_by(|one, other| one.pod.cmp(&other.pod)),
        // Newest first.
        _ => {}
    }
    Ok(rows)
}

fn row(engine: &Engine, one: &One, sized: bool, whole_ids: bool) -> wire::PsContainer {
    let namespaces = one.namespaces();
    let (root, written) = if sized { one.sizes(engine) } else { (0, 0) };
    let mounts = one.mounts();
    let pid = one.listed.live.pid().unwrap_or_default();
    wire::PsContainer {
        id: if whole_ids { one.id() } else { &one.id()[..12] }.to_owned(),
        image: one.image(),
        command: one.listed.command.join(" "),
        created: ago(one.listed.created_usec),
        ports: one.ports().iter().map(port).collect::<Vec<_>>().join(", "),
        names: one.listed.name.clone(),
        isInfra: false,
        status: status(one),
        state: state(one.phase()).to_owned(),
        pidNum: pid.into(),
        rootFsSize: root,
        rwSize: written,
        pod: one.pod(),
        createdAt: time(Some(one.listed.created_usec)),
        exitedAt: time(one.finished_usec()),
        startedAt: time(one.started_usec()),
        labels: one.listed.labels.clone().into_iter().collect(),
        nsPid: namespaces.pid,
        cgroup: namespaces.cgroup,
        ipc: namespaces.ipc,
        mnt: namespaces.mnt,
        net: namespaces.net,
        pidNs: namespaces.pidns,
        user: namespaces.user,
        uts: namespaces.uts,
        mounts: mounts.into_iter().map(|mount| mount.destination).collect::<Vec<_>>().join(","),
    }
}

fn port(port: &Port) -> String {
    let host = if port.host_ip.is_empty() { "0.0.0.0" } else { &port.host_ip };
    format!("{host}:{}->{}/{}", port.host, port.container, port.protocol)
}

/// `Up 3 seconds ago`, as Podman has it.
fn status(one: &One) -> String {
    let since = |usec: Option<i64>| usec.map(ago).unwrap_or_default();
    match one.phase() {
        Phase::Created | Phase::Starting => "Created".to_owned(),
        Phase::Running | Phase::Stopping => format!("Up {}", since(one.started_usec())),
        Phase::Paused => "Paused".to_owned(),
        Phase::Exited | Phase::Failed => {
            let code = one.listed.live.exit_code().map_or_else(|| "?".to_owned(), |code| code.to_string());
            format!("Exited ({code}) {}", since(one.finished_usec())).trim_end().to_owned()
        }
    }
}

/// A filter of Ps, `key=value`.
struct Filter {
    key: Key,
    value: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Label,
    Name,
    Exited,
    Status,
    Ancestor,
    Before,
    Since,
    Volume,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is no filter; key=value is the form"))?;
        let key = match key {
            "id" => Key::Id,
            "label" => Key::Label,
            "name" => Key::Name,
            "exited" => Key::Exited,
            "status" => Key::Status,
            "ancestor" => Key::Ancestor,
            "before" => Key::Before,
            "since" => Key::Since,
            "volume" => Key::Volume,
            other => return Err(format!("there is no filter {other:?} of containers")),
        };
        if key == Key::Exited && value.parse::<i32>().is_err() {
            return Err(format!("{value:?} is no exit code"));
        }
        Ok(Self { key, value: value.to_owned() })
    }

    fn is_about_state(&self) -> bool {
        matches!(self.key, Key::Status | Key::Exited)
    }

    /// When the container was made that it compares with.
    fn bound(&self, engine: &Engine) -> Result<i64, EngineError> {
        match self.key {
            Key::Before | Key::Since => Ok(engine.find_row(&self.value)?.created_usec),
            _ => Ok(0),
        }
    }

    fn fits(&self, one: &One, bound: i64) -> bool {
        let value = self.value.as_str();
        match self.key {
            Key::Id => one.id().contains(value),
            Key::Name => one.listed.name.contains(value),
            Key::Label => {
                let (key, wanted) =
                    value.split_once('=').map_or((value, None), |(key, value)| (key, Some(value)));
                one.listed.labels.get(key).is_some_and(|have| wanted.is_none_or(|wanted| have == wanted))
            }
            Key::Exited => {
                one.phase() == Phase::Exited
                    && one.listed.live.exit_code().map(|code| code.to_string()).as_deref() == Some(value)
            }
            Key::Status => {
                state(one.phase()) == value || (value == "created" && one.phase() == Phase::Created)
            }
            Key::Ancestor => one.image().contains(value) || one.image_id().starts_with(bare(value)),
            Key::Before => one.listed.created_usec < bound,
            Key::Since => one.listed.created_usec > bound,
            Key::Volume => {
                one.mounts().iter().any(|mount| mount.source == value || mount.destination == value)
            }
        }
    }
}
