//! The options of a volume, in the words of mount(8) as Podman and Docker take them: `type`, `device` and `o`.

use std::collections::BTreeMap;

use super::super::EngineError;

/// File systems that the kernel alone does not mount: a program of the host looks names up, or serves them.
const WITH_A_HELPER: &[&str] =
    &["nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "davfs", "sshfs", "fuse", "ntfs-3g"];
/// Those that show the kernel, and hold nobody's data.
const OF_THE_KERNEL: &[&str] = &[
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "configfs",
    "efivarfs",
    "overlay",
    "autofs",
];

/// Where what a volume holds lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// In a directory of ours.
    Directory {
        /// Owner of its root, if it was asked for.
        uid: Option<u32>,
        /// Group of its root, if it was asked for.
        gid: Option<u32>,
        /// At its first use it may get what the image has.
        copy: bool,
    },
    /// In a file or directory of the host.
    Bind {
        /// Absolute.
        path: String,
        /// Flags of the mount.
        flags: Vec<String>,
    },
    /// In a file system of its own, mounted while a container that uses it runs.
    FileSystem {
        /// As in /proc/filesystems.
        kind: String,
        /// What it is made of: a device, or a word.
        device: String,
        /// Of the mount and of the file system.
        options: Vec<String>,
    },
}

fn invalid(option: &str, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: format!("options.{option}"), reason: reason.into() }
}

impl Backing {
    /// Reads options.
    ///
    /// # Errors
    /// [`EngineError::InvalidSpec`] for one that makes no sense, [`EngineError::Unsupported`] for one that is not for here.
    pub fn of(options: &BTreeMap<String, String>) -> Result<Self, EngineError> {
        for (key, value) in options {
            match key.as_str() {
                "type" | "device" | "o" => {}
                "size" | "inodes" => {
                    return Err(EngineError::Unsupported {
                        feature: format!("the option {key} of a volume"),
                        reason:
                            "it takes project quotas of the file system; for a limit use type=tmpfs, o=size=…"
                                .into(),
                    });
                }
                _ => return Err(invalid(key, "there is no such option; type, device and o are known")),
            }
            if value.contains('\0') {
                return Err(invalid(key, "it has a NUL byte"));
            }
        }
        let get = |key: &str| options.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let words: Vec<String> = get("o")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let is_bind = words.iter().any(|word| word == "bind" || word == "rbind");
        match (get("type").unwrap_or("none"), get("device")) {
            ("none" | "bind", Some(path)) if is_bind || get("type") == Some("bind") => bind(path, words),
            ("none" | "bind", None) if is_bind || get("type") == Some("bind") => {
                Err(invalid("device", "what to bind is missing"))
            }
            ("none", None) => directory(&words),
            ("none", Some(_)) => Err(invalid(
                "type",
                "a device wants the type of its file system, or o=bind for a directory of the host",
            )),
            (kind, device) => file_system(kind, device, words),
        }
    }
}

fn directory(words: &[String]) -> Result<Backing, EngineError> {
    let (mut uid, mut gid, mut copy) = (None, None, true);
    for word in words {
        let id = |value: &str| {
            value
                .parse::<u32>()
                .ok()
                .filter(|id| *id != u32::MAX)
                .map(Some)
                .ok_or_else(|| invalid("o", format!("{word:?} has no number of a user or group")))
        };
        match word.split_once('=') {
            Some(("uid", value)) => uid = id(value)?,
            Some(("gid", value)) => gid = id(value)?,
            None if word == "nocopy" => copy = false,
            None if word == "copy" => copy = true,
            Some(("size" | "inodes", _)) => {
                return Err(EngineError::Unsupported {
                    feature: "a limit on the size of a volume".into(),
                    reason: "it takes project quotas of the file system; type=tmpfs has a limit".into(),
                });
            }
            _ => {
                return Err(invalid(
                    "o",
                    format!("{word:?} has a meaning only with a type; uid=, gid= and nocopy are known"),
                ));
            }
        }
    }
    Ok(Backing::Directory { uid, gid, copy })
}

