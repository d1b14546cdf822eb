//! What a varlink client may rely on, whatever the interface: held against a toy interface over real sockets.
//!
//! Most tests serve from a thread of this process. Those about processes (activation, idle exit, signals) start this
//! very test program again as the server: see [`toy_server_process`].
#![allow(clippy::unwrap_used)] // a failure is to end the test
#![allow(unsafe_code)] // the server process adopts descriptors while the test harness's main thread sleeps

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use dormouse::varlink::client::{ClientError, Connection};
use dormouse::varlink::{
    BoxFuture, Call, CallError, Interface, Listener, ServeError, ServeOptions, Service, activation, serve,
    serve_until,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const TOY: &str = "
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
struct Toy {
    gate: Notify,
    flooded: AtomicUsize,
    cancelled: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

/// Counts its own end, which comes without a reply when the call is cancelled.
struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

#[derive(Deserialize)]
struct Msec {
    msec: u64,
}

#[derive(Deserialize)]
#[allow(dead_code)] // it is only decoded
struct Outer {
    outer: Inner,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Inner {
    number: u8,
}

#[derive(Deserialize)]
struct Name {
    name: String,
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
fn pid_of(pidfd: i32) -> i32 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

fn file_with(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn service() -> Service {
    Service {
        vendor: "Example".into(),
        product: "toy".into(),
        version: "1".into(),
        url: "https://example.org".into(),
        interfaces: vec![Box::new(Toy::default())],
    }
}

// ---- a server in a thread ----------------------------------------------------------------------------------------

struct Server {
    directory: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    fn start() -> Self {
        Self::with(ServeOptions { idle_timeout: None, ..ServeOptions::default() })
    }

    fn with(options: ServeOptions) -> Self {
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

    fn path(&self) -> PathBuf {
        self.directory.path().join("toy")
    }

    fn client(&self) -> Connection {
        let client = Connection::connect(&format!("unix:{}", self.path().display())).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn raw(&self) -> Raw {
        Raw::new(UnixStream::connect(self.path()).unwrap())
    }

    /// Asks for a count until it is `wanted`.
    fn await_count(&self, method: &str, wanted: u64) {
        let mut client = self.client();
        await_true(|| count(&mut client, method) == wanted);
    }

    /// Waits for the server's own end.
    fn ended(mut self) {
        let thread = self.thread.take().unwrap();
        await_true(|| thread.is_finished());
        thread.join().unwrap().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    fn running(&self) -> bool {
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

fn count(client: &mut Connection, method: &str) -> u64 {
    let reply = client.call(&format!("org.example.toy.{method}"), json!({}), &[]).unwrap();
    reply.parameters["count"].as_u64().unwrap()
}

fn await_true(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        sleep(Duration::from_millis(5));
    }
}

/// A client without manners.
struct Raw(UnixStream);

impl Raw {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn send_with_fds(&mut self, bytes: &[u8], files: &[&File]) {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent =
            rustix::net::sendmsg(&self.0, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    fn reply(&mut self) -> Value {
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

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

fn message(method: &str, parameters: Value) -> String {
    json!({ "method": format!("org.example.toy.{method}"), "parameters": parameters }).to_string() + "\0"
}

fn flagged(method: &str, parameters: Value, flag: &str) -> String {
    let method = format!("org.example.toy.{method}");
    json!({ "method": method, "parameters": parameters, flag: true }).to_string() + "\0"
}

fn echo(text: &str) -> String {
    message("Echo", json!({ "text": text }))
}

fn error_of(result: Result<impl std::fmt::Debug, ClientError>) -> (String, Value) {
    match result {
        Err(ClientError::Service { error, parameters }) => (error, parameters),
        other => panic!("expected an error reply, got {other:?}"),
    }
}

// ---- framing -----------------------------------------------------------------------------------------------------

#[test]
fn a_call_that_arrives_byte_by_byte_is_answered() {
    let server = Server::start();
    let mut client = server.raw();
    for byte in echo("slow").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.reply(), json!({ "parameters": { "text": "slow" } }));
}

#[test]
fn calls_written_at_once_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(message("Delay", json!({ "msec": 30 })) + &echo("one") + &echo("two")[..10]);
    assert_eq!(client.reply(), json!({ "parameters": {} }));
    assert_eq!(client.reply()["parameters"]["text"], "one");
    client.send(&echo("two")[10..]);
    assert_eq!(client.reply()["parameters"]["text"], "two");
}

#[test]
fn a_thousand_calls_in_flight_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.raw();
    let mut writer = client.0.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..1000 {
            writer.write_all(echo(&number.to_string()).as_bytes()).unwrap();
        }
    });
    for number in 0..1000 {
        assert_eq!(client.reply()["parameters"]["text"], number.to_string());
    }
    writing.join().unwrap();
}

#[test]
fn garbage_closes_its_own_connection_and_no_other() {
    let server = Server::start();
    let mut bystander = server.raw();
    for garbage in
        [&b"nonsense\0"[..], b"[]\0", b"\"text\"\0", b"\0", b"{\"method\":\0", b"\xff\xfe\0", b"{}{}\0"]
    {
        let mut client = server.raw();
        client.send(garbage);
        assert!(client.is_closed(), "{garbage:?}");
        bystander.send(echo("still here"));
        assert_eq!(bystander.reply()["parameters"]["text"], "still here");
    }
}

#[test]
fn calls_before_garbage_are_still_answered() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(echo("good") + "bad\0");
    assert_eq!(client.reply()["parameters"]["text"], "good");
    assert!(client.is_closed());
}

#[test]
fn an_object_that_is_no_call_names_the_field_that_is_wrong() {
    let server = Server::start();
    let mut client = server.raw();
    for (text, field) in [
        ("{}", "method"),
        (r#"{"method":1}"#, "method"),
        (r#"{"method":"Echo"}"#, "method"),
        (r#"{"method":"org.example.toy.Echo","parameters":[]}"#, "parameters"),
        (r#"{"method":"org.example.toy.Echo","more":"yes"}"#, "more"),
    ] {
        client.send(format!("{text}\0"));
        let expected =
            json!({ "error": "org.varlink.service.InvalidParameter", "parameters": { "parameter": field } });
        assert_eq!(client.reply(), expected, "{text}");
    }
}

#[test]
fn a_message_near_the_limit_passes_and_one_beyond_it_closes_its_connection() {
    let server = Server::start();
    let text = "x".repeat(16 * 1024 * 1024 - 100);
    let mut client = server.client();
    let reply = client.call("org.example.toy.Echo", json!({ "text": text }), &[]).unwrap();
    assert_eq!(reply.parameters["text"].as_str().unwrap().len(), text.len());

    let mut client = server.raw();
    let refused = client.0.write_all("x".repeat(16 * 1024 * 1024 + 1).as_bytes());
    assert!(refused.is_err() || client.is_closed());
    assert_eq!(
        server.client().call("org.example.toy.Echo", json!({ "text": "a" }), &[]).unwrap().fds.len(),
        0
    );
}

#[test]
fn a_reply_beyond_the_limit_is_not_sent_but_closes_the_connection() {
    let server = Server::start();
    let result = server.client().call("org.example.toy.Huge", json!({}), &[]);
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
}

// ---- kinds of calls ----------------------------------------------------------------------------------------------

#[test]
fn a_streamed_reply_leaves_when_it_is_made() {
    let server = Server::start();
    let mut client = server.client();
    let mut replies = client.call_more("org.example.toy.Gate", json!({}), &[]).unwrap();
    let first = replies.next().unwrap().unwrap();
    assert_eq!((&first.parameters["number"], first.continues), (&json!(1), true));
    // Only now is the second one made.
    server.client().call("org.example.toy.Release", json!({}), &[]).unwrap();
    let second = replies.next().unwrap().unwrap();
    assert_eq!((&second.parameters["number"], second.continues), (&json!(2), false));
    assert!(replies.next().is_none());
    drop(replies);
    client.call("org.example.toy.Paint", json!({ "points": [] }), &[]).unwrap();
}

#[test]
fn a_slow_reader_blocks_its_own_stream_and_nobody_else() {
    let server = Server::start();
    let mut slow = server.raw();
    slow.send(flagged("Flood", json!({}), "more"));
    let mut other = server.client();
    let mut last = 0;
    // The flood comes to a stop, because nobody reads it.
    await_true(|| {
        sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut last, count(&mut other, "Flooded"));
        last > 0 && before == last
    });
    for _ in 0..100 {
        other.call("org.example.toy.Echo", json!({ "text": "meanwhile" }), &[]).unwrap();
    }
    assert_eq!(count(&mut other, "Flooded"), last);
    // And it goes on, undamaged, as soon as somebody does.
    for _ in 0..last + 10 {
        let reply = slow.reply();
        assert_eq!(reply["continues"], true);
        assert_eq!(reply["parameters"]["data"].as_str().unwrap().len(), 10_000);
    }
}

#[test]
fn a_reply_that_the_service_gave_up_halfway_still_leaves_whole() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(flagged("Dither", json!({}), "more"));
    // Long enough for every reply to have been given up.
    sleep(Duration::from_millis(300));
    for number in 0..=20 {
        assert_eq!(client.reply()["parameters"]["number"], number);
    }
}

#[test]
fn a_stream_that_was_not_asked_for_is_refused() {
    let server = Server::start();
    let (error, _) = error_of(server.client().call("org.example.toy.Flood", json!({}), &[]));
    assert_eq!(error, "org.varlink.service.ExpectedMore");
}

#[test]
fn a_oneway_call_is_carried_out_and_not_answered() {
    let server = Server::start();
    let mut client = server.client();
    client.call_oneway("org.example.toy.Work", json!({ "msec": 1 }), &[]).unwrap();
    client.call_oneway("org.example.toy.Refuse", json!({}), &[]).unwrap();
    client.call_oneway("org.example.toy.Absent", json!({}), &[]).unwrap();
    client.call_oneway("org.example.toy.Flood", json!({}), &[]).unwrap();
    let reply = client.call("org.example.toy.Echo", json!({ "text": "first answer" }), &[]).unwrap();
    assert_eq!(reply.parameters["text"], "first answer");
    assert_eq!(count(&mut client, "Finished"), 1);
}

#[test]
fn oneway_calls_are_carried_out_although_the_client_has_left() {
    let server = Server::start();
    let mut client = server.raw();
    for _ in 0..3 {
        client.send(flagged("Work", json!({ "msec": 20 }), "oneway"));
    }
    drop(client);
    server.await_count("Finished", 3);
}

#[test]
fn an_upgrade_keeps_its_parameters_and_the_bytes_that_came_with_the_call() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(flagged("Shout", json!({ "name": "ann" }), "upgrade") + "early");
    assert_eq!(client.reply()["parameters"]["greeting"], "hello ann");
    client.send(" late\0");
    client.0.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.0.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "EARLY LATE\0BYE");
}

#[test]
fn an_upgraded_stream_is_read_to_its_end_although_the_client_has_left() {
    let server = Server::start();
    let (reply, mut stream) =
        server.client().call_upgrade("org.example.toy.Shout", json!({ "name": "bob" }), &[]).unwrap();
    assert_eq!(reply.parameters["greeting"], "hello bob");
    stream.write_all(b"abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"ABCBYE");
}

#[test]
fn an_upgrade_that_was_not_asked_for_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    let (error, parameters) = error_of(client.call("org.example.toy.Shout", json!({ "name": "x" }), &[]));
    assert_eq!(
        (error.as_str(), &parameters["parameter"]),
        ("org.varlink.service.InvalidParameter", &json!("upgrade"))
    );
}

// ---- descriptors and peers ---------------------------------------------------------------------------------------

#[test]
fn descriptors_travel_with_a_call_and_with_its_reply() {
    let server = Server::start();
    let (one, two) = (file_with("one "), file_with("two"));
    let mut client = server.client();
    let reply = client.call("org.example.toy.Join", json!({}), &[one.as_fd(), two.as_fd()]).unwrap();
    assert_eq!(reply.parameters["length"], 7);
    let [fd] = <[OwnedFd; 1]>::try_from(reply.fds).unwrap();
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
}

#[test]
fn descriptors_belong_to_the_message_that_they_were_sent_with() {
    let server = Server::start();
    let mut client = server.raw();
    let file = file_with("");
    // Nothing of the rest is read before the gate opens, so the kernel has all of it in one queue.
    client.send(flagged("Gate", json!({}), "more"));
    assert_eq!(client.reply()["parameters"]["number"], 1);
    let call = message("CountFds", json!({}));
    client.send(&call);
    client.send_with_fds(call.as_bytes(), &[&file, &file]);
    client.send(&call);
    client.send_with_fds((call.clone() + &call).as_bytes(), &[&file]);
    client.send_with_fds(&call.as_bytes()[..5], &[&file, &file, &file]);
    client.send(&call.as_bytes()[5..]);
    server.client().call("org.example.toy.Release", json!({}), &[]).unwrap();
    assert_eq!(client.reply()["parameters"]["number"], 2);
    for expected in [0, 2, 0, 1, 0, 3] {
        assert_eq!(client.reply()["parameters"]["count"], expected);
    }
}

#[test]
fn descriptors_beyond_the_bound_are_closed() {
    let server = Server::start();
    let mut client = server.raw();
    let file = file_with("");
    let call = message("CountFds", json!({}));
    let half = [&file; 200];
    client.send_with_fds(&call.as_bytes()[..5], &half);
    client.send_with_fds(&call.as_bytes()[5..], &half);
    assert_eq!(client.reply()["parameters"]["count"], 253);
}

#[test]
fn the_peer_is_known_by_uid_gid_pid_and_pidfd() {
    let server = Server::start();
    let who = server.client().call("org.example.toy.Who", json!({}), &[]).unwrap().parameters;
    assert_eq!(who["uid"], rustix::process::getuid().as_raw());
    assert_eq!(who["gid"], rustix::process::getgid().as_raw());
    assert_eq!(who["pid"], std::process::id());
    // SO_PEERPIDFD is Linux 6.5.
    if !who["pidfd"].is_null() {
        assert_eq!(who["pidfd"], std::process::id());
    }
}

// ---- clients that leave ------------------------------------------------------------------------------------------

#[test]
fn a_call_is_cancelled_when_its_client_leaves() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(message("Hang", json!({})));
    drop(client);
    server.await_count("Cancelled", 1);
}

#[test]
fn a_call_is_cancelled_when_its_client_leaves_although_more_calls_are_queued() {
    let server = Server::start();
    let mut client = server.raw();
    let work = message("Work", json!({ "msec": 1 }));
    client.send(message("Hang", json!({})) + &work + &echo("") + &work + "cut o");
    drop(client);
    server.await_count("Cancelled", 1);
    server.await_count("Finished", 2);
}

#[test]
fn a_blocked_stream_is_cancelled_when_its_client_leaves() {
    let server =
        Server::with(ServeOptions { idle_timeout: Some(Duration::from_millis(100)), ..Default::default() });
    let mut client = server.raw();
    client.send(flagged("Flood", json!({}), "more"));
    client.reply();
    sleep(Duration::from_millis(300));
    assert!(server.running(), "a stream holds the service up");
    drop(client);
    server.ended();
}

#[test]
fn a_client_that_has_only_closed_its_writing_side_gets_its_replies() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(message("Delay", json!({ "msec": 100 })) + &echo("after all"));
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply(), json!({ "parameters": {} }));
    assert_eq!(client.reply()["parameters"]["text"], "after all");
    assert!(client.is_closed());

    let mut client = server.raw();
    client.send(message("Hang", json!({})));
    client.0.shutdown(Shutdown::Write).unwrap();
    sleep(Duration::from_millis(50));
    drop(client);
    server.await_count("Cancelled", 1);
}

#[test]
fn dropping_a_stream_of_the_client_cancels_it_and_spends_the_connection() {
    let server = Server::start();
    let mut client = server.client();
    let mut replies = client.call_more("org.example.toy.Flood", json!({}), &[]).unwrap();
    replies.next().unwrap().unwrap();
    drop(replies);
    let result = client.call("org.example.toy.Echo", json!({ "text": "" }), &[]);
    assert!(matches!(result, Err(ClientError::Spent)), "{result:?}");
}

#[test]
fn connections_are_bounded_in_all_and_per_user() {
    for options in [
        ServeOptions { connections_max: 2, ..ServeOptions::default() },
        ServeOptions { connections_per_uid_max: 2, ..ServeOptions::default() },
    ] {
        let server = Server::with(options);
        let mut clients = [server.raw(), server.raw()];
        for client in &mut clients {
            client.send(echo("in"));
            client.reply();
        }
        assert!(server.raw().is_closed(), "the third is refused");
        clients[0].send(echo("still in"));
        assert_eq!(clients[0].reply()["parameters"]["text"], "still in");
        drop(clients);
        await_true(|| {
            let mut client = server.raw();
            client.0.write_all(echo("in again").as_bytes()).is_ok() && !client.is_closed()
        });
    }
}

// ---- org.varlink.service and errors ------------------------------------------------------------------------------

#[test]
fn the_service_describes_itself() {
    let server = Server::start();
    let mut client = server.client();
    let info = client.call("org.varlink.service.GetInfo", json!({}), &[]).unwrap().parameters;
    let interfaces = ["org.varlink.service", "org.example.toy"];
    assert_eq!(
        info,
        json!({ "vendor": "Example", "product": "toy", "version": "1", "url": "https://example.org", "interfaces": interfaces })
    );
    let mut description = |interface: &str| {
        client.call("org.varlink.service.GetInterfaceDescription", json!({ "interface": interface }), &[])
    };
    assert_eq!(description("org.example.toy").unwrap().parameters["description"], TOY);
    let own = description("org.varlink.service").unwrap().parameters;
    varlink_parser::IDL::try_from(own["description"].as_str().unwrap()).unwrap();
    let (error, parameters) = error_of(description("org.example.none"));
    assert_eq!(error, "org.varlink.service.InterfaceNotFound");
    assert_eq!(parameters, json!({ "interface": "org.example.none" }));
}

#[test]
fn the_definition_of_an_interface_can_be_checked_beforehand() {
    service().check_definitions().unwrap();
}

#[test]
fn each_standard_error_is_given_for_its_reason() {
    let server = Server::start();
    let mut client = server.client();
    let mut check = |method: &str, parameters: Value, error: &str, details: Value| {
        let name = format!("org.varlink.service.{error}");
        assert_eq!(error_of(client.call(method, parameters, &[])), (name, details), "{method}");
    };
    check(
        "org.example.none.Echo",
        json!({}),
        "InterfaceNotFound",
        json!({ "interface": "org.example.none" }),
    );
    check("org.example.toy.None", json!({}), "MethodNotFound", json!({ "method": "org.example.toy.None" }));
    check(
        "org.varlink.service.None",
        json!({}),
        "MethodNotFound",
        json!({ "method": "org.varlink.service.None" }),
    );
    check(
        "org.example.toy.Lacking",
        json!({}),
        "MethodNotImplemented",
        json!({ "method": "org.example.toy.Lacking" }),
    );
    check("org.example.toy.Forbid", json!({}), "PermissionDenied", json!({}));
    check("org.example.toy.Gate", json!({}), "ExpectedMore", json!({}));
    for (method, parameters, path) in [
        ("Echo", json!({}), "text"),
        ("Echo", json!({ "text": null }), "text"),
        ("Echo", json!({ "text": "a", "size": 1 }), "size"),
        ("Paint", json!({ "points": [{ "x": 1 }, { "x": 1, "y": "2" }] }), "points[1].y"),
        ("Paint", json!({ "points": [{ "x": 1 }], "color": "blue" }), "color"),
        ("Byte", json!({ "outer": { "number": 256 } }), "outer.number"),
    ] {
        let method = format!("org.example.toy.{method}");
        check(&method, parameters, "InvalidParameter", json!({ "parameter": path }));
    }
    let (error, parameters) = error_of(client.call("org.example.toy.Refuse", json!({}), &[]));
    assert_eq!((error.as_str(), parameters), ("org.example.toy.Refused", json!({ "reason": "no mood" })));
    client.call("org.example.toy.Echo", json!({ "text": "the connection is still good" }), &[]).unwrap();
}

// ---- the client --------------------------------------------------------------------------------------------------

#[test]
fn the_client_says_why_it_cannot_connect() {
    let check = |address: &str, expected: &str| {
        assert_eq!(Connection::connect(address).unwrap_err().to_string(), expected);
    };
    check("", "\"\" is no varlink address; write unix:PATH, unix:@NAME, or a path");
    check("unix:", "\"unix:\" is no varlink address; write unix:PATH, unix:@NAME, or a path");
    check("unix:/nowhere/at/all", "cannot connect to \"unix:/nowhere/at/all\"");
    check(
        "ssh-unix:host:/run/x",
        "cannot connect to \"ssh-unix:host:/run/x\": \"ssh-unix\" addresses are not supported by this client",
    );
    check(
        "exec:/bin/true",
        "cannot connect to \"exec:/bin/true\": \"exec\" addresses are not supported by this client",
    );
}

#[test]
fn the_client_takes_a_plain_path_and_options_behind_a_semicolon() {
    let server = Server::start();
    let path = server.path();
    for address in [path.display().to_string(), format!("unix:{};mode=0600", path.display())] {
        let mut client = Connection::connect(&address).unwrap();
        client.call("org.example.toy.Echo", json!({ "text": "" }), &[]).unwrap();
    }
}

#[test]
fn the_client_gives_up_after_its_timeout() {
    let server = Server::start();
    let mut client = server.client();
    client.set_timeout(Some(Duration::from_millis(20))).unwrap();
    let result = client.call("org.example.toy.Hang", json!({}), &[]);
    assert!(matches!(result, Err(ClientError::Transport { .. })), "{result:?}");
}

// ---- listening ---------------------------------------------------------------------------------------------------

#[test]
fn a_live_socket_is_not_stolen_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy");
    let address = format!("unix:{};mode=0660", path.display()).parse().unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");
    let ours = Listener::bind(&address).unwrap();
    assert_eq!(path.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o660);
    let refused = Listener::bind(&address).unwrap_err().to_string();
    assert!(refused.contains("another service is listening there; stop it first"), "{refused}");
    drop(ours);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "socket and lock are gone");

    // One that does not take part in the locking.
    let stranger = UnixListener::bind(&path).unwrap();
    assert!(Listener::bind(&address).is_err());
    assert!(UnixStream::connect(&path).is_ok());
    drop(stranger);

    std::fs::remove_file(&path).unwrap();
    File::create(&path).unwrap();
    let refused = Listener::bind(&address).unwrap_err().to_string();
    assert!(refused.contains("taken by something that is no socket"), "{refused}");
}

#[test]
fn an_abstract_socket_is_served() {
    let name = format!("unix:@dormouse-toy-{}", std::process::id());
    let listener = Listener::bind(&name.parse().unwrap()).unwrap();
    assert!(Listener::bind(&name.parse().unwrap()).is_err());
    let options = ServeOptions { idle_timeout: Some(Duration::from_millis(100)), ..Default::default() };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve_until(service(), vec![listener], options, std::future::pending()))
    });
    let mut client = Connection::connect(&name).unwrap();
    client.call("org.example.toy.Echo", json!({ "text": "" }), &[]).unwrap();
    thread.join().unwrap().unwrap();
}

