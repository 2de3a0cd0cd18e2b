//! Renders the status page, with the most severe problems first.
//!
//! The page is plain HTML without scripts. Its templates escape all text by its type.

mod measured;

use actix_web::{HttpResponse, web};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::StatusHandle;
use super::api::Access;
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::notification::{AlarmStatus, SuppressedBy};
use crate::pure::alarm::shelving::{Matcher, Silence};
use crate::pure::base::time::WallTime;
use crate::pure::judge::condition::State;
use crate::pure::status::snapshot::{ListenerStatus, RejectedDocument, SenderStatus, SinkStatus, Status};

/// Largest number of tests on the page; the rest is counted there and shown in `/status.json`.
const MAX_TESTS: usize = 500;
/// Largest number of alarms on the page; the rest is counted there and shown in `/status.json`.
const MAX_ALARMS: usize = 200;
/// States in the order in which their totals are shown, the worst first.
const STATES: [&str; 7] = ["down", "recovering", "suspect", "unknown", "paused", "standby", "up"];

/// Returns the status page as HTML.
pub async fn status(snapshot: web::Data<StatusHandle>, access: web::Data<Access>) -> HttpResponse {
    let status = access.status(&snapshot).await;
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"))
        .body(render(&status).into_string())
}

fn render(status: &Status) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta http-equiv="refresh" content="5";
                style { (PreEscaped(include_str!("pages/style.css"))) }
                title { (status.host) " · peerpair" }
            }
            body {
                header {
                    h1 { (status.host) }
                    p.totals { (totals(status)) }
                    p.meta {
                        "peerpair " (status.version) ", up since " (clock(status.started)) ", as of "
                        (clock(status.taken)) " UTC"
                    }
                }
                main {
                    (store(status))
                    (alarms(status))
                    (silences(&status.silences))
                    (measured::tests(&status.tests))
                    (listeners(&status.listeners))
                    (senders(&status.senders))
                    (sinks(&status.sinks))
                    (footer(status))
                }
            }
        }
    }
}

fn totals(status: &Status) -> Markup {
    let totals = status.totals();
    html! {
        @for state in STATES {
            @if let Some(count) = totals.get(state) { (pill(state, &format!("{count} {state}"))) }
        }
        @if totals.is_empty() { span.pill { "no tests" } }
    }
}

fn store(status: &Status) -> Markup {
    let store = &status.store;
    let consequence = match store.revision {
        Some(_) => "Tests continue with the last good documents.",
        None => "No documents were read yet: nothing is tested.",
    };
    html! {
        @if let Some(error) = &store.error {
            .notice {
                b { "The config store cannot be read." } " " (consequence) br;
                code { (store.location) ": " (error) }
            }
        }
        @if let Some(remark) = &store.remark { .notice { (remark) } }
        @for document in &store.rejected { (rejected(document)) }
    }
}

fn rejected(document: &RejectedDocument) -> Markup {
    let instead = match document.last_good_in_force {
        true => "its last good version remains in force",
        false => "it is not in force",
    };
    html! {
        .notice {
            b { (document.document) " is rejected" } ", " (instead) "."
            ul { @for reason in &document.reasons { li { code { (reason) } } } }
        }
    }
}

fn alarms(status: &Status) -> Markup {
    let alarms = &status.alarms;
    if alarms.is_empty() {
        return html! { h2 { "Alarms" } p.quiet { "None." } };
    }
    // Explained alarms are folded under the alarm that explains them; a group's text has its number of members.
    let is_explained = |alarm: &&AlarmStatus| {
        matches!(alarm.suppressed_by, Some(SuppressedBy::Group { .. } | SuppressedBy::Explained { .. }))
    };
    let explained = alarms.iter().filter(is_explained).count();
    html! {
        h2 { "Alarms" }
        table {
            tr { th { "About" } th { "Kind" } th { "Cause" } th { "Since" } }
            @for alarm in alarms.iter().filter(|alarm| !is_explained(alarm)).take(MAX_ALARMS) { (alarm_row(alarm)) }
        }
        @match explained {
            0 => {}
            1 => p.quiet { "One more alarm is suppressed: an alarm above explains it." },
            _ => p.quiet { (explained) " more alarms are suppressed: the alarms above explain them." },
        }
        (more(status.raised, MAX_ALARMS.min(alarms.len())))
    }
}

