//! Keys that probes are signed with: the HMAC TLV of RFC 8972 section 4.8, HMAC-SHA-256 cut to
//! 128 bits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Octets of a key.
pub const KEY_LEN: usize = 32;
/// Octets of a signature in a probe.
pub const SIGNATURE_LEN: usize = 16;

/// A key, ready to be used. It never shows itself.
#[derive(Clone)]
pub struct Key {
    id: u8,
    /// After the key went in; cloned for each probe.
    state: Hmac<Sha256>,
    octets: [u8; KEY_LEN],
}

impl Key {
    /// A key of this id.
    pub fn new(id: u8, octets: [u8; KEY_LEN]) -> Self {
        // HMAC takes keys of any length (RFC 2104 section 2); the fallback is never reached.
        let state = Hmac::new_from_slice(&octets).unwrap_or_else(|_| Hmac::new(&Default::default()));
        Key { id, state, octets }
    }

    /// As probes carry it.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The signature of these parts, one after the other.
    pub fn sign<const N: usize>(&self, parts: [&[u8]; N]) -> [u8; SIGNATURE_LEN] {
        let whole = self.over(parts).finalize().into_bytes();
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(&whole[..SIGNATURE_LEN]);
        signature
    }

    /// Whether this is their signature; takes as long whatever is wrong with it.
    pub fn verifies<const N: usize>(&self, parts: [&[u8]; N], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.over(parts).verify_truncated_left(signature).is_ok()
    }

    fn over<const N: usize>(&self, parts: [&[u8]; N]) -> Hmac<Sha256> {
        let mut mac = self.state.clone();
        parts.into_iter().for_each(|part| mac.update(part));
        mac
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.octets == other.octets
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key {} ***", self.id)
    }
}

/// The octets of a key as people write it: 64 hex digits or base64.
pub fn read_key(text: &str) -> Option<[u8; KEY_LEN]> {
    let text = text.trim();
    let octets = match text.len() {
        64 if text.is_ascii() => {
            let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
            let plain = text.bytes().all(|digit| digit.is_ascii_hexdigit());
            (0..64).step_by(2).map(pair).collect::<Option<Vec<u8>>>().filter(|_| plain)?
        }
        _ => STANDARD.decode(text).ok()?,
    };
    // A file of zeros is no key.
    octets.try_into().ok().filter(|octets| *octets != [0; KEY_LEN])
}

/// All keys of the fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyRing {
    keys: BTreeMap<u8, Arc<Key>>,
    active: Option<u8>,
}

/// Which keys a test takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChoice {
    /// Any of the fleet's; the active one signs.
    Fleet,
    /// These; the first signs.
    These(Arc<[u8]>),
}

impl KeyChoice {
    /// Returns whether a probe may be signed with the key of this id.
    pub fn takes(&self, id: u8) -> bool {
        match self {
            KeyChoice::Fleet => true,
            KeyChoice::These(ids) => ids.contains(&id),
        }
    }
}

impl KeyRing {
    /// Of these keys.
    pub fn new(keys: impl IntoIterator<Item = Key>, active: Option<u8>) -> Self {
        KeyRing { keys: keys.into_iter().map(|key| (key.id, Arc::new(key))).collect(), active }
    }

    /// The key that probes of such a test are signed with; nothing if this host does not have it.
    pub fn signing(&self, choice: &KeyChoice) -> Option<&Arc<Key>> {
        let id = match choice {
            KeyChoice::Fleet => self.active,
            KeyChoice::These(ids) => ids.first().copied(),
        };
        self.keys.get(&id?)
    }

    /// The key of this id, if such a test takes it.
    pub fn taken(&self, choice: &KeyChoice, id: u8) -> Option<&Arc<Key>> {
        let taken = choice.takes(id);
        self.keys.get(&id).filter(|_| taken)
    }

    /// The key of this id.
    pub fn get(&self, id: u8) -> Option<&Key> {
        self.keys.get(&id).map(Arc::as_ref)
    }

    /// All of its keys.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        self.keys.values().map(Arc::as_ref)
    }

    /// The ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.keys.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_people_write_them() {
        let hex = "0001020304050607\
                   08090a0b0c0d0e0f\
                   101112131415161718191A1b1c1d1e1f";
        let octets: [u8; 32] = std::array::from_fn(|n| n as u8);
        assert_eq!(read_key(&format!("{hex}\n")), Some(octets));
        assert_eq!(read_key(&STANDARD.encode(octets)), Some(octets));
        for wrong in ["", "00", &hex[..62], &"+1".repeat(32), &"0".repeat(64), &STANDARD.encode([1; 31])] {
            assert_eq!(read_key(wrong), None, "{wrong}");
        }
    }

    /// Against another implementation.
    #[test]
    fn signatures_are_hmac_sha_256() {
        let key = Key::new(1, [0x0b; 32]);
        let whole = key.sign([b"Hi ", b"There"]);
        assert_eq!(whole, key.sign([b"", b"Hi There"]));
        assert!(key.verifies([b"Hi There", b""], &whole));
        assert!(!key.verifies([b"Hi there", b""], &whole));
        // From Python: hmac.new(b"\x0b" * 32, b"Hi There", "sha256").hexdigest()[:32]
        let hex: String = whole.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, PYTHON);
    }
    const PYTHON: &str = "198a607eb44bfbc69903a0f1cf2bbdc5";

    #[test]
    fn a_test_takes_its_own_keys_only() {
        let ring = KeyRing::new([Key::new(1, [1; 32]), Key::new(2, [2; 32])], Some(2));
        assert_eq!(ring.signing(&KeyChoice::Fleet).unwrap().id(), 2);
        assert!(ring.taken(&KeyChoice::Fleet, 1).is_some() && ring.taken(&KeyChoice::Fleet, 3).is_none());
        let one = KeyChoice::These([1].into());
        assert_eq!(ring.signing(&one).unwrap().id(), 1);
        assert!(ring.taken(&one, 2).is_none());
        assert!(ring.signing(&KeyChoice::These([3].into())).is_none());
        assert!(!format!("{ring:?}").contains("octets"));
    }
}
