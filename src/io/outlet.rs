//! Delivery of notifications to one alarm receiver: log, SNMP, Alertmanager, webhook, syslog, mail or program.
//!
//! The main type is [`Outlet`], one variant for each kind of receiver; [`Outlet::deliver`] returns an [`Outcome`] for
//! each message.

mod alertmanager;
mod datagrams;
mod email;
mod exec;
mod http;
mod log;
mod snmp;
mod syslog;
mod webhook;

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use self::alertmanager::Alertmanager;
use self::email::Email;
use self::exec::Exec;
use self::snmp::Snmp;
use self::syslog::Syslog;
use self::webhook::Webhook;
use super::engine::{self, Engine, Role};
use super::store;
use crate::config::bootstrap::Bootstrap;

use crate::config::sinks::{SinkConfig, SinkKind};
use crate::pure::ledger::Due;

/// Timeout for reading files; a disk that takes longer is considered hung.
const DISK_WITHIN: Duration = Duration::from_secs(5);

/// Timeout for the TCP connection of a reachability check.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// Identity of this agent, as receivers see it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of this agent's host.
    pub agent: Arc<str>,
    /// Address of the config store; the original program named it in two of its SNMP notifications.
    pub config_server: Arc<str>,
    /// URL of this agent's status page; empty if the web server is disabled.
    pub page: Arc<str>,
    /// Former names of this agent, under which alarms may still be raised at receivers.
    pub former: Arc<[String]>,
    /// Id of this machine, which distinguishes hosts of the same name.
    pub machine: Arc<str>,
    /// Identity and clock of this agent as an SNMPv3 engine.
    pub engine: Engine,
}

impl Identity {
    /// Creates the identity of an agent with this bootstrap file.
    pub fn of(bootstrap: &Bootstrap, role: Role) -> Self {
        let page =
            if bootstrap.web.listen.is_empty() { String::new() } else { format!("http://{}/", bootstrap.web.listen) };
        Identity {
            agent: bootstrap.host.as_str().into(),
            config_server: store::config_server(&bootstrap.store).into(),
            page: page.into(),
            former: Arc::default(),
            machine: engine::machine(&bootstrap.state_dir).into(),
            engine: Engine::new(&bootstrap.state_dir, &bootstrap.host, role),
        }
    }
}

/// Connection to one receiver, by its kind, with the state needed to deliver to it.
pub enum Outlet {
    /// Log of this agent, to which every alarm is written as one line.
    Log,
    /// SNMP receiver of traps or informs.
    Snmp(Box<Snmp>),
    /// Alertmanager of Prometheus.
    Alertmanager(Box<Alertmanager>),
    /// HTTP endpoint that takes the JSON of Alertmanager's webhooks.
    Webhook(Box<Webhook>),
    /// Syslog server, by UDP, TCP or TLS.
    Syslog(Box<Syslog>),
    /// Mail server and recipients.
    Email(Box<Email>),
    /// Local program that is started for each notification.
    Exec(Box<Exec>),
}

/// Results of delivering a batch of messages.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Result of each message; the order may differ from that of the batch.
    pub outcomes: Vec<(Due, Outcome)>,
    /// Time for which the receiver asks not to be contacted again, from `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// Result of delivering one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has accepted the message, as far as its protocol reports that.
    Delivered,
    /// The receiver's format has no notification for this message, so that nothing was sent.
    Nothing,
    /// The receiver is reachable and rejects this message; it may accept others.
    Refused(String),
    /// The message did not arrive, as far as is known: the receiver is unreachable, or fails on this message.
    Unreachable(String),
    /// The message was not sent, because one before it failed and each attempt costs a timeout.
    NotTried,
}

impl Delivered {
    /// Creates a result in which all messages of the batch have the same outcome.
    fn all(batch: Vec<Due>, outcome: &Outcome) -> Self {
        let mut delivered = Delivered::default();
        delivered.add(batch, outcome);
        delivered
    }

    /// Adds messages that have the same outcome.
    fn add(&mut self, batch: Vec<Due>, outcome: &Outcome) {
        self.outcomes.extend(batch.into_iter().map(|due| (due, outcome.clone())));
    }
}

