//! Handlers of `/healthz`, `/status.json` and the API below `/api`.
//!
//! [`Access`] passes requests of operators to the supervisor and checks their token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::Recipient;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};

use super::{Plans, StatusHandle};
use crate::config::document::secret::SecretSource;
use crate::config::report::host::HostReport;
use crate::io::secret;
use crate::messages::{InForce, WebFact};
use crate::pure::base::time::{WallTime, seconds};
use crate::pure::status::api::{ActiveAlarm, ApiError, ApiRequest, ApiResponse, NewSilence};
use crate::pure::status::snapshot::Status;

/// Age in seconds above which a snapshot is stale, which means that the actors are stuck.
const STUCK: f64 = 10.0;
/// Shortest interval between two queries of the alarm list, regardless of the number of clients.
const LISTED_EVERY: Duration = Duration::from_millis(500);
/// Age in seconds below which the tests' status is recent enough to be shown.
const FRESH: f64 = 2.0;
/// Time to wait for a recent status of the tests; after it, the older one is shown.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Timeout for the answer of the actors to a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Handle by which HTTP handlers send requests to the actors, with the check of the token.
#[derive(Clone)]
pub struct Access {
    /// Supervisor, which receives the requests as facts.
    pub parent: Recipient<WebFact>,
    /// File of the bearer token that requests which change state must carry; `None` forbids all changes.
    pub token_file: Option<PathBuf>,
    /// Alarm list as last queried; cached because every sink takes part in a query.
    listed: Arc<Mutex<Option<(Instant, CachedAlarms)>>>,
}

type CachedAlarms = Arc<Vec<ActiveAlarm>>;

impl Access {
    /// Returns a snapshot with a recent status of all tests. Their status is collected only while a client requests
    /// it.
    pub async fn status(&self, snapshot: &StatusHandle) -> Arc<Status> {
        self.parent.do_send(WebFact::TestsRequested);
        let oldest = WallTime::from(SystemTime::now());
        let fresh = |status: &Arc<Status>| status.tests_taken.is_some_and(|at| seconds(oldest.nanos_since(at)) < FRESH);
        let mut snapshot = snapshot.clone();
        if let Ok(Ok(status)) = timeout(LOOK_WITHIN, snapshot.wait_for(fresh)).await {
            return status.clone();
        }
        snapshot.borrow().clone()
    }
}

/// Reports whether the agent works: 503 if the snapshot is stale. An unreachable store is reported in the body but
/// does not count, because a restart would not help.
pub async fn healthz(snapshot: web::Data<StatusHandle>) -> HttpResponse {
    let status = snapshot.borrow().clone();
    let age = seconds(WallTime::from(SystemTime::now()).nanos_since(status.taken));
    let stuck = age > STUCK;
    let body = json!({
        "status": if stuck { "stuck" } else { "ok" },
        "host": status.host,
        "snapshot_age_seconds": age,
        "connected": status.store.connected,
        "configured": status.store.revision.is_some(),
        "alarms": status.raised,
    });
    if stuck { HttpResponse::ServiceUnavailable().json(body) } else { HttpResponse::Ok().json(body) }
}

/// Returns the whole status snapshot as JSON.
pub async fn status(snapshot: web::Data<StatusHandle>, access: web::Data<Access>) -> HttpResponse {
    let status = access.status(&snapshot).await;
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(status.as_ref())
}

/// Returns the plan in force as JSON, in the format of `check-config --format json`.
pub async fn plan(snapshot: web::Data<StatusHandle>, in_force: web::Data<Plans>) -> HttpResponse {
    let (status, in_force) = (snapshot.borrow().clone(), in_force.borrow().clone());
    let Some(in_force) = in_force else {
        return HttpResponse::ServiceUnavailable().json(json!({"error": "no documents were read yet"}));
    };
    let InForce { revision, loaded, names, plan } = in_force.as_ref();
    let report = HostReport::of_findings(&status.host, status.store.location.clone(), Vec::new());
    let report = report.with_plan(*revision, loaded, names, plan);
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(report)
}

/// Returns the raised alarms as JSON, with the condition of their tests and the state that each receiver was notified
/// of.
pub async fn alarms(snapshot: web::Data<StatusHandle>, access: web::Data<Access>) -> HttpResponse {
    let listed = match access.alarms().await {
        Ok(listed) => listed,
        Err(refusal) => return refused(&refusal),
    };
    let status = access.status(&snapshot).await;
    let conditions: std::collections::HashMap<_, _> = status
        .tests
        .iter()
        .filter(|test| !test.conditions.is_empty())
        .map(|test| (test.test.id, &test.conditions))
        .collect();
    let with_condition = |alarm: &ActiveAlarm| {
        let conditions = alarm.notification.test.as_ref().and_then(|test| conditions.get(&test.id));
        let condition = conditions.and_then(|conditions| conditions.get(&alarm.notification.key.kind));
        let mut shown = serde_json::to_value(alarm).unwrap_or_default();
        shown["condition"] = json!(condition);
        shown
    };
    let alarms: Vec<_> = listed.iter().map(with_condition).collect();
    HttpResponse::Ok()
        .insert_header(("Cache-Control", "no-store"))
        .json(json!({ "host": status.host, "alarms": alarms }))
}

