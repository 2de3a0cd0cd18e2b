//! What is expected of a test, what comes, and what becomes of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::pure::alarm::Kind;
use crate::pure::clock_error::{Delay, DelayLimits};
use crate::pure::condition::Thresholds;
use crate::pure::flows::Flows;
use crate::pure::key::KeyChoice;
use crate::pure::loss_window::LossLimits;
use crate::pure::reflection::Delays;
use crate::pure::status::Role;
use crate::pure::test::{Mode, TestFacts, TestId};
use crate::pure::time::{Now, WallTime};

/// What is expected of a test. Two equal ones need no change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Which test.
    pub test: Arc<TestFacts>,
    /// The address that its probes come from, if the documents say so: unsigned ones of others are not
    /// answered.
    pub from_address: Option<IpAddr>,
    /// The tests of which any probe is enough; nothing: the test's own.
    pub any_of: Option<Arc<BTreeSet<TestId>>>,
    /// How it is judged. Most tests of a host are judged alike and share it.
    pub manner: Arc<Manner>,
}

impl std::ops::Deref for Expected {
    type Target = Manner;
    fn deref(&self) -> &Manner {
        &self.manner
    }
}

/// How a test is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Who judges: the receiver what comes, or the sender what comes back.
    pub role: Role,
    /// Whether probes come back.
    pub mode: Mode,
    /// At least one probe in each such time.
    pub expect_every: Duration,
    /// How many samples decide.
    pub thresholds: Thresholds,
    /// What is asked of a probe's delay; of the round trip at the sender.
    pub limits: DelayLimits,
    /// What is asked of each direction of a round trip.
    pub max_each_way: Option<Duration>,
    /// A delay further above the test's own usual one is too much.
    pub max_above_baseline: Option<Duration>,
    /// What is asked of loss and delay variation.
    pub loss: LossLimits,
    /// In which kinds its probes are sent.
    pub flows: Flows,
    /// The keys that its probes have to be signed with, if they have to.
    pub keys: Option<KeyChoice>,
    /// Nothing is raised for silence before this is over, unless a probe came.
    pub startup_grace: Duration,
    /// The silence of a sender that announced its stop is forgiven for so long.
    pub max_pause: Duration,
}

impl Expected {
    /// The host at the other end.
    pub fn peer(&self) -> &str {
        match self.role {
            Role::Receiver => &self.test.from_host,
            Role::Sender => &self.test.to_host,
        }
    }

    /// The kinds of alarms that can come of it.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let latency =
            self.limits.max_latency.is_some() || self.max_each_way.is_some() || self.max_above_baseline.is_some();
        let kinds = [
            (Kind::Connection, true),
            (Kind::Latency, latency),
            // Of one of many senders only some probes come here, by different ways.
            (Kind::Loss, self.loss.max_loss_ppm.is_some() && self.any_of.is_none()),
            (Kind::Jitter, self.loss.max_jitter.is_some() && self.any_of.is_none()),
            (Kind::Path, self.flows.count() > 1 && self.any_of.is_none()),
        ];
        kinds.into_iter().filter(|(_, asked)| *asked).map(|(kind, _)| kind)
    }
}

/// A probe as it came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Which test it says it is of.
    pub test_id: TestId,
    /// When the kernel took it in, on both clocks.
    pub received: Now,
    /// How long it took; there and back, if it is an answer.
    pub delay: Delay,
    /// What an answer says of each direction.
    pub directions: Option<Delays>,
    /// The sender's epoch and its sequence number; the original's probes have none.
    pub order: Option<(u64, u32)>,
    /// Sequence numbers of the epoch, below this one, whose probes never left the sender.
    pub unsent: u32,
    /// The sender's interval.
    pub send_every: Duration,
    /// When it was sent, by the sender's clock.
    pub sent: WallTime,
    /// The port that it came from.
    pub source_port: u16,
    /// The probe is signed, or comes from the address that the test's probes come from. Other probes must not weaken
    /// how the test is judged.
    pub is_trusted: bool,
    /// The clock of this host was set while it was under way: its delay says nothing.
    pub clock_was_set: bool,
    /// The sender announces its stop.
    pub stops: bool,
    /// The sender's clock stepped since its last probe.
    pub stepped: bool,
    /// The time-to-live that it came with.
    pub ttl: Option<u8>,
    /// The differentiated services code point that it came with.
    pub dscp: Option<u8>,
    /// Datagrams that the kernel dropped at this socket so far.
    pub dropped: u64,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It counts. With the time-to-live of those before it, if that was another.
    Accepted(Option<u8>),
    /// Its sequence number came before.
    Duplicate,
    /// Too far behind the newest sequence number.
    TooOld,
    /// From an earlier start of the sender, while the newer one still sends.
    StaleEpoch,
}

/// Counters since the expectation began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Accepted probes.
    pub received: u64,
    /// Accepted, but behind a later one.
    pub reordered: u64,
    /// Not accepted: came before.
    pub duplicates: u64,
    /// Not accepted: too old, or from an earlier start of the sender.
    pub stale: u64,
}
