//! What is counted in one period, and how it is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::clock_error::Delay;
use super::super::spread::{Bucket, Spread};
use super::super::time::saturating_nanos;
use super::Event;

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub(super) struct Period {
    pub(super) delays: Spread,
    pub(super) received: u64,
    pub(super) delay_sum: i64,
    variation_sum: u64,
    variation_max: u64,
    variations: u32,
    /// The largest uncertainty of any delay, rounded up.
    uncertainty_micros: u32,
    /// May be below zero, where probes that were counted as lost in the period before came after all.
    pub(super) lost: i64,
    duplicates: u32,
    reordered: u32,
    late: u32,
    stale: u32,
    undecidable: u32,
    path_changes: u32,
    loss_episodes: i32,
    longest_loss_episode: u32,
}

/// One period's numbers. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How much time it covers.
    pub covers: f64,
    /// Probes that were accepted.
    pub received: u64,
    /// Probes that did not come.
    pub lost: u64,
    /// Their share of all.
    pub loss: Option<f64>,
    /// Probes that came twice.
    pub duplicates: u32,
    /// Probes that a later one of the same flow overtook.
    pub reordered: u32,
    /// Probes that came when they were given up already.
    pub late: u32,
    /// Probes that were not accepted: too old, or from an earlier start of the sender.
    pub stale: u32,
    /// Probes whose delay the clocks cannot decide on.
    pub undecidable: u32,
    /// Runs of probes that did not come.
    pub loss_episodes: u32,
    /// The longest of them, in probes.
    pub longest_loss_episode: u32,
    /// One-way delay; of the round trip at the sender of a test in mode `two_way`.
    pub delay: Option<DelaySummary>,
    /// Mean of the difference in delay from one probe to the next, without its sign.
    pub delay_variation: Option<f64>,
    /// The largest.
    pub delay_variation_max: Option<f64>,
    /// How often the time-to-live changed.
    pub path_changes: u32,
}

/// Delays in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "quantiles")]
pub struct DelaySummary {
    pub min: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// Each of them may be off by this.
    pub uncertainty: f64,
}

impl Period {
    /// The first octets, which are all that most probes change.
    pub(super) const HOT: usize = std::mem::offset_of!(Period, lost);

    /// A probe was accepted, `previous` as in `Statistics::on_delay`. Its delay is counted once the spread of delays
    /// is given what comes of it here.
    #[must_use]
    pub(super) fn note(&mut self, delay: Delay, previous: Option<i64>) -> Bucket {
        self.received += 1;
        self.delay_sum = self.delay_sum.saturating_add(delay.nanos);
        let uncertainty = saturating_nanos(delay.uncertainty).div_ceil(1_000);
        self.uncertainty_micros = self.uncertainty_micros.max(u32::try_from(uncertainty).unwrap_or(u32::MAX));
        if let Some(previous) = previous {
            self.on_variation(delay.nanos.abs_diff(previous));
        }
        self.delays.note(delay.nanos)
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Duplicate => self.duplicates += 1,
            Event::Reordered => self.reordered += 1,
            Event::Late => self.late += 1,
            Event::Stale => self.stale += 1,
            Event::Undecidable => self.undecidable += 1,
            Event::PathChange => self.path_changes += 1,
        }
    }

    pub(super) fn on_variation(&mut self, nanos: u64) {
        self.variation_sum = self.variation_sum.saturating_add(nanos);
        self.variations += 1;
        self.variation_max = self.variation_max.max(nanos);
    }

    pub(super) fn on_loss_episodes(&mut self, episodes: i32, longest: u32) {
        self.loss_episodes = self.loss_episodes.saturating_add(episodes);
        self.longest_loss_episode = self.longest_loss_episode.max(longest);
    }

    /// Begins anew, in the same memory.
    pub(super) fn clear(&mut self) {
        let mut delays = std::mem::take(&mut self.delays);
        delays.clear();
        *self = Period { delays, ..Period::default() };
    }

    pub(super) fn merge(&mut self, other: &Period) {
        self.delays.merge(&other.delays);
        self.delay_sum = self.delay_sum.saturating_add(other.delay_sum);
        self.uncertainty_micros = self.uncertainty_micros.max(other.uncertainty_micros);
        self.received += other.received;
        self.lost += other.lost;
        self.duplicates = self.duplicates.saturating_add(other.duplicates);
        self.reordered = self.reordered.saturating_add(other.reordered);
        self.late = self.late.saturating_add(other.late);
        self.stale = self.stale.saturating_add(other.stale);
        self.undecidable = self.undecidable.saturating_add(other.undecidable);
        self.loss_episodes = self.loss_episodes.saturating_add(other.loss_episodes);
        self.longest_loss_episode = self.longest_loss_episode.max(other.longest_loss_episode);
        self.variation_sum = self.variation_sum.saturating_add(other.variation_sum);
        self.variations = self.variations.saturating_add(other.variations);
        self.variation_max = self.variation_max.max(other.variation_max);
        self.path_changes = self.path_changes.saturating_add(other.path_changes);
    }

    /// How many delays do not exceed so many seconds.
    pub(super) fn up_to(&self, bound: f64) -> u64 {
        self.delays.count_up_to((bound * 1e9) as i64)
    }

    pub(super) fn summary(&self, covers: Duration) -> Summary {
        let lost = u64::try_from(self.lost).unwrap_or(0);
        let all = self.received + lost;
        let quantile = |share| self.delays.quantile(share).map_or(0.0, in_seconds);
        let variations = |value: f64| (self.variations > 0).then_some(value / 1e9);
        Summary {
            covers: covers.as_secs_f64(),
            received: self.received,
            lost,
            loss: (all > 0).then(|| lost as f64 / all as f64),
            duplicates: self.duplicates,
            reordered: self.reordered,
            late: self.late,
            stale: self.stale,
            undecidable: self.undecidable,
            // Probes may arrive after their episode was counted: episodes are bounded by the number of lost probes.
            loss_episodes: u32::try_from(self.loss_episodes).unwrap_or(0).min(saturating(lost)),
            longest_loss_episode: self.longest_loss_episode.min(saturating(lost)),
            delay: self.delays.range().map(|(min, max)| DelaySummary {
                min: in_seconds(min),
                p50: quantile(0.5),
                p95: quantile(0.95),
                p99: quantile(0.99),
                max: in_seconds(max),
                uncertainty: f64::from(self.uncertainty_micros) / 1e6,
            }),
            delay_variation: variations(self.variation_sum as f64 / f64::from(self.variations.max(1))),
            delay_variation_max: variations(self.variation_max as f64),
            path_changes: self.path_changes,
        }
    }
}

fn saturating(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn in_seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}
