//! Notification in the terms of SNMP, before it is encoded.

use super::ber::Value;

/// Largest size in octets of `SnmpAdminString` and of the original program's strings.
const LONGEST_TEXT: usize = 255;

/// Notification with its object identifier and its varbinds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trap {
    pub oid: Vec<u32>,
    pub varbinds: Vec<(Vec<u32>, Value)>,
}

/// Returns a text as a value, truncated to the size that receivers accept.
pub(super) fn text(value: &str) -> Value {
    Value::Text(cut(value).to_owned())
}

/// Truncates text to at most 255 octets at a character boundary.
pub(super) fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(LONGEST_TEXT)]
}
