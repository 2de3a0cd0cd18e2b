//! Inventory of the alarms that can exist under the current configuration; raised alarms outside it are cleared.
//!
//! [`AlarmInventory`] combines the keys of the plan with those of other parts of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::pure::alarm::key::{AlarmKey, Subject};

/// Set of alarm keys that can occur. The plan's keys are shared between copies, since very many tests have very many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlarmInventory {
    planned: Arc<BTreeSet<AlarmKey>>,
    others: BTreeSet<AlarmKey>,
}

/// Subjects that can report conditions, each with the host on whose clock it reports; `None` if it reports on no clock.
pub type Reporters = BTreeMap<Subject, Option<String>>;

impl AlarmInventory {
    /// Returns whether the alarm with this key can occur under the current configuration.
    pub fn contains(&self, key: &AlarmKey) -> bool {
        self.planned.contains(key) || self.others.contains(key)
    }
}

impl Extend<AlarmKey> for AlarmInventory {
    fn extend<T: IntoIterator<Item = AlarmKey>>(&mut self, keys: T) {
        self.others.extend(keys);
    }
}

impl FromIterator<AlarmKey> for AlarmInventory {
    fn from_iter<T: IntoIterator<Item = AlarmKey>>(keys: T) -> Self {
        AlarmInventory { planned: Arc::new(keys.into_iter().collect()), others: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::key::{Kind, Subject};

    #[test]
    fn extended_inventory_contains_planned_and_added_keys() {
        let key = |kind| AlarmKey::new(kind, Subject::Agent);
        let planned: AlarmInventory = [key(Kind::Clock)].into_iter().collect();
        let mut more = planned.clone();
        more.extend([key(Kind::Config)]);
        assert!(more.contains(&key(Kind::Clock)) && more.contains(&key(Kind::Config)));
        assert!(planned.contains(&key(Kind::Clock)) && !planned.contains(&key(Kind::Config)));
    }
}
