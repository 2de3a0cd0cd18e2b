//! The file that an agent starts from: who it is, where its documents are, whom to tell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::endpoint::Endpoint;
use super::findings::{Findings, Level};
use super::read::{self, Format};
use super::secret::SecretSource;
use super::sinks::SinkConfig;

/// The bootstrap file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// The name under which this host's documents stand; left out: its short host name.
    pub host: String,
    /// Where told states are kept. Relative to the file.
    pub state_dir: PathBuf,
    /// Whether documents may name programs to run as sinks of kind `exec`, beside those in this file:
    /// whoever can write the store can then run programs on this host.
    pub allow_exec: bool,
    /// Where the documents are.
    pub store: StoreConfig,
    /// Receivers of alarms, until the documents name others, and for faults of the configuration.
    pub sink: Vec<SinkConfig>,
    /// The status page.
    pub web: WebConfig,
    /// The local clock.
    pub clock: ClockConfig,
    /// The log.
    pub log: LogConfig,
}

/// The local clock.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClockConfig {
    /// It is off by this at most: for a clock that is disciplined by something the kernel does not know
    /// of, such as PTP or a hypervisor. Left out: what the kernel says.
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

/// Where the documents are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// What keeps them.
    pub kind: StoreKind,
    /// etcd: URLs of its members.
    pub endpoints: Vec<String>,
    /// etcd: which API.
    pub api: Api,
    /// etcd: what all keys start with.
    pub prefix: String,
    /// etcd: how long an answer may take.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// etcd: certificates for https.
    pub tls: StoreTls,
    /// etcd: who asks.
    pub auth: StoreAuth,
    /// dir: the directory. Relative to the file.
    pub path: PathBuf,
}

/// Certificates for https, as PEM files. They are read again when they change. Relative to the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreTls {
    /// Authorities to trust; left out: those that this host trusts.
    pub ca_file: Option<PathBuf>,
    /// This host's own certificate, for a server that asks for one.
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate.
    pub key_file: Option<PathBuf>,
}

impl StoreTls {
    /// The files of this host's certificate and of its key.
    pub fn identity(&self) -> Option<(&Path, &Path)> {
        Some((self.cert_file.as_deref()?, self.key_file.as_deref()?))
    }

    fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca_file, &mut self.cert_file, &mut self.key_file].into_iter().flatten()
    }
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreAuth {
    /// The user; empty: nobody.
    pub user: String,
    /// The file with the password. Relative to the file.
    pub password_file: Option<PathBuf>,
    /// The environment variable with it, instead.
    pub password_env: Option<String>,
}

impl StoreAuth {
    /// Where the password is.
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

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// etcd.
    Etcd,
    /// A directory of files.
    Dir,
}

impl StoreKind {
    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreKind::Etcd => "etcd",
            StoreKind::Dir => "dir",
        }
    }
}

/// etcd's APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Whichever the server speaks.
    Auto,
    /// The v3 API by its JSON gateway.
    V3,
    /// The v2 JSON API.
    V2,
}

/// The status page.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port; empty: none.
    pub listen: String,
    /// The token that whoever changes something has to show; left out: nobody can. Relative to the
    /// file.
    pub token_file: Option<PathBuf>,
}

impl Default for WebConfig {
    fn default() -> Self {
        WebConfig { listen: "127.0.0.1:8650".to_owned(), token_file: None }
    }
}

impl WebConfig {
    /// Where the page is, as seen from elsewhere: one that is served at every address is at `host`.
    pub fn url(&self, host: &str) -> Option<String> {
        let listen: std::net::SocketAddr = self.listen.parse().ok()?;
        Some(match listen.ip().is_unspecified() {
            true => format!("http://{host}:{}/", listen.port()),
            false => format!("http://{listen}/"),
        })
    }
}

/// The log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The least urgent level that is shown.
    pub level: LogLevel,
    /// How lines are written.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: LogLevel::Info, format: LogFormat::Text }
    }
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// A person is needed.
    Error,
    /// It recovered by itself.
    Warn,
    /// An operator did something, or a state changed.
    Info,
    /// For developers.
    Debug,
    /// For developers with patience.
    Trace,
}

/// Formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--local-name`.
    pub local_name: Option<String>,
    /// `--config-server`.
    pub config_server: Option<String>,
    /// `--snmp-server`.
    pub snmp_server: Option<String>,
}

/// Less than this no store on a network can keep.
const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(10);
/// The port that etcd's clients use.
const ETCD_PORT: u16 = 2379;

