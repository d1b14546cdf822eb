//! A client of another host: a real ssh and a real sshd on loopback, with its own port, keys and configuration.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations)]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Host, wait_until};

const SSHD: &str = "/usr/sbin/sshd";

/// An sshd of this test's, and a client that knows nothing but how to get there.
pub struct Remote<'a> {
    host: &'a Host,
    pub directory: PathBuf,
    sshd: Child,
    pub port: u16,
}

impl<'a> Remote<'a> {
    pub fn new(host: &'a Host) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: {SSHD} is missing (apt install openssh-server)");
            return None;
        }
        let directory = host.path().join("ssh");
        std::fs::create_dir(&directory).unwrap();
        // sshd insists on this one, which its package makes at boot.
        std::fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(directory.join(key))
                .status();
            assert!(made.unwrap().success());
        }
        std::fs::copy(directory.join("user_key.pub"), directory.join("authorized_keys")).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_dormouse")).parent().unwrap();
        // A port that is free now may be taken a moment later.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let at = |name: &str| directory.join(name).display().to_string();
            let config = format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
                 UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
                 SetEnv PATH={}:/usr/bin:/bin\nMaxStartups 100\nMaxSessions 100\n",
                at("host_key"),
                at("authorized_keys"),
                binary.display()
            );
            std::fs::write(directory.join("sshd_config"), config).unwrap();
            let log = std::fs::File::create(directory.join("sshd.log")).unwrap();
            let mut sshd = Command::new(SSHD)
                .args(["-D", "-e", "-f"])
                .arg(directory.join("sshd_config"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut up = false;
            wait_until("sshd listens, or has given up", || {
                up = TcpStream::connect(("127.0.0.1", port)).is_ok();
                up || sshd.try_wait().unwrap().is_some()
            });
            if !up {
                continue;
            }
            let config = format!(
                "Host there\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n\
                 \x20 StrictHostKeyChecking no\n  UserKnownHostsFile {}\n  LogLevel ERROR\n  BatchMode yes\n\
                 Host 127.0.0.1 nowhere\n  IdentityFile {}\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n\
                 \x20 UserKnownHostsFile {}\n  LogLevel ERROR\n  BatchMode yes\n",
                at("user_key"),
                at("known_hosts"),
                at("user_key"),
                at("known_hosts")
            );
            std::fs::write(directory.join("config"), config).unwrap();
            return Some(Self { host, directory, sshd, port });
        }
        panic!("sshd does not start: {}", std::fs::read_to_string(directory.join("sshd.log")).unwrap());
    }

    pub fn address(&self) -> String {
        format!("ssh://there{}/sock", self.host.path().display())
    }

    pub fn client(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command
            .env("DORMOUSE_CONNECTION", self.address())
            .env("DORMOUSE_SSH", format!("ssh -F {}", self.directory.join("config").display()))
            .env("XDG_CONFIG_HOME", self.directory.join("xdg"))
            .env_remove("DORMOUSE_ADDRESS")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.client().args(arguments).output().unwrap()
    }

    /// What a command writes, which must end well.
    pub fn out(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn fed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .client()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.sshd.id()).unwrap()), Signal::SIGTERM);
        let _ = self.sshd.wait();
    }
}
