//! Listening, the idle clock.

use crate::toy::*;

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
