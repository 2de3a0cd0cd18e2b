//! The plan of a host: the addresses it listens at, the tests it sends and the receivers it notifies. [`plan`]
//! computes a [`Plan`] from the loaded documents without side effects; [`diff`] compares two
//! plans.

pub mod diff;
pub mod removal_grace;
mod resolve;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::load::{Loaded, Loader};
use super::sink_plan::{self, SinkPlan};
use super::test::{ProbeSpec, StampSpec, Test};
use crate::config::document::endpoint::wildcard_of;
use crate::config::document::findings::{Finding, Findings};
use crate::config::document::raw::Documents;
use crate::config::document::sinks::SinkConfig;
use crate::config::document::test::WhenAbsent;
use crate::pure::alarm::cause::{Cause, GroupDirection};
use crate::pure::alarm::correlation::Membership;
use crate::pure::alarm::engine::Rules;
use crate::pure::alarm::inventory::{AlarmInventory, Reporters};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::clock::error_estimate::DelayLimits;
use crate::pure::judge::sender_health::ERROR_LIFETIME;
use crate::pure::judge::session::{Criteria, SessionPlan};
use crate::pure::stamp::flows::Flows;
use crate::pure::stamp::session_sender::{SenderPlan, Source};
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;
use crate::pure::test::role::Role;
use crate::pure::test::spec::Mode;
use resolve::Resolver;

/// Inputs of a plan other than the documents.
#[derive(Clone, Copy, Debug)]
pub struct PlanInputs<'a> {
    /// Addresses that the names in the documents resolve to.
    pub names: &'a Names,
    /// Addresses currently configured on the host. `None` when unknown, as for a plan of another host.
    pub addresses: Option<&'a HashSet<IpAddr>>,
}

impl PlanInputs<'_> {
    /// Returns true if the address can presumably be bound. Addresses in 127.0.0.0/8 always can.
    fn has(&self, addr: IpAddr) -> bool {
        addr.is_unspecified() || addr.is_loopback() || self.addresses.is_none_or(|addresses| addresses.contains(&addr))
    }
}

/// Result of name resolution: the addresses of each name, or the reason of the failure.
pub type Names = BTreeMap<String, Result<Vec<IpAddr>, ResolveError>>;

/// Reason for which a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name service knows the name, but no address of it.
    #[error("the name has no address")]
    NoAddress,
    /// The name service did not answer within this time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The name service gave this reason.
    #[error("{0}")]
    Refused(String),
}

/// Listeners, senders and receivers that a host runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Listeners by the address that is bound.
    pub listeners: BTreeMap<SocketAddr, ListenerPlan>,
    /// Senders by the test that they belong to.
    pub senders: BTreeMap<TestId, Arc<SenderPlan>>,
    /// Tests of targets, whose probes are sent and judged here.
    pub targets: BTreeMap<TestId, Arc<TargetPlan>>,
    /// Tests with a name that is not resolved yet. Their alarms keep their current state.
    pub waiting: BTreeMap<TestId, Arc<TestFacts>>,
    /// Tests that would be received here if their floating address were on this host.
    pub standby: BTreeMap<TestId, Arc<TestFacts>>,
    /// Receivers of alarms and rules for raising them.
    pub alarms: AlarmPlan,
    /// Faults that keep parts of the documents from being applied, raised as alarms.
    pub faults: BTreeMap<AlarmKey, Cause>,
}

/// Address that is bound, with the tests that are received there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerPlan {
    /// Spellings of the address in the documents, as names or wildcards.
    pub names: BTreeSet<String>,
    /// Tests that are received at this address.
    pub tests: BTreeMap<TestId, SessionPlan>,
}

/// Target that is probed, and how its results are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetPlan {
    /// Kind of probe, and where it goes.
    pub target: Target,
    /// Interval between two probes.
    pub send_every: Duration,
    /// Time after which a probe without a result has failed.
    pub timeout: Duration,
    /// Criteria of the judgement.
    pub session: SessionPlan,
}

