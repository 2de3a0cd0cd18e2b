//! Sequence tracking: which probes of a test's senders are new, which are duplicates, and how many are missing.
//!
//! [`Streams`] keeps one sequence window for each sender, survives restarts and rollbacks of the sender, and rejects
//! replays of signed probes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Incoming;
use crate::pure::sequence_window::{Arrival, SequenceWindow};
use crate::pure::test::TestId;
use crate::pure::time::{Moment, Now, WallTime, saturating_nanos};

/// Sequence tracker of one test, with the state of each of its senders.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// State of the only sender, which is the case for nearly all tests.
    own: Option<Stream>,
    /// State of each of several senders, of which a probe from any one suffices.
    #[expect(clippy::box_collection, reason = "two words less in every test")]
    many: Option<Box<BTreeMap<TestId, Stream>>>,
}

#[derive(Clone, Debug)]
struct Stream {
    epoch: u64,
    /// Moment at which the sender's last probe was accepted.
    last: Moment,
    /// Latest send time of all accepted probes, by the sender's clock.
    sent: WallTime,
    /// True if the last probe announced that its sender stops on purpose.
    stopped: bool,
    /// True if this process could not receive before the next probe, so that numbers missing there are no loss.
    was_unheard: bool,
    window: SequenceWindow,
    /// The newest probe's count of sequence numbers whose probes never left.
    unsent: u32,
}

/// Position of a probe in the sequence of its sender's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
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
pub struct Terms<'a> {
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

impl Streams {
    /// Removes the state of senders that are no longer among the permitted ones.
    pub fn retain(&mut self, any_of: Option<&BTreeSet<TestId>>) {
        if let Some(many) = &mut self.many {
            many.retain(|id, _| any_of.is_some_and(|any_of| any_of.contains(id)));
        }
    }

    /// Returns whether every sender has announced its stop. With several senders, the stop of one does not pause the
    /// test.
    pub fn all_stopped(&self) -> bool {
        self.many.iter().flat_map(|many| many.values()).all(|stream| stream.stopped)
    }

    /// Returns the epoch and the newest sequence number of each sender; `own` is the test id of an only sender.
    pub fn newest(&self, own: TestId) -> impl Iterator<Item = (TestId, (u64, u32))> {
        let all = self.own.iter().map(move |stream| (own, stream));
        let all = all.chain(self.many.iter().flat_map(|many| many.iter()).map(|(id, stream)| (*id, stream)));
        all.filter_map(|(id, stream)| Some((id, (stream.epoch, stream.window.newest()?))))
    }

    /// Restores the newest sequence numbers recorded by an earlier process, so that those and older ones are rejected
    /// as seen.
    pub fn remember(
        &mut self,
        own: TestId,
        any_of: Option<&BTreeSet<TestId>>,
        newest: impl Fn(TestId) -> Option<(u64, u32)>,
        now: Now,
    ) {
        let remembered = |id: TestId| {
            let (epoch, newest) = newest(id)?;
            let window = SequenceWindow::all_seen(newest);
            // A replayed probe was sent before this process began, so `now` is a safe bound of its send time.
            Some(Stream {
                epoch,
                window,
                last: now.moment,
                sent: now.wall,
                stopped: false,
                was_unheard: true,
                unsent: 0,
            })
        };
        match any_of {
            None => self.own = remembered(own),
            Some(any_of) => {
                let all = any_of.iter().filter_map(|id| Some((*id, remembered(*id)?)));
                self.many.get_or_insert_default().extend(all);
            }
        }
    }

    /// Records that this process was suspended: probes missing before the next one are not the network's fault.
    pub fn on_own_stall(&mut self) {
        let many = self.many.iter_mut().flat_map(|many| many.values_mut());
        self.own.iter_mut().chain(many).for_each(|stream| stream.was_unheard = true);
    }

    /// Discards the recorded sequence numbers when signing becomes mandatory, since unsigned probes must not restrict
    /// signed ones.
    pub fn forget_unsigned(&mut self) {
        *self = Streams::default();
    }

