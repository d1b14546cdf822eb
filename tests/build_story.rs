//! The story: an empty directory, a Containerfile, and a web server under systemd that answers.
//!
//! Apache comes from Debian's archive by apt in a RUN step, with the host's apt configuration and on the host's network.
//! Where that can't be reached, said aloud, it is nginx, which the image has.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod build_support;
mod common;
mod network_support;
mod remote_support;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use build_support::{Context, client, config, good};
use common::{Host, Leaks, systemd_image, wait_until};
use network_support::network_host;
use nix::pty::{Winsize, openpty};
use remote_support::Remote;
use serde_json::{Value, json};

/// The oldest release, whose package lists are those of the host.
const RELEASE: &str = "bookworm";

const APACHE: &str = "FROM bookworm\n\
    RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends apache2 && \\\n\
        systemctl disable nginx && systemctl enable apache2\n\
    EXPOSE 80\n\
    CMD [\"/sbin/init\"]\n";
const NGINX: &str = "FROM bookworm\nRUN systemctl enable nginx\nEXPOSE 80\nCMD [\"/sbin/init\"]\n";

/// What of the host apt needs to reach an archive.
const APT: [&str; 3] = ["/etc/apt", "/etc/ssl", "/usr/local/share/ca-certificates"];

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

/// Builds `web`; the name of the server in it.
fn build_web(host: &Host, context: &Context) -> &'static str {
    let build = || {
        let mut command = client(host);
        command.args(["build", "-t", "web", "--network", "host"]);
        for path in APT {
            command.args(["-v", &format!("{path}:{path}:ro")]);
        }
        command.arg(context.path()).output().unwrap()
    };
    // A host of another release has other lists of packages.
    let is_same_release = std::fs::read_to_string("/etc/os-release")
        .is_ok_and(|text| text.contains("VERSION_CODENAME=bookworm"));
    if is_same_release {
        let output = build();
        if output.status.success() {
            let again = std::time::Instant::now();
            assert_eq!(good(build()), good(output), "nothing has changed");
            assert!(again.elapsed() < Duration::from_secs(1), "a rebuild took {:?}", again.elapsed());
            return "Apache";
        }
        eprintln!("apt can't install Apache here: {}", String::from_utf8_lossy(&output.stderr));
    }
    eprintln!("the web server is nginx, which the image has: no archive of packages is reached from here");
    context.write("Containerfile", NGINX);
    good(
        client(host).args(["build", "-t", "web", "--network", "none"]).arg(context.path()).output().unwrap(),
    );
    "nginx"
}

