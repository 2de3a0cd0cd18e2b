//! Reads the documents of the original program of 2017, as its users have them in etcd. Each document is recognized
//! by its field names and converted to the current type.
//!
//! The original was written in Go, which matches field names case-insensitively.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::deserialize;
use super::duration;
use super::endpoint::Endpoint;
use super::findings::{Findings, Level};
use super::fleet::FleetDocument;
use super::host::HostDocument;
use super::secret::Secret;
use super::settings::{AlarmSettings, CommonSettings, StampSettings, TestSettings};
use super::sinks::{SinkConfig, SinkKind, SnmpProfile};
use super::test::TestDocument;
use crate::pure::test::spec::Protocol;
use crate::pure::test::spec::Wire;

/// Name of the sink that is created from `SNMPServer` in a host document of the original.
pub const SNMP_SERVER_SINK: &str = "snmp-server";

const GLOBAL_FIELDS: [&str; 3] = ["Version", "Enabled", "FailureLatencyEgregiousMicros"];
const HOST_FIELDS: [&str; 8] = [
    "Version",
    "Enabled",
    "SNMPServer",
    "SNMPCommunity",
    "NTPServer",
    "MaxReportsPerSecond",
    "CachePeriodSeconds",
    "SSHPubKey",
];
const TEST_FIELDS: [&str; 13] = [
    "Id",
    "Version",
    "Description",
    "Enabled",
    "FromHostId",
    "From",
    "ToHostId",
    "To",
    "Protocol",
    "FreqSeconds",
    "FreqRetrySeconds",
    "FailureConnReportMin",
    "FailureLatencyMicros",
];

/// The original's `config` document.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LegacyGlobal {
    version: i64,
    enabled: bool,
    failure_latency_egregious_micros: u64,
}

/// The original's `hosts/<host>` document.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LegacyHost {
    enabled: bool,
    #[serde(rename = "SNMPServer")]
    snmp_server: String,
    #[serde(rename = "SNMPCommunity")]
    snmp_community: Secret,
    max_reports_per_second: f64,
    #[serde(rename = "NTPServer")]
    ntp_server: String,
}

/// UDP port of NTP servers, used when `NTPServer` omits the port.
const NTP_PORT: u16 = 123;

/// The original's `tests/<host>/<anything>` document.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LegacyTest {
    id: String,
    description: String,
    enabled: bool,
    from_host_id: String,
    from: String,
    to_host_id: String,
    to: String,
    protocol: String,
    freq_seconds: u64,
    failure_conn_report_min: u32,
    failure_latency_micros: u64,
    /// Extension of the original's format. The original ignored unknown fields, so its test documents may carry this
    /// one.
    #[serde(rename = "wire")]
    wire: Option<Wire>,
}

/// Returns true if the document is a `config` of the original.
pub fn is_global(document: &Value) -> bool {
    is_legacy(document, &GLOBAL_FIELDS, &["version", "enabled"])
}

/// Returns true if the document is a `hosts/<host>` of the original.
pub fn is_host(document: &Value) -> bool {
    is_legacy(document, &HOST_FIELDS, &["enabled"])
}

/// Returns true if the document is a `tests/<host>/<anything>` of the original.
pub fn is_test(document: &Value) -> bool {
    is_legacy(document, &TEST_FIELDS, &["id", "description", "enabled", "from", "to", "protocol"])
}

/// Converts the original's `config`. A zero or missing latency limit takes the current default.
pub fn global(document: Value, findings: &mut Findings) -> FleetDocument {
    let legacy: LegacyGlobal =
        deserialize::typed(as_the_original_wrote(document, &GLOBAL_FIELDS), Level::Error, findings);
    let mut global = FleetDocument { enabled: legacy.enabled, version: legacy.version, ..FleetDocument::default() };
    if legacy.failure_latency_egregious_micros > 0 {
        let egregious_latency = Duration::from_micros(legacy.failure_latency_egregious_micros);
        global.egregious_latency = egregious_latency.min(duration::LONGEST);
    }
    global
}

/// Converts the original's `hosts/<host>`. `SNMPServer` becomes a sink with the legacy profile.
pub fn host(document: Value, findings: &mut Findings) -> HostDocument {
    let legacy: LegacyHost = deserialize::typed(as_the_original_wrote(document, &HOST_FIELDS), Level::Error, findings);
    let mut host = HostDocument { enabled: legacy.enabled, ..HostDocument::default() };
    if !legacy.snmp_server.is_empty() {
        let mut sink = SinkConfig {
            name: SNMP_SERVER_SINK.to_owned(),
            kind: SinkKind::Snmp,
            target: legacy.snmp_server,
            profile: SnmpProfile::Legacy,
            ..SinkConfig::default()
        };
        if !legacy.snmp_community.reveal().is_empty() {
            sink.community = legacy.snmp_community;
        }
        if legacy.max_reports_per_second > 0.0 {
            sink.rate = Some(legacy.max_reports_per_second);
        }
        if let Err(problem) = sink.endpoint() {
            findings.error("SNMPServer", problem.to_string(), "write host[:port]");
        }
        host.sinks.push(sink);
    }
    if !legacy.ntp_server.is_empty() {
        let with_port = format!("{}:{NTP_PORT}", legacy.ntp_server);
        let has_port = legacy.ntp_server.parse::<Endpoint>().is_ok_and(|server| server.port != 0);
        host.ntp_server = if has_port { legacy.ntp_server } else { with_port };
    }
    host
}

