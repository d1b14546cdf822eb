//! Limits: from the specification's words, which are cgroup v1's, to the files of either version.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::CgroupError;

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller that the file belongs to.
    pub controller: &'static str,
    /// The file's name; where there are two, the first that exists counts (kernels differ).
    pub files: Vec<String>,
    pub value: String,
}

impl Setting {
    fn new(controller: &'static str, file: &str, value: impl ToString) -> Self {
        Self { controller, files: vec![file.to_owned()], value: value.to_string() }
    }
}

/// Converts v1's CPU shares (2 to 262144, default 1024) to v2's weight (1 to 10000), as every runtime does.
pub fn weight_from_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Converts the specification's block IO weight (10 to 1000) to v2's (1 to 10000).
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

/// The files of cgroup v1. `unified` has no meaning there and is refused.
pub(super) fn v1(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if let Some(key) = resources.unified().as_ref().and_then(|unified| unified.keys().next()) {
        return Err(CgroupError::UnifiedOnV1 { key: key.clone() });
    }
    if let Some(memory) = resources.memory() {
        v1_memory(memory, &mut settings);
    }
    if let Some(cpu) = resources.cpu() {
        v1_cpu(cpu, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        settings.push(Setting::new("pids", "pids.max", max_or(pids.limit(), pids.limit() <= 0)));
    }
    if let Some(block_io) = resources.block_io() {
        v1_block_io(block_io, &mut settings);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        settings.push(Setting::new("hugetlb", &file, limit.limit()));
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            settings.push(Setting::new("net_cls", "net_cls.classid", class));
        }
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            settings.push(Setting::new("net_prio", "net_prio.ifpriomap", line));
        }
    }
    Ok(settings)
}

fn v1_memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) {
    let mut push = |file: &str, value: String| settings.push(Setting::new("memory", file, value));
    if let Some(limit) = memory.limit() {
        push("memory.limit_in_bytes", limit.to_string());
    }
    if let Some(swap) = memory.swap() {
        push("memory.memsw.limit_in_bytes", swap.to_string());
    }
    if let Some(reservation) = memory.reservation() {
        push("memory.soft_limit_in_bytes", reservation.to_string());
    }
    if let Some(tcp) = memory.kernel_tcp() {
        push("memory.kmem.tcp.limit_in_bytes", tcp.to_string());
    }
    if let Some(swappiness) = memory.swappiness() {
        push("memory.swappiness", swappiness.to_string());
    }
    if memory.disable_oom_killer() == Some(true) {
        push("memory.oom_control", "1".to_owned());
    }
}

fn v1_cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    if let Some(shares) = cpu.shares() {
        settings.push(Setting::new("cpu", "cpu.shares", shares));
    }
    if let Some(period) = cpu.period() {
        settings.push(Setting::new("cpu", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = cpu.quota() {
        settings.push(Setting::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu", "cpu.cfs_burst_us", burst));
    }
    if let Some(idle) = cpu.idle() {
        settings.push(Setting::new("cpu", "cpu.idle", idle));
    }
    if let Some(period) = cpu.realtime_period() {
        settings.push(Setting::new("cpu", "cpu.rt_period_us", period));
    }
    if let Some(runtime) = cpu.realtime_runtime() {
        settings.push(Setting::new("cpu", "cpu.rt_runtime_us", runtime));
    }
    cpuset(cpu, settings);
}

fn cpuset(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        settings.push(Setting::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        settings.push(Setting::new("cpuset", "cpuset.mems", mems));
    }
}

fn v1_block_io(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    // Since Linux 5.0 only the BFQ scheduler knows weights, under its own name.
    let both = |suffix: &str| vec![format!("blkio.bfq.{suffix}"), format!("blkio.{suffix}")];
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        settings.push(Setting { controller: "blkio", files: both("weight"), value: weight.to_string() });
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            settings.push(Setting { controller: "blkio", files: both("weight_device"), value });
        }
    }
    for (devices, file) in [
        (block_io.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
        (block_io.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
        (block_io.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
        (block_io.throttle_write_iops_device(), "blkio.throttle.write_iops_device"),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.push(Setting::new("blkio", file, value));
        }
    }
}

/// The files of cgroup v2.
pub(super) fn v2(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        v2_memory(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        v2_cpu(cpu, &mut settings)?;
    }
    if let Some(pids) = resources.pids() {
        settings.push(Setting::new("pids", "pids.max", max_or(pids.limit(), pids.limit() <= 0)));
    }
    if let Some(block_io) = resources.block_io() {
        v2_block_io(block_io, &mut settings);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", limit.page_size());
        settings.push(Setting::new("hugetlb", &file, max_or(limit.limit(), limit.limit() < 0)));
    }
    let unified: std::collections::BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (key, value) in unified {
        settings.push(unified_setting(key, value)?);
    }
    Ok(settings)
}

/// Every controller of v2, to have names that live long enough.
const V2_CONTROLLERS: [&str; 9] =
    ["cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma", "misc", "dmem"];

fn unified_setting(key: &str, value: &str) -> Result<Setting, CgroupError> {
    let refused = || CgroupError::UnifiedKey { key: key.to_owned() };
    let (controller, _) = key.split_once('.').ok_or_else(refused)?;
    let controller = *V2_CONTROLLERS.iter().find(|known| **known == controller).ok_or_else(refused)?;
    if key.contains('/') {
        return Err(refused());
    }
    Ok(Setting::new(controller, key, value))
}

/// A number, or the word `max`.
fn max_or(number: i64, unlimited: bool) -> String {
    if unlimited { "max".to_owned() } else { number.to_string() }
}

fn v2_memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        settings.push(Setting::new("memory", "memory.max", max_or(limit, limit < 0)));
    }
    // v1 counts memory and swap together, v2 swap alone.
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        let value = match memory.limit() {
            _ if swap < 0 => "max".to_owned(),
            Some(limit) if limit > 0 && swap >= limit => (swap - limit).to_string(),
            _ => return Err(CgroupError::SwapWithoutMemory { swap }),
        };
        settings.push(Setting::new("memory", "memory.swap.max", value));
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        settings.push(Setting::new("memory", "memory.low", max_or(low, low < 0)));
    }
    Ok(())
}

