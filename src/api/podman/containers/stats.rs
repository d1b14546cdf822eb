//! What containers use.

use crate::engine::{ContainerStats, Engine, EngineError};

use super::super::errors::failed_if_idle;
use super::super::text::signed;
use super::super::{Call, CallError, PodmanInterface, wire};

/// What a container uses now.
///
/// # Errors
/// [`EngineError::WrongState`] if it does not run.
pub(in super::super) async fn stats_of(
    engine: &Engine,
    id: &str,
    before: Option<&wire::ContainerStats>,
) -> Result<wire::ContainerStats, EngineError> {
    let mut follower = engine.stats(Some(&[id.to_owned()]), None)?;
    let read = follower.next().await?.and_then(|mut stats| stats.pop());
    let Some(stats) = read else {
        // It has ended between two looks.
        let live = engine.live(id)?;
        return Err(EngineError::WrongState {
            attempted: "read the statistics of",
            name: id.to_owned(),
            state: live.phase,
            wanted: "running",
        });
    };
    Ok(to_wire(stats, before))
}

fn to_wire(stats: ContainerStats, before: Option<&wire::ContainerStats>) -> wire::ContainerStats {
    let usage = &stats.usage;
    let number = |value: Option<u64>| signed(value.unwrap_or_default());
    let cpu_nano = number(usage.cpu_usec.map(|usec| usec.saturating_mul(1000)));
    let now_nano = stats.time_usec.saturating_mul(1000);
    let cpu = match before {
        Some(before) if before.system_nano > 0 && before.cpu_nano <= cpu_nano => {
            percent(cpu_nano - before.cpu_nano, now_nano - before.system_nano)
        }
        _ => stats.cpu_percent.unwrap_or_default(),
    };
    let (memory, limit) = (number(usage.memory_bytes), number(usage.memory_max_bytes.or_else(host_memory)));
    let traffic = |bytes: fn(&crate::engine::InterfaceStats) -> u64| {
        signed(stats.interfaces.iter().map(bytes).fold(0, u64::saturating_add))
    };
    wire::ContainerStats {
        cpu,
        cpu_nano,
        // The time of the reading: what the next one compares with.
        system_nano: now_nano,
        mem_usage: memory,
        mem_limit: limit,
        mem_perc: percent(memory, limit),
        net_input: traffic(|interface| interface.received.bytes),
        net_output: traffic(|interface| interface.sent.bytes),
        block_output: number(usage.io.map(|io| io.written_bytes)),
        block_input: number(usage.io.map(|io| io.read_bytes)),
        pids: number(usage.pids),
        id: stats.id,
        name: stats.name,
    }
}

/// A share in percent; the numbers are cut to what a float counts exactly.
fn percent(part: i64, whole: i64) -> f64 {
    let small = |number: i64| f64::from(u32::try_from(number.max(0) >> 16).unwrap_or(u32::MAX));
    let (part, whole) = (small(part), small(whole));
    if whole > 0.0 { part * 100.0 / whole } else { 0.0 }
}

/// The limit where there is none: all memory of the host.
fn host_memory() -> Option<u64> {
    super::super::system::meminfo("MemTotal:")
}

impl PodmanInterface {
    pub(super) async fn container_stats(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainerStats_Args = call.parameters()?;
        let id = self.id_of(&given.name).await.map_err(failed_if_idle)?;
        let container = stats_of(&self.engine, &id, None).await.map_err(failed_if_idle)?;
        call.reply(wire::GetContainerStats_Reply { container }).await
    }

    pub(super) async fn container_stats_since(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainerStatsWithHistory_Args = call.parameters()?;
        let id = self.id_of(&given.previousStats.id).await.map_err(failed_if_idle)?;
        let container =
            stats_of(&self.engine, &id, Some(&given.previousStats)).await.map_err(failed_if_idle)?;
        call.reply(wire::GetContainerStatsWithHistory_Reply { container }).await
    }
}
