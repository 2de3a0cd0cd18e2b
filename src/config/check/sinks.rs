//! Checks the configuration of a sink. [`SinkConfig::check`] validates the general fields and those of its kind, and
//! rejects fields of other kinds.

use std::time::Duration;

use crate::config::document::findings::Findings;
use crate::config::document::sinks::{
    ENGINE_ID_OCTETS, Framing, SNMP_TRAP_PORT, SYSLOG_PORT, SinkConfig, SinkKind, SnmpVersion, Transport, hex,
};

/// Lower bound on `rate`: a message in 1000 s. A slower rate delays notifications beyond use.
const MIN_RATE: f64 = 0.001;
/// Upper bound on `rate` in messages per second, above which a limit has no effect.
const MAX_RATE: f64 = 10_000.0;
/// Upper bounds on the time to wait for a response, on the number of retries and on the number of parallel processes.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_RETRIES: u32 = 10;
const MAX_PARALLEL: u32 = 64;
/// Upper bound on the SNMPv3 user name in octets (RFC 3414 section 5).
const LONGEST_USER: usize = 32;

/// Checks every sink of a list, and that the names of the sinks are unique within the list.
pub fn check_sinks(field: &str, sinks: &[SinkConfig], findings: &mut Findings) {
    for (n, sink) in sinks.iter().enumerate() {
        sink.check(&format!("{field}[{n}]"), findings);
        if sinks[..n].iter().any(|earlier| earlier.name == sink.name) {
            let problem = format!("`{}` is the name of an earlier sink", sink.name);
            findings.error(&format!("{field}[{n}].name"), problem, "give each sink a name of its own");
        }
    }
}

impl SinkConfig {
    /// Adds a finding for each problem of the sink, located at `field` of its document.
    pub fn check(&self, field: &str, findings: &mut Findings) {
        if self.name.is_empty() {
            findings.error(&format!("{field}.name"), "no name", "give it one, such as \"noc\"");
        }
        let (rate, burst) = self.pace();
        if !(rate.is_finite() && (MIN_RATE..=MAX_RATE).contains(&rate)) {
            let problem = if rate > MAX_RATE { "more than 10,000 a second" } else { "zero, negative or too small" };
            let help = "write messages per second, such as 10, or 0.1 for one in ten seconds";
            findings.error(&format!("{field}.rate"), problem, help);
        }
        if self.secrets().any(|source| !source.has_valid_name()) {
            let problem = "one of its *_env fields is not a valid name of an environment variable";
            findings.error(field, problem, "write the variable's name there, never the secret itself");
        }
        if burst == 0 {
            findings.error(&format!("{field}.burst"), "zero would never send anything", "write 1 or more");
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > LONGEST_TIMEOUT) {
            findings.error(&format!("{field}.timeout"), "zero, or longer than a minute", "write a time such as \"2s\"");
        }
        if self.retries > MAX_RETRIES {
            let help = "write 10 or less: unacknowledged notifications are repeated anyway";
            findings.error(&format!("{field}.retries"), "too many", help);
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            let missing = if self.cert_file.is_some() { "key_file" } else { "cert_file" };
            let problem = "missing: a certificate and its key go together";
            findings.error(&format!("{field}.{missing}"), problem, "write both or neither");
        }
        self.check_fields_of_other_kinds(field, findings);
        match self.kind {
            SinkKind::Log => {}
            SinkKind::Snmp => {
                self.check_target(field, SNMP_TRAP_PORT, findings);
                self.check_usm(field, findings);
            }
            SinkKind::Syslog => {
                self.check_target(field, SYSLOG_PORT, findings);
                if self.transport() == Transport::Udp && self.framing.is_some() {
                    let problem = "each datagram is one message, so framing does not apply";
                    findings.error(&format!("{field}.framing"), problem, "remove it, or write transport = \"tcp\"");
                }
                if self.transport() == Transport::Tls && self.framing == Some(Framing::Lf) {
                    let problem = "over TLS each message is preceded by its length (RFC 5425 section 4.3)";
                    findings.error(&format!("{field}.framing"), problem, "remove it");
                }
                if self.transport() == Transport::Starttls {
                    findings.error(&format!("{field}.transport"), "not for syslog", "write udp, tcp or tls");
                }
            }
            SinkKind::Alertmanager | SinkKind::Webhook => {
                self.check_url(field, findings);
                self.check_http_credentials(field, findings);
            }
            SinkKind::Email => self.check_mail(field, findings),
            SinkKind::Exec => {
                if self.command.first().is_none_or(|program| !program.starts_with('/')) {
                    let help =
                        "write the program's absolute path and its arguments: [\"/usr/local/bin/page\", \"--db\"]";
                    findings.error(&format!("{field}.command"), "no program named by its absolute path", help);
                }
                if self.parallel == 0 || self.parallel > MAX_PARALLEL {
                    findings.error(&format!("{field}.parallel"), "zero, or more than 64", "write 1 to 64");
                }
            }
        }
    }

