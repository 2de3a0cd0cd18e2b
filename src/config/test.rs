//! Merges a test document with the settings of its host, the fleet and the built-in defaults. [`CheckContext::fill_in`]
//! checks the document and returns a complete [`Test`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::document::endpoint::{Endpoint, EndpointError, EndpointHost};
use crate::config::document::findings::Findings;
use crate::config::document::fleet::FleetDocument;
use crate::config::document::host::HostDocument;
use crate::config::document::settings::{AlarmSettings, TestSettings, set_fields};
use crate::config::document::test::{TestDocument, WhenAbsent};
use crate::pure::clock::error_estimate::DelayLimits;
use crate::pure::judge::condition::Thresholds;
use crate::pure::measure::loss_window::LossLimits;
use crate::pure::notify::log::{FlapSettings, HoldDown};
use crate::pure::stamp::flows::{CodePoints, Flows, MAX_FLOWS};
use crate::pure::stamp::key::KeyChoice;
use crate::pure::stamp::packet::PADDED_LEN;
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;
use crate::pure::test::spec::Protocol;
use crate::pure::test::spec::{Mode, Wire};

/// Test in which every setting of its document, host, fleet or built-in default is resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Identity, description and ends of the test, as written in the document.
    pub facts: Arc<TestFacts>,
    /// Location of the document that defines the test, as shown in findings.
    pub place: String,
    /// Kind of probe, with what only this kind has.
    pub probe: ProbeSpec,
    /// Interval between two probes of the sender.
    pub send_every: Duration,
    /// Timeout of the receiver: at least a probe is expected within each such period.
    pub expect_every: Duration,
    /// Numbers of bad and good samples that raise and clear alarms.
    pub thresholds: Thresholds,
    /// Limits of the one-way delay for raising and clearing latency alarms.
    pub limits: DelayLimits,
    /// Limit of the round-trip delay, for two-way tests.
    pub max_round_trip: Option<Duration>,
    /// Limit of the delay above the test's own baseline.
    pub max_above_baseline: Option<Duration>,
    /// Limits of loss and delay variation.
    pub loss: LossLimits,
    /// Time after the start during which missing probes are tolerated.
    pub startup_grace: Duration,
    /// Marks a `startup_grace` that no document sets, which may be extended for a new host.
    pub is_grace_default: bool,
    /// Time for which missing probes are tolerated after the sender announced that it stops.
    pub max_pause: Duration,
    /// Hold-down and flap settings of the test's alarms.
    pub hold_down: HoldDown,
}

/// Kind of probe of a test, with what only this kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeSpec {
    /// STAMP between two agents, judged at the receiver.
    Stamp(StampSpec),
    /// TCP connections to a target, judged at the sender.
    Tcp(TcpSpec),
}

/// Probes of STAMP between two agents.
#[derive(Clone, Debug, PartialEq)]
pub struct StampSpec {
    /// Address and port that probes are sent from.
    pub from: Endpoint,
    /// Address and port that probes are sent to.
    pub to: Endpoint,
    /// Address and port that the receiver binds.
    pub listen: Endpoint,
    /// Direction of measurement: one-way, or two-way with replies from the reflector.
    pub mode: Mode,
    /// Combinations of source port, code point and size in which probes are sent.
    pub flows: Flows,
    /// Network interface that probes leave by. `None` leaves the choice to the routing table.
    pub from_interface: Option<String>,
    /// Keys that sign the probes, or `None` for unsigned probes.
    pub keys: Option<KeyChoice>,
    /// Packet format of the probes: STAMP (RFC 8762) or the JSON of the original program.
    pub wire: Wire,
    /// Behavior of the receiver while the address in `listen` is not configured on its host.
    pub when_absent: WhenAbsent,
    /// Ids of acceptable probes, any of which satisfies the test. `None` when only probes with the test's own id
    /// count.
    pub any_of: Option<Arc<BTreeSet<TestId>>>,
}

