//! Bookkeeping of a parent actor for its children: the running ones, their generations and their back-off.
//! [`children::Children`] holds any number by key, [`slot::Slot`] at most one.

pub mod children;
pub mod slot;
