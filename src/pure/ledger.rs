//! What one receiver was told, what it should be told, and when.
//!
//! A key is dirty while the two differ. However often an alarm changes, its receiver gets the
//! current state when the key's hold is over and there is a token for it: never a queue of old ones.
//! An alarm that flaps is told so once; in a storm single alarms wait, and a summary is told.

mod delivery;
mod doubt;
mod entry;
mod flaps;
mod jitter;
mod manner;
mod retry;
mod storm;
mod weather;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use self::doubt::{Doubt, Recollection};
use self::entry::{Entry, Noted, Place, Rank};
pub use self::flaps::FlapSettings;
pub use self::manner::{Assurance, Damping, Detail, FirstUp, Knowledge, Manner, Parting, Scope};
use self::retry::Reachability;
use self::storm::Storm;
pub use self::storm::StormSettings;
use self::weather::STORM_DAMPING;
use super::alarm::{AlarmKey, Kind, Subject};
use super::bucket::Bucket;
use super::notification::{AlarmState, Notification, Standing, Withheld};
use super::possible::Possible;
use super::time::{Moment, Now, WallTime};
use super::truth::{NO_LONGER_WATCHED, retired};

/// A message to send now.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// The agent has started.
    ColdStart,
    /// The current state of an alarm.
    Alarm {
        /// To be told.
        notification: Arc<Notification>,
        /// What the receiver knew of it before.
        occasion: Occasion,
        /// Another alarm that stands, where this one is a clear and receivers of the original would
        /// take it for the clear of both.
        still_raised: Option<Arc<Notification>>,
    },
}

/// What a receiver knows of an alarm when it is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Nothing, from this run of the agent.
    First,
    /// Another state.
    Change,
    /// The same.
    Again,
}

/// One receiver's book.
#[derive(Debug)]
pub struct Ledger {
    agent: String,
    manner: Manner,
    bucket: Bucket,
    cold_start: ColdStart,
    entries: BTreeMap<AlarmKey, Entry>,
    /// When entries want something done.
    agenda: BTreeSet<(Moment, AlarmKey)>,
    /// What can be told at once, in order.
    ready: BTreeSet<(Rank, AlarmKey)>,
    /// Single alarms that wait to be told, held or not.
    waiting: usize,
    storm: Storm,
    reachability: Reachability,
    /// The next attempt is for a message that failed before; fresh and failed messages alternate.
    failed_next: bool,
    /// The alarms that can be, as far as is known.
    valid: Option<(Possible, Knowledge)>,
    /// Alarms of which the receiver may hold a raise that this agent has no record of.
    doubt: Option<Doubt>,
    /// Clears that only dispel the doubt are not sent before.
    dispel_at: Moment,
}

/// Clears that only dispel a doubt are gathered for this long after the start, where one message carries many alarms.
const GATHERED_FOR: Duration = Duration::from_secs(600);

/// The message that the agent has started.
#[derive(Debug)]
struct ColdStart {
    phase: ColdStartPhase,
    /// Failures in a row, when it was tried last, and when it is tried again.
    failures: u32,
    tried_at: Moment,
    retry_at: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColdStartPhase {
    /// Not tried yet: it is sent before anything else.
    Due,
    InFlight,
    /// Tried again at `retry_at`, after all alarms.
    Failed,
    Told,
}

/// A book's numbers for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerCounts {
    /// Alarms that the receiver knows to stand.
    pub told: usize,
    /// Alarms whose told state differs from the true one.
    pub dirty: usize,
    /// Of these, held back by `hold_down`.
    pub held: usize,
    /// Alarms whose last telling nobody acknowledged, and that will be told again.
    pub unconfirmed: usize,
    /// Alarms that are told as flapping.
    pub flapping: usize,
    /// Whether single alarms wait for the end of a storm.
    pub storm: bool,
}

/// What is kept on disk of one alarm whose receiver may know it to stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldRecord {
    /// As it was told last.
    pub notification: Arc<Notification>,
    /// Whether it is not known to have arrived: then it has to be told again, whatever is true.
    pub in_doubt: bool,
}

