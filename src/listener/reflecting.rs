//! Reflects probes as a STAMP Session-Reflector (RFC 8762) and announces the stop of this receiver.
//!
//! A reflected packet is as long as the packet received, except that a TWAMP packet too short for a reply is answered
//! with the shortest reply; the rate of reflections is limited.

use std::net::SocketAddr;

use super::Listener;
use crate::io::net::recv_batch::Datagram;
use crate::io::net::udp::Envelope;
use crate::io::time;
use crate::messages::{ListenerFact, ReceiverStopping};
use crate::pure::base::time::Now;
use crate::pure::judge::session::SessionPlan;
use crate::pure::stamp::decode::DecodedProbe;
use crate::pure::stamp::key::{Key, KeyChoice};
use crate::pure::stamp::packet::{PROBE_LEN, Probe, SIGNED_LEN, STAMP_LEN, flag};
use crate::pure::stamp::session_reflector::{Reflector, Signature, reflect, reflect_short, signature_of};
use crate::pure::stamp::unknown_packets::RejectReason;

impl Listener {
    /// Handles a probe of a test that is not configured here, as `peerpair ping` sends them. It is reflected if it is
    /// signed with one of the fleet's keys, or if unknown senders are answered.
    pub(super) fn on_visitor(
        &mut self,
        datagram: &Datagram<'_>,
        probe: &DecodedProbe,
        received: Now,
    ) -> Result<(), RejectReason> {
        let DecodedProbe::Stamp(stamp) = probe else { return Err(RejectReason::UnknownTest) };
        if !wants_answer(probe) {
            return Err(RejectReason::UnknownTest);
        }
        let key = self.keys.accepted(&KeyChoice::Fleet, stamp.key_id);
        let key = key.filter(|key| Probe::is_signed(datagram.octets, key)).cloned();
        if key.is_none() && !self.shared.reflects_foreign() {
            return Err(RejectReason::UnknownTest);
        }
        if self.answers_to_strangers.take(received.moment).is_ok() {
            self.answer(datagram, received, key.as_deref().map_or(Signature::None, Signature::Good));
        }
        Ok(())
    }

    /// Announces to the senders of the tests that end here that this receiver stops, so that they do not report a
    /// closed port as a fault. The announcement is sent twice, because a datagram may be lost.
    pub(super) fn announce_stop(&mut self) {
        let now = time::now();
        let mut octets = [0; SIGNED_LEN];
        let heard: Vec<(SessionPlan, SocketAddr)> = self.sessions.active_sources(now.moment).collect();
        for (expected, sender) in heard {
            let key = match &expected.keys {
                Some(choice) => match self.keys.signing(choice) {
                    Some(key) => Some(key.clone()),
                    None => continue,
                },
                None => None,
            };
            let probe = Probe {
                sequence: 0,
                sent: now.wall,
                error_estimate: self.shared.error_estimate(),
                ssid: Probe::ssid_of(expected.test.id),
                flags: flag::RECEIVER_STOPS,
                flow: 0,
                key_id: 0,
                test_id: expected.test.id,
                epoch: now.wall.unix_micros(),
                send_every: expected.expect_every,
                unsent: 0,
                clock_error: u32::try_from(self.clock_error.as_nanos()).unwrap_or(u32::MAX),
                previous_lateness: 0,
            };
            let room = if key.is_some() { &mut octets[..] } else { &mut octets[..PROBE_LEN] };
            let len = probe.write(room, key.as_deref());
            let envelope = Envelope { destination: sender, source: None, dscp: 0 };
            for _ in 0..2 {
                if let Err(error) = self.socket.send(&octets[..len], &envelope) {
                    tracing::debug!(%error, "the stop could not be announced");
                }
            }
        }
    }

    /// Handles the announcement that the receiver of a test stops. The test starts here, and its sender shares this
    /// socket.
    pub(super) fn on_stop_announced(&mut self, datagram: &Datagram<'_>, probe: &Probe, received: Now) {
        if self.answers_to_strangers.take(received.moment).is_err() {
            return;
        }
        let key = self.keys.get(probe.key_id).filter(|key| Probe::is_signed(datagram.octets, key));
        let stop_announced = ReceiverStopping {
            test_id: probe.test_id,
            from: datagram.source,
            signed_with: key.map(Key::id),
            sent: probe.sent,
        };
        self.parent.do_send(ListenerFact::ReceiverStops(stop_announced));
    }

    /// Handles a packet of a STAMP sender that is no agent, when such senders are answered.
    pub(super) fn on_foreign_sender(&mut self, datagram: &Datagram<'_>, received: Now) {
        if self.answers_to_strangers.take(received.moment).is_ok() {
            let keys = self.keys.clone();
            self.answer(datagram, received, signature_of(datagram.octets, keys.all()));
        }
    }

    /// Reflects a packet to its source, with the length of the packet received. A TWAMP packet that is shorter than
    /// the shortest reply is the exception.
    pub(super) fn answer(&mut self, datagram: &Datagram<'_>, received: Now, signature: Signature<'_>) {
        let by = Reflector {
            received: received.wall,
            sent: time::now().wall,
            error_estimate: self.shared.error_estimate(),
            ttl: datagram.ttl,
        };
        let mut octets = datagram.octets.to_vec();
        if octets.len() < STAMP_LEN {
            let Some(short) = reflect_short(&octets, by) else { return };
            octets = short.to_vec();
        } else {
            reflect(&mut octets, by, signature);
        }
        let source = datagram.sent_to;
        let envelope = Envelope { destination: datagram.source, source, dscp: datagram.dscp.unwrap_or(0) };
        match self.socket.send(&octets, &envelope) {
            Ok(()) => self.reflected += 1,
            Err(error) => tracing::debug!(%error, "reply not sent"),
        }
    }
}

/// Returns whether a probe requests a reflection.
pub(super) fn wants_answer(probe: &DecodedProbe) -> bool {
    matches!(probe, DecodedProbe::Stamp(probe) if probe.flags & flag::REFLECT != 0)
}
