//! A receiver of alarms, as the bootstrap file and the documents describe it.

use std::fmt;

use serde::Deserialize;

use super::endpoint::{Endpoint, EndpointHost};
use super::findings::Findings;

/// The port of SNMP notifications (RFC 3417).
pub const SNMP_TRAP_PORT: u16 = 162;

/// Less than one message in a thousand seconds tells nobody anything in time.
const MIN_RATE: f64 = 0.001;

/// One sink. Fields that its kind does not know must not be set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// What people and logs call it; unique on this host.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// `host[:port]` of an SNMP receiver.
    pub target: String,
    /// SNMP version.
    pub version: SnmpVersion,
    /// SNMP community.
    pub community: Secret,
    /// Trap or inform.
    pub mode: SnmpMode,
    /// Which notifications and varbinds.
    pub profile: SnmpProfile,
    /// Messages per second.
    pub rate: f64,
    /// Messages at once.
    pub burst: u32,
}

impl Default for SinkConfig {
    fn default() -> Self {
        SinkConfig {
            name: String::new(),
            kind: SinkKind::Log,
            target: String::new(),
            version: SnmpVersion::V2c,
            community: Secret("public".to_owned()),
            mode: SnmpMode::Trap,
            profile: SnmpProfile::Standard,
            rate: 10.0,
            burst: 50,
        }
    }
}

/// Kinds of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// This agent's own log.
    Log,
    /// SNMP notifications.
    Snmp,
}

/// SNMP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnmpVersion {
    /// SNMPv2c, RFC 1901.
    V2c,
}

/// How SNMP notifications are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnmpMode {
    /// Not acknowledged.
    Trap,
}

/// Which notifications and varbinds are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnmpProfile {
    /// Those of PEERPAIR-MIB.
    Standard,
    /// Those of the original of 2017.
    Legacy,
    /// The original's notification and varbinds, followed by PEERPAIR-MIB's varbinds.
    Both,
}

impl fmt::Display for SnmpProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnmpProfile::Standard => "standard",
            SnmpProfile::Legacy => "legacy",
            SnmpProfile::Both => "both",
        })
    }
}

/// A secret: it never shows itself.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// From a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl SinkConfig {
    /// What is wrong with it, at `field` of its document.
    pub fn check(&self, field: &str, findings: &mut Findings) {
        if self.name.is_empty() {
            findings.error(&format!("{field}.name"), "a sink without a name", "give it one, such as \"noc\"");
        }
        if !(self.rate.is_finite() && self.rate >= MIN_RATE) {
            let way_out = "write messages per second, such as 10, or 0.1 for one in ten seconds";
            findings.error(&format!("{field}.rate"), "zero, negative or next to nothing", way_out);
        }
        if self.burst == 0 {
            findings.error(&format!("{field}.burst"), "zero would send nothing ever", "write 1 or more");
        }
        match self.kind {
            SinkKind::Log => {}
            SinkKind::Snmp => match self.snmp_target() {
                Ok(target) if target.is_wildcard() => {
                    findings.error(
                        &format!("{field}.target"),
                        "no receiver named",
                        "write its address, such as \"127.0.0.1:162\"",
                    );
                }
                Ok(_) => {}
                Err(problem) => {
                    findings.error(&format!("{field}.target"), problem, "write host:port, such as \"127.0.0.1:162\"");
                }
            },
        }
    }

    /// The receiver's address; the port may be left out.
    pub fn snmp_target(&self) -> Result<Endpoint, String> {
        target_with_port(&self.target, SNMP_TRAP_PORT)
    }

    /// What it is and where, for people.
    pub fn describe(&self) -> String {
        match self.kind {
            SinkKind::Log => "this agent's log".to_owned(),
            SinkKind::Snmp => format!("SNMPv2c trap to {} ({})", self.place(), self.profile),
        }
    }

    /// Where it is.
    pub fn place(&self) -> String {
        match self.kind {
            SinkKind::Log => "log".to_owned(),
            SinkKind::Snmp => self.snmp_target().map_or_else(|_| self.target.clone(), |target| target.to_string()),
        }
    }

    /// Who is told: sinks with the same one have told the same.
    pub fn receiver(&self) -> String {
        format!("{} {} {} {}", self.name, self.kind_name(), self.place(), self.profile)
    }

    /// Whether both speak to the same receiver in the same terms.
    pub fn tells_the_same_as(&self, other: &SinkConfig) -> bool {
        (self.kind, self.place(), self.profile) == (other.kind, other.place(), other.profile)
    }

    /// Its kind, as documents write it.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            SinkKind::Log => "log",
            SinkKind::Snmp => "snmp",
        }
    }
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
    fn a_secret_never_shows_itself() {
        let sink = SinkConfig { community: Secret::new("hidden"), ..SinkConfig::default() };
        assert!(!format!("{sink:?}").contains("hidden"));
    }
}
