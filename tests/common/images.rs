//! Images for tests: busybox, packed on the fly, and the systemd images of `cargo xtask images`.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;

use super::Host;

pub const BUSYBOX: &str = "/bin/busybox";

/// The images that `cargo xtask images` makes: Debian 12 with systemd 252, Debian 13 with systemd 257.
pub const SYSTEMD_IMAGES: [&str; 2] = ["bookworm", "trixie"];

/// A tar archive with busybox, a link for each of its applets, and two users, in a file without a name.
pub fn busybox_tar() -> File {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(TAR.get_or_init(pack)).unwrap();
    file.rewind().unwrap();
    file
}

fn pack() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header
    };
    for (dir, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("usr", 0o755)] {
        tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), format!("{dir}/"), &[][..]).unwrap();
    }
    let busybox = std::fs::read(BUSYBOX).unwrap();
    tar.append_data(&mut header(tar::EntryType::Regular, 0o755, busybox.len()), "bin/busybox", &busybox[..])
        .unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n"),
        ("etc/group", "root:x:0:\nalice:x:1000:\ngamers:x:2000:alice\n"),
        ("etc/not-executable", "#!/bin/sh\n"),
    ];
    for (path, text) in files {
        tar.append_data(&mut header(tar::EntryType::Regular, 0o644, text.len()), path, text.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

/// The archive of a systemd image, from the directory in DORMOUSE_TEST_IMAGES, else from target/images. `None`, said
/// aloud, if nobody has made it.
fn systemd_tar(release: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("DORMOUSE_TEST_IMAGES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images"), PathBuf::from);
    let path = dir.join(format!("{release}-systemd.tar"));
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: there is no {} (cargo xtask images makes it)", path.display());
    None
}

/// The archive of a systemd image, opened. `None`, said aloud, if nobody has made it.
pub fn systemd_archive(release: &str) -> Option<File> {
    systemd_tar(release).map(|path| File::open(path).unwrap())
}

/// A host with the systemd image of a Debian release under the release's name. `None`, said aloud, without it.
pub fn systemd_image(release: &str) -> Option<Host> {
    let tar = systemd_tar(release)?;
    let host = Host::empty()?;
    host.call("Image.Import", json!({"name": release, "path": tar})).unwrap();
    Some(host)
}
