use super::*;
use crate::pure::alarm::cause::GroupDirection;

const SETTINGS: GroupSettings = GroupSettings { group_wait: Duration::from_secs(5), group_min: 3, group_ratio: 0.8 };

fn id(n: u8) -> TestId {
    TestId::from_bytes([n; 16])
}

fn at(seconds: u64) -> Moment {
    Moment::new(Duration::from_secs(seconds))
}

fn host(n: u8) -> Subject {
    Subject::Host(format!("h{n}"))
}

fn memberships(hosts: u8, per_host: u8) -> BTreeMap<TestId, Membership> {
    let membership = |n: u8| Membership {
        shares: vec![host(n / per_host), Subject::Listener(([127, 0, 0, 1], 8620).into())],
        fresh_after: Duration::from_secs(8),
        found_after: Duration::from_secs(3),
        direction: GroupDirection::From,
        description: format!("test {n}"),
    };
    (0..hosts * per_host).map(|n| (id(n), membership(n))).collect()
}

/// Returns groups of `per_host` tests from each of the hosts, all at one listener and all up.
fn groups(hosts: u8, per_host: u8) -> Groups {
    let mut groups = Groups::new(Kind::Connection, SETTINGS);
    assert_eq!(groups.on_tests(SETTINGS, memberships(hosts, per_host), at(0)), GroupOutcome::default());
    (0..hosts * per_host).for_each(|n| {
        groups.on_up(id(n), at(0));
    });
    groups
}

/// Renders the raised and cleared groups as text, in order.
fn shown(changes: &[GroupChange]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            GroupChange::Raised(key, shared) => format!("{key}: {shared}"),
            GroupChange::Cleared(key) => format!("{key}: over"),
        })
        .collect()
}

#[test]
fn host_that_fails_raises_one_alarm_and_suppresses_its_tests() {
    let mut groups = groups(3, 4);
    for n in 4..8 {
        assert_eq!(groups.on_down(id(n), at(100 + u64::from(n % 4))).changes, []);
        assert_eq!(groups.suppressed_by(id(n)), Some(SuppressedBy::Waiting));
    }
    assert_eq!(groups.next_deadline(), Some(at(105)));
    let outcome = groups.on_time(at(105));
    let expected = ["connection host h1: all 4 tests from host h1 went down together, among them \"test 4\""];
    assert_eq!(shown(&outcome.changes), expected);
    assert_eq!(groups.suppressed_by(id(7)), Some(SuppressedBy::Group { group: "connection host h1".into() }));
    assert_eq!(groups.next_deadline(), None);
    // A member that comes up leaves less than the required share down, so the others wait once more.
    assert_eq!(shown(&groups.on_up(id(4), at(200)).changes), ["connection host h1: over"]);
    assert_eq!(groups.on_up(id(5), at(200)).changes, []);
    assert_eq!(groups.on_up(id(6), at(200)).changes, []);
    assert_eq!(groups.suppressed_by(id(7)), Some(SuppressedBy::Waiting));
    assert_eq!(groups.on_time(at(207)), GroupOutcome::default());
    let released = groups.on_time(at(208));
    assert_eq!((released.changes.len(), released.affected), (0, BTreeSet::from([id(7)])));
    assert_eq!(groups.suppressed_by(id(7)), None);
}

#[test]
fn fewer_tests_than_group_min_are_notified_individually() {
    let mut groups = groups(3, 4);
    groups.on_down(id(0), at(100));
    groups.on_down(id(1), at(101));
    let outcome = groups.on_time(at(105));
    assert_eq!((outcome.changes.len(), outcome.affected.len()), (0, 1));
    assert_eq!((groups.suppressed_by(id(0)), groups.suppressed_by(id(1))), (None, Some(SuppressedBy::Waiting)));
    assert_eq!(groups.on_time(at(106)).affected, BTreeSet::from([id(1)]));
}

#[test]
fn test_without_group_candidate_is_notified_at_once() {
    let mut groups = groups(1, 2);
    assert_eq!(groups.on_down(id(0), at(100)).affected, BTreeSet::from([id(0)]));
    assert_eq!(groups.suppressed_by(id(0)), None);
}

/// Hosts fail at once: this agent is cut off, so one isolation alarm is raised instead of three host alarms.
#[test]
fn all_tests_down_from_several_hosts_raise_isolation() {
    let mut groups = groups(3, 4);
    let changes: Vec<_> = (0..12).flat_map(|n| groups.on_down(id(n), at(100)).changes).collect();
    let expected = ["isolated agent: all 12 tests that end on this host went down together, among them \"test 0\""];
    assert_eq!(shown(&changes), expected);
    assert!((0..12).all(|n| groups.suppressed_by(id(n)).is_some()));
}

