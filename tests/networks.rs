//! Networks with real traffic: from the host to a container, from container to container, by address, port and name.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod network_support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use common::{Container, Host, Leaks, assert_refused, wait_until};
use network_support::{
    UdpEcho, address, ask, ask_until, assert_no_traces, create, network_host, on, port, traces, web_server,
};
use serde_json::{Value, json};

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// What a container hears from a server, empty if nothing.
fn hears(container: &Container<'_>, server: &str) -> String {
    let reply = container.exec(&format!("nc -w 3 {server} 80 </dev/null 2>&1"));
    let said = reply["stdout"].as_str().unwrap().trim().to_owned();
    if reply["exitCode"] == 0 { said } else { String::new() }
}

#[test]
fn a_container_is_reached_by_address_and_reaches_the_host_and_leaves_no_trace() {
    let Some(host) = network_host() else { return };
    let leaks = Leaks::before(&host);
    let network = create(&host, "one", json!({}));
    let web = on(web_server(&host, "hello"), &["one"]).named("web").run();
    let inside = address(&web);
    assert_eq!(ask_until(socket(&inside, 80)), "hello");
    let details = web.inspect();
    let status = &details["networks"][0];
    assert_eq!((&status["network"], &status["interface"]), (&json!("one"), &json!("eth0")));
    assert_eq!(status["gateways"][0], network["subnets"][0]["gateway"]);
    let mac = web.exec_output("cat /sys/class/net/eth0/address");
    assert_eq!(status["mac"], mac.trim());
    assert!(web.exec_output("ip -4 addr show eth0").contains(&inside));
    let gateway = status["gateways"][0].as_str().unwrap();
    let listener = TcpListener::bind((gateway, 0)).unwrap();
    let (gateway, number) = (gateway.to_owned(), listener.local_addr().unwrap().port());
    let said = std::thread::spawn(move || {
        use std::io::Read as _;
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    web.exec_output(&format!("echo out | nc -w 3 {gateway} {number}"));
    assert_eq!(said.join().unwrap(), "out\n");
    assert!(!traces(&host, std::slice::from_ref(&network)).is_empty(), "the look for traces sees them");
    web.stop().unwrap();
    assert_eq!(web.summary()["addresses"], json!([]));
    // At once: the network is down before the end is told.
    assert!(!host.run_dir().join("netns").join(web.id()).exists());
    web.start().unwrap();
    assert_eq!(address(&web), inside, "the same container has the same address again");
    assert_eq!(ask_until(socket(&inside, 80)), "hello");
    web.remove_by_force().unwrap();
    assert_no_traces(&host, std::slice::from_ref(&network));
    host.call("Network.Remove", json!({"name": "one"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_published_port_leads_to_the_container_from_the_host_and_from_beside() {
    let Some(host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let published = json!({"ports": [{"containerPort": 80}]});
    let web = on(web_server(&host, "hello"), &["one"]).with(published).named("web").run();
    let number = port(&web);
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    let gateway = network["subnets"][0]["gateway"].as_str().unwrap();
    assert_eq!(ask(socket(gateway, number)).unwrap(), "hello");
    let other = on(host.sleeper(), &["one"]).run();
    assert_eq!(other.exec_output(&format!("nc -w 3 {gateway} {number} </dev/null")).trim(), "hello");

    // Taken, by a container and by the host: told before anything starts.
    let refusal = assert_refused(
        on(host.sleeper(), &["one"])
            .with(json!({"ports": [{"containerPort": 1, "hostPort": number}]}))
            .try_run(),
        "PortInUse",
    );
    assert_eq!((&refusal.parameters["port"], &refusal.parameters["holder"]), (&json!(number), &json!("web")));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let taken = listener.local_addr().unwrap().port();
    let plan = on(host.sleeper(), &["one"]).with(json!({"ports": [{"containerPort": 1, "hostPort": taken}]}));
    let refusal = assert_refused(plan.try_run(), "PortInUse");
    assert_eq!((&refusal.parameters["port"], &refusal.parameters["holder"]), (&json!(taken), &Value::Null));
    drop(listener);
    plan.run().remove_by_force().unwrap();

    // Free again when it has ended.
    web.stop().unwrap();
    assert!(ask((Ipv4Addr::LOCALHOST, number)).is_err());
    let again = on(web_server(&host, "again"), &["one"])
        .with(json!({"ports": [{"containerPort": 80, "hostPort": number, "hostIp": "127.0.0.1"}]}))
        .run();
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "again");
    assert!(ask(socket(gateway, number)).is_err(), "only on the address that was asked for");
    for container in [&again, &other, &web] {
        container.remove_by_force().unwrap();
    }
    assert_no_traces(&host, &[network]);
}

#[test]
fn bytes_of_each_interface_are_counted() {
    let Some(host) = network_host() else { return };
    let networks = [create(&host, "one", json!({})), create(&host, "two", json!({}))];
    let server =
        on(host.sh("while :; do nc -l -p 80 -e head -c 3000000 /dev/zero; done"), &["one", "two"]).run();
    let client = on(host.sleeper(), &["one"]).run();
    let interfaces = || {
        let reply = host.call("Container.Stats", json!({"names": [server.name]})).unwrap();
        reply["stats"][0]["interfaces"].as_array().unwrap().clone()
    };
    let count = |interface: &Value, field: &str| interface[field].as_i64().unwrap();
    let before = interfaces();
    assert_eq!(before.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["eth0", "eth1"]);
    let inside = address(&server);
    ask_until((inside.parse::<IpAddr>().unwrap(), 80));
    let received = client.exec_output(&format!("nc -w 5 {inside} 80 </dev/null | wc -c"));
    assert_eq!(received.trim(), "3000000");
    let after = interfaces();
    assert!(count(&after[0], "sentBytes") - count(&before[0], "sentBytes") >= 3_000_000, "{after:?}");
    assert!(count(&after[0], "sentPackets") > count(&before[0], "sentPackets"));
    assert!(count(&after[0], "receivedBytes") > count(&before[0], "receivedBytes"));
    assert!(count(&after[1], "sentBytes") < 100_000, "the other network saw none of it: {after:?}");
    for container in [&server, &client] {
        container.remove_by_force().unwrap();
    }
    assert_no_traces(&host, &networks);
}

#[test]
fn a_published_port_is_taken_as_long_as_the_container_runs() {
    let Some(mut host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let ports = json!({"ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "udp"}],
                       "restart": {"mode": "always"}});
    let (number, udp) = {
        let web = on(web_server(&host, "hello"), &["one"]).with(ports).named("web").run();
        let published = web.summary()["ports"].clone();
        let port = |index: usize| u16::try_from(published[index]["hostPort"].as_u64().unwrap()).unwrap();
        (port(0), port(1))
    };
    let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()];
    let is_taken = || {
        // The standard library's listener sets SO_REUSEADDR, as servers do.
        all.iter().all(|address| TcpListener::bind((*address, number)).is_err())
            && all.iter().all(|address| UdpSocket::bind((*address, udp)).is_err())
    };
    assert!(is_taken());
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    let summary =
        |host: &Host| host.call("Container.Inspect", json!({"name": "web"})).unwrap()["container"].clone();
    // It stays so over restarts by the monitor, and when the container gets another monitor.
    let init = summary(&host)["summary"]["pid"].as_i64().unwrap();
    let kill = |pid: i64| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    kill(init);
    wait_until("it is restarted", || summary(&host)["summary"]["restarts"] == 1);
    wait_until("it runs", || summary(&host)["summary"]["state"] == "running");
    assert!(is_taken());
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    let monitor = summary(&host)["monitorPid"].as_i64().unwrap();
    kill(monitor);
    host.crash();
    host.wake();
    wait_until("it has another monitor", || {
        let now = summary(&host)["monitorPid"].as_i64();
        now.is_some() && now != Some(monitor)
    });
    assert!(is_taken());
    host.call("Container.Stop", json!({"name": "web", "timeoutUSec": 0})).unwrap();
    for address in all {
        TcpListener::bind((address, number)).unwrap();
        UdpSocket::bind((address, udp)).unwrap();
    }
    host.call("Container.Remove", json!({"name": "web"})).unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn ports_of_udp_and_ranges_are_published_too() {
    let Some(host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let plan = on(host.sleeper(), &["one"])
        .with(json!({"ports": [{"containerPort": 5000, "range": 2, "protocol": "udp"}]}));
    let container = plan.run();
    let echoes = [5000, 5001].map(|port| UdpEcho::start(&container, port));
    let first = port(&container);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for number in [first, first + 1] {
        wait_until("the datagram comes back", || {
            client.send_to(b"ping", ("127.0.0.1", number)).unwrap();
            let mut buffer = [0; 16];
            matches!(client.recv_from(&mut buffer), Ok((4, from)) if from.port() == number && &buffer[..4] == b"ping")
        });
    }
    drop(echoes);
    container.remove_by_force().unwrap();
    let sctp =
        on(host.sleeper(), &["one"]).with(json!({"ports": [{"containerPort": 1, "protocol": "sctp"}]}));
    let known = std::fs::read_to_string("/proc/net/protocols").unwrap().contains("SCTP");
    match sctp.try_run() {
        Ok(_) => {}
        Err(refusal) => {
            assert!(!known, "{refusal:?}");
            assert_eq!(refusal.name(), "Unsupported", "{refusal:?}");
        }
    }
    for name in host.names() {
        host.call("Container.Remove", json!({"name": name, "force": true})).unwrap();
    }
    assert_no_traces(&host, &[network]);
}

#[test]
fn containers_find_each_other_by_name_and_alias_and_only_on_their_network() {
    let Some(host) = network_host() else { return };
    let networks = [create(&host, "one", json!({})), create(&host, "two", json!({}))];
    let web = web_server(&host, "hello")
        .with(json!({"networks": [{"network": "one", "aliases": ["www"]}]}))
        .named("web")
        .run();
    let beside = on(host.sleeper(), &["one"]).named("beside").run();
    let far = on(host.sleeper(), &["two"]).named("far").run();
    let inside = address(&web);
    ask_until(socket(&inside, 80));
    for name in ["web", "www", inside.as_str()] {
        wait_until("the server is heard by its name", || hears(&beside, name) == "hello");
        assert_eq!(hears(&far, name), "", "{name} is heard on another network");
    }
    let gateway = networks[0]["subnets"][0]["gateway"].as_str().unwrap();
    assert!(beside.exec_output("cat /etc/resolv.conf").contains(&format!("nameserver {gateway}")));

    // One that is on both is heard on both.
    host.call("Network.Connect", json!({"name": "two", "container": "web", "aliases": ["late"]})).unwrap();
    for name in ["web", "late"] {
        wait_until("the server is heard on its second network", || hears(&far, name) == "hello");
    }
    assert!(web.exec_output("ip -4 addr show eth1").contains("inet "));
    assert_eq!(web.inspect()["networks"].as_array().unwrap().len(), 2);
    let hosts = web.exec_output("cat /etc/hosts");
    let second = web.inspect()["networks"][1]["addresses"][0].as_str().unwrap().to_owned();
    let second = second.split('/').next().unwrap();
    assert!(hosts.contains(second), "{hosts}");
    assert_refused(
        host.call("Network.Connect", json!({"name": "two", "container": "web"})),
        "AlreadyConnected",
    );

    host.call("Network.Disconnect", json!({"name": "two", "container": "web"})).unwrap();
    assert_eq!(hears(&far, second), "");
    assert!(!web.exec_output("cat /etc/hosts").contains(second));
    assert_refused(
        host.call("Network.Disconnect", json!({"name": "two", "container": "web"})),
        "NotConnected",
    );
    // Who tells names reads them again meanwhile.
    wait_until("the first network goes on", || hears(&beside, "web") == "hello");
    for container in [&web, &beside, &far] {
        container.remove_by_force().unwrap();
    }
    assert_no_traces(&host, &networks);
}

#[test]
fn a_network_of_ipv6_carries_ipv6() {
    let Some(host) = network_host() else { return };
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    }
    let network = create(&host, "six", json!({"ipv6": true}));
    let web = on(web_server(&host, "hello"), &["six"]).with(json!({"ports": [{"containerPort": 80}]})).run();
    let addresses = web.summary()["addresses"].as_array().unwrap().clone();
    let six = addresses.iter().filter_map(Value::as_str).find(|text| text.contains(':')).unwrap();
    assert_eq!(ask_until(socket(six, 80)), "hello");
    let gateway = network["subnets"][1]["gateway"].as_str().unwrap();
    wait_until("the port leads there too", || {
        ask(socket(gateway, port(&web))).is_ok_and(|said| said == "hello")
    });
    let other = on(host.sleeper(), &["six"]).run();
    assert_eq!(hears(&other, six), "hello");
    for container in [&web, &other] {
        container.remove_by_force().unwrap();
    }
    assert_no_traces(&host, &[network]);
}

#[test]
fn without_a_network_there_is_no_way_out_and_a_shared_one_is_the_same() {
    let Some(host) = network_host() else { return };
    let routes = host.sh("ip route; ip -o link | wc -l").output();
    assert_eq!(routes.trim(), "1", "only the loopback interface, and no route");
    let hosts = host.sh("cat /etc/hosts").named("lonely").output();
    assert!(hosts.contains("127.0.0.1\tlocalhost") && hosts.contains("lonely"), "{hosts}");
    let network = create(&host, "one", json!({}));
    let web = on(web_server(&host, "hello"), &["one"]).named("web").run();
    ask_until(socket(&address(&web), 80));
    let join = json!({"networkNamespace": {"kind": "container", "container": "web"}});
    let script = "nc -w 3 127.0.0.1 80 </dev/null; cat /etc/hosts";
    let said = host.sh(script).with(join).output();
    assert!(said.starts_with("hello\n") && said.contains(&address(&web)), "{said}");
    let outside = host.sh("ip -o link").with(json!({"networkNamespace": {"kind": "host"}})).output();
    assert!(outside.contains(network["interface"].as_str().unwrap()), "{outside}");
    web.remove_by_force().unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn what_is_asked_for_is_given() {
    let Some(host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let subnet = network["subnets"][0]["subnet"].as_str().unwrap();
    let wanted = format!("{}.77", subnet.rsplit_once('.').unwrap().0);
    let attachment =
        json!({"network": "one", "addresses": [wanted], "mac": "02:00:00:00:be:ef", "interface": "host0"});
    let plan = host.sleeper().with(json!({
        "networks": [attachment], "hostname": "inner", "extraHosts": {"db": "192.0.2.7", "up": "host-gateway"},
        "dnsSearch": ["corp.example"], "dnsOptions": ["ndots:2"],
    }));
    let container = plan.clone().named("first").run();
    assert_eq!(address(&container), wanted);
    assert_eq!(container.exec_output("cat /sys/class/net/host0/address").trim(), "02:00:00:00:be:ef");
    let resolv = container.exec_output("cat /etc/resolv.conf");
    assert!(resolv.contains("search corp.example\n") && resolv.contains("options ndots:2\n"), "{resolv}");
    let hosts = container.exec_output("cat /etc/hosts");
    let gateway = network["subnets"][0]["gateway"].as_str().unwrap();
    for line in ["192.0.2.7\tdb".to_owned(), format!("{gateway}\tup"), format!("{wanted}\tinner first")] {
        assert!(hosts.lines().any(|have| have == line), "{line} is not in {hosts}");
    }
    assert_eq!(container.exec_output("cat /etc/hostname"), "inner\n");
    let refusal = assert_refused(plan.named("second").try_run(), "AddressInUse");
    assert_eq!(refusal.parameters["holder"], "first");
    assert_eq!(host.names(), ["first"]);
    for (fields, name) in [
        (json!({"networks": [{"network": "missing"}]}), "NetworkNotFound"),
        (json!({"networks": [{"network": "one", "addresses": ["198.51.100.1"]}]}), "InvalidSpec"),
        (json!({"networks": [{"network": "one", "addresses": [gateway]}]}), "InvalidSpec"),
        (json!({"networks": [{"network": "one"}], "networkNamespace": {"kind": "host"}}), "InvalidSpec"),
        (json!({"networks": [], "ports": [{"containerPort": 80}]}), "InvalidSpec"),
        (
            json!({"networks": [{"network": "one"}], "ports": [{"containerPort": 80, "hostIp": "198.51.100.1"}]}),
            "InvalidSpec",
        ),
    ] {
        assert_refused(host.sleeper().with(fields).try_run(), name);
    }
    assert_eq!(host.names(), ["first"], "what could not be started is gone");
    container.remove_by_force().unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn networks_are_listed_removed_and_pruned_and_refuse_what_can_not_be() {
    let Some(host) = network_host() else { return };
    let one = create(&host, "one", json!({"labels": {"purpose": "test"}}));
    create(&host, "two", json!({"internal": true}));
    let container = on(host.sleeper(), &["one"]).create();
    let names = |filter: Value| -> Vec<String> {
        let reply = host.call("Network.List", filter).unwrap();
        let name = |network: &Value| network["name"].as_str().unwrap().to_owned();
        reply["networks"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(json!({})), ["one", "two"]);
    assert_eq!(names(json!({"labels": {"purpose": ""}})), ["one"]);
    assert_eq!(names(json!({"names": [one["id"].as_str().unwrap()[..8]]})), ["one"]);
    let refusal = assert_refused(host.call("Network.Remove", json!({"name": "one"})), "InUse");
    assert_eq!(refusal.parameters["containers"], json!([container.name]));
    assert_eq!(host.call("Network.Prune", json!({})).unwrap()["removed"], json!(["two"]));
    host.call("Network.Remove", json!({"name": "one", "force": true})).unwrap();
    assert_eq!(names(json!({})), [""; 0]);
    assert_refused(host.call("Network.Inspect", json!({"name": "one"})), "NotFound");
    for (parameters, field) in [
        (json!({"name": "a/b"}), "name"),
        (json!({"name": "host"}), "name"),
        (json!({"name": "n", "subnets": [{"subnet": "10.1.2.3/24"}]}), "subnets[0].subnet"),
        (json!({"name": "n", "subnets": [{"subnet": "127.0.0.0/24"}]}), "subnets[0].subnet"),
        (
            json!({"name": "n", "subnets": [{"subnet": "198.18.76.0/24", "gateway": "10.0.0.1"}]}),
            "subnets[0].gateway",
        ),
        (json!({"name": "n", "interface": "much-too-long-a-name"}), "interface"),
        (json!({"name": "n", "driver": "macvlan"}), "interface"),
        (json!({"name": "n", "driver": "ipvlan", "interface": "lo"}), "subnets"),
        (json!({"name": "n", "mode": "l2"}), "mode"),
        (json!({"name": "n", "mtuBytes": 100}), "mtuBytes"),
    ] {
        let refusal = assert_refused(host.call("Network.Create", parameters), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{refusal:?}");
    }
}

#[test]
fn a_subnet_of_the_hosts_own_is_refused() {
    let Some(host) = network_host() else { return };
    let routes = std::process::Command::new("ip").args(["-4", "route"]).output().unwrap().stdout;
    let routes = String::from_utf8(routes).unwrap();
    let Some(own) = routes.lines().filter_map(|line| line.split(' ').next()).find(|net| net.contains('/'))
    else {
        eprintln!("SKIPPED: this machine has no route to a subnet");
        return;
    };
    let refusal = assert_refused(
        host.call("Network.Create", json!({"name": "n", "subnets": [{"subnet": own}]})),
        "InvalidSpec",
    );
    assert!(refusal.reason().contains("route"), "{refusal:?}");
}

#[test]
fn an_internal_network_has_no_way_out() {
    let Some(host) = network_host() else { return };
    let network = create(&host, "in", json!({"internal": true}));
    let container = on(host.sleeper(), &["in"]).run();
    assert!(!container.exec_output("ip route").contains("default"));
    container.remove_by_force().unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn networks_stay_isolated_when_another_one_goes() {
    let Some(host) = network_host() else { return };
    let networks = ["one", "two", "three"].map(|name| create(&host, name, json!({})));
    let web = on(web_server(&host, "hello"), &["one"]).run();
    let far = on(host.sleeper(), &["two"]).run();
    let inside = address(&web);
    assert_eq!(ask_until(socket(&inside, 80)), "hello");
    assert_eq!(hears(&far, &inside), "");
    on(host.sh("true"), &["three"]).output();
    wait_until("nothing is left of the third", || {
        !std::path::Path::new("/sys/class/net").join(networks[2]["interface"].as_str().unwrap()).exists()
    });
    assert_eq!(hears(&far, &inside), "", "the other two are as apart as before");
    for container in [&web, &far] {
        container.remove_by_force().unwrap();
    }
    assert_no_traces(&host, &networks);
}

#[test]
fn the_default_network_is_made_at_first_use() {
    let Some(host) = network_host() else { return };
    let unsaid = json!({"networkNamespace": null});
    let web = web_server(&host, "hello").with(unsaid).with(json!({"ports": [{"containerPort": 80}]})).run();
    assert_eq!(web.inspect()["networks"][0]["network"], "dormouse");
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, port(&web))), "hello");
    let network = host.call("Network.Inspect", json!({"name": "dormouse"})).unwrap()["network"].take();
    assert_eq!(network["containers"][0]["name"], web.name.as_str());
    web.remove_by_force().unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn firewall_rules_that_were_flushed_come_back() {
    let Some(host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let web = on(web_server(&host, "hello"), &["one"]).with(json!({"ports": [{"containerPort": 80}]})).run();
    let number = port(&web);
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    // Only the rule of this very port goes: the others are not ours.
    let rules = std::process::Command::new("iptables-save").args(["-t", "nat"]).output().unwrap().stdout;
    let rules = String::from_utf8(rules).unwrap();
    let wanted = format!("--dport {number} ");
    let rule = rules
        .lines()
        .find(|line| line.contains("-A NETAVARK-HOSTPORT-DNAT") && line.contains(&wanted))
        .unwrap();
    let delete = format!("iptables -w -t nat {}", rule.replacen("-A", "-D", 1));
    assert!(std::process::Command::new("sh").args(["-c", &delete]).status().unwrap().success());
    assert!(ask((Ipv4Addr::LOCALHOST, number)).is_err());
    let before = (address(&web), web.inspect()["networks"][0]["mac"].clone());
    let reloaded = host.call("Network.Reload", json!({"container": web.name})).unwrap();
    assert_eq!(reloaded["reloaded"], json!([web.id()]));
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    assert_eq!((address(&web), web.inspect()["networks"][0]["mac"].clone()), before);
    web.remove_by_force().unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn a_list_of_networks_tells_what_changes() {
    let Some(host) = network_host() else { return };
    let mut connection = host.connect();
    let mut replies = connection.call_more("io.dormouse.Network.List", json!({}), &[]).unwrap();
    let mut next = || common::answer(replies.next().unwrap()).unwrap();
    assert_eq!(next()["networks"], json!([]));
    let made = create(&host, "one", json!({}));
    assert_eq!(next()["networks"], json!([made]));
    host.call("Network.Remove", json!({"name": "one"})).unwrap();
    assert_eq!(next()["gone"], json!([made["id"]]));
}

/// A pair of interfaces of the host, one of which is a parent for others; they go when this is dropped.
struct Parent(String);

impl Parent {
    fn new() -> Self {
        let name = format!("dmp{}", std::process::id());
        let peer = format!("dmq{}", std::process::id());
        let ip = |words: &[&str]| {
            assert!(std::process::Command::new("ip").args(words).status().unwrap().success(), "{words:?}");
        };
        ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]);
        ip(&["link", "set", &name, "up"]);
        ip(&["link", "set", &peer, "up"]);
        Self(name)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

fn is_known(kind: &str) -> bool {
    let parent = format!("dmr{}", std::process::id());
    let child = format!("dms{}", std::process::id());
    let ip = |words: &[&str]| std::process::Command::new("ip").args(words).output().unwrap().status.success();
    let made = ip(&["link", "add", &parent, "type", "veth"])
        && ip(&["link", "add", "link", &parent, &child, "type", kind]);
    ip(&["link", "del", &parent]);
    made
}

fn containers_on_an_interface_of_the_host_reach_each_other(host: &Host, driver: &str) {
    let parent = Parent::new();
    let subnet =
        json!([{"subnet": "198.18.77.0/24", "rangeFirst": "198.18.77.10", "rangeLast": "198.18.77.20"}]);
    let network = create(host, "lan", json!({"driver": driver, "interface": parent.0, "subnets": subnet}));
    let web = on(web_server(host, "hello"), &["lan"]).run();
    let other = on(host.sleeper(), &["lan"]).run();
    assert!(address(&web).starts_with("198.18.77.1") || address(&web).ends_with(".20"), "{}", address(&web));
    wait_until("the server is heard", || hears(&other, &address(&web)) == "hello");
    let refused = on(host.sleeper(), &["lan"]).with(json!({"ports": [{"containerPort": 80}]})).try_run();
    assert_refused(refused, "InvalidSpec");
    for container in [&web, &other] {
        container.remove_by_force().unwrap();
    }
    let mut network = network;
    // The parent is the test's own, and stays.
    network["interface"] = json!("no-such-if");
    assert_no_traces(host, &[network]);
}

#[test]
fn macvlan_and_ipvlan_sit_on_an_interface_of_the_host() {
    let Some(host) = network_host() else { return };
    for driver in ["macvlan", "ipvlan"] {
        if !is_known(driver) {
            eprintln!("SKIPPED: this kernel has no {driver}");
            continue;
        }
        containers_on_an_interface_of_the_host_reach_each_other(&host, driver);
        host.call("Network.Remove", json!({"name": "lan"})).unwrap();
    }
}
