//! What Alertmanagers and webhooks have in common: alarms as alerts, and a POST that says what became of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use sha2::{Digest, Sha256};

use super::{Delivered, not_tried};
use crate::config::sinks::SinkConfig;
use crate::io::{secret, tls};
use crate::pure::ledger::Due;
use crate::pure::notification::Notification;

/// So much of a refusal is shown.
const SHOWN: usize = 200;

/// A client for one URL.
pub struct Http {
    url: String,
    client: Result<Client, String>,
    timeout: Duration,
}

/// Why a request failed.
pub enum Failure {
    /// The receiver does not like what it was sent: a part of it may fare better.
    Content(String),
    /// It is away, or busy, until then.
    Receiver(String, Option<Duration>),
}

impl Http {
    pub fn new(config: &SinkConfig, url: String) -> Self {
        Http { url, client: client(config), timeout: config.answer_within() }
    }

    /// Posts JSON.
    pub async fn post(&self, body: Vec<u8>, headers: HeaderMap) -> Result<(), Failure> {
        let away = |problem: String| Failure::Receiver(problem, None);
        let client = self.client.as_ref().map_err(|problem| away(problem.clone()))?;
        let json = HeaderValue::from_static("application/json");
        let request = client.post(&self.url).headers(headers).header("Content-Type", json).timeout(self.timeout);
        // The error's own text would name the URL with whatever secrets are in it.
        let response = request.body(body).send().await.map_err(|error| away(reason(error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| wait(value.to_str().ok()?));
        let said = response.text().await.unwrap_or_default();
        let said: String = said.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let problem = format!("HTTP status {status}: {}", said.trim());
        Err(match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Failure::Content(problem)
            }
            _ => Failure::Receiver(problem, retry_after),
        })
    }
}

/// Delivers a batch by `post`. What the receiver does not like is halved, so that one alarm cannot
/// hold up all others.
pub fn deliver<'a, P>(batch: Vec<Due>, post: &'a P) -> BoxFuture<'a, Delivered>
where
    P: Fn(Vec<Due>) -> BoxFuture<'a, Result<(), Failure>> + Sync,
{
    Box::pin(async move {
        match post(batch.clone()).await {
            Ok(()) => Delivered::all(batch, &Ok(())),
            Err(Failure::Receiver(problem, retry_after)) => {
                Delivered { retry_after, ..Delivered::all(batch, &Err(problem)) }
            }
            Err(Failure::Content(problem)) if batch.len() < 2 => Delivered::all(batch, &Err(problem)),
            Err(Failure::Content(_)) => {
                let (first, second) = batch.split_at(batch.len() / 2);
                let mut delivered = deliver(first.to_vec(), post).await;
                if let Some(wait) = delivered.retry_after {
                    let rest = Delivered::all(second.to_vec(), &Err(not_tried("the receiver asks to wait")));
                    delivered.outcomes.extend(rest.outcomes);
                    return Delivered { retry_after: Some(wait), ..delivered };
                }
                let rest = deliver(second.to_vec(), post).await;
                delivered.outcomes.extend(rest.outcomes);
                Delivered { retry_after: rest.retry_after, ..delivered }
            }
        }
    })
}

/// The alarms among these messages.
pub fn alarms(batch: &[Due]) -> impl Iterator<Item = &Notification> {
    batch.iter().filter_map(|due| match due {
        Due::ColdStart => None,
        Due::Alarm { notification, .. } => Some(notification.as_ref()),
    })
}

/// What makes an alert the same alert: the alarm's key.
pub fn labels(alarm: &Notification) -> BTreeMap<&'static str, String> {
    let kind = alarm.key.kind.as_str();
    let name: String = kind.split('_').map(capitalised).collect();
    BTreeMap::from([
        ("alertname", format!("Peerpair{name}")),
        ("agent", alarm.agent.clone()),
        ("kind", kind.to_owned()),
        ("subject", alarm.key.subject.to_string()),
        ("severity", alarm.severity.as_str().to_owned()),
    ])
}

/// What people want to know beside that.
pub fn annotations(alarm: &Notification) -> BTreeMap<&'static str, String> {
    let mut annotations = BTreeMap::from([
        ("summary", alarm.headline()),
        ("description", alarm.text.clone()),
        ("state", alarm.state.as_str().to_owned()),
        ("count", alarm.count.to_string()),
        ("suppressed", alarm.suppressed.to_string()),
    ]);
    if let Some(test) = &alarm.test {
        annotations.extend([
            ("test", test.description.clone()),
            ("from_host", test.from_host.clone()),
            ("from", test.from.clone()),
            ("to_host", test.to_host.clone()),
            ("to", test.to.clone()),
        ]);
    }
    annotations
}

/// The same alert has the same.
pub fn fingerprint(labels: &BTreeMap<&'static str, String>) -> String {
    let hash = labels.iter().fold(Sha256::new(), |hash, (name, value)| hash.chain_update(format!("{name}={value}\n")));
    hash.finalize().iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn client(config: &SinkConfig) -> Result<Client, String> {
    let tls = tls::client(config.ca_file.as_deref())?;
    let mut headers = HeaderMap::new();
    if let Some(token) = config.token() {
        let token = secret::read(token)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .map_err(|_| "the token has characters that no header can have".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Client::builder()
        .tls_backend_preconfigured(tls)
        .default_headers(headers)
        .user_agent(concat!("peerpair/", env!("CARGO_PKG_VERSION")))
        // Whoever is redirected tells somebody else than was configured.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(reason)
}

fn reason(error: reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
fn wait(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    let date: SystemTime = date.timestamp().into();
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after() {
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(wait("Thu, 31 Dec 2099 23:59:59 GMT").is_some_and(|wait| wait > Duration::from_secs(3600)));
        assert_eq!(wait("soon"), None);
    }
}
