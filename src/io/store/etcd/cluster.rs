//! HTTP client of an etcd cluster: it selects the member that is asked, keeps the connection, and authenticates.
//! [`Cluster`] quarantines a member that failed and moves on to another. Certificates that are replaced on disk are
//! loaded again before the next round of requests.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::fault::{Fault, FaultKind, classify};
use crate::config::bootstrap::StoreConfig;
use crate::config::document::secret::Secret;
use crate::io::error_chain::error_chain;
use crate::io::secret;
use crate::io::tls::{self, TlsError};

/// Range, in milliseconds, of the time for which a failed member is not asked, unless all members have failed.
const QUARANTINE: std::ops::Range<u64> = 20_000..40_000;
/// Idle time after which a TCP or HTTP/2 connection is probed with a keep-alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Time within which the peer must answer an HTTP/2 keep-alive, or the connection counts as dead.
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// Range over which agents spread the renewal of their tokens: when tokens expire, all agents need new ones at once,
/// and etcd checks only about ten passwords a second.
const NEW_TOKEN_WITHIN: Duration = Duration::from_secs(10);
/// Timeout of an authentication. It is long because etcd checks the password of a client that has given up all the
/// same, and that client then asks again.
const AUTHENTICATED_WITHIN: Duration = Duration::from_secs(120);

/// Client of one cluster, which sends its requests to one member at a time.
pub struct Cluster {
    config: StoreConfig,
    members: Vec<ClusterMember>,
    current: usize,
    connection: Option<Connection>,
    token: Option<Secret>,
    /// True once a token was requested: later requests are then spread over [`NEW_TOKEN_WITHIN`].
    had_token: bool,
}

struct ClusterMember {
    url: Url,
    quarantined_until: Option<Instant>,
}

struct Connection {
    client: Client,
    /// Modification time and size of the certificate files when they were loaded; `None` for a file that could not be
    /// read.
    files: Vec<Option<(SystemTime, u64)>>,
}

/// Response of a member, with the headers of the v2 API.
pub struct ApiAnswer {
    /// HTTP status of the response.
    pub status: StatusCode,
    /// Header `X-Etcd-Index`, which only the v2 API sends.
    pub index: Option<u64>,
    /// Header `X-Etcd-Cluster-Id`, which only the v2 API sends.
    pub cluster_id: Option<String>,
    /// Body of the response, unparsed.
    pub body: Vec<u8>,
}

/// Answer of a member to `GET /version`.
#[derive(Clone, Debug, Deserialize)]
pub struct Version {
    /// Version of the server, such as `3.5.1`.
    pub etcdserver: String,
}

impl Cluster {
    /// Creates a client for the configured endpoints, in random order, so that a fleet spreads over the members.
    pub fn new(config: &StoreConfig) -> Result<Self, Fault> {
        let mut members = Vec::new();
        for endpoint in &config.endpoints {
            let url = Url::parse(endpoint).map_err(|error| Fault::access(format!("{endpoint}: {error}")))?;
            members.push(ClusterMember { url, quarantined_until: None });
        }
        if members.is_empty() {
            return Err(Fault::access("no endpoint".to_owned()));
        }
        fastrand::shuffle(&mut members);
        Ok(Cluster { config: config.clone(), members, current: 0, connection: None, token: None, had_token: false })
    }

    /// Returns the number of configured members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns the URL of the member that requests go to now.
    pub fn place(&self) -> String {
        self.members[self.current].url.to_string()
    }

    /// Requests the version of the current member, which etcd reports without authentication.
    pub async fn version(&mut self) -> Result<Version, Fault> {
        let url = self.url(&["version"])?;
        let answer = self.answer(self.client()?.get(url)).await?;
        serde_json::from_slice(&answer.body).map_err(|_| match answer.status.is_server_error() {
            true => Fault { kind: FaultKind::Member, problem: format!("HTTP status {}", answer.status) },
            false => Fault::api(format!("HTTP status {} to GET /version: not an etcd", answer.status)),
        })
    }

    /// Builds a request of the v2 API, with basic authentication if a user is configured.
    pub fn v2(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> Result<RequestBuilder, Fault> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client()?.request(method, url);
        Ok(match self.password()? {
            Some(password) => request.basic_auth(&self.config.auth.user, Some(password.reveal())),
            None => request,
        })
    }

