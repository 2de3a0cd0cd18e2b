use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::config::document::host::HostDocument;

const NAMES: [&str; 10] = ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "lb1", "lb2"];

fn host(n: usize, groups: &[&str]) -> HostDocument {
    let addr = IpAddr::from(Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8));
    HostDocument {
        addresses: BTreeMap::from([("default".to_owned(), addr)]),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..HostDocument::default()
    }
}

fn hosts(names: &[&str]) -> Hosts {
    let of = |name: &str| NAMES.iter().position(|known| *known == name).unwrap_or(99);
    names.iter().map(|name| ((*name).to_owned(), Arc::new(host(of(name), &[&name[..1]])))).collect()
}

fn set(json: &str) -> SetDocument {
    let set = SetDocument::read(serde_json::from_str(json).unwrap(), &mut Findings::about("sets/x"));
    let mut findings = Findings::about("sets/x");
    check(&set, &mut findings);
    assert_eq!(findings.into_vec(), []);
    set
}

/// Returns the tests of the host `own` by id, in the form `from → to`. A `*` stands for any sender.
fn of(set: &SetDocument, hosts: &Hosts, own: &str) -> BTreeMap<String, String> {
    let tests = Expansion::new("x", set, hosts).tests_of(own);
    let path = |test: &Expanded| {
        let document = &test.document;
        format!("{} {} → {} {}", document.from_host, document.from, document.to_host, document.to)
    };
    tests.iter().map(|test| (test.document.id.clone(), path(test))).collect()
}

fn paths(set: &SetDocument, hosts: &Hosts, own: &str) -> Vec<String> {
    let mut paths: Vec<String> = of(set, hosts, own).into_values().collect();
    paths.sort();
    paths
}

