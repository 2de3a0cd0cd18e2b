//! Timer of an actor that has to act at its next deadline, whichever of its parts that belongs to.

use actix::prelude::*;

use super::spanned::Spanned;
use crate::io::time;
use crate::pure::base::time::Moment;

/// Pending timer of an actor, with the moment for which it is set.
#[derive(Debug, Default)]
pub struct DeadlineTimer(Option<(Moment, SpawnHandle)>);

/// Actor with one timer for all its deadlines.
pub trait Deadlines: Actor<Context = Context<Self>> + Spanned {
    /// Returns the timer.
    fn timer(&mut self) -> &mut DeadlineTimer;

    /// Acts on everything that is due, and sets the timer again.
    fn on_deadline(&mut self, ctx: &mut Context<Self>);

    /// Sets the timer to `next`, unless it is set to an earlier or equal moment.
    fn set_timer(&mut self, next: Moment, ctx: &mut Context<Self>) {
        match self.timer().0 {
            Some((set, _)) if set <= next => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let handle = ctx.run_later(next.since(time::now().moment), |actor, ctx| {
            let _entered = actor.enter();
            actor.timer().0 = None;
            actor.on_deadline(ctx);
        });
        self.timer().0 = Some((next, handle));
    }
}
