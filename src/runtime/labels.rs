//! Labels of security modules that a program gets as it is executed: AppArmor's profile, SELinux's context.

use std::cell::OnceCell;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::process::Failure;
use super::{RuntimeError, SpecError, Step, mounts, report, spec};

/// What is written where, once it is known where.
#[derive(Debug, Default)]
pub(super) struct Labels {
    wanted: Vec<Label>,
}

#[derive(Debug)]
struct Label {
    what: String,
    text: String,
    /// Below a process's directory in /proc; the first that exists counts.
    files: &'static [&'static str],
    opened: OnceCell<OwnedFd>,
}

impl Labels {
    pub fn new(process: &Process) -> Result<Self, RuntimeError> {
        let mut wanted = Vec::new();
        if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
            if !has_apparmor() {
                let field = "process.apparmorProfile on a host without AppArmor";
                return Err(SpecError::Unsupported { field }.into());
            }
            wanted.push(Label {
                what: format!("have the AppArmor profile {profile:?}"),
                text: format!("exec {profile}"),
                files: &["self/attr/apparmor/exec", "self/attr/exec"],
                opened: OnceCell::new(),
            });
        }
        if let Some(context) = process.selinux_label().as_deref().filter(|context| !context.is_empty()) {
            if !spec::has_selinux() {
                let field = "process.selinuxLabel on a host without SELinux";
                return Err(SpecError::Unsupported { field }.into());
            }
            wanted.push(Label {
                what: format!("have the SELinux label {context:?}"),
                text: context.to_owned(),
                files: &["self/attr/exec"],
                opened: OnceCell::new(),
            });
        }
        Ok(Self { wanted })
    }

    /// Opens their files in a procfs of our own: what is mounted on /proc may be anybody's (CVE-2019-16884).
    pub fn open(&self) -> Result<(), Failure> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let proc =
            mounts::own_proc().map_err(|errno| (Step::Credentials, "mount a procfs".to_owned(), errno))?;
        for label in &self.wanted {
            let open = |file: &&str| {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
                rustix::fs::openat2(&proc, *file, flags, Mode::empty(), resolve).ok()
            };
            let file = label
                .files
                .iter()
                .find_map(open)
                .ok_or_else(|| (Step::Credentials, label.what.clone(), Errno::NOENT))?;
            let file = report::out_of_the_way(file.as_fd())
                .map_err(|errno| (Step::Credentials, label.what.clone(), errno))?;
            // Set once only: this is called once for each process.
            let _ = label.opened.set(file);
        }
        Ok(())
    }

    /// The descriptors that must stay open until then.
    pub fn descriptors(&self) -> Vec<i32> {
        self.wanted.iter().filter_map(|label| Some(label.opened.get()?.as_raw_fd())).collect()
    }

    /// From now on the next exec brings them.
    pub fn write(&self) -> Result<(), Failure> {
        for label in &self.wanted {
            let failed = |errno| (Step::Credentials, label.what.clone(), errno);
            let file = label.opened.get().ok_or_else(|| failed(Errno::BADF))?;
            rustix::io::write(file, label.text.as_bytes()).map_err(failed)?;
        }
        Ok(())
    }
}

/// Whether AppArmor is in force on this host.
fn has_apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|enabled| enabled.starts_with('Y')) && Path::new("/proc/self/attr").exists()
}