#[test]
fn topologies_and_directions_expand_to_the_expected_paths() {
    let hosts = hosts(&["a1", "a2", "b1", "b2"]);
    let mesh = set(r#"{"topology":"mesh","from":{"groups":["a"]}}"#);
    assert_eq!(paths(&mesh, &hosts, "a1"), ["a1 10.0.0.0:0 → a2 10.0.0.1:8620", "a2 10.0.0.1:0 → a1 10.0.0.0:8620"]);
    assert_eq!(paths(&mesh, &hosts, "b1"), [""; 0]);
    let disjoint = |direction: &str| {
        set(&format!(
            r#"{{"from":{{"groups":["a"],"port":9000}},"to":{{"hosts":["b*"],"except":["b2"],"port":8621}},"direction":"{direction}"}}"#
        ))
    };
    assert_eq!(paths(&disjoint("forward"), &hosts, "a1"), ["a1 10.0.0.0:9000 → b1 10.0.0.3:8621"]);
    assert_eq!(paths(&disjoint("backward"), &hosts, "a1"), ["b1 10.0.0.3:8621 → a1 10.0.0.0:9000"]);
    assert_eq!(paths(&disjoint("both"), &hosts, "b1").len(), 4);
    assert_eq!(paths(&disjoint("both"), &hosts, "b2").len(), 0);
    let star = set(r#"{"topology":"star","from":{"hosts":["*"]},"to":{"hosts":["b2","b1"]}}"#);
    assert_eq!(paths(&star, &hosts, "b2").len(), 3);
    assert_eq!(paths(&star, &hosts, "b1"), ["b1 10.0.0.3:0 → b2 10.0.0.4:8620"]);
    let list = set(r#"{"topology":"list","pairs":[["a1","b1"],["b2","a1"],["a1","nobody"]]}"#);
    assert_eq!(paths(&list, &hosts, "a1"), ["a1 10.0.0.0:0 → b1 10.0.0.3:8620", "b2 10.0.0.4:0 → a1 10.0.0.0:8620"]);
    for (set, count) in [(&mesh, 2), (&disjoint("both"), 4), (&star, 3), (&list, 2)] {
        assert_eq!(Expansion::new("x", set, &hosts).count(), count);
    }
}

/// Several receivers may share an address: a sender sends a single test, and each receiver recognizes its probes.
#[test]
fn receivers_behind_a_shared_address_expect_the_probes_of_all_senders() {
    let hosts = hosts(&["a1", "a2", "lb1", "lb2"]);
    let each = set(r#"{"from":{"groups":["a"]},"to":{"groups":["l"],"at":"10.0.0.100:8621"},"when_absent":"standby"}"#);
    assert_eq!(paths(&each, &hosts, "a1"), ["a1 10.0.0.0:0 → lb1, lb2 10.0.0.100:8621"]);
    assert_eq!(
        paths(&each, &hosts, "lb2"),
        ["a1 10.0.0.0:0 → lb2 10.0.0.100:8621", "a2 10.0.0.1:0 → lb2 10.0.0.100:8621"]
    );
    let ids = |own: &str| of(&each, &hosts, own).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(ids("lb1"), ids("lb2"));
    assert!(ids("lb1").is_superset(&ids("a1")));

    let any = set(r#"{"from":{"groups":["a"]},"to":{"groups":["l"],"at":"10.0.0.100:8621"},"expect":"any"}"#);
    assert_eq!(paths(&any, &hosts, "lb1"), ["any of 2 hosts  → lb1 10.0.0.100:8621"]);
    let wanted = Expansion::new("x", &any, &hosts).tests_of("lb1")[0].any_of.clone().unwrap();
    let sent: BTreeSet<TestId> =
        ["a1", "a2"].iter().flat_map(|own| of(&any, &hosts, own).into_keys()).map(|id| id.parse().unwrap()).collect();
    assert_eq!(wanted, sent);
}

fn any_set() -> impl Strategy<Value = SetDocument> {
    let end = (
        subsequence(NAMES.to_vec(), 0..4),
        subsequence(vec!["a", "b", "c", "l"], 0..3),
        subsequence(NAMES.to_vec(), 0..2),
        prop::bool::weighted(0.2),
    );
    let end = end.prop_map(|(hosts, groups, except, all)| SetEnd {
        hosts: if all { vec!["*".to_owned()] } else { hosts.into_iter().map(str::to_owned).collect() },
        groups: groups.into_iter().map(str::to_owned).collect(),
        except: except.into_iter().map(str::to_owned).collect(),
        ..SetEnd::default()
    });
    let topology = prop::sample::select(vec![Topology::Mesh, Topology::Disjoint, Topology::Star]);
    let direction = prop::sample::select(vec![SetDirection::Forward, SetDirection::Backward, SetDirection::Both]);
    let choices = (topology, direction, prop::option::of(1u32..4), any::<bool>(), any::<bool>());
    (end.clone(), end, choices).prop_map(|(from, mut to, (topology, direction, sample, any, at))| {
        let mesh = topology == Topology::Mesh;
        let direction = if mesh { SetDirection::Forward } else { direction };
        let forward = direction == SetDirection::Forward;
        if at && forward && !mesh {
            to.at = "10.0.0.100:8621".to_owned();
        }
        SetDocument {
            topology,
            direction,
            sample: sample.filter(|_| topology != Topology::Star),
            expect: if any && forward { SetExpect::Any } else { SetExpect::Each },
            from,
            to: if mesh { SetEnd::default() } else { to },
            ..SetDocument::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// For every probe that a host sends, exactly the destination hosts expect it under the same id, and every
    /// expected probe is sent by some host.
    #[test]
    fn sender_and_receiver_expand_the_same_test_ids(set in any_set(), names in subsequence(NAMES.to_vec(), 0..10)) {
        let hosts = hosts(&names);
        let expansion = Expansion::new("x", &set, &hosts);
        let mut sent: BTreeMap<TestId, String> = BTreeMap::new();
        let mut expected: BTreeMap<TestId, BTreeSet<String>> = BTreeMap::new();
        for own in &names {
            for test in expansion.tests_of(own) {
                let id: TestId = test.document.id.parse().unwrap();
                prop_assert!(test.document.from_host == *own || test.document.to_host == *own);
                if test.document.from_host == *own && test.any_of.is_none() {
                    prop_assert_eq!(sent.insert(id, (*own).to_owned()), None);
                } else {
                    for id in test.any_of.unwrap_or(BTreeSet::from([id])) {
                        expected.entry(id).or_default().insert((*own).to_owned());
                    }
                }
            }
        }
        prop_assert_eq!(sent.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        if set.to.at.is_empty() {
            prop_assert!(expected.values().all(|receivers| receivers.len() == 1));
            prop_assert_eq!(sent.len(), expansion.count().min(sent.len()));
        }
    }
}

/// A host that joins a mesh changes only the pairs that it belongs to.
#[test]
fn host_joining_a_mesh_of_2000_changes_only_its_own_pairs() {
    let names: Vec<String> = (0..2001).map(|n| format!("h{n}")).collect();
    let all: Hosts = names.iter().enumerate().map(|(n, name)| (name.clone(), Arc::new(host(n, &[])))).collect();
    let mut before = all.clone();
    before.remove("h2000");
    let mesh = set(r#"{"topology":"mesh","from":{"hosts":["*"]}}"#);
    let (then, now) = (Expansion::new("x", &mesh, &before), Expansion::new("x", &mesh, &all));
    for own in names.iter().take(2000).step_by(97) {
        let then: BTreeMap<String, Expanded> =
            then.tests_of(own).into_iter().map(|test| (test.document.id.clone(), test)).collect();
        let now: BTreeMap<String, Expanded> =
            now.tests_of(own).into_iter().map(|test| (test.document.id.clone(), test)).collect();
        assert_eq!((then.len(), now.len()), (2 * 1999, 2 * 2000));
        let touched = now.iter().filter(|(id, test)| then.get(*id) != Some(test)).map(|(_, test)| &test.document);
        let ends: Vec<_> = touched.map(|test| (test.from_host.as_str(), test.to_host.as_str())).collect();
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|(from, to)| *from == "h2000" || *to == "h2000"));
        assert!(then.keys().all(|id| now.contains_key(id)));
    }
}

/// With `sample`, hosts are tested by similar numbers of peers, and few selections change when a host joins.
#[test]
fn samples_are_even_and_stable_when_a_host_joins() {
    let names: Vec<String> = (0..301).map(|n| format!("h{n}")).collect();
    let all: Hosts = names.iter().enumerate().map(|(n, name)| (name.clone(), Arc::new(host(n, &[])))).collect();
    let mut before = all.clone();
    before.remove("h300");
    let mesh = set(r#"{"topology":"mesh","from":{"hosts":["*"]},"sample":5}"#);
    let pairs = |hosts: &Hosts| -> BTreeSet<(String, String)> {
        let expansion = Expansion::new("x", &mesh, hosts);
        let tests = hosts.keys().flat_map(|own| expansion.tests_of(own));
        tests.map(|test| (test.document.from_host, test.document.to_host)).collect()
    };
    let (then, now) = (pairs(&before), pairs(&all));
    assert_eq!((then.len(), now.len()), (300 * 5, 301 * 5));
    let tested = |name: &String| now.iter().filter(|(_, to)| to == name).count();
    assert!(names.iter().all(|name| (0..20).contains(&tested(name))));
    let gone: Vec<_> = then.difference(&now).collect();
    assert!(gone.len() < 20, "{gone:?}");
    assert!(now.difference(&then).all(|(from, to)| from == "h300" || to == "h300"));
}
