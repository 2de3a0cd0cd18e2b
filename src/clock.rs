//! Clock actor: reads the quality of the local clock once a second, detects steps, and consults a time server.
//!
//! The main type is [`Clock`]. The actor owns no state that outlives it, and publishes its readings in [`SharedState`],
//! where senders and listeners read them. It stops on `Stop` from the supervisor or when it panics; after a panic, the
//! supervisor starts a new one.

use std::time::Duration;

use actix::prelude::*;
use tracing::{Span, info, info_span, warn};

use crate::actor::spanned::Spanned;
use crate::config::document::endpoint::Endpoint;
use crate::io::adjtimex::clock_quality;
use crate::io::ntp::NtpError;
use crate::io::shared::SharedState;
use crate::io::{ntp, time};
use crate::messages::{ClockFact, ConditionReport, ConfigureClock, Generation, Observe, ReportConditions, Stop};
use crate::pure::base::polling;
use crate::pure::base::time::{Moment, seconds};
use crate::pure::clock::error_estimate::{ClockQuality, UNSYNCHRONISED_ERROR};
use crate::pure::clock::local::{LocalClock, ServerMeasurement};
use crate::pure::status::snapshot::ClockStatus;

const READ_EVERY: Duration = polling::SECOND;
/// Interval between requests to the time server, well above the minimum that RFC 4330 section 10 permits.
const ASK_EVERY: Duration = Duration::from_secs(256);
/// Time after a suspension during which the clock's error bound is not trusted: the time service needs this long to
/// correct the clock, while the kernel keeps reporting the bound from before the suspension.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// Interval until the next request when the time server did not answer the previous one.
const ASK_AGAIN: Duration = Duration::from_secs(16);

/// Actor that reads the local clock once a second and reports changes of its quality to the supervisor.
pub struct Clock {
    shared: SharedState,
    /// Error bound that the operator configured for this clock; takes precedence over the kernel's.
    claimed: Option<Duration>,
    parent: Recipient<ClockFact>,
    reports: Recipient<ConditionReport>,
    generation: Generation,
    kernel: ClockQuality,
    local: LocalClock,
    /// Number of steps of the wall clock since this actor started. `sleeps` is the number of suspensions already
    /// handled.
    steps: u64,
    sleeps: u32,
    /// Time until which the kernel's error bound is replaced by at least `UNSYNCHRONISED_ERROR` after a suspension.
    unknown_until: Moment,
    server: Option<Endpoint>,
    /// Last answer of the time server, or the reason for its absence.
    opinion: Option<Result<ServerMeasurement, NtpError>>,
    asking: Option<SpawnHandle>,
    span: Span,
}

impl Clock {
    /// Creates the actor; the first reading is taken when it starts.
    pub fn new(
        shared: SharedState,
        claimed: Option<Duration>,
        parent: Recipient<ClockFact>,
        reports: Recipient<ConditionReport>,
        generation: Generation,
    ) -> Self {
        Clock {
            steps: 0,
            sleeps: shared.sleeps(),
            unknown_until: Moment::ZERO,
            shared,
            claimed,
            parent,
            reports,
            generation,
            kernel: ClockQuality::UNKNOWN,
            local: LocalClock::default(),
            server: None,
            opinion: None,
            asking: None,
            span: info_span!("clock"),
        }
    }

    fn read(&mut self) {
        let now = time::now();
        self.kernel = match self.claimed {
            Some(error) => ClockQuality { synchronized: true, error },
            None => clock_quality(),
        };
        self.shared.observe(now, time::slept());
        let step = self.shared.take_step();
        if let Some(step) = step {
            self.steps += 1;
            warn!(step_seconds = seconds(step), "the wall clock stepped");
        }
        let sleeps = self.shared.sleeps();
        if std::mem::replace(&mut self.sleeps, sleeps) != sleeps {
            info!("this machine was suspended; its clock is not trusted until it is synchronized again");
            self.unknown_until = now.moment + SETTLES_WITHIN;
        }
        if now.moment < self.unknown_until {
            self.kernel = ClockQuality { error: self.kernel.error.max(UNSYNCHRONISED_ERROR), ..self.kernel };
        }
        if let Some(change) = self.local.on_reading(self.kernel, step, now) {
            self.reports.do_send(ConditionReport(change));
        }
        self.shared.set_clock(self.local.judge(self.kernel));
    }

