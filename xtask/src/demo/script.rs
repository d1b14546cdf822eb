//! What the demonstration does, step by step; each step says what it shows, and fails where that is not so.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::activation::{Activation, IDLE_TIMEOUT};
use crate::program::{Failure, Result, on_file};
use crate::varlink::Client;

const TIMEOUT: Duration = Duration::from_secs(180);

pub fn heading(text: &str) {
    println!("\n{text}");
}

fn tell(text: impl AsRef<str>) {
    println!("  {}", text.as_ref());
}

/// Says what is so, or fails.
fn check(holds: bool, claim: impl Into<String>, found: impl std::fmt::Debug) -> Result<()> {
    let claim = claim.into();
    if holds {
        tell(claim);
        return Ok(());
    }
    Err(Failure::NotSo { claim, found: format!("{found:?}") })
}

pub fn play(activation: &Activation, machine_tar: &Path, small_tar: &Path) -> Result<()> {
    let connect = || Client::connect(activation.socket(), TIMEOUT);

    heading("Activation: the socket is there, the service is not");
    tell(format!("{} holds {}", activation.holder(), activation.socket().display()));
    check(activation.processes("serve").is_empty(), "no service runs", activation.processes("serve"))?;
    let since = Instant::now();
    let mut client = connect()?;
    let info = client.call("org.varlink.service.GetInfo", json!({}))?;
    check(
        strings(&info["interfaces"]).contains(&"io.dormouse.Container"),
        format!(
            "a call woke it; after {} it answers as {} {}",
            ms(since),
            text(&info["product"]),
            text(&info["version"])
        ),
        &info,
    )?;
    let awake = activation.processes("serve");
    check(awake.len() == 1, format!("it runs as process {}", list(&awake)), &awake)?;

    heading("Images: two root file systems, each as a tar stream in a descriptor");
    import(&mut client, "machine", machine_tar)?;
    import(&mut client, "small", small_tar)?;
    let images = client.call("io.dormouse.Image.List", json!({}))?;
    let count = array(&images["images"]).len();
    check(count == 2, "the service lists two images", &images)?;

    heading("Boot: systemd as the first process of a container");
    let since = Instant::now();
    let spec = json!({ "image": "machine", "networkNamespace": {"kind": "private"}, "name": "machine", "command": ["/sbin/init"] });
    let run = json!({ "spec": spec, "wait": "ready", "timeoutUSec": 120_000_000 });
    client.call("io.dormouse.Container.Run", run)?;
    tell(format!("the systemd inside has reported READY=1, {} after the call", ms(since)));
    let machine = summary(&mut client, "machine")?;
    let is_up = machine["state"] == "running" && machine["ready"] == true && machine["systemd"] == true;
    check(is_up, "the service lists it as running, ready, with a systemd inside", &machine)?;

    units(&mut client)?;

    heading("A second container, with a single process");
    let spec = json!({ "image": "small", "networkNamespace": {"kind": "private"}, "name": "second", "command": ["sleep", "3600"] });
    client.call("io.dormouse.Container.Run", json!({ "spec": spec }))?;
    let second = summary(&mut client, "second")?;
    check(
        second["state"] == "running",
        format!("it runs as process {} of the host", second["pid"]),
        &second,
    )?;

    stop(&mut client)?;

    heading("Sleep: the service goes, the container stays");
    drop(client);
    let took = activation.wait_until_asleep(IDLE_TIMEOUT + Duration::from_secs(15))?;
    tell(format!(
        "the service has exited by itself, {:.1} s after the last connection was closed",
        took.as_secs_f64()
    ));
    let monitors = activation.processes("monitor");
    check(monitors.len() == 1, format!("one monitor is left, process {}", list(&monitors)), &monitors)?;
    let alive = Path::new("/proc").join(second["pid"].to_string()).exists();
    check(alive, format!("process {} of the second container runs on", second["pid"]), &second["pid"])?;

    heading("Wake: the next call finds it as it was");
    let mut client = connect()?;
    let again = summary(&mut client, "second")?;
    let same = ["id", "pid", "state", "startedUSec"].iter().all(|field| again[field] == second[field]);
    check(same, "a new service sees the second container, running, with the same process", &again)?;
    let awake_now = activation.processes("serve");
    check(
        awake_now.len() == 1 && awake_now != awake,
        format!("it is another process, {}", list(&awake_now)),
        &awake_now,
    )?;

    heading("The end: nothing is left");
    client.call("io.dormouse.Container.Remove", json!({ "name": "second", "force": true }))?;
    for image in ["machine", "small"] {
        client.call("io.dormouse.Image.Remove", json!({ "name": image }))?;
    }
    let containers = client.call("io.dormouse.Container.List", json!({}))?;
    let images = client.call("io.dormouse.Image.List", json!({}))?;
    let empty = array(&containers["containers"]).is_empty() && array(&images["images"]).is_empty();
    check(empty, "containers and images are removed", (&containers, &images))?;
    drop(client);
    activation.wait_until_asleep(IDLE_TIMEOUT + Duration::from_secs(15))?;
    let monitors = activation.processes("monitor");
    check(monitors.is_empty(), "the service sleeps again, and no monitor is left", &monitors)?;
    println!("\nAll of it was true.");
    Ok(())
}