/// What a receiver knows of one alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToldState {
    /// What it was told last; nothing if nothing.
    pub told: Option<AlarmState>,
    /// A message failed or is on its way, so that it may know better.
    pub in_doubt: bool,
    /// It is to be told something, then at the earliest.
    pub held_until: Option<WallTime>,
    /// Changes that it was not told.
    pub suppressed: u64,
    /// It changes too often to be told each time.
    pub flapping: bool,
}

impl Ledger {
    /// An empty book of this agent's.
    pub fn new(agent: impl Into<String>, manner: Manner, now: Moment) -> Self {
        Ledger {
            agent: agent.into(),
            bucket: Bucket::new(manner.rate, manner.burst, now),
            storm: Storm::new(manner.storm),
            manner,
            cold_start: ColdStart {
                phase: ColdStartPhase::Told,
                failures: 0,
                tried_at: Moment::ZERO,
                retry_at: Moment::ZERO,
            },
            entries: BTreeMap::new(),
            agenda: BTreeSet::new(),
            ready: BTreeSet::new(),
            waiting: 0,
            reachability: Reachability::default(),
            failed_next: false,
            valid: None,
            doubt: None,
            dispel_at: Moment::ZERO,
        }
    }

    /// Takes in what the receiver was told by an earlier run. What nobody acknowledged is repeated. Where records may
    /// be missing, every alarm that is found good is told cleared once, at the end of the queue.
    pub fn load(&mut self, records: Vec<ToldRecord>, recollection: Recollection, damping: Damping, now: Now) {
        let forgets = matches!(self.manner.assurance, Assurance::Refreshed { .. });
        // An older copy of the records may name a raise that was cleared since: alarms that still stand are sent again.
        let outdated = recollection == Recollection::Doubtful;
        let doubt = match recollection {
            Recollection::Complete(doubt) => doubt,
            Recollection::Doubtful => Some(Doubt::new(now.wall)),
        };
        if !forgets && self.manner.first_up == FirstUp::Silent {
            self.doubt = doubt.filter(|doubt| !doubt.is_over(now.wall));
            // Mails carry many alarms each: one mail of all is better than ten of some.
            let gathers = if self.manner.batch > 1 { GATHERED_FOR } else { Duration::ZERO };
            self.dispel_at = now.moment + gathers;
        }
        // A storm of an earlier run is over; if it is not, there will be another.
        let over = self.storm_standing(AlarmState::Cleared, "the agent was restarted".to_owned(), now);
        for record in records {
            let key = record.notification.key.clone();
            let entry = self.entry(&key, damping);
            if record.in_doubt {
                entry.in_doubt = Some(record.notification);
            } else {
                // Unacknowledged messages are repeated from the restart on, not at it: many agents may start at once.
                (entry.told_at, entry.sent_at, entry.repeats) = (now.moment, now.moment, 0);
                entry.told = Some(record.notification);
                entry.again = outdated;
            }
            if key.kind == Kind::Storm {
                entry.damping = STORM_DAMPING;
                entry.wanted = Some(over.clone());
            }
            self.note(&key, now.moment);
            // A scope that was narrowed since.
            if !self.in_scope(&key) {
                self.retire(&key, OTHERS, now);
            }
        }
    }

    /// Takes in what the receiver was told by another sink. It may still be on its way. What cannot be any more is
    /// taken back.
    pub fn take_over(&mut self, records: Vec<ToldRecord>, damping: Damping, now: Now) {
        for record in records {
            let key = record.notification.key.clone();
            let entry = self.entry(&key, damping);
            if entry.told.is_none() && entry.in_flight.is_none() && entry.in_doubt.is_none() {
                // What was acknowledged to the one was acknowledged to the other.
                let slot = if record.in_doubt { &mut entry.in_doubt } else { &mut entry.told };
                *slot = Some(record.notification);
                (entry.told_at, entry.sent_at, entry.repeats) = (now.moment, now.moment, 0);
            }
            self.note(&key, now.moment);
        }
        if let Some((valid, knowledge)) = self.valid.clone() {
            self.retain(&valid, knowledge, now);
        }
    }

    /// The agent has just started: the receiver is told so before anything else.
    pub fn on_cold_start(&mut self) {
        self.cold_start.phase = ColdStartPhase::Due;
    }

