//! What the sequence numbers of a test's senders say: which probes are new, which came before, and
//! how many are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Incoming;
use crate::pure::sequence_window::{Arrival, SequenceWindow};
use crate::pure::test::TestId;
use crate::pure::time::{Moment, Now, WallTime, saturating_nanos};

/// What each sender's probes say of their order.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// That of the only sender, as nearly all tests have it.
    own: Option<Stream>,
    /// Of many senders, of which any is enough.
    #[expect(clippy::box_collection, reason = "two words less in every test")]
    many: Option<Box<BTreeMap<TestId, Stream>>>,
}

#[derive(Clone, Debug)]
struct Stream {
    epoch: u64,
    /// When its last probe was accepted.
    last: Moment,
    /// The latest send time of all that were accepted, by the sender's clock.
    sent: WallTime,
    /// It announced its stop.
    stopped: bool,
    /// Nobody was here to take what came before the next probe.
    was_unheard: bool,
    window: SequenceWindow,
    /// The newest probe's count of sequence numbers whose probes never left.
    unsent: u32,
}

/// What a probe is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first of an epoch, or of a sender that says nothing of its order.
    First,
    /// Newer than all before it; so many right before it are missing.
    Newer(u32),
    /// Behind the newest by so many, not seen before.
    Behind(u32),
    /// Seen before.
    Duplicate,
    /// Too far behind the newest.
    TooOld,
    /// From an earlier start of the sender.
    StaleEpoch,
}

/// Who may be a sender, and how strictly it is taken at its word.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The tests of which any probe is enough; nothing: the test's own.
    pub any_of: Option<&'a BTreeSet<TestId>>,
    /// A sender that was silent for longer may have lost its state.
    pub expect_every: Duration,
    /// Signed probes: what is old is a replay, however long nothing came.
    pub keyed: bool,
    /// Probes in each turn of the sender.
    pub flows: u32,
}

/// Beyond what the sender can have sent meanwhile, so many missing numbers are believed.
const SLACK: u32 = 4;

impl Streams {
    /// Only these still count.
    pub fn retain(&mut self, any_of: Option<&BTreeSet<TestId>>) {
        if let Some(many) = &mut self.many {
            many.retain(|id, _| any_of.is_some_and(|any_of| any_of.contains(id)));
        }
    }

    /// One of many senders that stops says nothing of the others.
    pub fn all_stopped(&self) -> bool {
        self.many.iter().flat_map(|many| many.values()).all(|stream| stream.stopped)
    }

    /// The epoch and the newest sequence number of each sender. That of the only one is `own`.
    pub fn newest(&self, own: TestId) -> impl Iterator<Item = (TestId, (u64, u32))> {
        let all = self.own.iter().map(move |stream| (own, stream));
        let all = all.chain(self.many.iter().flat_map(|many| many.iter()).map(|(id, stream)| (*id, stream)));
        all.filter_map(|(id, stream)| Some((id, (stream.epoch, stream.window.newest()?))))
    }

    /// What is older than what `newest` says, or this itself, was taken before this process began.
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
            // A replay was sent before this process began.
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

    /// This process slept: what is missing from the next probe on backwards is not the network's fault.
    pub fn on_own_stall(&mut self) {
        let many = self.many.iter_mut().flat_map(|many| many.values_mut());
        self.own.iter_mut().chain(many).for_each(|stream| stream.was_unheard = true);
    }

    /// From now on probes have to be signed: what unsigned ones said of the order does not count.
    pub fn forget_unsigned(&mut self) {
        *self = Streams::default();
    }

    /// Where a probe stands.
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
            // A sender whose clock was set back, or whose state was lost, begins an older epoch: it
            // is taken once the newer one has fallen silent.
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
                // One of many senders may have been sent elsewhere meanwhile.
                Place::Newer(if terms.any_of.is_some() { 0 } else { missing.min(most) })
            }
            Arrival::Reordered => {
                stream.last = now;
                Place::Behind(before.unwrap_or(sequence).wrapping_sub(sequence))
            }
            // A sender that was set back to an earlier state of itself, as a virtual machine can be: the number was
            // used before, but it was sent later than all that were accepted, which no replay was.
            Arrival::Duplicate | Arrival::TooOld if is_later => stream.begin_again(sequence, incoming),
            Arrival::Duplicate => Place::Duplicate,
            // A restored machine whose clock was set back too.
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

/// What a sender can have sent in a time. A number far ahead is a stranger's, or a fault's.
pub fn sent_within(time: Duration, send_every: Duration, flows: u32) -> u32 {
    let turns = saturating_nanos(time) / saturating_nanos(send_every).max(1);
    u32::try_from(turns).unwrap_or(u32::MAX).saturating_add(SLACK).saturating_mul(flows.max(1))
}
