//! A receiver of alarms, as the bootstrap file and the documents describe it.

mod check;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::duration;
use super::endpoint::{Endpoint, EndpointHost};
use super::findings::Findings;
use super::secret::{Secret, SecretSource, place_path};

/// The port of SNMP notifications (RFC 3417).
pub const SNMP_TRAP_PORT: u16 = 162;
/// Ports of syslog, plain and with TLS (RFC 5426, RFC 5425).
const SYSLOG_PORT: u16 = 514;
const SYSLOG_TLS_PORT: u16 = 6514;
/// Ports of mail, between servers, by users, and with TLS from the start.
const SMTP_PORT: u16 = 25;
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

/// A trap receiver of the usual kind takes this without loss.
const RATE: (f64, u32) = (10.0, 50);
/// A person does not read more mail than this.
const MAIL_RATE: (f64, u32) = (1.0 / 30.0, 10);
/// An engine id of SNMP has 5 to 32 octets (RFC 3411 section 5).
const ENGINE_ID_OCTETS: std::ops::RangeInclusive<usize> = 5..=32;
/// Enterprise 50255 with the mark for "an enterprise's own", then "octets follow" (RFC 3411 section 5), and how many.
const ENGINE_ID_START: [u8; 5] = [0x80, 0x00, 0xc4, 0x4f, 5];
const ENGINE_ID_OWN: usize = 12;

/// One sink. Fields that its kind does not know must not be set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// What people and logs call it; unique on this host.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// `host[:port]` of a receiver of SNMP, syslog or mail.
    pub target: String,
    /// SNMP version.
    pub version: SnmpVersion,
    /// SNMPv2c community.
    pub community: Secret,
    /// Trap or inform.
    pub mode: SnmpMode,
    /// Which notifications and varbinds.
    pub profile: SnmpProfile,
    /// SNMPv3 user, or user of the mail server, the Alertmanager or the webhook.
    pub user: String,
    /// How SNMPv3 messages are signed.
    pub auth_protocol: Option<AuthProtocol>,
    /// The password that they are signed with.
    pub auth_password_file: Option<PathBuf>,
    /// The same in the environment.
    pub auth_password_env: Option<String>,
    /// How SNMPv3 messages are encrypted.
    pub privacy_protocol: Option<PrivacyProtocol>,
    /// The password that they are encrypted with.
    pub privacy_password_file: Option<PathBuf>,
    /// The same in the environment.
    pub privacy_password_env: Option<String>,
    /// The SNMPv3 engine id, in hex; left out: made of the host's name.
    pub engine_id: Option<String>,
    /// The address of this host that the receiver sees; left out: as the routes say.
    pub source: Option<IpAddr>,
    /// How long an answer may take.
    #[serde(with = "duration::optional")]
    pub timeout: Option<Duration>,
    /// How often an inform is sent again that nobody answers.
    pub retries: u32,
    /// URL of an Alertmanager (its base) or of a webhook.
    pub url: String,
    /// What webhooks are signed with.
    pub secret_file: Option<PathBuf>,
    /// The same in the environment.
    pub secret_env: Option<String>,
    /// Bearer token for an Alertmanager or a webhook.
    pub token_file: Option<PathBuf>,
    /// The same in the environment.
    pub token_env: Option<String>,
    /// How syslog and mail travel.
    pub transport: Option<Transport>,
    /// File with the authority of a server's certificate, or that certificate itself; `None`: the system's trust store.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this host shows to a server, with those that lead to its signer.
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate.
    pub key_file: Option<PathBuf>,
    /// The URL of a proxy to the receiver; empty: none; left out: what the environment says.
    pub proxy: Option<String>,
    /// How syslog messages are told apart in a stream.
    pub framing: Option<Framing>,
    /// Which part of this host syslog messages are from.
    pub facility: Option<Facility>,
    /// Whom mail is from.
    pub from: String,
    /// Whom mail is for.
    pub to: Vec<String>,
    /// Password of that user.
    pub password_file: Option<PathBuf>,
    /// The same in the environment.
    pub password_env: Option<String>,
    /// A program and its arguments; there is no shell.
    pub command: Vec<String>,
    /// So many of it at once.
    pub parallel: u32,
    /// Messages per second.
    pub rate: Option<f64>,
    /// Messages at once.
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
            /// As documents write it.
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
    /// Kinds of sinks.
    SinkKind {
        /// This agent's own log.
        Log = "log",
        /// SNMP notifications.
        Snmp = "snmp",
        /// Prometheus' Alertmanager, its API v2.
        Alertmanager = "alertmanager",
        /// HTTP POST in the JSON of Alertmanager's webhooks, version 4.
        Webhook = "webhook",
        /// RFC 5424, with the alarm element of RFC 5674.
        Syslog = "syslog",
        /// Mail.
        Email = "email",
        /// A program that is given JSON.
        Exec = "exec",
    }
}

