//! One alarm in a receiver's book.

use std::sync::Arc;
use std::time::Duration;

use super::super::alarm::{AlarmKey, Severity};
use super::super::notification::{AlarmState, Notification, Standing, Withheld};
use super::super::time::{Moment, WallTime};
use super::flaps::Flaps;
use super::{Assurance, Damping, Detail, FirstUp, Manner, ToldRecord, jitter};

/// One alarm in a receiver's book.
#[derive(Debug)]
pub(super) struct Entry {
    /// The current state; nothing if it was told before this agent began and is not known yet.
    pub wanted: Option<Standing>,
    /// What the receiver has.
    pub told: Option<Arc<Notification>>,
    /// What is on its way.
    pub in_flight: Option<Arc<Notification>>,
    /// What failed to be delivered, and may have arrived all the same. Whatever the truth is then,
    /// it has to be told.
    pub in_doubt: Option<Arc<Notification>>,
    /// It is to be told again, though nothing changed.
    pub again: bool,
    pub damping: Damping,
    /// The hold that the last telling set.
    pub hold: Duration,
    pub held_until: Moment,
    /// How often that hold was doubled.
    hold_doublings: u32,
    /// When the receiver was told of this state first, and last, and how often again.
    pub told_at: Moment,
    pub sent_at: Moment,
    pub repeats: usize,
    /// Failures in a row, when it was tried last, and when it is tried again.
    pub failures: u32,
    pub tried_at: Moment,
    pub retry_at: Moment,
    /// The receiver took other messages while this one failed: if it fails again, it is the trouble itself.
    pub outlived_an_outage: bool,
    /// The receiver may hold a raise that this agent has no record of: if the alarm is good, that is told once.
    /// The time is the earliest for that clear.
    pub doubted: Option<Moment>,
    /// Spreads repeats of this alarm among agents and alarms.
    jitter: u64,
    /// Whether the last change came while the alarm was calm.
    pub calm: bool,
    /// Changes of state since the last telling began.
    pub changes: u64,
    pub flaps: Flaps,
    /// Another sink tells it: forget it when what is on its way has left.
    pub handed_over: bool,
    /// Its subject is gone: forget it once nothing is left to tell.
    pub retired: bool,
    /// Where the ledger has noted it down.
    pub noted: Noted,
}

/// Where the ledger has noted an entry down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub place: Place,
    /// Counted among those that wait to be told.
    pub waiting: bool,
}

/// When an entry wants something done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Never, as it stands.
    #[default]
    Nowhere,
    /// Then.
    Later(Moment),
    /// Now, in this order.
    Ready(Rank),
}

/// The order of telling: what explains others, what did not fail before, downs, the worse, the older; what is told
/// again comes last.
pub(super) type Rank = (Class, bool, bool, Severity, WallTime);

/// What may be told during a storm, and what comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Alarms about more than one test: they are few, and explain.
    Wide,
    /// One test's.
    Single,
    /// Told again, though nothing changed; or told good, though nobody was told that it was bad.
    Again,
}

impl Class {
    /// In this order.
    pub const ALL: [Class; 3] = [Class::Wide, Class::Single, Class::Again];
}

impl Entry {
    pub fn new(agent: &str, key: &AlarmKey, damping: Damping) -> Self {
        Entry {
            wanted: None,
            told: None,
            in_flight: None,
            in_doubt: None,
            again: false,
            damping,
            hold: Duration::ZERO,
            held_until: Moment::ZERO,
            hold_doublings: 0,
            told_at: Moment::ZERO,
            sent_at: Moment::ZERO,
            repeats: usize::MAX,
            failures: 0,
            tried_at: Moment::ZERO,
            retry_at: Moment::ZERO,
            outlived_an_outage: false,
            doubted: None,
            jitter: jitter::seed(agent, key),
            calm: true,
            changes: 0,
            flaps: Flaps::default(),
            handed_over: false,
            retired: false,
            noted: Noted::default(),
        }
    }

    /// The receiver may hold a raise that this agent has no record of. A clear for that reason alone is not sent before
    /// `dispel_at`.
    pub fn doubt(&mut self, dispel_at: Moment) {
        let nothing_known = self.told.is_none() && self.in_doubt.is_none() && self.in_flight.is_none();
        self.doubted = nothing_known.then_some(dispel_at);
    }

    /// Returns the earliest time of a message that is only sent because the receiver may hold a raise without a record
    /// here; `None` if there are other reasons.
    pub fn dispels_doubt_at(&self) -> Option<Moment> {
        let nothing_known = self.told.is_none() && self.in_doubt.is_none() && !self.wanted_is_raised();
        self.doubted.filter(|_| nothing_known)
    }

