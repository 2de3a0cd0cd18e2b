//! Prometheus' Alertmanager, its API v2.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::http::{self, Http};
use super::{Delivered, Identity};
use crate::config::sinks::SinkConfig;
use crate::io::time;
use crate::pure::notification::Notification;
use crate::pure::time::WallTime;

/// A firing alert that is not told again ends by itself after so long: four times what it is told
/// again by, as Prometheus does it.
const ENDS_AFTER: Duration = Duration::from_secs(240);

/// An Alertmanager.
pub struct Alertmanager {
    http: Http,
    page: Arc<str>,
}

impl Alertmanager {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        let url = format!("{}/api/v2/alerts", config.url.trim_end_matches('/'));
        Alertmanager { http: Http::new(config, url), page: identity.page.clone() }
    }

    pub(super) async fn deliver(&self, batch: Vec<super::Due>) -> Delivered {
        http::deliver(batch, &|part| {
            async move {
                let now = time::now().wall;
                let alerts: Vec<Value> = http::alarms(&part).map(|alarm| alert(alarm, &self.page, now)).collect();
                if alerts.is_empty() {
                    return Ok(());
                }
                self.http.post(Value::Array(alerts).to_string().into_bytes(), HeaderMap::new()).await
            }
            .boxed()
        })
        .await
    }
}

fn alert(alarm: &Notification, page: &str, now: WallTime) -> Value {
    // One that ends has to have begun, and not later.
    let ends = if alarm.is_raised() { now + ENDS_AFTER } else { alarm.since };
    json!({
        "labels": http::labels(alarm),
        "annotations": http::annotations(alarm),
        "startsAt": alarm.since.min(ends),
        "endsAt": ends,
        "generatorURL": page,
    })
}
