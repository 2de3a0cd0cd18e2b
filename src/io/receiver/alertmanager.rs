//! Receiver that posts alarms to an Alertmanager of Prometheus with its API v2.
//!
//! The main type is [`Alertmanager`], which also remembers the labels of each alert, so that a changed alert is
//! resolved.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::http::{self, Http, Message};
use crate::config::document::sinks::SinkConfig;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Identity};
use crate::io::time;
use crate::pure::alarm::key::{AlarmKey, Kind};
use crate::pure::alarm::notification::Notification;
use crate::pure::base::time::WallTime;
use crate::pure::notify::log::Outbound;

/// Time for which the alert of a test notification fires.
const TEST_FIRES: Duration = Duration::from_secs(60);

/// Alertmanager receiver: an HTTP client, and the labels under which alarms were last sent.
pub struct Alertmanager {
    http: Http,
    alerts: Alerts,
}

struct Alerts {
    page: Arc<str>,
    shown: Mutex<SentLabels>,
}

type AlertLabels = BTreeMap<&'static str, String>;

/// Labels under which each alarm was last sent. An Alertmanager takes an alert with other labels for a different
/// alert: when a test gets another end or tag while it is down, the old alert has to be resolved and a new one fired.
#[derive(Default)]
struct SentLabels(BTreeMap<AlarmKey, (AlertLabels, Option<WallTime>)>);

/// Time for which a cleared alarm's labels are kept, so that repeated clears are sent under the same labels.
const KEPT_FOR: Duration = Duration::from_secs(3600);

impl SentLabels {
    /// Returns the labels to send an alarm with, and the previous labels if that alert has to be resolved.
    fn labels(&mut self, alarm: &Notification, now: WallTime) -> (AlertLabels, Option<AlertLabels>) {
        let kept = |ended: &Option<WallTime>| ended.is_none_or(|at| now.nanos_since(at) < KEPT_FOR.as_nanos() as i64);
        self.0.retain(|_, (_, ended)| kept(ended));
        let own = http::labels(alarm);
        if !alarm.is_raised() {
            let Some((labels, ended)) = self.0.get_mut(&alarm.key) else { return (own, None) };
            ended.get_or_insert(now);
            return (labels.clone(), None);
        }
        let before = self.0.insert(alarm.key.clone(), (own.clone(), None));
        let other = before.map(|(labels, _)| labels).filter(|labels| *labels != own);
        (own, other)
    }
}

impl Alertmanager {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        let url = format!("{}/api/v2/alerts", config.url.trim_end_matches('/').trim_end_matches("/api/v2/alerts"));
        Alertmanager {
            http: Http::new(config, url),
            alerts: Alerts { page: identity.page.clone(), shown: Mutex::default() },
        }
    }

    pub(super) async fn deliver(&mut self, batch: Vec<Outbound>) -> Delivered {
        self.http.deliver(batch, &self.alerts).await
    }
}

impl Message for Alerts {
    const IN_A_REQUEST: usize = 100;

    fn of(&self, alarms: &[&Notification]) -> Result<(Vec<u8>, HeaderMap), DeliveryError> {
        let now = time::now().wall;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alerts = Vec::new();
        for alarm in alarms {
            let (labels, other) = shown.labels(alarm, now);
            if let Some(other) = other {
                let mut ended = alert(alarm, other, &self.page, now);
                ended["endsAt"] = json!(now);
                alerts.push(ended);
            }
            alerts.push(alert(alarm, labels, &self.page, now));
        }
        Ok((Value::Array(alerts).to_string().into_bytes(), HeaderMap::new()))
    }
}

/// Builds one alert. A firing alert has no `endsAt` (unless it is a test notification): the Alertmanager then applies
/// its `resolve_timeout` by its own clock, regardless of this host's clock.
fn alert(alarm: &Notification, labels: AlertLabels, page: &str, now: WallTime) -> Value {
    let mut alert = json!({
        "labels": labels,
        "annotations": http::annotations(alarm),
        "startsAt": alarm.raised_at,
        "generatorURL": page,
    });
    match (alarm.key.kind, alarm.is_raised()) {
        (Kind::Test, _) => alert["endsAt"] = json!(now + TEST_FIRES),
        (_, false) => alert["endsAt"] = json!(alarm.since.max(alarm.raised_at)),
        (_, true) => {}
    }
    alert
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::key::Subject;
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::alarm::notification::AlarmState;
    use crate::pure::base::time::Now;
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::id::TestId;

    fn alarm(from_host: &str, state: AlarmState) -> Notification {
        let id = TestId::from_bytes([1; 16]);
        let test = TestFacts { from_host: from_host.into(), ..TestFacts::example(id) };
        let key = AlarmKey::new(Kind::Connection, Subject::Test(id));
        Notification { state, test: Some(Arc::new(test)), ..cleared_notification("b", &key, Now::default()) }
    }

    #[test]
    fn old_alert_is_resolved_and_new_one_fires_when_test_sender_changes() {
        let (mut shown, now) = (SentLabels::default(), WallTime::default());
        let (labels, other) = shown.labels(&alarm("a", AlarmState::Raised), now);
        assert_eq!((labels["from"].as_str(), other.clone()), ("a", None));
        let (moved, other) = shown.labels(&alarm("c", AlarmState::Raised), now);
        assert_eq!((moved["from"].as_str(), other), ("c", Some(labels)));
        // A resolved alert is sent under the labels that it fired with, even if the test's labels have changed since.
        let (ended, other) = shown.labels(&alarm("d", AlarmState::Cleared), now);
        assert_eq!((ended, other), (moved, None));
        let (again, other) = shown.labels(&alarm("d", AlarmState::Raised), now);
        assert_eq!(again["from"], "d");
        assert!(other.is_some());
    }
}