/// Kind of probe that needs no agent at the other end, with its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP connection to this address.
    Tcp(SocketAddr),
}

/// Receivers of alarms, and the rules of the alarm engine.
#[derive(Clone, Debug, PartialEq)]
pub struct AlarmPlan {
    /// Receivers with their notification policies: sinks of the documents first, then those of the bootstrap file.
    pub sinks: Vec<SinkPlan>,
    /// Grouping, maintenance and hold-down rules from the documents.
    pub rules: Arc<Rules>,
}

/// Returns the names that must be resolved before the tests of `host` can be planned.
pub fn names_to_resolve(loaded: &Loaded, host: &str) -> BTreeSet<String> {
    loaded
        .tests
        .values()
        .filter(|test| test.facts.concerns(host))
        .flat_map(|test| test.endpoints())
        .filter_map(|(_, endpoint)| endpoint.name().map(str::to_owned))
        .collect()
}

/// Computes the plan of `host` from the loaded documents and its surroundings.
pub fn plan(loaded: &Loaded, around: PlanInputs<'_>, host: &str, bootstrap_sinks: &[SinkConfig]) -> Plan {
    let mut plan = Plan {
        listeners: BTreeMap::new(),
        senders: BTreeMap::new(),
        targets: BTreeMap::new(),
        waiting: BTreeMap::new(),
        standby: BTreeMap::new(),
        alarms: AlarmPlan {
            sinks: sink_plan::select_receivers(&loaded.sinks, bootstrap_sinks, &loaded.notification_settings),
            rules: Arc::new(Rules {
                hold_down: loaded.hold_down,
                tests: loaded
                    .tests
                    .values()
                    .map(|test| (test.facts.id, (test.facts.clone(), test.hold_down)))
                    .collect(),
                group: loaded.group,
                members: BTreeMap::new(),
                sent: BTreeMap::new(),
                windows: loaded.windows.clone(),
                drained: loaded.drained.clone(),
            }),
        },
        faults: BTreeMap::new(),
    };
    for rejected in &loaded.rejected {
        let key = AlarmKey::new(Kind::Config, Subject::Document(rejected.document.clone()));
        plan.faults.insert(key, Cause::Config(rejected.reasons.join("; ")));
    }

    let resolver = Resolver { names: around.names };
    let mut receives = Vec::new();
    let mut sends = Vec::new();
    for test in loaded.tests.values() {
        let (is_sender, is_receiver) = (test.facts.from_host == host, test.facts.receiver() == Some(host));
        if !is_sender && !is_receiver {
            continue;
        }
        let resolved = match &test.probe {
            ProbeSpec::Stamp(stamp) => resolver.addresses(stamp).map(|addresses| (stamp, addresses)),
            ProbeSpec::Tcp(tcp) => match resolver.target(&tcp.target) {
                Ok(addr) => {
                    Arc::make_mut(&mut plan.alarms.rules).members.insert(test.facts.id, membership(test, None));
                    Arc::make_mut(&mut plan.alarms.rules).sent.insert(test.facts.id, sender_membership(test));
                    plan.targets.insert(test.facts.id, Arc::new(target_plan(test, Target::Tcp(addr))));
                    continue;
                }
                Err(unresolved) => Err(unresolved),
            },
        };
        match resolved {
            Ok((_, addresses)) if addresses.contradiction().is_some() => {
                let key = AlarmKey::new(Kind::Config, Subject::Document(test.place.clone()));
                let problem = addresses.contradiction().unwrap_or_default();
                plan.faults.insert(key, Cause::Config(format!("{}: from: {problem}", test.place)));
            }
            Ok((stamp, addresses)) => {
                let is_elsewhere = stamp.when_absent == WhenAbsent::Standby && !around.has(addresses.listen.ip());
                if is_receiver && is_elsewhere {
                    plan.standby.insert(test.facts.id, test.facts.clone());
                } else if is_receiver {
                    receives.push((test, stamp, addresses.listen, addresses.from.ip()));
                }
                if is_sender {
                    sends.push((test, stamp, addresses));
                }
            }
            Err(unresolved) => {
                plan.waiting.insert(test.facts.id, test.facts.clone());
                for (name, problem) in unresolved.0 {
                    let key = AlarmKey::new(Kind::Config, Subject::Name(name.clone()));
                    let problem = format!("name `{name}` cannot be resolved: {problem}");
                    plan.faults.insert(key, Cause::Config(problem));
                }
            }
        }
    }

    let mut criteria_pool = CriteriaPool::default();
    let bound: BTreeSet<SocketAddr> = receives
        .iter()
        .map(|(_, _, listen, _)| *listen)
        .chain(sends.iter().map(|(_, _, addresses)| addresses.from))
        .collect();
    for (test, stamp, listen, from) in receives {
        let addr = covering(listen, &bound);
        Arc::make_mut(&mut plan.alarms.rules).members.insert(test.facts.id, membership(test, Some(addr)));
        let listener = plan.listeners.entry(addr).or_default();
        listener.names.insert(stamp.listen.to_string());
        listener.tests.insert(
            test.facts.id,
            expected((test, stamp), from, test.grace(host, &loaded.recent_hosts), &mut criteria_pool),
        );
    }
    for (test, stamp, addresses) in sends {
        let address = covering(addresses.from, &bound);
        let two_way = stamp.mode == Mode::TwoWay;
        if two_way && plan.listeners.contains_key(&address) {
            let key = AlarmKey::new(Kind::Config, Subject::Document(test.place.clone()));
            let problem = format!("{}: from: replies would arrive at {address}, where probes are expected", test.place);
            plan.faults.insert(key, Cause::Config(problem));
            continue;
        }
        if two_way {
            Arc::make_mut(&mut plan.alarms.rules)
                .members
                .entry(test.facts.id)
                .or_insert_with(|| membership(test, None));
        }
        Arc::make_mut(&mut plan.alarms.rules).sent.insert(test.facts.id, sender_membership(test));
        let sender = SenderPlan {
            test: test.facts.clone(),
            source: Source { address, interface: stamp.from_interface.clone() },
            source_address: (address.ip() != addresses.from.ip()).then(|| addresses.from.ip()),
            destination: addresses.to,
            send_every: test.send_every,
            thresholds: test.thresholds,
            startup_grace: test.grace(host, &loaded.recent_hosts),
            max_pause: test.max_pause,
            wire: stamp.wire,
            flows: stamp.flows,
            keys: stamp.keys.clone(),
            answers: two_way
                .then(|| Arc::new(answers((test, stamp), test.grace(host, &loaded.recent_hosts), &mut criteria_pool))),
        };
        plan.senders.insert(test.facts.id, Arc::new(sender));
    }
    plan
}

