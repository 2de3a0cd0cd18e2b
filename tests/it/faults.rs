//! Number of notifications that each fault causes, counted at a real snmptrapd and a real Alertmanager: one raise and
//! one clear per fault.

use std::time::Duration;

use super::support::network::Network;
use super::support::{
    Agent, Alertmanager, HttpReceiver, Request, Trapd, address, alone, id, stays, test_document, udp_port, wait_for,
};

/// Time within which any further notification would arrive: `group_wait` and `hold_down` are 1 s each.
const A_WHILE: Duration = Duration::from_secs(8);
const SETTINGS: &str = r#"{"alarm":{"group_wait":"1s","hold_down":"1s"}}"#;
const LIMITS: &str = r#","max_loss":"5%","loss_window":"3s","max_latency":"500ms""#;

/// An snmptrapd and an Alertmanager, both of which count the notifications of the same agents.
struct Receivers {
    trapd: Trapd,
    alertmanager: Alertmanager,
}

impl Receivers {
    fn start() -> Receivers {
        Receivers { trapd: Trapd::start(), alertmanager: Alertmanager::start() }
    }

    fn sinks(&self) -> String {
        let url = self.alertmanager.url();
        format!("{}[[sink]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"{url}\"\n", self.trapd.sink("standard"))
    }

    /// Returns the notifications of both receivers, without the coldStart trap and the clears of an agent's first
    /// start.
    fn messages(&self) -> (Vec<String>, Vec<String>) {
        let traps = self.trapd.traps().into_iter().filter(|trap| {
            let greets = trap.notification.ends_with("coldStart");
            !greets && !trap.value("peerpairText.0").starts_with("good; sent once")
        });
        let traps = traps.map(|trap| trap.notification.trim_start_matches("PEERPAIR-MIB::peerpair").to_owned());
        (traps.collect(), self.alertmanager.notified())
    }

    /// Waits until both receivers have these notifications, and checks that no further one follows.
    #[track_caller]
    fn expect(&self, what: &str, traps: &[&str], alerts: &[&str]) {
        wait_for(what, || {
            let (traps_seen, alerts_seen) = self.messages();
            (traps_seen.len() >= traps.len() && alerts_seen.len() >= alerts.len()).then_some(())
        });
        stays(&format!("{what}: {:?}", self.messages()), A_WHILE, || {
            let (traps_seen, alerts_seen) = self.messages();
            (traps_seen.len(), alerts_seen.len()) == (traps.len(), alerts.len())
        });
        let (traps_seen, alerts_seen) = self.messages();
        assert_eq!(traps_seen, traps, "{what}");
        assert_eq!(alerts_seen, alerts, "{what}");
    }
}

/// Returns the documents of a full mesh between `hosts`, with `each` tests per direction, as pairs of path and text.
fn mesh(hosts: &[(&str, String)], each: u8) -> Vec<(String, String)> {
    let mut documents = Vec::new();
    let mut n = 0;
    for (from, from_address) in hosts {
        for (to, to_address) in hosts.iter().filter(|(to, _)| to != from) {
            for _ in 0..each {
                n += 1;
                let (source, _) = from_address.rsplit_once(':').unwrap();
                let document = test_document(n, (from, &format!("{source}:0")), (to, to_address), LIMITS);
                documents.push((format!("tests/{from}/{n}.json"), document.clone()));
                documents.push((format!("tests/{to}/{n}.json"), document));
            }
        }
    }
    documents.push(("config.json".into(), SETTINGS.into()));
    documents
}

fn place() -> String {
    let addr = address();
    format!("{addr}:{}", udp_port(&addr))
}

/// Returns the documents that a host reads: its own tests and the config.
fn of<'a>(host: &str, documents: &'a [(String, String)]) -> Vec<(&'a str, String)> {
    let own = format!("tests/{host}/");
    let of_host = documents.iter().filter(|(path, _)| path.starts_with(&own) || path == "config.json");
    of_host.map(|(path, text)| (path.as_str(), text.clone())).collect()
}

/// Waits until all tests received by this agent are up, no alarm is raised and no notification is pending.
#[track_caller]
fn wait_calm(agent: &Agent, tests: usize) {
    agent.wait_status("all tests up and nothing to tell", |status| {
        let received = |test: &&serde_json::Value| test["role"] == "receiver" && test["condition"] == "up";
        let up = status["tests"].as_array()?.iter().filter(received).count();
        let settled = status["sinks"].as_array()?.iter().all(|sink| sink["pending"] == 0);
        (up == tests && settled && status["alarms"].as_array()?.is_empty()).then_some(())
    });
}

/// Starts the agents `x` and `b` with fifteen tests in each direction, and waits until all are up.
fn pair(receivers: &Receivers) -> (Agent, Agent) {
    let documents = mesh(&[("x", place()), ("b", place())], 15);
    let x = Agent::with_dir("x", &of("x", &documents), "");
    let b = Agent::with_dir("b", &of("b", &documents), &receivers.sinks());
    wait_calm(&b, 15);
    wait_calm(&x, 15);
    (x, b)
}

