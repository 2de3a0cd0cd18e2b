//! Keeps hosts whose document was removed for a grace period of 30 s, because a rename or rewrite removes the old
//! document before it writes the new one. [`RemovalGrace`] compares each listing of the store with the previous one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::document::raw::{Documents, HOSTS_PREFIX, RawDocument};
use crate::pure::base::time::Moment;

/// Time for which a removed host document stays in force.
pub const GRACE: Duration = Duration::from_secs(30);

/// Host documents of the latest listing, and those that were removed recently.
#[derive(Clone, Debug, Default)]
pub struct RemovalGrace {
    listed: BTreeMap<String, Arc<RawDocument>>,
    /// Removed documents by key, each with the time at which its removal takes effect.
    staying: BTreeMap<String, (Arc<RawDocument>, Moment)>,
}

impl RemovalGrace {
    /// Adds recently removed host documents to a listing of the store. Returns the time at which the first of them
    /// expires, so that the caller can load again.
    pub fn on_listed(&mut self, documents: &mut Documents, now: Moment) -> Option<Moment> {
        let of_hosts = documents.range(HOSTS_PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(HOSTS_PREFIX));
        let listed = of_hosts.map(|(key, document)| (key.clone(), document.clone())).collect();
        let before = std::mem::replace(&mut self.listed, listed);
        let gone = before.into_iter().filter(|(key, _)| !self.listed.contains_key(key));
        self.staying.extend(gone.map(|(key, document)| (key, (document, now + GRACE))));
        self.staying.retain(|key, (_, until)| *until > now && !self.listed.contains_key(key));
        documents.extend(self.staying.iter().map(|(key, (document, _))| (key.clone(), document.clone())));
        self.staying.values().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_host_stays_for_the_grace_period() {
        let raw = |key: &str| (key.to_owned(), Arc::new(RawDocument::of_store(key, Ok("{}".to_owned()), 1)));
        let (both, one) = (Documents::from([raw("hosts/a"), raw("hosts/b")]), Documents::from([raw("hosts/a")]));
        let mut departed = RemovalGrace::default();
        let begin = Moment::ZERO;
        let mut listed = |documents: &Documents, after: u64| {
            let mut documents = documents.clone();
            let until = departed.on_listed(&mut documents, begin + Duration::from_secs(after));
            (documents.len(), until.map(|until| until.since(begin).as_secs()))
        };
        assert_eq!(listed(&both, 0), (2, None));
        assert_eq!(listed(&one, 10), (2, Some(40)));
        assert_eq!(listed(&one, 39), (2, Some(40)));
        assert_eq!(listed(&one, 40), (1, None));
        assert_eq!(listed(&both, 50), (2, None));
        assert_eq!(listed(&one, 60), (2, Some(90)));
        // The document was written again within the grace period.
        assert_eq!(listed(&both, 70), (2, None));
        assert_eq!(listed(&one, 80), (2, Some(110)));
    }
}
