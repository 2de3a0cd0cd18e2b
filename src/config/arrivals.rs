//! Tracks hosts that were added to the documents recently. Their agents may start later than this one, so
//! [`Arrivals`] marks them as new for five minutes and their tests get a longer startup grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::load::Loaded;
use crate::pure::time::Moment;

/// Time within which the agent of a host is expected to start after the host was added to the documents.
pub const WITHIN: Duration = Duration::from_secs(300);

/// Hosts named by tests, with an expiry for each host that was added while this agent was running.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    known: Option<BTreeSet<String>>,
    lately: BTreeMap<String, Moment>,
}

impl Arrivals {
    /// Stores the recently added hosts in `loaded.newcomers`. Returns the time at which the first of them stops
    /// counting as new.
    pub fn on_loaded(&mut self, loaded: &mut Loaded, now: Moment) -> Option<Moment> {
        let ends = loaded.tests.values().flat_map(|test| [&test.facts.from_host, &test.facts.to_host]);
        let hosts: BTreeSet<String> = ends.cloned().collect();
        // The first load defines the known hosts: a host present at the start of the agent is not new.
        if let Some(known) = &self.known {
            self.lately.extend(hosts.difference(known).map(|host| (host.clone(), now + WITHIN)));
        }
        self.lately.retain(|host, until| *until > now && hosts.contains(host));
        self.known = Some(hosts);
        loaded.newcomers = self.lately.keys().cloned().collect();
        self.lately.values().min().copied()
    }
}