// ---- the idle clock ----------------------------------------------------------------------------------------------

fn idle_after(msec: u64) -> ServeOptions {
    ServeOptions { idle_timeout: Some(Duration::from_millis(msec)), ..ServeOptions::default() }
}

#[test]
fn a_service_that_nobody_calls_exits_and_removes_its_socket() {
    Server::with(idle_after(50)).ended();
}

#[test]
fn an_old_idle_connection_does_not_hold_the_service_up() {
    let server = Server::with(idle_after(100));
    let mut client = server.raw();
    client.send(echo("a"));
    client.reply();
    server.ended();
    assert!(client.is_closed());
}

#[test]
fn a_running_call_and_an_open_stream_hold_the_service_up() {
    let server = Server::with(idle_after(100));
    let mut client = server.raw();
    client.send(message("Delay", json!({ "msec": 400 })));
    client.reply();
    client.send(flagged("Gate", json!({}), "more"));
    client.reply();
    sleep(Duration::from_millis(300));
    assert!(server.running());
    drop(client);
    server.ended();
}

#[test]
fn ordered_work_holds_the_service_up_after_its_client_has_left() {
    let server = Server::with(idle_after(50));
    let mut client = server.raw();
    client.send(message("Work", json!({ "msec": 400 })));
    drop(client);
    sleep(Duration::from_millis(250));
    assert!(server.running());
    server.ended();
}

