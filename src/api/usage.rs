//! io.dormouse.Container: what containers use, what runs in them, and other limits for them.

use std::time::Duration;

use crate::engine::{ContainerStats, InterfaceStats, Process};
use crate::varlink::{Call, CallError};

use super::container::{ContainerInterface, failed, signed, unsigned};
use super::convert::resources_from_wire;
use super::{looked_up, ordered};
use crate::wire::container as wire;

impl ContainerInterface {
    pub(super) async fn stats(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Stats_Args = call.parameters()?;
        let interval = given.intervalUSec.map(|usec| unsigned("intervalUSec", usec)).transpose()?;
        let mut follower =
            self.engine.stats(given.names.as_deref(), interval.map(Duration::from_micros)).map_err(failed)?;
        loop {
            let stats = follower.next().await.map_err(failed)?;
            let last = stats.is_none() || !call.wants_more();
            let reply = wire::Stats_Reply { stats: stats.into_iter().flatten().map(one).collect() };
            if last {
                return call.reply(reply).await;
            }
            call.reply_continues(reply).await?;
        }
    }

    pub(super) async fn top(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Top_Args = call.parameters()?;
        let engine = self.engine.clone();
        let processes = looked_up(move || engine.top(&given.name)).await.map_err(failed)?;
        call.reply(wire::Top_Reply { processes: processes.into_iter().map(process).collect() }).await
    }

    pub(super) async fn update(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Update_Args = call.parameters()?;
        let resources = resources_from_wire(given.resources).map_err(failed)?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.update(&given.name, resources).await }).await.map_err(failed)?;
        call.reply(wire::Update_Reply {}).await
    }
}

pub(super) fn one(stats: ContainerStats) -> wire::Usage {
    let number = |value: Option<u64>| value.map(signed);
    let usage = stats.usage;
    wire::Usage {
        id: stats.id,
        name: stats.name,
        timeUSec: stats.time_usec,
        startedUSec: stats.started_usec,
        cpuUSec: number(usage.cpu_usec),
        cpuUserUSec: number(usage.cpu_user_usec),
        cpuSystemUSec: number(usage.cpu_system_usec),
        cpuPercent: stats.cpu_percent,
        cpuThrottledUSec: number(usage.cpu_throttled_usec),
        memoryBytes: number(usage.memory_bytes),
        memoryCacheBytes: number(usage.memory_cache_bytes),
        memoryPeakBytes: number(usage.memory_peak_bytes),
        memoryMaxBytes: number(usage.memory_max_bytes),
        swapBytes: number(usage.swap_bytes),
        oomKills: number(usage.oom_kills),
        pids: number(usage.pids),
        pidsMax: number(usage.pids_max),
        ioReadBytes: number(usage.io.map(|io| io.read_bytes)),
        ioWrittenBytes: number(usage.io.map(|io| io.written_bytes)),
        ioReadOperations: number(usage.io.map(|io| io.read_operations)),
        ioWriteOperations: number(usage.io.map(|io| io.write_operations)),
        interfaces: stats.interfaces.into_iter().map(interface).collect(),
    }
}

fn interface(stats: InterfaceStats) -> wire::InterfaceStats {
    wire::InterfaceStats {
        name: stats.name,
        receivedBytes: signed(stats.received.bytes),
        receivedPackets: signed(stats.received.packets),
        receiveErrors: signed(stats.received.errors),
        receiveDropped: signed(stats.received.dropped),
        sentBytes: signed(stats.sent.bytes),
        sentPackets: signed(stats.sent.packets),
        sendErrors: signed(stats.sent.errors),
        sendDropped: signed(stats.sent.dropped),
    }
}

pub(super) fn process(process: Process) -> wire::Process {
    wire::Process {
        pid: process.pid.into(),
        hostPid: process.host_pid.into(),
        parentPid: process.parent_pid.into(),
        user: process.user,
        uid: process.uid.into(),
        gid: process.gid.into(),
        state: process.state.to_string(),
        threads: process.threads.into(),
        nice: process.nice.into(),
        cpuUSec: signed(process.cpu_usec),
        startedUSec: process.started_usec,
        residentBytes: signed(process.resident_bytes),
        virtualBytes: signed(process.virtual_bytes),
        terminal: process.terminal,
        name: process.name,
        command: process.command,
    }
}
