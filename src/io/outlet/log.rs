//! Receiver that writes alarms to this agent's own log, one line each.
//!
//! A cold start is not logged here, because the agent logs its own start.

use tracing::{error, info, warn};

use crate::pure::alarm::Severity;
use crate::pure::ledger::{Due, Occasion};
use crate::pure::notification::{AlarmState, Notification};

/// Writes one log line for `due`: a message with the event, the subject and the cause, followed by the fields.
pub fn write(due: &Due) {
    let Due::Alarm { notification, occasion, .. } = due else { return };
    let Notification { key, text, since, suppressed, .. } = notification.as_ref();
    let (kind, who) = (key.kind.as_str(), notification.who());
    let raised = match (notification.state, occasion) {
        (AlarmState::Flapping, _) => "alarm flapping",
        (_, Occasion::Again) => "alarm still raised",
        (_, Occasion::First | Occasion::Change) => "alarm raised",
    };
    let Some(test) = &notification.test else {
        let subject = key.subject.to_string();
        match (notification.is_raised(), notification.severity) {
            (true, Severity::Critical | Severity::Major) => {
                error!(kind, subject, %since, suppressed, "{raised}: {who}: {text}");
            }
            (true, Severity::Minor | Severity::Warning) => {
                warn!(kind, subject, %since, suppressed, "{raised}: {who}: {text}");
            }
            (false, _) => info!(kind, subject, %since, suppressed, "alarm cleared: {who}: {text}"),
        }
        return;
    };
    let (id, description) = (test.id, &test.description);
    let path = test.path();
    match (notification.is_raised(), occasion) {
        (true, _) => error!(kind, description, path, %since, suppressed, %id, "{raised}: {who}: {text}"),
        (false, Occasion::First) => info!(kind, description, path, %since, %id, "test up: {who}"),
        (false, _) => info!(kind, description, path, %since, suppressed, %id, "alarm cleared: {who}: {text}"),
    }
}
