//! Bookkeeping of a parent actor for its children: the running ones, their generations and their back-off. [`Children`]
//! holds any number by key, [`Slot`] at most one.

mod children;
mod slot;

pub use children::Children;
pub use slot::Slot;
