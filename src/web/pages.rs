//! Renders the status page, with the most severe problems first.
//!
//! The page is plain HTML without scripts; text from documents is escaped.

mod measured;

use std::fmt::Write as _;

use actix_web::{HttpResponse, web};

use super::StatusHandle;
use super::api::Access;
use crate::pure::alarm::notification::{AlarmStatus, SuppressedBy};
use crate::pure::alarm::shelving::{Matcher, Silence};
use crate::pure::base::time::WallTime;
use crate::pure::judge::condition::State;
use crate::pure::status::snapshot::{ListenerStatus, SenderStatus, SinkStatus, Status};

/// Largest number of tests on the page; the rest is counted there and shown in `/status.json`.
const MAX_TESTS: usize = 500;
/// Largest number of alarms on the page; the rest is counted there and shown in `/status.json`.
const MAX_ALARMS: usize = 200;

/// Returns the status page as HTML.
pub async fn status(snapshot: web::Data<StatusHandle>, access: web::Data<Access>) -> HttpResponse {
    let status = access.look(&snapshot).await;
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"))
        .body(render(&status))
}

fn render(status: &Status) -> String {
    let mut page = String::with_capacity(16 * 1024);
    let (host, version) = (escape(&status.host), status.version);
    let _ = write!(page, "{HEAD}<title>{} · peerpair</title></head><body>", host);
    let _ = write!(page, "<header><h1>{host}</h1><p class=totals>{}</p>", totals(status));
    let _ = write!(
        page,
        "<p class=meta>peerpair {version}, up since {}, as of {} UTC</p></header><main>",
        clock(status.started),
        clock(status.taken)
    );
    page += &store(status);
    page += &alarms(status);
    page += &silences(&status.silences);
    page += &measured::tests(&status.tests);
    page += &listeners(&status.listeners);
    page += &senders(&status.senders);
    page += &sinks(&status.sinks);
    page += &footer(status);
    page += "</main></body></html>";
    page
}

fn totals(status: &Status) -> String {
    let totals = status.totals();
    let shown =
        ["down", "recovering", "suspect", "unknown", "paused", "standby", "up"].into_iter().filter_map(|state| {
            let count = totals.get(state)?;
            Some(format!("<span class=\"pill {state}\">{count} {state}</span>"))
        });
    let shown: String = shown.collect();
    if shown.is_empty() { "<span class=pill>no tests</span>".to_owned() } else { shown }
}

fn store(status: &Status) -> String {
    let store = &status.store;
    let mut notices = String::new();
    if let Some(error) = &store.error {
        let goes_on = match store.revision {
            Some(_) => "Tests continue with the last good documents.",
            None => "No documents were read yet: nothing is tested.",
        };
        let _ = write!(
            notices,
            "<div class=notice><b>The config store cannot be read.</b> {goes_on}<br><code>{}: {}</code></div>",
            escape(&store.location),
            escape(error)
        );
    }
    if let Some(remark) = &store.remark {
        let _ = write!(notices, "<div class=notice>{}</div>", escape(remark));
    }
    for rejected in &store.rejected {
        let instead =
            if rejected.last_good_in_force { "its last good version remains in force" } else { "it is not in force" };
        let reasons: String =
            rejected.reasons.iter().map(|reason| format!("<li><code>{}</code>", escape(reason))).collect();
        let _ = write!(
            notices,
            "<div class=notice><b>{} is rejected</b>, {instead}.<ul>{reasons}</ul></div>",
            escape(&rejected.document)
        );
    }
    notices
}

fn alarms(status: &Status) -> String {
    let alarms = &status.alarms;
    if alarms.is_empty() {
        return "<h2>Alarms</h2><p class=quiet>None.</p>".to_owned();
    }
    // Explained alarms are folded under the alarm that explains them; a group's text has its number of members.
    let is_explained = |standing: &&AlarmStatus| {
        matches!(standing.suppressed_by, Some(SuppressedBy::Group { .. } | SuppressedBy::Explained { .. }))
    };
    let explained = alarms.iter().filter(is_explained).count();
    let shown = alarms.iter().filter(|standing| !is_explained(standing)).take(MAX_ALARMS);
    let rows: String = shown
        .map(|standing| {
            let alarm = &standing.notification;
            let about = match &alarm.test {
                Some(test) => format!(
                    "{}<br><small>{}</small>",
                    escape(&alarm.subject_text()),
                    named(&test.description, &test.id.to_string())
                ),
                None => escape(&alarm.subject_text()),
            };
            let (colour, suppressed_by) = match &standing.suppressed_by {
                None | Some(SuppressedBy::Explained { .. } | SuppressedBy::Group { .. }) => ("down", String::new()),
                Some(SuppressedBy::Waiting) => {
                    ("suspect", "<br><small>suppressed for now: waiting for alarms with a common cause</small>".to_owned())
                }
                Some(SuppressedBy::Shelved { by }) => {
                    ("unknown", format!("<br><small>suppressed: {}</small>", escape(by)))
                }
            };
            let first = match alarm.first_text.is_empty() || alarm.text.starts_with(&alarm.first_text) {
                true => String::new(),
                false => format!("<br><small>first cause: {}</small>", escape(&alarm.first_text)),
            };
            format!(
                "<tr><td>{about}<td><span class=\"pill {colour}\">{}</span><td>{}{first}{suppressed_by}<td class=when>{}",
                alarm.key.kind,
                escape(&alarm.text),
                clock(alarm.since)
            )
        })
        .collect();
    let explained = match explained {
        0 => String::new(),
        1 => "<p class=quiet>One more alarm is suppressed: an alarm above explains it.</p>".to_owned(),
        explained => format!(
            "<p class=quiet>{explained} more alarms are suppressed: the alarms above explain \
                them.</p>"
        ),
    };
    let more = more(status.raised, MAX_ALARMS.min(alarms.len()));
    format!("<h2>Alarms</h2><table><tr><th>About<th>Kind<th>Cause<th>Since{rows}</table>{explained}{more}")
}

