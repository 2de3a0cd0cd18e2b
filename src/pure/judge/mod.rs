//! Judgement: from probes and timeouts to the conditions of a test. `session` holds one test at the host that judges
//! it, `condition` is the state machine of one condition, `sender_health` judges whether probes can leave.

pub mod condition;
pub mod probe_result;
pub mod sender_health;
pub mod session;
