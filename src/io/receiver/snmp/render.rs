//! SNMP notifications: their object identifiers and varbinds, and the SNMPv2c message around them (RFC 3416).
//!
//! The main type is [`Renderer`], which turns an outbound message into varbinds; [`usm`](super::usm) builds SNMPv3
//! messages.

use std::time::Duration;

use snmp2::{MessageType, Pdu, Varbinds, Version};

use super::ber::{Value, varbind};
use super::legacy::Legacy;
use super::trap::{Trap, text};
use crate::config::document::secret::Secret;
use crate::config::document::sinks::{SnmpMode, SnmpProfile};
use crate::pure::alarm::key::{Kind, Severity, Subject};
use crate::pure::alarm::notification::{AlarmState, MemberCounts, Notification};
use crate::pure::base::time::{Moment, WallTime};
use crate::pure::notify::log::{NotifyReason, Outbound};

/// Object identifier of `PEERPAIR-MIB::peerpairNotifications`.
const NOTIFICATIONS: [u32; 9] = [1, 3, 6, 1, 4, 1, 50255, 2, 0];
/// Object identifier of `PEERPAIR-MIB::peerpairObjects`.
const OBJECTS: [u32; 9] = [1, 3, 6, 1, 4, 1, 50255, 2, 1];
/// Object identifier of `SNMPv2-MIB::sysUpTime.0`.
const SYS_UP_TIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];
/// Object identifier of `SNMPv2-MIB::snmpTrapOID.0`.
const SNMP_TRAP_OID: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
/// Object identifier of `SNMPv2-MIB::coldStart`.
const COLD_START: [u32; 10] = [1, 3, 6, 1, 6, 3, 1, 1, 5, 1];

/// SNMPv2c trap with empty community and varbinds and request id 0, used as a template because snmp2 has no
/// constructor for one.
const EMPTY_TRAP: [u8; 20] = [
    0x30, 0x12, 0x02, 0x01, 0x01, 0x04, 0x00, 0xa7, 0x0b, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00, 0x30,
    0x00,
];

/// Renders notifications in the profile of one receiver.
#[derive(Clone, Debug)]
pub struct Renderer {
    /// Profile that determines which notifications and varbinds are sent.
    pub profile: SnmpProfile,
    /// Name of this agent's host.
    pub agent: String,
    /// Address of the config store; the original program named it in two of its notifications.
    pub config_server: String,
}

/// Error of encoding a notification as an SNMP message.
#[derive(Debug, thiserror::Error)]
#[error("write an SNMP message: {0}")]
pub struct RenderError(snmp2::Error);

impl Renderer {
    /// Returns the varbinds for `due` in BER, or `None` if this profile has no notification for it. `now` is the
    /// agent's uptime.
    pub fn varbinds(&self, due: &Outbound, now: Moment) -> Option<Vec<u8>> {
        let trap = self.trap(due)?;
        let head = [
            (SYS_UP_TIME.to_vec(), Value::TimeTicks(centiseconds(now.after_start()))),
            (SNMP_TRAP_OID.to_vec(), Value::Oid(trap.oid)),
        ];
        Some(head.iter().chain(&trap.varbinds).flat_map(|(oid, value)| varbind(oid, value)).collect())
    }

    fn trap(&self, due: &Outbound) -> Option<Trap> {
        match (self.profile, due) {
            (SnmpProfile::Standard, Outbound::ColdStart) => {
                Some(Trap { oid: COLD_START.to_vec(), varbinds: vec![self.object(1, text(&self.agent))] })
            }
            (SnmpProfile::Legacy | SnmpProfile::Both, Outbound::ColdStart) => Some(self.legacy().cold_start()),
            (SnmpProfile::Standard, Outbound::Alarm { notification, reason, .. }) => {
                Some(self.standard_trap(notification, *reason))
            }
            (SnmpProfile::Legacy, Outbound::Alarm { notification, still_raised, .. }) => {
                self.legacy().trap(still_raised.as_ref().unwrap_or(notification))
            }
            (SnmpProfile::Both, Outbound::Alarm { notification, still_raised, reason }) => {
                let standard = self.standard_trap(notification, *reason);
                match self.legacy().trap(still_raised.as_ref().unwrap_or(notification)) {
                    Some(mut trap) => {
                        trap.varbinds.extend(standard.varbinds);
                        Some(trap)
                    }
                    None => Some(standard),
                }
            }
        }
    }