/// TCP connections to a target that needs no agent.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpSpec {
    /// Host and port that is connected to.
    pub target: Endpoint,
}

/// Lower bound on the interval between probes, because faster probes are a flood.
const MIN_SEND_EVERY: Duration = Duration::from_millis(1);
const SEND_EVERY: Duration = Duration::from_secs(1);
const RAISE_AFTER: u32 = 3;
const CLEAR_AFTER: u32 = 3;
const HOLD_DOWN: Duration = Duration::from_secs(30);
const HOLD_DOWN_MAX: Duration = Duration::from_secs(600);
const FLAPS: FlapSettings = FlapSettings { flap_high: 6, flap_low: 2, flap_window: Duration::from_secs(600) };
const LOSS_WINDOW: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Time within which the agent of a host is expected to start after the host was added to the documents.
pub const RECENT_HOST_GRACE: Duration = Duration::from_secs(300);
/// Lower bound on the default grace. A slow test gets three periods of `expect_every`.
const STARTUP_GRACE: Duration = Duration::from_secs(30);

/// Documents by which a test document is completed on a host.
pub struct CheckContext<'a> {
    /// Name of the host on which the document is read.
    pub host_name: &'a str,
    /// Global document of the fleet, with the settings that apply to every host.
    pub global: &'a Arc<FleetDocument>,
    /// Document of the host, whose alarm settings take precedence over the fleet's.
    pub host: &'a Arc<HostDocument>,
}

