//! Receiver that writes alarms to this agent's own log, one line each.
//!
//! A cold start is not logged here, because the agent logs its own start.

use tracing::{error, info, warn};

use crate::pure::alarm::key::{Kind, Severity};
use crate::pure::alarm::notification::{AlarmState, Notification};
use crate::pure::notify::log::{NotifyReason, Outbound};

/// Writes one log line for `due`: a message with the event, the subject and the cause, followed by the fields.
pub fn write(due: &Outbound) {
    let Outbound::Alarm { notification, reason, .. } = due else { return };
    let Notification { key, since, suppressed, .. } = notification.as_ref();
    let (kind, who, text) = (key.kind.as_str(), notification.subject_text(), notification.text());
    if key.kind == Kind::Test {
        info!(kind, "test notification: {text}");
        return;
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Seek, read_to_string};
    use std::sync::Arc;

    use super::*;
    use crate::pure::alarm::cause::Cause;
    use crate::pure::alarm::key::{AlarmKey, Subject};
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::base::time::Now;
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::id::TestId;

    /// Returns the log line of an alarm that is raised.
    fn line(alarm: Notification) -> String {
        let mut file = tempfile::tempfile().unwrap();
        let notification = Arc::new(Notification {
            state: AlarmState::Raised,
            cause: Some(Cause::Config("why".into())),
            clear_reason: None,
            ..alarm
        });
        let due = Outbound::Alarm { notification, reason: NotifyReason::First, still_raised: None };
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(file.try_clone().unwrap())).finish();
        tracing::subscriber::with_default(log, || write(&due));
        file.rewind().unwrap();
        read_to_string(file).unwrap()
    }

    #[test]
    fn line_names_who_the_alarm_is_about() {
        let id = TestId::from_bytes([1; 16]);
        let loss = cleared_notification("c", &AlarmKey::new(Kind::Loss, Subject::Test(id)), Now::default());
        let line_of_test = line(Notification { test: Some(Arc::new(TestFacts::example(id))), ..loss });
        assert!(line_of_test.contains("alarm raised: a → b: why"), "{line_of_test}");
        let clock = AlarmKey::new(Kind::Clock, Subject::Host("h".into()));
        let line_of_host = line(cleared_notification("c", &clock, Now::default()));
        assert!(line_of_host.contains("alarm raised: h: why"), "{line_of_host}");
    }
}
