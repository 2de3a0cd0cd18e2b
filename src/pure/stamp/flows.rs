//! Flows of a test. The probes of a test are sent from several source ports, with several DSCP values, and in up to
//! two sizes, because a network may lose packets of one kind and carry the others.
//!
//! [`Flows`] defines the flows, [`FlowTracker`] tracks the reception of each, and [`DeadFlows`] describes the lost
//! ones.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::base::time::Moment;

/// Definition of the flows of a test: every combination of port, code point and size. Each turn of the test sends one
/// probe per flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// Number of UDP source ports; at least 1.
    pub ports: u8,
    /// Differentiated services code points that probes are sent with; at least one.
    pub dscp: CodePoints,
    /// UDP payload size in octets of the long probes; `None` if the test sends short probes only.
    pub size: Option<u16>,
}

/// Set of differentiated services code points, each of which is below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePoints(u64);

impl CodePoints {
    /// Creates the set from a list of code points; values of 64 and above are ignored.
    pub fn of(codes: &[u8]) -> Self {
        CodePoints(codes.iter().filter(|code| **code < 64).fold(0, |bits, code| bits | 1 << code))
    }

    /// Returns the number of code points in the set.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Iterates over the code points in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |code| self.0 >> code & 1 == 1)
    }

    /// Returns the n-th code point in ascending order, or 0 if the set has fewer.
    fn nth(self, n: usize) -> u8 {
        let rest = (0..n).fold(self.0, |bits, _| bits & bits.wrapping_sub(1));
        if rest == 0 { 0 } else { rest.trailing_zeros() as u8 }
    }
}

/// Properties that distinguish one flow of a test from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Index of the source port, from 0; the actual port number is chosen by the sender.
    pub port: u8,
    /// Differentiated services code point of the probes of this flow.
    pub dscp: u8,
    /// UDP payload size in octets that the probes are padded to; `None` if they are sent without padding.
    pub size: Option<u16>,
}

/// Maximum number of flows of a test, given by the one-octet flow index in a probe.
pub const MAX_FLOWS: usize = 256;

impl Default for Flows {
    fn default() -> Self {
        Flows { ports: 1, dscp: CodePoints::of(&[0]), size: None }
    }
}

impl Flows {
    /// Returns the number of flows.
    pub fn count(&self) -> usize {
        usize::from(self.ports) * self.dscp.count() * if self.size.is_some() { 2 } else { 1 }
    }

    /// Returns the flow with the given index, which must be below `count`.
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

    /// Describes the dead flows by the property that they share and no live flow has. `ports` holds the last source
    /// port of each flow, if known.
    pub fn describe_dead(&self, dead: &[bool], ports: &[Option<u16>]) -> DeadFlows {
        let flows: Vec<(Flow, bool)> = dead.iter().enumerate().map(|(n, dead)| (self.get(n), *dead)).collect();
        let exactly = |of_kind: &dyn Fn(&Flow) -> bool| flows.iter().all(|(flow, dead)| of_kind(flow) == *dead);
        let what = if let Some(size) = self.size.filter(|_| exactly(&|flow| flow.size.is_some())) {
            SharedProperty::Size(size)
        } else if let Some(size) = self.size.filter(|_| exactly(&|flow| flow.size.is_none())) {
            SharedProperty::Short(size)
        } else if let Some(dscp) = self.dscp.iter().find(|dscp| exactly(&|flow| flow.dscp == *dscp)) {
            SharedProperty::Dscp(dscp)
        } else {
            SharedProperty::Some
        };
        let dead: Vec<usize> = (0..dead.len()).filter(|n| dead[*n]).collect();
        let ports: BTreeSet<u16> = dead.iter().filter_map(|n| *ports.get(*n)?).collect();
        DeadFlows { dead: dead.len(), of: flows.len(), what, ports: ports.into_iter().collect() }
    }
}

/// Description of the flows from which no probes arrive while others are received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadFlows {
    /// Number of dead flows.
    pub dead: usize,
    /// Total number of flows of the test.
    pub of: usize,
    /// Property that the dead flows have in common.
    pub what: SharedProperty,
    /// Source ports of the last probes of the dead flows, as far as any were received; with these ports the path can
    /// be traced.
    pub ports: Vec<u16>,
}

/// Maximum number of source ports that are listed in an alarm text.
const PORTS_NAMED: usize = 16;

/// Property shared by the dead flows and by no other flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedProperty {
    /// The long probes are lost and the short ones arrive; the value is the payload size of the long ones.
    Size(u16),
    /// The short probes are lost and the long ones arrive; the value is the payload size of the long ones.
    Short(u16),
    /// The probes with this differentiated services code point are lost, and all others arrive.
    Dscp(u8),
    /// The dead flows share no property; one of several equal-cost paths may be broken.
    Some,
}

/// Octets of the IPv4 and UDP headers that precede the payload.
const HEADERS: u16 = 28;