    fn check_target(&self, field: &str, port: u16, findings: &mut Findings) {
        let place = format!("{field}.target");
        let help = format!("write host:port, such as \"127.0.0.1:{port}\"");
        match self.endpoint() {
            Ok(target) if target.is_wildcard() => findings.error(&place, "missing", help),
            Ok(_) => {}
            Err(error) => findings.error(&place, error.to_string(), help),
        }
    }

    fn check_usm(&self, field: &str, findings: &mut Findings) {
        if self.version == SnmpVersion::V2c {
            let usm = !self.user.is_empty() || self.auth_protocol.is_some() || self.privacy_protocol.is_some();
            if usm || self.engine_id.is_some() {
                let problem = "v2c has no users and passwords: these settings would not be used";
                findings.error(&format!("{field}.version"), problem, "write version = \"v3\", or remove them");
            }
            return;
        }
        if self.community != SinkConfig::default().community {
            findings.error(
                &format!("{field}.community"),
                "SNMPv3 has no community",
                "remove it, or write version = \"v2c\"",
            );
        }
        if self.user.len() > LONGEST_USER {
            findings.error(&format!("{field}.user"), "longer than 32 octets", "write a shorter one");
        }
        if self.user.is_empty() {
            findings.error(&format!("{field}.user"), "SNMPv3 without a user", "write the user that the receiver knows");
        }
        if let Some(engine_id) = &self.engine_id
            && hex(engine_id).is_none_or(|octets| !ENGINE_ID_OCTETS.contains(&octets.len()))
        {
            let help = "write 5 to 32 octets in hex, such as \"8000c44f04686f73742d62\", or leave it out";
            findings.error(&format!("{field}.engine_id"), "no engine id", help);
        }
        for (name, protocol, password) in [
            ("auth", self.auth_protocol.is_some(), self.auth_password().is_some()),
            ("privacy", self.privacy_protocol.is_some(), self.privacy_password().is_some()),
        ] {
            if protocol != password {
                let (missing, there) = if protocol { ("password_file", "protocol") } else { ("protocol", "password") };
                let problem = format!("missing, though {name}_{there} is set");
                findings.error(&format!("{field}.{name}_{missing}"), problem, "write both or neither");
            }
        }
        if self.privacy_protocol.is_some() && self.auth_protocol.is_none() {
            let problem = "privacy without authentication: SNMPv3 has no such security level";
            findings.error(&format!("{field}.auth_protocol"), problem, "add auth_protocol and its password");
        }
    }