impl CheckContext<'_> {
    /// Returns the alarm settings of an item with settings of its own, completed by those of the host and the fleet.
    pub fn alarm(&self, own: AlarmSettings) -> AlarmSettings {
        own.or(&self.host.alarm).or(&self.global.alarm)
    }

    /// Returns the test with every omitted setting filled in, or `None` when the document has errors.
    pub fn fill_in(&self, document: &TestDocument, findings: &mut Findings) -> Option<Test> {
        let defaults = &self.global.defaults;
        let id = parse_id(document, findings);
        let settings = document.settings.clone().or(defaults);
        let probe = match document.protocol {
            Protocol::Udp => self.stamp(document, &settings, findings).map(ProbeSpec::Stamp),
            Protocol::Tcp => tcp(document, findings).map(ProbeSpec::Tcp),
        };
        self.check_hosts(document, findings);
        let (send_every, expect_every) =
            intervals(document.settings.common.send_every, document.settings.common.expect_every, defaults);
        check_intervals("", document.settings.common.send_every, (send_every, expect_every), findings);
        check_settings("", &document.settings, findings);
        if document.protocol == Protocol::Udp {
            self.check_combinations(&settings, send_every, findings);
        }
        if findings.has_errors() {
            return None;
        }

        let (id, probe) = (id?, probe?);
        let alarm = self.alarm(document.alarm.clone());
        let (raise_after, clear_after) =
            (alarm.raise_after.unwrap_or(RAISE_AFTER), alarm.clear_after.unwrap_or(CLEAR_AFTER));
        let settings = settings.common;
        let max_latency = settings.max_latency;
        let (to_host, to) = match &probe {
            ProbeSpec::Stamp(_) => (document.to_host.clone(), document.to.clone()),
            ProbeSpec::Tcp(tcp) => (tcp.target.host.to_string(), document.target.clone()),
        };
        Some(Test {
            facts: Arc::new(TestFacts {
                id,
                protocol: document.protocol,
                description: document.description.clone(),
                from_host: document.from_host.clone(),
                from: document.from.clone(),
                to_host,
                to,
                tags: document.tags.clone(),
                set: document.set.as_deref().map(Box::from),
            }),
            place: String::new(),
            probe,
            send_every,
            expect_every,
            thresholds: Thresholds {
                raise_after,
                raise_out_of: alarm.raise_out_of.unwrap_or(raise_after).max(raise_after),
                clear_after,
                clear_out_of: alarm.clear_out_of.unwrap_or(clear_after).max(clear_after),
            },
            limits: DelayLimits {
                max_latency,
                clear_latency: settings.clear_latency.unwrap_or(Duration::MAX),
                egregious_latency: self.global.egregious_latency,
            },
            // A round trip above twice the limit proves that at least one direction exceeded it.
            max_round_trip: settings.max_round_trip.or(max_latency.map(|limit| limit * 2)),
            max_above_baseline: settings.max_latency_above_baseline,
            loss: LossLimits {
                max_loss_ppm: settings.max_loss.map(|share| (share * 1e6).round() as u32),
                max_jitter: settings.max_jitter,
                loss_window: settings.loss_window.unwrap_or(LOSS_WINDOW.max(send_every * 20)),
            },
            is_grace_default: alarm.startup_grace.is_none(),
            startup_grace: alarm.startup_grace.unwrap_or(STARTUP_GRACE.max(expect_every * 3)),
            max_pause: alarm.max_pause.unwrap_or(MAX_PAUSE),
            hold_down: hold_down(&alarm),
        })
    }

    /// Checks that the hosts of a test are named, and that this host is one of them.
    fn check_hosts(&self, document: &TestDocument, findings: &mut Findings) {
        let ends: &[(&str, &String)] = match document.protocol {
            Protocol::Udp => &[("from_host", &document.from_host), ("to_host", &document.to_host)],
            Protocol::Tcp => &[("from_host", &document.from_host)],
        };
        for (field, host) in ends {
            if host.is_empty() {
                findings.error(field, "missing", "write the name of the host, as in its key hosts/<host>");
            }
        }
        if !ends.iter().any(|(_, host)| *host == self.host_name) {
            let help = match ends.iter().any(|(_, host)| host.trim().eq_ignore_ascii_case(self.host_name)) {
                true => "write the name exactly so: upper and lower case and blanks count",
                false => "move it below its own hosts; it does nothing here",
            };
            let fields = ends.iter().map(|(field, _)| *field).collect::<Vec<_>>().join(" nor its ");
            let problem = match ends.len() {
                1 => format!("`{}` is not its {fields}", self.host_name),
                _ => format!("`{}` is neither its {fields}", self.host_name),
            };
            findings.warning("", problem, help);
        }
    }

    fn stamp(&self, document: &TestDocument, settings: &TestSettings, findings: &mut Findings) -> Option<StampSpec> {
        if !document.target.is_empty() {
            findings.error("target", "not for the protocol udp", "remove it, or write \"protocol\": \"tcp\"");
        }
        let from = parse_endpoint("from", &document.from, "127.0.0.2:0", findings);
        let to = parse_endpoint("to", &document.to, "127.0.0.3:8620", findings);
        let listen = parse_endpoint("listen", &document.listen, "0.0.0.0:8620", findings);
        if let Some(to) = &to {
            check_destination(document, to, findings);
        }
        if !document.listen.is_empty() && listen.as_ref().is_some_and(|listen| listen.port == 0) {
            findings.error("listen", "no port", "write the port that probes arrive at");
        }
        let (from, to, listen) = (from?, to?, listen?);
        let settings = settings.stamp.clone();
        Some(StampSpec {
            listen: if document.listen.is_empty() { to.clone() } else { listen },
            from,
            to,
            mode: settings.mode.unwrap_or_default(),
            flows: Flows {
                ports: settings.flows.unwrap_or(1),
                dscp: CodePoints::of(settings.dscp.as_deref().unwrap_or(&[0])),
                size: settings.size,
            },
            keys: match (settings.key, settings.keyed) {
                (Some(ids), _) => Some(KeyChoice::These(ids.into())),
                (None, Some(true)) => Some(KeyChoice::Fleet),
                (None, Some(false) | None) => None,
            },
            from_interface: settings.from_interface,
            wire: settings.wire.unwrap_or(Wire::Stamp),
            when_absent: document.when_absent,
            any_of: None,
        })
    }
}