#[test]
fn each_call_starts_the_idle_clock_anew() {
    let server = Server::with(idle_after(800));
    let mut client = server.raw();
    for _ in 0..6 {
        sleep(Duration::from_millis(200));
        client.send(echo("again"));
        client.reply();
    }
    assert!(server.running());
    server.ended();
}

#[test]
fn a_service_without_a_socket_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(serve(service(), Vec::new(), ServeOptions::default()));
    assert!(matches!(result, Err(ServeError::NoListener)));
}

// ---- processes ---------------------------------------------------------------------------------------------------

/// The server process of the tests below: serves what it was passed, or `TOY_LISTEN`.
#[test]
#[ignore = "not a test, but the server that other tests start"]
fn toy_server_process() {
    let Ok(idle_msec) = std::env::var("TOY_IDLE_MSEC") else { return };
    // SAFETY: the harness's main thread only waits for this one.
    let mut passed = unsafe { activation::from_environment_unchecked(activation::SERVE_NAMES) }.unwrap();
    for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        assert!(std::env::var_os(variable).is_none(), "{variable} is still there");
    }
    if let Ok(names) = std::env::var("TOY_OTHERS") {
        let others: Vec<_> = passed.others.iter().map(|other| other.name.as_str()).collect();
        assert_eq!(others.join(":"), names);
    }
    if let Ok(address) = std::env::var("TOY_LISTEN") {
        passed.listeners.push(Listener::bind(&address.parse().unwrap()).unwrap());
    }
    let idle_timeout =
        Some(Duration::from_millis(idle_msec.parse().unwrap())).filter(|limit| !limit.is_zero());
    let options = ServeOptions { idle_timeout, stop_grace: Duration::from_millis(300), ..Default::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(service(), passed.listeners, options)).unwrap();
}

