//! Expands a set into its tests. The result depends only on the set and the hosts' documents, so that all agents
//! compute the same tests independently. [`Expansion`] holds a set together with the hosts that it selects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use wildmatch::WildMatch;

use crate::config::document::endpoint::Endpoint;
use crate::config::document::findings::Findings;
use crate::config::document::set::{Hosts, SetDirection, SetDocument, SetEnd, SetExpect, Topology};
use crate::config::document::test::{TestDocument, WhenAbsent};
use crate::pure::test::id::TestId;

/// Default port of receivers, used when the receiving end of a set names none.
pub const PORT: u16 = 8620;
/// Number of hosts that a finding or a description lists by name before it abbreviates.
const LISTED: usize = 5;

/// Test that was expanded from a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Expanded {
    /// Equivalent test document, as an author would write it by hand.
    pub document: TestDocument,
    /// Ids of acceptable probes, any of which satisfies the test. `None` when only probes with the test's own id
    /// count.
    pub any_of: Option<BTreeSet<TestId>>,
}

/// A set together with the hosts of the fleet.
pub struct Expansion<'a> {
    name: &'a str,
    set: &'a SetDocument,
    hosts: &'a Hosts,
    from: BTreeSet<&'a str>,
    to: BTreeSet<&'a str>,
    /// Hashes of the host names, computed only for a set with `sample`.
    hashes: HashMap<&'a str, u64>,
}

/// Probes from a host to another one, with the ends of the set that they belong to.
#[derive(Clone, Copy)]
struct HostPair<'a> {
    sender: &'a str,
    receiver: &'a str,
    sends: &'a SetEnd,
    receives: &'a SetEnd,
}

impl<'a> Expansion<'a> {
    /// Creates the expansion of the set `sets/<name>` for the given hosts.
    pub fn new(name: &'a str, set: &'a SetDocument, hosts: &'a Hosts) -> Self {
        let mut from = select(&set.from, hosts);
        if !set.to.at.is_empty() {
            // A host that may hold the floating address would send probes to itself.
            let receivers = select(&set.to, hosts);
            from.retain(|host| !receivers.contains(host));
        }
        let to = match set.topology {
            Topology::Mesh => from.clone(),
            Topology::Disjoint | Topology::List => select(&set.to, hosts),
            Topology::Star => hub(&set.to, hosts).into_iter().collect(),
        };
        let hashes = match set.sample {
            Some(_) => from.iter().chain(&to).map(|host| (*host, hash(host))).collect(),
            None => HashMap::new(),
        };
        Expansion { name, set, hosts, from, to, hashes }
    }

    /// Returns the tests that start or end at the host `own`.
    pub fn tests_of(&self, own: &str) -> Vec<Expanded> {
        let flows = self.flows(own);
        let mut tests: BTreeMap<TestId, Expanded> = BTreeMap::new();
        let mut wanted: Vec<HostPair<'_>> = Vec::new();
        for flow in flows {
            match self.set.expect {
                SetExpect::Any if flow.receiver == own => wanted.push(flow),
                SetExpect::Any | SetExpect::Each => {
                    if let Some((id, document)) = self.test(&flow, own) {
                        tests.entry(id).or_insert(Expanded { document, any_of: None });
                    }
                }
            }
        }
        if let Some((id, test)) = self.any_of(&wanted) {
            tests.insert(id, test);
        }
        tests.into_values().collect()
    }

    /// Returns the number of tests in the whole fleet that the set expands to.
    pub fn count(&self) -> usize {
        let has = |end: &SetEnd, host: &str| self.hosts[host].addresses.contains_key(&end.address);
        let to_end = if self.set.topology == Topology::Mesh { &self.set.from } else { &self.set.to };
        let reached = |host: &&&str| !to_end.at.is_empty() || has(to_end, host);
        let to: BTreeSet<&str> = self.to.iter().filter(reached).copied().collect();
        let others = |own: &str| to.len() - usize::from(to.contains(own));
        let sample = self.set.sample.map_or(usize::MAX, |sample| sample as usize);
        let pairs = match self.set.topology {
            Topology::Mesh | Topology::Disjoint | Topology::Star => {
                let from = self.from.iter().filter(|host| has(&self.set.from, host));
                from.map(|host| others(host).min(sample)).sum()
            }
            Topology::List => self.pairs().collect::<BTreeSet<_>>().len(),
        };
        if self.set.direction == SetDirection::Both { pairs * 2 } else { pairs }
    }

