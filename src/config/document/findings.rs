//! Findings about documents: the problem, its location and the recommended fix. [`Findings`] collects them for a
//! document, so that all problems are reported at once.

use std::fmt;

use serde::Serialize;

/// Severity of a finding: an error disables the affected part, a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The affected part is not in force.
    Error,
    /// The affected part is in force but probably not intended.
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

/// Problem in a document, with location and recommended fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Severity of the problem: error or warning.
    pub level: Level,
    /// Location: the document and the field, such as `tests/host-a/db.json: send_every`.
    pub location: String,
    /// Description of the problem, without its location.
    pub problem: String,
    /// Recommended fix, phrased as an instruction such as `write "1m" or more`.
    pub help: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.location, self.problem, self.help)
    }
}

impl Finding {
    /// Writes the finding in two human-readable lines: the problem and the recommended fix.
    pub fn write_long(&self, f: &mut impl fmt::Write) -> fmt::Result {
        writeln!(f, "{:7}  {}: {}", self.level, self.location, self.problem)?;
        writeln!(f, "{:7}  → {}", "", self.help)
    }
}

/// Collector of the findings about a single document.
#[derive(Debug)]
pub struct Findings {
    location: String,
    found: Vec<Finding>,
}

impl Findings {
    /// Creates a collector for the document at `place`, which prefixes the location of each finding.
    pub fn about(place: impl Into<String>) -> Self {
        Findings { location: place.into(), found: Vec::new() }
    }

    /// Adds an error at `field`, which keeps the document from being in force. An empty `field` means the whole
    /// document.
    pub fn error(&mut self, field: &str, problem: impl Into<String>, help: impl Into<String>) {
        self.add(Level::Error, field, problem.into(), help.into());
    }

    /// Adds a warning at `field`, for a value that is valid but probably not intended.
    pub fn warning(&mut self, field: &str, problem: impl Into<String>, help: impl Into<String>) {
        self.add(Level::Warning, field, problem.into(), help.into());
    }

    /// Adds a finding of the given level at `field`.
    pub fn add(&mut self, level: Level, field: &str, problem: String, help: String) {
        let place = if field.is_empty() { self.location.clone() } else { format!("{}: {field}", self.location) };
        // Names of fields and values come from documents, and may hold characters that a terminal would execute.
        let [location, problem, help] = [place, problem, help].map(|text| text.replace(char::is_control, " "));
        self.found.push(Finding { level, location, problem, help });
    }

    /// Returns true if any error was added.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|finding| finding.level == Level::Error)
    }

    /// Returns the findings that are errors, in the order in which they were added.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().filter(|finding| finding.level == Level::Error)
    }

    /// Returns the findings, consuming the collector.
    pub fn into_vec(self) -> Vec<Finding> {
        self.found
    }
}
