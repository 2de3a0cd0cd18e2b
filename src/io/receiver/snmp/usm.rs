//! SNMPv3 with the User-based Security Model (RFC 3412, RFC 3414, RFC 3826, RFC 7860).
//!
//! The SNMPv3 support of snmp2 is made for requests and unsuitable here: its traps ask for reports, which a receiver
//! refuses if it has not seen the engine before; it accepts an engine's clock before it has checked the signature; and
//! it writes into the octets that it reads. Therefore this module builds the message itself, with the hashes and
//! ciphers of RustCrypto, and uses snmp2 to decode the contents.

use aes::cipher::{
    AsyncStreamCipher, BlockCipher, BlockDecryptMut, BlockEncrypt, BlockEncryptMut, InnerIvInit, KeyInit,
};
use hmac::Mac;
use hmac::digest::Digest;
use hmac::digest::core_api::BlockSizeUser;
use snmp2::{AsnReader, Error, Varbinds};

use super::ber::{OCTET_STRING, SEQUENCE, integer, tlv};
use crate::config::document::secret::Secret;
use crate::config::document::sinks::{AuthProtocol, PrivacyProtocol};
use crate::io::receiver::snmp::render::Acknowledgement;

/// Flags of a message (RFC 3412 section 6.4).
const AUTH: u8 = 1;
const PRIVACY: u8 = 2;
const REPORTABLE: u8 = 4;

/// Tags of the PDU types (RFC 3416 section 3).
const GET: u8 = 0xa0;
const RESPONSE: u8 = 0xa2;
const INFORM: u8 = 0xa6;
const TRAP: u8 = 0xa7;
const REPORT: u8 = 0xa8;

/// Largest UDP payload in octets, announced to the receiver as the largest message that is accepted.
const LONGEST_MESSAGE: i64 = 65_507;
/// Values of `msgVersion` and `msgSecurityModel` (RFC 3412).
const SNMP_V3: i64 = 3;
const USM: i64 = 3;
/// Object identifier of `snmpUsmMIB::usmStats` in BER.
const USM_STATS: [u8; 8] = [0x2b, 6, 1, 6, 3, 15, 1, 1];
/// Length in octets to which a password is repeated before it is hashed (RFC 3414 section A.2).
const EXPANDED_PASSWORD: usize = 1 << 20;
/// Shortest password in octets that is accepted (RFC 3414 section 11.2).
pub const SHORTEST_PASSWORD: usize = 8;

/// User with credentials, as configured for a receiver.
#[derive(Clone, Debug)]
pub struct User {
    /// User name (`msgUserName`).
    pub name: String,
    /// Protocol and password for authentication; `None` sends messages without a signature.
    pub auth: Option<(AuthProtocol, Secret)>,
    /// Protocol and password for encryption; `None` sends messages in clear text.
    pub privacy: Option<(PrivacyProtocol, Secret)>,
}

/// Keys of a user at one authoritative engine: this agent's for traps, the receiver's for informs. Deriving them takes
/// milliseconds, so that it is done once for each engine.
#[derive(Clone)]
pub struct UserKeys {
    user: Vec<u8>,
    engine_id: Vec<u8>,
    auth: Option<(AuthProtocol, Vec<u8>)>,
    privacy: Option<Vec<u8>>,
}

/// Clock of an authoritative engine: the number of its starts, and the seconds since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineClock {
    /// Number of the engine's starts, `snmpEngineBoots`.
    pub boots: u32,
    /// Seconds since the engine's last start, `snmpEngineTime`.
    pub time: u32,
}

/// Type of notification to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Unacknowledged notification, to which the receiver sends no report either.
    Trap,
    /// Notification that the receiver acknowledges.
    Inform,
}

/// Message that a receiver sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsmReply {
    /// Response to an inform.
    Acknowledged(Acknowledgement),
    /// Report in which the receiver's engine rejects the message or answers a discovery.
    Reported(UsmReport),
}

/// Report of the receiver's engine (RFC 3412 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsmReport {
    /// Error that the engine reports.
    pub complaint: UsmError,
    /// True if the report is authenticated, which proves that it comes from the receiver.
    pub signed: bool,
    /// Id of the receiver's engine.
    pub engine_id: Vec<u8>,
    /// Clock of the receiver's engine.
    pub clock: EngineClock,
}

