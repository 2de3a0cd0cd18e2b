//! Input and output types of a receive session: its expectations, an incoming probe, and the result of accepting it.
//!
//! [`SessionPlan`] describes what the configuration expects of a test, [`ProbeSample`] a received probe, and
//! [`Acceptance`] whether that probe was counted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::pure::alarm::key::Kind;
use crate::pure::base::time::{Now, WallTime};
use crate::pure::clock::error_estimate::{Delay, DelayLimits};
use crate::pure::judge::condition::Thresholds;
use crate::pure::measure::loss_window::LossLimits;
use crate::pure::stamp::flows::Flows;
use crate::pure::stamp::key::KeyChoice;
use crate::pure::stamp::session_reflector::Delays;
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;
use crate::pure::test::role::Role;
use crate::pure::test::spec::Mode;

/// Expectations on one test, derived from its configuration. Two equal values require no reconfiguration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPlan {
    /// Facts about the test: its id, hosts, addresses and description.
    pub test: Arc<TestFacts>,
    /// Source address of the test's probes, if the documents specify it: unsigned probes from other addresses are not
    /// answered.
    pub from_address: Option<IpAddr>,
    /// Tests of which a probe from any one suffices; `None` if only the test's own probes count.
    pub any_of: Option<Arc<BTreeSet<TestId>>>,
    /// Criteria by which the test is judged. Most tests of a host have equal criteria and share them.
    pub criteria: Arc<Criteria>,
}

impl std::ops::Deref for SessionPlan {
    type Target = Criteria;
    fn deref(&self) -> &Criteria {
        &self.criteria
    }
}

/// Criteria by which a test is judged: intervals, thresholds, limits, flows and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria {
    /// Role that judges: the receiver judges arriving probes, the sender judges the replies to its own.
    pub role: Role,
    /// Mode of the test, which determines whether probes are reflected to their sender.
    pub mode: Mode,
    /// Interval within which at least one probe is expected; each interval without one is a bad sample.
    pub expect_every: Duration,
    /// Whether missing probes are bad samples. False for a target, each of whose probes ends with a result.
    pub has_timeout: bool,
    /// Numbers of samples that raise and clear a condition.
    pub thresholds: Thresholds,
    /// Limits of a probe's one-way delay; at the sender, limits of the round trip.
    pub limits: DelayLimits,
    /// Limit of each one-way delay of a round trip; `None` if the directions are not judged.
    pub max_each_way: Option<Duration>,
    /// Limit of the excess over the test's own baseline delay; `None` if no baseline is learnt.
    pub max_above_baseline: Option<Duration>,
    /// Limits of loss and of delay variation within the loss window.
    pub loss: LossLimits,
    /// Flows in which the probes are sent, by source port, code point and size.
    pub flows: Flows,
    /// Keys that probes must be signed with; `None` if signatures are not required.
    pub keys: Option<KeyChoice>,
    /// Time after the start during which a missing probe raises no alarm, unless a probe has arrived already.
    pub startup_grace: Duration,
    /// Maximum time for which missing probes raise no alarm after the sender has announced its stop.
    pub max_pause: Duration,
}

impl SessionPlan {
    /// Returns the name of the host at the other end of the test.
    pub fn peer(&self) -> &str {
        match self.role {
            Role::Receiver => &self.test.from_host,
            Role::Sender => &self.test.to_host,
        }
    }

    /// Returns the alarm kinds that this test can raise under its current criteria.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let latency =
            self.limits.max_latency.is_some() || self.max_each_way.is_some() || self.max_above_baseline.is_some();
        let kinds = [
            (Kind::Connection, true),
            (Kind::Latency, latency),
            // With several senders, only some of the probes of each arrive here, on different paths, so loss, jitter
            // and flows cannot be judged.
            (Kind::Loss, self.loss.max_loss_ppm.is_some() && self.any_of.is_none()),
            (Kind::Jitter, self.loss.max_jitter.is_some() && self.any_of.is_none()),
            (Kind::Path, self.flows.count() > 1 && self.any_of.is_none()),
        ];
        kinds.into_iter().filter(|(_, asked)| *asked).map(|(kind, _)| kind)
    }
}

/// Received probe, decoded, with the metadata of its reception.
#[derive(Clone, Debug)]
pub struct ProbeSample {
    /// Test id that the probe carries in its payload.
    pub test_id: TestId,
    /// Time of reception by the kernel, on the monotonic clock and the wall clock.
    pub received: Now,
    /// Delay of the probe on its way here; for a reply, the round-trip delay.
    pub delay: Delay,
    /// Delays of both directions, one way each, which only a reply carries.
    pub directions: Option<Delays>,
    /// Epoch of the sender and sequence number; `None` for probes of the original agent, which have neither.
    pub epoch_and_sequence: Option<(u64, u32)>,
    /// Sequence numbers of the epoch, below this one, whose probes never left the sender.
    pub unsent: u32,
    /// Interval at which the sender sends probes, according to the probe.
    pub send_every: Duration,
    /// Send time of the probe, by the sender's wall clock.
    pub sent: WallTime,
    /// Source port of the datagram, which identifies the flow it belongs to.
    pub source_port: u16,
    /// True if the probe is signed, or comes from the address that the test's probes come from. Other probes must not
    /// weaken the criteria by which the test is judged.
    pub is_trusted: bool,
    /// True if this host's clock was set while the probe was under way: its delay is meaningless then.
    pub clock_was_set: bool,
    /// True if the sender announces with this probe that it stops on purpose.
    pub stops: bool,
    /// True if the sender's clock has stepped since its previous probe.
    pub stepped: bool,
    /// Time-to-live of the received IP packet, if the kernel reported it.
    pub ttl: Option<u8>,
    /// Differentiated services code point of the received IP packet, if the kernel reported it.
    pub dscp: Option<u8>,
    /// Datagrams that the kernel has dropped at this socket since it was opened.
    pub dropped: u64,
}

/// Result of checking a probe against the sequence numbers received before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Probe is accepted and counted. Carries the previous time-to-live if that differs from the probe's.
    Accepted(Option<u8>),
    /// Probe is rejected because its sequence number has been received before.
    Duplicate,
    /// Probe is rejected because its sequence number is too far behind the newest one.
    TooOld,
    /// Probe is rejected because it is from an earlier start of the sender, while the newer one still sends.
    StaleEpoch,
}

/// Counters of a test's probes since the receive session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Probes that were accepted, including the reordered ones.
    pub received: u64,
    /// Probes that were accepted although a later one had arrived before them.
    pub reordered: u64,
    /// Probes that were rejected because their sequence number had been received before.
    pub duplicates: u64,
    /// Probes that were rejected because they were too old, or from an earlier start of the sender.
    pub stale: u64,
}
