//! Delivery of notifications to one alarm receiver: log, SNMP, Alertmanager, webhook, syslog, mail or program.
//!
//! [`Receiver`] has one variant for each kind of receiver, and each kind has one file; [`Receiver::deliver`] returns an
//! [`Outcome`] for each message.

mod alertmanager;
mod datagrams;
pub mod delivery;
mod email;
mod exec;
mod http;
mod log;
pub mod reach;
pub mod snmp;
mod syslog;
#[cfg(test)]
mod tests;
mod webhook;

use alertmanager::Alertmanager;
use delivery::{Delivered, Identity, Outcome};
use email::Email;
use exec::Exec;
use snmp::session::Snmp;
use syslog::Syslog;
use webhook::Webhook;

use crate::config::document::sinks::{SinkConfig, SinkKind};
use crate::pure::notify::log::Outbound;

/// Connection to one receiver, by its kind, with the state needed to deliver to it.
pub enum Receiver {
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

impl Receiver {
    /// Creates the connection to the receiver that `config` describes; connects to it later, at the first delivery.
    pub fn new(config: &SinkConfig, identity: &Identity) -> Self {
        match config.kind {
            SinkKind::Log => Receiver::Log,
            SinkKind::Snmp => Receiver::Snmp(Box::new(Snmp::new(config, identity))),
            SinkKind::Alertmanager => Receiver::Alertmanager(Box::new(Alertmanager::new(config, identity))),
            SinkKind::Webhook => Receiver::Webhook(Box::new(Webhook::new(config, identity))),
            SinkKind::Syslog => Receiver::Syslog(Box::new(Syslog::new(config, identity))),
            SinkKind::Email => Receiver::Email(Box::new(Email::new(config, identity))),
            SinkKind::Exec => Receiver::Exec(Box::new(Exec::new(config))),
        }
    }

    /// Attempts to deliver all messages of the batch, and returns the outcome of each.
    pub async fn deliver(&mut self, batch: Vec<Outbound>) -> Delivered {
        if batch.is_empty() {
            return Delivered::default();
        }
        match self {
            Receiver::Log => {
                batch.iter().for_each(log::write);
                Delivered::all(batch, &Outcome::Delivered)
            }
            Receiver::Snmp(snmp) => snmp.deliver(batch).await,
            Receiver::Alertmanager(alertmanager) => alertmanager.deliver(batch).await,
            Receiver::Webhook(webhook) => webhook.deliver(batch).await,
            Receiver::Syslog(syslog) => syslog.deliver(batch).await,
            Receiver::Email(email) => email.deliver(batch).await,
            Receiver::Exec(exec) => exec.deliver(batch).await,
        }
    }
}
