//! Fuzz target for every decoder of network input: none may panic, and no unsigned packet may pass signature
//! verification. The input is the payload of one UDP datagram.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use peerpair::pure::stamp::arrival;
use peerpair::pure::clock::clock_error::ErrorEstimate;
use peerpair::pure::stamp::key::Key;
use peerpair::pure::stamp::probe::{Probe, STAMP_LEN};
use peerpair::pure::stamp::reflection::{Reflector, Reply, reflect};
use peerpair::pure::base::time::WallTime;

static KEY: LazyLock<Key> = LazyLock::new(|| Key::new(1, [7; 32]));

fuzz_target!(|octets: &[u8]| {
    let _ = arrival::read(octets);
    let _ = Probe::quoted_test_id(octets);
    if let Ok(probe) = Probe::decode(octets) {
        // Encoding a decoded probe and decoding it again must return the same probe.
        let written = probe.encode();
        assert_eq!(Probe::decode(&written), Ok(probe));
        assert!(!Probe::is_signed(octets, &KEY), "a signature was guessed");
    }
    let _ = Reply::decode(octets);
    let _ = Reply::is_signed(octets, &KEY);
    if octets.len() >= STAMP_LEN {
        let mut answer = octets.to_vec();
        let now = WallTime::from_unix_nanos(1_700_000_000_000_000_000);
        reflect(&mut answer, Reflector { received: now, sent: now, error_estimate: ErrorEstimate(1), ttl: None }, Some(&KEY));
        assert_eq!(answer.len(), octets.len());
        let _ = Reply::decode(&answer);
    }
});
