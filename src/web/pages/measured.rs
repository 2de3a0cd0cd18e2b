//! Tables of the status page for tests that this host judges: tests that end here, and round trips that start here.
//!
//! The function `tests` renders both tables from the status of the tests.

use super::{MAX_TESTS, clock, escape, milliseconds, more, named, pill};
use crate::pure::judge::condition::State;
use crate::pure::measure::statistics::{Summaries, Summary};
use crate::pure::stamp::flows::FlowStatus;
use crate::pure::status::snapshot::TestStatus;
use crate::pure::test::role::Role;

pub(super) fn tests(tests: &[TestStatus]) -> String {
    let of = |role: Role| tests.iter().filter(move |test| test.role == role);
    let received = match table(of(Role::Receiver), Role::Receiver) {
        Some(table) => table,
        None => "<p class=quiet>None.</p>".to_owned(),
    };
    // A sender has statistics only if it measures round trips.
    let judged = of(Role::Sender).filter(|test| test.statistics.is_some());
    let round_trips = table(judged, Role::Sender)
        .map_or(String::new(), |table| format!("<h2>Round trips from here and back</h2>{table}"));
    format!("<h2>Tests received here</h2>{received}{round_trips}")
}

/// Renders the table of the tests, or returns `None` if there are none.
fn table<'a>(tests: impl Iterator<Item = &'a TestStatus> + Clone, role: Role) -> Option<String> {
    let count = tests.clone().count();
    let rows: String = tests.take(MAX_TESTS).map(|status| row(status, role)).collect();
    (count > 0).then(|| {
        format!(
            "<table><tr><th>State<th>Test<th>Path<th class=number>Last delay<th class=number>Loss\
             <th class=number>Probes<th>Since{rows}</table>{}",
            more(count, MAX_TESTS)
        )
    })
}

fn row(status: &TestStatus, role: Role) -> String {
    let test = &status.test;
    let (from, to) = (escape(&test.from), escape(&test.to));
    let path = match role {
        Role::Receiver => format!("{} <small>{from}</small> → <small>{to}</small>", escape(&test.from_host)),
        Role::Sender => format!("<small>{from}</small> ⇄ {} <small>{to}</small>", escape(&test.to_host)),
    };
    format!(
        "<tr><td>{}{}<td>{}<td>{path}{}<td class=number>{}<td class=number>{}<td class=number>{}<td class=when>{}",
        pill(status.condition),
        kinds(status),
        named(&test.description, &test.id.to_string()),
        flows(&status.flows),
        delay(status),
        loss(status.statistics.as_ref()),
        status.counters.unwrap_or_default().received,
        status.since.map_or("–".to_owned(), clock)
    )
}

/// Renders the kinds of a test's conditions that are down or recovering.
fn kinds(status: &TestStatus) -> String {
    let bad = status.conditions.iter().filter(|(_, state)| matches!(state, State::Down | State::Recovering));
    let bad: Vec<String> = bad.map(|(kind, _)| kind.to_string()).collect();
    if bad.is_empty() { String::new() } else { format!("<br><small>{}</small>", bad.join(", ")) }
}

fn delay(status: &TestStatus) -> String {
    let Some(last) = status.last_delay else { return "–".to_owned() };
    let uncertainty = status.last_delay_uncertainty.filter(|uncertainty| *uncertainty > 0.0);
    let uncertainty =
        uncertainty.map_or(String::new(), |uncertainty| format!(" <small>± {}</small>", milliseconds(uncertainty)));
    let minute = status.statistics.as_ref().and_then(|statistics| statistics.minute.delay.as_ref());
    let minute = minute.map_or(String::new(), |delay| {
        format!("<br><small>1 min: p50 {}, p99 {}</small>", milliseconds(delay.p50), milliseconds(delay.p99))
    });
    format!("{}{uncertainty}{minute}", milliseconds(last))
}

fn loss(statistics: Option<&Summaries>) -> String {
    let percent = |summary: &Summary| summary.loss.map_or("–".to_owned(), |loss| format!("{:.1} %", loss * 100.0));
    statistics.map_or("–".to_owned(), |all| {
        format!("{} <small>1 min</small><br>{} <small>10 min</small>", percent(&all.minute), percent(&all.ten_minutes))
    })
}

/// Renders the number of flows, and the flow with the largest share of lost probes.
fn flows(flows: &[FlowStatus]) -> String {
    if flows.is_empty() {
        return String::new();
    }
    let share = |flow: &FlowStatus| flow.lost as f64 / (flow.lost as f64 + f64::from(flow.received)).max(1.0);
    let worst = flows.iter().filter(|flow| flow.lost > 0).max_by(|a, b| share(a).total_cmp(&share(b)));
    let worst = worst.map_or(String::new(), |flow| {
        let size = flow.size.map_or(String::new(), |size| format!(", {size} octets"));
        format!(
            "; worst: {:.1} % of flow {} (DSCP {}{size}) lost since the start",
            share(flow) * 100.0,
            flow.flow,
            flow.dscp
        )
    });
    format!("<br><small>{} flows{worst}</small>", flows.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::id::TestId;

    fn status(role: Role) -> TestStatus {
        TestStatus::unknown(Arc::new(TestFacts::example(TestId::of_set("set", "a", "b"))), role)
    }

    #[test]
    fn sender_of_one_way_tests_has_no_round_trip_table() {
        let sent = status(Role::Sender);
        assert!(!tests(std::slice::from_ref(&sent)).contains("Round trips"));
        let judged = TestStatus { statistics: Some(Summaries::default()), ..sent };
        assert!(tests(&[judged]).contains("<h2>Round trips from here and back</h2><table>"));
    }

    #[test]
    fn loss_and_worst_flow_are_shown() {
        let minute = Summary { loss: Some(0.2), ..Summary::default() };
        let flow = |flow, lost| FlowStatus {
            flow,
            port: 0,
            source_port: None,
            dscp: 46,
            size: Some(1400),
            received: 60,
            lost,
        };
        let received = TestStatus {
            statistics: Some(Summaries { minute, ..Summaries::default() }),
            flows: vec![flow(0, 1), flow(1, 20), flow(2, 0)],
            ..status(Role::Receiver)
        };
        let page = tests(&[received]);
        assert!(page.contains("20.0 % <small>1 min</small><br>– <small>10 min</small>"), "{page}");
        assert!(page.contains("3 flows; worst: 25.0 % of flow 1 (DSCP 46, 1400 octets) lost"), "{page}");
    }
}
