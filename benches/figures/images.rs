//! Images of many small files: how long they take in and out, and how much memory at most.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dormouse::varlink::client::Connection;
use serde_json::json;

use crate::dormouse::{Dormouse, call};
use crate::figure::{Figure, Limit, Result, Unit, failed, median, ms};
use crate::host::{Bench, memory_kib, run};
use crate::podman::Podman;

const LAYERS: u64 = 3;
const FILES: u64 = 10_000;
const FILE_BYTES: usize = 10_240;
const IMAGE: &str = "localhost/many-files:latest";
const TURNS: u32 = 3;

/// Times and peaks of one thing, done by both.
#[derive(Default)]
struct Samples {
    ours: Vec<f64>,
    theirs: Vec<f64>,
    our_peaks: Vec<f64>,
    their_peaks: Vec<f64>,
}

struct Sides<'a> {
    bench: &'a Bench,
    dormouse: Dormouse,
    podman: Podman,
}

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let place = bench.directory("images")?;
    let registry = Registry::start(&place)?;
    let configuration = place.join("registries.conf");
    let insecure = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.address);
    fs::write(&configuration, insecure).map_err(failed("write registries.conf"))?;
    let archive = place.join("archive.tar");
    write_archive(bench, &place, &archive)?;
    let remote = format!("{}/many-files:latest", registry.address);
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{remote}")))?;

    let dormouse = Dormouse::start_with(bench, "images", &[("CONTAINERS_REGISTRIES_CONF", &configuration)])?;
    let podman = Podman::prepare(bench, "images")?;
    let sides = Sides { bench, dormouse, podman };
    let mut figures = Vec::new();

    let text = archive.display().to_string();
    let load = sides.compare(
        |sides| sides.ours("Image.Load", json!({ "path": text })),
        |sides| sides.theirs(&["load", "--quiet", "--input", &text]),
        Sides::forget,
    )?;
    figures.extend(load.figures("image-load", "loading"));

    let name = remote.clone();
    let pull = sides.compare(
        |sides| sides.ours("Image.Pull", json!({ "name": name })),
        |sides| sides.theirs(&["pull", "--quiet", "--tls-verify=false", &name]),
        Sides::forget,
    )?;
    figures.extend(pull.figures("image-pull", "pulling from loopback"));

    sides.ours("Image.Load", json!({ "path": text }))?;
    sides.theirs(&["load", "--quiet", "--input", &text])?;
    let saved = place.join("saved.tar");
    let path = saved.display().to_string();
    let save = sides.compare(
        |sides| sides.ours("Image.Save", json!({ "names": [IMAGE], "path": path })),
        |sides| sides.theirs(&["save", "--quiet", "--output", &path, IMAGE]),
        |_, _| fs::remove_file(&saved).map_err(failed("remove the archive")),
    )?;
    figures.extend(save.figures("image-save", "saving"));

    // A container that has changed a third of the image.
    let command = ["/bin/busybox", "cp", "-r", "/data-0", "/copy"];
    let spec = json!({ "image": IMAGE, "name": "changed", "command": command });
    call(&mut sides.dormouse.connect()?, "Container.Run", json!({ "spec": spec, "wait": "exited" }))?;
    let mut theirs = sides.podman.command();
    theirs.args(["run", "--name", "changed"]).args(crate::podman::RUN_OPTIONS).arg(IMAGE).args(command);
    run(&mut theirs)?;
    let commit = sides.compare(
        |sides| sides.ours("Container.Commit", json!({ "name": "changed", "image": "committed" })),
        |sides| sides.theirs(&["commit", "--quiet", "changed", "localhost/committed"]),
        |sides, side| match side {
            Side::Ours => {
                let name = json!({ "name": "committed" });
                call(&mut sides.dormouse.connect()?, "Image.Remove", name).map(drop)
            }
            Side::Theirs => run(sides.podman.command().args(["rmi", "localhost/committed"])).map(drop),
        },
    )?;
    figures.extend(commit.figures("image-commit", "committing 100 MB of it"));
    run(sides.podman.command().args(["rm", "--force", "changed"]))?;
    Ok(figures)
}

