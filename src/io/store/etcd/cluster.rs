//! The members of an etcd cluster: which one is asked, over which connection, and in whose name.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::fault::{Fault, FaultKind, tell_apart};
use crate::config::bootstrap::StoreConfig;
use crate::config::secret::Secret;
use crate::io::causes::describe;
use crate::io::{secret, tls};

/// A member that failed is asked again after a time in this range, in milliseconds, unless all have
/// failed.
const QUARANTINE: std::ops::Range<u64> = 20_000..40_000;
/// A TCP connection, or one of HTTP/2, on which nothing comes for so long is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// It has so long to give it.
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// When tokens are gone, all agents want new ones at once, and etcd checks no more than some ten
/// passwords a second.
const NEW_TOKEN_WITHIN: Duration = Duration::from_secs(10);
/// Whoever gives up before his turn has etcd check his password all the same, and asks again.
const AUTHENTICATED_WITHIN: Duration = Duration::from_secs(120);

/// A client of one cluster.
pub struct Cluster {
    config: StoreConfig,
    members: Vec<Member>,
    current: usize,
    connection: Option<Connection>,
    token: Option<Secret>,
    /// Whether a token was had before: the next one is not hurried.
    had_token: bool,
}

struct Member {
    url: Url,
    quarantined_until: Option<Instant>,
}

struct Connection {
    client: Client,
    /// What the certificates looked like when they were read.
    files: Vec<Option<(SystemTime, u64)>>,
}

/// What a member answered.
pub struct Answer {
    /// HTTP's status.
    pub status: StatusCode,
    /// `X-Etcd-Index`, which only the v2 API sends.
    pub index: Option<u64>,
    /// `X-Etcd-Cluster-Id`, which only the v2 API sends.
    pub cluster_id: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Version {
    /// The server's.
    pub etcdserver: String,
}

impl Cluster {
    /// Members are asked from a random one on, so that a fleet spreads over them.
    pub fn new(config: &StoreConfig) -> Result<Self, Fault> {
        let mut members = Vec::new();
        for endpoint in &config.endpoints {
            let url = Url::parse(endpoint).map_err(|error| Fault::access(format!("{endpoint}: {error}")))?;
            members.push(Member { url, quarantined_until: None });
        }
        if members.is_empty() {
            return Err(Fault::access("no endpoint".to_owned()));
        }
        fastrand::shuffle(&mut members);
        Ok(Cluster { config: config.clone(), members, current: 0, connection: None, token: None, had_token: false })
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// The member that is asked now.
    pub fn place(&self) -> String {
        self.members[self.current].url.to_string()
    }

    /// Its version, which it tells everybody.
    pub async fn version(&mut self) -> Result<Version, Fault> {
        let url = self.url(&["version"])?;
        let answer = self.answer(self.client()?.get(url)).await?;
        serde_json::from_slice(&answer.body).map_err(|_| match answer.status.is_server_error() {
            true => Fault { kind: FaultKind::Member, problem: format!("HTTP status {}", answer.status) },
            false => Fault::api(format!("HTTP status {} to GET /version: not an etcd", answer.status)),
        })
    }

    /// A request with v2's authentication.
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

    /// Asks the v3 API, and once more with a new token if it wants one.
    pub async fn v3(&mut self, path: &str, body: &Value) -> Result<Answer, Fault> {
        let body = body.to_string();
        let first = self.ask_v3(path, &body).await;
        match first {
            Err(fault) if fault.kind == FaultKind::Token && !self.config.auth.user.is_empty() => {
                match self.authenticate(path).await {
                    // It refuses a token that it does not want, too.
                    Err(Fault { kind: FaultKind::NoAuthentication, .. }) => self.token = None,
                    other => other?,
                }
                self.ask_v3(path, &body).await
            }
            Err(fault) if fault.kind == FaultKind::Token => {
                let way_out = "etcd wants a user: set [store.auth] user and password_file";
                Err(Fault::access(format!("{}; {way_out}", fault.problem)))
            }
            other => other,
        }
    }

    /// Opens a stream of the v3 API; what comes on it has no limit in time.
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

    async fn ask_v3(&mut self, path: &str, body: &str) -> Result<Answer, Fault> {
        let request = self.v3_request(path, body.to_owned())?;
        let answer = self.answer(request).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    fn v3_request(&self, path: &str, body: String) -> Result<RequestBuilder, Fault> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let request = self.client()?.post(self.url(&segments)?).header("Content-Type", "application/json").body(body);
        let Some(token) = &self.token else { return Ok(request) };
        // etcd takes the token as it is, without a scheme before it.
        let mut value = HeaderValue::from_str(token.reveal())
            .map_err(|_| Fault::access("the token has characters that no header can have".to_owned()))?;
        value.set_sensitive(true);
        Ok(request.headers(HeaderMap::from_iter([(AUTHORIZATION, value)])))
    }

    /// Gets a token. `path` says which of its versions the API goes by.
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
            Some(source) if !auth.user.is_empty() => secret::read(source).map(Some).map_err(Fault::access),
            Some(_) | None => Ok(None),
        }
    }