    /// Sends a request of the v3 API; if the token is rejected, authenticates and sends it once more.
    pub async fn v3(&mut self, path: &str, body: &Value) -> Result<ApiAnswer, Fault> {
        let body = body.to_string();
        let first = self.ask_v3(path, &body).await;
        match first {
            Err(fault) if fault.kind == FaultKind::Token && !self.config.auth.user.is_empty() => {
                match self.authenticate(path).await {
                    // etcd also rejects a token when authentication is off; then the request goes without one.
                    Err(Fault { kind: FaultKind::NoAuthentication, .. }) => self.token = None,
                    other => other?,
                }
                self.ask_v3(path, &body).await
            }
            Err(fault) if fault.kind == FaultKind::Token => {
                let help = "etcd requires a user: set [store.auth] user and password_file";
                Err(Fault::access(format!("{}; {help}", fault.problem)))
            }
            other => other,
        }
    }

    /// Opens a stream of the v3 API. Only the opening has a timeout; the stream itself has none.
    pub async fn v3_stream(&mut self, path: &str, body: String) -> Result<Response, Fault> {
        let request = self.v3_request(path, body)?.header("Grpc-Metadata-hasleader", "true");
        let opened = tokio::time::timeout(self.config.request_timeout, request.send()).await;
        let response = match opened {
            Ok(response) => response.map_err(|error| self.unreachable(&error))?,
            Err(_) => return Err(self.no_answer()),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = self.read(response).await?;
        Err(self.refusal(&answer))
    }

    async fn ask_v3(&mut self, path: &str, body: &str) -> Result<ApiAnswer, Fault> {
        let request = self.v3_request(path, body.to_owned())?;
        let answer = self.answer(request).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    fn v3_request(&self, path: &str, body: String) -> Result<RequestBuilder, Fault> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let request = self.client()?.post(self.url(&segments)?).header("Content-Type", "application/json").body(body);
        let Some(token) = &self.token else { return Ok(request) };
        // etcd expects the bare token, without a scheme such as `Bearer` before it.
        let mut value = HeaderValue::from_str(token.reveal())
            .map_err(|_| Fault::access("the token has characters that no header can have".to_owned()))?;
        value.set_sensitive(true);
        Ok(request.headers(HeaderMap::from_iter([(AUTHORIZATION, value)])))
    }

    /// Requests a token from the v3 API, under the version root that `path` begins with.
    async fn authenticate(&mut self, path: &str) -> Result<(), Fault> {
        let Some(password) = self.password()? else {
            return Err(Fault::access("[store.auth] names a user and no password".to_owned()));
        };
        if std::mem::replace(&mut self.had_token, true) {
            tokio::time::sleep(NEW_TOKEN_WITHIN.mul_f64(fastrand::f64())).await;
        }
        self.token = None;
        let root = path.trim_start_matches('/').split('/').next().unwrap_or("v3");
        let user = self.config.auth.user.clone();
        let body = serde_json::json!({"name": user, "password": password.reveal()}).to_string();
        let request = self.v3_request(&format!("/{root}/auth/authenticate"), body)?.timeout(AUTHENTICATED_WITHIN);
        let response = request.send().await.map_err(|error| match error.is_timeout() {
            true => Fault::access(format!("user `{user}`: no token within {}", shown(AUTHENTICATED_WITHIN))),
            false => self.unreachable(&error),
        })?;
        let answer = self.read(response).await?;
        if !answer.status.is_success() {
            let fault = self.refusal(&answer);
            return Err(Fault { problem: format!("user `{user}`: {}", fault.problem), ..fault });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Secret,
        }
        let token: Token = serde_json::from_slice(&answer.body)
            .map_err(|error| Fault::access(format!("unreadable answer to authenticate: {error}")))?;
        self.token = Some(token.token);
        Ok(())
    }

    fn password(&self) -> Result<Option<Secret>, Fault> {
        let auth = &self.config.auth;
        match auth.password() {
            Some(source) if !auth.user.is_empty() => {
                secret::read(source).map(Some).map_err(|error| Fault::access(error.to_string()))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Sends a request and reads the whole response, within the configured request timeout.
    pub async fn answer(&self, request: RequestBuilder) -> Result<ApiAnswer, Fault> {
        let request = request.timeout(self.config.request_timeout);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.read(response).await
    }

    async fn read(&self, response: Response) -> Result<ApiAnswer, Fault> {
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let index = header("X-Etcd-Index").and_then(|index| index.parse().ok());
        let cluster_id = header("X-Etcd-Cluster-Id");
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?.to_vec();
        Ok(ApiAnswer { status, index, cluster_id, body })
    }

    /// Converts an unsuccessful response to the fault that it stands for.
    fn refusal(&self, answer: &ApiAnswer) -> Fault {
        classify(answer.status.as_u16(), &answer.body, self.config.tls.cert_file.is_some())
    }

    /// Describes why a request got no response, with a hint at the fix where the cause is known.
    pub fn unreachable(&self, error: &reqwest::Error) -> Fault {
        let problem = error_chain(error);
        let https = self.members[self.current].url.scheme() == "https";
        let hint = if https && (problem.contains("InvalidContentType") || problem.contains("tls handshake eof")) {
            "; this endpoint does not use TLS: write http://, or give etcd a certificate"
        } else if !https
            && (problem.contains("connection closed before message completed") || problem.contains("IncompleteMessage"))
        {
            "; an endpoint that requires TLS does that: write https://"
        } else if problem.contains("UnknownIssuer") && self.config.tls.ca_file.is_none() {
            "; this host does not trust its certificate: set [store.tls] ca_file"
        } else if problem.contains("UnknownIssuer") || problem.contains("BadSignature") {
            "; its certificate is of another authority than [store.tls] ca_file"
        } else if problem.contains("Expired") {
            "; its certificate has expired, or this host's clock is wrong"
        } else if problem.contains("NotValidForName") {
            "; its certificate is for another name: use that name in [store] endpoints"
        } else if problem.contains("CertificateRequired")
            || (https && self.config.tls.cert_file.is_none() && problem.contains("BadCertificate"))
        {
            "; it requires a client certificate: set [store.tls] cert_file and key_file"
        } else if https && self.config.tls.cert_file.is_none() && problem.contains("connection closed") {
            // The server's TLS alert is lost if the connection is closed before the alert was read.
            "; if it requires a client certificate, set [store.tls] cert_file and key_file"
        } else {
            ""
        };
        Fault { kind: FaultKind::Member, problem: format!("{problem}{hint}") }
    }

    fn no_answer(&self) -> Fault {
        let within = shown(self.config.request_timeout);
        Fault { kind: FaultKind::Member, problem: format!("no answer within {within}") }
    }

    fn url(&self, path: &[&str]) -> Result<Url, Fault> {
        let mut url = self.members[self.current].url.clone();
        url.path_segments_mut().map_err(|()| Fault::access("not a base URL".to_owned()))?.clear().extend(path);
        Ok(url)
    }

    fn client(&self) -> Result<&Client, Fault> {
        match &self.connection {
            Some(connection) => Ok(&connection.client),
            None => Err(Fault::access("no client".to_owned())),
        }
    }

    /// Loads the certificates again if they were replaced on disk; called before each round of requests. If loading
    /// fails, the previous client stays in use.
    pub fn refresh(&mut self) -> Result<(), Fault> {
        let tls = &self.config.tls;
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        let files: Vec<_> = [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten().map(stamp).collect();
        if self.connection.as_ref().is_some_and(|connection| connection.files == files) {
            return Ok(());
        }
        match (self.build(), &self.connection) {
            (Ok(client), _) => {
                self.connection = Some(Connection { client, files });
                Ok(())
            }
            (Err(_), Some(_)) => Ok(()),
            (Err(fault), None) => Err(fault),
        }
    }

    fn build(&self) -> Result<Client, Fault> {
        let unusable = |error: TlsError| Fault::access(error.to_string());
        let secure = self.members.iter().any(|member| member.url.scheme() == "https");
        let mut tls = match secure {
            true => {
                tls::client_with(self.config.tls.ca_file.as_deref(), self.config.tls.identity()).map_err(unusable)?
            }
            false => tls::for_url("http:", None, None).map_err(unusable)?,
        };
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(self.config.request_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_keepalive(KEEP_ALIVE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .http2_keep_alive_while_idle(true)
            .no_proxy()
            .build()
            .map_err(|error| Fault::access(error_chain(&error)))
    }

    /// Quarantines the current member and selects the next one that is not quarantined.
    pub fn give_up_member(&mut self) {
        let now = Instant::now();
        let wait = Duration::from_millis(fastrand::u64(QUARANTINE));
        self.members[self.current].quarantined_until = Some(now + wait);
        let others = (1..=self.members.len()).map(|step| (self.current + step) % self.members.len());
        let good = |n: &usize| self.members[*n].quarantined_until.is_none_or(|until| until <= now);
        self.current = others.clone().find(good).or(others.clone().next()).unwrap_or(0);
    }

    /// Ends the quarantine of the current member, because it answered.
    pub fn member_is_good(&mut self) {
        self.members[self.current].quarantined_until = None;
    }
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
