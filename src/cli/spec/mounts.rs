//! `--volume`, `--mount`, `--tmpfs` and `--device`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{flag_value, put};
use crate::cli::errors::CliError;
use crate::cli::human::parse_size;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
const FLAGS: [&str; 4] = ["nosuid", "nodev", "noexec", "noatime"];

/// Makes a path of the host absolute, from the current directory; links stay as they are.
pub fn absolute(path: &str) -> Result<String, CliError> {
    let absolute =
        std::path::absolute(path).map_err(|error| CliError::io(format!("use the path {path:?}"), &error))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| CliError::usage(format!("the path {path:?} is not UTF-8, as varlink needs it")))
}

pub(super) fn mounts(
    volumes: &[String],
    mounts: &[String],
    tmpfs: &[String],
) -> Result<Vec<Value>, CliError> {
    let volumes = volumes.iter().map(|text| volume(text));
    let mounts = mounts.iter().map(|text| mount(text));
    let tmpfs = tmpfs.iter().map(|text| tmpfs_mount(text));
    volumes.chain(mounts).chain(tmpfs).collect()
}

/// `/host:/container[:options]`
fn volume(text: &str) -> Result<Value, CliError> {
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(CliError::usage(format!("--volume: {text:?} is not HOST:CONTAINER[:OPTIONS]")));
    };
    if !source.starts_with(['/', '.']) {
        return Err(CliError::usage(format!("--volume: {source:?} is no path of the host"))
            .with_hint("there are no named volumes yet; write a directory, as in /srv/data or ./data"));
    }
    let mut mount = bind(source, target)?;
    for option in parts.next().unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        set_option(&mut mount, "--volume", option, None)?;
    }
    Ok(Value::Object(mount))
}

/// `type=bind,source=…,target=…,…`
fn mount(text: &str) -> Result<Value, CliError> {
    let options: Vec<(&str, Option<&str>)> = text
        .split(',')
        .filter(|option| !option.is_empty())
        .map(|option| option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value))))
        .collect();
    let find = |names: &[&str]| {
        options.iter().rev().find(|(key, _)| names.contains(key)).and_then(|(_, value)| *value)
    };
    let target = find(&["target", "destination", "dst"])
        .ok_or_else(|| CliError::usage(format!("--mount: {text:?} has no target=")))?;
    let source = find(&["source", "src"]);
    let mut mount = match (find(&["type"]).unwrap_or("bind"), source) {
        ("bind", Some(source)) => bind(source, target)?,
        ("bind", None) => return Err(CliError::usage(format!("--mount: {text:?} has no source="))),
        ("tmpfs", None) => tmpfs_at(target),
        ("tmpfs", Some(_)) => return Err(CliError::usage("--mount: a tmpfs has no source")),
        (other, _) => {
            return Err(CliError::usage(format!("--mount: there is no type {other:?}"))
                .with_hint("bind and tmpfs are known"));
        }
    };
    for (key, value) in options {
        if !["type", "target", "destination", "dst", "source", "src"].contains(&key) {
            set_option(&mut mount, "--mount", key, value)?;
        }
    }
    Ok(Value::Object(mount))
}

/// `/container[:size=…,mode=…,…]`
fn tmpfs_mount(text: &str) -> Result<Value, CliError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = tmpfs_at(target);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
        set_option(&mut mount, "--tmpfs", key, value)?;
    }
    Ok(Value::Object(mount))
}

fn bind(source: &str, target: &str) -> Result<Map<String, Value>, CliError> {
    let mut mount = Map::new();
    put(&mut mount, "kind", Some("bind"));
    put(&mut mount, "source", Some(absolute(source)?));
    put(&mut mount, "target", Some(target));
    Ok(mount)
}

fn tmpfs_at(target: &str) -> Map<String, Value> {
    let mut mount = Map::new();
    put(&mut mount, "kind", Some("tmpfs"));
    put(&mut mount, "target", Some(target));
    mount
}

fn set_option(
    mount: &mut Map<String, Value>,
    flag: &str,
    key: &str,
    value: Option<&str>,
) -> Result<(), CliError> {
    let is_bind = mount.get("kind").and_then(Value::as_str) == Some("bind");
    let unknown = || {
        let shown = value.map_or(key.to_owned(), |value| format!("{key}={value}"));
        CliError::usage(format!("{flag}: there is no option {shown:?}"))
    };
    let truth = |value: Option<&str>| match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(unknown()),
    };
    match (key, value) {
        ("ro" | "readonly", value) => put(mount, "readOnly", Some(truth(value)?)),
        ("rw", None) => put(mount, "readOnly", Some(false)),
        ("rbind", None) if is_bind => put(mount, "nonRecursive", Some(false)),
        ("bind", None) if is_bind => put(mount, "nonRecursive", Some(true)),
        ("bind-nonrecursive", value) if is_bind => put(mount, "nonRecursive", Some(truth(value)?)),
        ("bind-propagation", Some(value)) if is_bind && PROPAGATIONS.contains(&value) => {
            put(mount, "propagation", Some(value));
        }
        (key, None) if is_bind && PROPAGATIONS.contains(&key) => put(mount, "propagation", Some(key)),
        ("size" | "tmpfs-size", Some(value)) if !is_bind => {
            put(mount, "sizeBytes", Some(flag_value(flag, parse_size(value))?));
        }
        ("mode" | "tmpfs-mode", Some(value)) if !is_bind => {
            let mode = i64::from_str_radix(value, 8).map_err(|_| {
                CliError::usage(format!("{flag}: the mode {value:?} is not octal, as in 1777"))
            })?;
            put(mount, "mode", Some(mode));
        }
        (key, None) if FLAGS.contains(&key) => match mount.get_mut("flags").and_then(Value::as_array_mut) {
            Some(flags) => flags.push(json!(key)),
            None => put(mount, "flags", Some([key])),
        },
        _ => return Err(unknown()),
    }
    Ok(())
}

/// `/dev/host[:/dev/container][:rwm]`
pub(super) fn devices(texts: &[String]) -> Result<Vec<Value>, CliError> {
    texts.iter().map(|text| device(text)).collect()
}

fn device(text: &str) -> Result<Value, CliError> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_permissions = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
    let (path, inside, permissions) = match parts.as_slice() {
        [path] => (*path, None, None),
        [path, second] if is_permissions(second) => (*path, None, Some(*second)),
        [path, inside] => (*path, Some(*inside), None),
        [path, inside, permissions] if is_permissions(permissions) => {
            (*path, Some(*inside), Some(*permissions))
        }
        _ => return Err(CliError::usage(format!("--device: {text:?} is not HOST[:CONTAINER][:rwm]"))),
    };
    if [Some(path), inside].into_iter().flatten().any(|path| !Path::new(path).is_absolute()) {
        return Err(CliError::usage(format!("--device: {text:?} has a path that is not absolute")));
    }
    let mut device = Map::new();
    put(&mut device, "path", Some(path));
    put(&mut device, "containerPath", inside);
    put(&mut device, "permissions", permissions);
    Ok(Value::Object(device))
}
