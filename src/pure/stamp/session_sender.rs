//! Session sender: the state of one test on its sending host.
//!
//! [`SessionSender`] decides when probes are due, encodes them, and evaluates the replies of the reflector.
//! [`SenderPlan`] is its configuration; the pacer that owns the sockets drives it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::flows::Flows;
use super::json_v1::JsonProbe;
use super::key::{KeyChoice, KeyRing};
use super::packet::{KEY_ID, PADDED_LEN, PROBE_LEN, Probe, SIGNED_LEN, flag};
use super::schedule::Schedule;
use super::session_reflector::Reply;
use crate::pure::alarm::change::ConditionChange;
use crate::pure::base::polling;
use crate::pure::base::time::{Moment, Now, WallTime};
use crate::pure::clock::error_estimate::{ClockQuality, ErrorEstimate};
use crate::pure::judge::condition::Thresholds;
use crate::pure::judge::sender_health::SenderHealth;
use crate::pure::judge::session::{ProbeSample, ReceiveSession, SessionPlan};
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;
use crate::pure::test::spec::Wire;

/// Configuration of one test that is sent from this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderPlan {
    /// Descriptive data of the test: id, hosts, addresses and tags.
    pub test: Arc<TestFacts>,
    /// Local socket source of the probes, which several tests may share.
    pub source: Source,
    /// Source address of the probes, if the address of the shared socket does not determine it.
    pub source_address: Option<IpAddr>,
    /// Address and port that the probes are sent to.
    pub destination: SocketAddr,
    /// Interval between two turns; each turn sends one probe per flow.
    pub send_every: Duration,
    /// Numbers of failed and successful turns that raise and clear the sender alarm.
    pub thresholds: Thresholds,
    /// Time after a start or a change of the destination for which path errors are ignored, because the receiver may
    /// not have loaded the test yet.
    pub startup_grace: Duration,
    /// Time for which path errors are ignored after the receiver announced its stop.
    pub max_pause: Duration,
    /// Packet format of the probes.
    pub wire: Wire,
    /// Definition of the flows, each of which sends one probe per turn.
    pub flows: Flows,
    /// Selection of the keys that sign the probes; `None` for unsigned probes.
    pub keys: Option<KeyChoice>,
    /// Receive session of the replies, if the receiver reflects the probes.
    pub answers: Option<Arc<SessionPlan>>,
}

/// Local source of probes, which several tests can share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Local address: the test's own one, that of a listener, or the wildcard address.
    pub address: SocketAddr,
    /// Network interface that the probes leave through, regardless of the routing table.
    pub interface: Option<String>,
}

/// State of the sending host that probes carry.
#[derive(Clone, Copy, Debug)]
pub struct Readings {
    /// Quality of the local clock.
    pub clock: ClockQuality,
    /// Quality of the local clock, encoded as the error estimate of a probe.
    pub error_estimate: ErrorEstimate,
    /// Version of the fleet document, which probes of the original format carry.
    pub config_version: i64,
    /// Number of steps of the local wall clock so far.
    pub steps: u32,
}

/// Precision with which send slots are kept. Few tests save many wake-ups by sharing them; with a large number of
/// tests, sharing would cause bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotPrecision {
    /// Precision of up to 4 ms, close to that of the timers.
    Fine,
    /// Precision of a fraction of the test's interval, but at most `polling::LONGEST`. The distance between the probes
    /// of one test stays constant.
    Coarse,
}

const FINEST: Duration = Duration::from_millis(1);
const FINE: Duration = Duration::from_millis(4);
const PARTS: u32 = 5;

/// Buffer for the longest probe.
pub type ProbeBuffer = [u8; *PADDED_LEN.end()];

/// Copy of the plan fields that every send reads, kept inline so that a send does not touch the `Arc<SenderPlan>`.
#[derive(Clone, Debug)]
pub struct ProbeTemplate {
    /// Id of the test that the probes carry.
    test_id: TestId,
    /// Address and port that the probes are sent to.
    pub destination: SocketAddr,
    /// Source address of the probes, if the address of the shared socket does not determine it.
    pub source_address: Option<IpAddr>,
    /// Definition of the flows, each of which sends one probe per turn.
    pub flows: Flows,
    keys: Option<KeyChoice>,
    wire: Wire,
}