impl Plan {
    /// Returns the plan before any document is loaded: the sinks of the bootstrap file receive every alarm.
    pub fn of_bootstrap(sinks: &[SinkConfig], host: &str) -> Self {
        let around = PlanInputs { names: &Names::new(), addresses: None };
        plan(&Loader::new(host).load(&Documents::new()), around, host, sinks)
    }

    /// Returns the inventory: every alarm that can be raised under this plan. Reports of other alarms are discarded.
    pub fn possible_alarms(&self) -> AlarmInventory {
        let mut possible: BTreeSet<AlarmKey> = self.faults.keys().cloned().collect();
        if !self.listeners.is_empty() {
            possible.insert(AlarmKey::new(Kind::UnknownPacket, Subject::Agent));
        }
        let mut add = |expected: &SessionPlan| {
            let id = expected.test.id;
            possible.extend(expected.kinds().map(|kind| AlarmKey::new(kind, Subject::Test(id))));
            possible.insert(AlarmKey::new(Kind::Clock, Subject::Host(expected.peer().to_owned())));
        };
        self.listeners.values().flat_map(|listener| listener.tests.values()).for_each(&mut add);
        self.senders.values().filter_map(|sender| sender.answers.as_ref()).for_each(|expected| add(expected));
        for (id, target) in &self.targets {
            possible.extend(target.session.kinds().map(|kind| AlarmKey::new(kind, Subject::Test(*id))));
        }
        possible.insert(AlarmKey::new(Kind::Clock, Subject::Agent));
        possible.extend(
            self.senders.keys().chain(self.targets.keys()).map(|id| AlarmKey::new(Kind::Sender, Subject::Test(*id))),
        );
        if !self.waiting.is_empty() {
            possible.insert(AlarmKey::new(Kind::UnknownPacket, Subject::Agent));
        }
        for (id, test) in &self.waiting {
            let kinds = [Kind::Connection, Kind::Latency, Kind::Loss, Kind::Jitter, Kind::Path, Kind::Sender];
            possible.extend(kinds.map(|kind| AlarmKey::new(kind, Subject::Test(*id))));
            let ends = [&test.from_host, &test.to_host];
            possible.extend(ends.map(|host| AlarmKey::new(Kind::Clock, Subject::Host(host.clone()))));
        }
        possible.into_iter().collect()
    }

