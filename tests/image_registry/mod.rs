//! A registry of Debian's on loopback, and a proxy before it that knows what can go wrong on the way.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Host, wait_until};
use crate::image_tools::{have, run};

/// docker-registry, with a directory of its own.
pub struct Registry {
    dir: TempDir,
    serve: Child,
    pub address: String,
}

pub const USER: &str = "alice";
pub const PASSWORD: &str = "s3cret:with colon";

impl Registry {
    pub fn plain() -> Option<Self> {
        Self::start(false, false)
    }

    pub fn with_users() -> Option<Self> {
        Self::start(true, false)
    }

    pub fn with_tls() -> Option<Self> {
        Self::start(false, true)
    }

    fn start(users: bool, tls: bool) -> Option<Self> {
        if !have(&["docker-registry", "htpasswd", "openssl"]) {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("dormouse-registry-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            at("data")
        );
        if tls {
            let openssl = |arguments: &str| {
                let arguments = arguments.replace('@', &format!("{}/", dir.path().display()));
                run(Command::new("openssl").args(arguments.split(' ')));
            };
            fs::write(at("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
            openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout @ca.key -out @ca.crt");
            openssl("req -newkey rsa:2048 -nodes -subj /CN=registry -keyout @key.pem -out @registry.csr");
            openssl(
                "x509 -req -in @registry.csr -CA @ca.crt -CAkey @ca.key -CAcreateserial -days 2 -extfile @extensions -out @registry.crt",
            );
            config += &format!("  tls: {{certificate: {}, key: {}}}\n", at("registry.crt"), at("key.pem"));
        }
        if users {
            let line = run(Command::new("htpasswd").args(["-nbB", USER, PASSWORD]));
            fs::write(at("users"), line + "\n").unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("users"));
        }
        fs::write(at("config.yml"), config).unwrap();
        let serve = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{port}");
        wait_until("the registry listens", || TcpStream::connect(&address).is_ok());
        Some(Self { dir, serve, address })
    }

    /// The certificate of who has signed its own.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}

/// A directory of configuration for the service's environment.
pub struct Config {
    dir: TempDir,
}

impl Config {
    /// With a registries.conf of this text.
    pub fn new(registries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("registries.conf"), registries).unwrap();
        Self { dir }
    }

    /// In which these registries need no TLS.
    pub fn insecure(registries: &[&str]) -> Self {
        let entry = |registry: &&str| format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n");
        Self::new(&registries.iter().map(entry).collect::<String>())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn host(&self) -> Option<Host> {
        Host::with_environment(&[
            ("CONTAINERS_REGISTRIES_CONF", &self.path("registries.conf")),
            ("REGISTRY_AUTH_FILE", &self.path("auth.json")),
            ("XDG_CONFIG_HOME", self.dir.path()),
        ])
    }

    /// The host, and what must outlive it.
    pub fn host_kept(self) -> Option<(Host, Self)> {
        Some((self.host()?, self))
    }

    /// Trusts a certificate.
    pub fn trust(&self, registry: &str, certificate: &Path) {
        let directory = self.path("containers/certs.d").join(registry);
        fs::create_dir_all(&directory).unwrap();
        fs::copy(certificate, directory.join("ca.crt")).unwrap();
    }
}

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(u64),
    /// The byte at this place of the body is another one.
    Flip(u64),
    /// So much rest after each KiB of the body.
    Slow(Duration),
    /// Another answer altogether: status, and further header lines.
    Answer(&'static str, &'static str),
}

struct Rule {
    method: &'static str,
    path: String,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<String>>,
    token: Mutex<Option<String>>,
}

/// A proxy that forwards requests to a registry, one a connection, and does what its rules say.
pub struct Proxy {
    pub address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let (upstream, state, own) = (registry.address.clone(), Arc::clone(&shared), address.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, state, own) = (upstream.clone(), Arc::clone(&state), own.clone());
                std::thread::spawn(move || drop(serve(client, &upstream, &state, &own)));
            }
        });
        Self { address, shared }
    }

    /// From now on, the next `times` answers to a method for a path that contains `path` have a fault.
    pub fn fail(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        self.shared.rules.lock().unwrap().push(Rule { method, path: path.to_owned(), times, fault });
    }

    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Wants a token, which it gives itself to who is USER.
    pub fn want_token(&self, token: &str) {
        *self.shared.token.lock().unwrap() = Some(token.to_owned());
    }

    /// The requests so far, as `GET /path range`, and forgets them.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    pub fn blobs_seen(&self) -> Vec<String> {
        let seen = self.seen();
        seen.into_iter().filter(|line| line.starts_with("GET") && line.contains("/blobs/")).collect()
    }
}

fn head(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

fn value<'a>(lines: &'a [String], name: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn serve(client: TcpStream, upstream: &str, shared: &Shared, own: &str) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut to_client = client;
    let request = head(&mut from_client)?;
    let mut words = request[0].split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let range = value(&request, "range").unwrap_or_default();
    shared.seen.lock().unwrap().push(format!("{method} {path} {range}").trim_end().to_owned());
    let wanted = shared.token.lock().unwrap().clone();
    if let Some(token) = wanted {
        let authorization = value(&request, "authorization").unwrap_or_default();
        if path.starts_with("/token") {
            let body = if authorization.starts_with("Basic ") {
                format!("{{\"token\": \"{token}\"}}")
            } else {
                "{\"token\": \"anonymous\"}".to_owned()
            };
            write!(
                to_client,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            return Ok(());
        }
        if authorization != format!("Bearer {token}") {
            write!(
                to_client,
                "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\
                 WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\"\r\n\r\n"
            )?;
            return Ok(());
        }
    }
    let fault = {
        let mut rules = shared.rules.lock().unwrap();
        let rule = rules
            .iter_mut()
            .find(|rule| rule.times > 0 && rule.method == method && path.contains(rule.path.as_str()));
        rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        })
    };
    if let Some(Fault::Answer(status, headers)) = fault {
        write!(to_client, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n")?;
        return Ok(());
    }
    let upstream = TcpStream::connect(upstream)?;
    let mut to_upstream = upstream.try_clone()?;
    for line in request.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        write!(to_upstream, "{line}\r\n")?;
    }
    write!(to_upstream, "Connection: close\r\n\r\n")?;
    std::thread::spawn(move || io::copy(&mut from_client, &mut to_upstream));
    let mut from_upstream = BufReader::new(upstream);
    let answer = head(&mut from_upstream)?;
    for line in answer.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        write!(to_client, "{line}\r\n")?;
    }
    write!(to_client, "Connection: close\r\n\r\n")?;
    relay(&mut from_upstream, &mut to_client, fault.as_ref())?;
    to_client.shutdown(std::net::Shutdown::Both)
}

fn relay(from: &mut impl Read, to: &mut TcpStream, fault: Option<&Fault>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    let mut at = 0_u64;
    loop {
        let mut count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        match fault {
            Some(Fault::Cut(end)) if at + count as u64 >= *end => {
                count = usize::try_from(end - at).unwrap();
                to.write_all(&buffer[..count])?;
                return Ok(());
            }
            Some(Fault::Flip(place)) if (at..at + count as u64).contains(place) => {
                buffer[usize::try_from(place - at).unwrap()] ^= 1;
            }
            Some(Fault::Slow(rest)) => std::thread::sleep(*rest),
            _ => {}
        }
        to.write_all(&buffer[..count])?;
        at += count as u64;
    }
}
