//! Receiver that writes alarms to this agent's own log, one line each.
//!
//! A cold start is not logged here, because the agent logs its own start.

use tracing::{error, info, warn};

use crate::pure::alarm::key::Severity;
use crate::pure::alarm::notification::{AlarmState, Notification};
use crate::pure::notify::log::{NotifyReason, Outbound};

/// Writes one log line for `due`: a message with the event, the subject and the cause, followed by the fields.
pub fn write(due: &Outbound) {
    let Outbound::Alarm { notification, reason, .. } = due else { return };
    let Notification { key, text, since, suppressed, .. } = notification.as_ref();
    let (kind, who) = (key.kind.as_str(), notification.subject_text());
    let raised = match (notification.state, reason) {
        (AlarmState::Flapping, _) => "alarm flapping",
        (_, NotifyReason::Again) => "alarm still raised",
        (_, NotifyReason::First | NotifyReason::Change) => "alarm raised",
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
    match (notification.is_raised(), reason) {
        (true, _) => error!(kind, description, path, %since, suppressed, %id, "{raised}: {who}: {text}"),
        (false, NotifyReason::First) => info!(kind, description, path, %since, %id, "test up: {who}"),
        (false, _) => info!(kind, description, path, %since, suppressed, %id, "alarm cleared: {who}: {text}"),
    }
}
