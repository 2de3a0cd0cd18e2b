//! Configuration of alarm receivers, as written in the bootstrap file and the documents. [`SinkConfig`] has the
//! fields of every kind of receiver, and resolves defaults, paths, ports and secrets. Its checks are in
//! `config::check::sinks`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::duration;
use super::endpoint::{Endpoint, EndpointError, EndpointHost};
use super::findings::Findings;
use super::secret::{Secret, SecretSource, resolve_path};

/// UDP port of SNMP notifications (RFC 3417).
pub const SNMP_TRAP_PORT: u16 = 162;
/// Default ports of syslog, without TLS (RFC 5426) and with it (RFC 5425).
pub const SYSLOG_PORT: u16 = 514;
const SYSLOG_TLS_PORT: u16 = 6514;
/// Default ports of mail: relay between servers, submission with STARTTLS and submission with implicit TLS.
const SMTP_PORT: u16 = 25;
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

/// Default messages per second and burst, which a typical trap receiver accepts without loss.
const RATE: (f64, u32) = (10.0, 50);
/// Default messages per second and burst for mail, limited by the amount that a person can read.
const MAIL_RATE: (f64, u32) = (1.0 / 30.0, 10);
/// Valid lengths of an SNMP engine id in octets (RFC 3411 section 5).
pub const ENGINE_ID_OCTETS: std::ops::RangeInclusive<usize> = 5..=32;
/// First octets of a generated engine id (RFC 3411 section 5): enterprise 50255 with the high bit set, then format 5
/// for octets. The second constant is the number of octets that follow.
const ENGINE_ID_START: [u8; 5] = [0x80, 0x00, 0xc4, 0x4f, 5];
const ENGINE_ID_OWN: usize = 12;

/// Configuration of a sink. Fields that do not apply to its kind must not be set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// Name of the sink in logs and messages, unique on this host.
    pub name: String,
    /// Kind of the receiver, which determines the protocol and the valid fields.
    pub kind: SinkKind,
    /// Address of an SNMP, syslog or mail receiver in the form `host[:port]`.
    pub target: String,
    /// Version of SNMP to use: v2c or v3.
    pub version: SnmpVersion,
    /// Community string of SNMPv2c messages, which receivers check like a password.
    pub community: Secret,
    /// SNMP message type: trap or inform.
    pub mode: SnmpMode,
    /// MIB that SNMP notifications and varbinds are taken from.
    pub profile: SnmpProfile,
    /// User name for SNMPv3, or for the mail server, the Alertmanager or the webhook.
    pub user: String,
    /// SNMPv3 authentication protocol. `None` sends messages without authentication.
    pub auth_protocol: Option<AuthProtocol>,
    /// File that contains the SNMPv3 authentication password.
    pub auth_password_file: Option<PathBuf>,
    /// Environment variable that contains the SNMPv3 authentication password.
    pub auth_password_env: Option<String>,
    /// SNMPv3 privacy protocol. `None` sends messages without encryption.
    pub privacy_protocol: Option<PrivacyProtocol>,
    /// File that contains the SNMPv3 privacy password.
    pub privacy_password_file: Option<PathBuf>,
    /// Environment variable that contains the SNMPv3 privacy password.
    pub privacy_password_env: Option<String>,
    /// SNMPv3 engine id in hex. When omitted, it is derived from the machine id and the host name.
    pub engine_id: Option<String>,
    /// Source address of messages to the receiver. When omitted, the routing table determines it.
    pub source: Option<IpAddr>,
    /// Time to wait for the receiver's response.
    #[serde(with = "duration::optional")]
    pub timeout: Option<Duration>,
    /// Number of times an unacknowledged inform is sent again.
    pub retries: u32,
    /// Base URL of an Alertmanager, or full URL of a webhook.
    pub url: String,
    /// File that contains the secret for signing webhook requests.
    pub secret_file: Option<PathBuf>,
    /// Environment variable that contains the secret for signing webhook requests.
    pub secret_env: Option<String>,
    /// File that contains the bearer token for an Alertmanager or a webhook.
    pub token_file: Option<PathBuf>,
    /// Environment variable that contains the bearer token.
    pub token_env: Option<String>,
    /// Transport of syslog and mail messages. The default depends on the kind.
    pub transport: Option<Transport>,
    /// PEM file with the certificate authority of the server, or with the server's certificate itself. `None` selects
    /// the system's trust store.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate of this host, followed by its intermediate certificates.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of the client certificate.
    pub key_file: Option<PathBuf>,
    /// URL of a proxy to the receiver. An empty string means no proxy; when omitted, the environment variables
    /// decide.
    pub proxy: Option<String>,
    /// Framing of syslog messages in a stream transport.
    pub framing: Option<Framing>,
    /// Facility that syslog messages carry in their priority field.
    pub facility: Option<Facility>,
    /// Sender address of mail, as shown in the header `From`.
    pub from: String,
    /// Recipient addresses of mail; at least an address is required.
    pub to: Vec<String>,
    /// File that contains the password of `user`.
    pub password_file: Option<PathBuf>,
    /// Environment variable that contains the password of `user`.
    pub password_env: Option<String>,
    /// Absolute path of the program of an `exec` sink, followed by its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Number of processes of the `exec` program that may run at once.
    pub parallel: u32,
    /// Sustained rate in messages per second. The default depends on the kind.
    pub rate: Option<f64>,
    /// Number of messages that may be sent in a burst.
    pub burst: Option<u32>,
}

