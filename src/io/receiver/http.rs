//! HTTP client shared by the Alertmanager and webhook receivers: labels and annotations of alerts, and POST requests
//! whose status is mapped to an outcome.
//!
//! The main type is [`Http`]; a receiver supplies the body of its requests through [`Message`].

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Proxy, Response, StatusCode};
use sha2::{Digest, Sha256};

use crate::config::document::sinks::SinkConfig;
use crate::io::error_chain::error_chain;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Outcome, blocking};
use crate::io::{secret, tls};
use crate::pure::alarm::key::Kind;
use crate::pure::alarm::notification::Notification;
use crate::pure::notify::log::Outbound;

/// Number of octets of a rejected request's response that are read and reported.
const SHOWN: usize = 200;
/// Largest number of requests for one batch. A receiver that rejects alarms causes the batch to be split again and
/// again; this bounds the number of requests.
const MAX_REQUESTS: usize = 40;

/// HTTP client for one URL. The token and certificates are read when the client is built, and again after a failure,
/// because they may have been replaced.
pub struct Http {
    config: SinkConfig,
    url: String,
    client: Option<Client>,
}

/// Format of a receiver's requests: builds the body and the additional headers for a list of alarms.
pub trait Message {
    /// Largest number of alarms in one request.
    const IN_A_REQUEST: usize;

    /// Returns the request body and its additional headers for the given alarms.
    fn of(&self, alarms: &[&Notification]) -> Result<(Vec<u8>, HeaderMap), DeliveryError>;
}

/// Reason for the failure of a request.
enum Failure {
    /// The receiver rejects the content of the request; a part of it may be accepted.
    Content(String),
    /// The receiver is unreachable or busy; it may give the time after which to retry.
    Receiver(String, Option<Duration>),
}

impl Http {
    pub fn new(config: &SinkConfig, url: String) -> Self {
        Http { config: config.clone(), url, client: None }
    }

    /// Delivers the alarms in requests of at most `IN_A_REQUEST` alarms. A request whose content is rejected is split
    /// in half, so that one alarm cannot block the others.
    pub async fn deliver<M: Message>(&mut self, batch: Vec<Outbound>, message: &M) -> Delivered {
        let (alarms, silent): (Vec<Outbound>, Vec<Outbound>) =
            batch.into_iter().partition(|due| matches!(due, Outbound::Alarm { .. }));
        let mut delivered = Delivered::all(silent, &Outcome::Nothing);
        let mut parts: VecDeque<Vec<Outbound>> = alarms.chunks(M::IN_A_REQUEST).map(<[Outbound]>::to_vec).collect();
        let mut requests = 0;
        while let Some(part) = parts.pop_front() {
            requests += 1;
            let posted = match M::IN_A_REQUEST > 1 && requests > MAX_REQUESTS {
                true => Err(Failure::Receiver("the receiver rejects nearly every message".to_owned(), None)),
                false => self.post(&part, message).await,
            };
            match posted {
                Ok(()) => delivered.add(part, &Outcome::Delivered),
                Err(Failure::Content(problem)) if part.len() < 2 => delivered.add(part, &Outcome::Refused(problem)),
                Err(Failure::Content(_)) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push_front(second.to_vec());
                    parts.push_front(first.to_vec());
                }
                Err(Failure::Receiver(problem, retry_after)) => {
                    self.client = None;
                    delivered.retry_after = retry_after;
                    delivered.add(part, &Outcome::Unreachable(problem));
                    parts.drain(..).for_each(|part| delivered.add(part, &Outcome::NotTried));
                }
            }
        }
        delivered
    }

    async fn post(&mut self, part: &[Outbound], message: &impl Message) -> Result<(), Failure> {
        let away = |error: DeliveryError| Failure::Receiver(error.to_string(), None);
        let alarms: Vec<&Notification> = alarms(part).collect();
        let (body, headers) = message.of(&alarms).map_err(away)?;
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let (config, url) = (self.config.clone(), self.url.clone());
                let client = blocking(move || client(&config, &url)).await.map_err(away)?;
                self.client.insert(client).clone()
            }
        };
        let json = HeaderValue::from_static("application/json");
        let request = client.post(&self.url).headers(headers).header("Content-Type", json);
        let request = request.timeout(self.config.response_timeout()).body(body).send();
        // The error's own text would include the URL, which may contain secrets.
        let response =
            request.await.map_err(|error| away(DeliveryError::Library(error_chain(&error.without_url()))))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| wait(value.to_str().ok()?));
        let problem = format!("HTTP status {status}: {}", excerpt(response).await.trim());
        Err(match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Failure::Content(problem)
            }
            _ => Failure::Receiver(problem, retry_after),
        })
    }
}

