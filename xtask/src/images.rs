//! The images that tests, demonstration and benchmarks use: tar archives of root file systems, made from Debian packages.
//!
//! They lie in `target/images/NAME.tar`. Beside each lies `NAME.recipe`, the text of what it was made from; while it is the
//! same, the image is not made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dependencies::{self, Purpose};
use crate::program::{Result, need_root, on_file, read, run_quietly};
use crate::workspace;

/// An image that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Image {
    /// A static busybox and nothing else.
    Busybox,
    /// Debian 12 with systemd 252, nginx and cron.
    BookwormSystemd,
    /// Debian 13 with systemd 257, nginx and cron.
    TrixieSystemd,
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these
    #[arg(value_enum)]
    images: Vec<Image>,

    /// Make them anew, even if they are up to date
    #[arg(long)]
    force: bool,
}

pub fn main(arguments: &Arguments) -> Result<()> {
    let all = <Image as clap::ValueEnum>::value_variants();
    let images = if arguments.images.is_empty() { all } else { &arguments.images };
    for image in images {
        if arguments.force {
            let recipe = workspace::images().join(image.name()).with_extension("recipe");
            let _ = fs::remove_file(recipe);
        }
        let path = make(*image)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Two services that run on their own, without network and without configuration.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,cron,nginx-light";

impl Image {
    pub fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::BookwormSystemd => "bookworm-systemd",
            Self::TrixieSystemd => "trixie-systemd",
        }
    }

    fn suite(self) -> Option<&'static str> {
        match self {
            Self::Busybox => None,
            Self::BookwormSystemd => Some("bookworm"),
            Self::TrixieSystemd => Some("trixie"),
        }
    }
}

/// Makes an image unless it is there and up to date, and gives its path.
///
/// # Errors
/// Programs that are missing and can't be installed, or fail.
pub fn make(image: Image) -> Result<PathBuf> {
    let dir = workspace::images();
    fs::create_dir_all(&dir).map_err(on_file("make", &dir))?;
    let archive = dir.join(image.name()).with_extension("tar");
    let recipe_path = dir.join(image.name()).with_extension("recipe");
    let recipe = recipe(image);
    if archive.exists() && fs::read_to_string(&recipe_path).is_ok_and(|made_from| made_from == recipe) {
        return Ok(archive);
    }
    dependencies::install(&[Purpose::Images])?;
    need_root("an image keeps the owners of its files")?;
    let partial = dir.join(format!("{}.tar.partial", image.name()));
    println!("making the image {}", image.name());
    match image.suite() {
        None => make_busybox(&partial)?,
        Some(suite) => make_debian(suite, &partial)?,
    }
    fs::rename(&partial, &archive).map_err(on_file("rename", &partial))?;
    fs::write(&recipe_path, recipe).map_err(on_file("write", &recipe_path))?;
    Ok(archive)
}

/// The tree of an image, unpacked below `target/images/trees`, for tests that boot it by another manager. Unpacked anew when
/// the image is another one.
///
/// # Errors
/// Those of [`make`]; what tar(1) says.
pub fn make_tree(image: Image) -> Result<()> {
    let archive = make(image)?;
    let trees = workspace::images().join("trees");
    fs::create_dir_all(&trees).map_err(on_file("make", &trees))?;
    let (tree, recipe_path) = (trees.join(image.name()), trees.join(format!("{}.recipe", image.name())));
    let recipe = recipe(image);
    if tree.exists() && fs::read_to_string(&recipe_path).is_ok_and(|made_from| made_from == recipe) {
        return Ok(());
    }
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(on_file("remove", &tree)(error));
        }
        _ => {}
    }
    fs::create_dir(&tree).map_err(on_file("make", &tree))?;
    run_quietly(
        Command::new("tar")
            .args(["--extract", "--numeric-owner", "--xattrs", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&tree),
    )?;
    fs::write(&recipe_path, recipe).map_err(on_file("write", &recipe_path))
}

/// The text of what an image is made from.
pub fn recipe(image: Image) -> String {
    match image.suite() {
        None => format!("busybox {BUSYBOX_DIRECTORIES:?} {BUSYBOX_FILES:?}\n"),
        Some(suite) => format!("{}\n", mmdebstrap_arguments(suite).join("\n")),
    }
}

/// Makes a tree of Debian packages (comma separated), changed at last by `customize`, a shell script whose first argument
/// is the tree.
///
/// # Errors
/// What mmdebstrap says.
pub fn debian_tree(suite: &str, packages: &str, customize: &str, tree: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={packages}"));
    for path in ["doc", "info", "locale", "man"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    command.arg(format!("--customize-hook={customize}")).arg(suite).arg(tree);
    if let Some(mirror) = mirror() {
        command.arg(mirror);
    }
    run_quietly(&mut command)
}

const BUSYBOX_DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "home/user",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var/log",
];

const BUSYBOX_FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"),
    ("etc/group", "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"),
];

fn make_busybox(archive: &Path) -> Result<()> {
    let tree = tempfile::tempdir().map_err(on_file("make", Path::new("a temporary directory")))?;
    let tree = tree.path();
    for dir in BUSYBOX_DIRECTORIES {
        let dir = tree.join(dir);
        fs::create_dir_all(&dir).map_err(on_file("make", &dir))?;
    }
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, tree.join("bin/busybox")).map_err(on_file("copy", busybox))?;
    for applet in read(Command::new(busybox).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        let link = tree.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link).map_err(on_file("make", &link))?;
    }
    for (path, text) in BUSYBOX_FILES {
        let path = tree.join(path);
        fs::write(&path, text).map_err(on_file("write", &path))?;
    }
    run_quietly(Command::new("chmod").arg("1777").arg(tree.join("tmp")))?;
    run_quietly(Command::new("chown").arg("1000:1000").arg(tree.join("home/user")))?;
    run_quietly(
        Command::new("tar")
            .args(["--create", "--numeric-owner", "--sort=name", "--mtime=@0", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(tree)
            .arg("."),
    )
}

fn make_debian(suite: &str, archive: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(mmdebstrap_arguments(suite)).arg(suite).arg(archive);
    if let Some(mirror) = mirror() {
        command.arg(mirror);
    }
    run_quietly(&mut command)
}

/// Everything that decides what is in the image.
fn mmdebstrap_arguments(suite: &str) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--mode=root", "--variant=minbase", "--format=tar", "--skip=output/dev"].map(String::from).into();
    arguments.push(format!("--include={PACKAGES}"));
    for tree in ["doc", "info", "locale", "man"] {
        arguments.push(format!("--dpkgopt=path-exclude=/usr/share/{tree}/*"));
    }
    // An empty machine-id is filled at boot, from container_uuid.
    arguments.push(format!(
        r#"--customize-hook=cd "$1" && rm -rf var/lib/apt/lists/* var/cache/apt/* && find var/log -type f -delete && : > etc/machine-id && echo {suite} > etc/hostname"#
    ));
    arguments
}

/// The Debian mirror that apt on this machine uses; `None` leaves the choice to mmdebstrap.
fn mirror() -> Option<String> {
    let targets = || {
        read(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)", "Label: Debian"]))
            .unwrap_or_default()
    };
    let mut found = targets();
    if found.is_empty() {
        let _ = run_quietly(Command::new("apt-get").arg("update"));
        found = targets();
    }
    found.lines().next().map(str::to_owned)
}