fn alarm_row(alarm: &AlarmStatus) -> Markup {
    let notification = &alarm.notification;
    let colour = match &alarm.suppressed_by {
        None | Some(SuppressedBy::Explained { .. } | SuppressedBy::Group { .. }) => "down",
        Some(SuppressedBy::Waiting) => "suspect",
        Some(SuppressedBy::Shelved { .. }) => "unknown",
    };
    let (text, first) = (notification.text(), notification.first_cause.as_ref().map(Cause::to_string));
    html! {
        tr {
            td {
                (notification.subject_text())
                @if let Some(test) = &notification.test {
                    br;
                    small { (named(&test.description, &test.id.to_string())) }
                }
            }
            td { (pill(colour, notification.key.kind.as_str())) }
            td {
                (text)
                @if let Some(first) = first.filter(|first| !text.starts_with(first)) {
                    br;
                    small { "first cause: " (first) }
                }
                @match &alarm.suppressed_by {
                    Some(SuppressedBy::Waiting) => {
                        br;
                        small { "suppressed for now: waiting for alarms with a common cause" }
                    }
                    Some(SuppressedBy::Shelved { by }) => { br; small { "suppressed: " (by) } }
                    None | Some(SuppressedBy::Explained { .. } | SuppressedBy::Group { .. }) => {}
                }
            }
            td.when { (clock(notification.since)) }
        }
    }
}

fn silences(silences: &[Silence]) -> Markup {
    let any = |list: &[String]| if list.is_empty() { "any".to_owned() } else { list.join(", ") };
    html! {
        @if !silences.is_empty() {
            h2 { "Silences" }
            table {
                tr {
                    th { "Id" } th { "Hosts" } th { "Tags" } th { "Tests" } th { "Sets" } th { "Comment" } th { "Until" }
                }
                @for silence in silences {
                    @let Matcher { hosts, tags, tests, sets } = &silence.matcher;
                    tr {
                        td { (silence.id) }
                        @for list in [hosts, tags, tests, sets] { td { (any(list)) } }
                        td { (silence.comment) " " small { (silence.author) } }
                        td.when { (clock(silence.until)) }
                    }
                }
            }
        }
    }
}

fn senders(senders: &[SenderStatus]) -> Markup {
    html! {
        @if !senders.is_empty() {
            h2 { "Tests sent from here" }
            table {
                tr {
                    th { "State" } th { "Test" } th { "Path" } th.number { "Probes" } th.number { "Errors" }
                    th { "Last error" }
                }
                @for sender in senders.iter().take(MAX_TESTS) {
                    @let test = &sender.test;
                    tr {
                        td { (state_pill(sender.condition)) }
                        td { (named(&test.description, &test.id.to_string())) }
                        td { small { (test.from) } " → " (test.to_host) " " small { (test.to) } }
                        td.number { (sender.sent) }
                        td.number { (sender.errors) }
                        td {
                            @if let (Some(error), true) = (&sender.last_error, sender.condition != State::Up) { (error) }
                        }
                    }
                }
            }
            (more(senders.len(), MAX_TESTS))
        }
    }
}

fn listeners(listeners: &[ListenerStatus]) -> Markup {
    html! {
        @if !listeners.is_empty() {
            h2 { "Listeners" }
            table {
                tr {
                    th { "Address" } th { "State" } th { "Named" } th.number { "Tests" } th.number { "Datagrams" }
                    th.number { "Unknown" } th.number { "Dropped here" }
                }
                @for listener in listeners {
                    tr {
                        td { code { (listener.address) } }
                        td {
                            @match &listener.error {
                                Some(error) => { (pill("down", "not bound")) " " (error) }
                                None => (pill("up", "bound")),
                            }
                        }
                        td { (listener.names.join(", ")) }
                        td.number { (listener.tests) }
                        td.number { (listener.packets) }
                        td.number { (listener.unknown_packets) }
                        td.number { (listener.dropped_packets) }
                    }
                }
            }
        }
    }
}