/// Reads the first `SHOWN` octets of the response, regardless of its length.
async fn excerpt(mut response: Response) -> String {
    let mut octets = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        octets.extend(&chunk[..chunk.len().min(SHOWN)]);
        if octets.len() >= SHOWN {
            break;
        }
    }
    String::from_utf8_lossy(&octets).chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the alarms among these messages.
pub fn alarms(batch: &[Outbound]) -> impl Iterator<Item = &Notification> {
    batch.iter().filter_map(|due| match due {
        Outbound::ColdStart => None,
        Outbound::Alarm { notification, .. } => Some(notification.as_ref()),
    })
}

/// Returns the labels of an alert, named as in `/metrics`: properties that stay the same while the alarm is raised.
pub fn labels(alarm: &Notification) -> BTreeMap<&'static str, String> {
    let kind = alarm.key.kind.as_str();
    let name: String = kind.split('_').map(capitalised).collect();
    let mut labels = BTreeMap::from([
        ("alertname", format!("Peerpair{name}")),
        ("agent", alarm.agent.clone()),
        ("kind", kind.to_owned()),
        ("severity", alarm.severity.as_str().to_owned()),
    ]);
    let (from, to) = alarm.ends();
    labels.extend(from.map(|from| ("from", from.to_owned())));
    labels.extend(to.map(|to| ("to", to.to_owned())));
    match &alarm.test {
        Some(test) if alarm.key.test().is_some() => {
            labels.insert("test", test.id.to_string());
            labels.extend(test.set.as_ref().map(|set| ("set", set.to_string())));
            let tags: Vec<&str> = test.tags.iter().map(String::as_str).collect();
            labels.extend((!tags.is_empty()).then(|| ("tags", tags.join(","))));
        }
        Some(_) | None => {
            labels.insert("subject", alarm.key.subject.to_string());
        }
    }
    labels
}

/// Returns the annotations of an alert: human-readable text and values that may change while the alarm is raised.
pub fn annotations(alarm: &Notification) -> BTreeMap<&'static str, String> {
    let mut annotations = BTreeMap::from([
        ("summary", alarm.headline()),
        ("description", alarm.text()),
        ("count", alarm.count.to_string()),
        ("suppressed", alarm.suppressed.to_string()),
    ]);
    // A test notification has no state: it is sent as firing, so that it is seen, and ends by itself.
    if alarm.key.kind != Kind::Test {
        annotations.insert("state", alarm.state.as_str().to_owned());
    }
    if let Some(test) = &alarm.test {
        annotations.extend([
            ("test_description", test.description.clone()),
            ("from_address", test.from.clone()),
            ("to_address", test.to.clone()),
        ]);
    }
    annotations
}

