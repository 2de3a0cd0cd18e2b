//! Syslog receiver (RFC 5424) with the alarm element of RFC 5674, by UDP, TCP or TLS.
//!
//! The main type is [`Syslog`], which keeps its stream open between deliveries.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;

use super::datagrams::Datagrams;
use crate::config::document::endpoint::EndpointHost;
use crate::config::document::sinks::{Facility, Framing, SinkConfig, Transport};
use crate::io::net::dns::resolve_endpoint;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Identity, Outcome, blocking};
use crate::io::tls;
use crate::pure::alarm::key::{Kind, Severity};
use crate::pure::alarm::notification::{AlarmState, Notification};
use crate::pure::base::time::WallTime;
use crate::pure::notify::log::Outbound;

/// Id of the agent's own structured data element, with its private enterprise number.
const OWN: &str = "peerpair@50255";
/// Time to wait after writing for the receiver to close the stream; a nearby receiver that rejects it does so within
/// this time.
const CLOSE_WAIT: Duration = Duration::from_millis(50);
/// Largest message in octets; longer ones are truncated. Receivers accept at least this length in practice, while RFC
/// 5424 section 6.1 asks for 2,048 octets.
const LONGEST: usize = 8 * 1024;

trait SyslogStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> SyslogStream for S {}

/// Syslog receiver with its socket or its open stream.
pub struct Syslog {
    config: SinkConfig,
    agent: Arc<str>,
    datagrams: Datagrams,
    stream: Option<Box<dyn SyslogStream>>,
}

impl Syslog {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        let datagrams = Datagrams::new(config.endpoint(), config.source);
        Syslog { config: config.clone(), agent: identity.agent.clone(), datagrams, stream: None }
    }

    pub(super) async fn deliver(&mut self, batch: Vec<Outbound>) -> Delivered {
        let now = crate::io::time::now().wall;
        let lines: Vec<String> = batch.iter().map(|due| line(due, &self.agent, self.facility(), now)).collect();
        let within = self.config.response_timeout();
        let sent = match self.config.transport() {
            Transport::Udp => {
                let datagrams: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
                self.datagrams.send(&datagrams).await
            }
            Transport::Tcp | Transport::Starttls | Transport::Tls => {
                timeout(within, self.write(&lines)).await.unwrap_or(Err(DeliveryError::TimedOut(within)))
            }
        };
        match sent {
            Ok(()) => Delivered::all(batch, &Outcome::Delivered),
            Err(error) => {
                self.stream = None;
                self.datagrams.disconnect();
                Delivered::all(batch, &Outcome::unreachable(error))
            }
        }
    }

    fn facility(&self) -> u8 {
        self.config.facility.unwrap_or(Facility::Daemon).code()
    }

    async fn write(&mut self, lines: &[String]) -> Result<(), DeliveryError> {
        if let Some(stream) = &mut self.stream
            && closed(stream.as_mut(), Duration::ZERO).await
        {
            self.stream = None;
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        // Octet counting (RFC 5425 section 4.3, RFC 6587 section 3.4.1) or a trailing line feed frames each message.
        let frames: String = match self.config.framing.unwrap_or(Framing::OctetCounting) {
            Framing::OctetCounting => lines.iter().map(|line| format!("{} {line}", line.len())).collect(),
            Framing::Lf => lines.iter().map(|line| format!("{line}\n")).collect(),
        };
        stream.write_all(frames.as_bytes()).await?;
        stream.flush().await?;
        // Data written into a stream that the other end has closed is lost.
        if closed(stream.as_mut(), CLOSE_WAIT).await {
            return Err(DeliveryError::Closed);
        }
        self.stream = Some(stream);
        Ok(())
    }

    async fn connect(&self) -> Result<Box<dyn SyslogStream>, DeliveryError> {
        let target = self.config.endpoint()?;
        let addr = resolve_endpoint(&target).await;
        let addr = addr.map_err(|error| DeliveryError::Unresolved(target.clone(), error))?;
        let failed = |error| DeliveryError::Io(addr.to_string(), error);
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
        if let Some(source) = self.config.source {
            let bound = socket.bind((source, 0).into());
            bound.map_err(|error| DeliveryError::Io(format!("source {source}"), error))?;
        }
        let stream = socket.connect(addr).await.map_err(failed)?;
        // A dead path is detected when written data is not acknowledged within this time.
        let within = Some(self.config.response_timeout());
        socket2::SockRef::from(&stream).set_tcp_user_timeout(within).map_err(failed)?;
        if self.config.transport() != Transport::Tls {
            return Ok(Box::new(stream));
        }
        let config = self.config.clone();
        let client = blocking(move || tls::client_with(config.ca_file.as_deref(), config.client_certificate()));
        let client = TlsConnector::from(Arc::new(client.await?));
        let name = match &target.host {
            EndpointHost::Name(name) => {
                let server = ServerName::try_from(name.clone());
                server.map_err(|error| DeliveryError::Unusable(target.to_string(), error.to_string()))?
            }
            EndpointHost::Ip(_) | EndpointHost::Any => ServerName::from(addr.ip()),
        };
        Ok(Box::new(client.connect(name, stream).await.map_err(failed)?))
    }
}