    /// The state that the receiver should be told; nothing if there is none, or if it is kept back.
    pub fn target(&self, manner: &Manner) -> Option<AlarmState> {
        let wanted = self.wanted.as_ref()?;
        let state = if self.flaps.is_flapping() { AlarmState::Flapping } else { wanted.notification.state };
        let kept_back = match (&wanted.withheld, manner.detail) {
            (None, _) | (Some(Withheld::Waiting | Withheld::Group { .. }), Detail::EachAlone) => false,
            (Some(_), _) => true,
        };
        (!(kept_back && state.is_raised())).then_some(state)
    }

    /// Whether the receiver has to be told something, sooner or later.
    pub fn is_dirty(&self, manner: &Manner) -> bool {
        let Some(target) = self.target(manner) else { return false };
        if self.in_flight.is_some() {
            return false;
        }
        if self.in_doubt.is_some() {
            return true;
        }
        match &self.told {
            Some(told) => told.state != target,
            None => {
                let good_news = manner.first_up == FirstUp::Told && self.wanted_is_connection() && !self.retired;
                target.is_raised() || good_news || self.doubted.is_some()
            }
        }
    }

    /// When to tell again what was told, if it still is so.
    pub fn repeat_at(&self, manner: &Manner) -> Option<Moment> {
        let told = self.told.as_ref().filter(|_| self.in_flight.is_none())?;
        if self.in_doubt.is_some() || self.target(manner) != Some(told.state) {
            return None;
        }
        let nag = manner.renotify.filter(|_| told.is_raised()).map(|every| self.sent_at + self.spread(every));
        [nag, self.repeat_unacknowledged_at(manner)].into_iter().flatten().min()
    }

    /// When to tell a receiver that forgets what it was told: all that is not known to be over.
    fn refresh_at(&self, manner: &Manner) -> Option<Moment> {
        // A clear that may have arrived is not undone by a reminder.
        let cleared = self.in_doubt.as_ref().is_some_and(|in_doubt| !in_doubt.is_raised());
        if !self.told_is_raised() || self.in_flight.is_some() || cleared {
            return None;
        }
        match manner.assurance {
            Assurance::Refreshed { every, .. } if self.target(manner) != Some(AlarmState::Cleared) => {
                Some(self.sent_at + self.spread(every))
            }
            Assurance::Refreshed { .. } | Assurance::Acknowledged | Assurance::Repeated(_) => None,
        }
    }

    /// When to tell again what nobody has acknowledged.
    pub fn repeat_unacknowledged_at(&self, manner: &Manner) -> Option<Moment> {
        let told = self.told.as_ref()?;
        match &manner.assurance {
            Assurance::Acknowledged => None,
            Assurance::Repeated(after) => {
                let after = repeat_after(after, self.repeats, manner.renotify)?;
                Some(self.told_at + self.spread(after))
            }
            Assurance::Refreshed { every, cleared_for } => {
                let next = self.sent_at + self.spread(*every);
                let repeats = !told.is_raised() && self.repeats != usize::MAX && next <= self.told_at + *cleared_for;
                repeats.then_some(next)
            }
        }
    }

    /// When and in which order it wants to be told; or only looked at again.
    pub fn place(&self, manner: &Manner, now: Moment) -> Place {
        if self.in_flight.is_some() {
            return Place::Nowhere;
        }
        // The first good news of an alarm whose record was lost can wait for everything else.
        let (own, not_before) = match self.dispels_doubt_at() {
            Some(dispel_at) => (Class::Again, dispel_at),
            None => (self.class(), self.held_until),
        };
        // A reminder of one test waits for the end of a storm; a summary is one, and whoever forgets
        // is told in every weather.
        let reminder = if own == Class::Wide { Class::Wide } else { Class::Again };
        let told_again = match &self.wanted {
            // What was kept back since is not told again either.
            Some(_) if self.again && self.target(manner).is_some() => Some(now),
            Some(_) => self.repeat_at(manner),
            None => None,
        };
        let wishes = [
            (own, self.is_dirty(manner).then_some(not_before.max(self.retry_at))),
            (reminder, told_again.map(|at| at.max(self.retry_at))),
            (Class::Wide, self.refresh_at(manner).map(|at| at.max(self.retry_at))),
        ];
        let wish = wishes.into_iter().filter_map(|(class, at)| Some((at?, class))).min();
        let calm = self.flaps.calm_at(self.damping.flap);
        match (wish, calm) {
            // Calm has to be noted first: it changes what is to be told.
            (_, Some(calm)) if calm <= now => Place::Later(calm),
            (Some((at, class)), _) if at <= now => Place::Ready(self.rank(class)),
            (Some((at, _)), Some(calm)) => Place::Later(at.min(calm)),
            (Some((at, _)), None) | (None, Some(at)) => Place::Later(at),
            (None, None) => Place::Nowhere,
        }
    }

