//! Answering probes, as a STAMP Session-Reflector (RFC 8762) does: never longer than they came, and at a rate.

use super::Listener;
use crate::io::batch::Datagram;
use crate::io::time;
use crate::io::udp::Envelope;
use crate::pure::arrival::AnyProbe;
use crate::pure::foreign::Reason;
use crate::pure::key::KeyChoice;
use crate::pure::probe::{Probe, STAMP_LEN, flag};
use crate::pure::reflection::{Reflector, Signature, reflect, reflect_short, signature_of};
use crate::pure::time::Now;

impl Listener {
    /// A probe of no test that is known here, as `peerpair ping` sends them: it is answered if it is
    /// signed with one of the fleet's keys, or if strangers are answered.
    pub(super) fn on_visitor(
        &mut self,
        datagram: &Datagram<'_>,
        probe: &AnyProbe,
        received: Now,
    ) -> Result<(), Reason> {
        let AnyProbe::Stamp(stamp) = probe else { return Err(Reason::UnknownTest) };
        if !wants_answer(probe) {
            return Err(Reason::UnknownTest);
        }
        let key = self.keys.taken(&KeyChoice::Fleet, stamp.key_id);
        let key = key.filter(|key| Probe::is_signed(datagram.octets, key)).cloned();
        if key.is_none() && !self.gauges.reflects_foreign() {
            return Err(Reason::UnknownTest);
        }
        if self.answers_to_strangers.take(received.moment).is_ok() {
            self.answer(datagram, received, key.as_deref().map_or(Signature::None, Signature::Good));
        }
        Ok(())
    }

    /// A packet of a sender of another origin, where those are answered.
    pub(super) fn on_foreign_sender(&mut self, datagram: &Datagram<'_>, received: Now) {
        if self.answers_to_strangers.take(received.moment).is_ok() {
            let keys = self.keys.clone();
            self.answer(datagram, received, signature_of(datagram.octets, keys.all()));
        }
    }

    /// Sends a packet back to where it came from, as long as it was. One of TWAMP that is shorter than an answer can be
    /// is the exception.
    pub(super) fn answer(&mut self, datagram: &Datagram<'_>, received: Now, signature: Signature<'_>) {
        let by = Reflector {
            received: received.wall,
            sent: time::now().wall,
            error_estimate: self.gauges.error_estimate(),
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
            Err(error) => tracing::debug!(%error, "answer not sent"),
        }
    }
}

/// Whether a probe asks for an answer.
pub(super) fn wants_answer(probe: &AnyProbe) -> bool {
    matches!(probe, AnyProbe::Stamp(probe) if probe.flags & flag::REFLECT != 0)
}