words! {
    /// SNMP versions.
    SnmpVersion {
        /// SNMPv2c, RFC 1901.
        V2c = "v2c",
        /// SNMPv3 with USM, RFC 3414.
        V3 = "v3",
    }
}

words! {
    /// How SNMP notifications are sent.
    SnmpMode {
        /// Not acknowledged.
        Trap = "trap",
        /// Acknowledged.
        Inform = "inform",
    }
}

words! {
    /// Which notifications and varbinds are sent.
    SnmpProfile {
        /// Those of PEERPAIR-MIB.
        Standard = "standard",
        /// Those of the original of 2017.
        Legacy = "legacy",
        /// The original's notification and varbinds, followed by PEERPAIR-MIB's varbinds.
        Both = "both",
    }
}

words! {
    /// How SNMPv3 messages are signed (RFC 3414, RFC 7860).
    AuthProtocol {
        /// HMAC-SHA-1-96.
        Sha1 = "sha1",
        /// HMAC-192-SHA-256.
        Sha256 = "sha256",
        /// HMAC-384-SHA-512.
        Sha512 = "sha512",
    }
}

words! {
    /// How SNMPv3 messages are encrypted (RFC 3826).
    PrivacyProtocol {
        /// AES-128 in CFB.
        Aes128 = "aes128",
        /// AES-256 in CFB, with the usual key extension where the hash is short.
        Aes256 = "aes256",
    }
}

words! {
    /// How syslog messages are told apart in a stream (RFC 6587).
    Framing {
        /// The length of each stands before it, as TLS wants it.
        OctetCounting = "octet-counting",
        /// A line feed ends each message (non-transparent framing).
        Lf = "lf",
    }
}

