//! The bootstrap file `peerpair.toml` that an agent starts from. [`Bootstrap`] names the host, the store of the
//! documents, the alarm receivers that apply before documents are loaded, the web page, the clock and the log.
//! Reading collects findings instead of stopping at the first error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::check::sinks::check_sinks;
use crate::config::document::deserialize::{self, Format};
use crate::config::document::duration;
use crate::config::document::endpoint::Endpoint;
use crate::config::document::findings::{Findings, Level};
use crate::config::document::secret::SecretSource;
use crate::config::document::sinks::SinkConfig;

/// Contents of the bootstrap file. Fields that the file omits take the values of `Default`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// Name under which this host's documents are stored. Defaults to the short host name of the machine.
    pub host: String,
    /// Directory of the notification log and other persistent state. Relative paths start at the directory of the
    /// file.
    pub state_dir: PathBuf,
    /// Permits documents to name programs for sinks of kind `exec`, in addition to those in this file. Anyone with
    /// write access to the store can then run programs on this host.
    pub allow_exec: bool,
    /// Store from which the agent reads its documents: an etcd cluster or a directory.
    pub store: StoreConfig,
    /// Receivers of all alarms until the documents name others; afterwards they receive configuration faults only.
    pub sink: Vec<SinkConfig>,
    /// Address and access token of the web status page.
    pub web: WebConfig,
    /// Accuracy of the local wall clock.
    pub clock: ClockConfig,
    /// Level and format of the agent's log.
    pub log: LogConfig,
}

/// Accuracy of the local wall clock, which limits how precisely one-way delays can be judged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClockConfig {
    /// Upper bound on the error of the wall clock. Set it for a clock that is disciplined by something unknown to the
    /// kernel, such as PTP or a hypervisor. When omitted, the kernel's own estimate applies.
    #[serde(with = "duration::optional")]
    pub error: Option<Duration>,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap {
            host: String::new(),
            state_dir: "/var/lib/peerpair".into(),
            allow_exec: false,
            store: StoreConfig::default(),
            sink: Vec::new(),
            web: WebConfig::default(),
            clock: ClockConfig::default(),
            log: LogConfig::default(),
        }
    }
}

/// Location of the documents and the parameters for reading them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Kind of the store. Fields of the other kind are ignored.
    pub kind: StoreKind,
    /// etcd: URLs of the cluster members. Any one of them can serve a request.
    pub endpoints: Vec<String>,
    /// etcd: API version to use, or `auto` to detect the version that the server supports.
    pub api: Api,
    /// etcd: prefix of all keys. It starts with a slash and ends without one.
    pub prefix: String,
    /// etcd: time to wait for the response to a request; at least 10 ms.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// etcd: certificates for connections over https.
    pub tls: StoreTls,
    /// etcd: user and password for authentication.
    pub auth: StoreAuth,
    /// dir: directory that holds the documents as files. Relative paths start at the directory of the bootstrap file.
    pub path: PathBuf,
}

/// Certificates for https, as PEM files. The agent reads them again when they change. Relative paths start at the
/// directory of the bootstrap file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreTls {
    /// Certificate authorities to trust. When omitted, the trust store of the system applies.
    pub ca_file: Option<PathBuf>,
    /// Client certificate of this host, for a server that requires one. Requires `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Private key of the client certificate in `cert_file`.
    pub key_file: Option<PathBuf>,
}

impl StoreTls {
    /// Returns the files of the client certificate and of its private key, when both are configured.
    pub fn identity(&self) -> Option<(&Path, &Path)> {
        Some((self.cert_file.as_deref()?, self.key_file.as_deref()?))
    }

    fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca_file, &mut self.cert_file, &mut self.key_file].into_iter().flatten()
    }
}

/// User and password with which the agent authenticates to etcd.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreAuth {
    /// Name of the etcd user. An empty name disables authentication.
    pub user: String,
    /// File that contains the password. Relative paths start at the directory of the bootstrap file.
    pub password_file: Option<PathBuf>,
    /// Environment variable that contains the password. Ignored when `password_file` is set.
    pub password_env: Option<String>,
}

