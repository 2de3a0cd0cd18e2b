//! Sequence tracking: which probes of a test's senders are new, which are duplicates, and how many are missing.
//!
//! [`SequenceTracker`] keeps one sequence window for each sender, survives restarts and rollbacks of the sender, and
//! rejects replays of signed probes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ProbeSample;
use crate::pure::base::time::{Moment, Now, WallTime, saturating_nanos};
use crate::pure::stamp::replay_window::{Arrival, ReplayWindow};
use crate::pure::test::id::TestId;

/// Sequence tracker of one test, with the state of each of its senders.
#[derive(Clone, Debug, Default)]
pub struct SequenceTracker {
    /// State of the only sender, which is the case for nearly all tests.
    single: Option<SenderSequence>,
    /// State of each of several senders, of which a probe from any one suffices.
    #[expect(clippy::box_collection, reason = "saves two words in every test")]
    several: Option<Box<BTreeMap<TestId, SenderSequence>>>,
}

#[derive(Clone, Debug)]
struct SenderSequence {
    epoch: u64,
    /// Moment at which the sender's last probe was accepted.
    last: Moment,
    /// Latest send time of all accepted probes, by the sender's clock.
    sent: WallTime,
    /// True if the last probe announced that its sender stops on purpose.
    stopped: bool,
    /// True if this process could not receive before the next probe, so that numbers missing there are no loss.
    gap_is_own: bool,
    window: ReplayWindow,
    /// The newest probe's count of sequence numbers whose probes never left.
    unsent: u32,
}

/// Position of a probe in the sequence of its sender's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequencePosition {
    /// First probe of an epoch, or a probe from a sender without sequence numbers.
    First,
    /// Newer than all previous probes; carries the number of probes missing directly before it.
    Newer(u32),
    /// Reordered: not seen before, and this many sequence numbers behind the newest.
    Behind(u32),
    /// Duplicate of a probe whose sequence number was seen before.
    Duplicate,
    /// Sequence number too far behind the newest one to be distinguished from a replay.
    TooOld,
    /// Probe from an earlier start of the sender, which is outdated by a newer epoch.
    StaleEpoch,
}

/// Rules for accepting a probe: permitted senders, and whether old sequence numbers may ever be accepted again.
#[derive(Clone, Copy, Debug)]
pub struct AcceptanceRules<'a> {
    /// Tests of which a probe from any one suffices; `None` if only the test's own probes count.
    pub any_of: Option<&'a BTreeSet<TestId>>,
    /// Longest expected time without a probe. After a longer gap, the sender may have lost its state.
    pub expect_every: Duration,
    /// True if probes are signed: an old probe is then a replay, however long ago the last probe arrived.
    pub keyed: bool,
    /// Number of probes in each turn of the sender, one for each flow.
    pub flows: u32,
}

/// Number of turns added to those that the sender can have sent meanwhile, as an upper bound of missing probes.
const SLACK: u32 = 4;

impl SequenceTracker {
    /// Removes the state of senders that are no longer among the permitted ones.
    pub fn retain(&mut self, any_of: Option<&BTreeSet<TestId>>) {
        if let Some(many) = &mut self.several {
            many.retain(|id, _| any_of.is_some_and(|any_of| any_of.contains(id)));
        }
    }

    /// Returns whether every sender has announced its stop. With several senders, the stop of one does not pause the
    /// test.
    pub fn all_stopped(&self) -> bool {
        self.several.iter().flat_map(|many| many.values()).all(|stream| stream.stopped)
    }

    /// Returns the epoch and the newest sequence number of each sender; `own` is the test id of an only sender.
    pub fn newest(&self, own: TestId) -> impl Iterator<Item = (TestId, (u64, u32))> {
        let all = self.single.iter().map(move |stream| (own, stream));
        let all = all.chain(self.several.iter().flat_map(|many| many.iter()).map(|(id, stream)| (*id, stream)));
        all.filter_map(|(id, stream)| Some((id, (stream.epoch, stream.window.newest()?))))
    }

    /// Restores the newest sequence numbers recorded by an earlier process, so that those and older ones are rejected
    /// as seen.
    pub fn restore(
        &mut self,
        own: TestId,
        any_of: Option<&BTreeSet<TestId>>,
        newest: impl Fn(TestId) -> Option<(u64, u32)>,
        now: Now,
    ) {
        let remembered = |id: TestId| {
            let (epoch, newest) = newest(id)?;
            let window = ReplayWindow::all_seen(newest);
            // A replayed probe was sent before this process began, so `now` is a safe bound of its send time.
            Some(SenderSequence {
                epoch,
                window,
                last: now.moment,
                sent: now.wall,
                stopped: false,
                gap_is_own: true,
                unsent: 0,
            })
        };
        match any_of {
            None => self.single = remembered(own),
            Some(any_of) => {
                let all = any_of.iter().filter_map(|id| Some((*id, remembered(*id)?)));
                self.several.get_or_insert_default().extend(all);
            }
        }
    }

