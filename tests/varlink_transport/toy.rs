//! The service that these tests serve, the server around it, and a client that says exactly the bytes that it is told.

pub use std::fs::File;
pub use std::io::{self, Read, Seek, Write};
pub use std::net::Shutdown;
pub use std::os::fd::{AsFd, AsRawFd, OwnedFd};
pub use std::os::unix::fs::PermissionsExt;
pub use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
pub use std::path::{Path, PathBuf};
pub use std::process::{Child, Command, Stdio};
pub use std::sync::atomic::{AtomicUsize, Ordering};
pub use std::sync::{Arc, Mutex};
pub use std::thread::{JoinHandle, sleep};
pub use std::time::{Duration, Instant};

pub use dormouse::varlink::client::{ClientError, Connection};
pub use dormouse::varlink::{
    BoxFuture, Call, CallError, Interface, Listener, ServeError, ServeOptions, Service, activation, serve,
    serve_until,
};
pub use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
pub use serde::Deserialize;
pub use serde_json::{Value, json};
pub use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub use tokio::sync::Notify;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const TOY: &str = "
# A toy.
interface org.example.toy

type Point (x: int, y: ?int)
type Color (red, green)

# Replies with what it is given.
method Echo(text: string) -> (text: string)
method Paint(points: []Point, color: ?Color) -> ()
# Takes a number that must fit a byte, which the IDL can't say.
method Byte(outer: (number: int)) -> ()
# Streams 1, waits for Release, then ends with 2.
method Gate() -> (number: int)
method Release() -> ()
# Streams for ever, as fast as the client reads.
method Flood() -> (data: string)
method Flooded() -> (count: int)
# Loses patience with each reply that does not leave at once, and makes the next one.
method Dither() -> (number: int, data: string)
# Waits for ever.
method Hang() -> ()
method Cancelled() -> (count: int)
method Delay(msec: int) -> ()
# Does work that must be finished.
method Work(msec: int) -> ()
method Finished() -> (count: int)
method CountFds() -> (count: int)
# Reads each file that comes along, and returns one with all the text.
method Join() -> (length: int)
# Upgrades to a stream that returns everything in upper case.
method Shout(name: string) -> (greeting: string)
method Who() -> (uid: int, gid: int, pid: int, pidfd: ?int)
method Refuse() -> ()
method Forbid() -> ()
method Lacking() -> ()
method Huge() -> (data: string)

error Refused (reason: string)
";

#[derive(Default)]
pub struct Toy {
    pub gate: Notify,
    pub flooded: AtomicUsize,
    pub cancelled: Arc<AtomicUsize>,
    pub finished: Arc<AtomicUsize>,
}

/// Counts its own end, which comes without a reply when the call is cancelled.
pub struct CountDrop(pub Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Deserialize)]
pub struct Text {
    pub text: String,
}

#[derive(Deserialize)]
pub struct Msec {
    pub msec: u64,
}

#[derive(Deserialize)]
#[allow(dead_code)] // it is only decoded
pub struct Outer {
    pub outer: Inner,
}

#[derive(Deserialize)]
#[allow(dead_code)]
pub struct Inner {
    pub number: u8,
}

#[derive(Deserialize)]
pub struct Name {
    pub name: String,
}

impl Interface for Toy {
    fn name(&self) -> &'static str {
        "org.example.toy"
    }

    fn description(&self) -> &'static str {
        TOY
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Echo" => {
                    let Text { text } = call.parameters()?;
                    call.reply(json!({ "text": text })).await
                }
                "Paint" => Ok(()),
                "Byte" => call.parameters::<Outer>().map(|_| ()),
                "Gate" => {
                    call.reply_continues(json!({ "number": 1 })).await?;
                    self.gate.notified().await;
                    call.reply(json!({ "number": 2 })).await
                }
                "Release" => {
                    self.gate.notify_one();
                    Ok(())
                }
                "Flood" => loop {
                    call.reply_continues(json!({ "data": "x".repeat(10_000) })).await?;
                    self.flooded.fetch_add(1, Ordering::SeqCst);
                },
                "Flooded" => call.reply(json!({ "count": self.flooded.load(Ordering::SeqCst) })).await,
                "Dither" => {
                    for number in 0..20 {
                        let reply =
                            call.reply_continues(json!({ "number": number, "data": "x".repeat(100_000) }));
                        let _ = tokio::time::timeout(Duration::from_millis(1), reply).await;
                    }
                    call.reply(json!({ "number": 20, "data": "" })).await
                }
                "Hang" => {
                    let _counted = CountDrop(Arc::clone(&self.cancelled));
                    std::future::pending().await
                }
                "Cancelled" => call.reply(json!({ "count": self.cancelled.load(Ordering::SeqCst) })).await,
                "Delay" => {
                    let Msec { msec } = call.parameters()?;
                    tokio::time::sleep(Duration::from_millis(msec)).await;
                    Ok(())
                }
                "Work" => {
                    let Msec { msec } = call.parameters()?;
                    let (guard, finished) = (call.busy(), Arc::clone(&self.finished));
                    let work = tokio::task::spawn_blocking(move || {
                        sleep(Duration::from_millis(msec));
                        finished.fetch_add(1, Ordering::SeqCst);
                        if let Ok(path) = std::env::var("TOY_FINISHED") {
                            File::create(path).unwrap();
                        }
                        drop(guard);
                    });
                    work.await.unwrap();
                    Ok(())
                }
                "Finished" => call.reply(json!({ "count": self.finished.load(Ordering::SeqCst) })).await,
                "CountFds" => {
                    let count = call.take_fds().len();
                    call.reply(json!({ "count": count })).await
                }
                "Join" => {
                    let mut all = String::new();
                    for fd in call.take_fds() {
                        File::from(fd).read_to_string(&mut all).unwrap();
                    }
                    let joined = file_with(&all);
                    call.reply_with_fds(json!({ "length": all.len() }), vec![joined.into()]).await
                }
                "Shout" => {
                    let Name { name } = call.parameters()?;
                    let mut stream = call.upgrade(json!({ "greeting": format!("hello {name}") })).await?;
                    let mut buffer = [0; 100];
                    loop {
                        let count = stream.read(&mut buffer).await.unwrap();
                        if count == 0 {
                            stream.write_all(b"BYE").await.unwrap();
                            return Ok(());
                        }
                        stream.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
                    }
                }
                "Who" => {
                    let peer = call.peer().clone();
                    let pidfd = peer.pidfd().map(|fd| pid_of(fd.as_raw_fd()));
                    call.reply(json!({ "uid": peer.uid, "gid": peer.gid, "pid": peer.pid, "pidfd": pidfd }))
                        .await
                }
                "Refuse" => Err(CallError::reply("org.example.toy.Refused", json!({ "reason": "no mood" }))),
                "Forbid" => Err(CallError::PermissionDenied),
                "Huge" => call.reply(json!({ "data": "x".repeat(17 * 1024 * 1024) })).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