impl Sides<'_> {
    /// Both in turns, the first of which is thrown away; `clean` undoes what one of them has made.
    fn compare(
        &self,
        ours: impl Fn(&Self) -> Result<(f64, f64)>,
        theirs: impl Fn(&Self) -> Result<(f64, f64)>,
        clean: impl Fn(&Self, Side) -> Result<()>,
    ) -> Result<Samples> {
        let mut samples = Samples::default();
        for turn in 0..=self.bench.times(TURNS) {
            crate::host::check_interrupt()?;
            // What one has left unwritten must not be written in the other's time.
            nix::unistd::sync();
            let our = ours(self)?;
            clean(self, Side::Ours)?;
            nix::unistd::sync();
            let their = theirs(self)?;
            clean(self, Side::Theirs)?;
            if turn > 0 {
                samples.ours.push(our.0);
                samples.our_peaks.push(our.1);
                samples.theirs.push(their.0);
                samples.their_peaks.push(their.1);
            }
        }
        Ok(samples)
    }

    /// Calls a method; milliseconds, and the service's peak in KiB.
    fn ours(&self, method: &str, parameters: serde_json::Value) -> Result<(f64, f64)> {
        let mut connection: Connection = self.dormouse.connect()?;
        let pid = self.dormouse.pid();
        // 5: the peak begins anew (proc_pid_clear_refs(5)).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").map_err(failed("reset the peak of memory"))?;
        let since = Instant::now();
        call(&mut connection, method, parameters)?;
        let took = ms(since.elapsed());
        Ok((took, memory_kib(pid, "status", "VmHWM")?))
    }

    /// Runs podman; milliseconds, and its peak in KiB.
    fn theirs(&self, words: &[&str]) -> Result<(f64, f64)> {
        let since = Instant::now();
        let mut command = self.podman.command();
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(failed("start podman"))?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let over = AtomicBool::new(false);
        let (status, peak) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut peak = 0.0_f64;
                while !over.load(Ordering::Relaxed) {
                    // Gone, at the end.
                    peak = peak.max(memory_kib(pid, "status", "VmHWM").unwrap_or(0.0));
                    std::thread::sleep(Duration::from_millis(5));
                }
                peak
            });
            let status = child.wait();
            over.store(true, Ordering::Relaxed);
            (status, sampler.join().unwrap_or(0.0))
        });
        let took = ms(since.elapsed());
        if !status.is_ok_and(|status| status.success()) {
            return Err(failed(format!("run podman {words:?}"))("it failed"));
        }
        Ok((took, peak))
    }

    /// Removes all images of one side.
    fn forget(&self, side: Side) -> Result<()> {
        match side {
            Side::Ours => {
                call(&mut self.dormouse.connect()?, "Image.Prune", json!({ "all": true })).map(drop)
            }
            Side::Theirs => run(self.podman.command().args(["rmi", "--force", "--all"])).map(drop),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

impl Samples {
    fn figures(self, name: &'static str, what: &str) -> [Figure; 2] {
        let samples = (self.ours.len(), self.theirs.len());
        let figure = |what: String, unit, ours: &[f64], theirs: &[f64]| Figure {
            name,
            what,
            against: "podman".to_owned(),
            unit,
            ours: median(ours),
            theirs: median(theirs),
            limit: Limit::Ratio(1.0),
            samples,
        };
        [
            figure(
                format!("{what} an image of 30,000 files, 300 MB"),
                Unit::Milliseconds,
                &self.ours,
                &self.theirs,
            ),
            figure(format!("{what} it: peak of memory"), Unit::Kibibytes, &self.our_peaks, &self.their_peaks),
        ]
    }
}

/// A docker-archive: layers of many files, half of each file noise, and busybox.
fn write_archive(bench: &Bench, place: &Path, archive: &Path) -> Result<()> {
    let tree = place.join("tree");
    let mut noise = 0x5eed_u64;
    let mut layers = Vec::new();
    for layer in 0..LAYERS {
        let root = tree.join(layer.to_string());
        if layer == 0 {
            let busybox = bench.tree("busybox")?;
            fs::create_dir_all(&root).map_err(failed("make a tree"))?;
            run(Command::new("cp").arg("-a").arg(busybox.join("bin")).arg(&root))?;
        }
        for file in 0..FILES {
            let directory = root.join(format!("data-{layer}/{:03}", file / 100));
            if file % 100 == 0 {
                fs::create_dir_all(&directory).map_err(failed("make a tree"))?;
            }
            let mut content = vec![b'a'; FILE_BYTES];
            for chunk in content[..FILE_BYTES / 2].chunks_mut(8) {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                chunk.copy_from_slice(&noise.to_le_bytes()[..chunk.len()]);
            }
            fs::write(directory.join(format!("{file}")), &content).map_err(failed("write a file"))?;
        }
        let tar = place.join(format!("{layer}.tar"));
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."))?;
        let sum = run(Command::new("sha256sum").arg(&tar))?;
        layers.push((tar, sum.split(' ').next().unwrap_or_default().to_owned()));
    }
    let diff_ids: Vec<String> = layers.iter().map(|(_, sum)| format!("sha256:{sum}")).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<String> = (0..LAYERS).map(|layer| format!("{layer}.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": names }]);
    for (name, content) in [("config.json", config.to_string()), ("manifest.json", manifest.to_string())] {
        let mut file = BufWriter::new(File::create(place.join(name)).map_err(failed("write a file"))?);
        file.write_all(content.as_bytes()).map_err(failed("write a file"))?;
    }
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(place).arg("-cf").arg(archive).args(["manifest.json", "config.json"]).args(&names);
    run(&mut tar)?;
    for (path, _) in layers {
        let _ = fs::remove_file(path);
    }
    fs::remove_dir_all(&tree).map_err(failed("remove the tree"))
}

/// Debian's docker-registry.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(place: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("find a port"))?;
        let address = listener.local_addr().map_err(failed("find a port"))?.to_string();
        drop(listener);
        let config: PathBuf = place.join("registry.yml");
        let data = place.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            data.display()
        );
        fs::write(&config, text).map_err(failed("configure the registry"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("start docker-registry"))?;
        let registry = Self { child, address };
        let since = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            if since.elapsed() > Duration::from_secs(10) {
                return Err(failed("start docker-registry")("it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
