//! Users and groups by name, as the container's own /etc/passwd and /etc/group have them. These files are hostile: they
//! are looked up inside the container's root only, and bounded.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use crate::image::overlay_attribute;

use super::{Container, Engine, EngineError};

const FILE_MAX_BYTES: u64 = 8 << 20;

/// A user as the process will have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// The directories that make up a container's root, topmost first, seen from outside without mounting them.
#[derive(Debug)]
pub(super) struct RootView {
    directories: Vec<PathBuf>,
}

impl RootView {
    pub(super) fn new(engine: &Engine, container: &Container) -> Result<Self, EngineError> {
        if let Some(rootfs) = &container.definition.spec.rootfs {
            return Ok(Self { directories: vec![rootfs.clone()] });
        }
        let layers = engine.layers()?;
        let mut directories = vec![engine.paths().container(&container.row.id).join("upper")];
        for digest in container.definition.layers.iter().rev() {
            directories.push(layers.path(&digest.parse().map_err(super::images::from_image_error)?));
        }
        Ok(Self { directories })
    }

    /// Of directories that lie on one another, topmost first.
    pub(super) fn of(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// Reads a small file of `etc`; `None` if no layer has it, or a higher one has taken it away, or has something else in its
    /// place. Nothing but a regular file is ever opened: to open a device does things to the host.
    fn read(&self, name: &str) -> Option<String> {
        for dir in &self.directories {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let Ok(dir) = rustix::fs::open(dir, flags, Mode::empty()) else { continue };
            let found = rustix::fs::openat2(
                &dir,
                format!("etc/{name}"),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match found {
                Ok(found) => return read_regular(&found),
                Err(_) if hides_what_is_below(&dir) => return None,
                Err(_) => {}
            }
        }
        None
    }
}

fn read_regular(found: &OwnedFd) -> Option<String> {
    let stat = rustix::fs::fstat(found).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(FILE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a layer shows nothing of those below it in `etc`: it has no directory there (a whiteout perhaps), or one that is
/// opaque.
fn hides_what_is_below(layer: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::statat(layer, "etc", AtFlags::SYMLINK_NOFOLLOW) else { return false };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        // A link leads to where another layer may have something.
        return FileType::from_raw_mode(stat.st_mode) != FileType::Symlink;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut value = [0; 1];
    rustix::fs::openat(layer, "etc", flags, Mode::empty()).is_ok_and(|etc| {
        rustix::fs::fgetxattr(&etc, overlay_attribute("opaque"), &mut value[..]) == Ok(1) && value == *b"y"
    })
}

/// Looks up `user[:group]`, with supplementary groups from the container and from the caller.
pub(super) fn look_up(view: &RootView, wanted: &str, extra_groups: &[String]) -> Result<User, EngineError> {
    let passwd = view.read("passwd").unwrap_or_default();
    let group = view.read("group").unwrap_or_default();
    resolve(&passwd, &group, wanted, extra_groups)
}

/// The names of a container's users by their uid; the first one counts, as in getpwuid(3).
pub(super) fn user_names(view: &RootView) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in view.read("passwd").unwrap_or_default().lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse::<u32>)) {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

fn resolve(passwd: &str, group: &str, wanted: &str, extra_groups: &[String]) -> Result<User, EngineError> {
    let invalid = |field: &str, reason: String| EngineError::InvalidSpec { field: field.to_owned(), reason };
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let number: Option<u32> = user.parse().ok();
    // name:password:uid:gid:gecos:home:shell, passwd(5)
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 4 && (fields[0] == user || (number.is_some() && fields[2].parse().ok() == number))
    });
    let (name, uid, mut gid, home) = match &entry {
        Some(fields) => {
            let id = |index: usize| {
                fields[index].parse::<u32>().map_err(|_| {
                    invalid("spec.user", format!("the entry of {user:?} in /etc/passwd is damaged"))
                })
            };
            (Some(fields[0]), id(2)?, id(3)?, fields.get(5).copied().unwrap_or("/"))
        }
        None => match number {
            Some(uid) => (None, uid, 0, "/"),
            None if user == "root" => (Some("root"), 0, 0, "/root"),
            None => {
                return Err(invalid(
                    "spec.user",
                    format!("there is no user {user:?} in the container's /etc/passwd"),
                ));
            }
        },
    };
    // name:password:gid:members, group(5)
    let groups: Vec<(&str, u32, &str)> = group
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
            Some((name, gid, fields.next().unwrap_or_default()))
        })
        .collect();
    let gid_of = |field: &str, wanted: &str| {
        let known = groups.iter().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| *gid);
        known.or_else(|| wanted.parse().ok()).ok_or_else(|| {
            invalid(field, format!("there is no group {wanted:?} in the container's /etc/group"))
        })
    };
    let mut supplementary: Vec<u32> = Vec::new();
    match wanted_group {
        Some(wanted) => gid = gid_of("spec.user", wanted)?,
        // A group given outright stands alone, as with Docker and Podman.
        None => supplementary.extend(groups.iter().filter_map(|(_, gid, members)| {
            name.filter(|name| members.split(',').any(|member| member == *name)).map(|_| *gid)
        })),
    }
    for (index, wanted) in extra_groups.iter().enumerate() {
        supplementary.push(gid_of(&format!("spec.groups[{index}]"), wanted)?);
    }
    supplementary.sort_unstable();
    supplementary.dedup();
    let home = if home.is_empty() || home.contains('\n') { "/" } else { home };
    Ok(User { uid, gid, groups: supplementary, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\nbad:x:y:z:::\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nadm:x:4:www,other\nstaff:x:50:\n";

    #[track_caller]
    fn check(wanted: &str, extra: &[&str], uid: u32, gid: u32, groups: &[u32], home: &str) {
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let found = resolve(PASSWD, GROUP, wanted, &extra).unwrap();
        assert_eq!(
            (found.uid, found.gid, found.groups.as_slice(), found.home.as_str()),
            (uid, gid, groups, home)
        );
    }

    #[test]
    fn users_are_found_as_docker_and_podman_find_them() {
        check("root", &[], 0, 0, &[], "/root");
        check("0", &[], 0, 0, &[], "/root");
        check("www", &[], 33, 33, &[4], "/var/www");
        check("33", &[], 33, 33, &[4], "/var/www");
        check("www:staff", &[], 33, 50, &[], "/var/www");
        check("www:7", &["staff", "1000"], 33, 7, &[50, 1000], "/var/www");
        check("1234", &[], 1234, 0, &[], "/");
        check("1234:5678", &[], 1234, 5678, &[], "/");
    }

    #[test]
    fn who_is_not_there_is_named() {
        for wanted in ["nobody", "www:nogroup", "bad", "-1", ""] {
            let error = resolve(PASSWD, GROUP, wanted, &[]).unwrap_err();
            assert!(
                matches!(error, EngineError::InvalidSpec { ref field, .. } if field == "spec.user"),
                "{wanted}"
            );
        }
        assert!(resolve(PASSWD, GROUP, "root", &["nogroup".into()]).is_err());
    }

    /// Two layers, of which the lower one has a passwd.
    fn layers(prepare: impl Fn(&std::path::Path)) -> Option<String> {
        let home = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| home.path().join(name));
        for layer in [&upper, &lower] {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(lower.join("etc/passwd"), PASSWD).unwrap();
        prepare(&upper);
        RootView::of(vec![upper, lower]).read("passwd")
    }

    fn node(path: &std::path::Path, kind: FileType, major: u32, minor: u32) {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::RUSR, device).unwrap();
    }

    #[test]
    fn a_file_is_that_of_the_topmost_layer_that_has_or_hides_it() {
        assert_eq!(layers(|_| {}).as_deref(), Some(PASSWD));
        assert_eq!(
            layers(|upper| std::fs::write(upper.join("etc/passwd"), "x").unwrap()).as_deref(),
            Some("x")
        );
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: devices take root");
            return;
        }
        let whiteout = |path: &std::path::Path| node(path, FileType::CharacterDevice, 0, 0);
        assert_eq!(layers(|upper| whiteout(&upper.join("etc/passwd"))), None);
        let removed = |upper: &std::path::Path| {
            std::fs::remove_dir(upper.join("etc")).unwrap();
            whiteout(&upper.join("etc"));
        };
        assert_eq!(layers(removed), None);
        let opaque = |upper: &std::path::Path| {
            let etc = std::fs::File::open(upper.join("etc")).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&etc, overlay_attribute("opaque"), b"y", flags).unwrap();
        };
        assert_eq!(layers(opaque), None);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: devices take root");
            return;
        }
        // Nobody writes to the FIFO, and no driver has the device: neither could be opened.
        assert_eq!(layers(|upper| node(&upper.join("etc/passwd"), FileType::Fifo, 0, 0)), None);
        assert_eq!(layers(|upper| node(&upper.join("etc/passwd"), FileType::CharacterDevice, 60, 1)), None);
        assert_eq!(layers(|upper| std::fs::create_dir(upper.join("etc/passwd")).unwrap()), None);
    }

    #[test]
    fn root_needs_no_entry() {
        assert_eq!(resolve("", "", "root", &[]).unwrap().uid, 0);
        assert_eq!(resolve("", "", "0", &[]).unwrap().uid, 0);
    }
}
