//! Programs of others that make and take images: buildah, podman and skopeo of Debian, with a storage of their own.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Runs a program that must succeed; what it has said, without the last newline.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Whether these programs are installed; says aloud which is not.
pub fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !std::env::split_paths(&path).any(|directory| directory.join(program).exists()))
        .collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {missing:?} are not installed (cargo xtask install-dependencies)");
    }
    missing.is_empty()
}

/// A storage of containers' tools, and a directory for archives.
pub struct Tools {
    dir: TempDir,
}

impl Tools {
    /// `None`, said aloud, where the programs are missing.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: a storage of container images needs root");
            return None;
        }
        have(&["buildah", "podman", "skopeo"])
            .then(|| Self { dir: tempfile::Builder::new().prefix("dormouse-tools-").tempdir().unwrap() })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn storage(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--root").arg(self.path("root")).arg("--runroot").arg(self.path("run"));
        command.args(["--storage-driver", "overlay"]);
        command
    }

    pub fn buildah(&self, arguments: &[&str]) -> String {
        run(self.storage("buildah").args(arguments))
    }

    pub fn podman(&self, arguments: &[&str]) -> String {
        run(self.storage("podman").args(arguments))
    }

    /// As skopeo names an image of the storage.
    pub fn stored(&self, name: &str) -> String {
        format!(
            "containers-storage:[overlay@{}+{}]{name}",
            self.path("root").display(),
            self.path("run").display()
        )
    }

    pub fn skopeo_copy(&self, options: &[&str], from: &str, to: &str) {
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(options)
            .args([from, to]));
    }

    /// The id (with its algorithm) of an image in the storage.
    pub fn id(&self, name: &str) -> String {
        format!("sha256:{}", self.podman(&["inspect", "--type", "image", "--format", "{{.Id}}", name]))
    }

    /// Has an image made: each step changes the tree and becomes a layer.
    pub fn build(&self, name: &str, steps: &[&dyn Fn(&Path)]) -> String {
        let mut from = "scratch".to_owned();
        for step in steps {
            let container = self.buildah(&["from", &from]);
            let tree = self.buildah(&["mount", &container]);
            step(Path::new(&tree));
            self.buildah(&["umount", &container]);
            self.buildah(&[
                "config",
                "--cmd",
                "[\"cat\", \"/etc/motd\"]",
                "--env",
                "GREETING=hello",
                "--label",
                "made=here",
                &container,
            ]);
            self.buildah(&["commit", "--quiet", "--rm", &container, name]);
            from = name.to_owned();
        }
        self.id(name)
    }

    /// An image of three layers, with one of nearly everything that a layer can have.
    pub fn build_rich(&self, name: &str) -> String {
        self.build(name, &[&base, &second, &third])
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = self.storage("podman").args(["rmi", "--all", "--force"]).output();
        // The storage is bound onto itself.
        let _ = Command::new("umount").arg(self.path("root/overlay")).output();
    }
}

fn base(root: &Path) {
    for directory in ["bin", "etc", "d/old", "hidden", "emptied"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "ls", "sleep", "touch", "rm", "mkdir", "ln", "echo"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/motd"), "first\n").unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    fs::write(root.join("removed"), "x").unwrap();
    fs::write(root.join("d/old/file"), "old").unwrap();
    fs::write(root.join("emptied/file"), "old").unwrap();
    fs::write(root.join("hidden/file"), "old").unwrap();
    fs::write(root.join("first-name"), "linked").unwrap();
    fs::hard_link(root.join("first-name"), root.join("second-name")).unwrap();
    fs::write(root.join("capable"), "x").unwrap();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(
        root.join("capable"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fs::write(root.join("setuid"), "x").unwrap();
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::write(root.join("owned"), "x").unwrap();
    std::os::unix::fs::chown(root.join("owned"), Some(1234), Some(70_000)).unwrap();
    run(Command::new("mknod").arg(root.join("fifo")).arg("p"));
    run(Command::new("touch").args(["-h", "-d", "2001-02-03T04:05:06.789Z"]).arg(root.join("bin/sh")));
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("name with ä and \n"), "x").unwrap();
    let long = root.join("a-long-name-of-a-directory/".repeat(12));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(200)), "deep").unwrap();
}

fn second(root: &Path) {
    fs::write(root.join("etc/motd"), "second\n").unwrap();
    fs::remove_file(root.join("removed")).unwrap();
    fs::remove_dir_all(root.join("hidden")).unwrap();
    fs::create_dir(root.join("hidden")).unwrap();
    fs::write(root.join("hidden/new"), "new").unwrap();
    fs::remove_file(root.join("emptied/file")).unwrap();
    // A directory becomes a file, and a file a directory.
    fs::remove_dir_all(root.join("d/old")).unwrap();
    fs::write(root.join("d/old"), "now a file").unwrap();
    fs::remove_file(root.join("owned")).unwrap();
    fs::create_dir(root.join("owned")).unwrap();
}

fn third(root: &Path) {
    fs::write(root.join("third"), "third\n".repeat(1000)).unwrap();
    fs::hard_link(root.join("third"), root.join("third-again")).unwrap();
}