/// Reads the target of a TCP test. Fields of the other kinds of probes are errors, because they would have no effect.
fn tcp(document: &TestDocument, findings: &mut Findings) -> Option<TcpSpec> {
    let target = parse_endpoint("target", &document.target, "10.0.0.9:443", findings);
    if target.as_ref().is_some_and(|target| target.is_wildcard() || target.port == 0) {
        findings.error("target", "no host with a port", "write what is connected to, such as \"10.0.0.9:443\"");
    }
    let of_ends =
        [("to_host", &document.to_host), ("to", &document.to), ("from", &document.from), ("listen", &document.listen)];
    let of_ends = of_ends.into_iter().filter(|(_, text)| !text.is_empty()).map(|(field, _)| field.to_owned());
    let of_round_trips = document.settings.common.max_round_trip.map(|_| "max_round_trip".to_owned());
    for field in of_ends.chain(set_fields(&document.settings.stamp)).chain(of_round_trips) {
        findings.error(&field, "not for the protocol tcp", "remove it, or write \"protocol\": \"udp\"");
    }
    Some(TcpSpec { target: target? })
}

impl Test {
    /// Returns the specification of STAMP probes, if the test has them.
    pub fn stamp(&self) -> Option<&StampSpec> {
        match &self.probe {
            ProbeSpec::Stamp(stamp) => Some(stamp),
            ProbeSpec::Tcp(_) => None,
        }
    }

    /// Returns the endpoints of the test that may be names, with their fields.
    pub fn endpoints(&self) -> Vec<(&'static str, &Endpoint)> {
        match &self.probe {
            ProbeSpec::Stamp(stamp) if stamp.listen == stamp.to => vec![("from", &stamp.from), ("to", &stamp.to)],
            ProbeSpec::Stamp(stamp) => vec![("from", &stamp.from), ("to", &stamp.to), ("listen", &stamp.listen)],
            ProbeSpec::Tcp(tcp) => vec![("target", &tcp.target)],
        }
    }

    /// Returns the time after the start at `host` during which missing probes and errors from the path are tolerated.
    /// The time is extended when the peer was added to the documents recently, because its agent may start later.
    pub fn grace(&self, host: &str, recent_hosts: &BTreeSet<String>) -> Duration {
        let is_new = self.is_grace_default && recent_hosts.contains(self.facts.peer_of(host));
        if is_new { self.startup_grace.max(RECENT_HOST_GRACE) } else { self.startup_grace }
    }
}

/// Returns the intervals of sending and expecting. Explicit values take precedence; a missing value is half or twice
/// the other, and the defaults apply when both are missing.
pub fn intervals(send: Option<Duration>, expect: Option<Duration>, defaults: &TestSettings) -> (Duration, Duration) {
    match (send, expect) {
        (Some(send), Some(expect)) => (send, expect),
        (Some(send), None) => (send, send * 2),
        (None, Some(expect)) => (expect / 2, expect),
        (None, None) => match (defaults.common.send_every, defaults.common.expect_every) {
            (None, None) => (SEND_EVERY, SEND_EVERY * 2),
            (send, expect) => intervals(send, expect, &TestSettings::default()),
        },
    }
}

/// Checks intervals for values that no test can use. `explicit` is the document's own `send_every`, from which both
/// intervals derive when it is set.
pub fn check_intervals(
    field: &str,
    explicit: Option<Duration>,
    (send_every, expect_every): (Duration, Duration),
    findings: &mut Findings,
) {
    match explicit {
        _ if send_every >= MIN_SEND_EVERY => {}
        Some(_) => findings.error(&format!("{field}send_every"), "shorter than 1ms", "write \"1ms\" or more"),
        None => findings.error(&format!("{field}expect_every"), "shorter than 2ms", "write \"2ms\" or more"),
    }
    if expect_every < send_every {
        let problem = format!(
            "{} is shorter than send_every, {}: the alarm would be raised while all probes arrive",
            humantime::format_duration(expect_every),
            humantime::format_duration(send_every)
        );
        let help = "write at least send_every, preferably twice that";
        findings.error(&format!("{field}expect_every"), problem, help);
    }
}

