//! Formats errors with their causes as human-readable text.
//!
//! [`error_chain()`] is used where an error leaves the process: in the log, on the status page and in alarms.

/// Formats an error followed by all its causes, because the last one is often the most useful. A cause whose text is
/// already included is left out.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
