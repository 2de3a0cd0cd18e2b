//! Notifications of the original program of 2017, for receivers that were configured for it.

use super::ber::Value;
use super::trap::{Trap, text};
use crate::pure::alarm::key::{Kind, Subject};
use crate::pure::alarm::notification::Notification;

/// Object identifier `enterprises.50255.1`, below which the original program's notifications and their varbinds are.
pub(super) const LEGACY: [u32; 8] = [1, 3, 6, 1, 4, 1, 50255, 1];
/// Texts about the agent that the original's notifications carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Legacy<'a> {
    /// Name of this agent's host.
    pub agent: &'a str,
    /// Address of the config store, which two of the notifications name.
    pub config_server: &'a str,
}

impl Legacy<'_> {
    /// Returns the notification that the program has started.
    pub(super) fn cold_start(&self) -> Trap {
        let mut trap = self.numbered(0, &[]);
        trap.varbinds.push(([&LEGACY[..], &[0, 1]].concat(), Value::TimeTicks(0)));
        trap
    }

    /// Returns the original program's notification. The original had none for clocks, senders and clears of unknown
    /// packets; it reported high latency as a connection that is down.
    pub(super) fn trap(&self, notification: &Notification) -> Option<Trap> {
        let failure = notification.legacy_text.as_str();
        match (notification.key.kind, &notification.test, notification.is_raised()) {
            (Kind::Connection | Kind::Latency, Some(test), raised) => {
                let (from, from_port) = split_port(&test.from);
                let (to, to_port) = split_port(&test.to);
                let end = [from, from_port, to, to_port, &test.description];
                Some(match raised {
                    true => self.numbered(1, &[&end[..], &[failure]].concat()),
                    false => self.numbered(2, &end),
                })
            }
            (Kind::Config, _, _) if notification.key.subject == Subject::Configuration => None,
            (Kind::Config, _, true) => Some(self.numbered(3, &[self.config_server, failure])),
            (Kind::Config, _, false) => Some(self.numbered(4, &[self.config_server])),
            (Kind::UnknownPacket, _, true) => {
                Some(self.numbered(5, &[notification.source.as_deref().unwrap_or_default(), failure]))
            }
            (Kind::Test, _, _) => Some(self.numbered(2, &["", "", "", "", &notification.text])),
            // The legacy profile has no notification for groups and storms.
            (Kind::Connection | Kind::Latency, None, _)
            | (Kind::UnknownPacket, _, false)
            | (
                Kind::Sender | Kind::Loss | Kind::Jitter | Kind::Path | Kind::Clock | Kind::Isolated | Kind::Storm,
                _,
                _,
            ) => None,
        }
    }

    /// Builds notification `n` of the original program: its varbinds are the host name followed by the texts.
    fn numbered(&self, n: u32, texts: &[&str]) -> Trap {
        let oid = [&LEGACY[..], &[n]].concat();
        let all = std::iter::once(self.agent).chain(texts.iter().copied());
        let varbinds = (0..).zip(all).map(|(k, value)| ([&oid[..], &[k]].concat(), text(value))).collect();
        Trap { oid, varbinds }
    }
}

/// Splits `address:port` into its parts, either of which may be missing.
fn split_port(endpoint: &str) -> (&str, &str) {
    let (addr, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
    (addr.trim_matches(['[', ']']), port)
}