impl StoreAuth {
    /// Returns the source of the password, with the file taking precedence over the environment variable.
    pub fn password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.password_file.as_ref(), self.password_env.as_ref())
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            kind: StoreKind::Etcd,
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            api: Api::Auto,
            prefix: "/peerpair".to_owned(),
            request_timeout: Duration::from_secs(3),
            tls: StoreTls::default(),
            auth: StoreAuth::default(),
            path: PathBuf::new(),
        }
    }
}

/// Kinds of stores that the agent can read documents from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// An etcd cluster, accessed through its v2 or v3 JSON API.
    Etcd,
    /// A local directory with a file for each document.
    Dir,
}

impl StoreKind {
    /// Returns the word for the kind as written in the bootstrap file.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreKind::Etcd => "etcd",
            StoreKind::Dir => "dir",
        }
    }
}

/// Versions of the etcd API that the agent can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Detects the API version that the server supports.
    Auto,
    /// The v3 API, accessed through its JSON gateway over HTTP.
    V3,
    /// The v2 API, which is JSON over HTTP.
    V2,
}

/// Address of the web status page and the token that protects changes through it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port at which the page is served. An empty string disables the page.
    pub listen: String,
    /// File with the token that a client must present to change anything. Without a token, changes are refused.
    /// Relative paths start at the directory of the bootstrap file.
    pub token_file: Option<PathBuf>,
}

impl Default for WebConfig {
    fn default() -> Self {
        WebConfig { listen: "127.0.0.1:8650".to_owned(), token_file: None }
    }
}

impl WebConfig {
    /// Returns the URL of the page as reached from other machines, or `None` when the page is disabled. A page that
    /// is served at every local address gets the URL of `host`.
    pub fn url(&self, host: &str) -> Option<String> {
        let listen: std::net::SocketAddr = self.listen.parse().ok()?;
        Some(match listen.ip().is_unspecified() {
            true => format!("http://{host}:{}/", listen.port()),
            false => format!("http://{listen}/"),
        })
    }
}

/// Level and format of the agent's log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Least severe level that is still written to the log.
    pub level: LogLevel,
    /// Format of the log lines: text or JSON.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: LogLevel::Info, format: LogFormat::Text }
    }
}

/// Severity levels of log lines, from most to least severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// A problem that requires action by a person.
    Error,
    /// A problem from which the agent recovered by itself.
    Warn,
    /// An action of an operator, or a change of state.
    Info,
    /// Details that help developers to diagnose a problem.
    Debug,
    /// The most detailed output, including frequent events; intended for developers only.
    Trace,
}

/// Output formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human-readable text, a line for each event.
    Text,
    /// JSON, an object on each line, for log collectors.
    Json,
}

/// Command-line options that take precedence over the bootstrap file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Value of `--local-name`, which replaces `host`.
    pub local_name: Option<String>,
    /// Value of `--config-server`: a comma-separated list of etcd members that replaces `store.endpoints`.
    pub config_server: Option<String>,
    /// Value of `--snmp-server`: target of an additional SNMP sink that uses the legacy profile.
    pub snmp_server: Option<String>,
}

/// Lower bound on `store.request_timeout`, because a store across a network cannot respond faster.
const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(10);
/// Default client port of etcd, used when `--config-server` omits the port.
const ETCD_PORT: u16 = 2379;