/// Checks each setting by itself and adds a finding at `field` for each invalid value.
pub fn check_settings(field: &str, settings: &TestSettings, findings: &mut Findings) {
    let limits = [
        ("max_latency", settings.common.max_latency),
        ("max_latency_above_baseline", settings.common.max_latency_above_baseline),
        ("max_round_trip", settings.common.max_round_trip),
        ("max_jitter", settings.common.max_jitter),
    ];
    for (name, limit) in limits {
        if limit.is_some_and(|limit| limit.is_zero()) {
            findings.error(&format!("{field}{name}"), "zero", "write a limit above zero, or leave it out");
        }
    }
    if settings.common.loss_window.is_some_and(|window| window < SHORTEST_LOSS_WINDOW) {
        findings.error(&format!("{field}loss_window"), "shorter than 1s", "write \"1s\" or more");
    }
    if settings.stamp.flows.is_some_and(|flows| flows == 0 || flows > MAX_PORTS) {
        let help = format!("write 1 to {MAX_PORTS}");
        findings.error(&format!("{field}flows"), "not a number of source ports", help);
    }
    let dscp = settings.stamp.dscp.as_deref().unwrap_or(&[0]);
    let twice = dscp.iter().enumerate().any(|(n, code)| dscp[..n].contains(code));
    if dscp.is_empty() || twice || dscp.iter().any(|code| *code > HIGHEST_DSCP) {
        let help = format!("write different code points from 0 to {HIGHEST_DSCP}, such as [0, 46]");
        findings.error(&format!("{field}dscp"), "not differentiated services code points", help);
    }
    if settings.stamp.size.is_some_and(|size| !PADDED_LEN.contains(&usize::from(size))) {
        let help = format!("write {} to {} octets of UDP payload", PADDED_LEN.start(), PADDED_LEN.end());
        findings.error(&format!("{field}size"), "not a size that a probe can have", help);
    }
    if settings.stamp.key.as_ref().is_some_and(|ids| ids.is_empty() || ids.contains(&0)) {
        findings.error(&format!("{field}key"), "not ids of keys", "write the id of one of `keys`, from 1 to 255");
    }
    let interface = settings.stamp.from_interface.as_deref().unwrap_or("any");
    if interface.is_empty() || interface.len() > LONGEST_INTERFACE || interface.contains(['/', ' ', '\0']) {
        let problem = format!("`{interface}` is not the name of a network interface");
        findings.error(&format!("{field}from_interface"), problem, "write it as `ip link` shows it, such as \"eth1\"");
    }
}

impl CheckContext<'_> {
    /// Checks settings in combination, and against the keys of the fleet.
    fn check_combinations(&self, settings: &TestSettings, send_every: Duration, findings: &mut Findings) {
        let dscp = settings.stamp.dscp.as_ref().map_or(1, Vec::len);
        let sizes = if settings.stamp.size.is_some() { 2 } else { 1 };
        let flows = usize::from(settings.stamp.flows.unwrap_or(1)) * dscp * sizes;
        if flows > MAX_FLOWS {
            let problem = format!("{flows} flows, counted with dscp and size");
            findings.error("flows", problem, format!("write fewer: at most {MAX_FLOWS} flows are distinguished"));
        }
        if flows > 1 && send_every < MIN_SEND_EVERY * u32::try_from(flows).unwrap_or(u32::MAX) {
            let problem = format!("{flows} probes in each send_every are too many");
            findings.error("send_every", problem, format!("write \"{flows}ms\" or more, or fewer flows"));
        }
        let two_way = settings.stamp.mode == Some(Mode::TwoWay);
        let keyed = settings.stamp.keyed == Some(true) || settings.stamp.key.is_some();
        if settings.stamp.wire == Some(Wire::JsonV1) && (flows > 1 || two_way || keyed) {
            let problem = "json-v1 probes have no flows, sizes, keys or replies";
            findings.error("wire", problem, "write \"stamp\", or remove the other settings");
        }
        if settings.common.max_round_trip.is_some() && !two_way {
            findings.warning("max_round_trip", "no replies are sent in mode one_way", "write mode = \"two_way\"");
        }
        let known: BTreeSet<u8> = self.global.keys.iter().map(|key| key.id).collect();
        let missing: Vec<u8> = settings.stamp.key.iter().flatten().copied().filter(|id| !known.contains(id)).collect();
        if !missing.is_empty() {
            let problem = format!("no key has the id {missing:?}");
            findings.error("key", problem, "add it to `keys` of the document config first");
        }
        if settings.stamp.key.is_none() && settings.stamp.keyed == Some(true) && self.global.active_key.is_none() {
            let help = "write `keys` and `active_key` in the document config first (peerpair key new)";
            findings.error("keyed", "the fleet has no active_key", help);
        }
    }
}

