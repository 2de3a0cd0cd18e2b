//! Web actor: serves the status page, the JSON API and the metrics.
//!
//! The actor owns the HTTP server, which reads snapshots instead of querying other actors. Requests of operators
//! (silences, resynchronization) are sent to the supervisor as facts, and the answers return the same way. It stops on
//! `Stop` from the supervisor, or when it cannot serve; the supervisor starts a new one.

mod api;
pub mod client;
mod metrics;
mod pages;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use tokio::sync::watch;
use tracing::{Span, info, info_span};

use crate::actor::spanned::Spanned;
use crate::messages::{Generation, InForce, Stop, WebFact};
use crate::pure::status::snapshot::Status;

/// Receiver of the latest status snapshot.
type StatusHandle = watch::Receiver<Arc<Status>>;

/// Receiver of the plan in force; `None` until one has been applied.
type Plans = watch::Receiver<Option<Arc<InForce>>>;

/// Time after which a client that has not sent a complete request is disconnected.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest number of connections, ample for a few operators, scrapers and health checks.
const MAX_CONNECTIONS: usize = 256;
/// Largest size of a request body in octets; requests to the API are short.
const LONGEST_BODY: usize = 64 * 1024;

/// Actor that runs the HTTP server.
pub struct Web {
    args: Args,
    server: Option<ServerHandle>,
    /// Reason why the server cannot serve, for the supervisor.
    problem: Option<String>,
    span: Span,
}

/// Constructor arguments of a web actor, kept to start the server.
#[derive(Clone)]
pub struct Args {
    /// Address and port to listen on, as `ADDRESS:PORT`.
    pub listen: String,
    /// File of the bearer token that requests which change state must carry; `None` forbids all changes.
    pub token_file: Option<PathBuf>,
    /// Receiver of the latest status snapshot.
    pub status: StatusHandle,
    /// Receiver of the plan in force.
    pub in_force: Plans,
    /// Supervisor, which receives the facts of this actor.
    pub parent: Recipient<WebFact>,
    /// Generation of this actor, which distinguishes it from earlier ones.
    pub generation: Generation,
}

impl Web {
    /// Creates the actor; the server starts with it.
    pub fn new(args: Args) -> Self {
        Web { args, server: None, problem: None, span: info_span!("web") }
    }
}

/// Binds the address and returns the server. The server handles no signals, because the supervisor does.
fn bind(args: &Args) -> io::Result<Server> {
    let (status, in_force) = (args.status.clone(), args.in_force.clone());
    let access = api::Access::new(args.parent.clone(), args.token_file.clone());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(status.clone()))
            .app_data(web::Data::new(in_force.clone()))
            .app_data(web::Data::new(access.clone()))
            .app_data(web::PayloadConfig::new(LONGEST_BODY))
            .route("/", web::get().to(pages::status))
            .route("/healthz", web::get().to(api::healthz))
            .route("/metrics", web::get().to(metrics::metrics))
            .route("/status.json", web::get().to(api::status))
            .route("/api/alarms", web::get().to(api::alarms))
            .route("/api/plan", web::get().to(api::plan))
            .route("/api/silences", web::get().to(api::silences))
            .route("/api/silences", web::post().to(api::add_silence))
            .route("/api/silences/{id}", web::delete().to(api::expire_silence))
            .route("/api/resync", web::post().to(api::resync))
    });
    let server = server
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(CLIENT_TIMEOUT)
        .disable_signals()
        .shutdown_timeout(1);
    Ok(server.bind(&args.listen)?.run())
}

impl Spanned for Web {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Actor for Web {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match bind(&self.args) {
            Ok(server) => {
                info!(url = format!("http://{}/", self.args.listen), "status page");
                self.server = Some(server.handle());
                self.args.parent.do_send(WebFact::Serving(self.args.generation));
                ctx.spawn(server.into_actor(self).map(|ended, web, ctx| {
                    let problem = ended.err().map_or("it ended".to_owned(), |error| error.to_string());
                    // A server that was asked to stop has no problem to report.
                    web.problem = web.server.is_some().then_some(problem);
                    ctx.stop();
                }));
            }
            Err(error) => {
                self.problem = Some(error.to_string());
                ctx.stop();
            }
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(server) = self.server.take() {
            actix_rt::spawn(server.stop(false));
        }
        self.args.parent.do_send(WebFact::Down(self.args.generation, self.problem.take()));
    }
}

impl Handler<Stop> for Web {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        let graceful = stop == Stop::Silent;
        let Some(server) = self.server.take() else {
            ctx.stop();
            return;
        };
        ctx.spawn(server.stop(graceful).into_actor(self).map(|(), _, ctx| ctx.stop()));
    }
}