    fn check_url(&self, field: &str, findings: &mut Findings) {
        let url = reqwest::Url::parse(&self.url);
        let good = url.is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.host().is_some());
        if !good {
            let help = "write its URL, such as \"http://127.0.0.1:9093\"";
            findings.error(&format!("{field}.url"), "not an http or https URL", help);
        }
    }

    fn check_http_credentials(&self, field: &str, findings: &mut Findings) {
        if self.user.is_empty() != self.password().is_none() {
            findings.error(
                &format!("{field}.password_file"),
                "a user and its password go together",
                "write both or neither",
            );
        }
        if self.token().is_some() && self.password().is_some() {
            let problem = "a token and a password: a request carries only one of them";
            findings.error(&format!("{field}.token_file"), problem, "remove one of them");
        }
        let proxy = self.proxy.as_deref().filter(|proxy| !proxy.is_empty());
        if proxy.is_some_and(|proxy| reqwest::Proxy::all(proxy).is_err()) {
            let help = "write its URL, such as \"http://proxy:3128\", or \"\" for none";
            findings.error(&format!("{field}.proxy"), "no URL of a proxy", help);
        }
    }

    fn check_mail(&self, field: &str, findings: &mut Findings) {
        self.check_target(field, self.port(), findings);
        if self.transport() == Transport::Udp {
            findings.error(&format!("{field}.transport"), "not for mail", "write starttls, tls or tcp");
        }
        let is_address = |text: &str| text.parse::<lettre::message::Mailbox>().is_ok();
        if !is_address(&self.from) {
            findings.error(&format!("{field}.from"), "no mail address", "write one, such as \"peerpair@example.org\"");
        }
        if self.to.is_empty() || self.to.iter().any(|address| !is_address(address)) {
            let help = "write a list of them, such as [\"noc@example.org\"]";
            findings.error(&format!("{field}.to"), "no mail addresses", help);
        }
        if self.user.is_empty() != self.password().is_none() {
            findings.error(
                &format!("{field}.password_file"),
                "a user and its password go together",
                "write both or neither",
            );
        }
    }

    fn check_fields_of_other_kinds(&self, field: &str, findings: &mut Findings) {
        use SinkKind::{Alertmanager, Email, Exec, Snmp, Syslog, Webhook};
        let default = SinkConfig::default();
        let fields: [(&str, bool, &[SinkKind]); 28] = [
            ("target", self.target != default.target, &[Snmp, Syslog, Email]),
            ("version", self.version != default.version, &[Snmp]),
            ("community", self.community != default.community, &[Snmp]),
            ("mode", self.mode != default.mode, &[Snmp]),
            ("profile", self.profile != default.profile, &[Snmp]),
            ("user", !self.user.is_empty(), &[Snmp, Email, Alertmanager, Webhook]),
            ("auth_protocol", self.auth_protocol.is_some(), &[Snmp]),
            ("auth_password_file", self.auth_password().is_some(), &[Snmp]),
            ("privacy_protocol", self.privacy_protocol.is_some(), &[Snmp]),
            ("privacy_password_file", self.privacy_password().is_some(), &[Snmp]),
            ("engine_id", self.engine_id.is_some(), &[Snmp]),
            ("timeout", self.timeout.is_some(), &[Snmp, Alertmanager, Webhook, Syslog, Email, Exec]),
            ("retries", self.retries != default.retries, &[Snmp]),
            ("url", !self.url.is_empty(), &[Alertmanager, Webhook]),
            ("secret_file", self.secret().is_some(), &[Webhook]),
            ("token_file", self.token().is_some(), &[Alertmanager, Webhook]),
            ("transport", self.transport.is_some(), &[Syslog, Email]),
            ("ca_file", self.ca_file.is_some(), &[Alertmanager, Webhook, Syslog, Email]),
            ("from", !self.from.is_empty(), &[Email]),
            ("to", !self.to.is_empty(), &[Email]),
            ("password_file", self.password().is_some(), &[Email, Alertmanager, Webhook]),
            ("source", self.source.is_some(), &[Snmp, Alertmanager, Webhook, Syslog]),
            ("cert_file", self.cert_file.is_some(), &[Alertmanager, Webhook, Syslog]),
            ("proxy", self.proxy.is_some(), &[Alertmanager, Webhook]),
            ("framing", self.framing.is_some(), &[Syslog]),
            ("facility", self.facility.is_some(), &[Syslog]),
            ("command", !self.command.is_empty(), &[Exec]),
            ("parallel", self.parallel != default.parallel, &[Exec]),
        ];
        for (name, set, kinds) in fields {
            if set && !kinds.contains(&self.kind) {
                let kinds = kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
                let problem = format!("a sink of kind {} has no such field; it is for {kinds}", self.kind);
                findings.error(&format!("{field}.{name}"), problem, "remove it, or correct the kind");
            }
        }
    }
}