/// Error that an engine reports (`usmStats`, RFC 3414 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsmError {
    /// The engine does not accept this security level (`usmStatsUnsupportedSecLevels`).
    UnsupportedSecurityLevel,
    /// Boots and time of the message differ too much from the engine's clock (`usmStatsNotInTimeWindows`).
    NotInTimeWindow,
    /// The engine has no user of this name (`usmStatsUnknownUserNames`).
    UnknownUserName,
    /// The engine id is not the receiver's (`usmStatsUnknownEngineIDs`); the normal answer to a discovery.
    UnknownEngineId,
    /// The signature is wrong, because the password or protocol differs (`usmStatsWrongDigests`).
    WrongDigest,
    /// The engine cannot decrypt the message (`usmStatsDecryptionErrors`).
    DecryptionError,
    /// The report has an object identifier outside `usmStats`.
    Other,
}

impl std::fmt::Display for UsmError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            UsmError::UnsupportedSecurityLevel => "it does not accept messages of this user at this security level",
            UsmError::NotInTimeWindow => "the message is outside its time window (engine boots and time)",
            UsmError::UnknownUserName => "it does not know this user",
            UsmError::UnknownEngineId => "it does not know this engine id",
            UsmError::WrongDigest => "the authentication is wrong: check auth_protocol and the auth password",
            UsmError::DecryptionError => {
                "it cannot decrypt the message: check privacy_protocol and the privacy \
                password"
            }
            UsmError::Other => "it reports an error of its own",
        })
    }
}

impl UserKeys {
    /// Derives the user's keys at the engine with this id.
    pub fn new(user: &User, engine_id: &[u8]) -> Self {
        let auth =
            user.auth.as_ref().map(|(protocol, password)| (*protocol, protocol.localized_key(password, engine_id)));
        let privacy = user.auth.as_ref().zip(user.privacy.as_ref()).map(|((hash, _), (cipher, password))| {
            let mut key = hash.localized_key(password, engine_id);
            let length = match cipher {
                PrivacyProtocol::Aes128 => 16,
                PrivacyProtocol::Aes256 => 32,
            };
            // A hash that is shorter than the key is extended (draft-blumenthal-aes-usm-04 section 3.1.2.1).
            while key.len() < length {
                key.extend(hash.digest(&[&key]));
            }
            key.truncate(length);
            key
        });
        UserKeys { user: user.name.as_bytes().to_vec(), engine_id: engine_id.to_vec(), auth, privacy }
    }

    /// Returns empty keys without a user, as a discovery needs them.
    fn nobody() -> Self {
        UserKeys { user: Vec::new(), engine_id: Vec::new(), auth: None, privacy: None }
    }

    fn flags(&self) -> u8 {
        match (&self.auth, &self.privacy) {
            (None, _) => 0,
            (Some(_), None) => AUTH,
            (Some(_), Some(_)) => AUTH | PRIVACY,
        }
    }
}

impl AuthProtocol {
    fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn with<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
        }
        match self {
            AuthProtocol::Sha1 => with::<sha1::Sha1>(parts),
            AuthProtocol::Sha256 => with::<sha2::Sha256>(parts),
            AuthProtocol::Sha512 => with::<sha2::Sha512>(parts),
        }
    }

    /// Derives the key of a password at one engine (RFC 3414 section A.2).
    fn localized_key(self, password: &Secret, engine_id: &[u8]) -> Vec<u8> {
        let expanded: Vec<u8> = password.reveal().bytes().cycle().take(EXPANDED_PASSWORD).collect();
        let key = self.digest(&[&expanded]);
        self.digest(&[&key, engine_id, &key])
    }

    /// Returns the number of octets of the HMAC that are sent as the signature.
    fn kept(self) -> usize {
        match self {
            AuthProtocol::Sha1 => 12,
            AuthProtocol::Sha256 => 24,
            AuthProtocol::Sha512 => 48,
        }
    }

    fn signature(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        fn with<D: Digest + BlockSizeUser>(key: &[u8], message: &[u8]) -> Vec<u8> {
            // HMAC accepts a key of any length, so that this never fails.
            let mac = <hmac::SimpleHmac<D> as Mac>::new_from_slice(key);
            mac.map(|mac| mac.chain_update(message).finalize().into_bytes().to_vec()).unwrap_or_default()
        }
        let mut signature = match self {
            AuthProtocol::Sha1 => with::<sha1::Sha1>(key, message),
            AuthProtocol::Sha256 => with::<sha2::Sha256>(key, message),
            AuthProtocol::Sha512 => with::<sha2::Sha512>(key, message),
        };
        signature.truncate(self.kept());
        signature
    }

    /// Returns whether the signature is that of the message, in a time that does not depend on where they differ.
    fn verifies(self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let own = self.signature(key, message);
        let different = own.iter().zip(signature).fold(0, |different, (own, given)| different | (own ^ given));
        own.len() == signature.len() && different == 0
    }
}

