//! From a test's state to probes on the wire.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::gauges::Gauges;
use super::prefetch::prefetch;
use super::time;
use super::udp::{Envelope, Socket, describe_send_error};
use crate::pure::key::KeyRing;
use crate::pure::probe::PADDED_LEN;
use crate::pure::sending::{Readings, Room, Sending};
use crate::pure::test::TestId;
use crate::pure::time::{Moment, Now};

/// The sockets of one source, one for each of its ports.
pub type Outlet = Arc<[Arc<Socket>]>;

/// One test's state, shared by its sender and the pacer of its source.
#[derive(Debug)]
#[repr(C)]
pub struct Line {
    /// The test.
    pub id: TestId,
    state: Mutex<Sending>,
}

impl Line {
    /// Has fetched what a turn needs.
    pub fn prefetch(&self) {
        prefetch(self, std::mem::offset_of!(Line, state) + size_of::<Mutex<()>>() + Sending::HOT);
    }

    /// A line of this state.
    pub fn new(id: TestId, state: Sending) -> Arc<Self> {
        Arc::new(Line { id, state: Mutex::new(state) })
    }

    /// The state; nothing if somebody panicked over it.
    pub fn sound(&self) -> Option<MutexGuard<'_, Sending>> {
        self.state.lock().ok()
    }

    /// The state, as it is.
    pub fn state(&self) -> MutexGuard<'_, Sending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every probe needs, read once for many.
pub struct Post {
    gauges: Gauges,
    readings: Readings,
    keys: Arc<KeyRing>,
    room: Box<Room>,
}

impl Post {
    /// With readings of now.
    pub fn new(gauges: Gauges) -> Self {
        let (readings, keys) = (gauges.readings(), gauges.keys());
        Post { gauges, readings, keys, room: Box::new([0; *PADDED_LEN.end()]) }
    }

    /// Compares the clocks of this host.
    pub fn observe(&self, now: Now) {
        self.gauges.observe(now, time::slept());
    }

    /// Reads anew what probes say of this host.
    pub fn refresh(&mut self) {
        self.readings = self.gauges.readings();
        self.keys = self.gauges.keys();
    }

    /// What probes say of this host, and what they are signed with.
    pub fn known(&self) -> (&Readings, &Arc<KeyRing>) {
        (&self.readings, &self.keys)
    }

    /// One turn of a test: a probe of each of its flows. Gives when the last of them had left.
    pub fn send_turn(&mut self, sending: &mut Sending, outlet: &Outlet, flags: u8, now: Now) -> Moment {
        let flows = sending.form().flows.count();
        let mut left = now.moment;
        for flow in 0..flows {
            // A probe leaves when the one before it has left: one reading of the clock serves both.
            left = self.send(sending, outlet, flow, flags, now.advanced_to(left));
        }
        left
    }

    /// Sends a probe of one flow. Returns when it had left.
    fn send(&mut self, sending: &mut Sending, outlet: &Outlet, index: usize, flags: u8, now: Now) -> Moment {
        let Some(len) = sending.write(index, flags, now, &self.readings, &self.keys, &mut self.room) else {
            sending
                .on_error("this host has no key to sign it with (see `keys` in the document config)".to_owned(), now);
            return now.moment;
        };
        let form = sending.form();
        let flow = form.flows.get(index);
        let envelope = Envelope { destination: form.destination, source: form.source_address, dscp: flow.dscp };
        let Some(socket) = outlet.get(usize::from(flow.port)).or(outlet.first()) else { return now.moment };
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
