use super::*;
use crate::io::receiver::snmp::ber;
use crate::io::receiver::snmp::legacy::LEGACY;
use crate::io::receiver::snmp::trap::cut;
use crate::pure::alarm::cause::{Cause, Direction};
use crate::pure::alarm::key::{AlarmKey, Subject};
use crate::pure::alarm::notification::{AlarmState, ClearReason, Remarks};
use crate::pure::clock::error_estimate::Delay;
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;
use crate::pure::test::spec::Protocol;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn renderer(profile: SnmpProfile) -> Renderer {
    Renderer { profile, agent: "host-b".into(), config_server: "http://127.0.0.1:2379".into() }
}

fn render(profile: SnmpProfile, due: &Outbound, now: Moment) -> Option<Vec<u8>> {
    let varbinds = renderer(profile).varbinds(due, now)?;
    Some(community_message(SnmpMode::Trap, &Secret::new("public"), 7, &varbinds).unwrap())
}

fn notification(kind: Kind, state: AlarmState) -> Notification {
    let id = TestId::from_bytes([0x11; 16]);
    let cause = match kind {
        Kind::Latency => Cause::Late {
            delay: Delay { nanos: 9_300_000, uncertainty: Duration::ZERO },
            max_latency: Duration::from_millis(5),
            direction: Direction::Forward,
        },
        Kind::UnknownPacket => {
            Cause::UnknownPacket { source: "127.0.0.9:4000".into(), reason: "no test with this id".into() }
        }
        Kind::Connection
        | Kind::Loss
        | Kind::Jitter
        | Kind::Path
        | Kind::Sender
        | Kind::Clock
        | Kind::Config
        | Kind::Isolated
        | Kind::Storm
        | Kind::Test => Cause::Config("the text".into()),
    };
    let clear_reason = (state == AlarmState::Cleared).then_some(ClearReason::GoodAgain(Duration::from_secs(24)));
    Notification {
        agent: "host-b".into(),
        key: AlarmKey::new(kind, Subject::Test(id)),
        state,
        severity: kind.severity(),
        since: WallTime::from_unix_nanos(1_499_907_723_456_789_000),
        first_cause: Some(cause.clone()),
        cause: Some(cause),
        clear_reason,
        remarks: Remarks::default(),
        test: Some(Arc::new(TestFacts {
            id,
            protocol: Protocol::Udp,
            description: "app to db".into(),
            from_host: "host-a".into(),
            from: "127.0.0.2:0".into(),
            to_host: "host-b".into(),
            to: "[::1]:8620".into(),
            tags: [].into(),
            set: None,
        })),
        raised_at: WallTime::from_unix_nanos(1_499_907_723_456_789_000),
        count: 3,
        suppressed: 2,
    }
}

fn due(kind: Kind, state: AlarmState) -> Outbound {
    Outbound::Alarm {
        notification: Arc::new(notification(kind, state)),
        reason: NotifyReason::Change,
        still_raised: None,
    }
}

/// Formats the varbinds of a trap as snmp2 decodes them.
fn shown(octets: &[u8]) -> String {
    let pdu = Pdu::from_bytes(octets).unwrap();
    assert_eq!(pdu.message_type, MessageType::Trap);
    assert_eq!(pdu.community, b"public");
    let value = |value| {
        let snmp2::Value::OctetString(octets) = value else { return format!("{value:?}") };
        String::from_utf8(octets.to_vec()).unwrap_or_else(|_| format!("{octets:?}"))
    };
    pdu.varbinds.map(|(oid, found)| format!("  {oid} = {}\n", value(found))).collect()
}

