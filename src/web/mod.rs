//! The status page and its data: read from the snapshot, never asked of the tree.

mod api;
mod pages;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};
use tokio::sync::watch;

use crate::pure::status::Status;

/// The newest snapshot.
type Snapshot = watch::Receiver<Arc<Status>>;

/// A client that sends nothing for so long is let go.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// People and probes, not crowds.
const MOST_CONNECTIONS: usize = 256;

/// Binds `listen` and gives the server to be run. It handles no signals: the supervisor does.
pub fn serve(listen: &str, status: Snapshot) -> io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(status.clone()))
            .route("/", web::get().to(pages::status))
            .route("/healthz", web::get().to(api::healthz))
            .route("/status.json", web::get().to(api::status))
    });
    Ok(server
        .workers(1)
        .max_connections(MOST_CONNECTIONS)
        .client_request_timeout(CLIENT_TIMEOUT)
        .disable_signals()
        .shutdown_timeout(1)
        .bind(listen)?
        .run())
}