impl From<&SenderPlan> for ProbeTemplate {
    fn from(plan: &SenderPlan) -> Self {
        ProbeTemplate {
            test_id: plan.test.id,
            destination: plan.destination,
            source_address: plan.source_address,
            flows: plan.flows,
            keys: plan.keys.clone(),
            wire: plan.wire,
        }
    }
}

/// State of one test at its sender. With a large number of tests, this state is fetched from memory at each turn; the
/// fields that a turn needs are therefore stored contiguously at the start, see `HOT`.
#[derive(Debug)]
#[repr(C)]
pub struct SessionSender {
    /// Number of the valid entry in the pacer's calendar queue; entries with other numbers are outdated.
    turn: u32,
    sequence: u32,
    epoch: u64,
    /// Sequence numbers of this epoch whose probes never left.
    unsent: u32,
    schedule: Schedule,
    /// Slot that is scheduled, or has just passed.
    slot: Option<Moment>,
    /// Time in nanoseconds between the timestamp of the last probe and its actual departure.
    lateness: Option<i32>,
    steps: u32,
    is_withdrawn: bool,
    form: ProbeTemplate,
    answers: Option<Box<Replies>>,
    counts: Counts,
    health: SenderHealth,
    plan: Arc<SenderPlan>,
    /// Send time of the last stop announcement of the receiver, which protects against replays.
    stop_announced: WallTime,
}

/// Send counters of one test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Number of probes sent.
    pub sent: u64,
    /// Number of probes that could not be sent, or for which an ICMP error was received.
    pub errors: u64,
    /// Number of missed slots.
    pub skipped: u64,
    /// Sum of the delays in nanoseconds with which slots began.
    pub lateness_nanos: u64,
}

/// Reception state of the replies to one test.
#[derive(Debug)]
struct Replies {
    session: ReceiveSession,
    /// Last probes sent; a reply is accepted only if it matches one of them.
    outstanding: Vec<Outstanding>,
    /// Sequence number of the first probe sent after the last step of the local wall clock.
    stepped_at: Option<u32>,
}

/// Probe whose reply may be in transit.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    sequence: u32,
    /// Count of probes that never left, as the probe carried it.
    unsent: u32,
    sent: WallTime,
}

/// Minimum and maximum number of probes whose replies are awaited at the same time.
const OUTSTANDING: std::ops::RangeInclusive<usize> = 64..=8192;
/// Upper limit for the round-trip time of an accepted reply; two turns are added to it, which matters for long send
/// intervals.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// Reason why a reply is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyRejected {
    /// The test expects no replies.
    Unexpected,
    /// The reply matches none of the recently sent probes.
    Unmatched,
    /// The reply is unsigned, or its signature is wrong, although the test requires one.
    Unsigned,
}

// A turn of a healthy test reads four cache lines of 64 octets.
const _: () = assert!(SessionSender::HOT <= 4 * 64);

impl SessionSender {
    /// Number of leading octets of the state, which are the only ones that a turn reads while the sender is healthy.
    pub const HOT: usize = std::mem::offset_of!(SessionSender, health) + 1;

    /// Creates the state for a plan. `epoch` is the epoch of the first probes, and path errors are ignored until the
    /// plan's startup grace has passed.
    pub fn new(plan: Arc<SenderPlan>, now: Now, epoch: u64) -> Self {
        SessionSender {
            schedule: Schedule::new(plan.send_every, plan.test.id.as_u128()),
            health: SenderHealth::new(plan.test.clone(), plan.thresholds, now.moment + plan.startup_grace),
            epoch,
            sequence: 0,
            unsent: 0,
            lateness: None,
            slot: None,
            turn: 0,
            is_withdrawn: false,
            steps: 0,
            counts: Counts::default(),
            answers: plan.answers.as_deref().map(|expected| Replies::new(expected, &plan, now)),
            form: ProbeTemplate::from(plan.as_ref()),
            plan,
            stop_announced: WallTime::ZERO,
        }
    }

