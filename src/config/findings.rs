//! What is wrong, where, and the way out.

use std::fmt;

use serde::Serialize;

/// Whether a finding keeps something from being in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// What it is about is not in force.
    Error,
    /// It is in force, and probably not what was meant.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Error => "error",
            Level::Warning => "warning",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// The document and the field: `tests/host-a/db.json: send_every`.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub way_out: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.problem, self.way_out)
    }
}

impl Finding {
    /// For people, in two lines.
    pub fn write_long(&self, f: &mut impl fmt::Write) -> fmt::Result {
        writeln!(f, "{:7}  {}: {}", self.level, self.place, self.problem)?;
        writeln!(f, "{:7}  → {}", "", self.way_out)
    }
}

/// Collects findings about one document.
#[derive(Debug)]
pub struct Findings {
    place: String,
    found: Vec<Finding>,
}

impl Findings {
    /// About the document at `place`.
    pub fn about(place: impl Into<String>) -> Self {
        Findings { place: place.into(), found: Vec::new() }
    }

    /// Something at `field` (empty: the document as a whole) keeps it from being in force.
    pub fn error(&mut self, field: &str, problem: impl Into<String>, way_out: impl Into<String>) {
        self.add(Level::Error, field, problem.into(), way_out.into());
    }

    /// Something at `field` is probably not what was meant.
    pub fn warning(&mut self, field: &str, problem: impl Into<String>, way_out: impl Into<String>) {
        self.add(Level::Warning, field, problem.into(), way_out.into());
    }

    /// Adds a finding of either level.
    pub fn add(&mut self, level: Level, field: &str, problem: String, way_out: String) {
        let place = if field.is_empty() { self.place.clone() } else { format!("{}: {field}", self.place) };
        self.found.push(Finding { level, place, problem, way_out });
    }

    /// Whether anything keeps the document from being in force.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|finding| finding.level == Level::Error)
    }

    /// Everything that keeps the document from being in force, as one text each.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().filter(|finding| finding.level == Level::Error)
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Finding> {
        self.found
    }
}
