//! Handler of `/metrics`: the status snapshot in OpenMetrics.
//!
//! Every name starts with `peerpair_`, and units are part of the name.

use std::fmt;
use std::sync::Arc;

use actix_web::{HttpResponse, web};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use serde::Deserialize;

use super::StatusHandle;
use super::api::Access;
use crate::pure::alarm::key::Kind;
use crate::pure::alarm::notification::Notification;
use crate::pure::judge::condition::State;
use crate::pure::measure::statistics::Summary;
use crate::pure::status::snapshot::{SenderStatus, Status, TestStatus};
use crate::pure::test::facts::TestFacts;
use crate::pure::test::role::Role;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Query parameters of `/metrics`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetricsQuery {
    /// Presence of this parameter, with any value, adds the description as a label to the series of tests. It is
    /// optional because operators change descriptions.
    description: Option<String>,
}

/// Returns the snapshot as metrics in the OpenMetrics text format.
pub async fn metrics(
    snapshot: web::Data<StatusHandle>,
    access: web::Data<Access>,
    wanted: web::Query<MetricsQuery>,
) -> HttpResponse {
    let status = access.status(&snapshot).await;
    match render(status, wanted.description.is_some()) {
        Ok(text) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

fn render(status: Arc<Status>, description: bool) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("peerpair");
    registry.register_collector(Box::new(StatusCollector { status, description }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct StatusCollector {
    status: Arc<Status>,
    description: bool,
}

/// Names and values of a series' labels.
type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sheet = MetricWriter { encoder, description: self.description };
        let status = &self.status;
        sheet.agent(status)?;
        sheet.listeners(status)?;
        let received: Vec<&TestStatus> = status.tests.iter().filter(|test| test.statistics.is_some()).collect();
        sheet.tests(&status.tests, &received)?;
        sheet.delays(&received)?;
        sheet.senders(&status.senders)
    }
}

struct MetricWriter<'a> {
    encoder: DescriptorEncoder<'a>,
    description: bool,
}

/// Label set that is built when the metric is written.
#[derive(Clone, Debug)]
struct LabelSet<'a>(Labels<'a>);

impl EncodeLabelSet for LabelSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

