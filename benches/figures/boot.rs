//! How long a Debian with systemd and two services takes to boot.

use std::time::Instant;

use serde_json::json;

use crate::dormouse::{Dormouse, call};
use crate::figure::{Figure, Limit, Result, Unit, median, ms};
use crate::host::Bench;
use crate::nspawn;

const IMAGE: &str = "bookworm-systemd";

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "boot", &[IMAGE])?;
    let mut connection = dormouse.connect()?;
    let tree = bench.tree(IMAGE)?;
    let place = bench.directory("nspawn")?;
    let boot = || {
        let spec =
            json!({ "image": IMAGE, "networkNamespace": {"kind": "private"}, "command": ["/sbin/init"] });
        let reply = call(&mut connection, "Container.Create", json!({ "spec": spec }))?;
        let since = Instant::now();
        call(
            &mut connection,
            "Container.Start",
            json!({ "name": reply["id"], "wait": "ready", "timeoutUSec": 60_000_000 }),
        )?;
        let took = ms(since.elapsed());
        call(&mut connection, "Container.Stop", json!({ "name": reply["id"] }))?;
        call(&mut connection, "Container.Remove", json!({ "name": reply["id"] }))?;
        Ok(took)
    };
    let (ours, theirs) = bench.take_turns(10, boot, || nspawn::boot(&tree, &place))?;
    Ok(vec![Figure {
        name: "boot",
        what: "systemd in a container, start to READY".to_owned(),
        against: "systemd-nspawn --boot".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(1.0),
        samples: (ours.len(), theirs.len()),
    }])
}