impl Default for SinkConfig {
    fn default() -> Self {
        SinkConfig {
            name: String::new(),
            kind: SinkKind::Log,
            target: String::new(),
            version: SnmpVersion::V2c,
            community: Secret::new("public"),
            mode: SnmpMode::Trap,
            profile: SnmpProfile::Standard,
            user: String::new(),
            auth_protocol: None,
            auth_password_file: None,
            auth_password_env: None,
            privacy_protocol: None,
            privacy_password_file: None,
            privacy_password_env: None,
            engine_id: None,
            source: None,
            timeout: None,
            retries: 2,
            url: String::new(),
            secret_file: None,
            secret_env: None,
            token_file: None,
            token_env: None,
            transport: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            proxy: None,
            framing: None,
            facility: None,
            from: String::new(),
            to: Vec::new(),
            password_file: None,
            password_env: None,
            command: Vec::new(),
            parallel: 4,
            rate: None,
            burst: None,
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Returns the word for the value as written in documents.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Kinds of sinks, by the protocol through which alarms are delivered.
    SinkKind {
        /// The agent's own log, read by operators on the host.
        Log = "log",
        /// SNMP notifications (traps or informs) to a network management system.
        Snmp = "snmp",
        /// Alertmanager of Prometheus, through its API v2.
        Alertmanager = "alertmanager",
        /// HTTP POST with the JSON body of Alertmanager webhooks, version 4.
        Webhook = "webhook",
        /// Syslog messages (RFC 5424) with the structured alarm element of RFC 5674.
        Syslog = "syslog",
        /// Mail, submitted to a server by SMTP.
        Email = "email",
        /// Local program that receives the alarm as JSON.
        Exec = "exec",
    }
}

words! {
    /// Versions of SNMP for notifications.
    SnmpVersion {
        /// Community-based SNMPv2c (RFC 1901).
        V2c = "v2c",
        /// SNMPv3 with the User-based Security Model (RFC 3414).
        V3 = "v3",
    }
}

words! {
    /// Message types of SNMP notifications.
    SnmpMode {
        /// Unacknowledged trap, which may be lost without notice.
        Trap = "trap",
        /// Acknowledged inform, which is sent again up to `retries` times without a response.
        Inform = "inform",
    }
}

words! {
    /// Sets of notifications and varbinds that SNMP messages can carry.
    SnmpProfile {
        /// Notifications and varbinds of PEERPAIR-MIB.
        Standard = "standard",
        /// Notification and varbinds of the original program of 2017.
        Legacy = "legacy",
        /// Notification and varbinds of the original, followed by the varbinds of PEERPAIR-MIB.
        Both = "both",
    }
}

words! {
    /// SNMPv3 authentication protocols (RFC 3414, RFC 7860).
    AuthProtocol {
        /// HMAC-SHA-1-96 (RFC 3414).
        Sha1 = "sha1",
        /// HMAC-192-SHA-256 (RFC 7860).
        Sha256 = "sha256",
        /// HMAC-384-SHA-512 (RFC 7860).
        Sha512 = "sha512",
    }
}

words! {
    /// SNMPv3 privacy protocols (RFC 3826).
    PrivacyProtocol {
        /// AES-128 in cipher feedback mode.
        Aes128 = "aes128",
        /// AES-256 in cipher feedback mode. A short hash is lengthened by the common key extension.
        Aes256 = "aes256",
    }
}

words! {
    /// Methods of framing syslog messages in a stream (RFC 6587).
    Framing {
        /// The length of each message precedes it. TLS requires this method.
        OctetCounting = "octet-counting",
        /// A line feed ends each message (non-transparent framing).
        Lf = "lf",
    }
}

words! {
    /// Facilities of syslog (RFC 5424 section 6.2.1).
    Facility {
        /// System daemons, facility 3.
        Daemon = "daemon",
        /// User-level messages, facility 1.
        User = "user",
        /// Local use 0, facility 16, with a meaning defined by the site.
        Local0 = "local0",
        /// Local use 1, facility 17.
        Local1 = "local1",
        /// Local use 2, facility 18.
        Local2 = "local2",
        /// Local use 3, facility 19.
        Local3 = "local3",
        /// Local use 4, facility 20.
        Local4 = "local4",
        /// Local use 5, facility 21.
        Local5 = "local5",
        /// Local use 6, facility 22.
        Local6 = "local6",
        /// Local use 7, facility 23.
        Local7 = "local7",
    }
}

impl Facility {
    /// Returns the numerical code of the facility.
    pub fn code(self) -> u8 {
        match self {
            Facility::User => 1,
            Facility::Daemon => 3,
            Facility::Local0 => 16,
            Facility::Local1 => 17,
            Facility::Local2 => 18,
            Facility::Local3 => 19,
            Facility::Local4 => 20,
            Facility::Local5 => 21,
            Facility::Local6 => 22,
            Facility::Local7 => 23,
        }
    }
}

words! {
    /// Transports of syslog and mail messages, with or without encryption.
    Transport {
        /// UDP datagrams; for syslog only.
        Udp = "udp",
        /// TCP stream without encryption.
        Tcp = "tcp",
        /// TCP stream upgraded to TLS by the STARTTLS command; for mail only.
        Starttls = "starttls",
        /// TLS from the start of the connection.
        Tls = "tls",
    }
}

impl SinkConfig {
    /// Returns the rate in messages per second and the burst size, with the defaults of the kind.
    pub fn pace(&self) -> (f64, u32) {
        let (rate, burst) = if self.kind == SinkKind::Email { MAIL_RATE } else { RATE };
        (self.rate.unwrap_or(rate), self.burst.unwrap_or(burst))
    }

    /// Returns the time to wait for a response: `timeout`, or 2 s for SNMP and 10 s for other kinds.
    pub fn response_timeout(&self) -> Duration {
        let (inform, others) = (Duration::from_secs(2), Duration::from_secs(10));
        self.timeout.unwrap_or(if self.kind == SinkKind::Snmp { inform } else { others })
    }

    /// Returns the transport, with STARTTLS as default for mail and UDP for syslog.
    pub fn transport(&self) -> Transport {
        match (self.transport, self.kind) {
            (Some(transport), _) => transport,
            (None, SinkKind::Email) => Transport::Starttls,
            (None, _) => Transport::Udp,
        }
    }

    /// Resolves the relative paths of the sink against the directory of its document. Paths that cannot be resolved
    /// become findings at `field`.
    pub fn resolve_paths(&mut self, field: &str, directory: Option<&Path>, findings: &mut Findings) {
        let paths = [
            ("auth_password_file", &mut self.auth_password_file),
            ("privacy_password_file", &mut self.privacy_password_file),
            ("secret_file", &mut self.secret_file),
            ("token_file", &mut self.token_file),
            ("ca_file", &mut self.ca_file),
            ("cert_file", &mut self.cert_file),
            ("key_file", &mut self.key_file),
            ("password_file", &mut self.password_file),
        ];
        for (name, path) in paths {
            if let Some(path) = path {
                resolve_path(path, directory, &format!("{field}.{name}"), findings);
            }
        }
    }

    /// Returns the source of the SNMPv3 authentication password.
    pub fn auth_password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.auth_password_file.as_ref(), self.auth_password_env.as_ref())
    }