/// The `Pid:` line of a pidfd's fdinfo.
pub fn pid_of(pidfd: i32) -> i32 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

pub fn file_with(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

pub fn service() -> Service {
    Service {
        vendor: "Example".into(),
        product: "toy".into(),
        version: "1".into(),
        url: "https://example.org".into(),
        interfaces: vec![Box::new(Toy::default())],
    }
}

// ---- a server in a thread ----------------------------------------------------------------------------------------

pub struct Server {
    pub directory: tempfile::TempDir,
    pub stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(ServeOptions { idle_timeout: None, ..ServeOptions::default() })
    }

    pub fn with(options: ServeOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", directory.path().join("toy").display());
        let listener = Listener::bind(&address.parse().unwrap()).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve_until(service(), vec![listener], options, async {
                let _ = stopped.await;
            }))
        });
        Self { directory, stop: Some(stop), thread: Some(thread) }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("toy")
    }

    pub fn client(&self) -> Connection {
        let client = Connection::connect(&format!("unix:{}", self.path().display())).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub fn raw(&self) -> Raw {
        Raw::new(UnixStream::connect(self.path()).unwrap())
    }

    /// Asks for a count until it is `wanted`.
    pub fn await_count(&self, method: &str, wanted: u64) {
        let mut client = self.client();
        await_true(|| count(&mut client, method) == wanted);
    }

    /// Waits for the server's own end.
    pub fn ended(mut self) {
        let thread = self.thread.take().unwrap();
        await_true(|| thread.is_finished());
        thread.join().unwrap().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    pub fn running(&self) -> bool {
        !self.thread.as_ref().unwrap().is_finished()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _ = stop.send(());
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap().unwrap();
            }
        }
    }
}

pub fn count(client: &mut Connection, method: &str) -> u64 {
    let reply = client.call(&format!("org.example.toy.{method}"), json!({}), &[]).unwrap();
    reply.parameters["count"].as_u64().unwrap()
}

pub fn await_true(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        sleep(Duration::from_millis(5));
    }
}

/// A client without manners.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    pub fn send_with_fds(&mut self, bytes: &[u8], files: &[&File]) {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent =
            rustix::net::sendmsg(&self.0, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    pub fn reply(&mut self) -> Value {
        let mut text = Vec::new();
        let mut byte = [0];
        loop {
            assert_eq!(
                self.0.read(&mut byte).unwrap(),
                1,
                "closed after {:?}",
                String::from_utf8_lossy(&text)
            );
            if byte[0] == 0 {
                return serde_json::from_slice(&text).unwrap();
            }
            text.push(byte[0]);
        }
    }

    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

pub fn message(method: &str, parameters: Value) -> String {
    json!({ "method": format!("org.example.toy.{method}"), "parameters": parameters }).to_string() + "\0"
}

pub fn flagged(method: &str, parameters: Value, flag: &str) -> String {
    let method = format!("org.example.toy.{method}");
    json!({ "method": method, "parameters": parameters, flag: true }).to_string() + "\0"
}

pub fn echo(text: &str) -> String {
    message("Echo", json!({ "text": text }))
}

pub fn error_of(result: Result<impl std::fmt::Debug, ClientError>) -> (String, Value) {
    match result {
        Err(ClientError::Service { error, parameters }) => (error, parameters),
        other => panic!("expected an error reply, got {other:?}"),
    }
}

/// Ends after so much time without work.
pub fn idle_after(msec: u64) -> ServeOptions {
    ServeOptions { idle_timeout: Some(Duration::from_millis(msec)), ..ServeOptions::default() }
}