    /// Returns the tests and listeners that can report conditions under this plan.
    pub fn reporters(&self) -> Reporters {
        let sent = self.senders.keys().chain(self.targets.keys()).chain(self.waiting.keys());
        let mut reporters: Reporters = sent.map(|id| (Subject::Test(*id), None)).collect();
        reporters.extend(self.listeners.keys().map(|addr| (Subject::Listener(*addr), None)));
        let answers = self.targets.keys().chain(self.waiting.keys());
        reporters.extend(answers.map(|id| (Subject::Answers(*id), None)));
        reporters.extend(self.senders.iter().filter_map(|(id, sender)| {
            Some((Subject::Answers(*id), Some(sender.answers.as_ref()?.peer().to_owned())))
        }));
        let received = self.listeners.values().flat_map(|listener| &listener.tests);
        reporters.extend(received.map(|(id, expected)| (Subject::Test(*id), Some(expected.peer().to_owned()))));
        reporters
    }

    /// Returns true if a test judges one-way delays, which depend on this host's wall clock.
    pub fn judges_by_clock(&self) -> bool {
        let mut received = self.listeners.values().flat_map(|listener| listener.tests.values());
        let mut sent = self.senders.values().filter_map(|sender| sender.answers.as_ref());
        received.any(|expected| expected.limits.max_latency.is_some())
            || sent.any(|expected| expected.max_each_way.is_some())
    }

    /// Returns the sources that probes are sent from, with the number of ports that each of them needs.
    pub fn sources(&self) -> BTreeMap<Source, u8> {
        let mut sources = BTreeMap::new();
        for sender in self.senders.values() {
            let ports = sources.entry(sender.source.clone()).or_insert(1);
            *ports = sender.flows.ports.max(*ports);
        }
        sources
    }

    /// Returns the sockets of listeners and senders that must be open to carry out this plan.
    pub fn sockets(&self) -> BTreeSet<Binding> {
        let listeners = self.listeners.keys().map(|address| Binding::of_listener(*address));
        let sources = self.sources().into_iter();
        listeners
            .chain(sources.flat_map(|(source, ports)| (0..ports).map(move |port| Binding::of(&source, port))))
            .collect()
    }
}

