//! Alarms in this agent's own log.

use tracing::{error, info, warn};

use crate::pure::alarm::Severity;
use crate::pure::ledger::Due;
use crate::pure::notification::{AlarmState, Notification};

/// Writes a line for `due`.
pub fn write(due: &Due) {
    let Due::Alarm { notification, again, .. } = due else { return };
    let Notification { key, text, since, count, suppressed, .. } = notification.as_ref();
    let kind = key.kind.as_str();
    let raised = match (notification.state, again) {
        (AlarmState::Flapping, _) => "alarm flapping",
        (_, true) => "alarm still raised",
        (_, false) => "alarm raised",
    };
    let Some(test) = &notification.test else {
        let subject = key.subject.to_string();
        match (notification.is_raised(), notification.severity) {
            (true, Severity::Critical | Severity::Major) => {
                error!(kind, subject, cause = text, %since, suppressed, "{raised}");
            }
            (true, Severity::Minor | Severity::Warning) => {
                warn!(kind, subject, cause = text, %since, suppressed, "{raised}");
            }
            (false, _) => info!(kind, subject, cause = text, %since, suppressed, "alarm cleared"),
        }
        return;
    };
    let (id, description) = (test.id, &test.description);
    let path = test.path();
    match (notification.is_raised(), *count) {
        (true, _) => error!(kind, description, cause = text, path, %since, suppressed, %id, "{raised}"),
        (false, 0) => info!(kind, description, path, %since, %id, "test up"),
        (false, _) => info!(kind, description, cause = text, path, %since, suppressed, %id, "alarm cleared"),
    }
}