const SHORTEST_LOSS_WINDOW: Duration = Duration::from_secs(1);
const MAX_PORTS: u8 = 128;
const HIGHEST_DSCP: u8 = 63;
/// Upper bound on the length of an interface name: IFNAMSIZ without the terminating zero.
const LONGEST_INTERFACE: usize = 15;

/// Returns the hold-down and flap settings for alarms under the given settings.
pub fn hold_down(alarm: &AlarmSettings) -> HoldDown {
    let hold_down = alarm.hold_down.unwrap_or(HOLD_DOWN);
    let flap_high = alarm.flap_high.unwrap_or(FLAPS.flap_high);
    HoldDown {
        hold_down,
        hold_down_max: alarm.hold_down_max.unwrap_or(HOLD_DOWN_MAX).max(hold_down),
        flap: FlapSettings {
            flap_high,
            flap_low: alarm.flap_low.unwrap_or(FLAPS.flap_low),
            flap_window: alarm.flap_window.unwrap_or(FLAPS.flap_window),
        },
    }
}

fn parse_id(document: &TestDocument, findings: &mut Findings) -> Option<TestId> {
    match document.id.parse() {
        Ok(id) => Some(id),
        Err(_) => {
            let problem =
                if document.id.is_empty() { "missing".to_owned() } else { format!("`{}` is not a UUID", document.id) };
            let place = format!("{}/{}/{}/{}", document.from_host, document.from, document.to_host, document.to);
            let proposed = TestId::proposed_for(&place);
            findings.error("id", problem, format!("write a UUID, such as \"{proposed}\""));
            None
        }
    }
}

fn parse_endpoint(field: &str, text: &str, example: &str, findings: &mut Findings) -> Option<Endpoint> {
    match text.parse() {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            let error: EndpointError = error;
            findings.error(field, error.to_string(), format!("write address:port, such as \"{example}\""));
            None
        }
    }
}

fn check_destination(document: &TestDocument, to: &Endpoint, findings: &mut Findings) {
    if to.is_wildcard() {
        let problem = if document.to.is_empty() { "missing" } else { "probes cannot be sent to a wildcard" };
        let help = "write the receiver's address, such as \"127.0.0.3:8620\"; to bind a wildcard, use listen";
        findings.error("to", problem, help);
    } else if is_multicast_or_broadcast(to) {
        let help = "write the address of one receiver";
        findings.error("to", "a multicast or broadcast address", help);
    } else if to.port == 0 {
        findings.error("to", "port 0", "write the port that the receiver listens at");
    }
}

fn is_multicast_or_broadcast(to: &Endpoint) -> bool {
    match to.host {
        EndpointHost::Ip(IpAddr::V4(addr)) => addr.is_multicast() || addr.is_broadcast(),
        EndpointHost::Ip(addr @ IpAddr::V6(_)) => addr.is_multicast(),
        EndpointHost::Any | EndpointHost::Name(_) => false,
    }
}