words! {
    /// Facilities of syslog (RFC 5424 section 6.2.1).
    Facility {
        /// System daemons.
        Daemon = "daemon",
        /// User-level messages.
        User = "user",
        /// The first of those that a site uses as it pleases.
        Local0 = "local0",
        /// The second.
        Local1 = "local1",
        /// The third.
        Local2 = "local2",
        /// The fourth.
        Local3 = "local3",
        /// The fifth.
        Local4 = "local4",
        /// The sixth.
        Local5 = "local5",
        /// The seventh.
        Local6 = "local6",
        /// The eighth.
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
    /// How syslog and mail travel.
    Transport {
        /// In datagrams; syslog only.
        Udp = "udp",
        /// In a stream.
        Tcp = "tcp",
        /// In a stream that is made secure after a word; mail only.
        Starttls = "starttls",
        /// In a secure stream.
        Tls = "tls",
    }
}

impl SinkConfig {
    /// Messages per second, and at once.
    pub fn pace(&self) -> (f64, u32) {
        let (rate, burst) = if self.kind == SinkKind::Email { MAIL_RATE } else { RATE };
        (self.rate.unwrap_or(rate), self.burst.unwrap_or(burst))
    }

    /// How long an answer may take.
    pub fn answer_within(&self) -> Duration {
        let (inform, others) = (Duration::from_secs(2), Duration::from_secs(10));
        self.timeout.unwrap_or(if self.kind == SinkKind::Snmp { inform } else { others })
    }

    /// How syslog or mail travels.
    pub fn transport(&self) -> Transport {
        match (self.transport, self.kind) {
            (Some(transport), _) => transport,
            (None, SinkKind::Email) => Transport::Starttls,
            (None, _) => Transport::Udp,
        }
    }

    /// Makes the paths in it relative to the directory of the document that it stands in.
    pub fn place_paths(&mut self, field: &str, directory: Option<&Path>, findings: &mut Findings) {
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
                place_path(path, directory, &format!("{field}.{name}"), findings);
            }
        }
    }

    /// The password that SNMPv3 messages are signed with.
    pub fn auth_password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.auth_password_file.as_ref(), self.auth_password_env.as_ref())
    }

    /// The password that SNMPv3 messages are encrypted with.
    pub fn privacy_password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.privacy_password_file.as_ref(), self.privacy_password_env.as_ref())
    }

    /// What webhooks are signed with.
    pub fn secret(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.secret_file.as_ref(), self.secret_env.as_ref())
    }

    /// The bearer token.
    pub fn token(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.token_file.as_ref(), self.token_env.as_ref())
    }

    /// The files of the certificate that this host shows, and of its key.
    pub fn client_certificate(&self) -> Option<(&Path, &Path)> {
        self.cert_file.as_deref().zip(self.key_file.as_deref())
    }

    /// The password of the user at a mail server, an Alertmanager or a webhook.
    pub fn password(&self) -> Option<SecretSource<'_>> {
        SecretSource::of(self.password_file.as_ref(), self.password_env.as_ref())
    }

    /// All the secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = SecretSource<'_>> {
        let all = [self.auth_password(), self.privacy_password(), self.secret(), self.token(), self.password()];
        all.into_iter().flatten()
    }

    /// The same in hex, if the receiver has to know it: an inform goes by the receiver's own.
    pub fn shown_engine_id(&self, host: &str, machine: &str) -> Option<String> {
        let shown = self.kind == SinkKind::Snmp && self.version == SnmpVersion::V3 && self.mode == SnmpMode::Trap;
        let octets = shown.then(|| self.engine_id(host, machine))?;
        Some(octets.iter().map(|octet| format!("{octet:02x}")).collect())
    }

    /// The SNMPv3 engine id of traps from this host.
    pub fn engine_id(&self, host: &str, machine: &str) -> Vec<u8> {
        let own = self.engine_id.as_ref().and_then(|engine_id| hex(engine_id));
        own.unwrap_or_else(|| {
            // Two hosts of one name would be one engine to a receiver, and mute each other.
            let digest = Sha256::digest(format!("{machine}/{host}"));
            ENGINE_ID_START.iter().chain(digest.iter().take(ENGINE_ID_OWN)).copied().collect()
        })
    }

    /// The receiver's address; the port may be left out.
    pub fn endpoint(&self) -> Result<Endpoint, String> {
        target_with_port(&self.target, self.port())
    }

    fn port(&self) -> u16 {
        match (self.kind, self.transport()) {
            (SinkKind::Syslog, Transport::Tls) => SYSLOG_TLS_PORT,
            (SinkKind::Syslog, _) => SYSLOG_PORT,
            (SinkKind::Email, Transport::Tls) => SUBMISSIONS_PORT,
            (SinkKind::Email, Transport::Starttls) => SUBMISSION_PORT,
            (SinkKind::Email, _) => SMTP_PORT,
            _ => SNMP_TRAP_PORT,
        }
    }

    /// Describes the sink and its target for people. `host` is the agent's name; `machine` is the id of its machine, if
    /// known, from which the engine id of SNMPv3 traps is made.
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

    /// Where it is.
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

    /// Who is told: sinks with the same one have told the same.
    pub fn receiver(&self) -> String {
        format!("{} {} {} {}{}", self.name, self.kind, self.place(), self.profile, self.further())
    }

    /// Whether both speak to the same receiver in the same terms.
    pub fn tells_the_same_as(&self, other: &SinkConfig) -> bool {
        (self.kind, self.place(), self.profile, self.further())
            == (other.kind, other.place(), other.profile, other.further())
    }

    /// Who is meant behind the place.
    fn further(&self) -> String {
        match self.kind {
            SinkKind::Email => format!(" {}", self.to.join(",")),
            SinkKind::Exec => format!(" {}", self.command.join(" ")),
            // The place does not show all of it.
            SinkKind::Alertmanager | SinkKind::Webhook => {
                let digest = Sha256::digest(&self.url);
                format!(" {}", digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect::<String>())
            }
            SinkKind::Log | SinkKind::Snmp | SinkKind::Syslog => String::new(),
        }
    }
}