/// A server process, started as systemd would.
struct Process {
    child: Child,
    notified: Option<(UnixDatagram, tempfile::TempDir)>,
}

impl Process {
    /// `socket` becomes descriptor 3, by way of stdin, so that nothing else inherits it.
    fn start(socket: Option<OwnedFd>, idle_msec: u64, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let notify_path = directory.path().join("notify");
        let notified = UnixDatagram::bind(&notify_path).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let passing = if socket.is_some() {
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=${LISTEN_FDS:-1}; "
        } else {
            ""
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{passing}exec \"$@\""), "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "toy_server_process", "--ignored", "--nocapture"])
            .env("TOY_IDLE_MSEC", idle_msec.to_string())
            .env("NOTIFY_SOCKET", notify_path)
            .envs(variables.iter().copied())
            .stdin(socket.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), notified: Some((notified, directory)) }
    }

    fn next_notification(&self) -> String {
        let mut buffer = [0; 200];
        let length = self.notified.as_ref().unwrap().0.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn assert_exits_well(mut self) {
        let mut status = None;
        await_true(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listening() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy");
    let listener = UnixListener::bind(&path).unwrap();
    (directory, path, listener)
}

fn connect(path: &Path) -> Raw {
    Raw::new(UnixStream::connect(path).unwrap())
}

#[test]
fn a_passed_socket_is_served_and_kept_and_systemd_is_told() {
    let (_directory, path, listener) = listening();
    let mut client = connect(&path);
    client.send(echo("woken"));
    let server =
        Process::start(Some(listener.try_clone().unwrap().into()), 100, &[("LISTEN_FDNAMES", "varlink")]);
    assert_eq!(server.next_notification(), "READY=1");
    assert_eq!(client.reply()["parameters"]["text"], "woken");
    assert_eq!(server.next_notification(), "STOPPING=1");
    server.assert_exits_well();
    assert!(path.exists(), "a socket that was passed is not ours to unlink");
}

#[test]
fn a_passed_connection_is_served_to_its_end() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Process::start(Some(theirs.into()), 0, &[("LISTEN_FDNAMES", "connection")]);
    let mut client = Raw::new(ours);
    client.send(echo("one") + &echo("two"));
    assert_eq!(client.reply()["parameters"]["text"], "one");
    assert_eq!(client.reply()["parameters"]["text"], "two");
    drop(client);
    server.assert_exits_well();
}

#[test]
fn a_passed_socket_of_another_name_is_left_to_others() {
    let (_directory, path, other) = listening();
    let own = path.with_extension("own");
    let address = format!("unix:{}", own.display());
    let variables = [("LISTEN_FDNAMES", "http"), ("TOY_LISTEN", &address), ("TOY_OTHERS", "http")];
    let server = Process::start(Some(other.into()), 200, &variables);
    assert_eq!(server.next_notification(), "READY=1");
    let mut client = connect(&own);
    client.send(echo("served"));
    assert_eq!(client.reply()["parameters"]["text"], "served");
    server.assert_exits_well();
    assert!(!own.exists());
}

#[test]
fn names_that_do_not_fit_the_number_of_descriptors_are_refused() {
    let (_directory, _path, listener) = listening();
    let mut server = Process::start(Some(listener.into()), 100, &[("LISTEN_FDNAMES", "varlink:http")]);
    await_true(|| server.child.try_wait().unwrap().is_some_and(|status| !status.success()));
}

#[test]
fn no_call_is_lost_when_connections_race_with_the_idle_exit() {
    const IDLE_MSEC: u64 = 30;
    let (_directory, path, listener) = listening();
    let done = Arc::new(Mutex::new(false));
    let wakes = Arc::new(AtomicUsize::new(0));
    // What systemd does: start the service whenever something waits in the queue.
    let (until, counted) = (Arc::clone(&done), Arc::clone(&wakes));
    let supervisor = std::thread::spawn(move || {
        while !*until.lock().unwrap() {
            let mut polled = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            if rustix::event::poll(&mut polled, Some(&timeout)).unwrap() > 0 {
                counted.fetch_add(1, Ordering::SeqCst);
                Process::start(Some(listener.try_clone().unwrap().into()), IDLE_MSEC, &[])
                    .assert_exits_well();
            }
        }
    });
    for round in 0..60_u64 {
        let mut client = connect(&path);
        client.send(echo(&round.to_string()));
        assert_eq!(client.reply()["parameters"]["text"], round.to_string());
        // Around the moment at which the service decides to go.
        sleep(Duration::from_micros(IDLE_MSEC * 1000 - 1000 + round * 50));
    }
    *done.lock().unwrap() = true;
    supervisor.join().unwrap();
    let wakes = wakes.load(Ordering::SeqCst);
    assert!(wakes > 1, "the service never exited in between");
}

#[test]
fn an_old_connection_is_answered_or_refused_but_never_ignored_at_the_idle_exit() {
    const IDLE_MSEC: u64 = 30;
    let (mut answered, mut refused) = (0, 0);
    for round in 0..20_u64 {
        let server = Server::with(idle_after(IDLE_MSEC));
        let mut client = server.raw();
        client.send(echo("first"));
        client.reply();
        sleep(Duration::from_micros(IDLE_MSEC * 1000 - 1000 + round * 100));
        if client.0.write_all(echo("second").as_bytes()).is_err() {
            refused += 1;
        } else {
            assert_eq!(client.reply()["parameters"]["text"], "second");
            answered += 1;
        }
    }
    assert_eq!(answered + refused, 20);
}

#[test]
fn sigterm_finishes_what_was_ordered_and_ends_streams() {
    let directory = tempfile::tempdir().unwrap();
    let (path, finished) = (directory.path().join("toy"), directory.path().join("finished"));
    let address = format!("unix:{}", path.display());
    let variables = [("TOY_LISTEN", address.as_str()), ("TOY_FINISHED", finished.to_str().unwrap())];
    let server = Process::start(None, 0, &variables);
    assert_eq!(server.next_notification(), "READY=1");
    let mut stream = connect(&path);
    stream.send(flagged("Gate", json!({}), "more"));
    stream.reply();
    let (mut idle, mut worker, mut deserter, mut waiter) =
        (connect(&path), connect(&path), connect(&path), connect(&path));
    idle.send(echo("a"));
    idle.reply();
    waiter.send(message("Hang", json!({})));
    worker.send(message("Work", json!({ "msec": 800 })));
    deserter.send(message("Work", json!({ "msec": 1000 })));
    // All of them are running once a call that was made after them is answered.
    let mut last = connect(&path);
    last.send(echo("last"));
    last.reply();
    drop(deserter);

    server.terminate();
    assert_eq!(server.next_notification(), "STOPPING=1");
    assert_eq!(server.next_notification(), "EXTEND_TIMEOUT_USEC=20000000");
    assert!(stream.is_closed());
    assert!(idle.is_closed());
    assert!(UnixStream::connect(&path).is_err(), "nobody is accepted any more");
    assert_eq!(worker.reply(), json!({ "parameters": {} }), "ordered work is finished and answered");
    assert!(waiter.is_closed(), "who only waits is let go");
    server.assert_exits_well();
    assert!(finished.exists());
    assert!(!path.exists());
}

#[test]
fn sigterm_lets_a_quick_call_finish() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy");
    let server = Process::start(None, 0, &[("TOY_LISTEN", &format!("unix:{}", path.display()))]);
    assert_eq!(server.next_notification(), "READY=1");
    let mut client = connect(&path);
    client.send(message("Delay", json!({ "msec": 100 })));
    let mut last = connect(&path);
    last.send(echo("last"));
    last.reply();
    server.terminate();
    assert_eq!(client.reply(), json!({ "parameters": {} }));
    server.assert_exits_well();
}
