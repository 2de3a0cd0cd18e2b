//! Files in `state_dir`: what an agent must know again after a restart.

pub mod anti_replay;
pub mod engine_boots;
pub mod file;
pub mod former_names;