    /// Returns the source of the SNMPv3 privacy password.
    pub fn privacy_password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.privacy_password_file.as_ref(), self.privacy_password_env.as_ref())
    }

    /// Returns the source of the secret that signs webhook requests.
    pub fn secret(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.secret_file.as_ref(), self.secret_env.as_ref())
    }

    /// Returns the source of the bearer token for an Alertmanager or a webhook.
    pub fn token(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.token_file.as_ref(), self.token_env.as_ref())
    }

    /// Returns the files of the client certificate and of its private key, when both are configured.
    pub fn client_certificate(&self) -> Option<(&Path, &Path)> {
        self.cert_file.as_deref().zip(self.key_file.as_deref())
    }

    /// Returns the source of the password for a mail server, an Alertmanager or a webhook.
    pub fn password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.password_file.as_ref(), self.password_env.as_ref())
    }

    /// Returns the sources of every secret that the sink is configured with.
    pub fn secrets(&self) -> impl Iterator<Item = SecretSource<'_>> {
        let all = [self.auth_password(), self.privacy_password(), self.secret(), self.token(), self.password()];
        all.into_iter().flatten()
    }

    /// Returns the engine id in hex when the receiver must be configured with it, as for SNMPv3 traps. Informs use
    /// the engine id of the receiver instead.
    pub fn shown_engine_id(&self, host: &str, machine: &str) -> Option<String> {
        let shown = self.kind == SinkKind::Snmp && self.version == SnmpVersion::V3 && self.mode == SnmpMode::Trap;
        let octets = shown.then(|| self.engine_id(host, machine))?;
        Some(octets.iter().map(|octet| format!("{octet:02x}")).collect())
    }

    /// Returns the SNMPv3 engine id of traps from this host, configured or derived from `machine` and `host`.
    pub fn engine_id(&self, host: &str, machine: &str) -> Vec<u8> {
        let own = self.engine_id.as_ref().and_then(|engine_id| hex(engine_id));
        own.unwrap_or_else(|| {
            // Two hosts with the same name must not share an engine id: a receiver would take them for one engine and
            // discard messages of either.
            let digest = Sha256::digest(format!("{machine}/{host}"));
            ENGINE_ID_START.iter().chain(digest.iter().take(ENGINE_ID_OWN)).copied().collect()
        })
    }

    /// Returns the receiver's address, with the default port of the kind when `target` omits it.
    pub fn endpoint(&self) -> Result<Endpoint, EndpointError> {
        target_with_port(&self.target, self.port())
    }

    /// Returns the port of a target that names none.
    pub fn port(&self) -> u16 {
        match (self.kind, self.transport()) {
            (SinkKind::Syslog, Transport::Tls) => SYSLOG_TLS_PORT,
            (SinkKind::Syslog, _) => SYSLOG_PORT,
            (SinkKind::Email, Transport::Tls) => SUBMISSIONS_PORT,
            (SinkKind::Email, Transport::Starttls) => SUBMISSION_PORT,
            (SinkKind::Email, _) => SMTP_PORT,
            _ => SNMP_TRAP_PORT,
        }
    }

    /// Describes the sink and its target in human-readable form. `host` is the agent's name; `machine` is the id of
    /// its machine, if known, from which the engine id of SNMPv3 traps is derived.
    pub fn describe(&self, host: &str, machine: Option<&str>) -> String {
        let place = self.place();
        match self.kind {
            SinkKind::Log => "this agent's log".to_owned(),
            SinkKind::Snmp => {
                let security = match (self.version, self.auth_protocol, self.privacy_protocol) {
                    (SnmpVersion::V2c, _, _) => String::new(),
                    (SnmpVersion::V3, auth, privacy) => {
                        let level = match (auth, privacy) {
                            (None, _) => "noAuthNoPriv".to_owned(),
                            (Some(auth), None) => format!("authNoPriv {auth}"),
                            (Some(auth), Some(privacy)) => format!("authPriv {auth} {privacy}"),
                        };
                        let engine = machine.or(self.engine_id.as_deref());
                        let engine = engine.and_then(|machine| self.shown_engine_id(host, machine));
                        let engine = engine.map_or(String::new(), |octets| format!(", engine id {octets}"));
                        format!(", user {}, {level}{engine}", self.user)
                    }
                };
                format!("SNMP{} {} to {place} ({}){security}", self.version, self.mode, self.profile)
            }
            SinkKind::Alertmanager => format!("Alertmanager {place}"),
            SinkKind::Webhook => format!("webhook {place}{}", if self.secret().is_some() { ", signed" } else { "" }),
            SinkKind::Syslog => format!("syslog to {place} over {}", self.transport()),
            SinkKind::Email => format!("mail to {} by {place} ({})", self.to.join(", "), self.transport()),
            SinkKind::Exec => format!("program {place}"),
        }
    }

    /// Returns the address, URL or program of the sink, without any secrets.
    pub fn place(&self) -> String {
        match self.kind {
            SinkKind::Log => "log".to_owned(),
            SinkKind::Snmp | SinkKind::Syslog | SinkKind::Email => {
                self.endpoint().map_or_else(|_| self.target.clone(), |target| target.to_string())
            }
            SinkKind::Alertmanager | SinkKind::Webhook => without_secrets(&self.url),
            SinkKind::Exec => self.command.first().cloned().unwrap_or_default(),
        }
    }

    /// Returns an identifier of the receiver under which the notification log is kept. Sinks with equal identifiers
    /// share their history.
    pub fn receiver(&self) -> String {
        format!("{} {} {} {}{}", self.name, self.kind, self.place(), self.profile, self.identity_suffix())
    }

    /// Returns true if both sinks notify the same receiver in the same format, even under different names.
    pub fn is_same_receiver(&self, other: &SinkConfig) -> bool {
        (self.kind, self.place(), self.profile, self.identity_suffix())
            == (other.kind, other.place(), other.profile, other.identity_suffix())
    }

    /// Returns the part of the receiver's identity that `place` does not contain, such as mail recipients.
    fn identity_suffix(&self) -> String {
        match self.kind {
            SinkKind::Email => format!(" {}", self.to.join(",")),
            SinkKind::Exec => format!(" {}", self.command.join(" ")),
            // The location omits the path and query of the URL, so a hash of the whole URL distinguishes them.
            SinkKind::Alertmanager | SinkKind::Webhook => {
                let digest = Sha256::digest(&self.url);
                format!(" {}", digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect::<String>())
            }
            SinkKind::Log | SinkKind::Snmp | SinkKind::Syslog => String::new(),
        }
    }
}

