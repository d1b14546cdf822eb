//! fuse-overlayfs: layers put together by a process, for users whose kernel refuses them overlayfs.
//!
//! It is given a connection of ours to the kernel, of which the mount is made here and attached nowhere. So nothing has a
//! place on the host, and nothing has to be unmounted or ended: when the last one who sees the tree is gone, the kernel hangs
//! up, and the process ends.
//!
//! Source: fuse-overlayfs(1), mount.fuse3(8), fuse.rst; libfuse takes `/dev/fd/N` for a connection that is there already.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::runtime::mounts::MountFailure;

/// The Debian package that has the program, which is called the same.
pub const PACKAGE: &str = "fuse-overlayfs";
/// What would be read as something else in the program's options.
const SPECIAL: [u8; 3] = [b',', b':', b'\\'];

/// Where the program is, if it is installed.
pub fn program() -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(PACKAGE))
        .find(|path| path.is_file())
}

/// A tree, and who serves it.
#[derive(Debug)]
pub struct Served {
    /// The tree, attached nowhere.
    pub mount: OwnedFd,
    process: Child,
}

impl Served {
    /// Has a thread reap the process. Who does without it has another one reap its children.
    pub fn watched(self) -> OwnedFd {
        let Self { mount, mut process } = self;
        let thread = std::thread::Builder::new().name("fuse".to_owned());
        if let Err(error) = thread.spawn(move || drop(process.wait())) {
            tracing::warn!(%error, "nobody will reap {PACKAGE}, ignoring");
        }
        mount
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(Errno) -> MountFailure {
    let what = what.into();
    move |errno| MountFailure { what, errno }
}

/// Makes a tree of layers, topmost first; `writable` is where changes go, and a directory of the program's own beside it.
pub fn serve(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> Result<Served, MountFailure> {
    let program = program()
        .ok_or_else(|| failed(format!("put layers together; install the package {PACKAGE}"))(Errno::NOENT))?;
    let options = options(lower, writable)?;
    let connection = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open /dev/fuse"))?;
    let mount = mount(&connection, writable.is_some()).map_err(failed("mount a file system of FUSE"))?;
    let messages = rustix::fs::memfd_create(PACKAGE, MemfdFlags::CLOEXEC)
        .map_err(failed("make a place for messages"))?;
    let mut messages = File::from(messages);
    let not_run = |error: std::io::Error| {
        failed(format!("execute {program:?}"))(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    let mut process = Command::new(&program)
        .args(["-f", "-o", &options, "/dev/fd/0"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(connection))
        .stdout(Stdio::null())
        .stderr(Stdio::from(messages.try_clone().map_err(not_run)?))
        .spawn()
        .map_err(not_run)?;
    // The first question waits until the program has answered, or the kernel knows that it never will.
    if let Err(errno) = rustix::fs::fstatfs(&mount) {
        drop(mount);
        // It is no use; that it could not be killed means that it has ended.
        let _ = process.kill();
        let _ = process.wait();
        let mut told = String::new();
        let _ = messages.rewind().and_then(|()| messages.read_to_string(&mut told));
        let last = told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        return Err(failed(format!("put layers together by {PACKAGE} ({})", last.trim()))(errno));
    }
    Ok(Served { mount, process })
}

fn mount(connection: &OwnedFd, writable: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("source", PACKAGE),
        ("subtype", PACKAGE),
        ("fd", &connection.as_raw_fd().to_string()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    // The kernel judges by modes and owners, and every user of the container may ask.
    for flag in ["default_permissions", "allow_other"] {
        fsconfig_set_flag(&context, flag)?;
    }
    fsconfig_create(&context)?;
    let attributes = if writable {
        MountAttrFlags::empty()
    } else {
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
    };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn options(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> Result<String, MountFailure> {
    let text = |path: &Path| match path.to_str() {
        Some(text) if !text.bytes().any(|byte| SPECIAL.contains(&byte)) => Ok(text.to_owned()),
        _ => Err(failed(format!(
            "tell {PACKAGE} of {path:?}, which has a comma, a colon or a backslash in its name; have the state elsewhere"
        ))(Errno::INVAL)),
    };
    let lower = lower.iter().map(|layer| text(layer)).collect::<Result<Vec<_>, _>>()?;
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = writable {
        options.push_str(&format!(",upperdir={},workdir={}", text(upper)?, text(work)?));
    }
    // What a process has written is written, whoever ends next.
    options.push_str(",writeback=0");
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_as_the_program_wants_them() {
        let lower = [PathBuf::from("/top"), PathBuf::from("/below")];
        assert_eq!(options(&lower, None).unwrap(), "lowerdir=/top:/below,writeback=0");
        assert_eq!(
            options(&lower, Some((Path::new("/up"), Path::new("/work")))).unwrap(),
            "lowerdir=/top:/below,upperdir=/up,workdir=/work,writeback=0"
        );
        for path in ["/a,b", "/a:b", "/a\\b"] {
            assert!(options(&[PathBuf::from(path)], None).unwrap_err().what.contains("comma"), "{path}");
        }
    }
}