    /// Adds findings that depend on the hosts, such as names and groups that do not exist.
    pub fn check(&self, findings: &mut Findings) {
        for (field, end, selected) in [("from", &self.set.from, &self.from), ("to", &self.set.to, &self.to)] {
            if self.set.topology == Topology::Mesh && field == "to" || self.set.topology == Topology::List {
                continue;
            }
            for name in end.hosts.iter().filter(|name| !name.contains('*') && !self.hosts.contains_key(*name)) {
                let help = format!("write hosts/{name}, or correct the name");
                findings.warning(&format!("{field}.hosts"), format!("there is no host `{name}`"), help);
            }
            for name in end.except.iter().filter(|name| !name.contains('*') && !self.hosts.contains_key(*name)) {
                let problem = format!("there is no host `{name}` to be left out");
                findings.warning(&format!("{field}.except"), problem, "correct the name, or remove it");
            }
            for group in &end.groups {
                if !self.hosts.values().any(|host| host.groups.contains(group)) {
                    let problem = format!("no host is in the group `{group}`");
                    findings.warning(
                        &format!("{field}.groups"),
                        problem,
                        "write it into `groups` of the hosts' documents",
                    );
                }
            }
            if selected.is_empty() && (!end.hosts.is_empty() || !end.groups.is_empty()) {
                findings.warning(
                    field,
                    "no host is selected: the set has no tests",
                    "correct hosts, groups and except",
                );
            }
        }
        if self.count() == 0 && !self.from.is_empty() && !self.to.is_empty() {
            findings.warning("", "the set expands to no test", "no host tests itself: select more hosts");
        }
        let shared =
            self.to.len() > 1 && self.set.expect == SetExpect::Each && self.set.when_absent == WhenAbsent::Alarm;
        if !self.set.to.at.is_empty() && self.set.listen.is_empty() && shared {
            let problem = format!("one address, but {} hosts would listen at it", self.to.len());
            let help = "write \"when_absent\": \"standby\" for a floating address, \"listen\" and \"expect\": \"any\" behind \
                           a load balancer";
            findings.warning("to.at", problem, help);
        }
        for (n, [from, to]) in self.set.pairs.iter().enumerate() {
            for name in [from, to].into_iter().filter(|name| !self.hosts.contains_key(*name)) {
                let help = format!("write hosts/{name}, or correct the name");
                findings.warning(&format!("pairs[{n}]"), format!("there is no host `{name}`"), help);
            }
        }
        let ends = match self.set.topology {
            Topology::Mesh => vec![("from", &self.set.from, &self.from)],
            Topology::Disjoint | Topology::Star => {
                vec![("from", &self.set.from, &self.from), ("to", &self.set.to, &self.to)]
            }
            Topology::List => Vec::new(),
        };
        for (field, end, selected) in ends {
            let without: Vec<&str> = selected
                .iter()
                .copied()
                .filter(|host| !self.hosts[*host].addresses.contains_key(&end.address))
                .collect();
            let needs_none = field == "to" && !end.at.is_empty();
            if !without.is_empty() && !needs_none {
                let problem =
                    format!("no address `{}` in the documents of {}: left out", end.address, listed(&without));
                let help = format!("write \"addresses\": {{\"{}\": \"10.0.0.5\"}} into hosts/<host>", end.address);
                findings.warning(field, problem, help);
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let known = |name: &'a String| Some(self.hosts.get_key_value(name)?.0.as_str());
        let pairs = self.set.pairs.iter().filter_map(move |[from, to]| Some((known(from)?, known(to)?)));
        let enabled = |name: &str| self.hosts.get(name).is_some_and(|host| host.enabled);
        pairs.filter(move |(from, to)| from != to && enabled(from) && enabled(to))
    }

    fn flows(&self, own: &str) -> Vec<HostPair<'a>> {
        let mut pairs: Vec<(&'a str, &'a str)> = Vec::new();
        if self.set.topology == Topology::List {
            pairs.extend(self.pairs().filter(|(from, to)| *from == own || *to == own));
        } else {
            if let Some(own) = self.from.get(own) {
                pairs.extend(self.peers(own).into_iter().map(|peer| (*own, peer)));
            }
            if let Some(own) = self.to.get(own) {
                let choosing_hosts = self.from.iter().filter(|host| *host != own && self.chooses(host, own));
                pairs.extend(choosing_hosts.map(|host| (*host, *own)));
            }
        }
        let (from, to) = match self.set.topology {
            Topology::Mesh => (&self.set.from, &self.set.from),
            Topology::Disjoint | Topology::Star | Topology::List => (&self.set.from, &self.set.to),
        };
        let forward = pairs.iter().map(|(a, b)| HostPair { sender: a, receiver: b, sends: from, receives: to });
        let backward = pairs.iter().map(|(a, b)| HostPair { sender: b, receiver: a, sends: to, receives: from });
        match self.set.direction {
            SetDirection::Forward => forward.collect(),
            SetDirection::Backward => backward.collect(),
            SetDirection::Both => forward.chain(backward).collect(),
        }
    }

    /// Returns the hosts to which `own` is paired as the `from` end, limited to `sample`.
    fn peers(&self, own: &str) -> Vec<&'a str> {
        let mut others: Vec<&'a str> = self.to.iter().copied().filter(|host| *host != own).collect();
        if let Some(sample) = self.set.sample {
            others.sort_by_key(|peer| std::cmp::Reverse((self.weight(own, peer), *peer)));
            others.truncate(sample as usize);
        }
        others
    }

