//! Notifications of the original program of 2017, for receivers that were configured for it.

use super::ber::Value;
use super::trap::{Trap, text};
use crate::pure::alarm::cause::Cause;
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
        let failure = &failure(notification);
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
                Some(self.numbered(5, &[notification.source().unwrap_or_default(), failure]))
            }
            (Kind::Test, _, _) => Some(self.numbered(2, &["", "", "", "", &notification.text()])),
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

/// Returns the cause in the original program's words.
fn failure(notification: &Notification) -> String {
    match &notification.cause {
        Some(Cause::Silence(silence)) => {
            // Rounded up: a fast test must not report "0 seconds".
            format!("Timeout, no packet received in {} seconds", silence.silent_for.as_secs_f64().ceil().max(1.0))
        }
        Some(Cause::Late { delay, .. }) => format!("High Latency {:.6} Seconds", delay.seconds()),
        Some(Cause::UnknownPacket { .. }) => "No matching test for packet".to_owned(),
        Some(cause) => cause.to_string(),
        None => notification.text(),
    }
}

/// Splits `address:port` into its parts, either of which may be missing.
fn split_port(endpoint: &str) -> (&str, &str) {
    let (addr, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
    (addr.trim_matches(['[', ']']), port)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pure::alarm::cause::NoProbe;
    use crate::pure::alarm::key::AlarmKey;
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::base::time::Now;

    #[test]
    fn timeout_is_rounded_up_to_whole_seconds() {
        let failure = |millis| {
            let silence = NoProbe {
                silent_for: Duration::from_millis(millis),
                last_probe: None,
                expect_every: Duration::from_millis(millis),
                announced_stop: false,
                dropped: 0,
                answers: false,
            };
            let cause = Some(Cause::Silence(silence));
            let key = AlarmKey::new(Kind::Connection, Subject::Agent);
            failure(&Notification { cause, ..cleared_notification("b", &key, Now::default()) })
        };
        assert_eq!(failure(200), "Timeout, no packet received in 1 seconds");
        assert_eq!(failure(2_500), "Timeout, no packet received in 3 seconds");
    }
}
