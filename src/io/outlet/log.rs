//! Alarms in this agent's own log.

use tracing::{error, info, warn};

use crate::pure::alarm::Severity;
use crate::pure::ledger::{Due, Occasion};
use crate::pure::notification::{AlarmState, Notification};

/// Writes a line for `due`.
pub fn write(due: &Due) {
    let Due::Alarm { notification, occasion, .. } = due else { return };
    let Notification { key, text, since, suppressed, .. } = notification.as_ref();
    let kind = key.kind.as_str();
    let raised = match (notification.state, occasion) {
        (AlarmState::Flapping, _) => "alarm flapping",
        (_, Occasion::Again) => "alarm still raised",
        (_, Occasion::First | Occasion::Change) => "alarm raised",
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
    match (notification.is_raised(), occasion) {
        (true, _) => error!(kind, description, cause = text, path, %since, suppressed, %id, "{raised}"),
        (false, Occasion::First) => info!(kind, description, path, %since, %id, "test up"),
        (false, _) => info!(kind, description, cause = text, path, %since, suppressed, %id, "alarm cleared"),
    }
}
