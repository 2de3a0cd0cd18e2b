//! Traffic of the probes of a host: packet rates and bandwidths.

use std::net::SocketAddr;

use serde::Serialize;

use crate::config::load::Loaded;
use crate::config::plan::Plan;
use crate::pure::stamp::flows::Flows;
use crate::pure::stamp::packet;
use crate::pure::test::spec::{Mode, Wire};

/// Octets of the IPv4 and UDP headers; the IPv6 header has 20 more than the IPv4 header.
const HEADERS: usize = 28;
const MORE_IN_IPV6: usize = 20;
/// Approximate size in octets of a probe in the original's JSON format.
const JSON_V1: usize = 200;

/// Packet rate and bandwidth of the probes of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// Received probes per second.
    pub packets_in: f64,
    /// Sent probes per second, including answers to probes of two-way tests.
    pub packets_out: f64,
    /// Received bits per second, including the IP and UDP headers.
    pub bits_in: f64,
    /// Sent bits per second, including the IP and UDP headers.
    pub bits_out: f64,
}

impl Load {
    /// Computes the load of a host from its documents and its plan.
    pub fn of(loaded: &Loaded, plan: &Plan) -> Self {
        let mut load = Load::default();
        for (address, listener) in &plan.listeners {
            let tests = listener.tests.keys().filter_map(|id| loaded.tests.get(id));
            for (test, stamp) in tests.filter_map(|test| Some((test, test.stamp()?))) {
                // A test with `any_of` needs the probes of a single sender, but every sender transmits.
                let senders = stamp.any_of.as_ref().map_or(1.0, |any_of| any_of.len() as f64);
                let turns = senders / test.send_every.as_secs_f64();
                let (packets, bits) = turn(stamp.wire, &stamp.flows, stamp.keys.is_some(), *address);
                (load.packets_in, load.bits_in) = (load.packets_in + turns * packets, load.bits_in + turns * bits);
                if stamp.mode == Mode::TwoWay {
                    load.packets_out += turns * packets;
                    load.bits_out += turns * bits;
                }
            }
        }
        for sender in plan.senders.values() {
            let turns = 1.0 / sender.send_every.as_secs_f64();
            let (packets, bits) = turn(sender.wire, &sender.flows, sender.keys.is_some(), sender.destination);
            (load.packets_out, load.bits_out) = (load.packets_out + turns * packets, load.bits_out + turns * bits);
            if sender.answers.is_some() {
                load.packets_in += turns * packets;
                load.bits_in += turns * bits;
            }
        }
        // The octets of a target's probes depend on the target, and are not counted.
        load.packets_out += plan.targets.values().map(|target| 1.0 / target.send_every.as_secs_f64()).sum::<f64>();
        load
    }
}

/// Returns the packets and bits of one round of a test, in which each flow carries one probe.
fn turn(wire: Wire, flows: &Flows, keyed: bool, address: SocketAddr) -> (f64, f64) {
    let least = match (wire, keyed) {
        (Wire::Stamp, false) => packet::PROBE_LEN,
        (Wire::Stamp, true) => packet::SIGNED_LEN,
        (Wire::JsonV1, _) => JSON_V1,
    };
    let headers = if address.is_ipv6() { HEADERS + MORE_IN_IPV6 } else { HEADERS };
    let payloads = (0..flows.count()).map(|flow| flows.get(flow).size.map_or(least, usize::from));
    let octets: usize = payloads.map(|payload| payload + headers).sum();
    (flows.count() as f64, 8.0 * octets as f64)
}
