//! `--volume`, `--mount`, `--tmpfs`, `--volumes-from`, `--secret` and `--device`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{flag_value, put};
use crate::cli::errors::CliError;
use crate::cli::human::parse_size;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
const FLAGS: [&str; 7] = ["nosuid", "nodev", "noexec", "noatime", "suid", "dev", "exec"];

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

/// `[/host|volume:]/container[:options]`
fn volume(text: &str) -> Result<Value, CliError> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = match (parts.next().unwrap_or_default(), parts.next()) {
        (target, None) if target.starts_with('/') => (None, target),
        (source, Some(target)) if !source.is_empty() => (Some(source), target),
        _ => {
            return Err(CliError::usage(format!(
                "--volume: {text:?} is not [HOST|VOLUME:]CONTAINER[:OPTIONS]"
            ))
            .with_hint("as in /srv/data:/data, data:/data:ro, or /data for a volume without a name"));
        }
    };
    let mut mount = match source {
        Some(source) if source.starts_with(['/', '.']) => bind(source, target)?,
        source => volume_at(source, target),
    };
    for option in parts.next().unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
        set_option(&mut mount, "--volume", key, value)?;
    }
    Ok(Value::Object(mount))
}

/// `type=volume,source=…,target=…,…`
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
    let mut mount = match (find(&["type"]).unwrap_or("volume"), source) {
        ("bind", Some(source)) => bind(source, target)?,
        ("volume", source) => volume_at(source.filter(|source| !source.is_empty()), target),
        ("image", Some(source)) => {
            let mut mount = Map::new();
            put(&mut mount, "kind", Some("image"));
            put(&mut mount, "source", Some(source));
            put(&mut mount, "target", Some(target));
            mount
        }
        ("bind" | "image", None) => {
            return Err(CliError::usage(format!("--mount: {text:?} has no source=")));
        }
        ("tmpfs", None) => tmpfs_at(target),
        ("tmpfs", Some(_)) => return Err(CliError::usage("--mount: a tmpfs has no source")),
        (other, _) => {
            return Err(CliError::usage(format!("--mount: there is no type {other:?}"))
                .with_hint("volume, bind, tmpfs and image are known"));
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

fn volume_at(source: Option<&str>, target: &str) -> Map<String, Value> {
    let mut mount = Map::new();
    put(&mut mount, "kind", Some("volume"));
    put(&mut mount, "source", source);
    put(&mut mount, "target", Some(target));
    mount
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
    let kind = mount.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (is_bind, is_volume) = (kind == "bind", kind == "volume");
    let (is_tmpfs, is_image) = (kind == "tmpfs", kind == "image");
    let unknown = || {
        let shown = value.map_or(key.to_owned(), |value| format!("{key}={value}"));
        CliError::usage(format!("{flag}: there is no option {shown:?} of a {kind}"))
    };
    let truth = |value: Option<&str>| match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(unknown()),
    };
    match (key, value) {
        ("ro" | "readonly", value) => put(mount, "readOnly", Some(truth(value)?)),
        ("rw" | "readwrite", value) => put(mount, "readOnly", Some(!truth(value)?)),
        // Labels of SELinux, which are the host's affair.
        ("z" | "Z", None) if !is_tmpfs && !is_image => {}
        ("relabel", Some("shared" | "private")) if !is_tmpfs && !is_image => {}
        ("U" | "chown", value) if is_bind || is_volume => put(mount, "chown", Some(truth(value)?)),
        ("O", None) if is_bind || is_volume => put(mount, "overlay", Some(true)),
        ("subpath" | "volume-subpath", Some(value)) if is_volume => put(mount, "subpath", Some(value)),
        ("volume-driver", Some("local")) if is_volume => {}
        ("volume-opt", Some(value)) if is_volume => {
            let (key, value) = value.split_once('=').unwrap_or((value, ""));
            let options = mount.entry("volumeOptions").or_insert_with(|| json!({}));
            options[key] = json!(value);
        }
        ("idmap", Some(value)) if is_bind || is_volume => put(mount, "idMap", Some(id_map(flag, value)?)),
        ("idmap", None) if is_bind || is_volume => put(mount, "idMap", Some(json!({"uids": [], "gids": []}))),
        ("nocopy" | "volume-nocopy", value) if is_volume => put(mount, "noCopy", Some(truth(value)?)),
        ("copy", None) if is_volume => put(mount, "noCopy", Some(false)),
        ("notmpcopyup", None) if is_tmpfs => put(mount, "noCopy", Some(true)),
        ("tmpcopyup", None) if is_tmpfs => put(mount, "noCopy", Some(false)),
        ("rbind", None) if is_bind => put(mount, "nonRecursive", Some(false)),
        ("bind", None) if is_bind => put(mount, "nonRecursive", Some(true)),
        ("bind-nonrecursive", value) if is_bind => put(mount, "nonRecursive", Some(truth(value)?)),
        ("bind-propagation", Some(value)) if is_bind && PROPAGATIONS.contains(&value) => {
            put(mount, "propagation", Some(value));
        }
        (key, None) if is_bind && PROPAGATIONS.contains(&key) => put(mount, "propagation", Some(key)),
        ("size" | "tmpfs-size", Some(value)) if is_tmpfs => {
            put(mount, "sizeBytes", Some(flag_value(flag, parse_size(value))?));
        }
        ("mode" | "tmpfs-mode", Some(value)) if is_tmpfs => {
            put(mount, "mode", Some(octal(flag, value)?));
        }
        (key, None) if FLAGS.contains(&key) => match mount.get_mut("flags").and_then(Value::as_array_mut) {
            Some(flags) => flags.push(json!(key)),
            None => put(mount, "flags", Some([key])),
        },
        _ => return Err(unknown()),
    }
    Ok(())
}

fn octal(flag: &str, text: &str) -> Result<i64, CliError> {
    i64::from_str_radix(text, 8)
        .map_err(|_| CliError::usage(format!("{flag}: the mode {text:?} is not octal, as in 1777")))
}

/// `uids=SOURCE-TARGET-COUNT[#…];gids=…`
fn id_map(flag: &str, text: &str) -> Result<Value, CliError> {
    let wrong = || {
        CliError::usage(format!("{flag}: {text:?} is no mapping of ids")).with_hint(
            "as in idmap=uids=0-1000-10;gids=0-1000-10: ten ids from 0 on are seen as those from 1000 on",
        )
    };
    let mut map = json!({"uids": [], "gids": []});
    for part in text.split(';') {
        let (kind, ranges) =
            part.split_once('=').filter(|(kind, _)| ["uids", "gids"].contains(kind)).ok_or_else(wrong)?;
        for range in ranges.split('#') {
            let numbers: Vec<i64> =
                range.split('-').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
            let [source, target, count] = numbers[..] else { return Err(wrong()) };
            if let Some(list) = map[kind].as_array_mut() {
                list.push(json!({"source": source, "target": target, "count": count}));
            }
        }
    }
    Ok(map)
}

/// `CONTAINER[:ro]`
pub(super) fn volumes_from(texts: &[String]) -> Result<Vec<Value>, CliError> {
    let from = |text: &String| {
        let (container, options) = text.split_once(':').unwrap_or((text, ""));
        let mut from = Map::new();
        put(&mut from, "container", Some(container));
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => put(&mut from, "readOnly", Some(true)),
                "rw" | "z" => {}
                _ => return Err(CliError::usage(format!("--volumes-from: there is no option {option:?}"))),
            }
        }
        Ok(Value::Object(from))
    };
    texts.iter().map(from).collect()
}