impl Bootstrap {
    /// Reads the text of the bootstrap file at `path` and applies `overrides`. Relative paths are resolved against
    /// the directory of `path`. `short_hostname` becomes the host name when neither the file nor the command line
    /// gives one.
    pub fn read(text: &str, path: &Path, overrides: &Overrides, short_hostname: &str, findings: &mut Findings) -> Self {
        let Some(value) = deserialize::parse(text, Format::Toml, findings) else { return Bootstrap::default() };
        let mut bootstrap: Bootstrap = deserialize::typed(value, Level::Error, findings);
        let directory = path.parent().unwrap_or(Path::new("."));
        bootstrap.state_dir = directory.join(&bootstrap.state_dir);
        if !bootstrap.store.path.as_os_str().is_empty() {
            bootstrap.store.path = directory.join(&bootstrap.store.path);
        }
        let password = &mut bootstrap.store.auth.password_file;
        for path in bootstrap.store.tls.files().chain(password) {
            *path = directory.join(&path);
        }
        if let Some(path) = &mut bootstrap.web.token_file {
            *path = directory.join(&path);
        }
        for (n, sink) in bootstrap.sink.iter_mut().enumerate() {
            sink.resolve_paths(&format!("sink[{n}]"), Some(directory), findings);
        }
        bootstrap.apply(overrides);
        if bootstrap.host.is_empty() {
            short_hostname.clone_into(&mut bootstrap.host);
        }
        bootstrap.check(findings);
        bootstrap
    }

    fn apply(&mut self, overrides: &Overrides) {
        if let Some(name) = &overrides.local_name {
            self.host.clone_from(name);
        }
        if let Some(server) = &overrides.config_server {
            self.store.kind = StoreKind::Etcd;
            self.store.endpoints = server.split(',').map(etcd_url).collect();
        }
        if let Some(server) = &overrides.snmp_server {
            use crate::config::document::sinks::{SinkKind, SnmpProfile};
            self.sink.retain(|sink| sink.name != "snmp-server");
            self.sink.push(SinkConfig {
                name: "snmp-server".to_owned(),
                kind: SinkKind::Snmp,
                target: server.clone(),
                profile: SnmpProfile::Legacy,
                ..SinkConfig::default()
            });
        }
    }

    fn check(&self, findings: &mut Findings) {
        if self.host.is_empty() || self.host.contains('/') || self.host == "." || self.host == ".." {
            findings.error(
                "host",
                "no usable host name",
                "write the name under which the store has this host's \
                documents",
            );
        }
        match self.store.kind {
            StoreKind::Dir if self.store.path.as_os_str().is_empty() => {
                findings.error("store.path", "a dir store without a path", "write the directory of the documents");
            }
            StoreKind::Dir => {}
            StoreKind::Etcd => {
                if self.store.request_timeout < MIN_REQUEST_TIMEOUT {
                    findings.error("store.request_timeout", "too short", "write \"100ms\" or more");
                }
                if self.store.endpoints.is_empty() {
                    findings.error("store.endpoints", "no endpoint", "write [\"http://127.0.0.1:2379\"]");
                }
                for (n, endpoint) in self.store.endpoints.iter().enumerate() {
                    if !is_http_url(endpoint) {
                        let help = "write a URL such as \"http://127.0.0.1:2379\" or \"https://etcd1:2379\"";
                        findings.error(&format!("store.endpoints[{n}]"), "not an http or https URL", help);
                    }
                }
                self.check_access(findings);
                if !self.store.prefix.starts_with('/') || self.store.prefix.ends_with('/') {
                    findings.error(
                        "store.prefix",
                        "not a valid key",
                        "start it with / and do not end it with /, as \
                in \"/peerpair\"",
                    );
                }
            }
        }
        if !self.web.listen.is_empty() && self.web.listen.parse::<std::net::SocketAddr>().is_err() {
            let help = "write an address and a port, as \"127.0.0.1:8650\", or \"\" for none";
            findings.error("web.listen", "not an address with a port", help);
        }
        check_sinks("sink", &self.sink, findings);
    }