fn sinks(sinks: &[SinkStatus]) -> Markup {
    html! {
        h2 { "Sinks" }
        @if sinks.is_empty() {
            p.quiet { "None: no receiver is notified of alarms." }
        } @else {
            table {
                tr {
                    th { "Name" } th { "Kind" } th { "State" } th.number { "Notified as raised" } th.number { "Pending" }
                    th.number { "Held" } th.number { "Flapping" } th.number { "Sent" }
                }
                @for sink in sinks {
                    tr {
                        td { (sink.name) }
                        td { (sink.kind) " " code { (sink.target) } }
                        td {
                            @match &sink.last_error {
                                Some(error) => { (pill("down", "not reached")) " " (error) }
                                None if sink.counts.storm => {
                                    (pill("suspect", "storm")) " single alarms wait until it ends"
                                }
                                None => (pill("up", "good")),
                            }
                        }
                        td.number { (sink.counts.notified) }
                        td.number { (sink.counts.pending) }
                        td.number { (sink.counts.held) }
                        td.number { (sink.counts.flapping) }
                        td.number { (sink.sent) }
                    }
                }
            }
        }
    }
}

fn footer(status: &Status) -> Markup {
    let store = &status.store;
    html! {
        footer {
            "Documents from " (store.location)
            @if let Some(origin) = &store.origin { " (" (origin) ")" }
            ", revision "
            @match store.revision { Some(revision) => (revision), None => "none" }
            ". Clock "
            @if status.clock.synchronized {
                "synchronized within " (milliseconds(status.clock.error_seconds))
            } @else {
                "not synchronized"
            }
            ". Restarts of children: " (status.restarts.values().sum::<u64>()) ". "
            a href="status.json" { "status.json" }
        }
    }
}

fn pill(class: &str, text: &str) -> Markup {
    html! { span class={ "pill " (class) } { (text) } }
}

fn state_pill(state: State) -> Markup {
    let name = state.to_string();
    pill(&name, &name)
}

fn named(description: &str, id: &str) -> Markup {
    html! { @if description.is_empty() { "(no description)" } @else { (description) } br; small { (id) } }
}

fn more(count: usize, most: usize) -> Markup {
    html! {
        @if count > most { p.quiet { (count - most) " more in " a href="status.json" { "status.json" } "." } }
    }
}

fn milliseconds(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.1} s") } else { format!("{:.3} ms", seconds * 1e3) }
}

/// Formats a time as `07-13 01:02:03`, without the year; the page's header names the time zone.
fn clock(at: WallTime) -> String {
    let stamp = at.to_string();
    stamp.get(5..19).unwrap_or(&stamp).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::alarm::notification::Notification;
    use crate::pure::base::time::Now;
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::id::TestId;

    #[test]
    fn markup_in_texts_is_escaped() {
        let status = Status { host: "<b a='\"&".to_owned(), ..Status::default() };
        let page = render(&status).into_string();
        assert!(page.contains("<h1>&lt;b a='&quot;&amp;</h1>"), "{page}");
    }

    #[test]
    fn explained_alarms_are_counted_and_not_listed() {
        let id = TestId::from_bytes([1; 16]);
        let shown = |subject: Subject, suppressed_by| {
            let cleared = cleared_notification("b", &AlarmKey::new(Kind::Connection, subject), Now::default());
            let cause = |text: &str| Some(Cause::Config(text.to_owned()));
            let (cause, first_cause) = (cause("now"), cause("before"));
            let test = Some(Arc::new(TestFacts::example(id)));
            let notification = Arc::new(Notification { cause, first_cause, clear_reason: None, test, ..cleared });
            AlarmStatus { notification, suppressed_by }
        };
        let by_group = Some(SuppressedBy::Group { group: String::new() });
        let by_other = Some(SuppressedBy::Explained { by: String::new() });
        let alarms = vec![
            shown(Subject::Test(id), None),
            shown(Subject::Test(id), by_group),
            shown(Subject::Test(id), by_other),
        ];
        let page = super::alarms(&Status { alarms, ..Status::default() }).into_string();
        assert_eq!(page.matches("a → b").count(), 1, "{page}");
        assert!(page.contains("2 more alarms") && page.contains("first cause: before"), "{page}");
    }
}
