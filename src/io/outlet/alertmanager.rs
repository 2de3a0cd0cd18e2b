//! Prometheus' Alertmanager, its API v2.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::http::{self, Http, Message};
use super::{Delivered, Identity};
use crate::config::sinks::SinkConfig;
use crate::io::time;
use crate::pure::alarm::{AlarmKey, Kind};
use crate::pure::ledger::Due;
use crate::pure::notification::Notification;
use crate::pure::time::WallTime;

/// A test notification fires for so long.
const TEST_FIRES: Duration = Duration::from_secs(60);

/// An Alertmanager.
pub struct Alertmanager {
    http: Http,
    alerts: Alerts,
}

struct Alerts {
    page: Arc<str>,
    shown: Mutex<Shown>,
}

type Labels = BTreeMap<&'static str, String>;

/// Under which labels alarms were told last. To an Alertmanager, an alert with other labels is another alert: where a
/// test gets another end or a tag while it is down, the one has to end and the other to begin.
#[derive(Default)]
struct Shown(BTreeMap<AlarmKey, (Labels, Option<WallTime>)>);

/// An alarm that is over is told for a while, under the labels that it had.
const KEPT_FOR: Duration = Duration::from_secs(3600);

impl Shown {
    /// The labels of an alarm, and those under which it was told before and is over.
    fn labels(&mut self, alarm: &Notification, now: WallTime) -> (Labels, Option<Labels>) {
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

    pub(super) async fn deliver(&mut self, batch: Vec<Due>) -> Delivered {
        self.http.deliver(batch, &self.alerts).await
    }
}

impl Message for Alerts {
    const IN_A_REQUEST: usize = 100;

    fn of(&self, alarms: &[&Notification]) -> Result<(Vec<u8>, HeaderMap), String> {
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

/// One that fires names no end: the Alertmanager counts its `resolve_timeout` by its own clock,
/// whatever ours says.
fn alert(alarm: &Notification, labels: Labels, page: &str, now: WallTime) -> Value {
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
    use crate::pure::alarm::Subject;
    use crate::pure::notification::AlarmState;
    use crate::pure::test::{TestFacts, TestId};
    use crate::pure::time::Now;
    use crate::pure::truth::blank;

    fn alarm(from_host: &str, state: AlarmState) -> Notification {
        let id = TestId::from_bytes([1; 16]);
        let test = TestFacts { from_host: from_host.into(), ..TestFacts::example(id) };
        let key = AlarmKey::new(Kind::Connection, Subject::Test(id));
        Notification { state, test: Some(Arc::new(test)), ..blank("b", &key, Now::default()) }
    }

    #[test]
    fn alert_whose_test_got_another_sender_ends_and_another_begins() {
        let (mut shown, now) = (Shown::default(), WallTime::default());
        let (labels, other) = shown.labels(&alarm("a", AlarmState::Raised), now);
        assert_eq!((labels["from"].as_str(), other.clone()), ("a", None));
        let (moved, other) = shown.labels(&alarm("c", AlarmState::Raised), now);
        assert_eq!((moved["from"].as_str(), other), ("c", Some(labels)));
        // The end of an alert is sent under the labels of its beginning, whatever the test's labels are by then.
        let (ended, other) = shown.labels(&alarm("d", AlarmState::Cleared), now);
        assert_eq!((ended, other), (moved, None));
        let (again, other) = shown.labels(&alarm("d", AlarmState::Raised), now);
        assert_eq!(again["from"], "d");
        assert!(other.is_some());
    }
}