    /// Returns the plan fields that every send reads.
    pub fn form(&self) -> &ProbeTemplate {
        &self.form
    }

    /// Returns the plan that is in effect.
    pub fn plan(&self) -> &Arc<SenderPlan> {
        &self.plan
    }

    /// Replaces the plan by another one of the same test. The caller has to enrol the test with a pacer again. If the
    /// flows differ, sequence numbers restart in the new `epoch`. Resulting alarm changes are appended to `changes`.
    pub fn on_plan(&mut self, plan: Arc<SenderPlan>, epoch: u64, now: Now, changes: &mut Vec<ConditionChange>) {
        if plan.destination != self.plan.destination {
            let until = now.moment + plan.startup_grace;
            changes.extend(self.health.on_moved(plan.destination, until, now));
        }
        if plan.send_every != self.plan.send_every {
            self.slot = None;
        }
        if plan.flows != self.plan.flows {
            // The receiver derives the flow from the sequence number, so that numbering restarts.
            (self.epoch, self.sequence, self.unsent) = (epoch, 0, 0);
        }
        self.health.on_plan(plan.test.clone(), plan.thresholds);
        self.schedule = Schedule::new(plan.send_every, plan.test.id.as_u128());
        match (&mut self.answers, &plan.answers) {
            (Some(answers), Some(expected)) => {
                answers.session.on_expected(expected.as_ref().clone(), now, changes);
                answers.outstanding = Replies::room(&plan);
            }
            (None, Some(expected)) => self.answers = Some(Replies::new(expected, &plan, now)),
            (_, None) => self.answers = None,
        }
        self.form = ProbeTemplate::from(plan.as_ref());
        self.plan = plan;
    }

    /// Records the enrolment in a pacer's calendar queue and returns the number of the new entry; previous entries
    /// become outdated.
    pub fn on_enrolled(&mut self) -> u32 {
        self.turn = self.turn.wrapping_add(1);
        self.is_withdrawn = false;
        self.turn
    }

    /// Marks the state as withdrawn because its sender has stopped; all calendar entries become outdated.
    pub fn withdraw(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.is_withdrawn = true;
    }

    /// Returns whether the sender of this state has stopped.
    pub fn is_withdrawn(&self) -> bool {
        self.is_withdrawn
    }

    /// Returns whether the calendar entry with this number is the valid one.
    pub fn is_turn(&self, turn: u32) -> bool {
        self.turn == turn
    }

    /// Returns the next slot, rounded up to the precision of `grid`. Slots that passed since the previous call are
    /// counted as skipped.
    pub fn next_slot(&mut self, now: Moment, grid: SlotPrecision) -> Moment {
        let coarsest = match grid {
            SlotPrecision::Fine => FINE,
            SlotPrecision::Coarse => polling::LONGEST,
        };
        let parts = (self.schedule.every() / PARTS).clamp(FINEST, coarsest);
        let next = self.schedule.next_slot(now).rounded_up(parts);
        if let Some(passed) = self.slot.replace(next) {
            self.counts.skipped += self.schedule.slots_between(passed, next).saturating_sub(1);
        }
        next
    }

    /// Handles the start of a slot: evaluates the errors of the previous probe, and missing replies.
    pub fn on_slot(&mut self, now: Now, changes: &mut Vec<ConditionChange>) {
        if let Some(slot) = self.slot {
            let late = u64::try_from(now.moment.since(slot).as_nanos()).unwrap_or(u64::MAX);
            self.counts.lateness_nanos = self.counts.lateness_nanos.saturating_add(late);
        }
        changes.extend(self.health.on_slot(now));
        if let Some(answers) = &mut self.answers {
            answers.session.on_timeout(now, 0, changes);
        }
    }