/// Returns an identifier that stays the same for an alarm even if the documents of its test change meanwhile.
pub fn fingerprint(alarm: &Notification) -> String {
    let hash = Sha256::digest(format!("{} {}", alarm.agent, alarm.key));
    hash.iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn client(config: &SinkConfig, url: &str) -> Result<Client, DeliveryError> {
    let mut headers = HeaderMap::new();
    let credentials = match (config.token(), config.password()) {
        (Some(token), _) => Some(format!("Bearer {}", secret::read(token)?.reveal())),
        (None, Some(password)) => {
            let both = format!("{}:{}", config.user, secret::read(password)?.reveal());
            Some(format!("Basic {}", BASE64_STANDARD.encode(both)))
        }
        (None, None) => None,
    };
    if let Some(credentials) = credentials {
        let mut value = HeaderValue::from_str(&credentials)
            .map_err(|error| DeliveryError::Unusable("the token".to_owned(), error.to_string()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let mut client = Client::builder()
        .tls_backend_preconfigured(tls::for_url(url, config.ca_file.as_deref(), config.client_certificate())?)
        .default_headers(headers)
        .user_agent(concat!("peerpair/", env!("CARGO_PKG_VERSION")))
        // Following a redirect would send alarms to a server that was not configured.
        .redirect(reqwest::redirect::Policy::none())
        .local_address(config.source);
    client = match config.proxy.as_deref() {
        // The environment's proxy applies: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
        None => client,
        Some("") => client.no_proxy(),
        Some(url) => {
            let proxy = Proxy::all(url);
            client.proxy(proxy.map_err(|error| DeliveryError::Unusable("proxy".to_owned(), error_chain(&error)))?)
        }
    };
    client.build().map_err(|error| DeliveryError::Library(error_chain(&error)))
}

/// Parses `Retry-After`, which is a number of seconds or a date (RFC 9110 section 10.2.3).
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
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::pure::alarm::key::{AlarmKey, Subject};
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::base::time::Now;
    use crate::pure::notify::log::NotifyReason;
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::id::TestId;

    #[test]
    fn retry_after_is_parsed_as_seconds_or_date() {
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(wait("Thu, 31 Dec 2099 23:59:59 GMT").is_some_and(|wait| wait > Duration::from_secs(3600)));
        assert_eq!(wait("soon"), None);
    }

    fn alarm() -> Notification {
        let id = TestId::from_bytes([1; 16]);
        let tags = ["db".to_owned(), "prod".to_owned()].into();
        let test = TestFacts { tags, set: Some("app-db".into()), ..TestFacts::example(id) };
        let cleared = cleared_notification("a", &AlarmKey::new(Kind::Loss, Subject::Test(id)), Now::default());
        Notification { test: Some(Arc::new(test)), ..cleared }
    }

    #[test]
    fn labels_name_set_and_tags_of_the_test() {
        let labels = labels(&alarm());
        let named = ["alertname", "from", "to", "set", "tags"].map(|name| labels[name].as_str());
        assert_eq!(named, ["PeerpairLoss", "a", "b", "app-db", "db,prod"]);
    }

    /// Message without content.
    struct Empty;

    impl Message for Empty {
        const IN_A_REQUEST: usize = 1;

        fn of(&self, _: &[&Notification]) -> Result<(Vec<u8>, HeaderMap), DeliveryError> {
            Ok((Vec::new(), HeaderMap::new()))
        }
    }

    /// Returns the outcome of an alarm that is sent to a server which answers with this status.
    async fn outcome(status: u16) -> Outcome {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let mut http = Http::new(&SinkConfig { proxy: Some(String::new()), ..SinkConfig::default() }, url);
        let due = Outbound::Alarm { notification: Arc::new(alarm()), reason: NotifyReason::First, still_raised: None };
        let answer = async {
            let (mut stream, _) = server.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (mut delivered, ()) = tokio::join!(http.deliver(vec![due], &Empty), answer);
        delivered.outcomes.remove(0).1
    }

    #[tokio::test]
    async fn status_about_the_content_is_a_refusal_and_other_errors_are_an_absent_receiver() {
        assert_eq!(outcome(200).await, Outcome::Delivered);
        for status in [400, 413, 422] {
            assert!(matches!(outcome(status).await, Outcome::Refused(_)), "{status}");
        }
        for status in [401, 404, 429, 500, 503] {
            assert!(matches!(outcome(status).await, Outcome::Unreachable(_)), "{status}");
        }
    }
}