#[test]
fn killed_host_causes_one_notification_and_its_return_one_clear() {
    let _alone = alone();
    let receivers = Receivers::start();
    let (mut x, b) = pair(&receivers);
    x.kill();
    receivers.expect("the host is down", &["GroupDown"], &["firing"]);
    let found = receivers.alertmanager.query("from=\"x\"");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["annotations"]["summary"], "x → b: connection DOWN");
    x.restart();
    receivers.expect("the host is back", &["GroupDown", "GroupUp"], &["firing", "resolved"]);
    assert_eq!(x.logged("alarm raised"), 0, "{}", x.log());
    assert!(b.status()["alarms"].as_array().unwrap().is_empty());
}

#[test]
fn planned_stop_and_start_causes_no_notification() {
    let _alone = alone();
    let receivers = Receivers::start();
    let (mut x, b) = pair(&receivers);
    x.signal(nix::sys::signal::Signal::SIGTERM);
    x.wait_exit();
    b.wait_condition(1, "receiver", "paused");
    receivers.expect("nothing of the stop", &[], &[]);
    x.restart();
    wait_calm(&b, 15);
    receivers.expect("nothing of the start", &[], &[]);
    assert_eq!((x.logged("alarm raised"), b.logged("alarm raised")), (0, 0), "{}", b.log());
}

/// Three hosts run ten tests in each direction between any two; one link is cut in both directions, and repaired.
#[test]
fn cut_link_in_a_mesh_causes_one_notification_from_each_end() {
    let Some(network) = Network::pair() else { return };
    let _alone = alone();
    let receivers = network.a.run(Receivers::start);
    let hosts = [1, 2, 3].map(|n| (["h1", "h2", "h3"][n - 1], format!("127.0.1.{n}:8620")));
    let documents = mesh(&hosts, 10);
    let agents = hosts
        .each_ref()
        .map(|(host, _)| Agent::within(&network.a, host, &of(host, &documents), &receivers.sinks(), &[]));
    agents.iter().for_each(|agent| wait_calm(agent, 20));
    network.a.on_input("ip saddr . ip daddr { 127.0.1.1 . 127.0.1.2, 127.0.1.2 . 127.0.1.1 } counter drop");
    receivers.expect("one word of each end", &["GroupDown"; 2], &["firing"; 2]);
    network.a.heal();
    let traps = ["GroupDown", "GroupDown", "GroupUp", "GroupUp"];
    receivers.expect("and one of its end", &traps, &["firing", "firing", "resolved", "resolved"]);
}

/// A webhook receiver that always refuses one alarm must still get the others, as must snmptrapd.
#[test]
fn receiver_that_refuses_one_alarm_gets_the_others() {
    let (choosy, trapd) = (HttpReceiver::start(), Trapd::start());
    choosy.refuse(&id(1));
    let to = place();
    let document = |n: u8, from: &str| test_document(n, (from, "127.0.0.2:0"), ("b", &to), r#","hold_down":"200ms""#);
    let path = |n: u8| format!("tests/b/{n}.json");
    let documents: Vec<(String, String)> = (1..=6)
        .map(|n| (path(n), document(n, "a")))
        .chain([("config.json".into(), r#"{"alarm":{"group_min":0}}"#.into())])
        .collect();
    let documents: Vec<(&str, String)> = documents.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let sink = format!("[[sink]]\nname = \"choosy\"\nkind = \"webhook\"\nurl = \"{}\"\n", choosy.url());
    let agent = Agent::with_dir("b", &documents, &format!("{sink}{}", trapd.sink("standard")));
    let notified = |state: &str| {
        let alerts = |request: &Request| request.json()["alerts"].as_array().cloned().unwrap_or_default();
        let taken = choosy.taken();
        let all = taken.iter().flat_map(alerts).filter(|alert| alert["status"] == state);
        all.map(|alert| alert["labels"]["test"].as_str().unwrap_or_default().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let others: std::collections::BTreeSet<String> = (2..=6).map(id).collect();
    wait_for("the other alarms", || others.is_subset(&notified("firing")).then_some(()));
    wait_for("all of them", || (trapd.notifications(&["ConnectionDown"]).len() >= 6).then_some(()));
    wait_for("another attempt at the refused one", || {
        (choosy.requests().iter().filter(|request| request.status == 500).count() >= 2).then_some(())
    });
    for n in 1..=6 {
        agent.document(&path(n), &document(n, "b"));
    }
    wait_for("the other clears", || others.is_subset(&notified("resolved")).then_some(()));
    wait_for("all clears", || (trapd.notifications(&["ConnectionUp"]).len() >= 6).then_some(()));
}