    /// Encodes the next probe of the given flow into `room` and returns its length, or `None` if the key to sign it
    /// is missing.
    pub fn write(
        &mut self,
        flow: usize,
        flags: u8,
        now: Now,
        readings: &Readings,
        keys: &KeyRing,
        room: &mut ProbeBuffer,
    ) -> Option<usize> {
        let key = match &self.form.keys {
            Some(choice) => Some(keys.signing(choice)?),
            None => None,
        };
        if self.form.wire == Wire::JsonV1 {
            let probe = JsonProbe {
                config_version: readings.config_version,
                sent: now.wall,
                // The original agent accepts only probes that carry its own host id.
                host_id: self.plan.test.to_host.clone(),
                test_id: self.plan.test.id,
            };
            let octets = probe.encode();
            room.get_mut(..octets.len())?.copy_from_slice(&octets);
            return Some(octets.len());
        }
        let size = self.form.flows.get(flow).size.map_or(0, usize::from);
        let probe = self.probe(flow, flags, now, readings);
        if let Some(answers) = &mut self.answers {
            let at = self.sequence as usize % answers.outstanding.len();
            answers.outstanding[at] = Outstanding { sequence: self.sequence, unsent: self.unsent, sent: now.wall };
        }
        self.sequence = self.sequence.wrapping_add(1);
        let room = &mut room[..padded(size, key.is_some())];
        Some(probe.write(room, key.map(Arc::as_ref)))
    }

    fn probe(&mut self, flow: usize, flags: u8, now: Now, readings: &Readings) -> Probe {
        let stepped = std::mem::replace(&mut self.steps, readings.steps) != readings.steps && self.sequence > 0;
        let flags = flags
            | if self.lateness.is_some() { flag::CORRECTION_VALID } else { 0 }
            | if self.answers.is_some() { flag::REFLECT } else { 0 }
            | if stepped { flag::CLOCK_STEPPED } else { 0 };
        Probe {
            sequence: self.sequence,
            sent: now.wall,
            error_estimate: readings.error_estimate,
            ssid: Probe::ssid_of(self.form.test_id),
            flags,
            flow: u8::try_from(flow).unwrap_or(u8::MAX),
            key_id: 0,
            test_id: self.form.test_id,
            epoch: self.epoch,
            send_every: self.schedule.every(),
            unsent: self.unsent,
            clock_error: u32::try_from(readings.clock.error.as_nanos()).unwrap_or(u32::MAX),
            previous_lateness: self.lateness.unwrap_or(0),
        }
    }

    /// Records that the probe was sent, `lateness` after its timestamp.
    pub fn on_sent(&mut self, lateness: Duration) {
        self.lateness = i32::try_from(lateness.as_nanos()).ok();
        self.counts.sent += 1;
    }

    /// Records that the operating system refused the probe that was written last. The number stays used, because the
    /// receiver derives a probe's flow from its number; the probes that follow carry the count of such numbers.
    pub fn on_refused(&mut self, cause: String, now: Now) {
        if self.form.wire == Wire::Stamp {
            self.unsent = self.unsent.wrapping_add(1);
        }
        self.on_error(cause, now);
    }

    /// Records a local send error: the operating system refused the probe, or the key to sign it is missing.
    pub fn on_error(&mut self, cause: String, now: Now) {
        self.lateness = None;
        self.counts.errors += 1;
        self.health.on_error(cause, now);
    }

    /// Records an ICMP error that was received for a probe.
    pub fn on_path_error(&mut self, cause: String, now: Now) {
        self.counts.errors += 1;
        self.health.on_path_error(cause, now);
    }