impl Bootstrap {
    /// Reads the file's text. Paths in it become relative to `path`'s directory. `short_hostname`
    /// is this host's name where neither the file nor the command line gives one.
    pub fn read(text: &str, path: &Path, overrides: &Overrides, short_hostname: &str, findings: &mut Findings) -> Self {
        let Some(value) = read::parse(text, Format::Toml, findings) else { return Bootstrap::default() };
        let mut bootstrap: Bootstrap = read::typed(value, Level::Error, findings);
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
            sink.place_paths(&format!("sink[{n}]"), Some(directory), findings);
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
            use super::sinks::{SinkKind, SnmpProfile};
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
            findings.error("host", "no usable host name", "write the name under which this host's documents stand");
        }
        match self.store.kind {
            StoreKind::Dir if self.store.path.as_os_str().is_empty() => {
                findings.error("store.path", "a dir store without a path", "write the directory of the documents");
            }
            StoreKind::Dir => {}
            StoreKind::Etcd => {
                if self.store.request_timeout < MIN_REQUEST_TIMEOUT {
                    findings.error("store.request_timeout", "too short for any answer", "write \"100ms\" or more");
                }
                if self.store.endpoints.is_empty() {
                    findings.error("store.endpoints", "no endpoint", "write [\"http://127.0.0.1:2379\"]");
                }
                for (n, endpoint) in self.store.endpoints.iter().enumerate() {
                    if !is_http_url(endpoint) {
                        let way_out = "write a URL such as \"http://127.0.0.1:2379\" or \"https://etcd1:2379\"";
                        findings.error(&format!("store.endpoints[{n}]"), "not an http or https URL", way_out);
                    }
                }
                self.check_access(findings);
                if !self.store.prefix.starts_with('/') || self.store.prefix.ends_with('/') {
                    findings.error("store.prefix", "not a key", "start it with / and end it without, as \"/peerpair\"");
                }
            }
        }
        if !self.web.listen.is_empty() && self.web.listen.parse::<std::net::SocketAddr>().is_err() {
            let way_out = "write an address and a port, as \"127.0.0.1:8650\", or \"\" for none";
            findings.error("web.listen", "not an address with a port", way_out);
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
            let way_out = "write https:// in store.endpoints, or remove [store.tls]";
            findings.warning("store.tls", "certificates, but no endpoint speaks TLS", way_out);
        }
        match (auth.user.is_empty(), auth.password()) {
            (false, None) => {
                let way_out = "write the file that holds it, or the environment variable in password_env";
                findings.error("store.auth.password_file", "missing", way_out);
            }
            (true, Some(_)) => {
                findings.error("store.auth.user", "missing", "write the user whose password that is");
            }
            (false, Some(source)) if !source.is_named_well() => {
                let way_out = "write the name of the variable, not the password";
                findings.error("store.auth.password_env", "not the name of an environment variable", way_out);
            }
            (false, Some(_)) | (true, None) => {}
        }
    }
}

/// `http[s]://host[:port]`, with or without a slash behind it.
fn is_http_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or(text.strip_prefix("https://")) else { return false };
    let authority = rest.trim_end_matches('/');
    let with_port = format!("{authority}:{ETCD_PORT}");
    [authority, &with_port].iter().any(|endpoint| {
        let endpoint: Result<Endpoint, _> = endpoint.parse();
        endpoint.is_ok_and(|endpoint| !endpoint.is_wildcard())
    })
}

/// Checks a list of sinks, their names among each other too.
pub fn check_sinks(field: &str, sinks: &[SinkConfig], findings: &mut Findings) {
    for (n, sink) in sinks.iter().enumerate() {
        sink.check(&format!("{field}[{n}]"), findings);
        if sinks[..n].iter().any(|earlier| earlier.name == sink.name) {
            let problem = format!("`{}` is the name of an earlier sink", sink.name);
            findings.error(&format!("{field}[{n}].name"), problem, "give each sink a name of its own");
        }
    }
}

/// The original took `HOST[:PORT]`.
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

    /// The shipped example says the defaults, so that it can be trusted as documentation.
    #[test]
    fn the_example_equals_the_defaults() {
        let (bootstrap, findings) = read(include_str!("../../config-examples/peerpair.toml"), &Overrides::default());
        assert_eq!(findings, [""; 0]);
        let sinks = vec![SinkConfig { name: "console".into(), ..SinkConfig::default() }];
        let store = StoreConfig { path: PathBuf::new(), ..StoreConfig::default() };
        assert_eq!(bootstrap, Bootstrap { host: "vm".into(), sink: sinks, store, ..Bootstrap::default() });
    }

    #[test]
    fn all_findings_at_once() {
        let (_, findings) = read(
            "hots = \"a\"\nweb.listen = \"here\"\n[store]\nkind = \"etcd\"\nendpoints = [\"etcd1:2379\"]\nrequest_timeout = 3\nprefix = \"peerpair/\"\n\
             [[sink]]\nkind = \"snpm\"\nrate = 0\n[[sink]]\nname = \"x\"\nkind = \"snmp\"\n[[sink]]\nname = \"x\"\n",
            &Overrides::default(),
        );
        insta::assert_snapshot!(findings.join("\n"));
    }

    #[test]
    fn the_command_line_goes_over_the_file() {
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