fn v2_cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(CgroupError::RealtimeOnV2);
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        settings.push(Setting::new("cpu", "cpu.weight", weight_from_shares(shares)));
    }
    let quota = cpu.quota().map(|quota| max_or(quota, quota <= 0));
    match (quota, cpu.period().filter(|period| *period != 0)) {
        (Some(quota), Some(period)) => {
            settings.push(Setting::new("cpu", "cpu.max", format!("{quota} {period}")));
        }
        (Some(quota), None) => settings.push(Setting::new("cpu", "cpu.max", quota)),
        (None, Some(period)) => settings.push(Setting::new("cpu", "cpu.max", format!("max {period}"))),
        (None, None) => {}
    }
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu", "cpu.max.burst", burst));
    }
    if let Some(idle) = cpu.idle() {
        settings.push(Setting::new("cpu", "cpu.idle", idle));
    }
    cpuset(cpu, settings);
    Ok(())
}

fn v2_block_io(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    // io.weight belongs to the iocost controller, io.bfq.weight to the scheduler: kernels have one or both.
    let files = || vec!["io.weight".to_owned(), "io.bfq.weight".to_owned()];
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        let value = format!("default {}", io_weight(weight));
        settings.push(Setting { controller: "io", files: files(), value });
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {}", device.major(), device.minor(), io_weight(weight));
            settings.push(Setting { controller: "io", files: files(), value });
        }
    }
    for (devices, key) in [
        (block_io.throttle_read_bps_device(), "rbps"),
        (block_io.throttle_write_bps_device(), "wbps"),
        (block_io.throttle_read_iops_device(), "riops"),
        (block_io.throttle_write_iops_device(), "wiops"),
    ] {
        for device in devices.iter().flatten() {
            // v1 takes a limit away by 0, v2 by a word.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            settings.push(Setting::new("io", "io.max", value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: &str, expected_v1: &[(&str, &str)], expected_v2: &[(&str, &str)]) {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let flat = |settings: Vec<Setting>| -> Vec<(String, String)> {
            settings.into_iter().map(|setting| (setting.files.concat(), setting.value)).collect()
        };
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(flat(v1(&resources).unwrap()), own(expected_v1));
        assert_eq!(flat(v2(&resources).unwrap()), own(expected_v2));
    }

    #[test]
    fn memory_limits_reach_both_versions() {
        check(
            r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":4096}}"#,
            &[
                ("memory.limit_in_bytes", "1048576"),
                ("memory.memsw.limit_in_bytes", "2097152"),
                ("memory.soft_limit_in_bytes", "4096"),
            ],
            &[("memory.max", "1048576"), ("memory.swap.max", "1048576"), ("memory.low", "4096")],
        );
        check(
            r#"{"memory":{"limit":-1,"swap":-1}}"#,
            &[("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        );
    }

    #[test]
    fn processor_limits_reach_both_versions() {
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"}}"#,
            &[
                ("cpu.shares", "1024"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0-1"),
            ],
            &[("cpu.weight", "39"), ("cpu.max", "50000 100000"), ("cpuset.cpus", "0-1")],
        );
        check(r#"{"cpu":{"quota":-1}}"#, &[("cpu.cfs_quota_us", "-1")], &[("cpu.max", "max")]);
    }

    #[test]
    fn process_and_device_limits_reach_both_versions() {
        check(r#"{"pids":{"limit":2048}}"#, &[("pids.max", "2048")], &[("pids.max", "2048")]);
        check(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")], &[("pids.max", "max")]);
        check(
            r#"{"blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}]}}"#,
            &[("blkio.bfq.weightblkio.weight", "500"), ("blkio.throttle.read_bps_device", "8:0 1000")],
            &[("io.weightio.bfq.weight", "default 4950"), ("io.max", "8:0 rbps=1000")],
        );
    }

    #[test]
    fn shares_convert_to_the_weights_that_other_runtimes_use() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_from_shares(shares), weight);
        }
    }

    #[test]
    fn unified_keys_are_files_of_controllers_only() {
        for bad in ["cgroup.procs", "memory/../cgroup.procs", "memory", "memory.x/../../y"] {
            let resources = serde_json::from_str(&format!(r#"{{"unified":{{"{bad}":"1"}}}}"#)).unwrap();
            assert!(matches!(v2(&resources), Err(CgroupError::UnifiedKey { .. })), "{bad}");
            assert!(matches!(v1(&resources), Err(CgroupError::UnifiedOnV1 { .. })), "{bad}");
        }
        let resources = serde_json::from_str(r#"{"unified":{"memory.high":"1"}}"#).unwrap();
        assert_eq!(v2(&resources).unwrap()[0].controller, "memory");
    }

    #[test]
    fn swap_alone_has_no_meaning_on_v2() {
        let resources = serde_json::from_str(r#"{"memory":{"swap":100}}"#).unwrap();
        assert!(matches!(v2(&resources), Err(CgroupError::SwapWithoutMemory { swap: 100 })));
    }
}
