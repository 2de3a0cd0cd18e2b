//! Results of deliveries, and the identity under which an agent delivers: what all kinds of receivers have in common.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::bootstrap::Bootstrap;
use crate::config::document::endpoint::{Endpoint, EndpointError};
use crate::config::plan::ResolveError;
use crate::io::secret::SecretError;
use crate::io::state::engine_boots::{self, Engine, EngineRole};
use crate::io::store;
use crate::io::tls::TlsError;
use crate::pure::notify::log::Outbound;

/// Timeout for reading files; a disk that takes longer is considered hung.
const DISK_WITHIN: Duration = Duration::from_secs(5);

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
    pub fn of(bootstrap: &Bootstrap, role: EngineRole) -> Self {
        let page =
            if bootstrap.web.listen.is_empty() { String::new() } else { format!("http://{}/", bootstrap.web.listen) };
        Identity {
            agent: bootstrap.host.as_str().into(),
            config_server: store::config_server(&bootstrap.store).into(),
            page: page.into(),
            former: Arc::default(),
            machine: engine_boots::machine(&bootstrap.state_dir).into(),
            engine: Engine::new(&bootstrap.state_dir, &bootstrap.host, role),
        }
    }
}

/// Results of delivering a batch of messages.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Result of each message; the order may differ from that of the batch.
    pub outcomes: Vec<(Outbound, Outcome)>,
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

impl Outcome {
    /// Returns the outcome of messages that did not arrive for this reason.
    pub(super) fn unreachable(error: impl std::fmt::Display) -> Self {
        Outcome::Unreachable(error.to_string())
    }
}

impl Delivered {
    /// Creates a result in which all messages of the batch have the same outcome.
    pub(super) fn all(batch: Vec<Outbound>, outcome: &Outcome) -> Self {
        let mut delivered = Delivered::default();
        delivered.add(batch, outcome);
        delivered
    }

    /// Adds messages that have the same outcome.
    pub(super) fn add(&mut self, batch: Vec<Outbound>, outcome: &Outcome) {
        self.outcomes.extend(batch.into_iter().map(|due| (due, outcome.clone())));
    }
}

/// Reason for which nothing can be delivered to a receiver.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The configured target or URL is malformed.
    #[error("{0}")]
    Target(#[from] EndpointError),
    /// Something that the kind of receiver needs is not configured.
    #[error("no {0} configured")]
    NotConfigured(&'static str),
    /// A configured value cannot be used, for this reason.
    #[error("{0}: {1}")]
    Unusable(String, String),
    /// The target's name cannot be resolved.
    #[error("{0}: {1}")]
    Unresolved(Endpoint, ResolveError),
    /// An operation on this socket, address or program failed.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// An operation on an open connection failed.
    #[error("{}", describe_error(.0))]
    Connection(#[from] io::Error),
    /// The receiver closed the connection.
    #[error("the receiver closed the stream")]
    Closed,
    /// The receiver did not answer within this time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The disk did not answer within this time.
    #[error("no answer from the disk within {}", humantime::format_duration(*.0))]
    DiskTimedOut(Duration),
    /// A thread of this agent failed.
    #[error("{0}")]
    Thread(#[from] tokio::task::JoinError),
    /// A password or token cannot be read.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// A password is shorter than SNMPv3 permits.
    #[error("the {0} is shorter than {1} octets")]
    ShortPassword(&'static str, usize),
    /// TLS cannot be configured.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The HTTP or mail library gave this reason, with what caused it.
    #[error("{0}")]
    Library(String),
    /// A message cannot be encoded.
    #[error("{0}")]
    Encode(String),
    /// The receiver of informs acknowledges none, for this reason as far as it is known.
    #[error("{0}")]
    Unacknowledged(String),
}

/// Describes an error of the operating system in human-readable form.
fn describe_error(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "no receiver listens there (port unreachable)".to_owned();
    }
    error.to_string()
}

/// Runs work on a blocking thread: it may block on a disk or spend milliseconds on hashing, and must not stall the
/// actors' thread.
pub(super) async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, DeliveryError>
where
    DeliveryError: From<E>,
{
    match timeout(DISK_WITHIN, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done?),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(DeliveryError::DiskTimedOut(DISK_WITHIN)),
    }
}
