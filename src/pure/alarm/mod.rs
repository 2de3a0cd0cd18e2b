//! Alarms of one agent: what is raised now, what explains what, and what is suppressed. `engine` combines the other
//! modules for the alarm actor.

pub mod cause;
pub mod change;
pub mod correlation;
pub mod engine;
pub mod explanations;
pub mod fault_group;
pub mod faults;
pub mod inventory;
pub mod key;
pub mod list;
pub mod notification;
pub mod shelving;
