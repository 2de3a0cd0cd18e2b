//! Tracks hosts that were added to the documents recently. Their agents may start later than this one, so
//! [`RecentHosts`] marks them as new for five minutes and their tests get a longer startup grace.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Loaded;
use super::test::RECENT_HOST_GRACE;
use crate::pure::base::time::Moment;

/// Hosts named by tests, with an expiry for each host that was added while this agent was running.
#[derive(Clone, Debug, Default)]
pub struct RecentHosts {
    known: Option<BTreeSet<String>>,
    recent_until: BTreeMap<String, Moment>,
}

impl RecentHosts {
    /// Stores the recently added hosts in `loaded.recent_hosts`. Returns the time at which the first of them stops
    /// counting as new.
    pub fn on_loaded(&mut self, loaded: &mut Loaded, now: Moment) -> Option<Moment> {
        let ends = loaded.tests.values().flat_map(|test| [Some(test.facts.from_host.as_str()), test.facts.receiver()]);
        let hosts: BTreeSet<String> = ends.flatten().map(str::to_owned).collect();
        // The first load defines the known hosts: a host present at the start of the agent is not new.
        if let Some(known) = &self.known {
            self.recent_until.extend(hosts.difference(known).map(|host| (host.clone(), now + RECENT_HOST_GRACE)));
        }
        self.recent_until.retain(|host, until| *until > now && hosts.contains(host));
        self.known = Some(hosts);
        loaded.recent_hosts = self.recent_until.keys().cloned().collect();
        self.recent_until.values().min().copied()
    }
}