    /// Classifies a probe by its epoch and sequence number, and records it if it is accepted.
    pub fn admit(&mut self, incoming: &Incoming, terms: Terms<'_>) -> Place {
        let Some((epoch, sequence)) = incoming.order else { return Place::First };
        let now = incoming.received.moment;
        let stream = match terms.any_of {
            None => self.own.as_mut(),
            Some(_) => self.many.as_mut().and_then(|many| many.get_mut(&incoming.test_id)),
        };
        let fallen_silent =
            stream.as_ref().is_none_or(|stream| now.since(stream.last) > terms.expect_every) && !terms.keyed;
        let stream = match stream {
            Some(stream) if stream.epoch == epoch => stream,
            // A sender whose clock was set back, or whose state was lost, begins an older epoch. That epoch is accepted
            // once no probe of the newer one has arrived for longer than `expect_every`.
            Some(stream) if stream.epoch > epoch && !fallen_silent => return Place::StaleEpoch,
            Some(_) | None => {
                let mut window = SequenceWindow::default();
                window.on_sequence(sequence);
                let (stopped, sent) = (incoming.stops, incoming.sent);
                let begun =
                    Stream { epoch, window, last: now, sent, stopped, was_unheard: false, unsent: incoming.unsent };
                match terms.any_of {
                    None => self.own = Some(begun),
                    Some(_) => {
                        self.many.get_or_insert_default().insert(incoming.test_id, begun);
                    }
                }
                return Place::First;
            }
        };
        let before = stream.window.newest();
        let is_later = incoming.sent > stream.sent;
        match stream.window.on_sequence(sequence) {
            Arrival::InOrder => {
                let unsent = incoming.unsent.wrapping_sub(std::mem::replace(&mut stream.unsent, incoming.unsent));
                let missing = sequence.wrapping_sub(before.unwrap_or(sequence)).saturating_sub(1);
                let missing = missing.saturating_sub(unsent);
                let most = sent_within(now.since(stream.last), incoming.send_every, terms.flows);
                (stream.last, stream.stopped) = (now, incoming.stops);
                stream.sent = stream.sent.max(incoming.sent);
                if std::mem::take(&mut stream.was_unheard) {
                    return Place::First;
                }
                // With several senders, probes of each may have been sent elsewhere meanwhile, so none counts as
                // missing.
                Place::Newer(if terms.any_of.is_some() { 0 } else { missing.min(most) })
            }
            Arrival::Reordered => {
                stream.last = now;
                Place::Behind(before.unwrap_or(sequence).wrapping_sub(sequence))
            }
            // A sender restored to an earlier state, as a virtual machine can be, reuses old sequence numbers. Such a
            // probe was sent later than all accepted ones, which is never true of a replay.
            Arrival::Duplicate | Arrival::TooOld if is_later => stream.begin_again(sequence, incoming),
            Arrival::Duplicate => Place::Duplicate,
            // A restored machine whose clock was set back too is accepted after a gap, unless probes are signed.
            Arrival::TooOld if fallen_silent => stream.begin_again(sequence, incoming),
            Arrival::TooOld => Place::TooOld,
        }
    }
}

impl Stream {
    fn begin_again(&mut self, sequence: u32, incoming: &Incoming) -> Place {
        self.window = SequenceWindow::default();
        self.window.on_sequence(sequence);
        (self.last, self.sent, self.stopped) = (incoming.received.moment, incoming.sent, incoming.stops);
        self.unsent = incoming.unsent;
        Place::First
    }
}

/// Returns the maximum number of probes that a sender can have sent within a time. A sequence number further ahead is
/// forged or faulty, and the numbers before it must not count as lost.
pub fn sent_within(time: Duration, send_every: Duration, flows: u32) -> u32 {
    let turns = saturating_nanos(time) / saturating_nanos(send_every).max(1);
    u32::try_from(turns).unwrap_or(u32::MAX).saturating_add(SLACK).saturating_mul(flows.max(1))
}