    fn legacy(&self) -> Legacy<'_> {
        Legacy { agent: &self.agent, config_server: &self.config_server }
    }

    /// Builds a notification of PEERPAIR-MIB. Notifications come in pairs, raised and cleared; a storm has a third for
    /// its repetition.
    fn standard_trap(&self, notification: &Notification, reason: NotifyReason) -> Trap {
        let raised = notification.is_raised();
        let of_pair = |first: u32| if raised { first } else { first + 1 };
        let n = match (notification.key.kind, &notification.key.subject) {
            (Kind::Connection, Subject::Test(_)) => of_pair(1),
            (Kind::Latency, _) => of_pair(3),
            (Kind::Sender, Subject::Test(_)) => of_pair(5),
            (Kind::Sender, _) => of_pair(27),
            (Kind::Clock, _) => of_pair(7),
            (Kind::Config, _) => of_pair(9),
            (Kind::UnknownPacket, _) => of_pair(11),
            (Kind::Connection, _) => of_pair(13),
            (Kind::Isolated, _) => of_pair(15),
            (Kind::Storm, _) if raised && reason == NotifyReason::Again => 18,
            (Kind::Storm, _) => {
                if raised {
                    17
                } else {
                    19
                }
            }
            (Kind::Test, _) => 20,
            (Kind::Loss, _) => of_pair(21),
            (Kind::Jitter, _) => of_pair(23),
            (Kind::Path, _) => of_pair(25),
        };
        let severity = match (notification.is_raised(), notification.severity) {
            (false, _) => 1,
            (true, Severity::Critical) => 3,
            (true, Severity::Major) => 4,
            (true, Severity::Minor) => 5,
            (true, Severity::Warning) => 6,
        };
        let mut varbinds = vec![
            self.object(1, text(&notification.agent)),
            self.object(2, text(&notification.key.subject.to_string())),
            self.object(3, Value::Integer(severity)),
            self.object(4, Value::Octets(date_and_time(notification.since))),
            self.object(5, text(&notification.text())),
            self.object(6, Value::Unsigned(saturating(notification.count))),
            self.object(7, Value::Unsigned(saturating(notification.suppressed))),
            self.object(
                16,
                Value::Integer(match notification.state {
                    AlarmState::Raised => 1,
                    AlarmState::Cleared => 2,
                    AlarmState::Flapping => 3,
                }),
            ),
        ];
        if (13..=19).contains(&n) || (27..=28).contains(&n) {
            let tally = notification.members().unwrap_or(MemberCounts { down: 0, total: 0 });
            varbinds.push(self.object(17, Value::Unsigned(saturating(tally.down))));
            varbinds.push(self.object(18, Value::Unsigned(saturating(tally.total))));
        }
        if let (Subject::Test(_), Some(test)) = (&notification.key.subject, &notification.test) {
            let id = test.id.to_string();
            let texts = [&id, &test.description, &test.from_host, &test.from, &test.to_host, &test.to];
            varbinds.extend((8..).zip(texts).map(|(n, value)| self.object(n, text(value))));
        }
        if notification.key.kind == Kind::Latency {
            let micros = notification.delay_seconds().unwrap_or_default() * 1e6;
            let micros = micros.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i64;
            varbinds.push(self.object(14, Value::Integer(micros)));
        }
        if notification.key.kind == Kind::UnknownPacket {
            varbinds.push(self.object(15, text(notification.source().unwrap_or_default())));
        }
        Trap { oid: [&NOTIFICATIONS[..], &[n]].concat(), varbinds }
    }

    fn object(&self, n: u32, value: Value) -> (Vec<u32>, Value) {
        ([&OBJECTS[..], &[n, 0]].concat(), value)
    }
}

/// Encodes the varbinds as an SNMPv2c trap or inform with the given request id.
pub fn community_message(mode: SnmpMode, community: &Secret, id: i32, varbinds: &[u8]) -> Result<Vec<u8>, RenderError> {
    let mut pdu = Pdu::from_bytes(&EMPTY_TRAP).map_err(RenderError)?;
    pdu.message_type = match mode {
        SnmpMode::Trap => MessageType::Trap,
        SnmpMode::Inform => MessageType::InformRequest,
    };
    pdu.req_id = id;
    pdu.community = community.reveal().as_bytes();
    pdu.varbinds = Varbinds::from_bytes(varbinds);
    pdu.to_bytes().map_err(RenderError)
}

/// Response of a receiver to an inform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The receiver has accepted the inform.
    Good,
    /// The receiver rejects the inform with this error-status (RFC 3416 section 3).
    Refused(u32),
}

/// Decodes the response to the SNMPv2c inform `id`; returns `None` if the datagram is not that response.
pub fn community_answer(datagram: &[u8], community: &Secret, id: i32) -> Option<Acknowledgement> {
    let pdu = Pdu::from_bytes(datagram).ok()?;
    let answers = pdu.version().ok()? == Version::V2C
        && pdu.message_type == MessageType::Response
        && pdu.req_id == id
        && pdu.community == community.reveal().as_bytes();
    answers.then_some(match pdu.error_status {
        0 => Acknowledgement::Good,
        status => Acknowledgement::Refused(status),
    })
}

/// Converts the uptime to TimeTicks, which wrap after 497 days (RFC 2578 section 7.1.8).
fn centiseconds(uptime: Duration) -> u32 {
    (uptime.as_millis() / 10) as u32
}

fn saturating(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Encodes a time as `DateAndTime` (RFC 2579) in UTC, 11 octets.
fn date_and_time(at: WallTime) -> Vec<u8> {
    // Format of the text: `2017-07-13T01:02:03.456Z`.
    let stamp = at.to_string();
    let number = |range: std::ops::Range<usize>| stamp.get(range).and_then(|digits| digits.parse::<u16>().ok());
    let field = |range| number(range).unwrap_or(0) as u8;
    let [century, year] = number(0..4).unwrap_or(1970).to_be_bytes();
    let deciseconds = field(20..21);
    vec![century, year, field(5..7), field(8..10), field(11..13), field(14..16), field(17..19), deciseconds, b'+', 0, 0]
}

#[cfg(test)]
mod tests;
