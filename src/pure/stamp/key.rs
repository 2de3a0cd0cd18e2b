//! Keys that sign and verify probes: the HMAC TLV of RFC 8972 section 4.8, which is HMAC-SHA-256 truncated to 128
//! bits.
//!
//! [`Key`] is one key, [`KeyRing`] holds all keys of the fleet, and [`KeyChoice`] states which of them a test
//! accepts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Length of a key in octets.
pub const KEY_LEN: usize = 32;
/// Length of a signature in a probe in octets.
pub const SIGNATURE_LEN: usize = 16;

/// HMAC key with its id. `Debug` never prints the secret.
#[derive(Clone)]
pub struct Key {
    id: u8,
    /// HMAC state after processing the key; cloned for each probe, which avoids hashing the key again.
    state: Hmac<Sha256>,
    octets: [u8; KEY_LEN],
}

impl Key {
    /// Creates a key with the given id from its secret octets.
    pub fn new(id: u8, octets: [u8; KEY_LEN]) -> Self {
        // HMAC takes keys of any length (RFC 2104 section 2); the fallback is never reached.
        let state = Hmac::new_from_slice(&octets).unwrap_or_else(|_| Hmac::new(&Default::default()));
        Key { id, state, octets }
    }

    /// Returns the id that identifies the key in probes.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Signs the concatenation of the parts.
    pub fn sign<const N: usize>(&self, parts: [&[u8]; N]) -> [u8; SIGNATURE_LEN] {
        let whole = self.mac(parts).finalize().into_bytes();
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(&whole[..SIGNATURE_LEN]);
        signature
    }

    /// Returns whether `signature` is the signature of the concatenated parts; compares in constant time.
    pub fn verifies<const N: usize>(&self, parts: [&[u8]; N], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.mac(parts).verify_truncated_left(signature).is_ok()
    }

    fn mac<const N: usize>(&self, parts: [&[u8]; N]) -> Hmac<Sha256> {
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

/// Parses a key from text: 64 hexadecimal digits, or base64 of 32 octets. Returns `None` if the text is malformed or
/// the key is all zeros.
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
    // An all-zero key is rejected: it comes from an uninitialised file.
    octets.try_into().ok().filter(|octets| *octets != [0; KEY_LEN])
}

/// Set of the fleet's keys that this host has, by id, with the id of the active key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyRing {
    keys: BTreeMap<u8, Arc<Key>>,
    active: Option<u8>,
}

/// Selection of the keys with which a test signs its probes and accepts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChoice {
    /// Any key of the fleet is accepted; the active key signs.
    Fleet,
    /// Keys with these ids are accepted, and no others; the first one signs.
    These(Arc<[u8]>),
}

impl KeyChoice {
    /// Returns whether the test accepts probes that are signed with the key of this id.
    pub fn accepts(&self, id: u8) -> bool {
        match self {
            KeyChoice::Fleet => true,
            KeyChoice::These(ids) => ids.contains(&id),
        }
    }
}

impl KeyRing {
    /// Creates a key ring from keys and the id of the active one.
    pub fn new(keys: impl IntoIterator<Item = Key>, active: Option<u8>) -> Self {
        KeyRing { keys: keys.into_iter().map(|key| (key.id, Arc::new(key))).collect(), active }
    }

    /// Returns the key that signs the probes of a test with this choice, or `None` if this host does not have it.
    pub fn signing(&self, choice: &KeyChoice) -> Option<&Arc<Key>> {
        let id = match choice {
            KeyChoice::Fleet => self.active,
            KeyChoice::These(ids) => ids.first().copied(),
        };
        self.keys.get(&id?)
    }

    /// Returns the key with this id, if this host has it and a test with this choice accepts it.
    pub fn accepted(&self, choice: &KeyChoice, id: u8) -> Option<&Arc<Key>> {
        let taken = choice.accepts(id);
        self.keys.get(&id).filter(|_| taken)
    }

    /// Returns the key with this id, whichever tests accept it.
    pub fn get(&self, id: u8) -> Option<&Key> {
        self.keys.get(&id).map(Arc::as_ref)
    }

    /// Iterates over all keys in ascending order of their ids.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        self.keys.values().map(Arc::as_ref)
    }

    /// Iterates over the ids of all keys, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.keys.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_hex_and_base64_and_malformed_ones_rejected() {
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

    /// Compares with the result of an independent implementation.
    #[test]
    fn signature_is_truncated_hmac_sha_256() {
        let key = Key::new(1, [0x0b; 32]);
        let whole = key.sign([b"Hi ", b"There"]);
        assert_eq!(whole, key.sign([b"", b"Hi There"]));
        assert!(key.verifies([b"Hi There", b""], &whole));
        assert!(!key.verifies([b"Hi there", b""], &whole));
        // Computed by Python: hmac.new(b"\x0b" * 32, b"Hi There", "sha256").hexdigest()[:32].
        let hex: String = whole.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, PYTHON);
    }
    const PYTHON: &str = "198a607eb44bfbc69903a0f1cf2bbdc5";

    #[test]
    fn test_accepts_only_the_keys_of_its_choice() {
        let ring = KeyRing::new([Key::new(1, [1; 32]), Key::new(2, [2; 32])], Some(2));
        assert_eq!(ring.signing(&KeyChoice::Fleet).unwrap().id(), 2);
        assert!(ring.accepted(&KeyChoice::Fleet, 1).is_some() && ring.accepted(&KeyChoice::Fleet, 3).is_none());
        let one = KeyChoice::These([1].into());
        assert_eq!(ring.signing(&one).unwrap().id(), 1);
        assert!(ring.accepted(&one, 2).is_none());
        assert!(ring.signing(&KeyChoice::These([3].into())).is_none());
        assert!(!format!("{ring:?}").contains("octets"));
    }
}
