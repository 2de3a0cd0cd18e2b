//! How a receiver wants to be told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flaps::FlapSettings;
use super::storm::StormSettings;

/// How one alarm that keeps changing is damped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// It is left alone for so long after the first telling.
    pub hold_down: Duration,
    /// Doubling ends here.
    pub hold_down_max: Duration,
    /// When it is told as flapping.
    pub flap: FlapSettings,
}

/// Whether all that can be an alarm is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Every document was read.
    Whole,
    /// A document is bad, and no good version of it is known.
    Partial,
}

/// What becomes of the alarms that a receiver was told and will not be told any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The receiver is told that they are over, as far as it is concerned.
    Clear,
    /// Another sink tells the same receiver: what stands, it tells anew.
    HandOver,
}

/// Which alarms a receiver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of them.
    All,
    /// Only faults of the configuration: the bootstrap's sinks once the documents name others.
    Config,
    /// None: the sink is about to go.
    Nothing,
}

/// Whether good news of a test that was never told down is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstUp {
    /// As a console wants it.
    Told,
    /// Good news is sent only where the receiver may hold a raise without a record here.
    Silent,
}

/// Whether a receiver can be told of many alarms in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Groups and storms are told in sum.
    Summed,
    /// Its language has no words for that.
    EachAlone,
}

/// What is known of a message that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assurance {
    /// That it arrived.
    Acknowledged,
    /// Nothing: it is told again so long after the first time, and then at growing intervals until `renotify`.
    Repeated(Vec<Duration>),
    /// The receiver forgets what it is not told again.
    Refreshed {
        /// What stands is told this often.
        every: Duration,
        /// What is over is told for so long.
        cleared_for: Duration,
    },
}

/// How a receiver wants to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Manner {
    /// Messages per second.
    pub rate: f64,
    /// Messages at once.
    pub burst: u32,
    /// So many alarms fit into one message.
    pub batch: usize,
    /// Which alarms.
    pub scope: Scope,
    /// Good news.
    pub first_up: FirstUp,
    /// One by one, or in sum.
    pub detail: Detail,
    /// What is known of what left.
    pub assurance: Assurance,
    /// What stands is told again this often, so that nobody forgets it.
    pub renotify: Option<Duration>,
    /// When there is a storm.
    pub storm: StormSettings,
}
