//! Webhook receiver: posts alarms in the JSON format of Alertmanager's webhooks, version 4.
//!
//! The main type is [`Webhook`]. Each request is signed if a secret is configured.

use hmac::{Hmac, Mac};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::http::{self, Http, Message};
use crate::config::document::secret::Secret;
use crate::config::document::sinks::SinkConfig;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Identity, Outcome, blocking};
use crate::io::secret;
use crate::pure::alarm::key::Kind;
use crate::pure::alarm::notification::Notification;
use crate::pure::notify::log::Outbound;

/// Header that carries `sha256=` and the HMAC-SHA-256 of the body in hex, computed with the shared secret.
const SIGNATURE: &str = "X-Peerpair-Signature";
/// Value of `endsAt` for an alert that is still firing, as Alertmanager sends it.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// Webhook receiver: an HTTP client, and the configuration from which each request is built.
pub struct Webhook {
    http: Http,
    config: SinkConfig,
    identity: Identity,
}

struct Signed {
    receiver: String,
    identity: Identity,
    secret: Option<Secret>,
}

impl Webhook {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        let http = Http::new(config, config.url.clone());
        Webhook { http, config: config.clone(), identity: identity.clone() }
    }

    pub(super) async fn deliver(&mut self, batch: Vec<Outbound>) -> Delivered {
        let config = self.config.clone();
        // The secret is read for each delivery, because it may have been replaced.
        let secret = match blocking(move || config.secret().map(secret::read).transpose()).await {
            Ok(secret) => secret,
            Err(error) => return Delivered::all(batch, &Outcome::unreachable(error)),
        };
        let message = Signed { receiver: self.config.name.clone(), identity: self.identity.clone(), secret };
        self.http.deliver(batch, &message).await
    }
}

impl Message for Signed {
    /// Every alarm is sent in a request by itself, because receivers use the group's key as the key of an incident.
    const IN_A_REQUEST: usize = 1;

    fn of(&self, alarms: &[&Notification]) -> Result<(Vec<u8>, HeaderMap), DeliveryError> {
        let body = self.json(alarms).to_string().into_bytes();
        let mut headers = HeaderMap::new();
        if let Some(secret) = &self.secret {
            let mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes())
                .map_err(|error| DeliveryError::Encode(error.to_string()))?;
            let code = mac.chain_update(&body).finalize().into_bytes();
            let hex: String = code.iter().map(|octet| format!("{octet:02x}")).collect();
            let value = HeaderValue::from_str(&format!("sha256={hex}"))
                .map_err(|error| DeliveryError::Encode(error.to_string()))?;
            headers.insert(SIGNATURE, value);
        }
        Ok((body, headers))
    }
}

impl Signed {
    fn json(&self, alarms: &[&Notification]) -> Value {
        let agent = self.identity.agent.as_ref();
        let alerts: Vec<Value> = alarms.iter().map(|alarm| self.alert(alarm)).collect();
        let firing = alarms.iter().any(|alarm| fires(alarm));
        json!({
            "version": "4",
            "groupKey": group_key(alarms.first().copied(), agent),
            "truncatedAlerts": 0,
            "status": status(firing),
            "receiver": self.receiver,
            "groupLabels": group_labels(alarms.first().copied(), agent),
            "commonLabels": common(&alerts, "labels"),
            "commonAnnotations": common(&alerts, "annotations"),
            "externalURL": self.identity.page.as_ref(),
            "alerts": alerts,
        })
    }

    fn alert(&self, alarm: &Notification) -> Value {
        let labels = http::labels(alarm);
        let ends = if fires(alarm) { NO_END.to_owned() } else { alarm.since.to_string() };
        json!({
            "status": status(fires(alarm)),
            "labels": labels,
            "annotations": http::annotations(alarm),
            "startsAt": alarm.raised_at,
            "endsAt": ends,
            "generatorURL": self.identity.page.as_ref(),
            "fingerprint": http::fingerprint(alarm),
        })
    }
}

/// Returns the labels that identify the group of an alarm; every alarm is a group of its own.
fn group_labels(alarm: Option<&Notification>, agent: &str) -> Map<String, Value> {
    let mut labels = Map::from_iter([("agent".to_owned(), json!(agent))]);
    if let Some(alarm) = alarm {
        labels.insert("kind".to_owned(), json!(alarm.key.kind.as_str()));
        labels.insert("subject".to_owned(), json!(alarm.key.subject.to_string()));
    }
    labels
}

/// Returns the key of the alarm's group: `{}:{agent="a", kind="connection", subject="test ..."}`.
fn group_key(alarm: Option<&Notification>, agent: &str) -> String {
    let labels = group_labels(alarm, agent);
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{{}}:{{{}}}", labels.join(", "))
}

/// Returns whether the alert fires. A test notification always does, because it is meant to reach a person.
fn fires(alarm: &Notification) -> bool {
    alarm.is_raised() || alarm.key.kind == Kind::Test
}

fn status(firing: bool) -> &'static str {
    if firing { "firing" } else { "resolved" }
}

/// Returns the entries of the named object that all alerts have in common.
fn common(alerts: &[Value], of: &str) -> Map<String, Value> {
    let mut sets = alerts.iter().filter_map(|alert| alert[of].as_object());
    let mut common = sets.next().cloned().unwrap_or_default();
    for set in sets {
        common.retain(|name, value| set.get(name) == Some(value));
    }
    common
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::pure::alarm::key::{AlarmKey, Subject};
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::base::time::Now;
    use crate::pure::test::id::TestId;

    fn cleared(kind: Kind, subject: Subject) -> Notification {
        cleared_notification("a", &AlarmKey::new(kind, subject), Now::default())
    }

    #[test]
    fn group_key_differs_by_kind_and_by_subject() {
        let test = |n| Subject::Test(TestId::from_bytes([n; 16]));
        let alarms = [cleared(Kind::Loss, test(1)), cleared(Kind::Loss, test(2)), cleared(Kind::Latency, test(1))];
        let keys: BTreeSet<String> = alarms.iter().map(|alarm| group_key(Some(alarm), "a")).collect();
        assert_eq!(keys.len(), 3, "{keys:?}");
    }

    #[test]
    fn cleared_alarm_is_resolved_and_a_test_notification_fires() {
        let shown = |kind| status(fires(&cleared(kind, Subject::Agent)));
        assert_eq!([Kind::Clock, Kind::Test].map(shown), ["resolved", "firing"]);
    }
}
