//! Encodes the parts of BER that the agent's SNMP messages need; snmp2 is used to decode them.
//!
//! [`varbind`] encodes a variable with its [`Value`], and [`tlv`] any other element.

/// Value of a varbind, in one of the types that the agent's notifications use.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// UTF-8 text, encoded as an OCTET STRING.
    Text(String),
    /// Arbitrary octets, encoded as an OCTET STRING.
    Octets(Vec<u8>),
    /// Signed integer, encoded as an INTEGER.
    Integer(i64),
    /// Unsigned 32-bit number, encoded as Unsigned32, which has the same tag as Gauge32.
    Unsigned(u32),
    /// Time in hundredths of a second, encoded as TimeTicks.
    TimeTicks(u32),
    /// Object identifier with its arcs, encoded as an OBJECT IDENTIFIER.
    Oid(Vec<u32>),
}

/// Encodes one varbind: a variable's name and its value.
pub fn varbind(oid: &[u32], value: &Value) -> Vec<u8> {
    tlv(SEQUENCE, &[tlv(OBJECT_IDENTIFIER, &oid_octets(oid)), value.encode()].concat())
}

/// Tag of a SEQUENCE, from which messages are built too.
pub const SEQUENCE: u8 = 0x30;
/// Tag of an OCTET STRING, from which messages are built too.
pub const OCTET_STRING: u8 = 0x04;
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UNSIGNED32: u8 = 0x42;
const TIME_TICKS: u8 = 0x43;

impl Value {
    fn encode(&self) -> Vec<u8> {
        match self {
            Value::Text(text) => tlv(OCTET_STRING, text.as_bytes()),
            Value::Octets(octets) => tlv(OCTET_STRING, octets),
            Value::Integer(number) => integer(*number),
            Value::Unsigned(number) => tlv(UNSIGNED32, &integer_octets((*number).into())),
            Value::TimeTicks(number) => tlv(TIME_TICKS, &integer_octets((*number).into())),
            Value::Oid(oid) => tlv(OBJECT_IDENTIFIER, &oid_octets(oid)),
        }
    }
}

/// Encodes tag, length and value. The length is in the short or the two-octet form, because nothing here exceeds a
/// datagram.
pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![tag];
    match value.len() {
        short @ 0..128 => octets.push(short as u8),
        long => {
            octets.push(0x82);
            octets.extend((long as u16).to_be_bytes());
        }
    }
    octets.extend(value);
    octets
}

/// Encodes an INTEGER with its tag and length.
pub fn integer(number: i64) -> Vec<u8> {
    tlv(INTEGER, &integer_octets(number))
}

/// Returns the shortest two's complement of a number.
pub(super) fn integer_octets(number: i64) -> Vec<u8> {
    let octets = number.to_be_bytes();
    let redundant = |pair: &[u8]| matches!((pair[0], pair[1] & 0x80), (0, 0) | (0xff, 0x80));
    let skip = octets.windows(2).take_while(|pair| redundant(pair)).count();
    octets[skip..].to_vec()
}

pub(super) fn oid_octets(oid: &[u32]) -> Vec<u8> {
    let [first, second, rest @ ..] = oid else { return Vec::new() };
    let mut octets = vec![(first * 40 + second) as u8];
    for arc in rest {
        let groups = (0..5).rev().map(|n| (arc >> (7 * n)) as u8 & 0x7f).skip_while(|group| *group == 0);
        let groups: Vec<u8> = groups.collect();
        let (last, others) = groups.split_last().unwrap_or((&0, &[]));
        octets.extend(others.iter().map(|group| group | 0x80));
        octets.push(*last);
    }
    octets
}