fn import(client: &mut Client, name: &str, archive: &Path) -> Result<()> {
    let file = File::open(archive).map_err(on_file("open", archive))?;
    let since = Instant::now();
    let call = json!({ "name": name, "archive": 0 });
    let reply = client.call_with_fds("io.dormouse.Image.Import", call, &[file.as_fd()])?;
    let (bytes, entries) = (reply["bytesRead"].as_u64().unwrap_or(0), &reply["entries"]);
    check(
        reply["id"].is_string(),
        format!(
            "{name}: {entries} entries, {} MiB in {}, {}",
            bytes / (1 << 20),
            ms(since),
            text(&reply["id"])
        ),
        &reply,
    )
}

/// The units inside, seen from outside.
fn units(client: &mut Client) -> Result<()> {
    heading("Units: what runs inside, asked from outside");
    let status = client.call("io.dormouse.Unit.Status", json!({ "name": "machine" }))?;
    let failed = failed_units(client)?;
    check(
        status["systemState"] == "running" && status["failedUnits"] == 0 && failed.is_empty(),
        format!(
            "systemd {} inside is {}, and no unit has failed",
            text(&status["version"]),
            text(&status["systemState"])
        ),
        (&status, &failed),
    )?;
    let call = json!({ "name": "machine", "kinds": ["service"], "activeStates": ["active"] });
    let reply = client.call("io.dormouse.Unit.List", call)?;
    let running: Vec<&Value> =
        array(&reply["units"]).iter().filter(|unit| unit["subState"] == "running").collect();
    for unit in &running {
        tell(format!("  {:<28} {}", text(&unit["name"]), text(&unit["description"])));
    }
    let names: Vec<&str> = running.iter().map(|unit| text(&unit["name"])).collect();
    let both = ["nginx.service", "cron.service"].iter().all(|wanted| names.contains(wanted));
    check(both, "nginx and cron are among the running services", &names)?;

    exec(client, &["systemd-run", "--quiet", "--unit=broken", "/bin/false"])?;
    let since = Instant::now();
    let mut failed = failed_units(client)?;
    while failed.is_empty() && since.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
        failed = failed_units(client)?;
    }
    check(
        failed == ["broken.service"],
        "a service made to fail is listed as failed: broken.service",
        &failed,
    )?;

    heading("Journal: what a unit has said");
    let call = json!({ "name": "machine", "unit": "cron.service", "lines": 5 });
    let reply = client.call("io.dormouse.Unit.Journal", call)?;
    let entries = array(&reply["entries"]);
    for entry in entries {
        tell(format!("  {}: {}", entry["identifier"].as_str().unwrap_or("?"), text(&entry["message"])));
    }
    check(!entries.is_empty(), format!("{} lines of cron.service", entries.len()), &reply)?;

    heading("A command inside");
    let reply = exec(client, &["systemctl", "is-active", "nginx.service", "cron.service"])?;
    let said = text(&reply["stdout"]);
    check(
        said == "active\nactive\n",
        "systemctl is-active nginx.service cron.service says: active, active",
        &reply,
    )
}