fn silences(silences: &[Silence]) -> String {
    if silences.is_empty() {
        return String::new();
    }
    let any = |list: &[String]| if list.is_empty() { "any".to_owned() } else { escape(&list.join(", ")) };
    let row = |silence: &Silence| {
        let Matcher { hosts, tags, tests, sets } = &silence.matcher;
        format!(
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{} <small>{}</small><td class=when>{}",
            escape(&silence.id),
            any(hosts),
            any(tags),
            any(tests),
            any(sets),
            escape(&silence.comment),
            escape(&silence.author),
            clock(silence.until)
        )
    };
    let rows: String = silences.iter().map(row).collect();
    format!("<h2>Silences</h2><table><tr><th>Id<th>Hosts<th>Tags<th>Tests<th>Sets<th>Why<th>Until{rows}</table>")
}

fn senders(senders: &[SenderStatus]) -> String {
    if senders.is_empty() {
        return String::new();
    }
    let rows: String = senders
        .iter()
        .take(MAX_TESTS)
        .map(|sender| {
            let test = &sender.test;
            format!(
                "<tr><td>{}<td>{}<td><small>{}</small> → {} <small>{}</small><td class=number>{}<td class=number>{}<td>{}",
                pill(sender.condition),
                named(&test.description, &test.id.to_string()),
                escape(&test.from),
                escape(&test.to_host),
                escape(&test.to),
                sender.sent,
                sender.errors,
                escape(sender.last_error.as_deref().filter(|_| sender.condition != State::Up).unwrap_or_default())
            )
        })
        .collect();
    let more = more(senders.len(), MAX_TESTS);
    format!(
        "<h2>Tests sent from here</h2><table><tr><th>State<th>Test<th>Path<th class=number>Probes<th class=number>Errors\
         <th>Last error{rows}</table>{more}"
    )
}

fn listeners(listeners: &[ListenerStatus]) -> String {
    if listeners.is_empty() {
        return String::new();
    }
    let rows: String = listeners
        .iter()
        .map(|listener| {
            let state = match &listener.error {
                Some(error) => format!("<span class=\"pill down\">not bound</span> {}", escape(error)),
                None => "<span class=\"pill up\">bound</span>".to_owned(),
            };
            format!(
                "<tr><td><code>{}</code><td>{state}<td>{}<td class=number>{}<td class=number>{}<td class=number>{}\
                 <td class=number>{}",
                escape(&listener.address),
                escape(&listener.names.join(", ")),
                listener.tests,
                listener.packets,
                listener.unknown_packets,
                listener.dropped_packets
            )
        })
        .collect();
    format!(
        "<h2>Listeners</h2><table><tr><th>Address<th>State<th>Named<th class=number>Tests<th class=number>Datagrams\
         <th class=number>Foreign<th class=number>Dropped here{rows}</table>"
    )
}

fn sinks(sinks: &[SinkStatus]) -> String {
    if sinks.is_empty() {
        return "<h2>Sinks</h2><p class=quiet>None: no receiver is notified of alarms.</p>".to_owned();
    }
    let rows: String = sinks
        .iter()
        .map(|sink| {
            let state = match &sink.last_error {
                Some(error) => format!("<span class=\"pill down\">not reached</span> {}", escape(error)),
                None if sink.counts.storm => {
                    "<span class=\"pill suspect\">storm</span> single alarms wait until it ends".to_owned()
                }
                None => "<span class=\"pill up\">good</span>".to_owned(),
            };
            format!(
                "<tr><td>{}<td>{} <code>{}</code><td>{state}<td class=number>{}<td class=number>{}<td class=number>{}\
                 <td class=number>{}<td class=number>{}",
                escape(&sink.name),
                sink.kind,
                escape(&sink.target),
                sink.counts.notified,
                sink.counts.pending,
                sink.counts.held,
                sink.counts.flapping,
                sink.sent
            )
        })
        .collect();
    format!(
        "<h2>Sinks</h2><table><tr><th>Name<th>Kind<th>State<th class=number>Told down<th class=number>To be told\
         <th class=number>Held<th class=number>Flapping<th class=number>Sent{rows}</table>"
    )
}