    /// Returns true if `host` selects `peer` as one of its `sample` peers. The peers with the highest weights win
    /// (rendezvous hashing), so that a joining or leaving host changes few selections.
    fn chooses(&self, host: &str, peer: &str) -> bool {
        let Some(sample) = self.set.sample else { return true };
        let weight = (self.weight(host, peer), peer);
        let heavier = self.to.iter().filter(|other| **other != host && (self.weight(host, other), **other) > weight);
        heavier.take(sample as usize).count() < sample as usize
    }

    fn weight(&self, host: &str, peer: &str) -> u64 {
        let known = |name: &str| self.hashes.get(name).copied().unwrap_or_default();
        mixed(mixed(known(host)) ^ known(peer))
    }

    /// Builds the test for a flow as the host `own` sees it. Returns `None` when an end has no address.
    fn test(&self, flow: &HostPair<'_>, own: &str) -> Option<(TestId, TestDocument)> {
        let at = &flow.receives.at;
        let (id, to_host) = match at.is_empty() {
            true => (TestId::of_set(self.name, flow.sender, flow.receiver), flow.receiver.to_owned()),
            // A sender cannot determine which of the receivers currently holds the address.
            false if flow.sender == own => {
                let receivers: Vec<&str> = self.to.iter().copied().filter(|host| *host != own).collect();
                let listed = if receivers.is_empty() { flow.receiver.to_owned() } else { listed(&receivers) };
                (TestId::of_set(self.name, flow.sender, at), listed)
            }
            false => (TestId::of_set(self.name, flow.sender, at), flow.receiver.to_owned()),
        };
        let document = TestDocument {
            id: id.to_string(),
            from_host: flow.sender.to_owned(),
            from: self.address(flow.sender, flow.sends, 0)?,
            to_host,
            to: self.destination(flow)?,
            ..self.template()
        };
        Some((id, document))
    }

