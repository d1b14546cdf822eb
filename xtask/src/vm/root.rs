//! The root file system of the virtual host, and its kernel: made once, as long as the recipe is the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::images::{self, Image, debian_tree};
use crate::program::{Result, on_file, run_quietly};
use crate::{undo, workspace};

/// What a host of containers has, and the programs that the checks compare with.
const PACKAGES: &str = "systemd,systemd-sysv,systemd-container,dbus,dbus-user-session,libpam-systemd,udev,kmod,\
                        linux-image-cloud-amd64,netavark,aardvark-dns,nftables,podman,crun,uidmap,passt,\
                        fuse-overlayfs,jq,iproute2,procps,curl";

const SIZE: &str = "6G";

/// What is done to the tree at last. Checks may reboot, so the journal is kept; nothing on a timer disturbs them.
const CUSTOMIZE: &str = r#"cd "$1" && rm -rf var/lib/apt/lists/* var/cache/apt/* && : > etc/machine-id
echo vmhost > etc/hostname && passwd --root "$1" --delete root && mkdir -p var/log/journal
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim; do ln -sf /dev/null etc/systemd/system/$timer.timer; done
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../vm-checks.service etc/systemd/system/multi-user.target.wants/vm-checks.service
chroot . useradd --create-home --shell /bin/bash --uid 1000 alice
"#;

/// A root file system that can be booted.
#[derive(Debug)]
pub struct Root {
    pub image: PathBuf,
    pub kernel: PathBuf,
}

/// Makes it unless it is there and up to date.
///
/// # Errors
/// Programs that are missing or fail.
pub fn make() -> Result<Root> {
    let dir = super::directory();
    fs::create_dir_all(&dir).map_err(on_file("make", &dir))?;
    let root = Root { image: dir.join("root.img"), kernel: dir.join("vmlinuz") };
    let recipe_path = dir.join("root.recipe");
    let guest = workspace::root().join("tests/vm/guest");
    let recipe = recipe(&guest)?;
    if root.image.exists()
        && root.kernel.exists()
        && fs::read_to_string(&recipe_path).is_ok_and(|made_from| made_from == recipe)
    {
        return Ok(root);
    }
    let inner = images::make(Image::TrixieSystemd)?;
    let busybox = images::make(Image::Busybox)?;
    println!("making the root file system of the virtual host");
    let _ = fs::remove_file(&recipe_path);
    let tree = dir.join("root.partial");
    remove(&tree)?;
    let abandoned = tree.clone();
    undo::later(move || drop(remove(&abandoned)));
    debian_tree("trixie", PACKAGES, CUSTOMIZE, &tree)?;
    // The tree that every engine boots, and the image for everything small.
    let machine = tree.join("var/lib/machines/trixie");
    fs::create_dir_all(&machine).map_err(on_file("make", &machine))?;
    run_quietly(
        Command::new("tar").arg("--extract").arg("--file").arg(inner).arg("--directory").arg(&machine),
    )?;
    let small = tree.join("usr/local/share/busybox.tar");
    fs::copy(&busybox, &small).map_err(on_file("write", &small))?;
    run_quietly(Command::new("cp").args(["--recursive", "--no-target-directory"]).arg(&guest).arg(&tree))?;
    for entry in fs::read_dir(tree.join("boot")).map_err(on_file("list", &tree))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            fs::copy(entry.path(), &root.kernel).map_err(on_file("write", &root.kernel))?;
        }
    }
    let partial = dir.join("root.img.partial");
    make_file_system(&tree, &partial, SIZE, "vm-root")?;
    remove(&tree)?;
    fs::rename(&partial, &root.image).map_err(on_file("rename", &partial))?;
    fs::write(&recipe_path, recipe).map_err(on_file("write", &recipe_path))?;
    Ok(root)
}

/// Makes an ext4 image that holds a tree.
pub fn make_file_system(tree: &Path, image: &Path, size: &str, label: &str) -> Result<()> {
    let _ = fs::remove_file(image);
    run_quietly(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-L", label, "-d"])
            .arg(tree)
            .arg(image)
            .arg(size),
    )
}

/// Everything that decides what is in the root file system.
fn recipe(guest: &Path) -> Result<String> {
    let mut text = format!("{PACKAGES}\n{CUSTOMIZE}\n{SIZE}\n{}\n", images::recipe(Image::TrixieSystemd));
    let mut dirs = vec![guest.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(on_file("list", &dir))?.flatten() {
            if entry.path().is_dir() { dirs.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    for file in files {
        let content = fs::read_to_string(&file).map_err(on_file("read", &file))?;
        let name = file.strip_prefix(guest).unwrap_or(&file);
        text.push_str(&format!("{}\n{content}\n", name.display()));
    }
    Ok(text)
}

fn remove(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(on_file("remove", tree)(error)),
        _ => Ok(()),
    }
}
