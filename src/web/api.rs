//! `/healthz` and `/status.json`.

use std::time::SystemTime;

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Snapshot;
use crate::pure::time::{WallTime, seconds};

/// A snapshot older than this, in seconds, was not renewed: the tree is stuck.
const STUCK: f64 = 10.0;

/// Whether the agent works. A store that is away is no reason to restart it, so it is only named.
pub async fn healthz(snapshot: web::Data<Snapshot>) -> HttpResponse {
    let status = snapshot.borrow().clone();
    let age = seconds(WallTime::from(SystemTime::now()).nanos_since(status.taken));
    let stuck = age > STUCK;
    let body = json!({
        "status": if stuck { "stuck" } else { "ok" },
        "host": status.host,
        "snapshot_age_seconds": age,
        "connected": status.store.connected,
        "configured": status.store.revision.is_some(),
        "alarms": status.alarms.len(),
    });
    if stuck { HttpResponse::ServiceUnavailable().json(body) } else { HttpResponse::Ok().json(body) }
}

/// Everything that the agent shows of itself.
pub async fn status(snapshot: web::Data<Snapshot>) -> HttpResponse {
    let status = snapshot.borrow().clone();
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(status.as_ref())
}