    /// The receiver wants to be told in another manner. What it will not be told any more is
    /// settled with it at once, hold or no hold, so that it comes before the word of a successor; or
    /// it is handed over, and given back here.
    pub fn on_manner(&mut self, manner: Manner, parting: Parting, now: Now) -> Vec<ToldRecord> {
        if (manner.rate, manner.burst) != (self.manner.rate, self.manner.burst) {
            self.bucket = Bucket::new(manner.rate, manner.burst, now.moment);
        }
        self.manner = manner;
        self.storm.on_settings(self.manner.storm);
        if self.manner.scope != Scope::All {
            // A receiver that is told less from now on is told so at once, not at the end of a storm.
            self.storm = Storm::new(self.manner.storm);
        }
        let mut handed_over = Vec::new();
        let keys: Vec<_> = self.entries.keys().cloned().collect();
        for key in keys {
            let in_scope = self.in_scope(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if in_scope {
                self.note(&key, now.moment);
                continue;
            }
            entry.held_until = now.moment;
            if parting == Parting::HandOver && key.kind != Kind::Storm {
                handed_over.extend(entry.record(&self.manner));
                entry.handed_over = true;
                if entry.in_flight.is_none() {
                    self.remove(&key);
                }
            } else {
                self.retire(&key, OTHERS, now);
            }
        }
        handed_over
    }

    /// An alarm is in this state now.
    pub fn on_change(&mut self, standing: Standing, damping: Damping, now: Moment) {
        let key = standing.notification.key.clone();
        if !self.in_scope(&key) {
            return;
        }
        let rages = self.storm.rages();
        let manner = self.manner.clone();
        let entry = self.entry(&key, damping);
        entry.set_damping(damping);
        entry.retired = false;
        entry.handed_over = false;
        let before = entry.wanted.as_ref().map(|wanted| wanted.notification.state);
        let flipped = before != Some(standing.notification.state);
        let news = before.is_some() || standing.notification.is_raised();
        if flipped {
            // Calm means: since the last hold ended, another such time has passed without change.
            entry.calm = now >= entry.held_until + entry.hold;
            entry.changes = if entry.calm { 1 } else { entry.changes + 1 };
            if news && !rages {
                let was_flapping = entry.flaps.is_flapping();
                entry.flaps.on_change(damping.flap, now);
                if entry.flaps.is_flapping() && !was_flapping {
                    entry.held_until = now;
                }
            }
        }
        // An alarm that is suppressed does not flap; one that waits for others may.
        if standing.withheld.as_ref().is_some_and(|withheld| *withheld != Withheld::Waiting) {
            entry.flaps.forget();
        }
        let target = entry.target(&manner);
        entry.wanted = Some(standing);
        let to_tell = entry.target(&manner) != target && entry.has_news(&manner) && entry.dispels_doubt_at().is_none();
        if key.is_single() {
            if to_tell {
                self.storm.on_news(now);
            }
            if flipped && news {
                self.storm.on_change(now);
            }
        }
        self.note(&key, now);
    }

    /// Only these alarms can still be; what was told of others is taken back. Where not everything
    /// is known, because a document is bad, what an earlier run told stands.
    pub fn retain(&mut self, valid: &Possible, knowledge: Knowledge, now: Now) {
        self.valid = Some((valid.clone(), knowledge));
        if knowledge == Knowledge::Whole
            && let Some(doubt) = &mut self.doubt
            && doubt.is_about(valid)
        {
            let found: Vec<AlarmKey> = self.entries.keys().filter(|key| doubt.doubts(key)).cloned().collect();
            let dispel_at = self.dispel_at;
            for key in found {
                self.entries.entry(key.clone()).and_modify(|entry| entry.doubt(dispel_at));
                self.note(&key, now.moment);
            }
        }
        let stands = |entry: &Entry| knowledge == Knowledge::Partial && entry.wanted.is_none();
        let others = self.entries.iter().filter(|(key, _)| key.kind != Kind::Storm && !valid.contains(key));
        let gone: Vec<_> = others.filter(|(_, entry)| !stands(entry)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.retire(&key, NO_LONGER_WATCHED, now);
        }
    }

    /// All that stands and is not kept back is told once more.
    pub fn resync(&mut self, now: Moment) -> usize {
        let stands =
            |entry: &Entry| entry.told_is_raised() && entry.target(&self.manner).is_some_and(AlarmState::is_raised);
        let told: Vec<_> = self.entries.iter().filter(|(_, entry)| stands(entry)).map(|(key, _)| key.clone()).collect();
        for key in &told {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.again = true;
            }
            self.note(key, now);
        }
        told.len()
    }