    /// Sends a request and reads the whole answer, within the time that an answer may take.
    pub async fn answer(&self, request: RequestBuilder) -> Result<Answer, Fault> {
        let request = request.timeout(self.config.request_timeout);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.read(response).await
    }

    async fn read(&self, response: Response) -> Result<Answer, Fault> {
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let index = header("X-Etcd-Index").and_then(|index| index.parse().ok());
        let cluster_id = header("X-Etcd-Cluster-Id");
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?.to_vec();
        Ok(Answer { status, index, cluster_id, body })
    }

    /// What an answer that is no success means.
    fn refusal(&self, answer: &Answer) -> Fault {
        tell_apart(answer.status.as_u16(), &answer.body, self.config.tls.cert_file.is_some())
    }

    /// Why there is no answer, in words that show the way out.
    pub fn unreachable(&self, error: &reqwest::Error) -> Fault {
        let problem = describe(error);
        let https = self.members[self.current].url.scheme() == "https";
        let hint = if https && (problem.contains("InvalidContentType") || problem.contains("tls handshake eof")) {
            "; this endpoint does not speak TLS: write http://, or give etcd a certificate"
        } else if !https
            && (problem.contains("connection closed before message completed") || problem.contains("IncompleteMessage"))
        {
            "; an endpoint that speaks TLS does that: write https://"
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
            "; it wants a client certificate: set [store.tls] cert_file and key_file"
        } else if https && self.config.tls.cert_file.is_none() && problem.contains("connection closed") {
            // The server's TLS alert is lost where the connection is closed before the alert is read.
            "; if it wants a client certificate, set [store.tls] cert_file and key_file"
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

    /// Before a round of requests: certificates that were exchanged on disk are read again. If that
    /// fails, the old ones go on.
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
            (Err(problem), None) => Err(Fault::access(problem)),
        }
    }

    fn build(&self) -> Result<Client, String> {
        let secure = self.members.iter().any(|member| member.url.scheme() == "https");
        let mut tls = match secure {
            true => tls::client_with(self.config.tls.ca_file.as_deref(), self.config.tls.identity())?,
            false => tls::for_url("http:", None, None)?,
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
            .map_err(|error| describe(&error))
    }

    /// This member failed: it is left alone for a while, and another one is asked.
    pub fn give_up_member(&mut self) {
        let now = Instant::now();
        let wait = Duration::from_millis(fastrand::u64(QUARANTINE));
        self.members[self.current].quarantined_until = Some(now + wait);
        let others = (1..=self.members.len()).map(|step| (self.current + step) % self.members.len());
        let good = |n: &usize| self.members[*n].quarantined_until.is_none_or(|until| until <= now);
        self.current = others.clone().find(good).or(others.clone().next()).unwrap_or(0);
    }

    /// This member answered.
    pub fn member_is_good(&mut self) {
        self.members[self.current].quarantined_until = None;
    }
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