/// Returns whether the other end has closed the stream, or closes it within the given time. Syslog receivers send no
/// data; octets that arrive are discarded.
async fn closed(stream: &mut dyn SyslogStream, within: Duration) -> bool {
    let mut nothing = [0; 16];
    matches!(timeout(within, stream.read(&mut nothing)).await, Ok(Ok(0) | Err(_)))
}

fn line(due: &Outbound, agent: &str, facility: u8, now: WallTime) -> String {
    let pid = std::process::id();
    match due {
        Outbound::ColdStart => {
            let severity = 6;
            format!(
                "<{}>1 {now} {} peerpair {pid} cold_start - the agent has started",
                facility * 8 + severity,
                word(agent)
            )
        }
        Outbound::Alarm { notification, .. } => {
            let (severity, perceived) = severities(notification);
            let mut elements = format!(
                "[alarm resource=\"{}\" probableCause=\"{}\" perceivedSeverity=\"{perceived}\" eventType=\"{}\"]",
                parameter(&notification.key.subject.to_string()),
                probable_cause(notification.key.kind),
                event_type(notification.key.kind),
            );
            elements += &format!("[{OWN}");
            let mut own = vec![
                ("agent", notification.agent.clone()),
                ("kind", notification.key.kind.to_string()),
                ("state", notification.state.as_str().to_owned()),
                ("since", notification.since.to_string()),
                ("count", notification.count.to_string()),
                ("suppressed", notification.suppressed.to_string()),
            ];
            if let Some(test) = &notification.test {
                own.extend([
                    ("test", test.description.clone()),
                    ("from_host", test.from_host.clone()),
                    ("from", test.from.clone()),
                    ("to_host", test.to_host.clone()),
                    ("to", test.to.clone()),
                ]);
            }
            own.iter().for_each(|(name, value)| elements += &format!(" {name}=\"{}\"", parameter(value)));
            elements += "]";
            let text = format!("{}: {}", notification.headline(), notification.text());
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let priority = facility * 8 + severity;
            let mut line = format!(
                "<{priority}>1 {now} {} peerpair {pid} {} {elements} {text}",
                word(agent),
                notification.key.kind
            );
            line.truncate(line.floor_char_boundary(LONGEST));
            line
        }
    }
}

/// Returns the syslog severity and the perceived severity of an alarm (RFC 5674 section 2).
fn severities(alarm: &Notification) -> (u8, &'static str) {
    match (alarm.state, alarm.severity) {
        (AlarmState::Cleared, _) => (5, "cleared"),
        (_, Severity::Critical) => (1, "critical"),
        (_, Severity::Major) => (2, "major"),
        (_, Severity::Minor) => (3, "minor"),
        (_, Severity::Warning) => (4, "warning"),
    }
}