#[test]
fn notifications_of_every_profile_match_snapshot() {
    let now = Moment::new(Duration::from_millis(123_456));
    let mut all = String::new();
    for profile in [SnmpProfile::Standard, SnmpProfile::Legacy, SnmpProfile::Both] {
        let cold_start = std::iter::once(("cold start".to_owned(), Outbound::ColdStart));
        let alarms = Kind::ALL.into_iter().flat_map(|kind| {
            [AlarmState::Raised, AlarmState::Cleared].map(|state| (format!("{kind} {state:?}"), due(kind, state)))
        });
        for (name, due) in cold_start.chain(alarms) {
            let rendered = render(profile, &due, now);
            let text = rendered.map_or("  nothing\n".to_owned(), |octets| shown(&octets));
            all += &format!("{profile}, {name}\n{text}");
        }
    }
    insta::assert_snapshot!(all);
}

/// Pins the encoded octets, so that a change of the encoder is noticed.
#[test]
fn encoder_output_matches_known_octets() {
    let trap = Trap { oid: COLD_START.to_vec(), varbinds: vec![] };
    let encoded = varbind(&SNMP_TRAP_OID, &Value::Oid(trap.oid));
    let expected = [0x30, 0x17, 0x06, 0x0a, 0x2b, 6, 1, 6, 3, 1, 1, 4, 1, 0, 0x06, 0x09, 0x2b, 6, 1, 6, 3, 1, 1, 5, 1];
    assert_eq!(encoded, expected);
    assert_eq!(ber::oid_octets(&LEGACY), [0x2b, 6, 1, 4, 1, 0x83, 0x88, 0x4f, 1]);
    assert_eq!(ber::integer_octets(0), [0]);
    assert_eq!(ber::integer_octets(-1), [0xff]);
    assert_eq!(ber::integer_octets(128), [0, 0x80]);
    assert_eq!(ber::integer_octets(u32::MAX.into()), [0, 0xff, 0xff, 0xff, 0xff]);
}

/// The original program had one alarm for each test, so that its clear is sent only when both the connection and the
/// latency alarm are cleared.
#[test]
fn legacy_repeats_the_alarm_still_raised_instead_of_a_clear() {
    let due = Outbound::Alarm {
        notification: Arc::new(notification(Kind::Connection, AlarmState::Cleared)),
        reason: NotifyReason::Change,
        still_raised: Some(Arc::new(notification(Kind::Latency, AlarmState::Raised))),
    };
    let octets = render(SnmpProfile::Legacy, &due, Moment::ZERO).unwrap();
    assert!(shown(&octets).contains("1.3.6.1.4.1.50255.1.1\n"));
}

#[test]
fn text_is_truncated_at_character_boundary() {
    let long = "ä".repeat(200);
    assert_eq!(cut(&long).len(), 254);
    assert_eq!(cut("short"), "short");
}

#[test]
fn time_is_encoded_as_date_and_time() {
    let at = WallTime::from_unix_nanos(1_499_907_723_456_789_000);
    assert_eq!(date_and_time(at), [0x07, 0xe1, 7, 13, 1, 2, 3, 4, b'+', 0, 0]);
}

proptest! {
    /// For any text in a document, snmp2 can decode the complete message.
    #[test]
    fn message_with_any_text_is_decoded_completely(description in ".{0,400}", text in ".{0,400}", from in ".{0,40}") {
        let mut notified = notification(Kind::Connection, AlarmState::Raised);
        let test = TestFacts { description, from, ..notified.test.take().unwrap().as_ref().clone() };
        notified.test = Some(Arc::new(test));
        notified.cause = Some(Cause::Config(text));
        let due = Outbound::Alarm { notification: Arc::new(notified), reason: NotifyReason::Change, still_raised: None };
        for profile in [SnmpProfile::Standard, SnmpProfile::Legacy, SnmpProfile::Both] {
            let octets = render(profile, &due, Moment::ZERO).unwrap();
            let expected = match profile { SnmpProfile::Standard => 16, SnmpProfile::Legacy => 9, SnmpProfile::Both => 23 };
            prop_assert_eq!(Pdu::from_bytes(&octets).unwrap().varbinds.count(), expected);
        }
    }
}