/// `NAME[,type=mount|env][,target=…][,uid=…][,gid=…][,mode=…]`
pub(super) fn secrets(texts: &[String]) -> Result<Vec<Value>, CliError> {
    texts.iter().map(|text| secret(text)).collect()
}

fn secret(text: &str) -> Result<Value, CliError> {
    let mut secret = Map::new();
    for (index, option) in text.split(',').enumerate() {
        let unknown = || CliError::usage(format!("--secret: there is no option {option:?}"));
        match option.split_once('=') {
            None if index == 0 && !option.is_empty() => put(&mut secret, "secret", Some(option)),
            Some(("source" | "src", name)) => put(&mut secret, "secret", Some(name)),
            Some(("type", "mount")) => put(&mut secret, "kind", Some("file")),
            Some(("type", "env")) => put(&mut secret, "kind", Some("env")),
            Some(("target", target)) => put(&mut secret, "target", Some(target)),
            Some((key @ ("uid" | "gid"), id)) => {
                let id: i64 = id.parse().map_err(|_| unknown())?;
                put(&mut secret, key, Some(id));
            }
            Some(("mode", mode)) => put(&mut secret, "mode", Some(octal("--secret", mode)?)),
            _ => return Err(unknown()),
        }
    }
    if !secret.contains_key("secret") {
        return Err(CliError::usage(format!("--secret: {text:?} does not say which"))
            .with_hint("as in --secret password, or --secret password,type=env,target=PASSWORD"));
    }
    Ok(Value::Object(secret))
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
