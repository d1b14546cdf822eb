//! How much memory stays taken: by what watches over a container, and by a service that has worked.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::dormouse::{Dormouse, call, terminate};
use crate::figure::{Failure, Figure, Limit, Result, Unit, failed, median};
use crate::host::{Bench, check_interrupt, memory_kib};
use crate::podman::Podman;

/// Shared pages are counted in parts: both sides get as many sharers.
const CONTAINERS: usize = 5;
const CALLS: usize = 1000;

pub fn of_monitors(bench: &Bench) -> Result<Vec<Figure>> {
    let mut dormouse = Dormouse::start(bench, "monitors", &["busybox"])?;
    let podman = Podman::prepare(bench, "monitors")?;
    podman.import(&bench.image("busybox"), "busybox")?;
    let (mut our_pids, mut their_pids) = (Vec::new(), Vec::new());
    let mut connection = dormouse.connect()?;
    for _ in 0..CONTAINERS {
        check_interrupt()?;
        let spec = json!({ "image": "busybox", "networkNamespace": {"kind": "private"}, "command": ["sleep", "3600"] });
        let reply = call(&mut connection, "Container.Run", json!({ "spec": spec }))?;
        let reply = call(&mut connection, "Container.Inspect", json!({ "name": reply["id"] }))?;
        let pid = reply["container"]["monitorPid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        our_pids.push(pid.ok_or_else(|| failed("find the monitor")(&reply))?);
        let id = podman.run_detached("busybox", &["sleep", "3600"])?;
        their_pids.push(podman.monitor_of(&id)?);
    }
    drop(connection);
    // The service would share the pages of the program with the monitors, and make them look smaller.
    dormouse.end();
    std::thread::sleep(Duration::from_millis(500));
    let pss = |pids: &[i32]| {
        pids.iter().map(|pid| memory_kib(*pid, "smaps_rollup", "Pss")).collect::<Result<Vec<_>>>()
    };
    let (ours, theirs) = (pss(&our_pids)?, pss(&their_pids)?);
    Ok(vec![Figure {
        name: "monitor-memory",
        what: format!("memory (PSS) of one monitor of {CONTAINERS}"),
        against: "conmon".to_owned(),
        unit: Unit::Kibibytes,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(0.5),
        samples: (ours.len(), theirs.len()),
    }])
}

pub fn of_services(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "service", &["busybox"])?;
    let mut connection = dormouse.connect()?;
    for _ in 0..CONTAINERS {
        let spec = json!({ "image": "busybox", "networkNamespace": {"kind": "private"}, "command": ["sleep", "3600"] });
        call(&mut connection, "Container.Run", json!({ "spec": spec }))?;
    }
    for _ in 0..CALLS {
        call(&mut connection, "Container.List", json!({}))?;
    }
    let ours = memory_kib(dormouse.pid(), "status", "VmRSS")?;

    let podman = Podman::prepare(bench, "service")?;
    podman.import(&bench.image("busybox"), "busybox")?;
    for _ in 0..CONTAINERS {
        podman.run_detached("busybox", &["sleep", "3600"])?;
    }
    let socket = bench.directory("podman-service")?.join("socket");
    let mut service = podman
        .command()
        .args(["system", "service", "--time", "0"])
        .arg(format!("unix://{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed("start podman system service"))?;
    let pid = i32::try_from(service.id()).unwrap_or(0);
    let theirs = ask_podman(&socket).and_then(|()| memory_kib(pid, "status", "VmRSS"));
    terminate(&mut service);
    Ok(vec![Figure {
        name: "serve-memory",
        what: format!("memory (RSS) of the service after {CALLS} lists of {CONTAINERS}"),
        against: "podman system service".to_owned(),
        unit: Unit::Kibibytes,
        ours,
        theirs: theirs?,
        limit: Limit::Ratio(0.3),
        samples: (1, 1),
    }])
}

/// Lists the containers as often as we do, over one connection.
fn ask_podman(socket: &Path) -> Result<()> {
    fn broken(error: std::io::Error) -> Failure {
        failed("talk to podman system service")(error)
    }
    let since = Instant::now();
    while !socket.exists() && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut stream = UnixStream::connect(socket).map_err(broken)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(broken)?;
    for _ in 0..CALLS {
        check_interrupt()?;
        stream
            .write_all(b"GET /v4.0.0/libpod/containers/json?all=true HTTP/1.1\r\nHost: d\r\n\r\n")
            .map_err(broken)?;
        read_reply(&mut stream).map_err(broken)?;
    }
    Ok(())
}

/// Reads one HTTP reply, whose body has a length or comes in chunks.
fn read_reply(stream: &mut UnixStream) -> std::io::Result<()> {
    let mut reply = Vec::new();
    let mut chunk = [0; 16384];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&reply);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200") {
            return Err(std::io::Error::other(head.to_owned()));
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.trim().parse::<usize>().ok());
        let whole = length.map_or_else(|| body.ends_with("0\r\n\r\n"), |length| body.len() >= length);
        if whole {
            return Ok(());
        }
    }
}