fn footer(status: &Status) -> String {
    let store = &status.store;
    let revision = store.revision.map_or("none".to_owned(), |revision| revision.to_string());
    let origin = store.origin.as_deref().map_or(String::new(), |origin| format!(" ({})", escape(origin)));
    let clock_quality = match status.clock.synchronized {
        true => format!("synchronized within {}", milliseconds(status.clock.error_seconds)),
        false => "not synchronized".to_owned(),
    };
    let restarts: u64 = status.restarts.values().sum();
    format!(
        "<footer>Documents from {}{origin}, revision {revision}. Clock {clock_quality}. Restarts of children: {restarts}. \
         <a href=status.json>status.json</a></footer>",
        escape(&store.location)
    )
}

fn pill(state: State) -> String {
    format!("<span class=\"pill {state}\">{state}</span>")
}

fn named(description: &str, id: &str) -> String {
    let name = if description.is_empty() { "(no description)".to_owned() } else { escape(description) };
    format!("{name}<br><small>{id}</small>")
}

fn more(count: usize, most: usize) -> String {
    if count <= most {
        return String::new();
    }
    format!("<p class=quiet>{} more in <a href=status.json>status.json</a>.</p>", count - most)
}

fn milliseconds(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.1} s") } else { format!("{:.3} ms", seconds * 1e3) }
}

/// Formats a time as `07-13 01:02:03`, without the year; the page's header names the time zone.
fn clock(at: WallTime) -> String {
    let stamp = at.to_string();
    stamp.get(5..19).unwrap_or(&stamp).replace('T', " ")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8>\
<meta name=viewport content=\"width=device-width,initial-scale=1\"><meta http-equiv=refresh content=5><style>\
:root{color-scheme:light dark;--fg:#1b1f24;--dim:#667;--bg:#f6f7f9;--card:#fff;--line:#dde1e6;--down:#b3261e;\
--up:#1e7a46;--warn:#9a6700;--unknown:#667}\
@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--dim:#9aa3ad;--bg:#14171a;--card:#1d2125;--line:#33393f;\
--down:#ff6b60;--up:#4cc38a;--warn:#e3b341;--unknown:#9aa3ad}}\
body{margin:0;font:14px/1.45 system-ui,sans-serif;color:var(--fg);background:var(--bg)}\
header,main{max-width:1180px;margin:0 auto;padding:0 20px}header{padding-top:22px}\
h1{font-size:24px;margin:0 0 8px}h2{font-size:15px;margin:28px 0 8px}\
.totals .pill{font-size:15px;padding:3px 12px;margin-right:8px}.totals{margin:0 0 6px}\
.meta,.quiet,footer,small,.when{color:var(--dim)}.meta{margin:0}small{font-size:12px;white-space:nowrap}\
table{width:100%;border-collapse:collapse;background:var(--card);border:1px solid var(--line);border-radius:6px;\
overflow:hidden}th,td{text-align:left;padding:7px 12px;vertical-align:top;border-top:1px solid var(--line)}\
tr:first-child th{border-top:0}th{font-weight:600;font-size:12px;color:var(--dim)}\
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.when{white-space:nowrap}\
code{font:12px ui-monospace,monospace}\
.pill{display:inline-block;padding:1px 9px;border-radius:10px;font-size:12px;font-weight:600;color:var(--unknown);\
border:1px solid currentColor;white-space:nowrap}.pill.down{color:var(--down)}.pill.up{color:var(--up)}\
.pill.suspect,.pill.recovering,.pill.paused{color:var(--warn)}\
.notice{margin:16px 0 0;padding:10px 14px;background:var(--card);border:1px solid var(--line);\
border-left:4px solid var(--down);border-radius:6px}.notice ul{margin:6px 0 0;padding-left:20px}\
footer{margin:28px 0;font-size:12px}a{color:inherit}\
@media(max-width:700px){tr:first-child{display:none}tr{display:block;padding:8px 0;border-top:1px solid var(--line)}\
td,.number{display:block;padding:1px 12px;border:0;text-align:left}small{white-space:normal;overflow-wrap:anywhere}\
table{display:block}}</style>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_characters_are_escaped() {
        assert_eq!(escape("<b a='\"&"), "&lt;b a=&#39;&quot;&amp;");
    }
}
