//! The way out to one receiver of alarms.

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

/// A disk that takes longer hangs.
const DISK_WITHIN: Duration = Duration::from_secs(5);

/// A connection that takes longer is none.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// Who speaks to receivers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This host.
    pub agent: Arc<str>,
    /// Where the documents come from; the original named it in two of its notifications.
    pub config_server: Arc<str>,
    /// Where this agent's status page is.
    pub page: Arc<str>,
    /// The names that it had before.
    pub former: Arc<[String]>,
    /// The id of this machine, which distinguishes hosts of the same name.
    pub machine: Arc<str>,
    /// This agent as an SNMPv3 engine.
    pub engine: Engine,
}

impl Identity {
    /// Of an agent that starts from this file.
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

/// One kind of sink, with what it needs to deliver.
pub enum Outlet {
    /// This agent's own log.
    Log,
    /// SNMP notifications.
    Snmp(Box<Snmp>),
    /// An Alertmanager.
    Alertmanager(Box<Alertmanager>),
    /// A webhook.
    Webhook(Box<Webhook>),
    /// Syslog.
    Syslog(Box<Syslog>),
    /// Mail.
    Email(Box<Email>),
    /// A program.
    Exec(Box<Exec>),
}

/// What became of messages.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Of each.
    pub outcomes: Vec<(Due, Outcome)>,
    /// The receiver asks not to be asked again before.
    pub retry_after: Option<Duration>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it, as far as its protocol can tell.
    Delivered,
    /// There are no words for it: nothing was sent.
    Nothing,
    /// The receiver is there and does not take this one; others may fare better.
    Refused(String),
    /// The message did not arrive, as far as is known: the receiver is away, or fails on this message.
    Unreachable(String),
    /// The message was not sent, because one before it failed and each attempt costs a timeout.
    NotTried,
}

impl Delivered {
    /// All of them fared alike.
    fn all(batch: Vec<Due>, outcome: &Outcome) -> Self {
        let mut delivered = Delivered::default();
        delivered.add(batch, outcome);
        delivered
    }

    /// These fared so.
    fn add(&mut self, batch: Vec<Due>, outcome: &Outcome) {
        self.outcomes.extend(batch.into_iter().map(|due| (due, outcome.clone())));
    }
}

/// Work that may wait for a disk, or take milliseconds of hashing: not on the actors' thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match timeout(DISK_WITHIN, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer from the disk within {}", humantime::format_duration(DISK_WITHIN))),
    }
}

impl Outlet {
    /// The way out that `config` describes.
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

    /// Tries to deliver all of these, and says of each what became of it.
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

/// What this host lacks to use a sink: secrets, certificates, the program. For a dry run.
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

/// Whether the way to a receiver is open, as far as that can be seen without telling it anything.
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