    /// Builds the test of a receiver that accepts the probes of any of the senders in `flows`. Returns `None` when
    /// the receiver or every sender lacks an address.
    fn any_of(&self, flows: &[HostPair<'_>]) -> Option<(TestId, Expanded)> {
        let first = flows.first()?;
        let at = &first.receives.at;
        let to = if at.is_empty() { first.receiver } else { at };
        let senders: Vec<&str> = flows
            .iter()
            .filter(|flow| self.address(flow.sender, flow.sends, 0).is_some())
            .map(|flow| flow.sender)
            .collect();
        if senders.is_empty() {
            return None;
        }
        let id = TestId::of_set(self.name, "*", to);
        let document = TestDocument {
            id: id.to_string(),
            from_host: match senders.as_slice() {
                [one] => (*one).to_owned(),
                many => format!("any of {} hosts", many.len()),
            },
            to_host: first.receiver.to_owned(),
            to: self.destination(first)?,
            ..self.template()
        };
        let any_of = senders.iter().map(|sender| TestId::of_set(self.name, sender, to)).collect();
        Some((id, Expanded { document, any_of: Some(any_of) }))
    }

    fn template(&self) -> TestDocument {
        let mut template = self.set.template();
        if template.description.is_empty() {
            self.name.clone_into(&mut template.description);
        }
        template.set = Some(self.name.to_owned());
        template
    }

    fn destination(&self, flow: &HostPair<'_>) -> Option<String> {
        match flow.receives.at.as_str() {
            "" => self.address(flow.receiver, flow.receives, PORT),
            at => Some(at.to_owned()),
        }
    }

    fn address(&self, host: &str, end: &SetEnd, port: u16) -> Option<String> {
        let addr = self.hosts.get(host)?.addresses.get(&end.address)?;
        Some(SocketAddr::new(*addr, end.port.unwrap_or(port)).to_string())
    }
}

/// Checks a set for errors that do not depend on the hosts.
pub fn check(set: &SetDocument, findings: &mut Findings) {
    let selects = |end: &SetEnd| !end.hosts.is_empty() || !end.groups.is_empty();
    let help = "write hosts or groups, such as \"groups\": [\"db\"], or \"hosts\": [\"*\"]";
    if set.topology != Topology::List {
        if !selects(&set.from) {
            findings.error("from", "selects no host", help);
        }
        if set.topology != Topology::Mesh && !selects(&set.to) {
            findings.error("to", "selects no host", help);
        }
        if !set.pairs.is_empty() {
            findings.error("pairs", "only a list has pairs", "write \"topology\": \"list\", or remove them");
        }
    } else if selects(&set.from) || selects(&set.to) {
        findings.error(
            "pairs",
            "a list is defined by its pairs; hosts and groups have no effect",
            "remove them, or write another topology",
        );
    } else if set.pairs.is_empty() {
        findings.error("pairs", "missing", "write the pairs one by one: [[\"app1\", \"db1\"], ...]");
    }
    if set.topology == Topology::Mesh {
        if set.to != SetEnd::default() {
            findings.error(
                "to",
                "a mesh has only one group of hosts",
                "write them in `from`, or use topology \
                disjoint",
            );
        }
        if set.direction != SetDirection::Forward {
            findings.error("direction", "a mesh already tests both directions", "remove it");
        }
    }
    if matches!(set.topology, Topology::Star | Topology::List) && set.sample.is_some() {
        findings.error("sample", "only a mesh and a disjoint set can be sampled", "remove it");
    }
    if set.sample == Some(0) {
        findings.error("sample", "with 0, no host is tested", "write 1 or more, or \"enabled\": false");
    }
    if !set.from.at.is_empty() {
        findings.error("from.at", "senders send to the address of the other end", "write it in `to.at`");
    }
    if !set.to.at.is_empty() {
        match set.to.at.parse::<Endpoint>() {
            Ok(at) if at.port != 0 && !at.is_wildcard() => {}
            Ok(_) | Err(_) => {
                let problem = format!("probes cannot be sent to `{}`", set.to.at);
                findings.error("to.at", problem, "write address:port, such as \"10.0.0.100:8621\"");
            }
        }
    }
    if set.direction != SetDirection::Forward {
        let others = [("to.at", !set.to.at.is_empty()), ("listen", !set.listen.is_empty())];
        for (field, _) in others.into_iter().chain([("expect", set.expect == SetExpect::Any)]).filter(|(_, said)| *said)
        {
            let help = "write \"direction\": \"forward\", and another set for the reverse direction";
            findings.error(field, "has no meaning in the reverse direction", help);
        }
    }
    let receives = match (set.topology, set.direction) {
        (Topology::Mesh, _) | (_, SetDirection::Backward) => vec![("from", &set.from)],
        (_, SetDirection::Forward) => vec![("to", &set.to)],
        (_, SetDirection::Both) => vec![("from", &set.from), ("to", &set.to)],
    };
    for (field, _) in receives.into_iter().filter(|(_, end)| end.port == Some(0) && end.at.is_empty()) {
        let help = format!("write the port that receivers listen at, or leave it out for {PORT}");
        findings.error(&format!("{field}.port"), "receivers cannot listen at any port", help);
    }
}

fn select<'a>(end: &SetEnd, hosts: &'a Hosts) -> BTreeSet<&'a str> {
    let matches =
        |patterns: &[String], name: &str| patterns.iter().any(|pattern| WildMatch::new(pattern).matches(name));
    let selected = hosts.iter().filter(|(name, host)| {
        let meant = matches(&end.hosts, name) || end.groups.iter().any(|group| host.groups.contains(group));
        meant && host.enabled && !matches(&end.except, name)
    });
    selected.map(|(name, _)| name.as_str()).collect()
}

/// Returns the hub of a star: the first host that is both named and selected, otherwise the first in name order.
fn hub<'a>(end: &SetEnd, hosts: &'a Hosts) -> Option<&'a str> {
    let selected = select(end, hosts);
    let named = end.hosts.iter().find_map(|name| selected.get(name.as_str()).copied());
    named.or(selected.first().copied())
}

fn listed(hosts: &[&str]) -> String {
    match hosts.len().checked_sub(LISTED) {
        None | Some(0) => hosts.join(", "),
        Some(more) => format!("{} and {more} more", hosts[..LISTED].join(", ")),
    }
}

fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |hash, octet| hash << 8 | u64::from(*octet))
}

/// Finalizer of SplitMix64. Every output bit depends on all input bits.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests;
