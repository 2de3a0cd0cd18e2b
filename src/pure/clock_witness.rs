//! Whose clock is wrong: a test that meets an impossible delay only knows that one of two is. Who
//! stands alone against most others is the one.

use std::collections::{BTreeMap, BTreeSet};

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::time::Now;

/// Fewer than this cannot outvote this host.
const LEAST: usize = 2;

/// Takes in what the tests say of other hosts' clocks, and says what that means.
#[derive(Clone, Debug, Default)]
pub struct ClockWitness {
    /// The last word of each reporter, by the host that it is about.
    words: BTreeMap<String, BTreeMap<Subject, ConditionChange>>,
    blames_self: bool,
}

impl ClockWitness {
    /// A test says something of another host's clock.
    pub fn on_change(&mut self, change: ConditionChange) -> Vec<ConditionChange> {
        let Subject::Host(host) = &change.key.subject else { return vec![change] };
        let now = change.at;
        self.words.entry(host.clone()).or_default().insert(change.reporter.clone(), change.clone());
        let mut said = self.turn(now);
        // Good news is always news; bad news of others is none while this host is to blame.
        if !is_violated(&change) || !self.blames_self {
            said.push(change);
        }
        said
    }

    /// Only these still report, and only of these.
    pub fn retain(
        &mut self,
        reporters: &BTreeSet<Subject>,
        possible: &BTreeSet<AlarmKey>,
        now: Now,
    ) -> Vec<ConditionChange> {
        for words in self.words.values_mut() {
            words.retain(|reporter, change| reporters.contains(reporter) && possible.contains(&change.key));
        }
        self.words.retain(|_, words| !words.is_empty());
        self.turn(now)
    }

    /// Says once more what it says of this host, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> ConditionChange {
        self.of_self(now)
    }

    /// Blames whom it has to now. What was said of others is taken back, or said after all.
    fn turn(&mut self, now: Now) -> Vec<ConditionChange> {
        let Some(own) = self.judge_self(now) else { return Vec::new() };
        let others = self.raised().into_iter().map(|change| match self.blames_self {
            true => ConditionChange { verdict: Verdict::Cleared, at: now, ..change },
            false => change,
        });
        [own].into_iter().chain(others).collect()
    }

    /// Whether it changed its mind of this host.
    fn judge_self(&mut self, now: Now) -> Option<ConditionChange> {
        let is_wrong = |words: &&BTreeMap<Subject, ConditionChange>| words.values().any(is_violated);
        let wrong = self.words.values().filter(is_wrong).count();
        let blames = wrong >= LEAST && wrong * 2 > self.words.len();
        if blames == self.blames_self {
            return None;
        }
        self.blames_self = blames;
        Some(self.of_self(now))
    }

    fn of_self(&self, now: Now) -> ConditionChange {
        let wrong = self.words.values().filter(|words| words.values().any(is_violated)).count();
        let verdict = match self.blames_self {
            true => Verdict::Violated(Cause::LocalClock(format!(
                "delays from {wrong} of {} hosts are impossible: this host's clock is wrong, not theirs",
                self.words.len()
            ))),
            false => Verdict::Cleared,
        };
        let key = AlarmKey::new(Kind::Clock, Subject::Agent);
        condition_change(key, Subject::Name(WITNESS.to_owned()), now, verdict)
    }

    fn raised(&self) -> Vec<ConditionChange> {
        self.words.values().flat_map(BTreeMap::values).filter(|change| is_violated(change)).cloned().collect()
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
                Verdict::Cleared => blamed.remove(&change.key.subject.to_string()),
            };
        }
        blamed
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