fn failed_units(client: &mut Client) -> Result<Vec<String>> {
    let call = json!({ "name": "machine", "activeStates": ["failed"] });
    let reply = client.call("io.dormouse.Unit.List", call)?;
    Ok(array(&reply["units"]).iter().map(|unit| text(&unit["name"]).to_owned()).collect())
}

/// Stops the machine, and shows that it had the time to shut down.
fn stop(client: &mut Client) -> Result<()> {
    heading("Stop: a clean shutdown inside");
    let details = client.call("io.dormouse.Container.Inspect", json!({ "name": "machine" }))?;
    let signal = &details["container"]["stopSignal"];
    check(text(signal) == "SIGRTMIN+3", "its stop signal is SIGRTMIN+3", signal)?;
    // A service that leaves a mark when it is stopped in order: after a kill there is none.
    let witness = ["systemd-run", "--quiet", "--unit=witness", "--property=RemainAfterExit=yes"];
    let mark = ["--property=ExecStop=/bin/sh -c 'echo in order > /var/lib/stopped'", "/bin/true"];
    exec(client, &[&witness[..], &mark[..]].concat())?;
    let since = Instant::now();
    let reply = client.call("io.dormouse.Container.Stop", json!({ "name": "machine" }))?;
    let clean = reply["killed"] == false && reply["exitCode"] == 0;
    check(clean, format!("it stopped in {}, with exit code 0, without SIGKILL", ms(since)), &reply)?;
    let machine = summary(client, "machine")?;
    check(machine["state"] == "exited", "the service lists it as exited", &machine)?;
    client.call(
        "io.dormouse.Container.Start",
        json!({ "name": "machine", "wait": "ready", "timeoutUSec": 120_000_000 }),
    )?;
    let reply = exec(client, &["cat", "/var/lib/stopped"])?;
    let said = text(&reply["stdout"]);
    check(said == "in order\n", "booted again: a service inside was stopped in order the last time", &reply)?;
    let reply = client.call("io.dormouse.Container.Stop", json!({ "name": "machine" }))?;
    check(reply["killed"] == false, "stopped again", &reply)?;
    client.call("io.dormouse.Container.Remove", json!({ "name": "machine" }))?;
    let reply = client.call("io.dormouse.Container.List", json!({}))?;
    let names: Vec<&str> =
        array(&reply["containers"]).iter().map(|container| text(&container["name"])).collect();
    check(names == ["second"], "removed: only the second container is listed", &names)
}

fn exec(client: &mut Client, command: &[&str]) -> Result<Value> {
    let reply =
        client.call("io.dormouse.Container.Exec", json!({ "name": "machine", "command": command }))?;
    if reply["exitCode"] == 0 {
        return Ok(reply);
    }
    Err(Failure::NotSo { claim: format!("{} succeeds inside", command.join(" ")), found: reply.to_string() })
}

fn summary(client: &mut Client, name: &str) -> Result<Value> {
    let reply = client.call("io.dormouse.Container.List", json!({ "names": [name] }))?;
    let found = array(&reply["containers"]).first().cloned();
    found.ok_or_else(|| Failure::NotSo { claim: format!("{name} is listed"), found: reply.to_string() })
}

/// For the end of a demonstration that did not come to its own.
pub fn remove_everything(socket: &Path) {
    let Ok(mut client) = Client::connect(socket, Duration::from_secs(30)) else { return };
    let Ok(reply) = client.call("io.dormouse.Container.List", json!({})) else { return };
    for container in array(&reply["containers"]) {
        println!("removing the container {}", text(&container["name"]));
        let call = json!({ "name": container["id"], "force": true });
        if let Err(failure) = client.call("io.dormouse.Container.Remove", call) {
            eprintln!("{}", crate::program::with_causes(&failure));
        }
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn strings(value: &Value) -> Vec<&str> {
    array(value).iter().filter_map(Value::as_str).collect()
}

fn list(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

fn ms(since: Instant) -> String {
    format!("{} ms", since.elapsed().as_millis())
}
