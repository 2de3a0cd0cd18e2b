//! Prometheus' Alertmanager, its API v2.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::http::{self, Http, Message};
use super::{Delivered, Identity};
use crate::config::sinks::SinkConfig;
use crate::io::time;
use crate::pure::alarm::Kind;
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
}

impl Alertmanager {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        let url = format!("{}/api/v2/alerts", config.url.trim_end_matches('/').trim_end_matches("/api/v2/alerts"));
        Alertmanager { http: Http::new(config, url), alerts: Alerts { page: identity.page.clone() } }
    }

    pub(super) async fn deliver(&mut self, batch: Vec<Due>) -> Delivered {
        self.http.deliver(batch, &self.alerts).await
    }
}

impl Message for Alerts {
    const IN_A_REQUEST: usize = 100;

    fn of(&self, alarms: &[&Notification]) -> Result<(Vec<u8>, HeaderMap), String> {
        let now = time::now().wall;
        let alerts: Vec<Value> = alarms.iter().map(|alarm| alert(alarm, &self.page, now)).collect();
        Ok((Value::Array(alerts).to_string().into_bytes(), HeaderMap::new()))
    }
}

/// One that fires names no end: the Alertmanager counts its `resolve_timeout` by its own clock,
/// whatever ours says.
fn alert(alarm: &Notification, page: &str, now: WallTime) -> Value {
    let mut alert = json!({
        "labels": http::labels(alarm),
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
