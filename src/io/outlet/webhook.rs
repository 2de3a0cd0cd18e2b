//! HTTP POST in the JSON of Alertmanager's webhooks, version 4.

use std::sync::Arc;

use futures_util::FutureExt;
use hmac::{Hmac, Mac};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::http::{self, Failure, Http};
use super::{Delivered, Identity};
use crate::config::secret::Secret;
use crate::config::sinks::SinkConfig;
use crate::io::secret;
use crate::pure::notification::Notification;

/// Carries `sha256=` and the HMAC-SHA-256 of the body with the shared secret, in hex.
const SIGNATURE: &str = "X-Peerpair-Signature";
/// An alert that has no end yet.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// A webhook.
pub struct Webhook {
    http: Http,
    name: String,
    identity: Identity,
    secret: Option<Result<Secret, String>>,
}

impl Webhook {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        Webhook {
            http: Http::new(config, config.url.clone()),
            name: config.name.clone(),
            identity: identity.clone(),
            secret: config.secret().map(secret::read),
        }
    }

    pub(super) async fn deliver(&self, batch: Vec<super::Due>) -> Delivered {
        http::deliver(batch, &|part| {
            async move {
                let alarms: Vec<&Notification> = http::alarms(&part).collect();
                if alarms.is_empty() {
                    return Ok(());
                }
                let body = self.message(&alarms).to_string().into_bytes();
                let headers = self.signature(&body).map_err(|problem| Failure::Receiver(problem, None))?;
                self.http.post(body, headers).await
            }
            .boxed()
        })
        .await
    }

    fn signature(&self, body: &[u8]) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let Some(secret) = &self.secret else { return Ok(headers) };
        let secret = secret.as_ref().map_err(Clone::clone)?;
        let mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()).map_err(|error| error.to_string())?;
        let code = mac.chain_update(body).finalize().into_bytes();
        let hex: String = code.iter().map(|octet| format!("{octet:02x}")).collect();
        let value = HeaderValue::from_str(&format!("sha256={hex}")).map_err(|error| error.to_string())?;
        headers.insert(SIGNATURE, value);
        Ok(headers)
    }

    fn message(&self, alarms: &[&Notification]) -> Value {
        let agent: Arc<str> = self.identity.agent.clone();
        let alerts: Vec<Value> = alarms.iter().map(|alarm| self.alert(alarm)).collect();
        let firing = alarms.iter().any(|alarm| alarm.is_raised());
        json!({
            "version": "4",
            "groupKey": format!("{{}}:{{agent=\"{agent}\"}}"),
            "truncatedAlerts": 0,
            "status": status(firing),
            "receiver": self.name,
            "groupLabels": { "agent": agent.as_ref() },
            "commonLabels": common(&alerts, "labels"),
            "commonAnnotations": common(&alerts, "annotations"),
            "externalURL": self.identity.page.as_ref(),
            "alerts": alerts,
        })
    }

    fn alert(&self, alarm: &Notification) -> Value {
        let labels = http::labels(alarm);
        let ends = if alarm.is_raised() { NO_END.to_owned() } else { alarm.since.to_string() };
        json!({
            "status": status(alarm.is_raised()),
            "labels": labels,
            "annotations": http::annotations(alarm),
            "startsAt": alarm.since,
            "endsAt": ends,
            "generatorURL": self.identity.page.as_ref(),
            "fingerprint": http::fingerprint(&labels),
        })
    }
}

fn status(firing: bool) -> &'static str {
    if firing { "firing" } else { "resolved" }
}

/// What all of them say alike.
fn common(alerts: &[Value], of: &str) -> Map<String, Value> {
    let mut sets = alerts.iter().filter_map(|alert| alert[of].as_object());
    let mut common = sets.next().cloned().unwrap_or_default();
    for set in sets {
        common.retain(|name, value| set.get(name) == Some(value));
    }
    common
}