    /// When `take_due` may have something, if nothing changes before.
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        let later = self.agenda.first().map(|(at, _)| *at);
        let try_at = |is_fresh| if self.reachability.is_away() { self.reachability.next_try(is_fresh) } else { now };
        let fresh = self.first_ready(false).map(|_| try_at(true));
        let failed = self.first_ready(true).map(|_| try_at(false));
        let cold_start = match self.cold_start.phase {
            ColdStartPhase::Due => Some(now),
            ColdStartPhase::Failed => Some(self.cold_start.retry_at.max(try_at(false))),
            ColdStartPhase::InFlight | ColdStartPhase::Told => None,
        };
        let sendable = [fresh, failed, cold_start].into_iter().flatten().min();
        let token = |at: Moment| at.max(self.bucket.clone().take(now).err().unwrap_or(now));
        [later, sendable.map(token), self.storm.next_deadline()].into_iter().flatten().min()
    }

    /// Whether nothing is left to tell.
    pub fn is_settled(&self) -> bool {
        let open = |entry: &Entry| entry.in_flight.is_some() || entry.is_dirty(&self.manner) || entry.again;
        let repeats = |entry: &Entry| entry.repeat_at(&self.manner).is_some();
        self.cold_start.phase == ColdStartPhase::Told
            && !self.entries.values().any(|entry| open(entry) || repeats(entry))
    }

    /// What must be on disk before the messages of `take_due` leave: every alarm that the receiver
    /// was told, or is about to be told, and not yet told over.
    pub fn records(&self) -> Vec<ToldRecord> {
        self.entries.values().filter_map(|entry| entry.record(&self.manner)).collect()
    }

    /// Returns the doubt that has to be on disk together with `records`.
    pub fn doubt(&self, now: WallTime) -> Option<Doubt> {
        self.doubt.clone().filter(|doubt| !doubt.is_over(now))
    }

    /// What the receiver knows of each alarm, and the alarm as it is or as it was told.
    pub fn told(&self, now: Now) -> impl Iterator<Item = (Arc<Notification>, ToldState)> {
        self.entries.values().filter_map(move |entry| {
            let wanted = entry.wanted.as_ref().map(|wanted| &wanted.notification);
            let known = [wanted, entry.told.as_ref(), entry.in_doubt.as_ref(), entry.in_flight.as_ref()];
            Some((known.into_iter().flatten().next()?.clone(), self.told_state(entry, now)))
        })
    }

    fn told_state(&self, entry: &Entry, now: Now) -> ToldState {
        let held = entry.is_dirty(&self.manner).then(|| entry.held_until.since(now.moment));
        ToldState {
            told: entry.told.as_ref().map(|told| told.state),
            in_doubt: entry.in_flight.is_some() || entry.in_doubt.is_some(),
            held_until: held.map(|held| now.wall + held),
            suppressed: entry.changes,
            flapping: entry.flaps.is_flapping(),
        }
    }

    /// Numbers for the status page.
    pub fn counts(&self, now: Moment) -> LedgerCounts {
        let mut counts = LedgerCounts { storm: self.storm.rages(), ..LedgerCounts::default() };
        for entry in self.entries.values() {
            counts.told += usize::from(entry.told_is_raised());
            counts.unconfirmed += usize::from(entry.repeat_unacknowledged_at(&self.manner).is_some());
            counts.flapping += usize::from(entry.flaps.is_flapping());
            if entry.in_flight.is_some() || entry.is_dirty(&self.manner) {
                counts.dirty += 1;
                counts.held += usize::from(entry.held_until > now);
            }
        }
        counts
    }

    /// Looks at what wanted to be looked at by now.
    fn look_up(&mut self, now: Moment) {
        while let Some((_, key)) = self.agenda.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.flaps.on_time(entry.damping.flap, now);
            }
            self.note(&key, now);
        }
    }

    /// Notes down when an entry wants something done. To be called after every change to it.
    fn note(&mut self, key: &AlarmKey, now: Moment) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let waiting = key.is_single() && entry.has_news(&self.manner);
        let noted = Noted { place: entry.place(&self.manner, now), waiting };
        let before = std::mem::replace(&mut entry.noted, noted);
        self.strike_out(key, before);
        self.waiting += usize::from(noted.waiting);
        match noted.place {
            Place::Nowhere => {}
            Place::Later(at) => {
                self.agenda.insert((at, key.clone()));
            }
            Place::Ready(rank) => {
                self.ready.insert((rank, key.clone()));
            }
        }
    }

    fn strike_out(&mut self, key: &AlarmKey, noted: Noted) {
        self.waiting -= usize::from(noted.waiting);
        match noted.place {
            Place::Nowhere => {}
            Place::Later(at) => {
                self.agenda.remove(&(at, key.clone()));
            }
            Place::Ready(rank) => {
                self.ready.remove(&(rank, key.clone()));
            }
        }
    }

    fn remove(&mut self, key: &AlarmKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.strike_out(key, entry.noted);
        }
    }

    fn in_scope(&self, key: &AlarmKey) -> bool {
        match self.manner.scope {
            Scope::All => true,
            Scope::Config => key.kind == Kind::Config,
            Scope::Nothing => false,
        }
    }

    fn entry(&mut self, key: &AlarmKey, damping: Damping) -> &mut Entry {
        let doubted = self.doubt.as_ref().is_some_and(|doubt| doubt.doubts(key));
        self.entries.entry(key.clone()).or_insert_with(|| {
            let mut entry = Entry::new(&self.agent, key, damping);
            if doubted {
                entry.doubt(self.dispel_at);
            }
            entry
        })
    }

    fn retire(&mut self, key: &AlarmKey, text: &str, now: Now) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.retired = true;
        // It will not change any more.
        entry.flaps.forget();
        let wanted = entry.wanted.as_ref().map(|wanted| &wanted.notification);
        let shown = [entry.in_flight.as_ref(), entry.in_doubt.as_ref(), entry.told.as_ref(), wanted]
            .into_iter()
            .flatten()
            .next();
        if let Some(shown) = shown
            && (entry.wanted.is_none() || entry.wanted_is_raised())
        {
            let notification = Arc::new(retired(shown, text, now.wall));
            entry.wanted = Some(Standing { notification, withheld: None });
        }
        self.note(key, now.moment);
        self.forget_if_settled(key);
    }

    /// Drops an entry whose subject is gone and of which the receiver believes nothing bad.
    fn forget_if_settled(&mut self, key: &AlarmKey) {
        let Some(entry) = self.entries.get(key) else { return };
        let unsure = entry.in_flight.is_some() || entry.in_doubt.is_some();
        let believed =
            entry.told_is_raised() || entry.doubted.is_some() || unsure || entry.repeat_at(&self.manner).is_some();
        if entry.retired && !believed {
            self.remove(key);
        }
    }

    /// Another alarm that stands and that the original had no notification of its own for: it told
    /// a test's latency as its connection, and all faults of the configuration as one.
    fn sibling_raised(&self, key: &AlarmKey) -> Option<Arc<Notification>> {
        // One that the receiver was not told of has its own word to come.
        let raised = |entry: &Entry| {
            let wanted = entry.wanted.as_ref().map(|wanted| wanted.notification.clone());
            wanted.filter(|wanted| wanted.is_raised() && entry.told_is_raised())
        };
        let sibling = match key.kind {
            Kind::Connection => Kind::Latency,
            Kind::Latency => Kind::Connection,
            Kind::Config => {
                let all = self.entries.range(AlarmKey::new(Kind::Config, Subject::Agent)..);
                let mut others =
                    all.take_while(|(other, _)| other.kind == Kind::Config).filter(|(other, _)| *other != key);
                return others.find_map(|(_, entry)| raised(entry));
            }
            Kind::Sender
            | Kind::Loss
            | Kind::Jitter
            | Kind::Path
            | Kind::Clock
            | Kind::UnknownPacket
            | Kind::Isolated
            | Kind::Storm
            | Kind::Test => {
                return None;
            }
        };
        self.entries.get(&AlarmKey::new(sibling, key.subject.clone())).and_then(raised)
    }
}

/// Why what stands is told over to a receiver that is not told any more.
const OTHERS: &str = "told to other receivers from now on";

#[cfg(test)]
mod tests;
