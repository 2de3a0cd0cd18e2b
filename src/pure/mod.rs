//! Pure code: decisions without a clock, a socket or an actor. Time is passed in as the argument `now`.
//!
//! State machines receive their inputs through `on_*` methods, publish `next_deadline()`, and return actions or a
//! named reason. Actors own them and execute the results. Each folder is one subject; a folder uses those above it in
//! this list: `base`, `test`, `stamp`, `measure`, `clock`, `judge`, `alarm`, `notify`, `status`.

pub mod alarm;
pub mod base;
pub mod clock;
pub mod judge;
pub mod measure;
pub mod notify;
pub mod stamp;
pub mod status;
pub mod test;
