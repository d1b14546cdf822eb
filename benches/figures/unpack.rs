//! How long a layer takes from the archive to the storage. The disk is synced before each turn: what one has left unwritten
//! must not be written in the other's time.

use std::path::Path;
use std::time::Instant;

use dormouse::varlink::client::Connection;
use serde_json::json;

use crate::dormouse::{Dormouse, call};
use crate::figure::{Figure, Limit, Result, Unit, median, ms};
use crate::host::{Bench, run};
use crate::podman::Podman;

const IMAGE: &str = "bookworm-systemd";

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "unpack", &[])?;
    let podman = Podman::prepare(bench, "unpack")?;
    // The same layer, uncompressed, in the archive format that `podman load` takes.
    let archive = bench.directory("unpack")?.join("archive.tar");
    podman.import(&bench.image(IMAGE), IMAGE)?;
    run(podman
        .command()
        .args(["save", "--quiet", "--format", "docker-archive", "--output"])
        .arg(&archive)
        .arg(IMAGE))?;
    run(podman.command().args(["rmi", "--force", IMAGE]))?;
    let mut connection = dormouse.connect()?;
    let (ours, theirs) = bench.take_turns(
        5,
        || import(&dormouse, &mut connection, &bench.image(IMAGE)),
        || load(&podman, &archive),
    )?;
    let _ = std::fs::remove_file(&archive);
    Ok(vec![Figure {
        name: "unpack",
        what: "unpacking a layer (Debian with systemd)".to_owned(),
        against: "podman load".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(1.0),
        samples: (ours.len(), theirs.len()),
    }])
}

fn import(dormouse: &Dormouse, connection: &mut Connection, archive: &Path) -> Result<f64> {
    nix::unistd::sync();
    let since = Instant::now();
    dormouse.import(connection, IMAGE, archive)?;
    let took = ms(since.elapsed());
    call(connection, "Image.Remove", json!({ "name": IMAGE }))?;
    Ok(took)
}

fn load(podman: &Podman, archive: &Path) -> Result<f64> {
    nix::unistd::sync();
    let since = Instant::now();
    run(podman.command().args(["load", "--quiet", "--input"]).arg(archive))?;
    let took = ms(since.elapsed());
    run(podman.command().args(["rmi", "--force", "--all"]))?;
    Ok(took)
}
