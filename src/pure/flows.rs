//! The flows of a test: its probes leave from several ports, in several classes of service and in
//! two sizes, since a network may lose one kind and carry the others.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::time::Moment;

/// In which kinds a test's probes are sent. In each of its turns, one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// Source ports; at least 1.
    pub ports: u8,
    /// Differentiated services code points; at least one.
    pub dscp: CodePoints,
    /// Octets of UDP payload of probes that are sent beside the short ones.
    pub size: Option<u16>,
}

/// A set of differentiated services code points, which are below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePoints(u64);

impl CodePoints {
    /// Of these; those that are none are left out.
    pub fn of(codes: &[u8]) -> Self {
        CodePoints(codes.iter().filter(|code| **code < 64).fold(0, |bits, code| bits | 1 << code))
    }

    /// How many.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// All of them, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |code| self.0 >> code & 1 == 1)
    }

    /// The n-th of them.
    fn nth(self, n: usize) -> u8 {
        let rest = (0..n).fold(self.0, |bits, _| bits & bits.wrapping_sub(1));
        if rest == 0 { 0 } else { rest.trailing_zeros() as u8 }
    }
}

/// What tells one flow from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Which of the source ports, from 0.
    pub port: u8,
    /// Its differentiated services code point.
    pub dscp: u8,
    /// Its probes have so many octets of UDP payload; nothing: no more than they need.
    pub size: Option<u16>,
}

/// A probe's flow index is one octet.
pub const MOST_FLOWS: usize = 256;

impl Default for Flows {
    fn default() -> Self {
        Flows { ports: 1, dscp: CodePoints::of(&[0]), size: None }
    }
}

impl Flows {
    /// How many there are.
    pub fn count(&self) -> usize {
        usize::from(self.ports) * self.dscp.count() * if self.size.is_some() { 2 } else { 1 }
    }

    /// The flow of an index below `count`.
    pub fn get(&self, index: usize) -> Flow {
        let sizes = if self.size.is_some() { 2 } else { 1 };
        let (rest, size) = (index / sizes, index % sizes);
        let (port, dscp) = (rest / self.dscp.count().max(1), rest % self.dscp.count().max(1));
        Flow {
            port: u8::try_from(port).unwrap_or(u8::MAX),
            dscp: self.dscp.nth(dscp),
            size: self.size.filter(|_| size == 1),
        }
    }

    /// Names what is common to the dead ones and to no other.
    pub fn name(&self, dead: &[bool], ports: &[Option<u16>]) -> DeadFlows {
        let flows: Vec<(Flow, bool)> = dead.iter().enumerate().map(|(n, dead)| (self.get(n), *dead)).collect();
        let exactly = |of_kind: &dyn Fn(&Flow) -> bool| flows.iter().all(|(flow, dead)| of_kind(flow) == *dead);
        let what = if let Some(size) = self.size.filter(|_| exactly(&|flow| flow.size.is_some())) {
            Common::Size(size)
        } else if let Some(size) = self.size.filter(|_| exactly(&|flow| flow.size.is_none())) {
            Common::Short(size)
        } else if let Some(dscp) = self.dscp.iter().find(|dscp| exactly(&|flow| flow.dscp == *dscp)) {
            Common::Dscp(dscp)
        } else {
            Common::Some
        };
        let dead: Vec<usize> = (0..dead.len()).filter(|n| dead[*n]).collect();
        let ports: BTreeSet<u16> = dead.iter().filter_map(|n| *ports.get(*n)?).collect();
        DeadFlows { dead: dead.len(), of: flows.len(), what, ports: ports.into_iter().collect() }
    }
}

/// Flows of a test that nothing comes from, while others do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadFlows {
    /// How many.
    pub dead: usize,
    /// Of how many.
    pub of: usize,
    /// What they have in common.
    #[serde(skip)]
    pub what: Common,
    /// The source ports that their probes came from, as far as any ever came: with them the path can be traced.
    pub ports: Vec<u16>,
}

/// More source ports than this are not named in a text.
const PORTS_NAMED: usize = 16;