/// Returns findings that depend on name resolution or affect a plan that can nevertheless be carried out.
pub fn remarks(loaded: &Loaded, names: &Names, host: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for test in loaded.tests.values() {
        let mut findings = Findings::about(&test.place);
        let (resolver, help) = (Resolver { names }, "write both as IPv4 or both as IPv6 addresses");
        if let Some(Ok(addresses)) = test.stamp().map(|stamp| resolver.addresses(stamp)) {
            if let Some(problem) = addresses.contradiction() {
                findings.error("from", problem, help);
            }
            if addresses.listen.is_ipv4() != addresses.to.is_ipv4() {
                let problem = "not of the address family of `to`: probes arrive only through a translator (NAT64)";
                findings.warning("listen", problem, help);
            }
        }
        if test.stamp().is_some_and(|stamp| stamp.from.port != 0 && stamp.flows.ports > 1) {
            let problem = "only the first of the test's `flows` leaves from this port, the others from any";
            findings.warning("from", problem, "write port 0, and each flow leaves from a port of its own");
        }
        for (field, endpoint) in test.endpoints() {
            let Some(name) = endpoint.name() else { continue };
            match names.get(name) {
                Some(Ok(addresses)) if addresses.len() > 1 && !all_loopback(addresses) => {
                    let all = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let problem = format!("`{name}` has {} addresses: {all}", addresses.len());
                    findings.warning(field, problem, "write the address that is meant; the lowest is used");
                }
                Some(Ok(_)) => {}
                Some(Err(problem)) => {
                    let help = "correct the name, or the name server; until then the test does not run";
                    findings.error(field, format!("`{name}` cannot be resolved: {problem}"), help);
                }
                None => {}
            }
        }
        if test.facts.concerns(host) {
            found.extend(findings.into_vec());
        }
    }
    found
}

fn all_loopback(addresses: &[IpAddr]) -> bool {
    addresses.iter().all(IpAddr::is_loopback)
}

/// Pool of criteria, which lets tests with equal settings share an allocation.
#[derive(Default)]
struct CriteriaPool(Vec<Arc<Criteria>>);

impl CriteriaPool {
    /// Number of recent entries to search. Sets are expanded one after the other, so equal settings occur close
    /// together.
    const RECENT: usize = 8;

    fn share(&mut self, criteria: Criteria) -> Arc<Criteria> {
        if let Some(known) = self.0.iter().rev().take(Self::RECENT).find(|known| ***known == criteria) {
            return known.clone();
        }
        let criteria = Arc::new(criteria);
        self.0.push(criteria.clone());
        criteria
    }
}

/// Returns the criteria by which a sender judges the answers to its probes.
fn answers(
    (test, stamp): (&Test, &StampSpec),
    startup_grace: Duration,
    criteria_pool: &mut CriteriaPool,
) -> SessionPlan {
    let limits = DelayLimits { max_latency: test.max_round_trip, clear_latency: Duration::MAX, ..test.limits };
    let max_each_way = test.limits.max_latency;
    let criteria = Criteria { role: Role::Sender, limits, max_each_way, ..criteria((test, stamp), startup_grace) };
    SessionPlan { test: test.facts.clone(), from_address: None, any_of: None, criteria: criteria_pool.share(criteria) }
}

fn expected(
    (test, stamp): (&Test, &StampSpec),
    from: IpAddr,
    startup_grace: Duration,
    criteria_pool: &mut CriteriaPool,
) -> SessionPlan {
    SessionPlan {
        test: test.facts.clone(),
        from_address: Some(from).filter(|from| !from.is_unspecified()),
        any_of: stamp.any_of.clone(),
        criteria: criteria_pool.share(criteria((test, stamp), startup_grace)),
    }
}

fn criteria((test, stamp): (&Test, &StampSpec), startup_grace: Duration) -> Criteria {
    Criteria {
        role: Role::Receiver,
        mode: stamp.mode,
        expect_every: test.expect_every,
        has_timeout: true,
        thresholds: test.thresholds,
        limits: test.limits,
        max_each_way: None,
        max_above_baseline: test.max_above_baseline,
        loss: test.loss,
        flows: stamp.flows,
        keys: stamp.keys.clone(),
        startup_grace,
        max_pause: test.max_pause,
    }
}

