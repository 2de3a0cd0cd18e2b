//! One test at its sender: when its probes leave, what is in them, and what comes back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::alarm::ConditionChange;
use super::clock_error::{ClockQuality, ErrorEstimate};
use super::condition::Thresholds;
use super::expectation::{Expectation, Expected, Incoming};
use super::flows::Flows;
use super::key::{KeyChoice, KeyRing};
use super::pace;
use super::probe::{KEY_ID, PADDED_LEN, PROBE_LEN, Probe, SIGNED_LEN, flag};
use super::probe_v1::ProbeV1;
use super::reflection::Reply;
use super::schedule::Schedule;
use super::sender_health::SenderHealth;
use super::test::{TestFacts, TestId, Wire};
use super::time::{Moment, Now, WallTime};

/// One test that starts on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderPlan {
    /// The test.
    pub test: Arc<TestFacts>,
    /// Where its probes leave from, beside those of others.
    pub source: Source,
    /// The address that its probes carry as their source, if the source's own does not say it.
    pub source_address: Option<IpAddr>,
    /// Where they go.
    pub destination: SocketAddr,
    /// How often.
    pub send_every: Duration,
    /// How many errors decide.
    pub thresholds: Thresholds,
    /// What the path says is forgiven for so long: the other end may hear of the test later.
    pub startup_grace: Duration,
    /// Time for which path errors are ignored after the receiver announced its stop.
    pub max_pause: Duration,
    /// Which probe.
    pub wire: Wire,
    /// In which kinds.
    pub flows: Flows,
    /// The keys that its probes are signed with, if they are.
    pub keys: Option<KeyChoice>,
    /// What is expected to come back, if anything is.
    pub answers: Option<Arc<Expected>>,
}

/// Where probes of several tests leave from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Its own, a listener's or a wildcard's.
    pub address: SocketAddr,
    /// The network interface that they leave by, whatever the routes say.
    pub interface: Option<String>,
}

/// What a probe says of its sender's host.
#[derive(Clone, Copy, Debug)]
pub struct Readings {
    /// The local clock.
    pub clock: ClockQuality,
    /// The same, as probes carry it.
    pub error_estimate: ErrorEstimate,
    /// The fleet's document's version; the original's probes carry it.
    pub config_version: i64,
    /// How often the wall's clock stepped.
    pub steps: u32,
}

/// How exactly slots are kept. Few tests that share their wake-ups cost much less; very many would make
/// bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Nearly as timers can.
    Fine,
    /// To a part of the test's interval. Its probes keep their distance.
    Coarse,
}

const FINEST: Duration = Duration::from_millis(1);
const FINE: Duration = Duration::from_millis(4);
const PARTS: u32 = 5;

/// Room for the longest probe.
pub type Room = [u8; *PADDED_LEN.end()];

/// What a probe needs of a plan, which lies elsewhere in memory.
#[derive(Clone, Debug)]
pub struct Form {
    /// The test.
    test_id: TestId,
    /// Where it goes.
    pub destination: SocketAddr,
    /// The address that it carries as its source, if the socket's own does not say it.
    pub source_address: Option<IpAddr>,
    /// In which kinds.
    pub flows: Flows,
    keys: Option<KeyChoice>,
    wire: Wire,
}

impl From<&SenderPlan> for Form {
    fn from(plan: &SenderPlan) -> Self {
        Form {
            test_id: plan.test.id,
            destination: plan.destination,
            source_address: plan.source_address,
            flows: plan.flows,
            keys: plan.keys.clone(),
            wire: plan.wire,
        }
    }
}

/// The state of one test at its sender. Of very many tests, each one's is fetched from memory at its turn: what
/// a turn needs lies together, see `HOT`.
#[derive(Debug)]
#[repr(C)]
pub struct Sending {
    /// Tells the entry in the pacer's calendar that counts from those of before.
    turn: u32,
    sequence: u32,
    epoch: u64,
    /// Sequence numbers of this epoch whose probes never left.
    unsent: u32,
    schedule: Schedule,
    /// The slot that is armed, or has just passed.
    slot: Option<Moment>,
    /// How late the last probe left after its time stamp, in nanoseconds.
    lateness: Option<i32>,
    steps: u32,
    is_withdrawn: bool,
    form: Form,
    answers: Option<Box<Answers>>,
    counts: Counts,
    health: SenderHealth,
    plan: Arc<SenderPlan>,
    /// When the receiver's last announcement of its stop was sent.
    farewell: WallTime,
}

/// What left so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Probes that left.
    pub sent: u64,
    /// Probes that could not leave, or that an ICMP error came back for.
    pub errors: u64,
    /// Slots that were missed.
    pub skipped: u64,
    /// How late slots began, together, in nanoseconds.
    pub lateness_nanos: u64,
}

/// What comes back of a test.
#[derive(Debug)]
struct Answers {
    expectation: Expectation,
    /// The last probes: an answer must be the answer to one of them.
    outstanding: Vec<Outstanding>,
    /// The first number that was sent after the wall clock here was set last.
    stepped_at: Option<u32>,
}

