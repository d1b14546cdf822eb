//! qemu: whether it can use KVM here, a guest with a shell, and a guest that runs checks.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::program::{Failure, Result, on_file, run};
use crate::undo;

use super::root::Root;

const QEMU: &str = "qemu-system-x86_64";
/// The last line of a guest that has run all its checks.
const LAST_LINE: &str = "done";
/// A kernel under KVM says its first word within a fraction of this; where nested virtualization is broken, never.
const PROBE: Duration = Duration::from_secs(6);
/// The first word of a guest has to come within this.
const BOOT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A kernel that panics within this of its start has run nothing of ours: systemd comes later under TCG, the checks much later.
const EARLY: Duration = Duration::from_secs(8);
/// So many early panics are the emulator's. TCG with two processors now and then lets one of them run an instruction that the
/// other has just patched (`Oops: int3` while static keys are set); such a guest boots again by itself (`panic=1`).
const EARLY_PANICS: usize = 3;
/// How many lines of its console are told of a guest that died.
const LAST_WORDS: usize = 40;

/// How the guest's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// In software, some ten times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG, for KVM does not work here",
        })
    }
}

/// Tries whether a kernel speaks under KVM; that /dev/kvm can be opened says little.
pub fn accelerator(root: &Root) -> Accelerator {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Accelerator::Tcg;
    }
    let mut command = machine(Accelerator::Kvm);
    command.args([
        "-m",
        "256",
        "-no-reboot",
        "-append",
        "console=ttyS0 panic=-1",
        "-serial",
        "stdio",
        "-kernel",
    ]);
    command.arg(&root.kernel).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return Accelerator::Tcg };
    let Some(output) = child.stdout.take() else { return Accelerator::Tcg };
    let _child = Owned::new(child);
    let lines = lines_of(output);
    let deadline = Instant::now() + PROBE;
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.contains("Linux version") {
            return Accelerator::Kvm;
        }
    }
    Accelerator::Tcg
}

/// How the run of a guest has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It has said that it is done.
    Done,
    /// It has gone before.
    Died,
    /// It was ended after this time.
    Late(Duration),
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(out, "it has run its checks"),
            Self::Died => write!(out, "it has gone before its checks were done"),
            Self::Late(after) => write!(out, "it was not done after {} s", after.as_secs()),
        }
    }
}

/// A guest that runs the checks. It is ended when this is dropped.
#[derive(Debug)]
pub struct Guest {
    child: Owned,
    lines: Receiver<String>,
    console: PathBuf,
    accelerator: Accelerator,
    limit: Duration,
    deadline: Instant,
}

impl Guest {
    /// Boots it. What it says of its checks comes over a port of its own, everything else goes to a file.
    pub fn boot(root: &Root, payload: &Path, accelerator: Accelerator, limit: Duration) -> Result<Self> {
        let dir = super::directory();
        let console = dir.join("console.log");
        let _ = fs::remove_file(&console);
        let mut command = machine(accelerator);
        with_disks(&mut command, root, payload, "dormouse.checks");
        command
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-chardev", "file,id=results,path=/dev/stdout"])
            .args(["-device", "virtserialport,chardev=results,name=dormouse.results"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child =
            command.spawn().map_err(|source| Failure::NotRun { command: QEMU.to_owned(), source })?;
        let output = child.stdout.take().expect("it was asked for");
        let lines = lines_of(output);
        let child = Owned::new(child);
        let same = child.clone();
        undo::later(move || same.end());
        Ok(Self { child, lines, console, accelerator, limit, deadline: Instant::now() + limit })
    }

    /// Boots it with its console here, until it powers off.
    pub fn interactive(root: &Root, payload: &Path) -> Result<()> {
        let mut command = machine(accelerator(root));
        with_disks(&mut command, root, payload, "");
        command.args(["-serial", "mon:stdio"]);
        run(&mut command)
    }

    /// Gives every line that the guest says of its checks, until it is done.
    pub fn follow(&mut self, mut each: impl FnMut(&str)) -> End {
        let since = Instant::now();
        let mut silent = true;
        let mut forgiven = 0;
        loop {
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) if line == LAST_LINE => return End::Done,
                Ok(line) => {
                    silent = false;
                    each(&line);
                }
                Err(RecvTimeoutError::Disconnected) => return End::Died,
                Err(RecvTimeoutError::Timeout) if silent && since.elapsed() > BOOT => return End::Late(BOOT),
                Err(RecvTimeoutError::Timeout) => {
                    let panics = self.panics();
                    if panics.iter().any(|after| !self.forgives(*after)) || panics.len() > EARLY_PANICS {
                        return End::Died;
                    }
                    for after in panics.iter().skip(forgiven) {
                        each(&format!(
                            "| its kernel panicked {:.1} s after its start, before anything was run; it boots again",
                            after.as_secs_f64()
                        ));
                    }
                    forgiven = panics.len();
                }
            }
            if Instant::now() > self.deadline {
                return End::Late(self.limit);
            }
        }
    }

