//! Tests as every layer sees them: their ids, the facts that notifications show, and the choices of their documents.

pub mod facts;
pub mod id;
pub mod role;
pub mod spec;
