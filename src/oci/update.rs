//! `update`: other limits for a container that is there.

use std::io::Read as _;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::arguments::UpdateArguments;
use super::create::is_up;
use super::error::{OciError, on_file};
use super::kill::with_cgroup;
use super::{Context, scope};

/// Changes the limits that are told; the others stay.
///
/// # Errors
/// [`OciError::NotFound`], [`OciError::WrongStatus`], [`OciError::Json`], [`OciError::Cgroup`].
pub fn update(context: &Context, arguments: &UpdateArguments) -> Result<(), OciError> {
    let container = context.root.container_to_change(&arguments.id)?;
    let status = container.status();
    if !is_up(status) {
        return Err(container.wrong("update", status, "running"));
    }
    let resources = resources(arguments)?;
    with_cgroup(&container)?.update(&resources)?;
    container.record.scope.as_deref().map_or(Ok(()), |unit| scope::limit(unit, &resources))
}

fn resources(arguments: &UpdateArguments) -> Result<LinuxResources, OciError> {
    let path = arguments.resources.as_deref();
    let wrong = |reason: String| OciError::Json {
        path: path.unwrap_or(Path::new("arguments")).to_owned(),
        what: "set of resources",
        reason,
    };
    let text = match path {
        None => b"{}".to_vec(),
        Some(path) if path == Path::new("-") => {
            let mut text = Vec::new();
            std::io::stdin().take(1 << 20).read_to_end(&mut text).map_err(on_file("read", path))?;
            text
        }
        Some(path) => super::bundle::read_file(path)?,
    };
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if !value.is_object() {
        return Err(wrong("it is no object".to_owned()));
    }
    let mut set = |place: [&str; 2], given: Option<Value>| {
        if let Some(given) = given {
            value[place[0]][place[1]] = given;
        }
    };
    let a = arguments;
    set(["blockIO", "weight"], a.blkio_weight.map(|number| json!(number)));
    set(["cpu", "shares"], a.cpu_share.map(|number| json!(number)));
    set(["cpu", "period"], a.cpu_period.map(|number| json!(number)));
    set(["cpu", "quota"], a.cpu_quota.map(|number| json!(number)));
    set(["cpu", "burst"], a.cpu_burst.map(|number| json!(number)));
    set(["cpu", "realtimePeriod"], a.cpu_rt_period.map(|number| json!(number)));
    set(["cpu", "realtimeRuntime"], a.cpu_rt_runtime.map(|number| json!(number)));
    set(["cpu", "cpus"], a.cpuset_cpus.as_ref().map(|list| json!(list)));
    set(["cpu", "mems"], a.cpuset_mems.as_ref().map(|list| json!(list)));
    set(["memory", "limit"], a.memory.map(|number| json!(number)));
    set(["memory", "swap"], a.memory_swap.map(|number| json!(number)));
    set(["memory", "reservation"], a.memory_reservation.map(|number| json!(number)));
    set(["pids", "limit"], a.pids_limit.map(|number| json!(number)));
    // Engines write null, and objects of nulls, for what they leave alone.
    without_nulls(&mut value);
    serde_path_to_error::deserialize(value)
        .map_err(|error| wrong(format!("{}: {}", error.path(), error.inner())))
}

fn without_nulls(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        object.values_mut().for_each(without_nulls);
        object.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|inner| !inner.is_empty()));
    }
}