/// Converts the original's `tests/<host>/<anything>`. `FreqSeconds` is the receiver's timeout, and probes are sent
/// twice as often, as the original did.
pub fn test(document: Value, findings: &mut Findings) -> TestDocument {
    let legacy: LegacyTest = deserialize::typed(as_the_original_wrote(document, &TEST_FIELDS), Level::Error, findings);
    if legacy.freq_seconds > duration::LONGEST.as_secs() {
        findings.error("FreqSeconds", "more than a year", "write the receiver's timeout in seconds");
    }
    if legacy.freq_seconds == 0 {
        findings.error("FreqSeconds", "missing or zero", "write the receiver's timeout in seconds");
    }
    if !legacy.protocol.is_empty() && !legacy.protocol.eq_ignore_ascii_case("udp") {
        findings.error("Protocol", format!("unknown protocol `{}`", legacy.protocol), "write \"udp\"");
    }
    let expect_every = Duration::from_secs(legacy.freq_seconds).min(duration::LONGEST);
    let expect_every = (!expect_every.is_zero()).then_some(expect_every);
    TestDocument {
        id: legacy.id,
        description: legacy.description,
        enabled: legacy.enabled,
        from_host: legacy.from_host_id,
        from: legacy.from,
        to_host: legacy.to_host_id,
        to: legacy.to,
        protocol: Protocol::Udp,
        settings: TestSettings {
            common: CommonSettings {
                send_every: expect_every.map(|every| every / 2),
                expect_every,
                max_latency: (legacy.failure_latency_micros > 0)
                    .then(|| Duration::from_micros(legacy.failure_latency_micros)),
                ..CommonSettings::default()
            },
            stamp: StampSettings { wire: legacy.wire, ..StampSettings::default() },
        },
        alarm: AlarmSettings {
            raise_after: (legacy.failure_conn_report_min > 0).then_some(legacy.failure_conn_report_min),
            ..AlarmSettings::default()
        },
        ..TestDocument::default()
    }
}

/// Recognizes a document of the original: a field has a name that only the original uses, in any case, or a shared
/// name that is not in lower case.
fn is_legacy(document: &Value, fields: &[&str], shared: &[&str]) -> bool {
    let Value::Object(given) = document else { return false };
    given.keys().any(|key| {
        let known = fields.iter().any(|field| field.eq_ignore_ascii_case(key));
        known && !shared.contains(&key.as_str())
    })
}

fn as_the_original_wrote(document: Value, fields: &[&str]) -> Value {
    let Value::Object(given) = document else { return document };
    let canonical = |key: String| match fields.iter().find(|field| field.eq_ignore_ascii_case(&key)) {
        Some(field) => (*field).to_owned(),
        None => key,
    };
    // Go leaves a field at its default when the document contains null.
    let given = given.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(key, value)| (canonical(key), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn field_names_match_case_insensitively() {
        for document in [
            json!({"Id":"x","Enabled":true,"FromHostId":"a","FreqSeconds":2,"FailureLatencyMicros":5000}),
            json!({"id":"x","enabled":true,"fromhostid":"a","FREQSECONDS":2,"failurelatencymicros":5000}),
        ] {
            assert!(is_test(&document));
            let mut findings = Findings::about("t");
            let test = test(document, &mut findings);
            assert!(!findings.has_errors());
            assert_eq!((test.id.as_str(), test.from_host.as_str(), test.enabled), ("x", "a", true));
            assert_eq!(test.settings.common.send_every, Some(Duration::from_secs(1)));
            assert_eq!(test.settings.common.max_latency, Some(Duration::from_millis(5)));
        }
    }

    #[test]
    fn current_documents_are_not_taken_for_legacy_ones() {
        assert!(!is_test(&json!({"id":"x","enabled":true,"from":"a:1","to":"b:2","protocol":"udp","from_host":"a"})));
        assert!(!is_global(&json!({"enabled":true,"version":3})));
        assert!(!is_host(&json!({"enabled":true})));
    }

    /// The original's integer division turned a period of 1 s into an interval of 0 and a flood of probes; here the
    /// interval is 500 ms.
    #[test]
    fn period_of_one_second_gives_a_send_interval_of_500_ms() {
        let test = test(json!({"Id":"x","FreqSeconds":1}), &mut Findings::about("t"));
        assert_eq!(test.settings.common.send_every, Some(Duration::from_millis(500)));
    }

    #[test]
    fn snmp_server_of_a_host_becomes_a_legacy_sink() {
        let document =
            json!({"Enabled":true,"SNMPServer":"noc","SNMPCommunity":"c","MaxReportsPerSecond":5,"NTPServer":"x"});
        assert!(is_host(&document));
        let host = host(document, &mut Findings::about("h"));
        assert_eq!(host.sinks[0].place(), "noc:162");
        assert_eq!(host.sinks[0].rate, Some(5.0));
        assert_eq!(host.sinks[0].profile, SnmpProfile::Legacy);
    }
}