/// Returns the probable cause from ITU-T X.733, in the spelling of IANA-ITU-ALARM-TC-MIB.
fn probable_cause(kind: Kind) -> &'static str {
    match kind {
        Kind::Connection | Kind::Isolated => "lossOfSignal",
        Kind::Latency => "responseTimeExecessive",
        Kind::Loss | Kind::Jitter => "degradedSignal",
        Kind::Path => "lossOfSignal",
        Kind::Sender => "localNodeTransmissionError",
        Kind::Clock => "timingProblem",
        Kind::Config => "configurationOrCustomizationError",
        Kind::UnknownPacket | Kind::Storm | Kind::Test => "other",
    }
}

fn event_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Connection | Kind::Path | Kind::Isolated | Kind::Sender | Kind::UnknownPacket => "communicationsAlarm",
        Kind::Latency | Kind::Loss | Kind::Jitter | Kind::Storm => "qualityOfServiceAlarm",
        Kind::Clock => "equipmentAlarm",
        Kind::Config => "processingErrorAlarm",
        Kind::Test => "other",
    }
}

/// Escapes the value of a parameter: a backslash precedes `"`, `\` and `]` (RFC 5424 section 6.3.3), and control
/// characters become blanks.
fn parameter(value: &str) -> String {
    let mut marked = String::new();
    for c in value.chars() {
        match c {
            '"' | '\\' | ']' => marked.extend(['\\', c]),
            c if c.is_control() => marked.push(' '),
            c => marked.push(c),
        }
    }
    marked
}

/// Converts text to a header field: printable ASCII without blanks, or a dash if nothing remains.
fn word(value: &str) -> String {
    let word: String = value.chars().filter(|c| c.is_ascii_graphic()).take(255).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::sinks::SinkKind;

    #[test]
    fn parameter_values_are_escaped_and_header_fields_are_printable_ascii() {
        assert_eq!(parameter("a \"b\" [c] \\ d\n"), "a \\\"b\\\" [c\\] \\\\ d ");
        assert_eq!(word("ho st\u{e9}"), "host");
        assert_eq!(word(""), "-");
    }

    #[tokio::test]
    async fn messages_in_a_stream_are_framed_as_configured() {
        let framings =
            [(None, "3 one4 four"), (Some(Framing::OctetCounting), "3 one4 four"), (Some(Framing::Lf), "one\nfour\n")];
        for (framing, expected) in framings {
            let (near, mut far) = tokio::io::duplex(64);
            let config = SinkConfig { framing, ..SinkConfig::default() };
            let datagrams = Datagrams::new(config.endpoint(), None);
            let mut syslog = Syslog { config, agent: "a".into(), datagrams, stream: Some(Box::new(near)) };
            syslog.write(&["one".to_owned(), "four".to_owned()]).await.unwrap();
            drop(syslog);
            let mut octets = String::new();
            far.read_to_string(&mut octets).await.unwrap();
            assert_eq!(octets, expected);
        }
    }

    #[tokio::test]
    async fn stream_comes_from_the_configured_source() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = std::net::IpAddr::from([127, 0, 0, 9]);
        let config = SinkConfig {
            kind: SinkKind::Syslog,
            target: server.local_addr().unwrap().to_string(),
            transport: Some(Transport::Tcp),
            source: Some(source),
            ..SinkConfig::default()
        };
        let datagrams = Datagrams::new(config.endpoint(), None);
        let syslog = Syslog { config, agent: "a".into(), datagrams, stream: None };
        let (connected, accepted) = tokio::join!(syslog.connect(), server.accept());
        connected.unwrap();
        assert_eq!(accepted.unwrap().1.ip(), source);
    }
}
