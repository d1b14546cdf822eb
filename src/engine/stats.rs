//! What containers use: the counters of their cgroups and network interfaces, once or again and again.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::runtime::cgroup::{Cgroup, Usage};

use super::{ContainerFilter, Engine, EngineError, Live, Phase, blocking, now_usec};

const INTERVAL: Duration = Duration::from_secs(1);
/// Reading more often tells nothing more, and costs the host.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What a container uses at a time.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // told once, in the IDL
pub struct ContainerStats {
    pub id: String,
    pub name: String,
    pub time_usec: i64,
    pub started_usec: Option<i64>,
    pub cpu_percent: Option<f64>,
    pub usage: Usage,
    pub interfaces: Vec<InterfaceStats>,
}

/// Counters of a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct InterfaceStats {
    pub name: String,
    pub received: TrafficStats,
    pub sent: TrafficStats,
}

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct TrafficStats {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Containers whose use is read again and again.
#[derive(Debug)]
pub struct StatsFollower {
    engine: Engine,
    wanted: Wanted,
    interval: Duration,
    begun: bool,
    /// CPU time at the time of the last reading.
    last: HashMap<String, (i64, u64)>,
}

/// Whose use is read.
#[derive(Debug, Clone)]
enum Wanted {
    /// All that run.
    All,
    /// Those of these ids.
    These(Vec<String>),
    /// Those in the pod of this id, also such as come later.
    Pod(String),
}

impl Engine {
    /// Reads what containers use; those named must run. `None` for all that run.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`]; [`EngineError::InvalidSpec`] for too short an interval.
    pub fn stats(
        &self,
        names: Option<&[String]>,
        interval: Option<Duration>,
    ) -> Result<StatsFollower, EngineError> {
        let wanted = match names {
            None => Wanted::All,
            Some(names) => {
                Wanted::These(names.iter().map(|name| self.running(name)).collect::<Result<_, _>>()?)
            }
        };
        self.follow_stats(wanted, interval)
    }

    /// As [`Self::stats`], of the containers of a pod, of which one must run.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], [`EngineError::PodNotRunning`]; [`EngineError::InvalidSpec`] for too short an interval.
    pub fn pod_stats(&self, name: &str, interval: Option<Duration>) -> Result<StatsFollower, EngineError> {
        let pod = self.find_pod(name)?.row;
        if !self.pod_members(&pod.id)?.iter().any(|member| member.phase.is_alive()) {
            let attempted = "read the statistics of";
            return Err(EngineError::PodNotRunning { attempted, pod: pod.name, wanted: "runs" });
        }
        self.follow_stats(Wanted::Pod(pod.id), interval)
    }

    fn follow_stats(&self, wanted: Wanted, interval: Option<Duration>) -> Result<StatsFollower, EngineError> {
        let interval = interval.unwrap_or(INTERVAL);
        if interval < INTERVAL_MIN {
            return Err(EngineError::InvalidSpec {
                field: "intervalUSec".into(),
                reason: format!("it must be at least {}", INTERVAL_MIN.as_micros()),
            });
        }
        Ok(StatsFollower { engine: self.clone(), wanted, interval, begun: false, last: HashMap::new() })
    }

    fn running(&self, name: &str) -> Result<String, EngineError> {
        let row = self.find_row(name)?;
        match self.live(&row.id)?.phase {
            phase if phase.is_alive() => Ok(row.id),
            state => Err(EngineError::WrongState {
                attempted: "read the statistics of",
                name: row.name,
                state,
                wanted: "running",
            }),
        }
    }

    /// `None` if it has ended meanwhile, or waits for a restart.
    fn read_stats(&self, id: &str, name: &str, live: &Live) -> Result<Option<ContainerStats>, EngineError> {
        let Some(told) = &live.told else { return Ok(None) };
        let failed = |reason: String| EngineError::Failed {
            attempted: format!("read the statistics of {name:?}"),
            reason,
        };
        let cgroup = Cgroup::open(&told.cgroup).map_err(|error| failed(error.to_string()))?;
        let Some(init) = told.init.filter(|_| cgroup.exists()) else { return Ok(None) };
        let usage = cgroup.usage().map_err(|error| failed(error.to_string()))?;
        let interfaces = interfaces(init.pid);
        let time_usec = now_usec();
        if !init.is_alive() {
            return Ok(None);
        }
        Ok(Some(ContainerStats {
            id: id.to_owned(),
            name: name.to_owned(),
            time_usec,
            started_usec: told.started_at_usec.and_then(|usec| i64::try_from(usec).ok()),
            cpu_percent: None,
            usage,
            interfaces,
        }))
    }

    fn read_all_stats(&self, wanted: &Wanted) -> Result<Vec<ContainerStats>, EngineError> {
        let mut found = Vec::new();
        match wanted {
            Wanted::Pod(pod) => {
                for member in self.pod_members(pod)?.into_iter().filter(|member| member.phase.is_alive()) {
                    found.extend(self.read_stats(&member.id, &member.name, &self.live(&member.id)?)?);
                }
            }
            Wanted::These(ids) => {
                for id in ids {
                    match self.find_row(id) {
                        Ok(row) => found.extend(self.read_stats(id, &row.name, &self.live(id)?)?),
                        Err(EngineError::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Wanted::All => {
                let phases = vec![Phase::Starting, Phase::Running, Phase::Paused, Phase::Stopping];
                for listed in self.list(&ContainerFilter { phases, ..ContainerFilter::default() })? {
                    found.extend(self.read_stats(&listed.id, &listed.name, &listed.live)?);
                }
            }
        }
        Ok(found)
    }

    /// Some of these containers will have something to tell again.
    fn some_alive(&self, wanted: &Wanted) -> Result<bool, EngineError> {
        let ids = match wanted {
            Wanted::All => return Ok(true),
            Wanted::Pod(pod) => {
                return Ok(self.pod_members(pod)?.iter().any(|member| member.phase.is_alive()));
            }
            Wanted::These(ids) => ids,
        };
        for id in ids {
            if self.store()?.has_container(id)? && self.live(id)?.phase.is_alive() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl StatsFollower {
    /// The next reading: at once the first time, then after the interval. `None` when all that were named have ended.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn next(&mut self) -> Result<Option<Vec<ContainerStats>>, EngineError> {
        if self.begun {
            tokio::time::sleep(self.interval).await;
        }
        let (engine, wanted, begun) = (self.engine.clone(), self.wanted.clone(), self.begun);
        let read = blocking(move || {
            if begun && !engine.some_alive(&wanted)? {
                return Ok(None);
            }
            engine.read_all_stats(&wanted).map(Some)
        });
        let Some(mut stats) = read.await? else { return Ok(None) };
        self.begun = true;
        for one in &mut stats {
            let before = self.last.get(&one.id).copied();
            one.cpu_percent = one.usage.cpu_usec.and_then(|cpu| {
                // After a restart the counter has begun anew.
                let since = before.filter(|(_, before)| *before <= cpu);
                let (begin, base) = since.or_else(|| Some((one.started_usec?, 0)))?;
                percent(cpu - base, one.time_usec - begin)
            });
        }
        let ids: BTreeSet<&String> = stats.iter().map(|one| &one.id).collect();
        self.last.retain(|id, _| ids.contains(id));
        self.last.extend(
            stats.iter().filter_map(|one| Some((one.id.clone(), (one.time_usec, one.usage.cpu_usec?)))),
        );
        Ok(Some(stats))
    }
}

fn percent(cpu_usec: u64, passed_usec: i64) -> Option<f64> {
    let passed = u32::try_from(passed_usec / 1000).ok().filter(|passed| *passed > 0)?;
    let used = u32::try_from(cpu_usec / 1000).ok()?;
    Some(f64::from(used) * 100.0 / f64::from(passed))
}

/// The interfaces that a process sees, unless they are the host's: those are not the container's alone.
fn interfaces(pid: i32) -> Vec<InterfaceStats> {
    let namespace = |who: &str| std::fs::metadata(format!("/proc/{who}/ns/net")).map(|it| it.ino());
    match (namespace(&pid.to_string()), namespace("self")) {
        (Ok(theirs), Ok(ours)) if theirs != ours => {
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
            parse_interfaces(&table)
        }
        // It has ended, or is on the host's network.
        _ => Vec::new(),
    }
}

/// /proc/net/dev, proc(5): two lines of heads, then `name:` and eight numbers for each direction.
fn parse_interfaces(table: &str) -> Vec<InterfaceStats> {
    let line = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let traffic = |from: usize| {
            Some(TrafficStats {
                bytes: *numbers.get(from)?,
                packets: *numbers.get(from + 1)?,
                errors: *numbers.get(from + 2)?,
                dropped: *numbers.get(from + 3)?,
            })
        };
        Some(InterfaceStats { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    };
    let mut found: Vec<InterfaceStats> =
        table.lines().skip(2).filter_map(line).filter(|interface| interface.name != "lo").collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_interfaces_is_read_without_the_loopback() {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 1234567      10    1    2    0     0          0         0     4096      20    3    4    0     0       0          0
";
        let expected = InterfaceStats {
            name: "eth0".into(),
            received: TrafficStats { bytes: 1_234_567, packets: 10, errors: 1, dropped: 2 },
            sent: TrafficStats { bytes: 4096, packets: 20, errors: 3, dropped: 4 },
        };
        assert_eq!(parse_interfaces(table), [expected]);
    }

    #[test]
    fn a_share_of_no_time_is_not_told() {
        assert_eq!(percent(500_000, 1_000_000), Some(50.0));
        assert_eq!(percent(4_000_000, 1_000_000), Some(400.0));
        assert_eq!(percent(1, 0), None);
        assert_eq!(percent(1, -5_000_000), None);
    }
}