/// Reduces a URL to scheme, host and port, because user information, path and query may contain secrets.
fn without_secrets(url: &str) -> String {
    let Ok(url) = reqwest::Url::parse(url) else { return "a URL that cannot be read".to_owned() };
    let place = url.authority().rsplit('@').next().unwrap_or_default();
    let more = if url.path() == "/" && url.query().is_none() { "" } else { "/…" };
    format!("{}://{place}{more}", url.scheme())
}

/// Parses hexadecimal digits into octets.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn target_with_port(text: &str, port: u16) -> Result<Endpoint, EndpointError> {
    if let Ok(addr) = text.trim_matches(['[', ']']).parse() {
        return Ok(Endpoint { host: EndpointHost::Ip(addr), port });
    }
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{port}") };
    let endpoint: Endpoint = with_port.parse()?;
    if endpoint.port == 0 { Err(EndpointError::PortZero) } else { Ok(endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_without_port_gets_the_default_port() {
        let target = |text: &str| target_with_port(text, 162).map(|endpoint| endpoint.to_string());
        assert_eq!(target("noc").unwrap(), "noc:162");
        assert_eq!(target("10.0.0.1").unwrap(), "10.0.0.1:162");
        assert_eq!(target("10.0.0.1:1162").unwrap(), "10.0.0.1:1162");
        assert_eq!(target("::1").unwrap(), "[::1]:162");
        assert_eq!(target("[::1]:99").unwrap(), "[::1]:99");
        assert!(target("noc:0").is_err());
    }

    #[test]
    fn engine_ids_of_hosts_with_the_same_name_differ() {
        let sink = SinkConfig::default();
        let hex = |octets: Vec<u8>| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        let (one, other) = (hex(sink.engine_id("host-b", "m1")), hex(sink.engine_id("host-b", "m2")));
        assert!(one.starts_with("8000c44f05") && one.len() == 34 && one != other, "{one} {other}");
        assert_eq!(one, hex(sink.engine_id("host-b", "m1")));
        assert_ne!(one, hex(sink.engine_id("host-c", "m1")));
        let own = SinkConfig { engine_id: Some("0x8000000001020304".into()), ..sink };
        assert_eq!(hex(own.engine_id("host-b", "m1")), "8000000001020304");
    }

    #[test]
    fn location_of_a_url_contains_no_credentials() {
        let place =
            |url: &str| SinkConfig { kind: SinkKind::Webhook, url: url.into(), ..SinkConfig::default() }.place();
        assert_eq!(place("https://me:hidden@hook.example:9/a/b?token=hidden"), "https://hook.example:9/…");
        assert_eq!(place("http://127.0.0.1:9093"), "http://127.0.0.1:9093");
        assert!(!place("http//hidden@x").contains("hidden"));
    }

    #[test]
    fn fields_of_other_kinds_are_rejected() {
        let sink: SinkConfig = toml::from_str(
            "name = \"x\"\nkind = \"webhook\"\nurl = \"ftp://x\"\ntarget = \"noc\"\nparallel = 3\nprivacy_password_env = \"P\"\n",
        )
        .unwrap();
        let mut findings = Findings::about("x.toml");
        sink.check("sink[0]", &mut findings);
        insta::assert_snapshot!(findings.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn snmpv3_security_settings_must_be_complete() {
        let check = |text: &str| {
            let text = format!("name = \"x\"\nkind = \"snmp\"\ntarget = \"noc\"\nversion = \"v3\"\n{text}");
            let sink: SinkConfig = toml::from_str(&text).unwrap();
            let mut findings = Findings::about("x.toml");
            sink.check("sink[0]", &mut findings);
            let found: Vec<_> = findings.into_vec().iter().map(|finding| finding.location.clone()).collect();
            found
        };
        assert_eq!(check("user = \"u\""), [""; 0]);
        assert_eq!(check(""), ["x.toml: sink[0].user"]);
        assert_eq!(check("user = \"u\"\nauth_protocol = \"sha1\"\nauth_password_file = \"a\""), [""; 0]);
        assert_eq!(check("user = \"u\"\nauth_protocol = \"sha1\""), ["x.toml: sink[0].auth_password_file"]);
        let private = "user = \"u\"\nprivacy_protocol = \"aes256\"\nprivacy_password_file = \"p\"";
        assert_eq!(check(private), ["x.toml: sink[0].auth_protocol"]);
        assert_eq!(check("user = \"u\"\nengine_id = \"8000\""), ["x.toml: sink[0].engine_id"]);
    }
}
