//! The Debian packages that the chores need: told what for, and installed only where they are missing.

use std::process::Command;

use clap::ValueEnum;

use crate::program::{Failure, Result, exists, need_root, read, run, run_quietly};

/// What packages are needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Compiling: SQLite and zstd are C.
    Build,
    /// Making images from Debian packages.
    Images,
    /// The demonstration: a socket activated without systemd as PID 1.
    Demo,
    /// The tests.
    Test,
    /// The programs that dormouse is measured against.
    Bench,
    /// A virtual host.
    Vm,
}

/// A Debian package, what it is for, and what it gives us.
const PACKAGES: &[(&str, &[Purpose], &str)] = &[
    ("gcc", &[Purpose::Build], "compiles SQLite and zstd, and links"),
    ("libc6-dev", &[Purpose::Build], "the same"),
    ("busybox-static", &[Purpose::Images], "the small image"),
    ("mmdebstrap", &[Purpose::Images], "makes the Debian images"),
    ("debian-archive-keyring", &[Purpose::Images], "verifies what they are made of"),
    ("systemd", &[Purpose::Demo, Purpose::Test, Purpose::Bench], "systemd-socket-activate, systemd-analyze"),
    ("crun", &[Purpose::Test, Purpose::Bench], "an OCI runtime, to be used and measured against"),
    ("runc", &[Purpose::Bench], "another one, to be measured against"),
    ("containerd", &[Purpose::Test], "another engine, which drives our OCI command line"),
    ("procps", &[Purpose::Test], "ps, of which the OCI command line makes its tables"),
    ("netavark", &[Purpose::Test, Purpose::Bench], "networks: bridges, ports, firewall rules"),
    ("aardvark-dns", &[Purpose::Test, Purpose::Bench], "names on networks"),
    ("iptables", &[Purpose::Test, Purpose::Bench], "what netavark writes its rules with"),
    ("passt", &[Purpose::Test], "pasta: the network of containers without root"),
    ("uidmap", &[Purpose::Test], "maps the users of a service without root"),
    ("fuse-overlayfs", &[Purpose::Test], "puts layers together where the kernel refuses"),
    ("iproute2", &[Purpose::Test], "looks at interfaces and routes"),
    ("python3", &[Purpose::Test], "varlink clients that are not ours"),
    ("python3-venv", &[Purpose::Test], "where they are installed"),
    (
        "podman",
        &[Purpose::Test, Purpose::Bench],
        "the container engine to share images with, and to be measured against",
    ),
    ("catatonit", &[Purpose::Test], "holds the pods of podman, which are to be ours too"),
    ("buildah", &[Purpose::Test, Purpose::Bench], "makes images"),
    ("skopeo", &[Purpose::Test, Purpose::Bench], "copies images between registries and archives"),
    ("docker-registry", &[Purpose::Test, Purpose::Bench], "a registry"),
    ("apache2-utils", &[Purpose::Test], "htpasswd, for a registry that asks who is there"),
    ("openssl", &[Purpose::Test], "certificates for a registry"),
    ("zsh", &[Purpose::Test], "a shell that completes"),
    ("fish", &[Purpose::Test], "another one"),
    ("openssh-server", &[Purpose::Test], "another host, on loopback"),
    ("openssh-client", &[Purpose::Test], "the way there"),
    ("qemu-system-x86", &[Purpose::Vm], "boots a host with systemd as PID 1"),
    ("e2fsprogs", &[Purpose::Vm], "makes its disks"),
    ("binutils", &[Purpose::Vm], "strips the binary for the package"),
    ("conmon", &[Purpose::Bench], "podman's monitor"),
    ("systemd-container", &[Purpose::Test, Purpose::Bench], "systemd-nspawn"),
];

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only what this needs; may be given several times
    #[arg(long = "for", value_enum, value_name = "PURPOSE")]
    purposes: Vec<Purpose>,

    /// Only say what is missing, and fail if anything is
    #[arg(long)]
    dry_run: bool,
}

pub fn main(arguments: &Arguments) -> Result<()> {
    let all = Purpose::value_variants();
    let purposes = if arguments.purposes.is_empty() { all } else { &arguments.purposes };
    if !arguments.dry_run {
        install(purposes)?;
        println!("everything needed is installed");
        return Ok(());
    }
    let missing = missing(purposes);
    if missing.is_empty() {
        println!("everything needed is installed");
        return Ok(());
    }
    Err(Failure::Install { packages: missing, reason: "--dry-run was given".to_owned() })
}

/// Installs what is missing, and says so. Does nothing, and needs no root, where all is there.
///
/// # Errors
/// [`Failure::Install`] with the reason.
pub fn install(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    for (package, _, what) in
        PACKAGES.iter().filter(|(package, ..)| missing.iter().any(|name| name == package))
    {
        println!("missing: {package} ({what})");
    }
    if !exists("apt-get") {
        return Err(Failure::Install { packages: missing, reason: "there is no apt-get here".to_owned() });
    }
    need_root("packages are missing and have to be installed")?;
    println!("installing {} by apt-get", missing.join(" "));
    let install = || {
        let mut command = apt_get();
        command.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
        run_quietly(&mut command)
    };
    if install().is_ok() {
        return Ok(());
    }
    // The lists of packages may be absent or old.
    println!("refreshing apt's lists of packages first");
    run_quietly(apt_get().arg("update"))
        .and_then(|()| install())
        .map_err(|failure| Failure::Install { packages: missing.clone(), reason: failure.to_string() })
}

/// Installs rustfmt and clippy where rustup manages the tools.
///
/// # Errors
/// [`Failure::Install`] where it does not, and they are missing.
pub fn install_rust_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if read(Command::new("cargo").args([subcommand, "--version"])).is_ok() {
            continue;
        }
        println!("missing: {component}; installing it by rustup");
        run(Command::new("rustup").args(["component", "add", component])).map_err(|failure| {
            Failure::Install { packages: vec![component.to_owned()], reason: failure.to_string() }
        })?;
    }
    Ok(())
}

fn missing(purposes: &[Purpose]) -> Vec<String> {
    PACKAGES
        .iter()
        .filter(|(_, needed_for, _)| needed_for.iter().any(|purpose| purposes.contains(purpose)))
        .map(|(package, ..)| (*package).to_owned())
        .filter(|package| !is_installed(package))
        .collect()
}

fn is_installed(package: &str) -> bool {
    read(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    command
}
