//! Status as the page, the JSON API and the metrics show it, and the requests of the API.

pub mod api;
pub mod snapshot;
