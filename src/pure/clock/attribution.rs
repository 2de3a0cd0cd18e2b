//! Clock attribution: decides whose clock is wrong. A test that measures an impossible delay only proves that one of
//! two clocks is wrong. If the clocks of most other hosts appear wrong, the clock of this host is the wrong one.
//!
//! [`ClockAttribution`] holds the reports of all tests on this host and rewrites their clock alarms accordingly.

use std::collections::{BTreeMap, BTreeSet};

use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::inventory::{AlarmInventory, Reporters};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::Now;

/// Minimum number of hosts with an apparently wrong clock before the local clock is blamed.
const MIN_WRONG_HOSTS: usize = 2;

/// Collects the reports of tests on the clocks of other hosts, and attributes them to those hosts or to this one.
#[derive(Clone, Debug, Default)]
pub struct ClockAttribution {
    hosts: BTreeMap<String, HostReports>,
    /// Number of hosts that at least one reporter considers wrong. Maintained incrementally, since a host can have a
    /// very large number of reporters.
    wrong: usize,
    is_local_clock_wrong: bool,
}

/// Latest report of each reporter on one host.
#[derive(Clone, Debug, Default)]
struct HostReports {
    good: BTreeSet<Subject>,
    bad: BTreeMap<Subject, ConditionChange>,
}

impl ClockAttribution {
    /// Records a test's report on the clock of another host, and returns the changes that follow for the alarm
    /// engine.
    pub fn on_change(&mut self, change: ConditionChange) -> Vec<ConditionChange> {
        let Subject::Host(host) = &change.key.subject else { return vec![change] };
        let now = change.at;
        let reports = self.hosts.entry(host.clone()).or_default();
        let was_wrong = reports.is_wrong();
        reports.record(&change);
        match (was_wrong, reports.is_wrong()) {
            (false, true) => self.wrong += 1,
            (true, false) => self.wrong -= 1,
            (false, false) | (true, true) => {}
        }
        let mut changes = self.reevaluate(now);
        // A cleared report is always forwarded; a violation of another host is suppressed while this host is blamed.
        if !is_violated(&change) || !self.is_local_clock_wrong {
            changes.push(change);
        }
        changes
    }

    /// Drops the reports of removed tests and of alarms that are no longer in the inventory. Each test reports on the
    /// clock of one host, and its report on a former one is retracted. Returns the changes that follow.
    pub fn retain(&mut self, reporters: &Reporters, possible: &AlarmInventory, now: Now) -> Vec<ConditionChange> {
        let mut changes = Vec::new();
        self.hosts.retain(|host, reports| {
            let still_reports = |reporter: &Subject| {
                reporters.get(reporter).is_some_and(|peer| peer.as_ref().is_none_or(|peer| peer == host))
            };
            reports.good.retain(still_reports);
            reports.bad.retain(|reporter, change| {
                let stays = still_reports(reporter);
                if !stays {
                    changes.push(ConditionChange { verdict: Verdict::Cleared, at: now, ..change.clone() });
                }
                stays
            });
            let is_possible = possible.contains(&AlarmKey::new(Kind::Clock, Subject::Host(host.clone())));
            is_possible && !(reports.good.is_empty() && reports.bad.is_empty())
        });
        self.wrong = self.hosts.values().filter(|reports| reports.is_wrong()).count();
        changes.extend(self.reevaluate(now));
        changes
    }

    /// Returns the current state of this host's clock condition, for an alarm actor that has just started.
    pub fn report(&self, now: Now) -> ConditionChange {
        self.of_self(now)
    }

    /// Decides again whether this host is blamed. On a change, reports on other hosts are retracted, or issued again.
    fn reevaluate(&mut self, now: Now) -> Vec<ConditionChange> {
        let blames = self.wrong >= MIN_WRONG_HOSTS && self.wrong * 2 > self.hosts.len();
        if blames == self.is_local_clock_wrong {
            return Vec::new();
        }
        self.is_local_clock_wrong = blames;
        let raised = self.hosts.values().flat_map(|reports| reports.bad.values()).cloned();
        let others = raised.map(|change| match blames {
            true => ConditionChange { verdict: Verdict::Cleared, at: now, ..change },
            false => change,
        });
        [self.of_self(now)].into_iter().chain(others).collect()
    }

