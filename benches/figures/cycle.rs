//! How long it takes to create, start, wait for, and remove a container that runs /bin/true.

use std::sync::Mutex;
use std::time::Instant;

use dormouse::varlink::client::Connection;
use serde_json::{Value, json};

use crate::crun::Bundle;
use crate::dormouse::{Dormouse, call};
use crate::figure::{Figure, Limit, Result, Unit, failed, median, ms, percentile};
use crate::host::{Bench, check_interrupt, run};
use crate::podman::Podman;

pub fn against_crun(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "cycle-crun", &["busybox"])?;
    let mut connection = dormouse.connect()?;
    // Its specification is the one that crun gets, and files that it names exist as long as it does.
    let spec =
        json!({ "image": "busybox", "networkNamespace": {"kind": "private"}, "command": ["sleep", "3600"] });
    let model = call(&mut connection, "Container.Run", json!({ "spec": spec }))?;
    let id = model["id"].as_str().unwrap_or_default();
    let config = dormouse.run_directory().join("containers").join(id).join("config.json");
    let (place, state) = (bench.directory("crun")?, bench.run_directory("crun")?);
    let mut bundle = Bundle::from_ours(&config, &bench.tree("busybox")?, &place, &state, &["/bin/true"])?;
    let (ours, theirs) = bench.take_turns(100, || cycle(&mut connection), || bundle.run())?;
    Ok(vec![Figure {
        name: "cycle-crun",
        what: "create, start, wait, remove /bin/true".to_owned(),
        against: "crun run".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(1.0),
        samples: (ours.len(), theirs.len()),
    }])
}

pub fn against_podman(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "cycle-podman", &["busybox"])?;
    let podman = Podman::prepare(bench, "cycle")?;
    podman.import(&bench.image("busybox"), "busybox")?;
    let mut connection = dormouse.connect()?;
    let (ours, theirs) = bench.take_turns(20, || cycle(&mut connection), || podman_cycle(&podman))?;
    Ok(vec![Figure {
        name: "cycle-podman",
        what: "create, start, wait, remove /bin/true".to_owned(),
        against: "podman run --rm".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(0.1),
        samples: (ours.len(), theirs.len()),
    }])
}

/// The same on the default network of each, which both have netavark make.
pub fn on_a_network(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "cycle-network", &["busybox"])?;
    let podman = Podman::prepare(bench, "net")?;
    podman.import(&bench.image("busybox"), "busybox")?;
    let mut connection = dormouse.connect()?;
    let spec = json!({ "image": "busybox", "command": ["/bin/true"] });
    let (ours, theirs) =
        bench.take_turns(20, || cycle_of(&mut connection, &spec), || podman_network_cycle(&podman))?;
    Ok(vec![Figure {
        name: "cycle-network",
        what: "the same, on the default bridge".to_owned(),
        against: "podman run --rm".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(0.5),
        samples: (ours.len(), theirs.len()),
    }])
}

const AT_A_TIME: usize = 32;

pub fn many_at_a_time(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "cycle-32", &["busybox"])?;
    let podman = Podman::prepare(bench, "cycle-32")?;
    podman.import(&bench.image("busybox"), "busybox")?;
    podman_cycle(&podman)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.times(3) {
        ours.extend(crowd(4, || {
            let mut connection = dormouse.connect()?;
            Ok(move || cycle(&mut connection))
        })?);
        theirs.extend(crowd(1, || Ok(|| podman_cycle(&podman)))?);
    }
    Ok(vec![Figure {
        name: "cycle-32",
        what: "the same, 32 at a time, 99th percentile".to_owned(),
        against: "podman run --rm".to_owned(),
        unit: Unit::Milliseconds,
        ours: percentile(&ours, 99),
        theirs: percentile(&theirs, 99),
        limit: Limit::Ratio(0.1),
        samples: (ours.len(), theirs.len()),
    }])
}

/// Does something so many times in each of 32 threads at once, and gives the time that each took.
fn crowd<F: FnMut() -> Result<f64>>(rounds: u32, prepare: impl Fn() -> Result<F> + Sync) -> Result<Vec<f64>> {
    let times = Mutex::new(Vec::new());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let result = prepare().and_then(|mut cycle| {
                    for _ in 0..rounds {
                        check_interrupt()?;
                        let took = cycle()?;
                        times.lock().expect("no thread panics with it").push(took);
                    }
                    Ok(())
                });
                if let Err(error) = result {
                    *failure.lock().expect("no thread panics with it") = Some(error);
                }
            });
        }
    });
    match failure.into_inner().expect("no thread panics with it") {
        Some(failure) => Err(failure),
        None => Ok(times.into_inner().expect("no thread panics with it")),
    }
}

/// One full cycle over a connection, in milliseconds.
fn cycle(connection: &mut Connection) -> Result<f64> {
    let spec =
        json!({ "image": "busybox", "networkNamespace": {"kind": "private"}, "command": ["/bin/true"] });
    cycle_of(connection, &spec)
}

fn cycle_of(connection: &mut Connection, spec: &Value) -> Result<f64> {
    let since = Instant::now();
    let reply = call(connection, "Container.Create", json!({ "spec": spec }))?;
    let name = json!({ "name": reply["id"] });
    call(connection, "Container.Start", name.clone())?;
    let reply = call(connection, "Container.Wait", name.clone())?;
    call(connection, "Container.Remove", name)?;
    let took = ms(since.elapsed());
    if reply["exitCode"] == 0 { Ok(took) } else { Err(failed("run /bin/true in a container")(reply)) }
}

fn podman_network_cycle(podman: &Podman) -> Result<f64> {
    let since = Instant::now();
    run(podman.run_and_remove_on_network().args(["busybox", "/bin/true"]))?;
    Ok(ms(since.elapsed()))
}

fn podman_cycle(podman: &Podman) -> Result<f64> {
    let since = Instant::now();
    run(podman.run_and_remove().args(["busybox", "/bin/true"]))?;
    Ok(ms(since.elapsed()))
}