/// Runs work on a blocking thread: it may block on a disk or spend milliseconds on hashing, and must not stall the
/// actors' thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match timeout(DISK_WITHIN, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer from the disk within {}", humantime::format_duration(DISK_WITHIN))),
    }
}

impl Outlet {
    /// Creates the connection to the receiver that `config` describes; connects to it later, at the first delivery.
    pub fn new(config: &SinkConfig, identity: &Identity) -> Self {
        match config.kind {
            SinkKind::Log => Outlet::Log,
            SinkKind::Snmp => Outlet::Snmp(Box::new(Snmp::new(config, identity))),
            SinkKind::Alertmanager => Outlet::Alertmanager(Box::new(Alertmanager::new(config, identity))),
            SinkKind::Webhook => Outlet::Webhook(Box::new(Webhook::new(config, identity))),
            SinkKind::Syslog => Outlet::Syslog(Box::new(Syslog::new(config, identity))),
            SinkKind::Email => Outlet::Email(Box::new(Email::new(config, identity))),
            SinkKind::Exec => Outlet::Exec(Box::new(Exec::new(config))),
        }
    }

    /// Attempts to deliver all messages of the batch, and returns the outcome of each.
    pub async fn deliver(&mut self, batch: Vec<Due>) -> Delivered {
        if batch.is_empty() {
            return Delivered::default();
        }
        match self {
            Outlet::Log => {
                batch.iter().for_each(log::write);
                Delivered::all(batch, &Outcome::Delivered)
            }
            Outlet::Snmp(snmp) => snmp.deliver(batch).await,
            Outlet::Alertmanager(alertmanager) => alertmanager.deliver(batch).await,
            Outlet::Webhook(webhook) => webhook.deliver(batch).await,
            Outlet::Syslog(syslog) => syslog.deliver(batch).await,
            Outlet::Email(email) => email.deliver(batch).await,
            Outlet::Exec(exec) => exec.deliver(batch).await,
        }
    }
}

/// Returns the problems that prevent this host from using a receiver: missing secrets, certificates or the program.
/// Used by a dry run.
pub fn lacking(config: &SinkConfig) -> Vec<String> {
    let mut lacking: Vec<String> = config.secrets().filter_map(|source| super::secret::read(source).err()).collect();
    if config.ca_file.is_some() || config.cert_file.is_some() {
        lacking.extend(super::tls::client_with(config.ca_file.as_deref(), config.client_certificate()).err());
    }
    if let Some(program) = config.command.first().filter(|_| config.kind == SinkKind::Exec) {
        let executable = |metadata: &Metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        match std::fs::metadata(program) {
            Ok(metadata) if executable(&metadata) => {}
            Ok(_) => lacking.push(format!("program {program}: not an executable file")),
            Err(error) => lacking.push(format!("program {program}: {error}")),
        }
    }
    lacking
}

/// Checks that a receiver can be reached, as far as possible without sending it a message.
pub async fn reach(config: &SinkConfig) -> Result<(), String> {
    let target = match config.kind {
        SinkKind::Log | SinkKind::Exec => return Ok(()),
        SinkKind::Snmp | SinkKind::Syslog | SinkKind::Email => config.endpoint().map_err(|error| error.to_string())?,
        SinkKind::Alertmanager | SinkKind::Webhook => {
            let url = reqwest::Url::parse(&config.url).map_err(|error| error.to_string())?;
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or(0);
            format!("{host}:{port}")
                .parse()
                .map_err(|error: crate::config::endpoint::EndpointError| error.to_string())?
        }
    };
    let addr = super::resolve::resolve_endpoint(&target).await.map_err(|problem| format!("{target}: {problem}"))?;
    let datagrams = config.kind == SinkKind::Snmp
        || config.kind == SinkKind::Syslog && config.transport() == crate::config::sinks::Transport::Udp;
    if datagrams {
        let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let connected = std::net::UdpSocket::bind(any).and_then(|socket| socket.connect(addr));
        return connected.map_err(|error| format!("{addr}: {error}"));
    }
    match timeout(REACHED_WITHIN, tokio::net::TcpStream::connect(addr)).await {
        Ok(connected) => connected.map(|_| ()).map_err(|error| format!("{addr}: {error}")),
        Err(_) => Err(format!("{addr}: no answer within {}", humantime::format_duration(REACHED_WITHIN))),
    }
}
