//! The service, its host, and what happens.

use std::path::Path;

use crate::api::{looked_up, ordered};
use crate::engine::{Engine, EngineError, Event, EventKind, Since, Whose};
use crate::image::registry::Registries;

use super::errors::{failed, occurred};
use super::text::{bound, count, duration, now_usec, signed, time};
use super::{Call, CallError, PodmanInterface, VERSION, wire};

impl PodmanInterface {
    pub(super) async fn version(&self, call: &mut Call) -> Result<(), CallError> {
        call.reply(wire::GetVersion_Reply {
            version: VERSION.to_owned(),
            go_version: "none, this is Rust".to_owned(),
            git_commit: format!("dormouse {}", env!("CARGO_PKG_VERSION")),
            built: String::new(),
            os_arch: format!("linux/{}", architecture()),
            remote_api_version: 1,
        })
        .await
    }

    pub(super) async fn info(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let info = looked_up(move || info(&engine)).await.map_err(failed)?;
        call.reply(wire::GetInfo_Reply { info }).await
    }

    /// Everything goes; the service stays, for there is nothing in it that would have to be forgotten.
    pub(super) async fn reset(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        ordered(call, async move { reset(&engine).await }).await.map_err(failed)?;
        call.reply_nothing().await
    }

    pub(super) async fn events(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetEvents_Args = call.parameters()?;
        let filters = given.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>();
        let filters = filters.map_err(occurred)?;
        let until = bound(&given.until).unwrap_or(None);
        let history = !given.since.is_empty() || until.is_some() || !call.wants_more();
        // What is no time only asks for the history.
        let since = match (history, bound(&given.since).unwrap_or(None)) {
            (false, _) => Since::Now,
            (true, None) => Since::Oldest,
            (true, Some(usec)) => Since::Time(usec),
        };
        // Before anything is waited for: from the call on, nothing is missed.
        let mut follower = self.engine.follow_events(since).map_err(failed)?;
        let (engine, values) =
            (self.engine.clone(), filters.iter().map(|filter| filter.value.clone()).collect());
        let whose = looked_up(move || engine.whose(values)).await.map_err(failed)?;
        let nothing = wire::Event {
            id: String::new(),
            image: String::new(),
            name: String::new(),
            status: String::new(),
            time: String::new(),
            r#type: String::new(),
        };
        let wants_more = call.wants_more();
        let over = async {
            match until {
                Some(until) => {
                    let left = u64::try_from(until - now_usec()).unwrap_or_default();
                    tokio::time::sleep(std::time::Duration::from_micros(left)).await;
                }
                // Without a stream, nothing is waited for.
                None if !wants_more => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            let batch = tokio::select! {
                biased;
                batch = follower.next() => batch.map_err(failed)?,
                () = &mut over => return call.reply(wire::GetEvents_Reply { events: nothing }).await,
            };
            for event in batch {
                if until.is_some_and(|until| event.time > until) {
                    return call.reply(wire::GetEvents_Reply { events: nothing }).await;
                }
                let Some(events) = to_wire(&self.engine, &event) else { continue };
                let fits = |(filter, whose): (&Filter, &Whose)| {
                    filter.fits(&self.engine, &events, whose.is_of(&event))
                };
                if !filters.iter().zip(&whose).all(fits) {
                    continue;
                }
                if !call.wants_more() {
                    return call.reply(wire::GetEvents_Reply { events }).await;
                }
                call.reply_continues(wire::GetEvents_Reply { events }).await?;
            }
        }
    }
}

/// An event in Podman's words; `None` for what it has no word for, which would end its clients.
fn to_wire(engine: &Engine, event: &Event) -> Option<wire::Event> {
    let (kind, status) = match (event.kind, event.action.as_str()) {
        (EventKind::Container, action) => ("container", container_status(action)?),
        (EventKind::Exec, "start") => ("container", "exec"),
        (EventKind::Image, action) => ("image", image_status(action)?),
        (EventKind::Volume, action @ ("create" | "remove" | "prune")) => ("volume", action),
        (EventKind::Pod, action) => ("pod", pod_status(action)?),
        _ => return None,
    };
    let of_image = event.kind == EventKind::Image;
    let image = match of_image {
        true => event.name.clone(),
        false => engine
            .find_row(&event.id)
            .ok()
            .and_then(|row| row.image_id)
            .and_then(|id| engine.find_image(&id).ok())
            .and_then(|image| image.row.names.first().cloned())
            .unwrap_or_default(),
    };
    Some(wire::Event {
        // A volume has only a name.
        id: if event.kind == EventKind::Volume { String::new() } else { super::bare(&event.id).to_owned() },
        image: if of_image { String::new() } else { image },
        name: event.name.clone(),
        status: status.to_owned(),
        time: time(Some(event.time)),
        r#type: kind.to_owned(),
    })
}

fn container_status(action: &str) -> Option<&'static str> {
    Some(match action {
        "create" => "create",
        "start" => "start",
        "exit" => "died",
        "stop" => "stop",
        "kill" => "kill",
        "pause" => "pause",
        "resume" => "unpause",
        "restart" => "restart",
        "remove" => "remove",
        "attach" => "attach",
        "commit" => "commit",
        _ => return None,
    })
}