/// Direction of a cipher operation.
#[derive(Clone, Copy)]
enum CipherDirection {
    Encrypt,
    Decrypt,
}

/// Encrypts or decrypts in place with CFB-128; engine boots, engine time and salt are the initialisation vector (RFC
/// 3826 section 3.1.2.1). Returns `None` if the salt does not have 8 octets.
fn crypt(key: &[u8], clock: EngineClock, salt: &[u8], text: &mut [u8], direction: CipherDirection) -> Option<()> {
    fn with<C>(key: &[u8], vector: &[u8], text: &mut [u8], direction: CipherDirection) -> Option<()>
    where
        C: KeyInit + BlockCipher + BlockEncrypt + BlockEncryptMut + BlockDecryptMut,
    {
        let cipher = C::new_from_slice(key).ok()?;
        match direction {
            CipherDirection::Encrypt => {
                cfb_mode::Encryptor::<C>::inner_iv_slice_init(cipher, vector).ok()?.encrypt(text)
            }
            CipherDirection::Decrypt => {
                cfb_mode::Decryptor::<C>::inner_iv_slice_init(cipher, vector).ok()?.decrypt(text)
            }
        }
        Some(())
    }
    let vector = [&clock.boots.to_be_bytes(), &clock.time.to_be_bytes(), salt].concat();
    match key.len() {
        16 => with::<aes::Aes128>(key, &vector, text, direction),
        _ => with::<aes::Aes256>(key, &vector, text, direction),
    }
}

/// Builds a notification. `id` is both the message id and the request id, from 0 to 2^31 - 1; `salt` must never repeat
/// for the same keys.
pub fn notification(
    purpose: Purpose,
    keys: &UserKeys,
    clock: EngineClock,
    id: i32,
    varbinds: &[u8],
    salt: u64,
) -> Vec<u8> {
    let kind = match purpose {
        Purpose::Trap => TRAP,
        Purpose::Inform => INFORM,
    };
    message(kind, keys, clock, id, varbinds, salt)
}

/// Builds a request for the receiver's engine id and clock (RFC 3414 section 4).
pub fn discovery(id: i32) -> Vec<u8> {
    message(GET, &UserKeys::nobody(), EngineClock::default(), id, &[], 0)
}

fn message(kind: u8, keys: &UserKeys, clock: EngineClock, id: i32, varbinds: &[u8], salt: u64) -> Vec<u8> {
    let zero = integer(0);
    let pdu = tlv(kind, &[integer(id.into()), zero.clone(), zero, tlv(SEQUENCE, varbinds)].concat());
    let mut scoped = tlv(SEQUENCE, &[tlv(OCTET_STRING, &keys.engine_id), tlv(OCTET_STRING, &[]), pdu].concat());
    let salt = salt.to_be_bytes();
    let (salt, payload): (&[u8], _) = match &keys.privacy {
        None => (&[], scoped),
        Some(key) => {
            // The key and the vector always have the lengths that the cipher requires.
            let _always = crypt(key, clock, &salt, &mut scoped, CipherDirection::Encrypt);
            (&salt, tlv(OCTET_STRING, &scoped))
        }
    };
    let flags = keys.flags() | if kind == TRAP { 0 } else { REPORTABLE };
    let global = [integer(id.into()), integer(LONGEST_MESSAGE), tlv(OCTET_STRING, &[flags]), integer(USM)].concat();
    let signed = |signature: &[u8]| {
        let clock = [integer(clock.boots.into()), integer(clock.time.into())].concat();
        let usm = [
            tlv(OCTET_STRING, &keys.engine_id),
            clock,
            tlv(OCTET_STRING, &keys.user),
            tlv(OCTET_STRING, signature),
            tlv(OCTET_STRING, salt),
        ];
        let usm = tlv(OCTET_STRING, &tlv(SEQUENCE, &usm.concat()));
        tlv(SEQUENCE, &[integer(SNMP_V3), tlv(SEQUENCE, &global), usm, payload.clone()].concat())
    };
    match &keys.auth {
        None => signed(&[]),
        Some((hash, key)) => signed(&hash.signature(key, &signed(&vec![0; hash.kept()]))),
    }
}