/// A probe whose answer may be under way.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    sequence: u32,
    /// The count of probes that never left, as the probe carried it.
    unsent: u32,
    sent: WallTime,
}

/// Answers to so many probes at least are waited for, and to no more than so many.
const OUTSTANDING: std::ops::RangeInclusive<usize> = 64..=8192;
/// A round trip takes no longer than this, or a few turns.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// Why an answer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Nothing is expected to come back.
    Unexpected,
    /// It is not of a probe that was sent lately.
    Unasked,
    /// It is not signed as it should be.
    Unsigned,
}

impl Sending {
    /// The first octets of the state, which is all that a turn needs as long as all is well.
    pub const HOT: usize = std::mem::offset_of!(Sending, health) + 1;

    /// From now on.
    pub fn new(plan: Arc<SenderPlan>, now: Now, epoch: u64) -> Self {
        Sending {
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
            answers: plan.answers.as_deref().map(|expected| Answers::new(expected, &plan, now)),
            form: Form::from(plan.as_ref()),
            plan,
            farewell: WallTime::ZERO,
        }
    }

    /// What each of its probes needs.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// What is sent.
    pub fn plan(&self) -> &Arc<SenderPlan> {
        &self.plan
    }

    /// Another plan of the same test, which has to be enrolled anew. Where its numbers mean something else
    /// from now on, `epoch` begins. `changes` takes what that means
    /// for its alarms.
    pub fn on_plan(&mut self, plan: Arc<SenderPlan>, epoch: u64, now: Now, changes: &mut Vec<ConditionChange>) {
        if plan.destination != self.plan.destination {
            let until = now.moment + plan.startup_grace;
            changes.extend(self.health.on_moved(plan.destination, until, now));
        }
        if plan.send_every != self.plan.send_every {
            self.slot = None;
        }
        if plan.flows != self.plan.flows {
            // A number tells its flow: they count from the start.
            (self.epoch, self.sequence, self.unsent) = (epoch, 0, 0);
        }
        self.health.on_plan(plan.test.clone(), plan.thresholds);
        self.schedule = Schedule::new(plan.send_every, plan.test.id.as_u128());
        match (&mut self.answers, &plan.answers) {
            (Some(answers), Some(expected)) => {
                answers.expectation.on_expected(expected.as_ref().clone(), now, changes);
                answers.outstanding = Answers::room(&plan);
            }
            (None, Some(expected)) => self.answers = Some(Answers::new(expected, &plan, now)),
            (_, None) => self.answers = None,
        }
        self.form = Form::from(plan.as_ref());
        self.plan = plan;
    }

    /// It is entered into a pacer's calendar; entries of before do not count any more.
    pub fn on_enrolled(&mut self) -> u32 {
        self.turn = self.turn.wrapping_add(1);
        self.is_withdrawn = false;
        self.turn
    }

    /// Its sender is gone: no entry counts any more.
    pub fn withdraw(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.is_withdrawn = true;
    }

    /// Whether its sender is gone.
    pub fn is_withdrawn(&self) -> bool {
        self.is_withdrawn
    }

    /// Whether this entry counts.
    pub fn is_turn(&self, turn: u32) -> bool {
        self.turn == turn
    }

    /// The next slot, at the end of its part of the `grid`. Those that passed meanwhile are counted and
    /// left out.
    pub fn next_slot(&mut self, now: Moment, grid: Grid) -> Moment {
        let coarsest = match grid {
            Grid::Fine => FINE,
            Grid::Coarse => pace::LONGEST,
        };
        let parts = (self.schedule.every() / PARTS).clamp(FINEST, coarsest);
        let next = self.schedule.next_slot(now).rounded_up(parts);
        if let Some(passed) = self.slot.replace(next) {
            self.counts.skipped += self.schedule.slots_between(passed, next).saturating_sub(1);
        }
        next
    }

    /// A slot begins: the probe before this one is judged, and so is what came back.
    pub fn on_slot(&mut self, now: Now, changes: &mut Vec<ConditionChange>) {
        if let Some(slot) = self.slot {
            let late = u64::try_from(now.moment.since(slot).as_nanos()).unwrap_or(u64::MAX);
            self.counts.lateness_nanos = self.counts.lateness_nanos.saturating_add(late);
        }
        changes.extend(self.health.on_slot(now));
        if let Some(answers) = &mut self.answers {
            answers.expectation.on_silence(now, 0, changes);
        }
    }