impl MetricWriter<'_> {
    fn family<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in series {
            match labels.is_empty() {
                true => family.encode_gauge(&value)?,
                false => family.encode_family(&LabelSet(labels))?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in series {
            match labels.is_empty() {
                true => family.encode_counter::<NoLabelSet, u64, u64>(&value, None)?,
                false => family.encode_family(&LabelSet(labels))?.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn agent(&mut self, status: &Status) -> fmt::Result {
        let one = |value: f64| [(Labels::new(), value)];
        let flag = |value: bool| one(f64::from(u8::from(value)));
        self.gauges("build_info", "The agent's version", [(vec![("version", status.version)], 1.0)])?;
        let started = status.started.unix_nanos() as f64 / 1e9;
        self.gauges("start_time_seconds", "Start time of the agent since the Unix epoch", one(started))?;
        self.gauges(
            "store_connected",
            "Whether the last attempt to reach the store succeeded",
            flag(status.store.connected),
        )?;
        let age = status.store.config_age_seconds.map(|age| (Labels::new(), age));
        self.gauges(
            "store_config_age_seconds",
            "Time since the store last confirmed that the documents in force are \
                current",
            age,
        )?;
        let revision = status.store.revision.map(|revision| (Labels::new(), revision as f64));
        self.gauges("store_revision", "Revision of the documents in force", revision)?;
        let rejected = status.store.rejected.len() as f64;
        self.gauges("documents_rejected", "Documents that were rejected", one(rejected))?;
        let rollbacks = [(Labels::new(), status.store.rollbacks)];
        self.counters("store_rollbacks", "Times the store was found at an earlier revision", rollbacks)?;
        self.gauges("clock_synchronized", "Whether the local clock is synchronized", flag(status.clock.synchronized))?;
        self.gauges("clock_error_seconds", "Error bound of the local clock", one(status.clock.error_seconds))?;
        let offset = status.clock.ntp_offset_seconds.map(|offset| (Labels::new(), offset));
        self.gauges("clock_ntp_offset_seconds", "Offset of the local clock behind its time server", offset)?;
        self.counters("clock_steps", "Steps of the local clock", [(Labels::new(), status.clock.steps)])?;
        self.gauges("alarms", "Raised alarms", one(status.raised as f64))?;
        self.alarms(status)?;
        self.gauges("silences", "Active silences", one(status.silences.len() as f64))?;
        let restarts = status.restarts.iter().map(|(actor, count)| (vec![("actor", *actor)], *count));
        self.counters("restarts", "Restarts of failed actors", restarts)?;
        let sinks = || status.sinks.iter().map(|sink| (sink, vec![("sink", sink.name.as_str()), ("kind", sink.kind)]));
        let pending = sinks().map(|(sink, labels)| (labels, sink.counts.pending as f64));
        self.gauges("sink_pending", "Alarms whose notified state differs from the current one", pending)?;
        let notified = sinks().map(|(sink, labels)| (labels, sink.counts.notified as f64));
        self.gauges("sink_notified", "Alarms that the receiver was notified of as raised", notified)?;
        let unconfirmed = sinks().map(|(sink, labels)| (labels, sink.counts.unconfirmed as f64));
        let help = "Alarms whose last notification was not acknowledged and will be repeated";
        self.gauges("sink_unconfirmed", help, unconfirmed)?;
        let sent = sinks().map(|(sink, labels)| (labels, sink.sent));
        self.counters("sink_messages", "Messages sent", sent)?;
        let failed = sinks().map(|(sink, labels)| (labels, sink.failed));
        self.counters("sink_failures", "Messages that could not be delivered", failed)
    }

    /// Writes raised alarms whose subject is not a single test and that are notified, then the suppressed alarms of
    /// tests.
    fn alarms(&mut self, status: &Status) -> fmt::Result {
        let notified = status.alarms.iter().filter(|alarm_status| alarm_status.suppressed_by.is_none());
        let wide: Vec<&Notification> = notified
            .map(|alarm_status| alarm_status.notification.as_ref())
            .filter(|alarm| alarm.key.test().is_none())
            .collect();
        let subjects: Vec<String> = wide.iter().map(|alarm| alarm.key.subject.to_string()).collect();
        let series = wide.iter().zip(&subjects).map(|(alarm, subject)| {
            let (from, to) = alarm.ends();
            let labels = vec![
                ("kind", alarm.key.kind.as_str()),
                ("subject", subject.as_str()),
                ("severity", alarm.severity.as_str()),
                ("from", from.unwrap_or_default()),
                ("to", to.unwrap_or_default()),
            ];
            (labels, 1.0)
        });
        self.gauges("alarm_raised", "Raised alarm that is not suppressed and not about a single test", series)?;
        let ids: Vec<String> = status.suppressed.iter().map(|(test, ..)| test.id.to_string()).collect();
        let series = status.suppressed.iter().zip(&ids).map(|((test, kind, by), id)| {
            let mut labels = labels_of(test, id, None, false);
            labels.extend([("kind", kind.as_str()), ("by", by)]);
            (labels, 1.0)
        });
        let help = "Suppressed alarm of a test: by maintenance, a silence or a drained host (shelved), by a group, \
                by another alarm that explains it, or while it waits for such a cause";
        self.gauges("test_suppressed", help, series)
    }

    fn listeners(&mut self, status: &Status) -> fmt::Result {
        let addresses: Vec<String> = status.listeners.iter().map(|listener| listener.address.to_string()).collect();
        let named = || status.listeners.iter().zip(&addresses);
        let all = || named().map(|(listener, address)| (listener, vec![("address", address.as_str())]));
        let bound = all().map(|(listener, labels)| (labels, f64::from(u8::from(listener.bound))));
        self.gauges("listener_bound", "Whether the listener's socket is open", bound)?;
        let tests = all().map(|(listener, labels)| (labels, listener.tests as f64));
        self.gauges("listener_tests", "Tests received at the listener", tests)?;
        let packets = all().map(|(listener, labels)| (labels, listener.packets));
        self.counters("listener_packets", "Datagrams received", packets)?;
        let foreign = all().map(|(listener, labels)| (labels, listener.unknown_packets));
        self.counters("listener_unknown_packets", "Datagrams that belong to no test of this host", foreign)?;
        let drops = all().map(|(listener, labels)| (labels, listener.dropped_packets));
        self.counters(
            "listener_dropped_packets",
            "Datagrams that the kernel dropped because the socket was full",
            drops,
        )?;
        let reflected = all().map(|(listener, labels)| (labels, listener.reflected));
        self.counters("listener_reflected_packets", "Probes that were reflected", reflected)
    }

    fn tests(&mut self, all: &[TestStatus], judged: &[&TestStatus]) -> fmt::Result {
        let description = self.description;
        let ids: Vec<String> = all.iter().map(|test| test.test.id.to_string()).collect();
        let mut series = Vec::new();
        for (test, id) in all.iter().zip(&ids) {
            for (kind, state) in &test.conditions {
                let mut labels = labels_of(&test.test, id, Some(test.role), description);
                labels.push(("kind", Kind::as_str(*kind)));
                // A condition that is not yet decided has no value.
                let value = match state {
                    State::Down | State::Recovering => 1.0,
                    State::Up | State::Suspect | State::Paused => 0.0,
                    State::Unknown | State::Standby => continue,
                };
                series.push((labels, value));
            }
        }
        self.gauges("test_violated", "Whether a condition of a test is violated", series)?;

        let ids: Vec<String> = judged.iter().map(|test| test.test.id.to_string()).collect();
        let totals = |value: fn(&Summary) -> u64| {
            let series = judged.iter().zip(&ids);
            series.filter_map(move |(test, id)| {
                let total = &test.statistics.as_ref()?.total;
                Some((labels_of(&test.test, id, Some(test.role), description), value(total)))
            })
        };
        type Count = (&'static str, &'static str, fn(&Summary) -> u64);
        let counts: [Count; 7] = [
            ("test_probes_received", "Accepted probes", |summary| summary.received),
            ("test_probes_duplicate", "Duplicate probes", |summary| summary.duplicates.into()),
            ("test_probes_reordered", "Reordered probes: a later one arrived first", |summary| {
                summary.reordered.into()
            }),
            ("test_probes_late", "Probes that arrived after they counted as lost", |summary| summary.late.into()),
            ("test_probes_stale", "Rejected probes: too old, or from an earlier start of the sender", |summary| {
                summary.stale.into()
            }),
            ("test_probes_undecidable", "Probes whose delay cannot be judged because of the clock error", |summary| {
                summary.undecidable.into()
            }),
            ("test_path_changes", "Changes of the time-to-live", |summary| summary.path_changes.into()),
        ];
        for (name, help, value) in counts {
            self.counters(name, help, totals(value))?;
        }
        // Losses are gauges because a probe that arrives late is subtracted again.
        let lost = totals(|summary| summary.lost).map(|(labels, value)| (labels, value as f64));
        self.gauges("test_probes_lost", "Lost probes since the test began on this host", lost)?;
        let episodes = totals(|summary| summary.loss_episodes.into()).map(|(labels, value)| (labels, value as f64));
        self.gauges("test_loss_episodes", "Loss episodes since the test began on this host", episodes)
    }

    fn delays(&mut self, judged: &[&TestStatus]) -> fmt::Result {
        let description = self.description;
        let ids: Vec<String> = judged.iter().map(|test| test.test.id.to_string()).collect();
        let (mut loss, mut percentiles, mut variation, mut uncertainty) = (vec![], vec![], vec![], vec![]);
        for (test, id) in judged.iter().zip(&ids) {
            let Some(statistics) = &test.statistics else { continue };
            for (window, summary) in [("1m", &statistics.minute), ("10m", &statistics.ten_minutes)] {
                let mut labels = labels_of(&test.test, id, Some(test.role), description);
                labels.push(("window", window));
                loss.extend(summary.loss.map(|loss| (labels.clone(), loss)));
                variation.extend(summary.delay_variation.map(|variation| (labels.clone(), variation)));
                let Some(delay) = &summary.delay else { continue };
                uncertainty.push((labels.clone(), delay.uncertainty));
                let all =
                    [("0", delay.min), ("50", delay.p50), ("95", delay.p95), ("99", delay.p99), ("100", delay.max)];
                for (percentile, value) in all {
                    let mut labels = labels.clone();
                    labels.push(("percentile", percentile));
                    percentiles.push((labels, value));
                }
            }
        }
        self.gauges("test_loss_ratio", "Ratio of lost probes", loss)?;
        self.gauges(
            "test_delay_percentile_seconds",
            "Delay: one-way at the receiver, round-trip at the sender",
            percentiles,
        )?;
        self.gauges(
            "test_delay_uncertainty_seconds",
            "Uncertainty of these delays from the error bounds of both clocks",
            uncertainty,
        )?;
        self.gauges("test_delay_variation_seconds", "Mean delay variation between consecutive probes", variation)?;

        let mut family = self.encoder.encode_descriptor(
            "test_delay_seconds",
            "Delay: one-way at the receiver, round-trip at the sender",
            None,
            MetricType::Histogram,
        )?;
        for (test, id) in judged.iter().zip(&ids) {
            let Some(histogram) = &test.histogram else { continue };
            let labels = labels_of(&test.test, id, Some(test.role), description);
            let count = histogram.buckets.iter().map(|(_, count)| count).sum();
            let sum = histogram.sum.max(0.0);
            family.encode_family(&LabelSet(labels))?.encode_histogram::<NoLabelSet>(
                sum,
                count,
                &histogram.buckets,
                None,
            )?;
        }
        Ok(())
    }

    fn senders(&mut self, senders: &[SenderStatus]) -> fmt::Result {
        let description = self.description;
        let ids: Vec<String> = senders.iter().map(|sender| sender.test.id.to_string()).collect();
        type Count = (&'static str, &'static str, fn(&SenderStatus) -> u64);
        let counts: [Count; 3] = [
            ("sender_probes", "Sent probes", |sender| sender.sent),
            ("sender_errors", "Probes that could not be sent, or that were answered by an ICMP error", |sender| {
                sender.errors
            }),
            ("sender_skipped_slots", "Missed send times", |sender| sender.skipped),
        ];
        for (name, help, value) in counts {
            let series = senders.iter().zip(&ids);
            let series = series.map(|(sender, id)| (labels_of(&sender.test, id, None, description), value(sender)));
            self.counters(name, help, series)?;
        }
        // The sum of no numbers is -0.0.
        let lateness = senders.iter().map(|sender| sender.lateness_seconds).fold(0.0, |sum, one| sum + one);
        let mut family = self.family(
            "sender_lateness_seconds",
            "Total delay of sends after their scheduled time, all tests of this host",
            MetricType::Counter,
        )?;
        family.encode_counter::<NoLabelSet, f64, u64>(&lateness, None)
    }
}

/// Returns the labels that identify a test in every series. The description is optional, because operators change it.
fn labels_of<'a>(test: &'a TestFacts, id: &'a str, role: Option<Role>, description: bool) -> Labels<'a> {
    let mut labels = vec![
        ("test", id),
        ("set", test.set.as_deref().unwrap_or_default()),
        ("from", test.from_host.as_str()),
        ("to", test.to_host.as_str()),
    ];
    if let Some(role) = role {
        labels.push(("role", if role == Role::Receiver { "receiver" } else { "sender" }));
    }
    if description {
        labels.push(("description", test.description.as_str()));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::key::{AlarmKey, Subject};
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::alarm::notification::{AlarmState, AlarmStatus, SuppressedBy};
    use crate::pure::base::time::Now;
    use crate::pure::test::id::TestId;
    use crate::pure::test::spec::Protocol;

    #[test]
    fn metrics_are_rendered_for_an_agent_without_tests() {
        let text = render(Arc::new(Status { version: "2.0.0", ..Status::default() }), false).unwrap();
        assert!(text.contains("peerpair_build_info{version=\"2.0.0\"} 1"), "{text}");
        assert!(text.contains("peerpair_store_rollbacks_total 0") && text.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_are_escaped_and_description_is_added_on_request() {
        let test = TestFacts {
            id: TestId::of_set("s", "a", "b"),
            protocol: Protocol::Udp,
            description: "a \"quoted\"\nname".into(),
            from_host: "a".into(),
            from: String::new(),
            to_host: "b".into(),
            to: String::new(),
            tags: [].into(),
            set: Some("s".into()),
        };
        let status = || {
            let senders = Arc::new(vec![SenderStatus::unknown(Arc::new(test.clone()))]);
            Arc::new(Status { senders, ..Status::default() })
        };
        let plain = render(status(), false).unwrap();
        let line = plain.lines().find(|line| line.starts_with("peerpair_sender_probes_total{")).unwrap();
        assert!(line.ends_with("set=\"s\",from=\"a\",to=\"b\"} 0"), "{line}");
        let described = render(status(), true).unwrap();
        assert!(described.contains(r#"description="a \"quoted\"\nname""#), "{described}");
    }

    /// Returns the lines of one metric that the status contains.
    fn lines(status: Status, metric: &str) -> Vec<String> {
        let text = render(Arc::new(status), false).unwrap();
        text.lines().filter(|line| line.starts_with(&format!("peerpair_{metric}{{"))).map(str::to_owned).collect()
    }

    #[test]
    fn condition_that_is_not_decided_has_no_value() {
        let test = Arc::new(TestFacts::example(TestId::from_bytes([1; 16])));
        let conditions = [(Kind::Connection, State::Unknown), (Kind::Loss, State::Up), (Kind::Path, State::Down)];
        let of_test = TestStatus { conditions: conditions.into(), ..TestStatus::unknown(test, Role::Receiver) };
        let lines = lines(Status { tests: Arc::new(vec![of_test]), ..Status::default() }, "test_violated");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("kind=\"loss\"} 0.0") && lines[1].ends_with("kind=\"path\"} 1.0"), "{lines:?}");
    }

    #[test]
    fn suppressed_alarm_of_a_test_has_a_series_with_the_reason() {
        let test = Arc::new(TestFacts::example(TestId::from_bytes([1; 16])));
        let suppressed = Arc::new(vec![(test, Kind::Loss, "shelved")]);
        let lines = lines(Status { suppressed, ..Status::default() }, "test_suppressed");
        assert!(lines.len() == 1 && lines[0].ends_with("kind=\"loss\",by=\"shelved\"} 1.0"), "{lines:?}");
    }

    #[test]
    fn alarm_raised_has_no_series_for_suppressed_alarms_and_those_of_tests() {
        let shown = |subject: Subject, suppressed_by| {
            let cleared = cleared_notification("b", &AlarmKey::new(Kind::Connection, subject), Now::default());
            let notification = Arc::new(Notification { state: AlarmState::Raised, ..cleared });
            AlarmStatus { notification, suppressed_by }
        };
        let host = |name: &str| Subject::Host(name.to_owned());
        let alarms = vec![
            shown(host("h1"), None),
            shown(host("h2"), Some(SuppressedBy::Waiting)),
            shown(Subject::Test(TestId::from_bytes([1; 16])), None),
        ];
        let lines = lines(Status { alarms, ..Status::default() }, "alarm_raised");
        assert!(lines.len() == 1 && lines[0].contains("from=\"h1\",to=\"b\""), "{lines:?}");
    }
}