impl fmt::Display for DeadFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} flows dead: ", self.dead, self.of)?;
        match self.what {
            SharedProperty::Size(size) => {
                let packet = size.saturating_add(HEADERS);
                write!(
                    f,
                    "packets of {size} octets of payload ({packet} with IPv4 and UDP headers) are lost, short ones arrive"
                )
            }
            SharedProperty::Short(size) => {
                write!(f, "short packets are lost, those of {size} octets of payload arrive")
            }
            SharedProperty::Dscp(dscp) => write!(f, "packets with DSCP {dscp} are lost, others arrive"),
            SharedProperty::Some => {
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

/// Reception state of every flow of one test.
#[derive(Clone, Debug, Default)]
pub struct FlowTracker {
    flows: Vec<FlowState>,
}

/// Reception state of one flow.
#[derive(Clone, Debug, Default)]
struct FlowState {
    /// Newest sequence number and the delay of that probe in nanoseconds.
    newest: Option<(u32, i64)>,
    last: Option<Moment>,
    /// UDP source port of the last received probe.
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

/// Status of one flow, as published in the snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowStatus {
    /// Flow index, as carried in probes.
    pub flow: usize,
    /// Index of the source port, from 0.
    pub port: u8,
    /// Actual source port of the last received probe of the flow.
    pub source_port: Option<u16>,
    /// Differentiated services code point of the flow.
    pub dscp: u8,
    /// UDP payload size in octets; `None` if the probes of the flow are not padded.
    pub size: Option<u16>,
    /// Number of probes received since the receive session started or the number of flows changed.
    pub received: u32,
    /// Number of probes of this flow that are missing.
    pub lost: u64,
}

/// Position of a received probe within the sequence of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPosition {
    /// True if a later probe of the same flow arrived before this one.
    pub overtaken: bool,
    /// Delay in nanoseconds of the preceding probe of the flow, if that probe was received.
    pub previous: Option<i64>,
}

impl FlowTracker {
    /// Starts a new epoch of sequence numbers. Counters and the times of reception are kept.
    pub fn begin(&mut self) {
        for track in &mut self.flows {
            track.newest = None;
        }
    }

    /// Records a received probe of one of `count` flows, and returns its position in its flow.
    pub fn on_probe(&mut self, probe: FlowProbe, count: usize, now: Moment) -> FlowPosition {
        let FlowProbe { sequence, unsent, delay, source_port } = probe;
        if self.flows.len() != count {
            self.flows.clear();
            self.flows.resize(count, FlowState::default());
        }
        let apart = u32::try_from(count).unwrap_or(1).max(1);
        let track = &mut self.flows[(sequence % apart) as usize];
        (track.last, track.received) = (Some(now), track.received.saturating_add(1));
        track.source_port = Some(source_port);
        let unsent = unsent.wrapping_sub(std::mem::replace(&mut track.unsent, unsent));
        let Some((newest, previous)) = track.newest else {
            track.newest = Some((sequence, delay));
            return FlowPosition { overtaken: false, previous: None };
        };
        let ahead = sequence.wrapping_sub(newest) as i32;
        if ahead <= 0 {
            track.lost -= 1;
            return FlowPosition { overtaken: true, previous: None };
        }
        // Which of the flows a probe that never left belonged to is not known: it is taken to be this one.
        track.lost += (i64::from(ahead as u32 / apart) - 1 - i64::from(unsent)).max(0);
        track.newest = Some((sequence, delay));
        FlowPosition { overtaken: false, previous: (ahead as u32 == apart).then_some(previous) }
    }

    /// Returns for each flow whether no probe has arrived for longer than `after`. A flow without any probe is
    /// measured from `begun`.
    pub fn dead(&self, now: Moment, after: Duration, begun: Moment) -> Vec<bool> {
        self.flows.iter().map(|track| now.since(track.last.unwrap_or(begun)) > after).collect()
    }

    /// Returns the last known source port of each flow.
    pub fn ports(&self) -> Vec<Option<u16>> {
        self.flows.iter().map(|track| track.source_port).collect()
    }

    /// Returns the number of tracked flows; zero before the first probe.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// Returns the status of every flow for the snapshot.
    pub fn status(&self, flows: &Flows) -> Vec<FlowStatus> {
        let status = |(n, track): (usize, &FlowState)| {
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
    fn every_index_yields_a_distinct_flow() {
        let flows = flows();
        let all: Vec<Flow> = (0..flows.count()).map(|n| flows.get(n)).collect();
        assert_eq!(all.len(), 16);
        for (n, flow) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == flow), Some(n));
        }
    }

    #[test]
    fn dead_flows_are_described_by_their_common_property() {
        let flows = flows();
        let dead = |of_kind: &dyn Fn(Flow) -> bool| (0..16).map(|n| of_kind(flows.get(n))).collect::<Vec<bool>>();
        let ports: Vec<Option<u16>> = (0..16).map(|n| Some(40_000 + u16::from(flows.get(n).port))).collect();
        let named = |of_kind: &dyn Fn(Flow) -> bool| flows.describe_dead(&dead(of_kind), &ports).to_string();
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
    fn reordering_between_flows_is_not_counted_as_reordering() {
        let mut seen = FlowTracker::default();
        let probe = |sequence, delay| FlowProbe { sequence, unsent: 0, delay, source_port: 0 };
        let at = |millis| Moment::new(Duration::from_millis(millis));
        // Two flows; the path of the second is slower, so that its probes arrive after those of the first.
        for (n, sequence) in [0u32, 2, 1, 4, 3, 6, 5].into_iter().enumerate() {
            let delay = i64::from(sequence) * 10;
            let place = seen.on_probe(probe(sequence, delay), 2, at(n as u64));
            assert!(!place.overtaken);
            assert_eq!(place.previous, (sequence > 1).then(|| delay - 20));
        }
        // Probe 8 is delayed: 10 arrives first, and the late 8 then reduces the loss count again.
        assert_eq!(seen.on_probe(probe(10, 0), 2, at(8)), FlowPosition { overtaken: false, previous: None });
        assert_eq!(seen.flows[0].lost, 1);
        assert!(seen.on_probe(probe(8, 0), 2, at(9)).overtaken);
        assert_eq!(seen.flows[0].lost, 0);
        assert_eq!(seen.dead(at(20), Duration::from_millis(12), at(0)), [false, true]);
    }
}