    fn query(&mut self, ctx: &mut Context<Self>) {
        let Some(server) = self.server.clone() else { return };
        let asked = async move { ntp::query(&server).await };
        self.asking = Some(ctx.spawn(asked.into_actor(self).map(|answer, clock, ctx| {
            let _entered = clock.enter();
            if let Err(problem) = &answer
                && !matches!(clock.opinion, Some(Err(_)))
            {
                warn!(problem = problem.to_string(), "the time server cannot be queried");
            }
            clock.local.on_opinion(answer.as_ref().ok().cloned());
            let again = if answer.is_ok() { ASK_EVERY } else { ASK_AGAIN };
            clock.opinion = Some(answer);
            clock.asking = Some(ctx.run_later(again, Self::query));
        })));
    }

    fn read_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(READ_EVERY), |clock, ctx| {
            let _entered = clock.enter();
            clock.read();
            Self::read_later(ctx);
        });
    }
}

impl Spanned for Clock {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Actor for Clock {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.read();
        Self::read_later(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(ClockFact::Down(self.generation));
    }
}

impl Handler<ConfigureClock> for Clock {
    type Result = ();
    fn handle(&mut self, consult: ConfigureClock, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.local.set_needed(consult.is_needed);
        if consult.ntp_server == self.server {
            return;
        }
        self.server = consult.ntp_server;
        self.opinion = None;
        self.local.on_opinion(None);
        if let Some(asking) = self.asking.take() {
            ctx.cancel_future(asking);
        }
        self.query(ctx);
    }
}

impl Handler<ReportConditions> for Clock {
    type Result = ();
    fn handle(&mut self, _: ReportConditions, _: &mut Self::Context) {
        let _entered = self.enter();
        self.reports.do_send(ConditionReport(self.local.report(time::now())));
    }
}

impl Handler<Observe> for Clock {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        let _entered = self.enter();
        let judged = self.local.judge(self.kernel);
        let opinion = self.opinion.as_ref();
        self.parent.do_send(ClockFact::Observed(ClockStatus {
            synchronized: judged.synchronized,
            error_seconds: judged.error.as_secs_f64(),
            steps: self.steps,
            ntp_server: self.server.as_ref().map(ToString::to_string),
            ntp_offset_seconds: opinion
                .and_then(|opinion| opinion.as_ref().ok())
                .map(|opinion| seconds(opinion.offset)),
            ntp_error: opinion.and_then(|opinion| opinion.as_ref().err()).map(NtpError::to_string),
        }));
    }
}

impl Handler<Stop> for Clock {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Actor in place of the supervisor.
    struct Parent;

    impl Actor for Parent {
        type Context = Context<Self>;
    }

    impl Handler<ConditionReport> for Parent {
        type Result = ();
        fn handle(&mut self, _: ConditionReport, _: &mut Self::Context) {}
    }

    impl Handler<ClockFact> for Parent {
        type Result = ();
        fn handle(&mut self, _: ClockFact, _: &mut Self::Context) {}
    }

    /// The kernel still reports the error bound from before the suspension.
    #[actix::test]
    async fn clock_is_not_trusted_after_a_suspension_although_its_error_bound_is_small() {
        let (shared, claimed) = (SharedState::new(), Duration::from_millis(1));
        let parent = Parent.start();
        let (facts, reports) = (parent.clone().recipient(), parent.recipient());
        let mut clock = Clock::new(shared.clone(), Some(claimed), facts, reports, 1);
        clock.read();
        assert_eq!(shared.clock_error(), claimed);
        shared.observe(time::now(), time::slept() + Duration::from_secs(600));
        clock.read();
        assert_eq!(shared.clock_error(), UNSYNCHRONISED_ERROR);
    }
}
