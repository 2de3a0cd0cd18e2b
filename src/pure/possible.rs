//! Inventory of the alarms that can exist under the current configuration; raised alarms outside it are cleared.
//!
//! [`Possible`] combines the keys of the plan with those of other parts of the agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::alarm::AlarmKey;

/// Set of alarm keys that can occur. The plan's keys are shared between copies, since very many tests have very many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Possible {
    planned: Arc<BTreeSet<AlarmKey>>,
    others: BTreeSet<AlarmKey>,
}

impl Possible {
    /// Returns whether the alarm with this key can occur under the current configuration.
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
    fn extended_inventory_contains_planned_and_added_keys() {
        let key = |kind| AlarmKey::new(kind, Subject::Agent);
        let planned: Possible = [key(Kind::Clock)].into_iter().collect();
        let mut more = planned.clone();
        more.extend([key(Kind::Config)]);
        assert!(more.contains(&key(Kind::Clock)) && more.contains(&key(Kind::Config)));
        assert!(planned.contains(&key(Kind::Clock)) && !planned.contains(&key(Kind::Config)));
    }
}