    /// Records that this process was suspended: probes missing before the next one are not the network's fault.
    pub fn on_suspension(&mut self) {
        let many = self.several.iter_mut().flat_map(|many| many.values_mut());
        self.single.iter_mut().chain(many).for_each(|stream| stream.gap_is_own = true);
    }

    /// Discards the recorded sequence numbers when signing becomes mandatory, since unsigned probes must not restrict
    /// signed ones.
    pub fn forget_unsigned(&mut self) {
        *self = SequenceTracker::default();
    }

    /// Classifies a probe by its epoch and sequence number, and records it if it is accepted.
    pub fn classify(&mut self, incoming: &ProbeSample, rules: AcceptanceRules<'_>) -> SequencePosition {
        let Some((epoch, sequence)) = incoming.epoch_and_sequence else { return SequencePosition::First };
        let now = incoming.received.moment;
        let stream = match rules.any_of {
            None => self.single.as_mut(),
            Some(_) => self.several.as_mut().and_then(|many| many.get_mut(&incoming.test_id)),
        };
        let has_timed_out =
            stream.as_ref().is_none_or(|stream| now.since(stream.last) > rules.expect_every) && !rules.keyed;
        let stream = match stream {
            Some(stream) if stream.epoch == epoch => stream,
            // A sender whose clock was set back, or whose state was lost, begins an older epoch. That epoch is accepted
            // once no probe of the newer one has arrived for longer than `expect_every`.
            Some(stream) if stream.epoch > epoch && !has_timed_out => return SequencePosition::StaleEpoch,
            Some(_) | None => {
                let mut window = ReplayWindow::default();
                window.on_sequence(sequence);
                let (stopped, sent) = (incoming.stops, incoming.sent);
                let begun = SenderSequence {
                    epoch,
                    window,
                    last: now,
                    sent,
                    stopped,
                    gap_is_own: false,
                    unsent: incoming.unsent,
                };
                match rules.any_of {
                    None => self.single = Some(begun),
                    Some(_) => {
                        self.several.get_or_insert_default().insert(incoming.test_id, begun);
                    }
                }
                return SequencePosition::First;
            }
        };
        let before = stream.window.newest();
        let is_later = incoming.sent > stream.sent;
        match stream.window.on_sequence(sequence) {
            Arrival::InOrder => {
                let unsent = incoming.unsent.wrapping_sub(std::mem::replace(&mut stream.unsent, incoming.unsent));
                let missing = sequence.wrapping_sub(before.unwrap_or(sequence)).saturating_sub(1);
                let missing = missing.saturating_sub(unsent);
                let most = sent_within(now.since(stream.last), incoming.send_every, rules.flows);
                (stream.last, stream.stopped) = (now, incoming.stops);
                stream.sent = stream.sent.max(incoming.sent);
                if std::mem::take(&mut stream.gap_is_own) {
                    return SequencePosition::First;
                }
                // With several senders, probes of each may have been sent elsewhere meanwhile, so none counts as
                // missing.
                SequencePosition::Newer(if rules.any_of.is_some() { 0 } else { missing.min(most) })
            }
            Arrival::Reordered => {
                stream.last = now;
                SequencePosition::Behind(before.unwrap_or(sequence).wrapping_sub(sequence))
            }
            // A sender restored to an earlier state, as a virtual machine can be, reuses old sequence numbers. Such a
            // probe was sent later than all accepted ones, which is never true of a replay.
            Arrival::Duplicate | Arrival::TooOld if is_later => stream.begin_again(sequence, incoming),
            Arrival::Duplicate => SequencePosition::Duplicate,
            // A restored machine whose clock was set back too is accepted after a gap, unless probes are signed.
            Arrival::TooOld if has_timed_out => stream.begin_again(sequence, incoming),
            Arrival::TooOld => SequencePosition::TooOld,
        }
    }
}

impl SenderSequence {
    fn begin_again(&mut self, sequence: u32, incoming: &ProbeSample) -> SequencePosition {
        self.window = ReplayWindow::default();
        self.window.on_sequence(sequence);
        (self.last, self.sent, self.stopped) = (incoming.received.moment, incoming.sent, incoming.stops);
        self.unsent = incoming.unsent;
        SequencePosition::First
    }
}

/// Returns the maximum number of probes that a sender can have sent within a time. A sequence number further ahead is
/// forged or faulty, and the numbers before it must not count as lost.
pub fn sent_within(time: Duration, send_every: Duration, flows: u32) -> u32 {
    let turns = saturating_nanos(time) / saturating_nanos(send_every).max(1);
    u32::try_from(turns).unwrap_or(u32::MAX).saturating_add(SLACK).saturating_mul(flows.max(1))
}
