//! A Containerfile of ten steps: built from nothing, and again without a change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::dormouse::{BINARY, Dormouse};
use crate::figure::{Figure, Limit, Result, Unit, failed, median, ms};
use crate::host::{Bench, check_interrupt, run};

const IMAGE: &str = "localhost/busybox";
const FILES: u64 = 1_000;
const FILE_BYTES: usize = 10_240;
const TURNS: u32 = 5;
const CONTAINERFILE: &str = "\
FROM localhost/busybox
ENV A=1
RUN echo one > /one
COPY data /data
RUN cp -r /data /copy
WORKDIR /srv
RUN mkdir -p a/b/c && echo two > a/b/c/two
COPY small /srv/small
RUN rm -r /copy/1 && echo three > /three
LABEL a=b
CMD [\"/bin/sh\"]
";

/// Their side: buildah with a storage of its own. Dropped, it takes that along.
struct Buildah {
    place: PathBuf,
}

impl Buildah {
    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--log-level").arg("error").arg("--storage-driver").arg("overlay");
        command.arg("--root").arg(self.place.join("root")).arg("--runroot").arg(self.place.join("run"));
        command
    }

    fn import(&self, archive: &Path) -> Result<()> {
        let container = run(self.command().args(["from", "scratch"]))?.trim().to_owned();
        run(self.command().args(["add", "--quiet", &container]).arg(archive).arg("/"))?;
        run(self.command().args(["commit", "--quiet", &container, IMAGE]))?;
        run(self.command().args(["rm", &container])).map(drop)
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.place.join("root/overlay")));
        if let Err(error) = fs::remove_dir_all(&self.place) {
            eprintln!("figures: cannot remove {}: {error}, ignoring", self.place.display());
        }
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let context = bench.directory("build")?.join("context");
    write_context(&context)?;
    let dormouse = Dormouse::start(bench, "build", &["busybox"])?;
    let buildah = Buildah { place: bench.directory("b")? };
    buildah.import(&bench.image("busybox"))?;
    let ours = |options: &[&str]| {
        let mut command = Command::new(BINARY);
        command.env("DORMOUSE_ADDRESS", dormouse.address());
        command
            .args(["build", "--tag", "built", "--pull=never", "--network", "none"])
            .args(options)
            .arg(&context);
        timed(command)
    };
    let theirs = |options: &[&str]| {
        let mut command = buildah.command();
        command.args(["bud", "--layers", "--tag", "built", "--pull-never", "--network", "none"]);
        command
            .args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"])
            .args(options)
            .arg(&context);
        timed(command)
    };
    let mut samples = [const { Vec::new() }; 4];
    for turn in 0..=bench.times(TURNS) {
        check_interrupt()?;
        let measured = [ours(&["--no-cache"])?, theirs(&["--no-cache"])?, ours(&[])?, theirs(&[])?];
        if turn > 0 {
            samples.iter_mut().zip(measured).for_each(|(samples, one)| samples.push(one));
        }
    }
    let [ours_cold, theirs_cold, ours_warm, theirs_warm] = samples;
    let figure = |name, what: &str, ours: &[f64], theirs: &[f64], limit| Figure {
        name,
        what: what.to_owned(),
        against: "buildah".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(ours),
        theirs: median(theirs),
        limit: Limit::Ratio(limit),
        samples: (ours.len(), theirs.len()),
    };
    Ok(vec![
        figure("build-cold", "a Containerfile of ten steps, built", &ours_cold, &theirs_cold, 0.7),
        figure("build-warm", "the same, built again", &ours_warm, &theirs_warm, 0.2),
    ])
}

/// Milliseconds.
fn timed(mut command: Command) -> Result<f64> {
    let since = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(failed("start a build"))?;
    let took = ms(since.elapsed());
    if !output.status.success() {
        return Err(failed(format!("run {command:?}"))(String::from_utf8_lossy(&output.stderr)));
    }
    Ok(took)
}

fn write_context(context: &Path) -> Result<()> {
    let mut noise = 0x5eed_u64;
    for file in 0..FILES {
        let directory = context.join(format!("data/{}", file % 10));
        fs::create_dir_all(&directory).map_err(failed("make a context"))?;
        let mut content = vec![b'a'; FILE_BYTES];
        for chunk in content[..FILE_BYTES / 2].chunks_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            chunk.copy_from_slice(&noise.to_le_bytes()[..chunk.len()]);
        }
        fs::write(directory.join(file.to_string()), &content).map_err(failed("write a file"))?;
    }
    for (name, text) in [("small", "small\n"), ("Containerfile", CONTAINERFILE)] {
        fs::write(context.join(name), text).map_err(failed("write a file"))?;
    }
    Ok(())
}
