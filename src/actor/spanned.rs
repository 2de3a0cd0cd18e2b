//! Span of an actor, in which its handlers run, so that each line of the log names the actor it comes from.

use tracing::Span;
use tracing::span::EnteredSpan;

/// Actor with a span of its own.
pub trait Spanned {
    /// Returns the span of the actor.
    fn span(&self) -> &Span;

    /// Enters the span until the returned guard is dropped.
    fn enter(&self) -> EnteredSpan {
        self.span().clone().entered()
    }
}
