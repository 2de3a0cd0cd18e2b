//! Hosts that were added to the documents lately: their agents may start later, and their tests are given more time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::load::Loaded;
use crate::pure::time::Moment;

/// An agent starts within this after its host was added.
pub const WITHIN: Duration = Duration::from_secs(300);

/// The hosts that tests name, and since when those are known that were added while this agent ran.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    known: Option<BTreeSet<String>>,
    lately: BTreeMap<String, Moment>,
}

impl Arrivals {
    /// Notes in the documents which hosts were added lately. Gives until when the first of them counts as new.
    pub fn on_loaded(&mut self, loaded: &mut Loaded, now: Moment) -> Option<Moment> {
        let ends = loaded.tests.values().flat_map(|test| [&test.facts.from_host, &test.facts.to_host]);
        let hosts: BTreeSet<String> = ends.cloned().collect();
        // Hosts that are known at the start are not new.
        if let Some(known) = &self.known {
            self.lately.extend(hosts.difference(known).map(|host| (host.clone(), now + WITHIN)));
        }
        self.lately.retain(|host, until| *until > now && hosts.contains(host));
        self.known = Some(hosts);
        loaded.newcomers = self.lately.keys().cloned().collect();
        self.lately.values().min().copied()
    }
}
