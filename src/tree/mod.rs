//! What a parent needs to keep its children: who lives, who failed, and when he is rebuilt.

mod children;
mod slot;

pub use children::Children;
pub use slot::Slot;
