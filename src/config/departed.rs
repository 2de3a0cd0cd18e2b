//! Hosts whose document was removed: they stay for a while, since a rename or a rewrite removes first
//! and writes then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::load::{Documents, HOSTS_PREFIX, RawDocument};
use crate::pure::time::Moment;

/// So long.
pub const GRACE: Duration = Duration::from_secs(30);

/// The hosts that are there, and those that were removed lately.
#[derive(Clone, Debug, Default)]
pub struct Departed {
    listed: BTreeMap<String, Arc<RawDocument>>,
    /// Until when they stay.
    staying: BTreeMap<String, (Arc<RawDocument>, Moment)>,
}

impl Departed {
    /// These were listed: adds those that stay. Tells until when the first of them does.
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
    fn a_host_that_was_removed_stays_for_its_grace() {
        let raw = |key: &str| (key.to_owned(), Arc::new(RawDocument::of_store(key, Ok("{}".to_owned()), 1)));
        let (both, one) = (Documents::from([raw("hosts/a"), raw("hosts/b")]), Documents::from([raw("hosts/a")]));
        let mut departed = Departed::default();
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
        // It is back.
        assert_eq!(listed(&both, 70), (2, None));
        assert_eq!(listed(&one, 80), (2, Some(110)));
    }
}