/// Decodes the reply to the message `id`; `keys` is `None` for a discovery. An error means that the datagram is no
/// reply to it, and the caller keeps waiting.
pub fn reply(datagram: &[u8], keys: Option<&UserKeys>, id: i32) -> Result<UsmReply, Error> {
    let mut whole = open(&mut AsnReader::from_bytes(datagram), SEQUENCE)?;
    if whole.read_asn_integer()? != SNMP_V3 {
        return Err(Error::UnsupportedVersion);
    }
    let mut global = open(&mut whole, SEQUENCE)?;
    if global.read_asn_integer()? != i64::from(id) {
        return Err(Error::RequestIdMismatch);
    }
    let _longest = global.read_asn_integer()?;
    let (flags, model) = (global.read_asn_octetstring()?, global.read_asn_integer()?);
    let (&[flags], USM) = (flags, model) else { return Err(Error::ValueOutOfRange) };
    let mut usm = open(&mut open(&mut whole, OCTET_STRING)?, SEQUENCE)?;
    let engine_id = usm.read_asn_octetstring()?;
    let mut number = || -> Result<u32, Error> {
        let number = i32::try_from(usm.read_asn_integer()?).map_err(|_| Error::ValueOutOfRange)?;
        u32::try_from(number).map_err(|_| Error::ValueOutOfRange)
    };
    let clock = EngineClock { boots: number()?, time: number()? };
    let _user = usm.read_asn_octetstring()?;
    let (signature, salt) = (usm.read_asn_octetstring()?, usm.read_asn_octetstring()?);
    let signed = flags & AUTH != 0;
    if signed {
        let (hash, key) = keys.and_then(|keys| keys.auth.as_ref()).ok_or(Error::AsnWrongType)?;
        let start = signature.as_ptr().addr() - datagram.as_ptr().addr();
        let mut zeroed = datagram.to_vec();
        zeroed[start..start + signature.len()].fill(0);
        if !hash.verifies(key, &zeroed, signature) {
            return Err(Error::AsnParse);
        }
    }
    let mut plain;
    if flags & PRIVACY != 0 {
        let key = keys.and_then(|keys| keys.privacy.as_ref()).filter(|_| signed).ok_or(Error::AsnWrongType)?;
        plain = whole.read_asn_octetstring()?.to_vec();
        crypt(key, clock, salt, &mut plain, CipherDirection::Decrypt).ok_or(Error::AsnInvalidLen)?;
        whole = AsnReader::from_bytes(&plain);
    }
    let mut scoped = open(&mut whole, SEQUENCE)?;
    let _context = (scoped.read_asn_octetstring()?, scoped.read_asn_octetstring()?);
    let kind = scoped.peek_byte()?;
    let mut pdu = open(&mut scoped, kind)?;
    let request = pdu.read_asn_integer()?;
    let (status, _index) = (pdu.read_asn_integer()?, pdu.read_asn_integer()?);
    match (kind, keys) {
        // A report may have a lower security level than the message it refers to, and need not repeat the request id.
        (REPORT, _) => {
            let (oid, _) = Varbinds::from_bytes(pdu.read_raw(SEQUENCE)?).next().ok_or(Error::AsnEof)?;
            let complaint = complaint(oid.as_bytes());
            Ok(UsmReply::Reported(UsmReport { complaint, signed, engine_id: engine_id.to_vec(), clock }))
        }
        (RESPONSE, Some(keys)) => {
            let as_secure = flags & keys.flags() == keys.flags() && engine_id == keys.engine_id;
            match u32::try_from(status) {
                Ok(status) if as_secure && request == i64::from(id) => Ok(UsmReply::Acknowledged(match status {
                    0 => Acknowledgement::Good,
                    status => Acknowledgement::Refused(status),
                })),
                _ => Err(Error::AsnWrongType),
            }
        }
        _ => Err(Error::AsnWrongType),
    }
}

fn open<'a>(octets: &mut AsnReader<'a>, tag: u8) -> Result<AsnReader<'a>, Error> {
    Ok(AsnReader::from_bytes(octets.read_raw(tag)?))
}

