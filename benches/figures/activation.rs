//! How long a first call takes that has to wake the service.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::dormouse::{BINARY, terminate};
use crate::figure::{Failure, Figure, Limit, Result, Unit, failed, median, ms};
use crate::host::Bench;
use crate::podman::Podman;

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let place = bench.directory("activation")?;
    let podman = Podman::prepare(bench, "activation")?;
    let directory = |name: &str| place.join(name).display().to_string();
    let serve = [BINARY, "serve", "--state-dir", &directory("state"), "--run-dir", &directory("run")]
        .map(str::to_owned);
    let mut service = podman.words();
    service.extend(["system", "service", "--time", "0"].map(str::to_owned));
    let get_info = b"{\"method\":\"org.varlink.service.GetInfo\",\"parameters\":{}}\0";
    let ping = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n";
    let (ours, theirs) = bench.take_turns(
        20,
        || first_reply(&place.join("ours"), &serve, get_info, b"io.dormouse.Container"),
        || first_reply(&place.join("theirs"), &service, ping, b"200 OK"),
    )?;
    Ok(vec![Figure {
        name: "activation",
        what: "first reply through a cold activated socket".to_owned(),
        against: "podman system service, ping".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&ours),
        theirs: median(&theirs),
        limit: Limit::Ratio(0.15),
        samples: (ours.len(), theirs.len()),
    }])
}

/// The time from connecting to a socket that systemd-socket-activate holds until the reply to the first call is there.
fn first_reply(socket: &Path, service: &[String], request: &[u8], expected: &[u8]) -> Result<f64> {
    let _ = std::fs::remove_file(socket);
    let mut child = Command::new("systemd-socket-activate")
        .arg("--listen")
        .arg(socket)
        .arg("--fdname=varlink")
        .args(service)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed("start systemd-socket-activate"))?;
    let since = Instant::now();
    while !socket.exists() && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Between bind and listen, and until it waits.
    std::thread::sleep(Duration::from_millis(100));
    let result = reply_time(socket, request, expected);
    terminate(&mut child);
    result
}

fn reply_time(socket: &Path, request: &[u8], expected: &[u8]) -> Result<f64> {
    fn broken(error: std::io::Error) -> Failure {
        failed("talk to the activated service")(error)
    }
    let since = Instant::now();
    let mut stream = UnixStream::connect(socket).map_err(broken)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(broken)?;
    stream.write_all(request).map_err(broken)?;
    let mut reply = Vec::new();
    let mut chunk = [0; 4096];
    while !reply.windows(expected.len()).any(|window| window == expected) {
        let count = stream.read(&mut chunk).map_err(broken)?;
        if count == 0 {
            return Err(failed("talk to the activated service")(String::from_utf8_lossy(&reply)));
        }
        reply.extend_from_slice(&chunk[..count]);
    }
    Ok(ms(since.elapsed()))
}
