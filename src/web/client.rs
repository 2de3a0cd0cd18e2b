//! Client of the API, with which commands such as `peerpair silence` send requests to a running agent.
//!
//! The main type is [`Agent`]; requests that change state carry the token.

use reqwest::{Client, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::document::secret::Secret;
use crate::io::tls;
use crate::pure::alarm::shelving::Silence;
use crate::pure::status::api::NewSilence;

/// Connection to the API of a running agent.
pub struct Agent {
    client: Client,
    url: String,
    token: Option<Secret>,
}

impl Agent {
    /// Creates a client of the agent whose status page is at `url`.
    pub fn new(url: &str, token: Option<Secret>) -> anyhow::Result<Self> {
        let tls = tls::for_url(url, None, None)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(std::time::Duration::from_secs(15))
            .build()?;
        Ok(Agent { client, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Returns the silences that have not expired.
    pub async fn silences(&self) -> anyhow::Result<Vec<Silence>> {
        self.query(Method::GET, "/api/silences", None).await
    }

    /// Creates a silence and returns it with its id.
    pub async fn add_silence(&self, new: &NewSilence) -> anyhow::Result<Silence> {
        self.query(Method::POST, "/api/silences", Some(serde_json::to_value(new)?)).await
    }

    /// Expires a silence and returns it.
    pub async fn expire_silence(&self, id: &str) -> anyhow::Result<Silence> {
        let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        anyhow::ensure!(
            plain && !id.is_empty(),
            "`{id}` is not the id of a silence: `peerpair silence list` shows \
                them"
        );
        self.query(Method::DELETE, &format!("/api/silences/{id}"), None).await
    }

    /// Returns the plan in force at the agent, in the format of `check-config --format json`.
    pub async fn plan(&self) -> anyhow::Result<Value> {
        self.query(Method::GET, "/api/plan", None).await
    }

    async fn query<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, &url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response =
            request.send().await.map_err(|error| anyhow::anyhow!("request to the agent at {url}: {error}"))?;
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        if status == StatusCode::OK {
            return serde_json::from_str(&body).map_err(|error| anyhow::anyhow!("{url}: unreadable answer: {error}"));
        }
        let said: Value = serde_json::from_str(&body).unwrap_or_default();
        let problem = said["error"].as_str().unwrap_or("no reason given").to_owned();
        anyhow::bail!("the agent at {} rejects the request: {problem} (HTTP status {status})", self.url)
    }
}
