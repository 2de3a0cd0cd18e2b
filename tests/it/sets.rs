//! Set documents, each of which defines many tests between groups of hosts: meshes, any-of-many senders, exceptions
//! for single pairs, and floating addresses.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Agent, Etcd, Flavour, address, http, in_namespace_of, spawn, stays, tcp_port, udp_port, wait_for, write,
};

const QUICK: &str = r#""send_every":"50ms","expect_every":"100ms","startup_grace":"2s""#;

fn host(addr: &str) -> String {
    format!(r#"{{"addresses":{{"default":"{addr}"}},"groups":["all"]}}"#)
}

/// Returns an agent's tests in a role, sorted, as pairs of `from → to` and the test's part of the status.
fn tests(agent: &Agent, role: &str) -> Vec<(String, Value)> {
    let status = agent.status();
    let of_role = status["tests"].as_array().unwrap().iter().filter(|test| test["role"] == role);
    let mut tests: Vec<(String, Value)> = of_role
        .map(|test| {
            (format!("{} → {}", test["from_host"].as_str().unwrap(), test["to_host"].as_str().unwrap()), test.clone())
        })
        .collect();
    tests.sort_by(|a, b| a.0.cmp(&b.0));
    tests
}

fn wait_up(agent: &Agent, paths: &[&str]) {
    wait_for(&format!("{paths:?} up"), || {
        let tests = tests(agent, "receiver");
        let found: Vec<&str> = tests.iter().map(|(path, _)| path.as_str()).collect();
        (found == paths && tests.iter().all(|(_, test)| test["condition"] == "up")).then_some(())
    });
}

/// A third host joins a mesh and leaves it, without any effect on the test between the other two.
#[test]
fn host_joins_and_leaves_a_mesh_without_affecting_other_tests() {
    let etcd = Etcd::of(Flavour::V3Of34);
    let addresses: Vec<String> = (0..3).map(|_| address()).collect();
    let port = udp_port(&addresses[0]);
    let names = ["a", "b", "c"];
    for (name, addr) in names.iter().zip(&addresses).take(2) {
        etcd.put(&format!("hosts/{name}"), &host(addr));
    }
    etcd.put(
        "sets/mesh",
        &format!(
            r#"{{"description":"all to all","topology":"mesh","from":{{"groups":["all"],"port":{port}}},{QUICK}}}"#
        ),
    );
    let agents: Vec<Agent> = names.iter().map(|name| Agent::with_etcd(name, etcd.port(), "")).collect();
    wait_up(&agents[0], &["b → a"]);
    wait_up(&agents[1], &["a → b"]);
    let before = tests(&agents[0], "receiver")[0].1.clone();
    assert_eq!((&before["set"], &before["description"]), (&"mesh".into(), &"all to all".into()));

    etcd.put("hosts/c", &host(&addresses[2]));
    wait_up(&agents[0], &["b → a", "c → a"]);
    wait_up(&agents[1], &["a → b", "c → b"]);
    wait_up(&agents[2], &["a → c", "b → c"]);
    let after = tests(&agents[0], "receiver")[0].1.clone();
    assert_eq!(after["since"], before["since"]);
    assert!(after["counters"]["received"].as_u64() > before["counters"]["received"].as_u64());

    // A disabled host leaves the mesh at once on every agent.
    etcd.put("hosts/c", &host(&addresses[2]).replacen('{', r#"{"enabled":false,"#, 1));
    wait_up(&agents[0], &["b → a"]);
    wait_up(&agents[1], &["a → b"]);
    assert!(agents.iter().all(|agent| agent.logged("alarm raised") == 0), "{}", agents[0].log());
}

/// Editors and scripts may remove a host's document and write it again; within the removal grace, no test stops.
#[test]
fn tests_continue_when_a_host_document_is_removed_and_rewritten() {
    let etcd = Etcd::of(Flavour::V3Of35);
    let (a, b) = (address(), address());
    etcd.put("hosts/a", &host(&a));
    etcd.put("hosts/b", &host(&b));
    etcd.put(
        "sets/s",
        &format!(r#"{{"from":{{"hosts":["a"]}},"to":{{"hosts":["b"],"port":{}}},{QUICK}}}"#, udp_port(&b)),
    );
    let (sender, receiver) = (Agent::with_etcd("a", etcd.port(), ""), Agent::with_etcd("b", etcd.port(), ""));
    wait_up(&receiver, &["a → b"]);
    let since = tests(&receiver, "receiver")[0].1["since"].clone();
    let sent = || sender.status()["senders"][0]["sent"].as_u64();
    let before = sent();
    etcd.delete("hosts/a");
    receiver
        .wait_status("the removal", |status| (status["store"]["revision"].as_u64()? >= etcd.revision()).then_some(()));
    stays("it goes on", Duration::from_secs(2), || tests(&receiver, "receiver").len() == 1);
    etcd.put("hosts/a", &host(&a));
    wait_for("more probes", || (sent() > before.map(|sent| sent + 20)).then_some(()));
    assert_eq!(tests(&receiver, "receiver")[0].1["since"], since);
}

/// Either of the two senders suffices to keep the receiver's test up; without any, it goes down.
#[test]
fn test_expecting_any_sender_is_up_while_one_sends() {
    let etcd = Etcd::of(Flavour::V3Of34);
    let (a, b, r) = (address(), address(), address());
    for (name, addr) in [("a", &a), ("b", &b), ("r", &r)] {
        etcd.put(&format!("hosts/{name}"), &host(addr));
    }
    let to = format!("{r}:{}", udp_port(&r));
    etcd.put(
        "sets/lb",
        &format!(r#"{{"from":{{"hosts":["a","b"]}},"to":{{"hosts":["r"],"at":"{to}"}},"expect":"any",{QUICK}}}"#),
    );
    let receiver = Agent::with_etcd("r", etcd.port(), "");
    let mut first = Agent::with_etcd("a", etcd.port(), "");
    wait_up(&receiver, &["any of 2 hosts → r"]);
    let mut second = Agent::with_etcd("b", etcd.port(), "");
    second.wait_status("that it sends", |status| (status["senders"][0]["sent"].as_u64()? > 10).then_some(()));
    first.kill();
    stays("it is up", Duration::from_secs(3), || tests(&receiver, "receiver")[0].1["condition"] == "up");
    let counters = tests(&receiver, "receiver")[0].1["counters"].clone();
    assert_eq!((&counters["stale"], &counters["duplicates"]), (&0.into(), &0.into()), "{counters}");
    second.kill();
    wait_for("its end", || (tests(&receiver, "receiver")[0].1["condition"] == "down").then_some(()));
    assert_eq!(receiver.logged("kind=\"unknown_packet\""), 0, "{}", receiver.log());
}

/// A test document takes precedence over a set, so it can disable a single pair.
#[test]
fn test_document_disables_one_pair_of_a_set() {
    let (a, b, c) = (address(), address(), address());
    let port = udp_port(&c);
    let set = format!(r#"{{"from":{{"hosts":["a","b"]}},"to":{{"hosts":["c"],"port":{port}}},{QUICK}}}"#);
    let agent = Agent::with_dir(
        "c",
        &[("hosts/a.json", host(&a)), ("hosts/b.json", host(&b)), ("hosts/c.json", host(&c)), ("sets/s.json", set)],
        "",
    );
    wait_for("two tests", || (tests(&agent, "receiver").len() == 2).then_some(()));
    let id = tests(&agent, "receiver")[0].1["id"].as_str().unwrap().to_owned();
    let off = format!(r#"{{"enabled":false,"from_host":"a","to_host":"c","to":"{c}:{port}"}}"#);
    agent.document(&format!("tests/c/{id}.json"), &off);
    wait_for("one test", || (tests(&agent, "receiver").len() == 1).then_some(()));
    assert_eq!(tests(&agent, "receiver")[0].0, "b → c");
}

/// A floating address moves between hosts: probes are expected only where the address is present, and its absence
/// raises no alarm. The agents run in a network namespace of their own, on whose loopback interface the address is
/// added and removed.
#[test]
fn floating_address_moves_test_between_standby_and_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (web, port) = (tcp_port(), 8621);
    let set = format!(
        r#"{{"from":{{"hosts":["a"]}},"to":{{"hosts":["b"],"at":"198.51.100.7:{port}"}},"when_absent":"standby",{QUICK}}}"#
    );
    for (name, text) in [("hosts/a", &host("127.0.0.1")), ("hosts/b", &host("127.0.0.2")), ("sets/vip", &set)] {
        write(&path(&format!("documents/{name}.json")), text);
    }
    let bootstrap = |host: &str, web: &str| {
        format!(
            "host = \"{host}\"\nstate_dir = \"state\"\n[store]\nkind = \"dir\"\npath = \"documents\"\n[web]\nlisten = \"{web}\"\n"
        )
    };
    write(&path("b.toml"), &bootstrap("b", &format!("127.0.0.1:{web}")));
    write(&path("a.toml"), &bootstrap("a", ""));
    let log = std::fs::File::create(path("log")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", env!("CARGO_BIN_EXE_peerpair"), "run", "--config"]).arg(path("b.toml"));
    let receiver = spawn(command.stdin(Stdio::null()).stderr(log), "util-linux");
    let pid = receiver.pid();
    wait_for("its namespace", || {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        (of(&pid.to_string())? != of("self")?).then_some(())
    });
    let inside = |arguments: &[&str]| {
        in_namespace_of(pid, || Command::new("ip").args(arguments).status().expect("iproute2").success())
    };
    assert!(inside(&["link", "set", "lo", "up"]));
    let sender = in_namespace_of(pid, || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
        command.args(["run", "--config"]).arg(path("a.toml")).stdin(Stdio::null()).stderr(Stdio::null());
        spawn(&mut command, "peerpair")
    });
    let wait_condition = |condition: &str| {
        wait_for(condition, || {
            let (_, body) = in_namespace_of(pid, || http(web, "GET", "/status.json", "")).ok()?;
            let status: Value = serde_json::from_str(&body).ok()?;
            (status["tests"][0]["condition"] == condition).then_some(())
        });
    };
    wait_condition("standby");
    for _ in 0..2 {
        assert!(inside(&["addr", "add", "198.51.100.7/32", "dev", "lo"]));
        wait_condition("up");
        assert!(inside(&["addr", "del", "198.51.100.7/32", "dev", "lo"]));
        wait_condition("standby");
    }
    let text = std::fs::read_to_string(path("log")).unwrap();
    let notified = text.lines().filter(|line| line.contains("alarm raised") && line.contains("connection")).count();
    assert_eq!(notified, 0, "{text}");
    drop(sender);
}
