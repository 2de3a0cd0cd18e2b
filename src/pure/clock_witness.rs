//! Whose clock is wrong: a test that meets an impossible delay only knows that one of two is. Who
//! stands alone against most others is the one.

use std::collections::{BTreeMap, BTreeSet};

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::possible::Possible;
use super::time::Now;

/// Fewer than this cannot outvote this host.
const LEAST: usize = 2;

/// Takes in what the tests say of other hosts' clocks, and says what that means.
#[derive(Clone, Debug, Default)]
pub struct ClockWitness {
    hosts: BTreeMap<String, Words>,
    /// How many of them somebody calls wrong. Counted along: a host can have very many reporters.
    wrong: usize,
    blames_self: bool,
}

/// The last words of all reporters on one host.
#[derive(Clone, Debug, Default)]
struct Words {
    good: BTreeSet<Subject>,
    bad: BTreeMap<Subject, ConditionChange>,
}

impl ClockWitness {
    /// A test says something of another host's clock.
    pub fn on_change(&mut self, change: ConditionChange) -> Vec<ConditionChange> {
        let Subject::Host(host) = &change.key.subject else { return vec![change] };
        let now = change.at;
        let words = self.hosts.entry(host.clone()).or_default();
        let was_wrong = words.is_wrong();
        words.take(&change);
        match (was_wrong, words.is_wrong()) {
            (false, true) => self.wrong += 1,
            (true, false) => self.wrong -= 1,
            (false, false) | (true, true) => {}
        }
        let mut said = self.turn(now);
        // Good news is always news; bad news of others is none while this host is to blame.
        if !is_violated(&change) || !self.blames_self {
            said.push(change);
        }
        said
    }

    /// Only these alarms can still be, and only these tests still report: each of the clock of the host at its other end.
    /// Retracts the reports that a test made about its former other end.
    pub fn retain(
        &mut self,
        reporters: &BTreeSet<Subject>,
        peers: &BTreeMap<Subject, String>,
        possible: &Possible,
        now: Now,
    ) -> Vec<ConditionChange> {
        let mut said = Vec::new();
        self.hosts.retain(|host, words| {
            let reports = |reporter: &Subject| {
                reporters.contains(reporter) && peers.get(reporter).is_none_or(|peer| peer == host)
            };
            words.good.retain(reports);
            words.bad.retain(|reporter, change| {
                let stays = reports(reporter);
                if !stays {
                    said.push(ConditionChange { verdict: Verdict::Cleared, at: now, ..change.clone() });
                }
                stays
            });
            let is_possible = possible.contains(&AlarmKey::new(Kind::Clock, Subject::Host(host.clone())));
            is_possible && !(words.good.is_empty() && words.bad.is_empty())
        });
        self.wrong = self.hosts.values().filter(|words| words.is_wrong()).count();
        said.extend(self.turn(now));
        said
    }

    /// Says once more what it says of this host, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> ConditionChange {
        self.of_self(now)
    }

    /// Blames whom it has to now. What was said of others is taken back, or said after all.
    fn turn(&mut self, now: Now) -> Vec<ConditionChange> {
        let blames = self.wrong >= LEAST && self.wrong * 2 > self.hosts.len();
        if blames == self.blames_self {
            return Vec::new();
        }
        self.blames_self = blames;
        let raised = self.hosts.values().flat_map(|words| words.bad.values()).cloned();
        let others = raised.map(|change| match blames {
            true => ConditionChange { verdict: Verdict::Cleared, at: now, ..change },
            false => change,
        });
        [self.of_self(now)].into_iter().chain(others).collect()
    }

    fn of_self(&self, now: Now) -> ConditionChange {
        let verdict = match self.blames_self {
            true => Verdict::Violated(Cause::LocalClock(format!(
                "delays from {} of {} hosts are impossible: this host's clock is wrong, not theirs",
                self.wrong,
                self.hosts.len()
            ))),
            false => Verdict::Cleared,
        };
        let key = AlarmKey::new(Kind::Clock, Subject::Agent);
        condition_change(key, Subject::Name(WITNESS.to_owned()), now, verdict)
    }
}

impl Words {
    fn take(&mut self, change: &ConditionChange) {
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

/// What reports on this host's clock in the others' name.
const WITNESS: &str = "the clocks of other hosts";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::clock_error::Delay;
    use crate::pure::test::TestId;
    use std::time::Duration;

    fn word(host: &str, wrong: bool) -> ConditionChange {
        let delay = Delay { nanos: -10_000_000, uncertainty: Duration::from_millis(1) };
        let verdict = match wrong {
            true => Verdict::Violated(Cause::ClockWrong { delay, peer: host.to_owned() }),
            false => Verdict::Cleared,
        };
        let reporter = Subject::Test(TestId::of_set("s", host, "me"));
        condition_change(AlarmKey::new(Kind::Clock, Subject::Host(host.to_owned())), reporter, Now::default(), verdict)
    }

    /// Whom the words so far blame.
    fn blamed(words: &[ConditionChange]) -> BTreeSet<String> {
        let mut witness = ClockWitness::default();
        let mut blamed = BTreeSet::new();
        for change in words.iter().cloned().flat_map(|word| witness.on_change(word)) {
            match change.verdict {
                Verdict::Violated(_) => blamed.insert(change.key.subject.to_string()),
                Verdict::Cleared | Verdict::Overdue | Verdict::Undecidable => {
                    blamed.remove(&change.key.subject.to_string())
                }
            };
        }
        blamed
    }

    /// A test that got another host at its other end, while another test of the first host goes on.
    #[test]
    fn clock_alarm_ends_when_its_test_has_another_peer() {
        let mut witness = ClockWitness::default();
        witness.on_change(word("a", true));
        let reporter = word("a", true).reporter;
        let possible: Possible = [AlarmKey::new(Kind::Clock, Subject::Host("a".into()))].into_iter().collect();
        let reporters = BTreeSet::from([reporter.clone()]);
        let same = BTreeMap::from([(reporter.clone(), "a".to_owned())]);
        assert_eq!(witness.retain(&reporters, &same, &possible, Now::default()), []);
        let other = BTreeMap::from([(reporter, "c".to_owned())]);
        let said = witness.retain(&reporters, &other, &possible, Now::default());
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].key.subject.to_string().as_str(), &said[0].verdict), ("host a", &Verdict::Cleared));
    }

    #[test]
    fn one_of_many_is_wrong_itself_and_all_of_many_are_not() {
        let good = |hosts: &[&str]| hosts.iter().map(|host| word(host, false)).collect::<Vec<_>>();
        let bad = |hosts: &[&str]| hosts.iter().map(|host| word(host, true)).collect::<Vec<_>>();
        assert_eq!(blamed(&bad(&["a"])), ["host a".to_owned()].into());
        assert_eq!(blamed(&[good(&["a", "b", "c"]), bad(&["b"])].concat()), ["host b".to_owned()].into());
        assert_eq!(blamed(&[good(&["a", "b", "c"]), bad(&["b", "c"])].concat()), ["agent".to_owned()].into());
        assert_eq!(blamed(&bad(&["a", "b", "c"])), ["agent".to_owned()].into());
        // It is mended, all but for one that was wrong beside it.
        let all = [bad(&["a", "b", "c"]), good(&["a", "c"])].concat();
        assert_eq!(blamed(&all), ["host b".to_owned()].into());
        assert_eq!(blamed(&[all, good(&["b"])].concat()), BTreeSet::new());
    }
}