    /// Other settings count at once, also for the hold that runs.
    pub fn set_damping(&mut self, damping: Damping) {
        if damping == self.damping {
            return;
        }
        self.damping = damping;
        let running = self.hold.min(damping.hold_down_max.max(damping.hold_down));
        // A hold that has not doubled yet is the new setting's.
        let shorter = if self.hold_doublings == 0 { running.min(damping.hold_down) } else { running };
        if shorter < self.hold {
            self.hold = shorter;
            self.held_until = self.held_until.min(self.told_at + shorter);
        }
    }

    /// It was told: it is left alone for a while, ever longer while it keeps changing.
    pub fn hold_down(&mut self, suppressed: u64, now: Moment) {
        let (shortest, longest) = (self.damping.hold_down, self.damping.hold_down_max.max(self.damping.hold_down));
        self.hold = if self.calm { shortest } else { self.hold.saturating_mul(2).clamp(shortest, longest) };
        self.hold_doublings = if self.calm { 0 } else { self.hold_doublings.saturating_add(1) };
        self.held_until = now + self.hold;
        self.changes = self.changes.saturating_sub(suppressed + 1);
        // What changed while it was on its way is a change in the new hold, not in a calm.
        self.calm = false;
    }

    /// What must be on disk: what the receiver was told, or is about to be told, and not yet told over.
    pub fn record(&self, manner: &Manner) -> Option<ToldRecord> {
        let record =
            |notification: &Arc<Notification>, in_doubt| ToldRecord { notification: notification.clone(), in_doubt };
        match (self.in_flight.as_ref().or(self.in_doubt.as_ref()), &self.told) {
            (Some(unsure), _) => Some(record(unsure, true)),
            (None, Some(told)) if told.is_raised() => Some(record(told, false)),
            (None, Some(told)) if self.repeat_unacknowledged_at(manner).is_some() => Some(record(told, false)),
            (None, _) => None,
        }
    }

    /// Whether what should be told differs from what the receiver has, or may have. Good news that
    /// nobody waits for is none.
    pub fn has_news(&self, manner: &Manner) -> bool {
        let Some(target) = self.target(manner).filter(|_| self.in_flight.is_none()) else { return false };
        match self.in_doubt.as_ref().or(self.told.as_ref()) {
            Some(believed) => believed.state != target,
            None => target.is_raised(),
        }
    }

    pub fn wanted_is_raised(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.notification.is_raised())
    }

    pub fn told_is_raised(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.is_raised())
    }

    fn wanted_is_connection(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.notification.is_connection())
    }

    fn class(&self) -> Class {
        let single = |wanted: &Standing| wanted.notification.key.is_single();
        if self.wanted.as_ref().is_some_and(single) { Class::Single } else { Class::Wide }
    }

    fn rank(&self, class: Class) -> Rank {
        let wanted = self.wanted.as_ref().map(|wanted| &wanted.notification);
        let severity = wanted.map_or(Severity::Warning, |wanted| wanted.severity);
        let since = wanted.map_or(WallTime::default(), |wanted| wanted.since);
        (class, self.failures > 0, !self.wanted_is_raised(), severity, since)
    }

    /// An interval of this alarm's repeats, 30 % longer or shorter.
    fn spread(&self, interval: Duration) -> Duration {
        jitter::spread(interval, (self.jitter, self.repeats))
    }
}

/// Factor by which the interval grows with each repeat after the configured ones.
const REPEATS_GROW: u32 = 3;

/// When something unacknowledged is told for the `n`-th time again, counted from the first telling: as configured, then
/// at growing intervals, and for the last time when `renotify` is over.
fn repeat_after(configured: &[Duration], n: usize, renotify: Option<Duration>) -> Option<Duration> {
    if let Some(after) = configured.get(n) {
        return Some(*after);
    }
    let (last, until) = (*configured.last()?, renotify?);
    let more = u32::try_from(n - configured.len()).ok()?;
    let before = last.checked_mul(REPEATS_GROW.checked_pow(more)?)?;
    (before < until).then(|| before.saturating_mul(REPEATS_GROW).min(until))
}