/// A client with a terminal, and all that was shown on it.
struct Console {
    run: Child,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Console {
    fn run(host: &Host, port: u16) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let stream = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let run = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["--address", &host.address(), "run", "-ti", "--rm", "--name", "web"])
            .args(["-p", &format!("{port}:80"), "web"])
            .stdin(stream(&pty.slave))
            .stdout(stream(&pty.slave))
            .stderr(stream(&pty.slave))
            .spawn()
            .unwrap();
        let (mut screen, keyboard) = (File::from(pty.master.try_clone().unwrap()), File::from(pty.master));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let filled = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Its end is an error (EIO), once nobody has the terminal any more.
            while let Ok(count) = screen.read(&mut chunk)
                && count > 0
            {
                filled.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        Self { run, keyboard, shown }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn until(&self, text: &str) {
        wait_until(&format!("{text:?} is shown"), || self.shown().contains(text));
    }

    #[track_caller]
    fn end(mut self) {
        wait_until("the client has ended", || self.run.try_wait().unwrap().is_some());
        wait_until("the shutdown is shown to its end", || {
            let shown = self.shown();
            shown.contains("Halting system")
                || shown.contains("Reached target") && shown.contains("shutdown.target")
        });
    }
}

#[track_caller]
fn answers(port: u16, server: &str) {
    let mut text = String::new();
    wait_until("the web server answers", || {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        text.clear();
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").is_ok()
            && stream.read_to_string(&mut text).is_ok()
            && text.starts_with("HTTP/1.1 200 OK")
    });
    assert!(text.contains(server), "{text}");
}

#[test]
fn from_an_empty_directory_to_a_web_server_that_answers() {
    if network_host().is_none() {
        return;
    }
    let Some(host) = systemd_image(RELEASE) else { return };
    let context = Context::new(APACHE);
    let server = build_web(&host, &context);
    let it = config(&host, "web");
    assert_eq!(it["config"]["StopSignal"], "SIGRTMIN+3", "a systemd is recognised");
    assert_eq!(it["config"]["ExposedPorts"], json!({"80/tcp": {}}));
    let leaks = Leaks::before(&host);

    // The boot is on the terminal, as on a machine's console; Ctrl-C is a clean shutdown.
    let port = free_port();
    let mut console = Console::run(&host, port);
    console.until("Welcome to");
    answers(port, server);
    console.until("login:");
    console.keyboard.write_all(b"\x03").unwrap();
    console.until("stopping");
    console.end();
    wait_until("it has removed itself", || host.names().is_empty());

    // And so is a stop from elsewhere.
    let console = Console::run(&host, port);
    answers(port, server);
    good(client(&host).args(["stop", "web"]).output().unwrap());
    console.end();
    wait_until("it has removed itself", || host.names().is_empty());

    // Once somebody types there, Ctrl-C is theirs.
    let mut console = Console::run(&host, port);
    console.until("login:");
    console.keyboard.write_all(b"nobody\r").unwrap();
    console.until("Password:");
    console.keyboard.write_all(b"\x03").unwrap();
    wait_until("there is another prompt", || console.shown().matches("login:").count() >= 2);
    good(client(&host).args(["stop", "web"]).output().unwrap());
    console.end();
    wait_until("it has removed itself", || host.names().is_empty());
    let network = host.call("Network.Inspect", json!({"name": "dormouse"})).unwrap()["network"].take();
    network_support::assert_no_traces(&host, &[network]);
    leaks.assert_none_after();
}

#[test]
fn the_same_over_varlink_alone() {
    if network_host().is_none() {
        return;
    }
    let Some(host) = systemd_image(RELEASE) else { return };
    let port = free_port();
    // The files of the client come with the call.
    let context =
        Context::new(&format!("{NGINX}COPY index.html /var/www/html/\n")).file("index.html", "over varlink");
    let built = context.build(&host, json!({"tags": ["web"]}));
    assert_eq!(built.names, ["localhost/web:latest"]);
    let spec = json!({"image": "web", "name": "web", "ports": [{"containerPort": 80, "hostPort": port}]});
    host.call("Container.Run", json!({"spec": spec, "wait": "ready"})).unwrap();
    answers(port, "nginx");
    answers(port, "over varlink");
    let units: Value = host.call("Unit.List", json!({"name": "web", "activeStates": ["failed"]})).unwrap();
    assert_eq!(units["units"], json!([]), "nothing in it has failed");
    let stopped = host.call("Container.Stop", json!({"name": "web"})).unwrap();
    assert_eq!(stopped["killed"], false, "{stopped}");
    host.call("Container.Remove", json!({"name": "web"})).unwrap();
    let network = host.call("Network.Inspect", json!({"name": "dormouse"})).unwrap()["network"].take();
    network_support::assert_no_traces(&host, &[network]);
}

#[test]
fn the_same_from_another_machine() {
    if network_host().is_none() {
        return;
    }
    let Some(host) = systemd_image(RELEASE) else { return };
    let Some(there) = Remote::new(&host) else { return };
    let port = free_port();
    // The directory is here, and nothing but what goes through ssh gets there.
    let context =
        Context::new(&format!("{NGINX}COPY index.html /var/www/html/\n")).file("index.html", "over ssh");
    there.out(&["build", "-t", "web", "--network", "none", context.path().to_str().unwrap()]);
    there.out(&["run", "-d", "--name", "web", "-p", &format!("{port}:80"), "--wait", "ready", "web"]);
    answers(port, "over ssh");
    assert!(there.out(&["units", "list", "web", "--state", "active"]).contains("nginx.service"));
    assert!(there.out(&["logs", "web", "--unit", "nginx"]).contains("Started"));
    there.out(&["stop", "web"]);
    assert!(there.out(&["ps", "--all"]).contains("exited"), "a clean shutdown");
    there.out(&["rm", "web"]);
    let network = host.call("Network.Inspect", json!({"name": "dormouse"})).unwrap()["network"].take();
    network_support::assert_no_traces(&host, &[network]);
}