fn bind(path: &str, words: Vec<String>) -> Result<Backing, EngineError> {
    const FLAGS: &[&str] =
        &["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime"];
    if !path.starts_with('/') {
        return Err(invalid("device", format!("{path:?} is no absolute path of the host")));
    }
    let mut flags = Vec::new();
    for word in words {
        match word.as_str() {
            "bind" | "rbind" => {}
            word if FLAGS.contains(&word) => flags.push(word.to_owned()),
            _ => return Err(invalid("o", format!("{word:?} has no meaning for a bind"))),
        }
    }
    Ok(Backing::Bind { path: path.to_owned(), flags })
}

fn file_system(kind: &str, device: Option<&str>, options: Vec<String>) -> Result<Backing, EngineError> {
    let base = kind.split('.').next().unwrap_or(kind);
    if WITH_A_HELPER.contains(&base) {
        return Err(EngineError::Unsupported {
            feature: format!("a volume of type {kind}"),
            reason: format!(
                "a program of the host (mount.{kind}) has to mount it; mount it on the host, and make the volume with type=none, o=bind and device=PLACE"
            ),
        });
    }
    if OF_THE_KERNEL.contains(&kind) {
        return Err(invalid("type", format!("{kind:?} is no file system for data")));
    }
    if !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')) {
        return Err(invalid("type", format!("{kind:?} is no type of a file system")));
    }
    if options.iter().any(|word| word == "bind" || word == "rbind") {
        return Err(invalid("o", "bind has a meaning only for type=none"));
    }
    let in_memory = matches!(kind, "tmpfs" | "ramfs");
    match device {
        None if !in_memory => Err(invalid("device", format!("a {kind} wants a device"))),
        Some(path) if !in_memory && !path.starts_with('/') => {
            Err(invalid("device", format!("{path:?} is no absolute path of the host")))
        }
        device => Ok(Backing::FileSystem {
            kind: kind.to_owned(),
            device: device.unwrap_or(kind).to_owned(),
            options,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backing(options: &[(&str, &str)]) -> Result<Backing, EngineError> {
        Backing::of(&options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn options_are_those_of_the_local_driver() {
        let plain = |uid, gid, copy| Backing::Directory { uid, gid, copy };
        assert_eq!(backing(&[]).unwrap(), plain(None, None, true));
        assert_eq!(backing(&[("o", "uid=5, gid=6,nocopy")]).unwrap(), plain(Some(5), Some(6), false));
        assert_eq!(
            backing(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]).unwrap(),
            Backing::Bind { path: "/srv".into(), flags: vec!["ro".into()] }
        );
        assert_eq!(
            backing(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,noexec")]).unwrap(),
            Backing::FileSystem {
                kind: "tmpfs".into(),
                device: "tmpfs".into(),
                options: vec!["size=1m".into(), "noexec".into()],
            }
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field() {
        for (options, field) in [
            (&[("color", "red")][..], "options.color"),
            (&[("o", "uid=-1")], "options.o"),
            (&[("o", "noexec")], "options.o"),
            (&[("device", "/dev/sda")], "options.type"),
            (&[("type", "ext4")], "options.device"),
            (&[("type", "ext4"), ("device", "sda")], "options.device"),
            (&[("type", "none"), ("o", "bind")], "options.device"),
            (&[("type", "none"), ("o", "bind"), ("device", "srv")], "options.device"),
            (&[("type", "none"), ("o", "bind,size=1"), ("device", "/srv")], "options.o"),
            (&[("type", "proc")], "options.type"),
            (&[("type", "../x"), ("device", "/x")], "options.type"),
            (&[("type", "tmpfs"), ("o", "bind")], "options.o"),
        ] {
            match backing(options) {
                Err(EngineError::InvalidSpec { field: found, .. }) => assert_eq!(found, field, "{options:?}"),
                other => panic!("{options:?}: {other:?}"),
            }
        }
        for options in
            [&[("type", "nfs"), ("device", ":/x")][..], &[("type", "fuse.sshfs")], &[("o", "size=1g")]]
        {
            assert!(matches!(backing(options), Err(EngineError::Unsupported { .. })), "{options:?}");
        }
    }
}
