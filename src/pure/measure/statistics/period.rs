//! Counters of one period and their summary.
//!
//! `Period` accumulates, in a layout for fast updates, and [`Summary`] presents the result in seconds and shares.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::histogram::{BucketIndex, DelayHistogram};
use super::ProbeEvent;
use crate::pure::base::time::saturating_nanos;
use crate::pure::clock::error_estimate::Delay;

/// Counters of the probes of one period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub(super) struct Period {
    pub(super) delays: DelayHistogram,
    pub(super) received: u64,
    pub(super) delay_sum: i64,
    variation_sum: u64,
    variation_max: u64,
    variations: u32,
    /// Largest uncertainty of any delay in microseconds, rounded up.
    uncertainty_micros: u32,
    /// Number of lost probes. Negative if probes that were counted as lost in a previous period arrived in this one.
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

/// Summary of one period, with times in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Length of time that the summary covers, in seconds.
    pub covers: f64,
    /// Number of probes that were accepted.
    pub received: u64,
    /// Number of probes that were not received.
    pub lost: u64,
    /// Ratio of lost probes to all probes, from 0 to 1; `None` without any probe.
    pub loss: Option<f64>,
    /// Number of probes that were received more than once.
    pub duplicates: u32,
    /// Number of probes that arrived after a later probe of the same flow.
    pub reordered: u32,
    /// Number of probes that arrived after the time at which they were presumed lost.
    pub late: u32,
    /// Number of probes that were rejected, because their sequence number was too old or their epoch was over.
    pub stale: u32,
    /// Number of probes whose delay is undecidable because of the clock uncertainty.
    pub undecidable: u32,
    /// Number of loss episodes: runs of consecutive probes that were not received.
    pub loss_episodes: u32,
    /// Length of the longest loss episode, in probes.
    pub longest_loss_episode: u32,
    /// Distribution of the one-way delay or, at the sender of a test in mode `two_way`, of the round-trip delay.
    pub delay: Option<DelaySummary>,
    /// Mean absolute difference in seconds between the delays of consecutive probes.
    pub delay_variation: Option<f64>,
    /// Largest absolute difference in seconds between the delays of consecutive probes.
    pub delay_variation_max: Option<f64>,
    /// Number of changes of the IP time-to-live, which indicate a path change.
    pub path_changes: u32,
}

/// Distribution of the delays of one period, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "quantiles")]
pub struct DelaySummary {
    pub min: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// Largest error bound of any of the delays, in seconds.
    pub uncertainty: f64,
}

impl Period {
    /// Number of leading octets, which are the only ones that most probes change.
    pub(super) const HOT: usize = std::mem::offset_of!(Period, lost);

    /// Records an accepted probe; `previous` is as in `Statistics::on_delay`. Counting the delay is deferred: the
    /// caller has to pass the returned bucket to `DelayHistogram::count_in` of `delays`.
    #[must_use]
    pub(super) fn note(&mut self, delay: Delay, previous: Option<i64>) -> BucketIndex {
        self.received += 1;
        self.delay_sum = self.delay_sum.saturating_add(delay.nanos);
        let uncertainty = saturating_nanos(delay.uncertainty).div_ceil(1_000);
        self.uncertainty_micros = self.uncertainty_micros.max(u32::try_from(uncertainty).unwrap_or(u32::MAX));
        if let Some(previous) = previous {
            self.on_variation(delay.nanos.abs_diff(previous));
        }
        self.delays.record_deferred(delay.nanos)
    }

    pub(super) fn on_event(&mut self, event: ProbeEvent) {
        match event {
            ProbeEvent::Duplicate => self.duplicates += 1,
            ProbeEvent::Reordered => self.reordered += 1,
            ProbeEvent::Late => self.late += 1,
            ProbeEvent::Stale => self.stale += 1,
            ProbeEvent::Undecidable => self.undecidable += 1,
            ProbeEvent::PathChange => self.path_changes += 1,
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

    /// Resets all counters and keeps the allocated memory.
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

    /// Returns the number of delays that do not exceed `bound` seconds.
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
