//! The Debian package. The same source and the same binary give the same package, byte for byte.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dependencies::{self, Purpose};
use crate::man;
use crate::program::{Result, on_file, read, run, run_quietly};
use crate::workspace;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The part of the version after the dash
    #[arg(long, default_value = "1")]
    revision: String,
}

/// How the binary in the package is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Release,
    Dev,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

pub fn main(arguments: &Arguments) -> Result<()> {
    let package = build(Profile::Release, &arguments.revision)?;
    println!("{}", package.display());
    Ok(())
}

/// What goes where. Directories are copied whole.
const FILES: &[(&str, &str)] = &[
    ("systemd-units/system", "usr/lib/systemd/system"),
    ("systemd-units/user", "usr/lib/systemd/user"),
    ("systemd-units/tmpfiles.d", "usr/lib/tmpfiles.d"),
    ("LICENSE", "usr/share/doc/dormouse/copyright"),
    ("CHANGELOG.md", "usr/share/doc/dormouse/CHANGELOG.md"),
    ("README.md", "usr/share/doc/dormouse/README.md"),
    ("docs", "usr/share/doc/dormouse/docs"),
    ("interfaces", "usr/share/dormouse/interfaces"),
];

/// Names that the program is called by as a generator of units, in the directories where systemd looks for them.
const GENERATORS: &[&str] = &["system-generators", "user-generators"];

/// Where each shell looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/dormouse"),
    ("zsh", "usr/share/zsh/vendor-completions/_dormouse"),
    ("fish", "usr/share/fish/vendor_completions.d/dormouse.fish"),
];

/// Compiles, and makes the package.
///
/// # Errors
/// Programs that are missing or fail.
pub fn build(profile: Profile, revision: &str) -> Result<PathBuf> {
    dependencies::install(&[Purpose::Build])?;
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["build", "--quiet", "--bin", "dormouse"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    run(&mut command)?;
    package(profile, revision)
}

/// Makes the package of what is compiled already.
///
/// # Errors
/// Programs that are missing or fail.
pub fn package(profile: Profile, revision: &str) -> Result<PathBuf> {
    let source = workspace::root();
    let binary = workspace::target().join(profile.directory()).join("dormouse");
    let dir = workspace::target().join("deb");
    fs::create_dir_all(&dir).map_err(on_file("make", &dir))?;
    let tree = tempfile::tempdir_in(&dir).map_err(on_file("make a directory in", &dir))?;
    let tree = tree.path();
    for (from, to) in FILES {
        let (from, to) = (source.join(from), tree.join(to));
        let parent = to.parent().unwrap_or(tree);
        fs::create_dir_all(parent).map_err(on_file("make", parent))?;
        run_quietly(Command::new("cp").args(["--recursive", "--no-target-directory"]).arg(from).arg(to))?;
    }
    let installed = tree.join("usr/bin/dormouse");
    fs::create_dir_all(tree.join("usr/bin")).map_err(on_file("make", &installed))?;
    run_quietly(Command::new("strip").arg("--strip-debug").arg("-o").arg(&installed).arg(&binary))?;
    for directory in GENERATORS {
        let directory = tree.join("usr/lib/systemd").join(directory);
        let link = directory.join("dormouse-generator");
        fs::create_dir_all(&directory).map_err(on_file("make", &directory))?;
        symlink("../../../bin/dormouse", &link).map_err(on_file("make", &link))?;
    }
    // The OCI runtime is the same program by another name.
    let runtime = tree.join("usr/bin/dormouse-runtime");
    std::os::unix::fs::symlink("dormouse", &runtime).map_err(on_file("make", &runtime))?;
    for (shell, path) in COMPLETIONS {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap_or(tree)).map_err(on_file("make", &path))?;
        let script = read(Command::new(&binary).args(["completions", shell]))?;
        fs::write(&path, script).map_err(on_file("write", &path))?;
    }
    man::write(&binary, &tree.join("usr/share/man/man1"))?;
    run_quietly(
        Command::new("sh").current_dir(tree).args(["-c", "gzip --best --no-name usr/share/man/man1/*"]),
    )?;

    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let architecture = read(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let control = tree.join("DEBIAN");
    fs::create_dir(&control).map_err(on_file("make", &control))?;
    for name in ["postinst", "prerm", "postrm"] {
        let from = source.join("systemd-units/debian").join(name);
        fs::copy(&from, control.join(name)).map_err(on_file("copy", &from))?;
    }
    let text = control_file(&version, &architecture, installed_kib(tree)?)?;
    fs::write(control.join("control"), text).map_err(on_file("write", &control))?;
    normalize_modes(tree)?;
    let sums = read(Command::new("sh").current_dir(tree).args([
        "-c",
        "find . -path ./DEBIAN -prune -o -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 md5sum",
    ]))?;
    let sums_file = control.join("md5sums");
    fs::write(&sums_file, sums).map_err(on_file("write", &sums_file))?;
    fs::set_permissions(&sums_file, fs::Permissions::from_mode(0o644)).map_err(on_file("set", &sums_file))?;
    let package = dir.join(format!("dormouse_{version}_{architecture}.deb"));
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "--build"]);
    if profile == Profile::Dev {
        command.args(["-Zgzip", "-z1"]);
    }
    // Younger files get this time, and all of ours are younger.
    command.env("SOURCE_DATE_EPOCH", source_date()).arg(tree).arg(&package);
    run_quietly(&mut command)?;
    Ok(package)
}

fn control_file(version: &str, architecture: &str, installed_kib: u64) -> Result<String> {
    // The library that it was linked with, without Debian's revision of it.
    let libc = read(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "libc6"]))?;
    let libc = libc.split('-').next().unwrap_or_default();
    Ok(format!(
        "Package: dormouse
Version: {version}
Architecture: {architecture}
Maintainer: The dormouse project <dormouse@localhost>
Installed-Size: {installed_kib}
Depends: libc6 (>= {libc}), libgcc-s1, init-system-helpers (>= 1.52)
Recommends: systemd, dbus, netavark, aardvark-dns, passt, uidmap
Suggests: systemd-container, fuse-overlayfs, crun
Section: admin
Priority: optional
Description: container service that sleeps
 A socket-activated varlink service for containers. The first call wakes it, it
 exits when nobody needs it, and containers go on without it. It runs a full,
 unmodified systemd inside containers.
"
    ))
}

/// The time of the last commit, so that it changes with the source and with nothing else.
fn source_date() -> String {
    read(Command::new("git").current_dir(workspace::root()).args(["log", "-1", "--format=%ct"]))
        .map(|time| time.trim().to_owned())
        .ok()
        .filter(|time| !time.is_empty())
        .unwrap_or_else(|| "1".to_owned())
}

fn installed_kib(tree: &Path) -> Result<u64> {
    let sum =
        read(Command::new("du").args(["--summarize", "--apparent-size", "--block-size=1024"]).arg(tree))?;
    Ok(sum.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0))
}

/// What a checkout's umask decides must not decide what a package holds.
fn normalize_modes(tree: &Path) -> Result<()> {
    let mut dirs = vec![tree.to_owned()];
    while let Some(dir) = dirs.pop() {
        set_mode(&dir, 0o755)?;
        for entry in fs::read_dir(&dir).map_err(on_file("list", &dir))?.flatten() {
            let path = entry.path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let runs = path.parent().is_some_and(|parent| parent.ends_with("usr/bin"))
                || ["postinst", "prerm", "postrm"]
                    .iter()
                    .any(|name| path.ends_with(format!("DEBIAN/{name}")));
            set_mode(&path, if runs { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(on_file("set the mode of", path))
}
