//! What actors have in common: bookkeeping of a parent for its children ([`children::Children`] by key, [`slot::Slot`] for
//! at most one), the timer to the next deadline, and the span of an actor.

pub mod children;
pub mod deadline;
pub mod slot;
pub mod spanned;