/// What dead flows have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Common {
    /// All long probes, and no others.
    Size(u16),
    /// All short probes, and none of this size.
    Short(u16),
    /// All of a class of service, and no others.
    Dscp(u8),
    /// Nothing but that they are dead: one of several equal paths may be.
    Some,
}

/// IPv4 and UDP headers before the payload.
const HEADERS: u16 = 28;

impl fmt::Display for DeadFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} flows dead: ", self.dead, self.of)?;
        match self.what {
            Common::Size(size) => {
                let packet = size.saturating_add(HEADERS);
                write!(
                    f,
                    "packets of {size} octets of payload ({packet} with IPv4 and UDP headers) are lost, short ones arrive"
                )
            }
            Common::Short(size) => write!(f, "short packets are lost, those of {size} octets of payload arrive"),
            Common::Dscp(dscp) => write!(f, "packets with DSCP {dscp} are lost, others arrive"),
            Common::Some => {
                let named: Vec<String> = self.ports.iter().take(PORTS_NAMED).map(u16::to_string).collect();
                let more = if self.ports.len() > PORTS_NAMED { " and others" } else { "" };
                match named.is_empty() {
                    true => f.write_str("some source ports are lost")?,
                    false => write!(f, "those from source port {}{more} are lost", named.join(", "))?,
                }
                f.write_str("; one of several equal paths may be broken")
            }
        }
    }
}

/// What came of each flow.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    flows: Vec<Track>,
}

/// One flow.
#[derive(Clone, Debug, Default)]
struct Track {
    /// The newest sequence number and its delay in nanoseconds.
    newest: Option<(u32, i64)>,
    last: Option<Moment>,
    /// The source port of the newest.
    source_port: Option<u16>,
    received: u32,
    lost: i64,
    /// The newest probe's count of sequence numbers whose probes never left the sender.
    unsent: u32,
}

/// Fields of a probe that place it in its flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowProbe {
    /// Sequence number; those of one flow are as far apart as there are flows.
    pub sequence: u32,
    /// Sequence numbers of the epoch, below this one, whose probes never left the sender.
    pub unsent: u32,
    /// One-way delay in nanoseconds.
    pub delay: i64,
    /// Source port.
    pub source_port: u16,
}

/// One flow, as the snapshot shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowStatus {
    /// Its index in probes.
    pub flow: usize,
    /// Which of the source ports, from 0.
    pub port: u8,
    /// Source port of the newest probe of the flow.
    pub source_port: Option<u16>,
    /// Its differentiated services code point.
    pub dscp: u8,
    /// Octets of UDP payload, if they are said.
    pub size: Option<u16>,
    /// Probes that came since the expectation began.
    pub received: u32,
    /// Probes that did not.
    pub lost: u64,
}

/// Where a probe stands in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlow {
    /// A later one of the same flow came before it.
    pub overtaken: bool,
    /// The delay of the one before it in nanoseconds, if that came.
    pub previous: Option<i64>,
}

impl Seen {
    /// Another epoch, or other flows.
    pub fn begin(&mut self) {
        for track in &mut self.flows {
            track.newest = None;
        }
    }

    /// Records a probe of one of `count` flows.
    pub fn on_probe(&mut self, probe: FlowProbe, count: usize, now: Moment) -> InFlow {
        let FlowProbe { sequence, unsent, delay, source_port } = probe;
        if self.flows.len() != count {
            self.flows.clear();
            self.flows.resize(count, Track::default());
        }
        let apart = u32::try_from(count).unwrap_or(1).max(1);
        let track = &mut self.flows[(sequence % apart) as usize];
        (track.last, track.received) = (Some(now), track.received.saturating_add(1));
        track.source_port = Some(source_port);
        let unsent = unsent.wrapping_sub(std::mem::replace(&mut track.unsent, unsent));
        let Some((newest, previous)) = track.newest else {
            track.newest = Some((sequence, delay));
            return InFlow { overtaken: false, previous: None };
        };
        let ahead = sequence.wrapping_sub(newest) as i32;
        if ahead <= 0 {
            track.lost -= 1;
            return InFlow { overtaken: true, previous: None };
        }
        // Which of the flows a probe that never left belonged to is not known: it is taken to be this one.
        track.lost += (i64::from(ahead as u32 / apart) - 1 - i64::from(unsent)).max(0);
        track.newest = Some((sequence, delay));
        InFlow { overtaken: false, previous: (ahead as u32 == apart).then_some(previous) }
    }

