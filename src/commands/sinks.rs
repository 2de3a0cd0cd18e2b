//! The sinks of a host as the agent would configure them, for commands that contact receivers.

use crate::config::bootstrap::Bootstrap;
use crate::config::document::raw::Documents;
use crate::config::load::Loader;
use crate::config::sink_plan::{self, SinkPlan};
use crate::io::store::{ReadScope, Store};

/// Returns the sinks of the bootstrap file and of the documents; if the documents cannot be read, the reason too.
pub async fn known_sinks(bootstrap: &Bootstrap) -> (Vec<SinkPlan>, Option<String>) {
    let listed = match Store::new(&bootstrap.store, ReadScope::Host(bootstrap.host.clone())) {
        Ok(mut store) => store.list().await,
        Err(error) => Err(error),
    };
    let (documents, unread) = match listed {
        Ok(snapshot) => (snapshot.documents, None),
        Err(error) => (Documents::new(), Some(error.to_string())),
    };
    let loaded = Loader::of(bootstrap).load(&documents);
    (sink_plan::select_receivers(&loaded.sinks, &bootstrap.sink, &loaded.notification_settings), unread)
}
