//! Results of deliveries, and the identity under which an agent delivers: what all kinds of receivers have in common.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::bootstrap::Bootstrap;
use crate::io::state::engine_boots::{self, Engine, EngineRole};
use crate::io::store;
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

/// Runs work on a blocking thread: it may block on a disk or spend milliseconds on hashing, and must not stall the
/// actors' thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match timeout(DISK_WITHIN, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer from the disk within {}", humantime::format_duration(DISK_WITHIN))),
    }
}
