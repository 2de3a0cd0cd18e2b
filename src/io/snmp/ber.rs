//! The few parts of BER that our messages are made of: snmp2 reads them, and writes none of them for us.

/// The types that our varbinds have.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// UTF-8.
    Text(String),
    /// Any octets.
    Octets(Vec<u8>),
    /// Signed.
    Integer(i64),
    /// Unsigned32, also Gauge32.
    Unsigned(u32),
    /// Hundredths of a second.
    TimeTicks(u32),
    /// An object identifier.
    Oid(Vec<u32>),
}

/// One variable and its value.
pub fn varbind(oid: &[u32], value: &Value) -> Vec<u8> {
    tlv(SEQUENCE, &[tlv(OBJECT_IDENTIFIER, &oid_octets(oid)), value.encode()].concat())
}

/// Tags that messages are made of, too.
pub const SEQUENCE: u8 = 0x30;
/// Any octets.
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

/// BER: tag, length (short or two-octet form; nothing here is longer than a datagram), value.
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

/// An INTEGER.
pub fn integer(number: i64) -> Vec<u8> {
    tlv(INTEGER, &integer_octets(number))
}

/// The shortest two's complement.
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
