//! Transmits the probes of a test: from its session sender state to its source sockets.
//!
//! [`SenderCell`] holds the state of one test, which its sender and its pacer share; [`Transmitter`] transmits the
//! probes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::prefetch::prefetch;
use super::udp::{Envelope, Socket, describe_send_error};
use crate::io::shared::SharedState;
use crate::io::time;
use crate::pure::base::time::{Moment, Now};
use crate::pure::stamp::key::KeyRing;
use crate::pure::stamp::packet::PADDED_LEN;
use crate::pure::stamp::session_sender::{ProbeBuffer, Readings, SessionSender};
use crate::pure::test::id::TestId;

/// Sockets of one source address, one for each of its source ports.
pub type SourceSockets = Arc<[Arc<Socket>]>;

/// State of one test, shared by its sender and the pacer of its source.
#[derive(Debug)]
#[repr(C)]
pub struct SenderCell {
    /// Id of the test that this state belongs to.
    pub id: TestId,
    state: Mutex<SessionSender>,
}

impl SenderCell {
    /// Prefetches the part of the state that a turn reads, so that it is in the cache when the turn begins.
    pub fn prefetch(&self) {
        prefetch(self, std::mem::offset_of!(SenderCell, state) + size_of::<Mutex<()>>() + SessionSender::HOT);
    }

    /// Creates a shared cell that holds the given state.
    pub fn new(id: TestId, state: SessionSender) -> Arc<Self> {
        Arc::new(SenderCell { id, state: Mutex::new(state) })
    }

    /// Locks the state; returns `None` if a thread panicked while it held the lock.
    pub fn lock_unpoisoned(&self) -> Option<MutexGuard<'_, SessionSender>> {
        self.state.lock().ok()
    }

    /// Locks the state, also after a panic of a thread that held the lock.
    pub fn state(&self) -> MutexGuard<'_, SessionSender> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Transmitter of probes; holds copies of the readings and keys that all probes of a batch use.
pub struct Transmitter {
    shared: SharedState,
    readings: Readings,
    keys: Arc<KeyRing>,
    room: Box<ProbeBuffer>,
}

impl Transmitter {
    /// Creates a transmitter with the current readings and keys.
    pub fn new(shared: SharedState) -> Self {
        let (readings, keys) = (shared.readings(), shared.keys());
        Transmitter { shared, readings, keys, room: Box::new([0; *PADDED_LEN.end()]) }
    }

    /// Compares the wall clock with the monotonic clock, and records a step or a suspension in the shared state.
    pub fn observe(&self, now: Now) {
        self.shared.observe(now, time::slept());
    }

    /// Reads the host's readings and the keys again from the shared state.
    pub fn refresh(&mut self) {
        self.readings = self.shared.readings();
        self.keys = self.shared.keys();
    }

    /// Returns the readings that probes carry and the keys with which they are signed.
    pub fn readings_and_keys(&self) -> (&Readings, &Arc<KeyRing>) {
        (&self.readings, &self.keys)
    }

    /// Sends one turn of a test, which is one probe on each of its flows. Returns the time at which the last one left.
    pub fn send_turn(&mut self, sending: &mut SessionSender, sockets: &SourceSockets, flags: u8, now: Now) -> Moment {
        let flows = sending.form().flows.count();
        let mut left = now.moment;
        for flow in 0..flows {
            // The time at which the previous probe left is the send time of the next one, which saves one reading of
            // the clock.
            left = self.send(sending, sockets, flow, flags, now.advanced_to(left));
        }
        left
    }

    /// Sends a probe of one flow. Returns the time at which it left.
    fn send(
        &mut self,
        sending: &mut SessionSender,
        sockets: &SourceSockets,
        index: usize,
        flags: u8,
        now: Now,
    ) -> Moment {
        let Some(len) = sending.write(index, flags, now, &self.readings, &self.keys, &mut self.room) else {
            sending
                .on_error("this host has no key to sign it with (see `keys` in the document config)".to_owned(), now);
            return now.moment;
        };
        let form = sending.form();
        let flow = form.flows.get(index);
        let envelope = Envelope { destination: form.destination, source: form.source_address, dscp: flow.dscp };
        let Some(socket) = sockets.get(usize::from(flow.port)).or(sockets.first()) else { return now.moment };
        let sent = socket.send(&self.room[..len], &envelope);
        let left = time::moment(Instant::now());
        match &sent {
            Ok(()) => sending.on_sent(left.since(now.moment)),
            Err(error) => {
                let cause = describe_send_error(error, envelope.destination);
                tracing::debug!(test = %sending.plan().test.id, cause, "probe not sent");
                sending.on_refused(cause, now);
            }
        }
        left
    }
}
