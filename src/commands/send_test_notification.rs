//! The command `send-test-notification`.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::SendTestNotification;
use crate::commands::sinks::known_sinks;
use crate::config::document::findings::Level;
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::receiver::Receiver;
use crate::io::receiver::delivery::{Identity, Outcome};
use crate::io::state::engine_boots::EngineRole;
use crate::io::{log, time};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::alarm::list;
use crate::pure::alarm::notification::{ClearReason, Notification};
use crate::pure::base::time::Now;
use crate::pure::notify::log::{DeliveryMode, NotifyReason, Outbound};

/// Sends one notification, marked as a test, to a sink and prints the result.
pub fn send_test_notification(arguments: &SendTestNotification) -> anyhow::Result<i32> {
    time::start();
    let overrides = arguments.overrides.to_overrides();
    let (bootstrap, findings) = parse_bootstrap(&arguments.config, &overrides);
    let mut stdout = std::io::stdout().lock();
    if findings.iter().any(|finding| finding.level == Level::Error) {
        for finding in findings {
            writeln!(stdout, "{}: {finding}", finding.level)?;
        }
        return Ok(EXIT_CONFIG);
    }
    log::to_stderr();
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    let (plans, unread) = runtime.block_on(known_sinks(&bootstrap));
    let Some(plan) = plans.iter().find(|plan| plan.config.name == arguments.sink) else {
        let names = plans.iter().map(|plan| plan.config.name.as_str()).collect::<Vec<_>>().join(", ");
        let unread = unread.map_or(String::new(), |problem| format!("; the documents cannot be read: {problem}"));
        anyhow::bail!("there is no sink `{}`; there are: {names}{unread}", arguments.sink);
    };
    let identity = Identity::of(&bootstrap, EngineRole::Guest);
    let due = test_notification(&bootstrap.host, time::now());
    let mut receiver = Receiver::new(&plan.config, &identity);
    let delivered = runtime.block_on(receiver.deliver(vec![due]));
    let target = plan.config.describe(&bootstrap.host, Some(&identity.machine));
    for (_, outcome) in delivered.outcomes {
        match (outcome, &plan.policy.delivery_mode) {
            (Outcome::Nothing, _) => {
                writeln!(stdout, "{target} has no test notification in its format: nothing was sent")?
            }
            (Outcome::Delivered, DeliveryMode::Repeated(_)) => {
                writeln!(stdout, "sent by {target}, which has no acknowledgement: check that it arrived")?;
            }
            (Outcome::Delivered, DeliveryMode::Acknowledged | DeliveryMode::Refreshed { .. }) => {
                writeln!(stdout, "sent by {target}, and acknowledged")?;
            }
            (Outcome::Refused(problem) | Outcome::Unreachable(problem), _) => {
                writeln!(stdout, "not delivered by {target}: {problem}")?;
                return Ok(EXIT_FAILURE);
            }
            (Outcome::NotTried, _) => return Ok(EXIT_FAILURE),
        }
    }
    Ok(EXIT_GOOD)
}

fn test_notification(host: &str, now: Now) -> Outbound {
    let key = AlarmKey::new(Kind::Test, Subject::Agent);
    let clear_reason = Some(ClearReason::Test);
    let notification = Notification { clear_reason, ..list::cleared_notification(host, &key, now) };
    Outbound::Alarm { notification: Arc::new(notification), reason: NotifyReason::First, still_raised: None }
}