    /// When after its start the kernel has panicked, each time that it has.
    fn panics(&self) -> Vec<Duration> {
        let console = fs::read(&self.console).unwrap_or_default();
        panics_in(&String::from_utf8_lossy(&console))
    }

    fn forgives(&self, after: Duration) -> bool {
        self.accelerator == Accelerator::Tcg && after < EARLY
    }

    /// What it said last on its console.
    pub fn last_words(&mut self) -> Vec<String> {
        self.child.end();
        let bytes = fs::read(&self.console).map_err(on_file("read", &self.console)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> =
            text.lines().map(|line| line.replace(|c: char| c.is_control(), "")).collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].to_vec()
    }

    pub fn console(&self) -> &Path {
        &self.console
    }
}

/// A child that is killed and reaped, by whoever comes first.
#[derive(Debug, Clone)]
struct Owned(Arc<Mutex<Option<Child>>>);

impl Owned {
    fn new(child: Child) -> Self {
        Self(Arc::new(Mutex::new(Some(child))))
    }

    fn end(&self) {
        if let Some(mut child) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.end();
    }
}

/// The times of the lines `[    1.127342] Kernel panic - not syncing: …`; one whose time can't be read counts as late.
fn panics_in(console: &str) -> Vec<Duration> {
    console
        .lines()
        .filter(|line| !line.contains("---[ end"))
        .filter_map(|line| line.split_once("Kernel panic"))
        .map(|(before, _)| {
            let stamp = before.rsplit_once('[').and_then(|(_, stamp)| stamp.split_once(']'));
            let seconds = stamp.and_then(|(seconds, _)| seconds.trim().parse().ok());
            seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::MAX)
        })
        .collect()
}

fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while output.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    lines
}

fn machine(accelerator: Accelerator) -> Command {
    let mut command = Command::new(QEMU);
    match accelerator {
        Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host,-arch-capabilities"]),
        Accelerator::Tcg => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
    };
    command.args(["-M", "q35", "-nodefaults", "-display", "none"]);
    command
}

/// The root is on NVMe because Debian's cloud kernel has that built in, so that no initramfs is needed. The other disk is of
/// another kind: the kernel promises no order among those of one kind.
fn with_disks(command: &mut Command, root: &Root, payload: &Path, extra: &str) {
    // On a busy machine the kernel's check of its timer takes a late tick for a broken one.
    let cmdline = format!(
        "no_timer_check console=ttyS0 root=/dev/nvme0n1 rw init=/usr/lib/systemd/systemd net.ifnames=0 systemd.show_status=false \
         quiet panic=1 {extra}"
    );
    command.arg("-kernel").arg(&root.kernel).args(["-append", cmdline.trim()]);
    command.args(["-smp", "2", "-m", "2048"]);
    for (id, disk, device) in [
        ("root", &*root.image, "nvme,drive=root,serial=root"),
        ("checks", payload, "virtio-blk-pci,drive=checks"),
    ] {
        command
            .arg("-drive")
            .arg(format!("file={},format=raw,if=none,id={id},snapshot=on,cache=unsafe", disk.display()))
            .args(["-device", device]);
    }
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    // What a guest writes goes to files without a name there.
    command.env("TMPDIR", super::directory());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_told_by_the_time_of_the_kernel() {
        let console = "[    1.127327] PKRU: 55555554\n\
                       [    1.127425] Kernel panic - not syncing: Fatal exception in interrupt\r\n\
                       [    2.594907] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---\n\
                       vmhost login: [  310.000001] Kernel panic - not syncing: sysrq\n\
                       torn Kernel panic\n";
        let panics = panics_in(console);
        assert_eq!(
            panics,
            [Duration::from_secs_f64(1.127_425), Duration::from_secs_f64(310.000_001), Duration::MAX]
        );
    }
}
