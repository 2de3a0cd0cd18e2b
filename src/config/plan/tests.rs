use super::*;
use crate::config::document::raw::{Documents, RawDocument};
use crate::config::load::Loader;
use crate::config::plan::diff::{PlanChange, difference};
use crate::config::recent_hosts::RecentHosts;
use crate::config::sink_plan::NotificationSettings;
use crate::pure::base::time::Moment;
use crate::pure::notify::log::Scope;
use proptest::prelude::*;

fn id(n: u8) -> TestId {
    TestId::from_bytes([n; 16])
}

/// Returns a document of test `n`, which sends from `from` on host `a` to `to` on host `b`.
fn document(n: u8, from: &str, to: &str, more: &str) -> (String, String) {
    let text = format!(r#"{{"id":"{}","from_host":"a","from":"{from}","to_host":"b","to":"{to}"{more}}}"#, id(n));
    (n.to_string(), text)
}

fn loaded(host: &str, given: &[(String, String)]) -> Loaded {
    let documents: Documents = given
        .iter()
        .map(|(name, text)| {
            let key = format!("tests/{host}/{name}");
            (key.clone(), Arc::new(RawDocument::of_store(&key, Ok(text.clone()), 0)))
        })
        .collect();
    let loaded = Loader::new(host).load(&documents);
    assert_eq!(loaded.findings, []);
    loaded
}

fn names(given: &[(&str, &[&str])]) -> Names {
    let resolve = |addresses: &&[&str]| Ok(addresses.iter().map(|addr| addr.parse().unwrap()).collect());
    given.iter().map(|(name, addresses)| ((*name).to_owned(), resolve(addresses))).collect()
}

fn planned(host: &str, given: &[(String, String)], names: &Names) -> Plan {
    plan(&loaded(host, given), PlanInputs { names, addresses: None }, host, &[])
}

fn listeners(plan: &Plan) -> Vec<(String, usize)> {
    plan.listeners.iter().map(|(addr, listener)| (addr.to_string(), listener.tests.len())).collect()
}

#[test]
fn names_with_the_same_address_share_a_listener() {
    let names = names(&[("localhost", &["::1", "127.0.0.1"]), ("vm", &["127.0.0.1"])]);
    let given = [
        document(1, "", "localhost:8620", ""),
        document(2, "", "127.0.0.1:8620", ""),
        document(3, "", "vm:8620", ""),
        document(4, "", "[::1]:8620", ""),
    ];
    let plan = planned("b", &given, &names);
    assert_eq!(listeners(&plan), [("127.0.0.1:8620".into(), 3), ("[::1]:8620".into(), 1)]);
    let merged: Vec<_> = plan.listeners.values().next().unwrap().names.iter().cloned().collect();
    assert_eq!(merged, ["127.0.0.1:8620", "localhost:8620", "vm:8620"]);
}

#[test]
fn a_wildcard_covers_its_family_at_its_port() {
    let given = [
        document(1, "", "10.0.0.5:8620", ""),
        document(2, "", "10.0.0.5:8621", ""),
        document(3, "", "10.9.9.9:8620", r#","listen":"0.0.0.0:8620""#),
        document(4, "", "[fd00::1]:8620", ""),
    ];
    let plan = planned("b", &given, &Names::new());
    let expected = [("0.0.0.0:8620".into(), 2), ("10.0.0.5:8621".into(), 1), ("[fd00::1]:8620".into(), 1)];
    assert_eq!(listeners(&plan), expected);
}

#[test]
fn name_with_both_families_uses_the_family_of_the_other_end() {
    let names = names(&[("db", &["10.0.0.5", "fd00::5"])]);
    let given = [document(1, "[fd00::1]:0", "db:8620", ""), document(2, "10.0.0.1:0", "db:8620", "")];
    for host in ["a", "b"] {
        let plan = planned(host, &given, &names);
        if host == "b" {
            assert_eq!(listeners(&plan), [("10.0.0.5:8620".into(), 1), ("[fd00::5]:8620".into(), 1)]);
        } else {
            assert_eq!(plan.senders[&id(1)].destination.to_string(), "[fd00::5]:8620");
            assert_eq!(plan.senders[&id(2)].destination.to_string(), "10.0.0.5:8620");
        }
    }
}

#[test]
fn senders_share_sockets_with_each_other_and_with_listeners() {
    let back = |n: u8, from: &str| {
        let (name, text) = document(n, from, "10.0.0.9:8620", "");
        (name, text.replace(r#""from_host":"a""#, r#""from_host":"b""#).replace(r#""to_host":"b""#, r#""to_host":"a""#))
    };
    let given = [
        document(1, "", "10.0.0.5:5000", ""),
        document(2, "", "10.0.0.5:6000", r#","listen":"0.0.0.0:6000""#),
        back(3, "10.0.0.5:5000"),
        back(4, "10.0.0.5:6000"),
        back(5, "10.0.0.5:0"),
        back(6, "10.0.0.5:0"),
        back(7, ""),
    ];
    let plan = planned("b", &given, &Names::new());
    let socket = |n: u8| (plan.senders[&id(n)].source.address.to_string(), plan.senders[&id(n)].source_address);
    assert_eq!(socket(3), ("10.0.0.5:5000".into(), None));
    assert_eq!(socket(4), ("0.0.0.0:6000".into(), Some("10.0.0.5".parse().unwrap())));
    assert_eq!(socket(5), socket(6));
    assert_eq!(socket(7), ("0.0.0.0:0".into(), None));
    assert_eq!(plan.sockets().len(), 4);
}

#[test]
fn unresolvable_name_is_a_fault_and_other_tests_are_planned() {
    let names: Names = [("nowhere".to_owned(), Err(ResolveError::Refused("no such host".to_owned())))].into();
    let given = [document(1, "", "nowhere:8620", ""), document(2, "", "10.0.0.5:8620", "")];
    let plan = planned("b", &given, &names);
    assert_eq!(listeners(&plan), [("10.0.0.5:8620".into(), 1)]);
    let faults: Vec<_> = plan.faults.values().map(ToString::to_string).collect();
    assert_eq!(faults, ["name `nowhere` cannot be resolved: no such host"]);
}

/// Alarms of a test keep their state while its name is being resolved or cannot be resolved.
#[test]
fn alarms_of_a_test_with_an_unresolved_name_stay_in_the_inventory() {
    let given = [document(1, "", "db:8620", ""), document(2, "", "10.0.0.5:8620", "")];
    let unresolved: Names = [("db".to_owned(), Err(ResolveError::NoAddress))].into();
    for (names, faults) in [(Names::new(), 0), (unresolved, 1)] {
        let plan = planned("b", &given, &names);
        assert_eq!(listeners(&plan), [("10.0.0.5:8620".into(), 1)]);
        assert_eq!(plan.faults.len(), faults);
        assert!(plan.possible_alarms().contains(&AlarmKey::new(Kind::Connection, Subject::Test(id(1)))));
        assert!(plan.reporters().contains_key(&Subject::Test(id(1))));
    }
}

#[test]
fn only_differing_parts_are_changed() {
    let old = [
        document(1, "", "10.0.0.5:8620", ""),
        document(2, "", "10.0.0.5:8620", ""),
        document(3, "", "10.0.0.6:8620", ""),
    ];
    let new = [
        document(1, "", "10.0.0.5:8620", ""),
        document(2, "", "10.0.0.5:8620", r#","expect_every":"9s""#),
        document(4, "", "10.0.0.7:8620", ""),
    ];
    let none = Names::new();
    let shown = |host: &str| {
        let changes = difference(&planned(host, &old, &none), &planned(host, &new, &none));
        changes
            .into_iter()
            .map(|change| match change {
                PlanChange::Expect(addr, expected) => format!("expect {} at {addr}", expected.test.id.to_bytes()[0]),
                PlanChange::StartSender(sender) => format!("start {}", sender.test.id.to_bytes()[0]),
                PlanChange::AlterSender(sender) => format!("alter {}", sender.test.id.to_bytes()[0]),
                PlanChange::StopSender(id) => format!("stop {}", id.to_bytes()[0]),
                PlanChange::Forget(addr, id) => format!("forget {} at {addr}", id.to_bytes()[0]),
                PlanChange::StopListener(addr) => format!("stop {addr}"),
                PlanChange::StartListener(addr) => format!("start {addr}"),
            })
            .collect::<Vec<_>>()
    };
    let at_b = ["stop 10.0.0.6:8620", "expect 2 at 10.0.0.5:8620", "start 10.0.0.7:8620", "expect 4 at 10.0.0.7:8620"];
    assert_eq!(shown("b"), at_b);
    // An `expect_every` of 9 s also changes `send_every` of the sender, to 4.5 s.
    assert_eq!(shown("a"), ["stop 3", "alter 2", "start 4"]);
}

#[test]
fn bootstrap_sinks_receive_only_config_faults_once_documents_name_sinks() {
    let sink = |name: &str| SinkConfig { name: name.into(), ..SinkConfig::default() };
    let scopes = |documents: &[SinkConfig]| {
        let sinks =
            sink_plan::select_receivers(documents, &[sink("console"), sink("noc")], &NotificationSettings::default());
        sinks.into_iter().map(|sink| (sink.config.name, sink.policy.scope)).collect::<Vec<_>>()
    };
    assert_eq!(scopes(&[]), [("console".into(), Scope::All), ("noc".into(), Scope::All)]);
    assert_eq!(scopes(&[sink("noc")]), [("noc".into(), Scope::All), ("console".into(), Scope::Config)]);
}

proptest! {
    /// Applying the difference step by step turns any old plan into any new one.
    #[test]
    fn applying_the_difference_gives_the_new_plan(old in plans(), new in plans()) {
        let mut running = old.clone();
        for change in difference(&old, &new) {
            match change {
                PlanChange::StopSender(id) => prop_assert!(running.senders.remove(&id).is_some()),
                PlanChange::Forget(addr, id) => {
                    prop_assert!(running.listeners.get_mut(&addr).unwrap().tests.remove(&id).is_some());
                }
                PlanChange::StopListener(addr) => prop_assert!(running.listeners.remove(&addr).is_some()),
                PlanChange::StartListener(addr) => {
                    prop_assert!(running.listeners.insert(addr, ListenerPlan::default()).is_none());
                }
                PlanChange::Expect(addr, expected) => {
                    running.listeners.get_mut(&addr).unwrap().tests.insert(expected.test.id, expected);
                }
                PlanChange::StartSender(sender) => prop_assert!(running.senders.insert(sender.test.id, sender).is_none()),
                PlanChange::AlterSender(sender) => prop_assert!(running.senders.insert(sender.test.id, sender).is_some()),
            }
        }
        for (addr, listener) in &new.listeners {
            prop_assert_eq!(&running.listeners[addr].tests, &listener.tests);
        }
        prop_assert_eq!(running.listeners.len(), new.listeners.len());
        prop_assert_eq!(running.senders, new.senders);
    }

    #[test]
    fn equal_plans_have_no_difference(plan in plans()) {
        prop_assert_eq!(difference(&plan, &plan), []);
    }
}

fn plans() -> impl Strategy<Value = Plan> {
    prop::collection::vec((0u8..12, 0u8..3, 1u64..4, any::<bool>()), 0..12).prop_map(|tests| {
        let given: BTreeMap<u8, _> = tests.into_iter().map(|test| (test.0, test)).collect();
        let given: Vec<_> = given
            .into_values()
            .map(|(n, addr, every, wildcard)| {
                let listen = if wildcard { r#","listen":"0.0.0.0:8620""# } else { "" };
                document(
                    n,
                    "127.0.0.1:0",
                    &format!("10.0.0.{addr}:8620"),
                    &format!(r#","send_every":"{every}s"{listen}"#),
                )
            })
            .collect();
        let mut both = planned("b", &given, &Names::new());
        both.senders = planned("a", &given, &Names::new()).senders;
        both
    })
}

#[test]
fn recovered_group_waits_for_the_samples_that_clear_its_slowest_member() {
    let given = [document(1, "", "10.0.0.5:8620", r#","expect_every":"10s","clear_after":4"#)];
    let plan = planned("b", &given, &Names::new());
    let member = &plan.alarms.rules.members[&id(1)];
    assert_eq!((member.fresh_after, member.found_after), (Duration::from_secs(50), Duration::from_secs(30)));
}

/// The agent of the new host may start minutes after its document was written.
#[test]
fn test_of_a_recently_added_host_has_a_longer_grace_unless_one_is_set() {
    let given = [
        document(1, "", "10.0.0.5:8620", r#","mode":"two_way""#),
        document(2, "", "10.0.0.5:8620", r#","mode":"two_way","startup_grace":"10s""#),
    ];
    let plan_of = |host: &str, recent_host: &str| {
        let loaded = Loaded { recent_hosts: [recent_host.to_owned()].into(), ..loaded(host, &given) };
        plan(&loaded, PlanInputs { names: &Names::new(), addresses: None }, host, &[])
    };
    let seconds = |grace: Duration| grace.as_secs();
    let receiver = |recent_host| {
        let listener = plan_of("b", recent_host).listeners.into_values().next().unwrap();
        listener.tests.values().map(|expected| seconds(expected.startup_grace)).collect::<Vec<_>>()
    };
    assert_eq!(receiver("a"), [300, 10]);
    assert_eq!(receiver("b"), [30, 10]);
    // The sender judges the receiving host: whether it can be reached, and its replies.
    let sender = |recent_host| {
        let replies = |plan: &SenderPlan| seconds(plan.answers.as_ref().unwrap().criteria.startup_grace);
        let senders = plan_of("a", recent_host).senders.into_values();
        senders.map(|sender| (seconds(sender.startup_grace), replies(&sender))).collect::<Vec<_>>()
    };
    assert_eq!(sender("b"), [(300, 300), (10, 10)]);
    assert_eq!(sender("a"), [(30, 30), (10, 10)]);
}

#[test]
fn host_added_while_the_agent_runs_is_new_for_five_minutes() {
    let (number, text) = document(2, "", "10.0.0.5:8620", "");
    let of_another_host = (number, text.replace(r#""from_host":"a""#, r#""from_host":"c""#));
    let two = [document(1, "", "10.0.0.5:8620", ""), of_another_host];
    let at = |seconds| Moment::new(Duration::from_secs(seconds));
    let mut recent = RecentHosts::default();
    let mut recent_hosts = |given: &[(String, String)], seconds| {
        let mut loaded = loaded("b", given);
        let until = recent.on_loaded(&mut loaded, at(seconds));
        (loaded.recent_hosts.into_iter().collect::<Vec<_>>(), until)
    };
    assert_eq!(recent_hosts(&two[..1], 0), (vec![], None));
    assert_eq!(recent_hosts(&two, 10), (vec!["c".to_owned()], Some(at(310))));
    assert_eq!(recent_hosts(&two, 309), (vec!["c".to_owned()], Some(at(310))));
    assert_eq!(recent_hosts(&two, 310), (vec![], None));
}
