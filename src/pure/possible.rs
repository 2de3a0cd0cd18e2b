//! Which alarms can be: whatever else is told is taken back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::alarm::AlarmKey;

/// The alarms that can be. Those of a plan are shared: very many tests have very many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Possible {
    planned: Arc<BTreeSet<AlarmKey>>,
    others: BTreeSet<AlarmKey>,
}

impl Possible {
    /// Whether this alarm can be.
    pub fn contains(&self, key: &AlarmKey) -> bool {
        self.planned.contains(key) || self.others.contains(key)
    }
}

impl Extend<AlarmKey> for Possible {
    fn extend<T: IntoIterator<Item = AlarmKey>>(&mut self, keys: T) {
        self.others.extend(keys);
    }
}

impl FromIterator<AlarmKey> for Possible {
    fn from_iter<T: IntoIterator<Item = AlarmKey>>(keys: T) -> Self {
        Possible { planned: Arc::new(keys.into_iter().collect()), others: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::{Kind, Subject};

    #[test]
    fn what_is_planned_and_what_comes_on_top() {
        let key = |kind| AlarmKey::new(kind, Subject::Agent);
        let planned: Possible = [key(Kind::Clock)].into_iter().collect();
        let mut more = planned.clone();
        more.extend([key(Kind::Config)]);
        assert!(more.contains(&key(Kind::Clock)) && more.contains(&key(Kind::Config)));
        assert!(planned.contains(&key(Kind::Clock)) && !planned.contains(&key(Kind::Config)));
    }
}
