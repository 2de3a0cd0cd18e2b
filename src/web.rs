//! The web actor: the status page, its data, and what people ask of the agent.
//!
//! It owns the HTTP server, which reads the snapshot and never asks the tree for it; what people
//! ask (silences, resynchronisation) goes up as a fact, and the answer comes back the same way. It
//! stops when the supervisor says so, or when it cannot serve; the supervisor builds it anew.

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

use crate::messages::{Generation, InForce, Stop, WebFact};
use crate::pure::status::Status;

/// The newest snapshot.
type Snapshot = watch::Receiver<Arc<Status>>;

/// What is carried out, once anything is.
type Plans = watch::Receiver<Option<Arc<InForce>>>;

/// A client that sends nothing for so long is let go.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// People and probes, not crowds.
const MOST_CONNECTIONS: usize = 256;
/// What people ask is short.
const LONGEST_BODY: usize = 64 * 1024;

/// See the module.
pub struct Web {
    setting: Setting,
    server: Option<ServerHandle>,
    /// Why it cannot serve.
    problem: Option<String>,
    span: Span,
}

/// What a web actor begins with.
#[derive(Clone)]
pub struct Setting {
    /// Address and port.
    pub listen: String,
    /// The token that whoever changes something has to show.
    pub token_file: Option<PathBuf>,
    /// The newest snapshot.
    pub status: Snapshot,
    /// What is carried out.
    pub in_force: Plans,
    /// The supervisor.
    pub parent: Recipient<WebFact>,
    /// Which of its name this is.
    pub generation: Generation,
}

impl Web {
    /// One that will serve when it is started.
    pub fn new(setting: Setting) -> Self {
        Web { setting, server: None, problem: None, span: info_span!("web") }
    }
}

/// Binds and gives the server to be run. It handles no signals: the supervisor does.
fn bind(setting: &Setting) -> io::Result<Server> {
    let (status, in_force) = (setting.status.clone(), setting.in_force.clone());
    let access = api::Access::new(setting.parent.clone(), setting.token_file.clone());
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
        .max_connections(MOST_CONNECTIONS)
        .client_request_timeout(CLIENT_TIMEOUT)
        .disable_signals()
        .shutdown_timeout(1);
    Ok(server.bind(&setting.listen)?.run())
}

impl Actor for Web {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        match bind(&self.setting) {
            Ok(server) => {
                info!(url = format!("http://{}/", self.setting.listen), "status page");
                self.server = Some(server.handle());
                self.setting.parent.do_send(WebFact::Serving(self.setting.generation));
                ctx.spawn(server.into_actor(self).map(|ended, web, ctx| {
                    let problem = ended.err().map_or("it ended".to_owned(), |error| error.to_string());
                    // One that was asked to end has no problem.
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
            actix::spawn(server.stop(false));
        }
        self.setting.parent.do_send(WebFact::Down(self.setting.generation, self.problem.take()));
    }
}

impl Handler<Stop> for Web {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        let graceful = stop == Stop::Quietly;
        let Some(server) = self.server.take() else {
            ctx.stop();
            return;
        };
        ctx.spawn(server.stop(graceful).into_actor(self).map(|(), _, ctx| ctx.stop()));
    }
}
