//! Limits: those of the cgroup, and those of the process.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{flag_value, nonempty, put};
use crate::cli::errors::CliError;
use crate::cli::human::parse_size;

/// The kernel's default period of a CPU quota.
const CPU_PERIOD_USEC: i64 = 100_000;

#[derive(Debug, Args)]
pub(super) struct ResourceFlags {
    #[command(flatten)]
    limits: LimitFlags,
    /// Limit of the process (setrlimit), as in nofile=1024:4096; -1 is unlimited
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    ulimits: Vec<String>,
    /// How readily the kernel kills it for want of memory, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Limits")]
    oom_score_adj: Option<i64>,
}

/// Limits of the cgroup.
#[derive(Debug, Args)]
pub struct LimitFlags {
    /// Memory that it may use, as in 512m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size_or_unlimited, allow_negative_numbers = true, help_heading = "Limits")]
    memory: Option<i64>,
    /// Memory and swap together; -1 is unlimited swap
    #[arg(long, value_name = "SIZE", value_parser = parse_size_or_unlimited, allow_negative_numbers = true, help_heading = "Limits")]
    memory_swap: Option<i64>,
    /// Memory below which it is spared under pressure
    #[arg(long, value_name = "SIZE", value_parser = parse_size_or_unlimited, allow_negative_numbers = true, help_heading = "Limits")]
    memory_reservation: Option<i64>,
    /// Number of CPUs whose time it may use, as in 1.5
    #[arg(long, value_name = "COUNT", value_parser = parse_cpus, conflicts_with_all = ["cpu_quota", "cpu_period"], help_heading = "Limits")]
    cpus: Option<i64>,
    /// CPU time in each period, in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true, help_heading = "Limits")]
    cpu_quota: Option<i64>,
    /// Period of the quota, in microseconds [default: 100000]
    #[arg(long, value_name = "USEC", help_heading = "Limits")]
    cpu_period: Option<i64>,
    /// Share of CPU time relative to others, 2 to 262144; 1024 is the norm
    #[arg(long, value_name = "SHARES", help_heading = "Limits")]
    cpu_shares: Option<i64>,
    /// Weight of CPU time as cgroup v2 counts it, 1 to 10000; 100 is the norm
    #[arg(long, value_name = "WEIGHT", conflicts_with = "cpu_shares", help_heading = "Limits")]
    cpu_weight: Option<i64>,
    /// CPUs that it may run on, as in 0-3,7
    #[arg(long, value_name = "CPUS", help_heading = "Limits")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it may use, as in 0,1
    #[arg(long, value_name = "NODES", help_heading = "Limits")]
    cpuset_mems: Option<String>,
    /// Number of processes and threads; -1 is unlimited [default: 2048]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, help_heading = "Limits")]
    pids_limit: Option<i64>,
    /// Weight of its block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", help_heading = "Limits")]
    blkio_weight: Option<i64>,
    /// Bytes per second read from a device
    #[arg(long, value_name = "DEVICE:SIZE", help_heading = "Limits")]
    device_read_bps: Vec<String>,
    /// Bytes per second written to a device
    #[arg(long, value_name = "DEVICE:SIZE", help_heading = "Limits")]
    device_write_bps: Vec<String>,
    /// Operations per second read from a device
    #[arg(long, value_name = "DEVICE:COUNT", help_heading = "Limits")]
    device_read_iops: Vec<String>,
    /// Operations per second written to a device
    #[arg(long, value_name = "DEVICE:COUNT", help_heading = "Limits")]
    device_write_iops: Vec<String>,
}

impl ResourceFlags {
    pub(super) fn add_to(&self, spec: &mut Map<String, Value>) -> Result<(), CliError> {
        let resources = self.limits.resources()?;
        if !resources.is_empty() {
            put(spec, "resources", Some(resources));
        }
        put(spec, "resourceLimits", nonempty(&ulimits(&self.ulimits)?));
        put(spec, "oomScoreAdjust", self.oom_score_adj);
        Ok(())
    }
}

impl LimitFlags {
    /// `Resources` of the interface.
    ///
    /// # Errors
    /// A rate of a device that is none.
    pub fn resources(&self) -> Result<Map<String, Value>, CliError> {
        let mut resources = Map::new();
        put(&mut resources, "memoryBytes", self.memory);
        put(&mut resources, "memorySwapBytes", self.memory_swap);
        put(&mut resources, "memoryReservationBytes", self.memory_reservation);
        put(&mut resources, "cpuQuotaUSec", self.cpus.or(self.cpu_quota));
        put(&mut resources, "cpuPeriodUSec", self.cpus.map(|_| CPU_PERIOD_USEC).or(self.cpu_period));
        put(&mut resources, "cpuShares", self.cpu_shares);
        put(&mut resources, "cpuWeight", self.cpu_weight);
        put(&mut resources, "cpusetCpus", self.cpuset_cpus.as_ref());
        put(&mut resources, "cpusetMems", self.cpuset_mems.as_ref());
        put(&mut resources, "pidsMax", self.pids_limit);
        put(&mut resources, "ioWeight", self.blkio_weight);
        put(&mut resources, "ioLimits", nonempty(&self.io_limits()?));
        Ok(resources)
    }

    /// The limits of each device together, as the interface has them.
    fn io_limits(&self) -> Result<Vec<Value>, CliError> {
        let mut devices: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        let flags = [
            ("--device-read-bps", "readBytesPerSec", &self.device_read_bps),
            ("--device-write-bps", "writeBytesPerSec", &self.device_write_bps),
            ("--device-read-iops", "readOperationsPerSec", &self.device_read_iops),
            ("--device-write-iops", "writeOperationsPerSec", &self.device_write_iops),
        ];
        for (flag, field, texts) in flags {
            for text in texts {
                let Some((path, rate)) = text.rsplit_once(':').filter(|(path, _)| path.starts_with('/'))
                else {
                    return Err(CliError::usage(format!(
                        "{flag}: {text:?} is not DEVICE:RATE, as in /dev/sda:1m"
                    )));
                };
                let device = devices.entry(path).or_default();
                put(device, "path", Some(path));
                put(device, field, Some(flag_value(flag, parse_size(rate))?));
            }
        }
        Ok(devices.into_values().map(Value::Object).collect())
    }
}

fn parse_size_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { parse_size(text).map_err(|error| error.to_string()) }
}

/// A number of CPUs, as the quota in a period.
fn parse_cpus(text: &str) -> Result<i64, String> {
    let error = || format!("{text:?} is no number of CPUs, as in 1.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 5 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let whole: u32 = whole.parse().map_err(|_| error())?;
    let fraction: i64 = format!("{fraction:0<5}").parse().map_err(|_| error())?;
    match i64::from(whole) * CPU_PERIOD_USEC + fraction {
        0 => Err(error()),
        quota => Ok(quota),
    }
}

fn ulimits(texts: &[String]) -> Result<Vec<Value>, CliError> {
    texts.iter().map(|text| ulimit(text)).collect()
}

fn ulimit(text: &str) -> Result<Value, CliError> {
    let error =
        || CliError::usage(format!("--ulimit: {text:?} is not NAME=SOFT[:HARD], as in nofile=1024:4096"));
    let limit = |text: &str| match text {
        "unlimited" | "-1" => Ok(-1),
        number => number.parse::<i64>().ok().filter(|limit| *limit >= 0).ok_or_else(error),
    };
    let (name, limits) = text.split_once('=').ok_or_else(error)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("rlimit_").unwrap_or(&name);
    if name.is_empty() {
        return Err(error());
    }
    Ok(json!({"name": name, "soft": limit(soft)?, "hard": limit(hard)?}))
}