    /// Writes the next probe, of the given flow, and gives its length.
    pub fn write(
        &mut self,
        flow: usize,
        flags: u8,
        now: Now,
        readings: &Readings,
        keys: &KeyRing,
        room: &mut Room,
    ) -> Option<usize> {
        let key = match &self.form.keys {
            Some(choice) => Some(keys.signing(choice)?),
            None => None,
        };
        if self.form.wire == Wire::JsonV1 {
            let probe = ProbeV1 {
                config_version: readings.config_version,
                sent: now.wall,
                // The original takes only what carries its own name.
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

    /// The probe left so late after its time stamp.
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

    /// Records that no probe left: the operating system refused it, or there is no key to sign it with.
    pub fn on_error(&mut self, cause: String, now: Now) {
        self.lateness = None;
        self.counts.errors += 1;
        self.health.on_error(cause, now);
    }

    /// An ICMP error came back for a probe.
    pub fn on_path_error(&mut self, cause: String, now: Now) {
        self.counts.errors += 1;
        self.health.on_path_error(cause, now);
    }

    /// An answer came.
    pub fn on_answer(
        &mut self,
        reply: &Reply,
        octets: &[u8],
        received: Now,
        local: ClockQuality,
        keys: &KeyRing,
        changes: &mut Vec<ConditionChange>,
    ) -> Result<(), NotTaken> {
        let answers = self.answers.as_mut().ok_or(NotTaken::Unexpected)?;
        let Outstanding { sequence, unsent, sent } =
            answers.outstanding[reply.sequence as usize % answers.outstanding.len()];
        // The wire holds no more than 2^-32 s of a time stamp.
        if sequence != reply.sequence || sent.to_ntp() != reply.sent.to_ntp() {
            return Err(NotTaken::Unasked);
        }
        if let Some(choice) = &self.plan.keys {
            // Another key may have become the active one meanwhile.
            let id = octets.get(KEY_ID).copied().unwrap_or(0);
            let key = keys.taken(choice, id).ok_or(NotTaken::Unsigned)?;
            if !Reply::is_signed(octets, key) {
                return Err(NotTaken::Unsigned);
            }
        }
        let delays = reply.delays(received.wall, local);
        let incoming = Incoming {
            test_id: self.plan.test.id,
            received,
            delay: delays.round_trip,
            directions: Some(delays),
            order: Some((self.epoch, sequence)),
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
        answers.expectation.on_probe(&incoming, changes);
        Ok(())
    }

    /// The receiver announced that it stops. That is believed from the address that probes go to, or with the test's
    /// key; what was announced before is not announced again.
    pub fn on_farewell(&mut self, from: SocketAddr, signed_with: Option<u8>, sent: WallTime, now: Now) {
        let is_believed = match &self.plan.keys {
            Some(choice) => signed_with.is_some_and(|id| choice.takes(id)),
            None => from == self.plan.destination,
        };
        if is_believed && sent > self.farewell {
            self.farewell = sent;
            self.health.on_announced_stop(now.moment + self.plan.max_pause);
        }
    }

    /// The wall's clock here stepped.
    pub fn on_own_step(&mut self, now: Now) {
        if let Some(answers) = &mut self.answers {
            answers.expectation.on_own_step(now);
            // A reply that is under way counts as received; its delay is not evaluated.
            answers.stepped_at = Some(self.sequence);
        }
    }

    /// This agent itself slept: what did not come back meanwhile proves nothing.
    pub fn on_own_stall(&mut self, now: Now) {
        if let Some(answers) = &mut self.answers {
            answers.expectation.on_own_stall(now);
        }
    }

    /// Says everything that is decided once more.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        let answers = self.answers.iter().flat_map(|answers| answers.expectation.report(now));
        self.health.report(now).into_iter().chain(answers).collect()
    }

    /// Whether probes can leave.
    pub fn health(&self) -> &SenderHealth {
        &self.health
    }

    /// What left so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What came back, if anything is expected to.
    pub fn answers(&self) -> Option<&Expectation> {
        self.answers.as_ref().map(|answers| &answers.expectation)
    }
}

impl Answers {
    fn new(expected: &Expected, plan: &SenderPlan, now: Now) -> Box<Self> {
        let (expectation, outstanding) = (Expectation::new(expected.clone(), now), Self::room(plan));
        Box::new(Answers { expectation, outstanding, stepped_at: None })
    }

    /// Returns whether a probe left before the last step of the local wall clock.
    fn is_before_step(&self, sequence: u32) -> bool {
        // Serial number arithmetic (RFC 1982), since the counter wraps.
        self.stepped_at.is_some_and(|stepped_at| (sequence.wrapping_sub(stepped_at) as i32) < 0)
    }

    /// For all probes whose answers may be under way. A power of two, since numbers wrap around.
    fn room(plan: &SenderPlan) -> Vec<Outstanding> {
        let turns = LONGEST_ROUND_TRIP.as_nanos() / plan.send_every.as_nanos().max(1) + 2;
        let probes = usize::try_from(turns).unwrap_or(usize::MAX).saturating_mul(plan.flows.count());
        let room = probes.clamp(*OUTSTANDING.start(), *OUTSTANDING.end()).next_power_of_two();
        // No probe was sent before 1970.
        vec![Outstanding { sequence: u32::MAX, unsent: 0, sent: WallTime::ZERO }; room]
    }
}

/// As much room as a probe of this size needs; the shortest leaves none for padding.
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
    use crate::pure::flows::CodePoints;

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
        let mut sending = Sending::new(plan(), now, 1);
        let readings = Readings {
            clock: ClockQuality::UNKNOWN,
            error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
            config_version: 0,
            steps: 0,
        };
        let (keys, mut room) = (KeyRing::default(), [0; *PADDED_LEN.end()]);
        let mut written = |sending: &mut Sending, flow| {
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
}