    fn check_access(&self, findings: &mut Findings) {
        let StoreConfig { tls, auth, endpoints, .. } = &self.store;
        match (&tls.cert_file, &tls.key_file) {
            (Some(_), None) => {
                findings.error("store.tls.key_file", "missing", "write the file with the key of cert_file");
            }
            (None, Some(_)) => {
                findings.error("store.tls.cert_file", "missing", "write the file with the certificate of key_file");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if *tls != StoreTls::default() && endpoints.iter().all(|endpoint| endpoint.starts_with("http://")) {
            let help = "write https:// in store.endpoints, or remove [store.tls]";
            findings.warning("store.tls", "[store.tls] is set, but no endpoint uses TLS", help);
        }
        match (auth.user.is_empty(), auth.password()) {
            (false, None) => {
                let help = "write the file that holds it, or the environment variable in password_env";
                findings.error("store.auth.password_file", "missing", help);
            }
            (true, Some(_)) => {
                findings.error("store.auth.user", "missing", "write the user whose password that is");
            }
            (false, Some(source)) if !source.has_valid_name() => {
                let help = "write the name of the variable, not the password";
                findings.error("store.auth.password_env", "not the name of an environment variable", help);
            }
            (false, Some(_)) | (true, None) => {}
        }
    }
}

/// Returns true if `text` has the form `http[s]://host[:port]`, with or without a trailing slash.
fn is_http_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or(text.strip_prefix("https://")) else { return false };
    let authority = rest.trim_end_matches('/');
    let with_port = format!("{authority}:{ETCD_PORT}");
    [authority, &with_port].iter().any(|endpoint| {
        let endpoint: Result<Endpoint, _> = endpoint.parse();
        endpoint.is_ok_and(|endpoint| !endpoint.is_wildcard())
    })
}

/// Converts an entry of `--config-server` to a URL. The original program accepted `HOST[:PORT]`, so that form stays
/// valid.
fn etcd_url(server: &str) -> String {
    let server = server.trim();
    if server.contains("://") {
        return server.to_owned();
    }
    if server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        return format!("http://{server}");
    }
    format!("http://{server}:{ETCD_PORT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, overrides: &Overrides) -> (Bootstrap, Vec<String>) {
        let mut findings = Findings::about("peerpair.toml");
        let bootstrap = Bootstrap::read(text, Path::new("/etc/peerpair/peerpair.toml"), overrides, "vm", &mut findings);
        (bootstrap, findings.into_vec().iter().map(ToString::to_string).collect())
    }

    /// The shipped example contains the defaults, so that users can rely on it as documentation.
    #[test]
    fn shipped_example_equals_the_defaults() {
        let (bootstrap, findings) = read(include_str!("../../config-examples/peerpair.toml"), &Overrides::default());
        assert_eq!(findings, [""; 0]);
        let sinks = vec![SinkConfig { name: "console".into(), ..SinkConfig::default() }];
        let store = StoreConfig { path: PathBuf::new(), ..StoreConfig::default() };
        assert_eq!(bootstrap, Bootstrap { host: "vm".into(), sink: sinks, store, ..Bootstrap::default() });
    }

    #[test]
    fn all_errors_of_a_bootstrap_file_are_reported_at_once() {
        let (_, findings) = read(
            "hots = \"a\"\nweb.listen = \"here\"\n[store]\nkind = \"etcd\"\nendpoints = [\"etcd1:2379\"]\nrequest_timeout = 3\nprefix = \"peerpair/\"\n\
             [[sink]]\nkind = \"snpm\"\nrate = 0\n[[sink]]\nname = \"x\"\nkind = \"snmp\"\n[[sink]]\nname = \"x\"\n",
            &Overrides::default(),
        );
        insta::assert_snapshot!(findings.join("\n"));
    }

    #[test]
    fn command_line_takes_precedence_over_the_file() {
        let overrides = Overrides {
            local_name: Some("b".into()),
            config_server: Some("etcd1,etcd2:4001".into()),
            snmp_server: Some("noc".into()),
        };
        let (bootstrap, findings) = read("host = \"a\"\n[store]\nkind = \"dir\"\npath = \"docs\"\n", &overrides);
        assert_eq!(findings, [""; 0]);
        assert_eq!(bootstrap.host, "b");
        assert_eq!(bootstrap.store.endpoints, ["http://etcd1:2379", "http://etcd2:4001"]);
        assert_eq!(bootstrap.sink[0].place(), "noc:162");
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let (bootstrap, _) =
            read("state_dir = \"state\"\n[store]\nkind = \"dir\"\npath = \"docs\"\n", &Overrides::default());
        assert_eq!(bootstrap.state_dir, Path::new("/etc/peerpair/state"));
        assert_eq!(bootstrap.store.path, Path::new("/etc/peerpair/docs"));
    }
}
