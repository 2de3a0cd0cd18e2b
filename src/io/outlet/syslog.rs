//! Syslog (RFC 5424) with the alarm element of RFC 5674, in datagrams, in a stream, or with TLS.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;

use super::{Delivered, Identity};
use crate::config::endpoint::EndpointHost;
use crate::config::sinks::{SinkConfig, Transport};
use crate::io::snmp::resolve;
use crate::io::tls;
use crate::pure::alarm::{Kind, Severity};
use crate::pure::ledger::Due;
use crate::pure::notification::{AlarmState, Notification};
use crate::pure::time::WallTime;

/// Facility "system daemons".
const DAEMON: u8 = 3;
/// Our parameters, under our enterprise's number.
const OWN: &str = "peerpair@50255";
/// A host without a receiver, or one that closed the stream, says so within this if it is near.
const REFUSAL_WAIT: Duration = Duration::from_millis(50);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

enum Connection {
    Datagrams(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// A syslog receiver.
pub struct Syslog {
    config: SinkConfig,
    agent: Arc<str>,
    connection: Option<Connection>,
}

impl Syslog {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        Syslog { config: config.clone(), agent: identity.agent.clone(), connection: None }
    }

    pub(super) async fn deliver(&mut self, batch: Vec<Due>) -> Delivered {
        let within = self.config.answer_within();
        let outcome = match timeout(within, self.send_all(&batch)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(within))),
        };
        if outcome.is_err() {
            self.connection = None;
        }
        Delivered::all(batch, &outcome)
    }

    async fn send_all(&mut self, batch: &[Due]) -> Result<(), String> {
        let now = crate::io::time::now().wall;
        let lines: Vec<String> = batch.iter().map(|due| line(due, &self.agent, now)).collect();
        let failed = |error: std::io::Error| error.to_string();
        if let Some(Connection::Stream(stream)) = &mut self.connection
            && closed(stream.as_mut(), Duration::ZERO).await
        {
            self.connection = None;
        }
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
        }
        match &mut self.connection {
            Some(Connection::Datagrams(socket)) => {
                for line in lines {
                    socket.send(line.as_bytes()).await.map_err(failed)?;
                }
                let mut nothing = [0; 1];
                match timeout(REFUSAL_WAIT, socket.recv(&mut nothing)).await {
                    Ok(Err(error)) => Err(failed(error)),
                    Ok(Ok(_)) | Err(_) => Ok(()),
                }
            }
            Some(Connection::Stream(stream)) => {
                // Each message with its length before it (RFC 5425 section 4.3, RFC 6587 section 3.4.1).
                let frames: String = lines.iter().map(|line| format!("{} {line}", line.len())).collect();
                stream.write_all(frames.as_bytes()).await.map_err(failed)?;
                stream.flush().await.map_err(failed)?;
                // What was written into a stream that the other end had closed is lost.
                match closed(stream.as_mut(), REFUSAL_WAIT).await {
                    true => Err("the receiver closed the stream".to_owned()),
                    false => Ok(()),
                }
            }
            None => Err("not connected".to_owned()),
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        let target = self.config.endpoint()?;
        let addr = resolve(&target).await.map_err(|problem| format!("{target}: {problem}"))?;
        let failed = |error: std::io::Error| format!("{addr}: {error}");
        match self.config.transport() {
            Transport::Udp => {
                let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await.map_err(failed)?;
                socket.connect(addr).await.map_err(failed)?;
                Ok(Connection::Datagrams(socket))
            }
            Transport::Tcp | Transport::Starttls => {
                Ok(Connection::Stream(Box::new(TcpStream::connect(addr).await.map_err(failed)?)))
            }
            Transport::Tls => {
                let client = TlsConnector::from(Arc::new(tls::client(self.config.ca_file.as_deref())?));
                let name = match &target.host {
                    EndpointHost::Name(name) => {
                        ServerName::try_from(name.clone()).map_err(|error| format!("{target}: {error}"))?
                    }
                    EndpointHost::Ip(_) | EndpointHost::Any => ServerName::from(addr.ip()),
                };
                let stream = TcpStream::connect(addr).await.map_err(failed)?;
                Ok(Connection::Stream(Box::new(client.connect(name, stream).await.map_err(failed)?)))
            }
        }
    }
}

/// Whether the other end has closed the stream, or does so within this time. It has nothing to say.
async fn closed(stream: &mut dyn Stream, within: Duration) -> bool {
    let mut nothing = [0; 16];
    matches!(timeout(within, stream.read(&mut nothing)).await, Ok(Ok(0) | Err(_)))
}

fn line(due: &Due, agent: &str, now: WallTime) -> String {
    let pid = std::process::id();
    match due {
        Due::ColdStart => {
            let severity = 6;
            format!(
                "<{}>1 {now} {} peerpair {pid} cold_start - the agent has started",
                DAEMON * 8 + severity,
                word(agent)
            )
        }
        Due::Alarm { notification, .. } => {
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
            let text = format!("{}: {}", notification.headline(), notification.text);
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let priority = DAEMON * 8 + severity;
            format!("<{priority}>1 {now} {} peerpair {pid} {} {elements} {text}", word(agent), notification.key.kind)
        }
    }
}

/// Syslog's and the alarm's (RFC 5674 section 2).
fn severities(alarm: &Notification) -> (u8, &'static str) {
    match (alarm.state, alarm.severity) {
        (AlarmState::Cleared, _) => (5, "cleared"),
        (_, Severity::Critical) => (1, "critical"),
        (_, Severity::Major) => (2, "major"),
        (_, Severity::Minor) => (3, "minor"),
        (_, Severity::Warning) => (4, "warning"),
    }
}

/// The words of ITU-T X.733 (IANA-ITU-ALARM-TC-MIB).
fn probable_cause(kind: Kind) -> &'static str {
    match kind {
        Kind::Connection | Kind::Isolated => "lossOfSignal",
        Kind::Latency => "responseTimeExcessive",
        Kind::Sender => "localNodeTransmissionError",
        Kind::Clock => "timingProblem",
        Kind::Config => "configurationOrCustomizationError",
        Kind::Storm => "congestion",
        Kind::UnknownPacket | Kind::Test => "other",
    }
}

fn event_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Connection | Kind::Isolated | Kind::Sender | Kind::UnknownPacket => "communicationsAlarm",
        Kind::Latency | Kind::Storm => "qualityOfServiceAlarm",
        Kind::Clock => "equipmentAlarm",
        Kind::Config => "processingErrorAlarm",
        Kind::Test => "otherAlarm",
    }
}

/// In a parameter's value, three characters are marked (RFC 5424 section 6.3.3).
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

/// A header field: printable ASCII without blanks, or a dash.
fn word(value: &str) -> String {
    let word: String = value.chars().filter(|c| c.is_ascii_graphic()).take(255).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_marked() {
        assert_eq!(parameter("a \"b\" [c] \\ d\n"), "a \\\"b\\\" [c\\] \\\\ d ");
        assert_eq!(word("ho st\u{e9}"), "host");
        assert_eq!(word(""), "-");
    }
}