    /// Which flows nothing came from for so long.
    pub fn dead(&self, now: Moment, after: Duration, begun: Moment) -> Vec<bool> {
        self.flows.iter().map(|track| now.since(track.last.unwrap_or(begun)) > after).collect()
    }

    /// The source port that each flow was last seen to come from.
    pub fn ports(&self) -> Vec<Option<u16>> {
        self.flows.iter().map(|track| track.source_port).collect()
    }

    /// Of how many flows anything is known.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// For the snapshot.
    pub fn status(&self, flows: &Flows) -> Vec<FlowStatus> {
        let status = |(n, track): (usize, &Track)| {
            let Flow { port, dscp, size } = flows.get(n);
            let (source_port, received, lost) = (track.source_port, track.received, track.lost.max(0) as u64);
            FlowStatus { flow: n, port, source_port, dscp, size, received, lost }
        };
        self.flows.iter().enumerate().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows() -> Flows {
        Flows { ports: 4, dscp: CodePoints::of(&[0, 46]), size: Some(1400) }
    }

    #[test]
    fn every_index_is_another_flow() {
        let flows = flows();
        let all: Vec<Flow> = (0..flows.count()).map(|n| flows.get(n)).collect();
        assert_eq!(all.len(), 16);
        for (n, flow) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == flow), Some(n));
        }
    }

    #[test]
    fn what_dead_flows_have_in_common_is_named() {
        let flows = flows();
        let dead = |of_kind: &dyn Fn(Flow) -> bool| (0..16).map(|n| of_kind(flows.get(n))).collect::<Vec<bool>>();
        let ports: Vec<Option<u16>> = (0..16).map(|n| Some(40_000 + u16::from(flows.get(n).port))).collect();
        let named = |of_kind: &dyn Fn(Flow) -> bool| flows.name(&dead(of_kind), &ports).to_string();
        assert_eq!(
            named(&|flow| flow.size.is_some()),
            "8 of 16 flows dead: packets of 1400 octets of payload (1428 with IPv4 and UDP headers) are lost, short ones arrive"
        );
        assert_eq!(named(&|flow| flow.dscp == 46), "8 of 16 flows dead: packets with DSCP 46 are lost, others arrive");
        assert_eq!(
            named(&|flow| flow.port == 2),
            "4 of 16 flows dead: those from source port 40002 are lost; one of several equal paths may be broken"
        );
    }

    #[test]
    fn each_flow_has_an_order_of_its_own() {
        let mut seen = Seen::default();
        let probe = |sequence, delay| FlowProbe { sequence, unsent: 0, delay, source_port: 0 };
        let at = |millis| Moment::new(Duration::from_millis(millis));
        // Two flows; the second's path is slower, so that its probes are behind the first's.
        for (n, sequence) in [0u32, 2, 1, 4, 3, 6, 5].into_iter().enumerate() {
            let delay = i64::from(sequence) * 10;
            let place = seen.on_probe(probe(sequence, delay), 2, at(n as u64));
            assert!(!place.overtaken);
            assert_eq!(place.previous, (sequence > 1).then(|| delay - 20));
        }
        // 8 is lost, 10 comes before a late 8.
        assert_eq!(seen.on_probe(probe(10, 0), 2, at(8)), InFlow { overtaken: false, previous: None });
        assert_eq!(seen.flows[0].lost, 1);
        assert!(seen.on_probe(probe(8, 0), 2, at(9)).overtaken);
        assert_eq!(seen.flows[0].lost, 0);
        assert_eq!(seen.dead(at(20), Duration::from_millis(12), at(0)), [false, true]);
    }
}