/// A URL may carry a password, or a token in its path or behind it.
fn without_secrets(url: &str) -> String {
    let Ok(url) = reqwest::Url::parse(url) else { return "a URL that cannot be read".to_owned() };
    let place = url.authority().rsplit('@').next().unwrap_or_default();
    let more = if url.path() == "/" && url.query().is_none() { "" } else { "/…" };
    format!("{}://{place}{more}", url.scheme())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn target_with_port(text: &str, port: u16) -> Result<Endpoint, String> {
    if let Ok(addr) = text.trim_matches(['[', ']']).parse() {
        return Ok(Endpoint { host: EndpointHost::Ip(addr), port });
    }
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{port}") };
    let endpoint: Endpoint = with_port.parse().map_err(|error: super::endpoint::EndpointError| error.to_string())?;
    if endpoint.port == 0 { Err("port 0 is no receiver's".to_owned()) } else { Ok(endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        let target = |text: &str| target_with_port(text, 162).map(|endpoint| endpoint.to_string());
        assert_eq!(target("noc").unwrap(), "noc:162");
        assert_eq!(target("10.0.0.1").unwrap(), "10.0.0.1:162");
        assert_eq!(target("10.0.0.1:1162").unwrap(), "10.0.0.1:1162");
        assert_eq!(target("::1").unwrap(), "[::1]:162");
        assert_eq!(target("[::1]:99").unwrap(), "[::1]:99");
        assert!(target("noc:0").is_err());
    }

    #[test]
    fn engine_id_tells_two_hosts_of_one_name_apart() {
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
    fn a_url_shows_no_credentials() {
        let place =
            |url: &str| SinkConfig { kind: SinkKind::Webhook, url: url.into(), ..SinkConfig::default() }.place();
        assert_eq!(place("https://me:hidden@hook.example:9/a/b?token=hidden"), "https://hook.example:9/…");
        assert_eq!(place("http://127.0.0.1:9093"), "http://127.0.0.1:9093");
        assert!(!place("http//hidden@x").contains("hidden"));
    }

    #[test]
    fn what_a_kind_does_not_know_must_not_be_set() {
        let sink: SinkConfig = toml::from_str(
            "name = \"x\"\nkind = \"webhook\"\nurl = \"ftp://x\"\ntarget = \"noc\"\nparallel = 3\nprivacy_password_env = \"P\"\n",
        )
        .unwrap();
        let mut findings = Findings::about("x.toml");
        sink.check("sink[0]", &mut findings);
        insta::assert_snapshot!(findings.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn security_levels_of_v3() {
        let check = |text: &str| {
            let text = format!("name = \"x\"\nkind = \"snmp\"\ntarget = \"noc\"\nversion = \"v3\"\n{text}");
            let sink: SinkConfig = toml::from_str(&text).unwrap();
            let mut findings = Findings::about("x.toml");
            sink.check("sink[0]", &mut findings);
            let found: Vec<_> = findings.into_vec().iter().map(|finding| finding.place.clone()).collect();
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
