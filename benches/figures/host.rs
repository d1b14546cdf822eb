//! What all measurements share: the place, the images, taking turns, and ending when Ctrl-C comes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

use crate::figure::{Result, failed};

/// Sparse: what is not written takes no place.
const DISK_BYTES: u64 = 16 << 30;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A run of the benchmarks.
#[derive(Debug)]
pub struct Bench {
    images: PathBuf,
    hurry: u32,
    place: tempfile::TempDir,
    disk: PathBuf,
    run_place: tempfile::TempDir,
    mounted: Vec<PathBuf>,
}

impl Bench {
    pub fn prepare(images: &Path, hurry: u32) -> Result<Self> {
        let temporary = |parent: &str| {
            tempfile::Builder::new()
                .prefix("dormouse-")
                .tempdir_in(parent)
                .map_err(failed(format!("make a directory in {parent}")))
        };
        // What is on the disk of a host is on the disk here, and what is in its /run, a tmpfs, is on a tmpfs.
        let (place, run_place) = (temporary("/var/tmp")?, temporary("/dev/shm")?);
        let disk = place.path().join("disk");
        let mut bench =
            Self { images: images.to_owned(), hurry, place, disk, run_place, mounted: Vec::new() };
        bench.mount_disk()?;
        bench.mount_controllers()?;
        Ok(bench)
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.images.join(name).with_extension("tar")
    }

    /// A new directory of this run.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.disk.join(name);
        fs::create_dir_all(&path).map_err(failed(format!("make {}", path.display())))?;
        Ok(path)
    }

    /// A new directory of this run, on a tmpfs as /run is.
    pub fn run_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.run_place.path().join(name);
        fs::create_dir_all(&path).map_err(failed(format!("make {}", path.display())))?;
        Ok(path)
    }

    /// An image's root file system, as a directory.
    pub fn tree(&self, image: &str) -> Result<PathBuf> {
        let tree = self.disk.join(format!("tree-{image}"));
        if !tree.exists() {
            let tree = self.directory(&format!("tree-{image}"))?;
            run(Command::new("tar")
                .arg("--extract")
                .arg("--numeric-owner")
                .arg("--file")
                .arg(self.image(image))
                .arg("--directory")
                .arg(tree))?;
        }
        Ok(tree)
    }

    /// How often something is repeated.
    pub fn times(&self, at_ease: u32) -> u32 {
        (at_ease / self.hurry).max(3)
    }

    /// Measures both in turns, after a warm-up that is thrown away.
    pub fn take_turns(
        &self,
        times: u32,
        mut ours: impl FnMut() -> Result<f64>,
        mut theirs: impl FnMut() -> Result<f64>,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
        for turn in 0..self.times(times) + 2 {
            check_interrupt()?;
            let values = (ours()?, theirs()?);
            if turn >= 2 {
                of_ours.push(values.0);
                of_theirs.push(values.1);
            }
        }
        Ok((of_ours, of_theirs))
    }

    /// The disk is an ext4 as mkfs makes it, in a file, wherever this runs. An ext4 without a journal, as in some virtual
    /// machines, gives no inode out again within a minute, and finds another by trying one after the other: there a side
    /// is the slower the more files both have removed before.
    fn mount_disk(&mut self) -> Result<()> {
        let image = self.place.path().join("disk.ext4");
        let file = File::create(&image).map_err(failed(format!("make {}", image.display())))?;
        file.set_len(DISK_BYTES).map_err(failed(format!("make {} larger", image.display())))?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&image))?;
        fs::create_dir(&self.disk).map_err(failed(format!("make {}", self.disk.display())))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&self.disk))?;
        self.mounted.push(self.disk.clone());
        Ok(())
    }

    /// crun refuses a hybrid hierarchy while the cgroup2 part of it has controllers: they are moved to the other part.
    fn mount_controllers(&mut self) -> Result<()> {
        let hierarchy = Path::new("/sys/fs/cgroup");
        let controllers =
            fs::read_to_string(hierarchy.join("unified/cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            let target = hierarchy.join(controller);
            fs::create_dir_all(&target).map_err(failed(format!("make {}", target.display())))?;
            eprintln!("mounting the cgroup controller {controller}, for crun, until the end");
            run(Command::new("mount").args(["-t", "cgroup", "-o", controller, "cgroup"]).arg(&target))?;
            self.mounted.push(target);
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for target in self.mounted.drain(..) {
            if let Err(failure) = run(Command::new("umount").arg(&target)) {
                eprintln!("figures: {failure}, ignoring");
            }
            let _ = fs::remove_dir(&target);
        }
    }
}

/// From now on Ctrl-C ends the run between two measurements, and everything is removed first.
pub fn watch_for_interrupts() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Programs that we run get an empty mask from the standard library.
    signals.thread_block().expect("the mask is a valid one");
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::SeqCst);
        }
    });
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

pub fn check_interrupt() -> Result<()> {
    if interrupted() { Err(failed("go on")("interrupted")) } else { Ok(()) }
}

/// Runs a program that has nothing to say unless it fails, and gives its output.
pub fn run(command: &mut Command) -> Result<String> {
    let words = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    let output = command.stdin(Stdio::null()).output().map_err(failed(format!("run {words}")))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("run {words}"))(format!("{}: {said}{complaint}", output.status)))
}

/// A number of kibibytes from a file of `/proc/PID`.
pub fn memory_kib(pid: i32, file: &str, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).map_err(failed(format!("read {path}")))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| failed(format!("find {field} in {path}"))("there is no such line"))
}
