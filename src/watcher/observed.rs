//! Last reported status of the watcher's children, compared with the plan. [`Observed`] collects the answers; a planned
//! child that did not answer is shown as unknown and never left out.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::config::plan::{ListenerPlan, Plan};
use crate::pure::judge::condition::State;
use crate::pure::status::snapshot::{ListenerStatus, SenderStatus, TestStatus};
use crate::pure::test::id::TestId;
use crate::pure::test::role::Role;

/// Last answers of listeners and senders.
#[derive(Default)]
pub struct Observed {
    /// Status of each listener by address, with the tests that end there.
    pub listeners: BTreeMap<SocketAddr, (ListenerStatus, Vec<TestStatus>)>,
    /// Status of each sender by test id, with that of its test.
    pub senders: BTreeMap<TestId, (SenderStatus, TestStatus)>,
    /// Status of each test of a target.
    pub targets: BTreeMap<TestId, TestStatus>,
}

/// Watcher's children as the status snapshot shows them.
#[derive(Default)]
pub struct ShownStatus {
    /// Status of every planned listener.
    pub listeners: Vec<ListenerStatus>,
    /// Status of every planned sender.
    pub senders: Vec<SenderStatus>,
    /// Status of every test of this host, once for each role.
    pub tests: Vec<TestStatus>,
}

impl Observed {
    /// Records the answer of a listener; `tests` is `None` if only a brief status was requested.
    pub fn on_listener(&mut self, address: SocketAddr, status: ListenerStatus, tests: Option<Vec<TestStatus>>) {
        let (known, known_tests) = self.listeners.entry(address).or_insert_with(|| (status.clone(), Vec::new()));
        *known = status;
        if let Some(tests) = tests {
            *known_tests = tests;
        }
    }

    /// Discards the status of tests and senders, because no client looks at them now.
    pub fn forget_tests(&mut self) {
        self.listeners.values_mut().for_each(|(_, tests)| *tests = Vec::new());
        self.senders = BTreeMap::new();
        self.targets = BTreeMap::new();
    }

    /// Returns the status of the planned listeners alone.
    pub fn show_listeners(&self, plan: &Plan, problems: &BTreeMap<SocketAddr, &str>) -> ShownStatus {
        let listeners = plan.listeners.iter().map(|(address, listener)| match self.listeners.get(address) {
            Some((status, _)) => status.clone(),
            None => silent(*address, listener, problems),
        });
        ShownStatus { listeners: listeners.collect(), ..ShownStatus::default() }
    }

    /// Returns the status of all that `host` has planned; `problems` are the addresses that cannot be bound.
    pub fn show(&self, plan: &Plan, problems: &BTreeMap<SocketAddr, &str>, host: &str) -> ShownStatus {
        let mut shown = ShownStatus::default();
        for (address, listener) in &plan.listeners {
            if let Some((status, tests)) = self.listeners.get(address) {
                shown.listeners.push(status.clone());
                shown.tests.extend(tests.iter().cloned());
                continue;
            }
            shown.listeners.push(silent(*address, listener, problems));
            let tests = listener.tests.values().map(|expected| expected.test.clone());
            shown.tests.extend(tests.map(|test| TestStatus::unknown(test, Role::Receiver)));
        }
        for (id, sender) in &plan.senders {
            let (status, test) = self.senders.get(id).cloned().unwrap_or_else(|| {
                let last_error = problems.get(&sender.source.address).map(|problem| (*problem).to_owned());
                let status = SenderStatus { last_error, ..SenderStatus::unknown(sender.test.clone()) };
                (status, TestStatus::unknown(sender.test.clone(), Role::Sender))
            });
            shown.senders.push(status);
            shown.tests.push(test);
        }
        for (id, target) in &plan.targets {
            let known = self.targets.get(id).cloned();
            shown.tests.push(known.unwrap_or_else(|| TestStatus::unknown(target.session.test.clone(), Role::Sender)));
        }
        for test in plan.standby.values() {
            let standby = TestStatus::unknown(test.clone(), Role::Receiver);
            shown.tests.push(TestStatus { condition: State::Standby, ..standby });
        }
        for test in plan.waiting.values() {
            let roles = [(&test.to_host, Role::Receiver), (&test.from_host, Role::Sender)];
            let roles = roles.into_iter().filter(|(end, _)| end.as_str() == host);
            shown.tests.extend(roles.map(|(_, role)| TestStatus::unknown(test.clone(), role)));
        }
        shown
    }
}

/// Returns the status of a listener that has not answered yet or cannot be bound.
fn silent(address: SocketAddr, plan: &ListenerPlan, problems: &BTreeMap<SocketAddr, &str>) -> ListenerStatus {
    let silent = ListenerStatus::silent(address, plan.names.iter().cloned().collect(), plan.tests.len());
    match problems.get(&address) {
        Some(problem) => silent.unbound(problem),
        None => silent,
    }
}
