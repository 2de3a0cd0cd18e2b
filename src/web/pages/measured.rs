//! Tables of the status page for tests that this host judges: tests that end here, round trips that start here, and
//! targets that this host probes.
//!
//! The function `tests` renders these tables from the status of the tests.

use maud::{Markup, html};

use super::{MAX_TESTS, clock, milliseconds, more, named, state_pill};
use crate::pure::judge::condition::State;
use crate::pure::measure::statistics::{Summaries, Summary};
use crate::pure::stamp::flows::FlowStatus;
use crate::pure::status::snapshot::TestStatus;
use crate::pure::test::role::Role;
use crate::pure::test::spec::Protocol;

pub(super) fn tests(tests: &[TestStatus]) -> Markup {
    let of = |role: Role| tests.iter().filter(move |test| test.role == role);
    // A sender has statistics only if it measures round trips or probes a target.
    let judged = |protocol| of(Role::Sender).filter(move |s| s.statistics.is_some() && s.test.protocol == protocol);
    let (round_trips, targets) = (judged(Protocol::Udp), judged(Protocol::Tcp));
    html! {
        h2 { "Tests received here" }
        @if of(Role::Receiver).next().is_none() { p.quiet { "None." } }
        (table(of(Role::Receiver), Role::Receiver))
        @if round_trips.clone().next().is_some() {
            h2 { "Round trips from here and back" }
            (table(round_trips, Role::Sender))
        }
        @if targets.clone().next().is_some() {
            h2 { "Targets probed from here" }
            (table(targets, Role::Sender))
        }
    }
}

/// Renders the table of the tests, or nothing if there are none.
fn table<'a>(tests: impl Iterator<Item = &'a TestStatus> + Clone, role: Role) -> Markup {
    let count = tests.clone().count();
    html! {
        @if count > 0 {
            table {
                tr {
                    th { "State" } th { "Test" } th { "Path" } th.number { "Last delay" } th.number { "Loss" }
                    th.number { "Probes" } th { "Since" }
                }
                @for status in tests.take(MAX_TESTS) { (row(status, role)) }
            }
            (more(count, MAX_TESTS))
        }
    }
}

fn row(status: &TestStatus, role: Role) -> Markup {
    let test = &status.test;
    html! {
        tr {
            td { (state_pill(status.condition)) (kinds(status)) }
            td { (named(&test.description, &test.id.to_string())) }
            td {
                @match (role, test.protocol) {
                    (_, Protocol::Tcp) => { (test.from_host) " → " (test.to) }
                    (Role::Receiver, Protocol::Udp) => { (test.from_host) " " small { (test.from) } " → " small { (test.to) } }
                    (Role::Sender, Protocol::Udp) => { small { (test.from) } " ⇄ " (test.to_host) " " small { (test.to) } }
                }
                (flows(&status.flows))
            }
            td.number { (delay(status)) }
            td.number { (loss(status.statistics.as_ref())) }
            td.number { (status.counters.unwrap_or_default().received) }
            td.when { (status.since.map_or("–".to_owned(), clock)) }
        }
    }
}

/// Renders the kinds of a test's conditions that are down or recovering.
fn kinds(status: &TestStatus) -> Markup {
    let bad = status.conditions.iter().filter(|(_, state)| matches!(state, State::Down | State::Recovering));
    let bad: Vec<String> = bad.map(|(kind, _)| kind.to_string()).collect();
    html! { @if !bad.is_empty() { br; small { (bad.join(", ")) } } }
}

fn delay(status: &TestStatus) -> Markup {
    let uncertainty = status.last_delay_uncertainty.filter(|uncertainty| *uncertainty > 0.0);
    let minute = status.statistics.as_ref().and_then(|statistics| statistics.minute.delay.as_ref());
    html! {
        @if let Some(last) = status.last_delay {
            (milliseconds(last))
            @if let Some(uncertainty) = uncertainty { " " small { "± " (milliseconds(uncertainty)) } }
            @if let Some(delay) = minute {
                br;
                small { "1 min: p50 " (milliseconds(delay.p50)) ", p99 " (milliseconds(delay.p99)) }
            }
        } @else {
            "–"
        }
    }
}

fn loss(statistics: Option<&Summaries>) -> Markup {
    let percent = |summary: &Summary| summary.loss.map_or("–".to_owned(), |loss| format!("{:.1} %", loss * 100.0));
    html! {
        @match statistics {
            Some(all) => {
                (percent(&all.minute)) " " small { "1 min" } br; (percent(&all.ten_minutes)) " " small { "10 min" }
            }
            None => "–",
        }
    }
}

/// Renders the number of flows, and the flow with the largest share of lost probes.
fn flows(flows: &[FlowStatus]) -> Markup {
    let share = |flow: &FlowStatus| flow.lost as f64 / (flow.lost as f64 + f64::from(flow.received)).max(1.0);
    let worst = flows.iter().filter(|flow| flow.lost > 0).max_by(|a, b| share(a).total_cmp(&share(b)));
    html! {
        @if !flows.is_empty() {
            br;
            small {
                (flows.len()) " flows"
                @if let Some(flow) = worst {
                    "; worst: " (format!("{:.1} %", share(flow) * 100.0)) " of flow " (flow.flow) " (DSCP " (flow.dscp)
                    @if let Some(size) = flow.size { ", " (size) " octets" }
                    ") lost since the start"
                }
            }
        }
    }
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
        assert!(!tests(std::slice::from_ref(&sent)).into_string().contains("Round trips"));
        let judged = TestStatus { statistics: Some(Summaries::default()), ..sent };
        assert!(tests(&[judged]).into_string().contains("<h2>Round trips from here and back</h2><table>"));
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
        let page = tests(&[received]).into_string();
        assert!(page.contains("20.0 % <small>1 min</small><br>– <small>10 min</small>"), "{page}");
        assert!(page.contains("3 flows; worst: 25.0 % of flow 1 (DSCP 46, 1400 octets) lost"), "{page}");
    }
}