/// Returns the silences that have not expired, as JSON.
pub async fn silences(access: web::Data<Access>) -> HttpResponse {
    answered(request_alarm_actor(&access, ApiRequest::Silences).await)
}

/// Creates a silence from the JSON in the request body.
pub async fn add_silence(request: HttpRequest, access: web::Data<Access>, body: web::Bytes) -> HttpResponse {
    if let Err(refusal) = access.allows(&request) {
        return refused(&refusal);
    }
    match serde_json::from_slice::<NewSilence>(&body) {
        Ok(new) => answered(request_alarm_actor(&access, ApiRequest::AddSilence(new)).await),
        Err(error) => refused(&ApiError::Invalid(error.to_string())),
    }
}

/// Expires the silence whose id is in the path.
pub async fn expire_silence(request: HttpRequest, access: web::Data<Access>, id: web::Path<String>) -> HttpResponse {
    if let Err(refusal) = access.allows(&request) {
        return refused(&refusal);
    }
    answered(request_alarm_actor(&access, ApiRequest::ExpireSilence(id.into_inner())).await)
}

/// Query parameters of `/api/resync`: `?sink=NAME`.
#[derive(Deserialize)]
pub struct Resync {
    sink: String,
}

/// Sends all raised alarms to one receiver again.
pub async fn resync(
    request: HttpRequest,
    access: web::Data<Access>,
    query: Result<web::Query<Resync>, actix_web::Error>,
) -> HttpResponse {
    if let Err(refusal) = access.allows(&request) {
        return refused(&refusal);
    }
    match query {
        Ok(query) => answered(request_alarm_actor(&access, ApiRequest::Resync(query.into_inner().sink)).await),
        Err(_) => refused(&ApiError::Invalid(
            "the parameter `sink` is missing; name one, as in /api/resync?sink=NAME".to_owned(),
        )),
    }
}

impl Access {
    /// Creates the handle for the agent's supervisor.
    pub fn new(parent: Recipient<WebFact>, token_file: Option<PathBuf>) -> Self {
        Access { parent, token_file, listed: Arc::default() }
    }

    /// Returns the alarm list; concurrent clients share one query.
    async fn alarms(&self) -> Result<CachedAlarms, ApiError> {
        let mut listed = self.listed.lock().await;
        if let Some((_, listed)) = listed.as_ref().filter(|(at, _)| at.elapsed() < LISTED_EVERY) {
            return Ok(listed.clone());
        }
        let ApiResponse::Alarms(alarms) = request_alarm_actor(self, ApiRequest::Alarms).await? else {
            return Ok(CachedAlarms::default());
        };
        let alarms = CachedAlarms::new(alarms);
        *listed = Some((Instant::now(), alarms.clone()));
        Ok(alarms)
    }

    /// Checks the bearer token of a request that changes state. A page in a browser cannot forge such a request,
    /// because it does not have the token.
    fn allows(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let forbidden = |problem: &str| ApiError::Forbidden(problem.to_owned());
        let Some(path) = &self.token_file else {
            return Err(forbidden("changes are disabled: [web] token_file is not set"));
        };
        let token = secret::read(SecretSource::File(path)).map_err(|error| {
            tracing::warn!(problem = error.to_string(), "the token of [web] cannot be read");
            forbidden("changes are disabled: the agent cannot read its [web] token_file")
        })?;
        let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, shown) = shown.split_once(' ').unwrap_or_default();
        let shown = if scheme.eq_ignore_ascii_case("bearer") { shown.trim() } else { "" };
        // Hashes are compared, so that the duration reveals nothing about the token.
        match Sha256::digest(shown) == Sha256::digest(token.reveal()) {
            true => Ok(()),
            false => Err(ApiError::Unknown("wrong or missing token: send Authorization: Bearer TOKEN".to_owned())),
        }
    }
}

async fn request_alarm_actor(access: &Access, request: ApiRequest) -> Result<ApiResponse, ApiError> {
    let (reply, answer) = oneshot::channel();
    access.parent.do_send(WebFact::ApiRequested(request, reply));
    match timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ApiError::Unavailable("the alarm actor is being restarted".to_owned())),
        Err(_) => Err(ApiError::Unavailable("the agent does not answer".to_owned())),
    }
}

fn answered(answer: Result<ApiResponse, ApiError>) -> HttpResponse {
    match answer {
        Ok(answer) => HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(answer),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &ApiError) -> HttpResponse {
    match refusal {
        ApiError::NotFound(problem) => HttpResponse::NotFound().json(json!({ "error": problem })),
        ApiError::Invalid(problem) => HttpResponse::BadRequest().json(json!({ "error": problem })),
        ApiError::Forbidden(problem) => HttpResponse::Forbidden().json(json!({ "error": problem })),
        ApiError::Unknown(problem) => {
            HttpResponse::Unauthorized().insert_header(("WWW-Authenticate", "Bearer")).json(json!({ "error": problem }))
        }
        ApiError::Unavailable(problem) => HttpResponse::ServiceUnavailable().json(json!({ "error": problem })),
    }
}