    /// Evaluates a reply. Rejects it unless it matches a recent probe and carries the signature that the test
    /// requires.
    pub fn on_answer(
        &mut self,
        reply: &Reply,
        octets: &[u8],
        received: Now,
        local: ClockQuality,
        keys: &KeyRing,
        changes: &mut Vec<ConditionChange>,
    ) -> Result<(), ReplyRejected> {
        let answers = self.answers.as_mut().ok_or(ReplyRejected::Unexpected)?;
        let Outstanding { sequence, unsent, sent } =
            answers.outstanding[reply.sequence as usize % answers.outstanding.len()];
        // The packet's timestamps have a resolution of 2^-32 s, so that only their encoded forms can be compared.
        if sequence != reply.sequence || sent.to_ntp() != reply.sent.to_ntp() {
            return Err(ReplyRejected::Unmatched);
        }
        if let Some(choice) = &self.plan.keys {
            // The active key may have changed since the probe was sent, so any key that the test accepts is valid.
            let id = octets.get(KEY_ID).copied().unwrap_or(0);
            let key = keys.accepted(choice, id).ok_or(ReplyRejected::Unsigned)?;
            if !Reply::is_signed(octets, key) {
                return Err(ReplyRejected::Unsigned);
            }
        }
        let delays = reply.delays(received.wall, local);
        let incoming = ProbeSample {
            test_id: self.plan.test.id,
            received,
            delay: delays.round_trip,
            directions: Some(delays),
            epoch_and_sequence: Some((self.epoch, sequence)),
            unsent,
            send_every: self.plan.send_every,
            sent,
            source_port: 0,
            is_trusted: true,
            clock_was_set: answers.is_before_step(sequence),
            stops: false,
            stepped: false,
            ttl: Some(reply.ttl).filter(|ttl| *ttl > 0),
            dscp: None,
            dropped: 0,
        };
        answers.session.on_probe(&incoming, changes);
        Ok(())
    }

    /// Handles the receiver's announcement that it stops. It is accepted with a key of the test, or, for an unsigned
    /// test, from the destination address. Announcements that are not newer than the last one are replays and are
    /// ignored.
    pub fn on_stop_announced(&mut self, from: SocketAddr, signed_with: Option<u8>, sent: WallTime, now: Now) {
        let is_believed = match &self.plan.keys {
            Some(choice) => signed_with.is_some_and(|id| choice.accepts(id)),
            None => from == self.plan.destination,
        };
        if is_believed && sent > self.stop_announced {
            self.stop_announced = sent;
            self.health.on_announced_stop(now.moment + self.plan.max_pause);
        }
    }

    /// Handles a step of the local wall clock.
    pub fn on_clock_step(&mut self, now: Now) {
        if let Some(answers) = &mut self.answers {
            answers.session.on_clock_step(now);
            // A reply that is under way counts as received; its delay is not evaluated.
            answers.stepped_at = Some(self.sequence);
        }
    }

    /// Handles a suspension of this process: missing replies during it prove nothing about the network.
    pub fn on_suspension(&mut self, now: Now) {
        if let Some(answers) = &mut self.answers {
            answers.session.on_suspension(now);
        }
    }

    /// Returns the current state of all conditions of this sender.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        let answers = self.answers.iter().flat_map(|answers| answers.session.report(now));
        self.health.report(now).into_iter().chain(answers).collect()
    }

    /// Returns the evaluation of whether probes can leave.
    pub fn health(&self) -> &SenderHealth {
        &self.health
    }

    /// Returns the send counters.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the receive session of the replies, if replies are expected.
    pub fn answers(&self) -> Option<&ReceiveSession> {
        self.answers.as_ref().map(|answers| &answers.session)
    }
}

impl Replies {
    fn new(expected: &SessionPlan, plan: &SenderPlan, now: Now) -> Box<Self> {
        let (session, outstanding) = (ReceiveSession::new(expected.clone(), now), Self::room(plan));
        Box::new(Replies { session, outstanding, stepped_at: None })
    }

    /// Returns whether a probe left before the last step of the local wall clock.
    fn is_before_step(&self, sequence: u32) -> bool {
        // Serial number arithmetic (RFC 1982), since the counter wraps.
        self.stepped_at.is_some_and(|stepped_at| (sequence.wrapping_sub(stepped_at) as i32) < 0)
    }