fn complaint(oid: &[u8]) -> UsmError {
    match oid.strip_prefix(&USM_STATS) {
        Some([1, 0]) => UsmError::UnsupportedSecurityLevel,
        Some([2, 0]) => UsmError::NotInTimeWindow,
        Some([3, 0]) => UsmError::UnknownUserName,
        Some([4, 0]) => UsmError::UnknownEngineId,
        Some([5, 0]) => UsmError::WrongDigest,
        Some([6, 0]) => UsmError::DecryptionError,
        _ => UsmError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(auth: Option<AuthProtocol>, privacy: Option<PrivacyProtocol>) -> User {
        User {
            name: "joe".into(),
            auth: auth.map(|protocol| (protocol, Secret::new("maplesyrup"))),
            privacy: privacy.map(|protocol| (protocol, Secret::new("maplesyrup"))),
        }
    }

    /// Checks the example of RFC 3414 section A.3.2.
    #[test]
    fn localized_key_matches_rfc_3414_example() {
        let engine_id = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let key = AuthProtocol::Sha1.localized_key(&Secret::new("maplesyrup"), &engine_id);
        let hex: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, "6695febc9288e36282235fc7151f128497b38f3f");
    }

    /// Returns the response that a receiver would send: the same message with another PDU type.
    fn answer(keys: &UserKeys, id: i32) -> Vec<u8> {
        message(RESPONSE, keys, EngineClock { boots: 7, time: 99 }, id, &[], 5)
    }

    #[test]
    fn responses_are_accepted_at_every_security_level() {
        for (auth, privacy) in [
            (None, None),
            (Some(AuthProtocol::Sha1), None),
            (Some(AuthProtocol::Sha256), Some(PrivacyProtocol::Aes128)),
            (Some(AuthProtocol::Sha1), Some(PrivacyProtocol::Aes256)),
            (Some(AuthProtocol::Sha512), Some(PrivacyProtocol::Aes256)),
        ] {
            let keys = UserKeys::new(&user(auth, privacy), b"engine");
            let datagram = answer(&keys, 42);
            assert_eq!(reply(&datagram, Some(&keys), 42).unwrap(), UsmReply::Acknowledged(Acknowledgement::Good));
            assert!(reply(&datagram, Some(&keys), 43).is_err());
            assert!(reply(&datagram, None, 42).is_err());
        }
    }

    /// Without the password, no valid acknowledgement can be made.
    #[test]
    fn forged_acknowledgement_is_rejected() {
        let keys = UserKeys::new(&user(Some(AuthProtocol::Sha256), None), b"engine");
        let forger = UserKeys::new(&user(None, None), b"engine");
        assert!(reply(&answer(&forger, 42), Some(&keys), 42).is_err());
        let mut datagram = answer(&keys, 42);
        for at in 0..datagram.len() {
            datagram[at] ^= 1;
            assert!(reply(&datagram, Some(&keys), 42).is_err(), "octet {at}");
            datagram[at] ^= 1;
        }
    }

    /// A trap requests no report (RFC 3412 section 6.4); informs and discoveries do.
    #[test]
    fn reportable_flag_is_clear_for_traps_only() {
        let keys = UserKeys::new(&user(None, None), b"engine");
        let flags = |datagram: &[u8]| {
            let mut whole = open(&mut AsnReader::from_bytes(datagram), SEQUENCE).unwrap();
            whole.read_asn_integer().unwrap();
            let mut global = open(&mut whole, SEQUENCE).unwrap();
            global.read_asn_integer().unwrap();
            global.read_asn_integer().unwrap();
            global.read_asn_octetstring().unwrap()[0]
        };
        let clock = EngineClock::default();
        assert_eq!(flags(&notification(Purpose::Trap, &keys, clock, 1, &[], 0)), 0);
        assert_eq!(flags(&notification(Purpose::Inform, &keys, clock, 1, &[], 0)), REPORTABLE);
        assert_eq!(flags(&discovery(1)), REPORTABLE);
    }

    proptest! {
        #[test]
        fn decoding_never_panics_on_malformed_datagrams(octets: Vec<u8>, at in 0usize..200, to: u8) {
            let keys = UserKeys { user: b"joe".to_vec(), engine_id: b"engine".to_vec(), auth: None, privacy: None };
            let _ = reply(&octets, Some(&keys), 42);
            let mut datagram = answer(&keys, 42);
            let at = at % datagram.len();
            datagram[at] = to;
            let _ = reply(&datagram, Some(&keys), 42);
            let _ = reply(&datagram[..at], Some(&keys), 42);
        }
    }
}