    fn of_self(&self, now: Now) -> ConditionChange {
        let verdict = match self.is_local_clock_wrong {
            true => Verdict::Violated(Cause::LocalClock(format!(
                "delays from {} of {} hosts are impossible: this host's clock is wrong, not theirs",
                self.wrong,
                self.hosts.len()
            ))),
            false => Verdict::Cleared,
        };
        let key = AlarmKey::new(Kind::Clock, Subject::Agent);
        condition_change(key, Subject::Name(ATTRIBUTION.to_owned()), now, verdict)
    }
}

impl HostReports {
    fn record(&mut self, change: &ConditionChange) {
        let reporter = &change.reporter;
        if is_violated(change) {
            self.good.remove(reporter);
            self.bad.insert(reporter.clone(), change.clone());
        } else {
            self.bad.remove(reporter);
            self.good.insert(reporter.clone());
        }
    }

    fn is_wrong(&self) -> bool {
        !self.bad.is_empty()
    }
}

fn is_violated(change: &ConditionChange) -> bool {
    matches!(change.verdict, Verdict::Violated(_))
}

/// Name of the reporter of this host's clock condition, which is derived from reports on other hosts.
const ATTRIBUTION: &str = "the clocks of other hosts";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::clock::error_estimate::Delay;
    use crate::pure::test::id::TestId;
    use std::time::Duration;

    fn report_of(host: &str, wrong: bool) -> ConditionChange {
        let delay = Delay { nanos: -10_000_000, uncertainty: Duration::from_millis(1) };
        let verdict = match wrong {
            true => Verdict::Violated(Cause::ClockWrong { delay, peer: host.to_owned() }),
            false => Verdict::Cleared,
        };
        let reporter = Subject::Test(TestId::of_set("s", host, "me"));
        condition_change(AlarmKey::new(Kind::Clock, Subject::Host(host.to_owned())), reporter, Now::default(), verdict)
    }

    /// Returns the subjects that are blamed after these reports.
    fn blamed(reports: &[ConditionChange]) -> BTreeSet<String> {
        let mut witness = ClockAttribution::default();
        let mut blamed = BTreeSet::new();
        for change in reports.iter().cloned().flat_map(|report_of| witness.on_change(report_of)) {
            match change.verdict {
                Verdict::Violated(_) => blamed.insert(change.key.subject.to_string()),
                Verdict::Cleared | Verdict::Overdue | Verdict::Undecidable => {
                    blamed.remove(&change.key.subject.to_string())
                }
            };
        }
        blamed
    }

    /// A test moves from host `a` to host `c` while its reporter continues to exist.
    #[test]
    fn clock_alarm_is_cleared_when_its_test_gets_another_peer() {
        let mut witness = ClockAttribution::default();
        witness.on_change(report_of("a", true));
        let reporter = report_of("a", true).reporter;
        let possible: AlarmInventory = [AlarmKey::new(Kind::Clock, Subject::Host("a".into()))].into_iter().collect();
        let same = Reporters::from([(reporter.clone(), Some("a".to_owned()))]);
        assert_eq!(witness.retain(&same, &possible, Now::default()), []);
        let other = Reporters::from([(reporter, Some("c".to_owned()))]);
        let changes = witness.retain(&other, &possible, Now::default());
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].key.subject.to_string().as_str(), &changes[0].verdict), ("host a", &Verdict::Cleared));
    }

    #[test]
    fn agent_is_blamed_when_most_hosts_appear_wrong_and_one_host_otherwise() {
        let good = |hosts: &[&str]| hosts.iter().map(|host| report_of(host, false)).collect::<Vec<_>>();
        let bad = |hosts: &[&str]| hosts.iter().map(|host| report_of(host, true)).collect::<Vec<_>>();
        assert_eq!(blamed(&bad(&["a"])), ["host a".to_owned()].into());
        assert_eq!(blamed(&[good(&["a", "b", "c"]), bad(&["b"])].concat()), ["host b".to_owned()].into());
        assert_eq!(blamed(&[good(&["a", "b", "c"]), bad(&["b", "c"])].concat()), ["agent".to_owned()].into());
        assert_eq!(blamed(&bad(&["a", "b", "c"])), ["agent".to_owned()].into());
        // The local clock is repaired; host `b` was wrong independently of it.
        let all = [bad(&["a", "b", "c"]), good(&["a", "c"])].concat();
        assert_eq!(blamed(&all), ["host b".to_owned()].into());
        assert_eq!(blamed(&[all, good(&["b"])].concat()), BTreeSet::new());
    }
}