    /// Allocates space for all probes whose replies may be in transit. The length is a power of two, so that indexing
    /// by sequence number remains consistent when the number wraps.
    fn room(plan: &SenderPlan) -> Vec<Outstanding> {
        let turns = LONGEST_ROUND_TRIP.as_nanos() / plan.send_every.as_nanos().max(1) + 2;
        let probes = usize::try_from(turns).unwrap_or(usize::MAX).saturating_mul(plan.flows.count());
        let room = probes.clamp(*OUTSTANDING.start(), *OUTSTANDING.end()).next_power_of_two();
        // The initial value matches no reply, since no probe was sent before 1970.
        vec![Outstanding { sequence: u32::MAX, unsent: 0, sent: WallTime::ZERO }; room]
    }
}

/// Returns the length of a probe of this size. Size 0 means the minimum length without padding.
fn padded(size: usize, is_signed: bool) -> usize {
    match (size, is_signed) {
        (0, false) => PROBE_LEN,
        (0, true) => SIGNED_LEN,
        _ => size.clamp(*PADDED_LEN.start(), *PADDED_LEN.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::change::Verdict;
    use crate::pure::clock::error_estimate::DelayLimits;
    use crate::pure::judge::session::Criteria;
    use crate::pure::measure::loss_window::LossLimits;
    use crate::pure::stamp::flows::CodePoints;
    use crate::pure::test::role::Role;
    use crate::pure::test::spec::Mode;

    fn plan() -> Arc<SenderPlan> {
        let test = Arc::new(TestFacts::example(TestId::from_bytes([7; 16])));
        let address = SocketAddr::from(([127, 0, 0, 1], 8620));
        Arc::new(SenderPlan {
            test,
            source: Source { address, interface: None },
            source_address: None,
            destination: address,
            send_every: Duration::from_secs(1),
            thresholds: Thresholds::in_a_row(3, 3),
            startup_grace: Duration::ZERO,
            max_pause: Duration::ZERO,
            wire: Wire::Stamp,
            flows: Flows { ports: 2, dscp: CodePoints::of(&[0]), size: None },
            keys: None,
            answers: None,
        })
    }

    #[test]
    fn probes_after_a_refused_one_carry_the_count_of_refused_ones() {
        let now = Now { moment: Moment::new(Duration::from_secs(1)), wall: WallTime::from_unix_nanos(1) };
        let mut sending = SessionSender::new(plan(), now, 1);
        let readings = Readings {
            clock: ClockQuality::UNKNOWN,
            error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
            config_version: 0,
            steps: 0,
        };
        let (keys, mut room) = (KeyRing::default(), [0; *PADDED_LEN.end()]);
        let mut written = |sending: &mut SessionSender, flow| {
            let len = sending.write(flow, 0, now, &readings, &keys, &mut room).unwrap();
            let probe = Probe::decode(&room[..len]).unwrap();
            (probe.sequence, probe.flow, probe.unsent)
        };
        assert_eq!(written(&mut sending, 0), (0, 0, 0));
        sending.on_sent(Duration::ZERO);
        assert_eq!(written(&mut sending, 1), (1, 1, 0));
        sending.on_refused("message too long".to_owned(), now);
        assert_eq!(written(&mut sending, 0), (2, 0, 1));
        sending.on_refused("message too long".to_owned(), now);
        assert_eq!(written(&mut sending, 1), (3, 1, 2));
    }

    fn at(seconds: u64) -> Now {
        let wall = WallTime::from_unix_nanos((1_000_000 + seconds) * 1_000_000_000);
        Now { moment: Moment::new(Duration::from_secs(seconds)), wall }
    }

    /// Returns a sender whose receiver may pause for a minute.
    fn pausing(keys: Option<KeyChoice>) -> SessionSender {
        let plan = SenderPlan { max_pause: Duration::from_secs(60), keys, ..plan().as_ref().clone() };
        SessionSender::new(Arc::new(plan), at(0), 1)
    }

    /// Returns the seconds at which the sender alarm is raised, with a path error in each second.
    fn raised(sending: &mut SessionSender, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut raised = Vec::new();
        for second in seconds {
            let mut changes = Vec::new();
            sending.on_path_error("port unreachable".to_owned(), at(second));
            sending.on_slot(at(second), &mut changes);
            raised.extend(changes.iter().filter(|change| change.verdict != Verdict::Cleared).map(|_| second));
        }
        raised
    }

    #[test]
    fn stop_announcement_of_the_receiver_forgives_path_errors_for_max_pause() {
        let elsewhere = SocketAddr::from(([127, 0, 0, 9], 8620));
        let one_key = || Some(KeyChoice::These([1].into()));
        for (keys, from, signed_with) in [(None, plan().destination, None), (one_key(), elsewhere, Some(1))] {
            let mut sending = pausing(keys);
            sending.on_stop_announced(from, signed_with, at(10).wall, at(10));
            assert_eq!(raised(&mut sending, 10..100), [72]);
        }
    }

    #[test]
    fn forged_stop_announcement_forgives_nothing() {
        let elsewhere = SocketAddr::from(([127, 0, 0, 9], 8620));
        let one_key = || Some(KeyChoice::These([1].into()));
        let forged =
            [(None, elsewhere, None), (one_key(), plan().destination, None), (one_key(), plan().destination, Some(2))];
        for (keys, from, signed_with) in forged {
            let mut sending = pausing(keys);
            sending.on_stop_announced(from, signed_with, at(10).wall, at(10));
            assert_eq!(raised(&mut sending, 10..100), [12]);
        }
    }

    #[test]
    fn replayed_stop_announcement_does_not_extend_the_pause() {
        let mut sending = pausing(None);
        for second in [10, 30, 60] {
            sending.on_stop_announced(plan().destination, None, at(10).wall, at(second));
        }
        assert_eq!(raised(&mut sending, 60..100), [72]);
    }

    /// Returns a sender that judges replies by a round trip of one second at most.
    fn answered() -> SessionSender {
        let second = Duration::from_secs(1);
        let criteria = Arc::new(Criteria {
            role: Role::Sender,
            mode: Mode::TwoWay,
            expect_every: second,
            has_timeout: true,
            thresholds: Thresholds::in_a_row(3, 3),
            limits: DelayLimits { max_latency: Some(second), clear_latency: second, egregious_latency: second * 60 },
            max_each_way: None,
            max_above_baseline: None,
            loss: LossLimits { max_loss_ppm: None, max_jitter: None, loss_window: second },
            flows: Flows::default(),
            keys: None,
            startup_grace: second,
            max_pause: second,
        });
        let test = plan().test.clone();
        let answers = SessionPlan { test, from_address: None, any_of: None, criteria };
        let plan = SenderPlan { flows: Flows::default(), answers: Some(Arc::new(answers)), ..plan().as_ref().clone() };
        SessionSender::new(Arc::new(plan), at(0), 1)
    }

    /// Returns the reply to a probe that was sent at 10 s.
    fn reply(sequence: u32) -> Reply {
        Reply {
            sequence,
            sent: at(10).wall,
            received: at(10).wall,
            reflected: at(10).wall,
            quality: ClockQuality::UNKNOWN,
            ttl: 0,
            test_id: None,
            is_ptp: false,
        }
    }

    #[test]
    fn reply_in_transit_over_a_clock_step_counts_but_its_delay_is_not_judged() {
        let mut sending = answered();
        let error_estimate = ErrorEstimate::encode(ClockQuality::UNKNOWN);
        let readings = Readings { clock: ClockQuality::UNKNOWN, error_estimate, config_version: 0, steps: 0 };
        let (keys, mut changes) = (KeyRing::default(), Vec::new());
        for sequence in 0..2 {
            sending.write(0, 0, at(10), &readings, &keys, &mut [0; *PADDED_LEN.end()]).unwrap();
            // The first reply is in transit while the clock is set forward by ten seconds, the second is not.
            let back = Now { moment: at(10).moment, wall: at(20).wall };
            if sequence == 0 {
                sending.on_clock_step(back);
            }
            sending.on_answer(&reply(sequence), &[], back, ClockQuality::UNKNOWN, &keys, &mut changes).unwrap();
            let session = sending.answers().unwrap();
            assert_eq!(session.counters().received, u64::from(sequence) + 1);
            assert_eq!(session.last_delay().is_some(), sequence > 0);
        }
    }
}