/// Returns the plan of a test of a target. A probe fails before the next one is due, so that at most one is in flight.
fn target_plan(test: &Test, target: Target) -> TargetPlan {
    let criteria = Criteria {
        role: Role::Sender,
        mode: Mode::OneWay,
        expect_every: test.expect_every,
        has_timeout: false,
        thresholds: test.thresholds,
        limits: DelayLimits { egregious_latency: Duration::MAX, ..test.limits },
        max_each_way: None,
        max_above_baseline: test.max_above_baseline,
        loss: test.loss,
        flows: Flows::default(),
        keys: None,
        startup_grace: test.startup_grace,
        max_pause: test.max_pause,
    };
    TargetPlan {
        target,
        send_every: test.send_every,
        timeout: test.expect_every.min(test.send_every),
        session: SessionPlan {
            test: test.facts.clone(),
            from_address: None,
            any_of: None,
            criteria: Arc::new(criteria),
        },
    }
}

/// Returns the groups of a test that is received at `addr`, or whose answers are judged here when `addr` is `None`.
fn membership(test: &Test, addr: Option<SocketAddr>) -> Membership {
    let peer = if addr.is_some() { &test.facts.from_host } else { &test.facts.to_host };
    let listener = addr.map(Subject::Listener);
    let ends = [Some(Subject::Host(peer.clone())), listener].into_iter().flatten();
    // After a host recovers, its slow tests need this time to become good again before they are reported as down.
    let to_clear = test.thresholds.clear_out_of.saturating_add(1);
    Membership {
        shares: ends.chain(test.facts.tags.iter().cloned().map(Subject::Tag)).collect(),
        fresh_after: test.expect_every.saturating_mul(to_clear),
        found_after: test.expect_every.saturating_mul(test.thresholds.raise_out_of),
        direction: if addr.is_some() { GroupDirection::From } else { GroupDirection::To },
        description: test.facts.description.clone(),
    }
}

/// Returns the groups of a sent test: its `sender` alarm is grouped by the destination host.
fn sender_membership(test: &Test) -> Membership {
    let (every, thresholds) = (test.send_every, test.thresholds);
    Membership {
        shares: vec![Subject::Host(test.facts.to_host.clone())],
        fresh_after: every.saturating_mul(thresholds.clear_out_of.saturating_add(1)) + ERROR_LIFETIME,
        found_after: every.saturating_mul(thresholds.raise_out_of),
        direction: GroupDirection::To,
        description: test.facts.description.clone(),
    }
}

/// Socket of this host, identified by address, interface and source port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// Local address and port to bind. Port 0 leaves the choice to the system.
    pub address: SocketAddr,
    /// Network interface that the socket is bound to, regardless of the routing table.
    pub interface: Option<String>,
    /// Index among the source ports of its tests.
    pub port: u8,
}

impl Binding {
    /// Returns the socket of a listener. Senders with the same source address can use it too.
    pub fn of_listener(address: SocketAddr) -> Self {
        Binding { address, interface: None, port: 0 }
    }

    /// Returns the socket for a source port of a source. Only port 0 uses the port that the documents state; the
    /// system chooses the others.
    pub fn of(source: &Source, port: u8) -> Self {
        let address = if port == 0 { source.address } else { SocketAddr::new(source.address.ip(), 0) };
        Binding { address, interface: source.interface.clone(), port }
    }
}

/// Returns the address to bind for `addr`: the wildcard when it is bound at the same port, because it receives the
/// packets of every address of its family.
fn covering(addr: SocketAddr, bound: &BTreeSet<SocketAddr>) -> SocketAddr {
    let wildcard = SocketAddr::new(wildcard_of(addr.ip()), addr.port());
    if addr.port() != 0 && bound.contains(&wildcard) { wildcard } else { addr }
}

#[cfg(test)]
mod tests;
