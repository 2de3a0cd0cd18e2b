//! The clock: the quality of the local clock once a second, and its steps.
//!
//! It owns nothing that outlives it, and writes its readings where senders and listeners see them.
//! It stops when the supervisor says so or when it panics; the supervisor rebuilds it.

use std::time::Duration;

use actix::prelude::*;
use tracing::warn;

use crate::io::adjtimex::clock_quality;
use crate::io::gauges::Gauges;
use crate::io::time;
use crate::messages::{ClockFact, Generation, Observe, Stop};
use crate::pure::clock_error::{ClockQuality, StepDetector};
use crate::pure::status::ClockStatus;
use crate::pure::time::seconds;

const READ_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Clock {
    gauges: Gauges,
    parent: Recipient<ClockFact>,
    generation: Generation,
    quality: ClockQuality,
    detector: StepDetector,
    steps: u64,
}

impl Clock {
    /// A clock that is read from now on.
    pub fn new(gauges: Gauges, parent: Recipient<ClockFact>, generation: Generation) -> Self {
        let detector = StepDetector::new(time::now());
        Clock { gauges, parent, generation, quality: ClockQuality::UNKNOWN, detector, steps: 0 }
    }

    fn read(&mut self) {
        self.quality = clock_quality();
        self.gauges.set_clock(self.quality);
        if let Some(step) = self.detector.on_reading(time::now()) {
            self.steps += 1;
            warn!(step_seconds = seconds(step), "the wall clock stepped");
        }
    }
}

impl Actor for Clock {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.read();
        ctx.run_interval(READ_EVERY, |clock, _| clock.read());
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(ClockFact::Down(self.generation));
    }
}

impl Handler<Observe> for Clock {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        self.parent.do_send(ClockFact::Observed(ClockStatus {
            synchronised: self.quality.synchronised,
            error_seconds: self.quality.error.as_secs_f64(),
            steps: self.steps,
        }));
    }
}

impl Handler<Stop> for Clock {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