#[test]
fn all_tests_down_from_one_host_raise_the_host_alarm() {
    let mut groups = groups(1, 4);
    let changes: Vec<_> = (0..4).flat_map(|n| groups.on_down(id(n), at(100)).changes).collect();
    assert!(shown(&changes)[0].starts_with("connection host h0: all 4 tests"), "{changes:?}");
}

/// Members that were notified before the group keep their notification; later ones join the group at once.
#[test]
fn later_member_joins_a_notified_group() {
    let mut groups = groups(3, 5);
    groups.on_down(id(0), at(0));
    groups.on_time(at(5));
    assert_eq!(groups.suppressed_by(id(0)), None);
    (1..4).for_each(|n| {
        groups.on_down(id(n), at(60));
    });
    assert_eq!(groups.on_time(at(65)).changes.len(), 1);
    assert!(matches!(groups.suppressed_by(id(0)), Some(SuppressedBy::Group { .. })));
    let joined = groups.on_down(id(4), at(70));
    assert_eq!((joined.changes.len(), groups.next_deadline()), (0, None));
    assert!(matches!(groups.suppressed_by(id(4)), Some(SuppressedBy::Group { .. })));
}

/// A group alarm that an earlier run raised has to be cleared, though this run never raises it.
#[test]
fn group_that_cannot_be_down_is_cleared_once() {
    let mut groups = Groups::new(Kind::Connection, SETTINGS);
    let membership = Membership {
        shares: vec![host(0)],
        fresh_after: Duration::ZERO,
        found_after: Duration::ZERO,
        direction: GroupDirection::From,
        description: String::new(),
    };
    groups.on_tests(SETTINGS, (0..4).map(|n| (id(n), membership.clone())).collect(), at(0));
    let mut reported = shown(&groups.on_up(id(0), at(1)).changes);
    (1..4).for_each(|n| reported.extend(shown(&groups.on_up(id(n), at(1)).changes)));
    reported.sort();
    assert_eq!(reported, ["connection host h0: over", "isolated agent: over"]);
}

#[test]
fn group_is_cleared_when_its_tests_are_removed() {
    let mut groups = groups(3, 4);
    (0..4).for_each(|n| {
        groups.on_down(id(n), at(100));
    });
    groups.on_time(at(105));
    assert_eq!(shown(&groups.on_tests(SETTINGS, BTreeMap::new(), at(200)).changes), ["connection host h0: over"]);
    assert_eq!(groups.next_deadline(), None);
}

/// A test that is moved out of a notified group was never notified itself, so it waits for fresh samples first.
#[test]
fn test_that_leaves_a_notified_group_waits_for_fresh_samples() {
    let mut groups = groups(3, 4);
    (0..4).for_each(|n| {
        groups.on_down(id(n), at(100));
    });
    groups.on_time(at(105));
    let mut tests = memberships(3, 4);
    tests.get_mut(&id(0)).unwrap().shares[0] = host(9);
    groups.on_tests(SETTINGS, tests, at(110));
    assert_eq!(groups.suppressed_by(id(0)), Some(SuppressedBy::Waiting));
    assert!(matches!(groups.suppressed_by(id(1)), Some(SuppressedBy::Group { .. })));
    assert_eq!(groups.on_time(at(118)).affected, BTreeSet::from([id(0)]));
    assert_eq!(groups.suppressed_by(id(0)), None);
}

/// Tests of many hosts and listeners carry one tag; only the tag's group explains enough of the failed tests.
#[test]
fn tag_alarm_is_raised_when_no_host_explains_the_failures() {
    let mut groups = Groups::new(Kind::Connection, SETTINGS);
    let membership = |n: u8| Membership {
        shares: vec![
            host(n),
            Subject::Listener(([127, 0, 0, 1], u16::from(n)).into()),
            Subject::Tag(if n < 4 { "db" } else { "app" }.into()),
        ],
        fresh_after: Duration::ZERO,
        found_after: Duration::ZERO,
        direction: GroupDirection::From,
        description: format!("test {n}"),
    };
    groups.on_tests(SETTINGS, (0..8).map(|n| (id(n), membership(n))).collect(), at(0));
    (0..8).for_each(|n| {
        groups.on_up(id(n), at(0));
    });
    (0..4).for_each(|n| {
        groups.on_down(id(n), at(100));
    });
    let expected = ["connection tag db: all 4 tests tagged db went down together, among them \"test 0\""];
    assert_eq!(shown(&groups.on_time(at(105)).changes), expected);
}