fn pod_status(action: &str) -> Option<&'static str> {
    Some(match action {
        "create" => "create",
        "start" => "start",
        "stop" => "stop",
        "kill" => "kill",
        "pause" => "pause",
        "resume" => "unpause",
        "restart" => "restart",
        "remove" => "remove",
        _ => return None,
    })
}

fn image_status(action: &str) -> Option<&'static str> {
    Some(match action {
        "pull" => "pull",
        "push" => "push",
        "import" => "import",
        "load" => "loadfromarchive",
        "save" => "save",
        "tag" => "tag",
        "untag" => "untag",
        "remove" => "remove",
        "commit" | "build" => "commit",
        _ => return None,
    })
}

/// A filter of events, `key=value`.
struct Filter {
    key: String,
    value: String,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is no filter; key=value is the form"))?;
        let key = key.to_ascii_lowercase();
        if !["container", "event", "image", "label", "pod", "type", "volume"].contains(&key.as_str()) {
            return Err(format!("there is no filter {key:?} of events"));
        }
        Ok(Self { key, value: value.to_owned() })
    }

    /// `is_it`: whether the event is about what the value names.
    fn fits(&self, engine: &Engine, event: &wire::Event, is_it: bool) -> bool {
        let value = self.value.as_str();
        match self.key.as_str() {
            "event" => event.status == value,
            "type" => event.r#type == value,
            "image" if event.r#type == "container" => !value.is_empty() && event.image.contains(value),
            "label" => {
                let (key, wanted) =
                    value.split_once('=').map_or((value, None), |(key, value)| (key, Some(value)));
                let labels = engine.find(&event.id).map(|found| found.definition.labels).unwrap_or_default();
                event.r#type == "container"
                    && labels.get(key).is_some_and(|have| wanted.is_none_or(|wanted| have == wanted))
            }
            kind => event.r#type == kind && is_it,
        }
    }
}

async fn reset(engine: &Engine) -> Result<(), EngineError> {
    for container in engine.list(&crate::engine::ContainerFilter::default())? {
        match engine.remove(&container.id, true, true).await {
            Ok(()) | Err(EngineError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    super::pods::remove_all(engine).await?;
    super::volumes::remove_all(engine).await?;
    for network in engine.networks()? {
        engine.remove_network(&network.row.name, true).await?;
    }
    let pruning = engine.clone();
    looked_up(move || pruning.prune_images(true)).await.map(drop)
}

fn info(engine: &Engine) -> Result<wire::PodmanInfo, EngineError> {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let release = os_release();
    let of_release = |key: &str| release.get(key).cloned().unwrap_or_default();
    let memory = |key: &str| meminfo(key).map_or(0, signed);
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let paths = engine.paths();
    // What can't be read is told by who wants to use it.
    let registries = Registries::load().unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(wire::PodmanInfo {
        host: wire::InfoHost {
            buildah_version: String::new(),
            distribution: wire::InfoDistribution {
                distribution: of_release("ID"),
                version: of_release("VERSION_ID"),
            },
            mem_free: memory("MemFree:"),
            mem_total: memory("MemTotal:"),
            swap_free: memory("SwapFree:"),
            swap_total: memory("SwapTotal:"),
            arch: architecture().to_owned(),
            cpus: count(cpus),
            hostname: text(uname.nodename()),
            kernel: text(uname.release()),
            os: "linux".to_owned(),
            uptime: duration(uptime.saturating_mul(1_000_000)),
            eventlogger: "file".to_owned(),
        },
        registries: wire::InfoRegistry {
            search: registries.search_registries().to_vec(),
            insecure: registries.insecure_registries(),
            blocked: registries.blocked_registries(),
        },
        store: wire::InfoStore {
            containers: super::containers::containers_count(engine)?,
            images: count(engine.images()?.len()),
            graph_driver_name: "overlay".to_owned(),
            graph_driver_options: String::new(),
            graph_root: paths.state_dir.to_string_lossy().into_owned(),
            graph_status: wire::InfoGraphStatus {
                backing_filesystem: file_system(&paths.state_dir),
                native_overlay_diff: "true".to_owned(),
                supports_d_type: "true".to_owned(),
            },
            run_root: paths.run_dir.to_string_lossy().into_owned(),
        },
        podman: wire::InfoPodmanBinary {
            compiler: "rustc".to_owned(),
            go_version: "none, this is Rust".to_owned(),
            podman_version: VERSION.to_owned(),
            git_commit: format!("dormouse {}", env!("CARGO_PKG_VERSION")),
        },
    })
}

/// This machine's processor in Go's words.
fn architecture() -> String {
    crate::image::manifest::Platform::host().architecture
}

/// A line of /proc/meminfo, in bytes.
pub(super) fn meminfo(key: &str) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn os_release() -> std::collections::HashMap<String, String> {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// The kind of file system that a directory is on, by its longest place in /proc/self/mounts.
fn file_system(directory: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut best: (usize, &str) = (0, "");
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(place), Some(kind)) = (fields.next(), fields.next())
            && directory.starts_with(place)
            && place.len() >= best.0
        {
            best = (place.len(), kind);
        }
    }
    best.1.to_owned()
}
