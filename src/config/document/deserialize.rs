//! Converts text to a typed document and reports every problem rather than the first. [`parse`] checks the syntax;
//! [`typed`] checks fields and types, and leaves out the parts that are wrong.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::findings::{Findings, Level};

/// Languages in which documents are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Format {
    /// JSON, the language of documents in etcd, also accepted for documents on disk.
    Json,
    /// TOML, the language of the bootstrap file, also accepted for documents on disk.
    Toml,
}

/// Upper bound on the findings about types and fields of a document.
const MAX_FINDINGS: usize = 100;
/// Similarity above which an unknown name is taken for a misspelling of a known one; 1 means equal.
const SIMILAR: f64 = 0.6;

/// Parses a document into a tree. A syntax error gives a single finding, because the rest of the text cannot be
/// interpreted.
pub fn parse(text: &str, format: Format, findings: &mut Findings) -> Option<Value> {
    let parsed = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string()),
        Format::Toml => toml::from_str(text).map_err(|error| {
            let (line, column) = error.span().map_or((0, 0), |span| line_and_column(text, span.start));
            format!("{} at line {line} column {column}", error.message())
        }),
    };
    match parsed {
        Ok(value @ Value::Object(_)) => Some(value),
        Ok(_) => {
            findings.error("", "not an object", "write fields in braces: {\"enabled\": true, ...}");
            None
        }
        Err(problem) => {
            let language = if format == Format::Json { "JSON" } else { "TOML" };
            findings.error("", problem, format!("correct the {language} at that place"));
            None
        }
    }
}

/// Replaces the control characters in all texts of a document by blanks. Printed as they are, a terminal would execute
/// them, or a line would end within a text. Each text with any of them becomes a finding.
pub fn blank_control_characters(value: &mut Value, findings: &mut Findings) {
    blank_below(value, "", findings);
}

fn blank_below(value: &mut Value, path: &str, findings: &mut Findings) {
    match value {
        Value::String(text) if text.contains(char::is_control) => {
            *text = text.replace(char::is_control, " ");
            findings.warning(path, "has control characters, which are read as blanks", "write one line of plain text");
        }
        Value::Array(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                blank_below(item, &format!("{path}[{n}]"), findings);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                blank_below(field, &path, findings);
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Converts a tree to a typed document in which every field has a default. A value that does not fit becomes a
/// finding and is left out, so that the rest is still checked. Unknown fields become findings of level `unknown`.
pub fn typed<T: DeserializeOwned + Default>(value: Value, unknown: Level, findings: &mut Findings) -> T {
    typed_below("", value, unknown, findings)
}

/// Does the same for an object within a document, whose fields are named with `prefix` in findings.
fn typed_below<T: DeserializeOwned + Default>(
    prefix: &str,
    mut value: Value,
    unknown: Level,
    findings: &mut Findings,
) -> T {
    for _ in 0..MAX_FINDINGS {
        let error = match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(document) => return document,
            Err(error) => error,
        };
        let problem = error.inner().to_string();
        let mut path: Vec<PathStep> = error.path().iter().filter_map(PathStep::from_segment).collect();
        // The path of an unknown field ends at its parent or at the field itself, depending on the parser. The
        // message contains the name.
        let is_unknown = problem.starts_with("unknown field");
        if let Some(name) = quoted(&problem).next().filter(|_| is_unknown) {
            let name = PathStep::Key(name.to_owned());
            if path.last() != Some(&name) {
                path.push(name);
            }
        }
        // Unknown fields of maintenance windows are errors: a window with a misspelled matcher would match
        // everything.
        let muting = path.first() == Some(&PathStep::Key("maintenance".to_owned()));
        let level = if is_unknown && !muting { unknown } else { Level::Error };
        let help = help(&problem, level);
        findings.add(level, &format!("{prefix}{}", render(&path)), first_words(&problem), help);
        if !remove(&mut value, &path) {
            if level == Level::Warning {
                findings.error(&format!("{prefix}{}", render(&path)), "must not be null", "remove it");
            }
            return T::default();
        }
    }
    findings.error("", format!("more than {MAX_FINDINGS} findings"), "correct those above first");
    T::default()
}

/// Fields of one document that belong to several structs, to be taken out one struct after the other. Serde's own
/// `flatten` would no longer report unknown fields, nor the location of an error.
pub struct Parts<'a> {
    fields: serde_json::Map<String, Value>,
    /// Names of the fields that were taken, whether the document has them or not.
    known: Vec<&'static str>,
    /// Prefix of the fields in findings, such as `defaults.`.
    prefix: &'a str,
    unknown: Level,
    findings: &'a mut Findings,
}

impl<'a> Parts<'a> {
    /// Begins with all fields of an object. Unknown fields will become findings of level `unknown`.
    pub fn new(value: Value, prefix: &'a str, unknown: Level, findings: &'a mut Findings) -> Self {
        let fields = match value {
            Value::Object(fields) => fields,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                findings.error(prefix.trim_end_matches('.'), "not an object", "write fields in braces: { ... }");
                serde_json::Map::new()
            }
        };
        Parts { fields, known: Vec::new(), prefix, unknown, findings }
    }

    /// Takes the fields of `T`.
    pub fn take<T: DeserializeOwned + Default>(&mut self) -> T {
        self.take_only(field_names::<T>())
    }

    /// Takes those fields of `T` that are named. The others remain, and are unknown unless another struct has them.
    pub fn take_only<T: DeserializeOwned + Default>(&mut self, names: &[&'static str]) -> T {
        self.known.extend(names);
        let taken = names.iter().filter_map(|name| Some(((*name).to_owned(), self.fields.remove(*name)?))).collect();
        self.typed(taken)
    }

    /// Names a field that was taken out before, for the list of known fields.
    pub fn knows(&mut self, name: &'static str) {
        self.known.push(name);
    }

    /// Takes the fields of `T`, to which all other fields must belong.
    pub fn rest<T: DeserializeOwned + Default>(mut self) -> T {
        let rest = self.take();
        for name in std::mem::take(&mut self.fields).keys() {
            let field = format!("{}{name}", self.prefix);
            let help = help_for_unknown(name, &self.known, self.unknown);
            self.findings.add(self.unknown, &field, format!("unknown field `{name}`"), help);
        }
        rest
    }

    fn typed<T: DeserializeOwned + Default>(&mut self, fields: serde_json::Map<String, Value>) -> T {
        typed_below(self.prefix, Value::Object(fields), self.unknown, self.findings)
    }
}

/// Returns the names of the fields that `T` deserializes, in the order of their definition.
pub fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    struct FieldNames<'a>(&'a mut &'static [&'static str]);
    impl<'de> serde::Deserializer<'de> for FieldNames<'_> {
        type Error = serde::de::value::Error;
        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("not a struct"))
        }
        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("only the names are of interest"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    // The error ends the deserialization once the names are known.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

#[derive(Clone, Debug, PartialEq)]
enum PathStep {
    Key(String),
    Index(usize),
}

impl PathStep {
    fn from_segment(segment: &serde_path_to_error::Segment) -> Option<PathStep> {
        use serde_path_to_error::Segment;
        match segment {
            Segment::Map { key } => Some(PathStep::Key(key.clone())),
            Segment::Seq { index } => Some(PathStep::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

fn render(path: &[PathStep]) -> String {
    struct Path<'a>(&'a [PathStep]);
    impl fmt::Display for Path<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (n, step) in self.0.iter().enumerate() {
                match step {
                    PathStep::Key(key) if n == 0 => f.write_str(key)?,
                    PathStep::Key(key) => write!(f, ".{key}")?,
                    PathStep::Index(index) => write!(f, "[{index}]")?,
                }
            }
            Ok(())
        }
    }
    Path(path).to_string()
}

/// Removes the value at `path`. Returns false when nothing can be removed there.
fn remove(value: &mut Value, path: &[PathStep]) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    let mut parent = &mut *value;
    for step in above {
        let child = match step {
            PathStep::Key(key) => parent.get_mut(key),
            PathStep::Index(index) => parent.get_mut(index),
        };
        let Some(child) = child else { return false };
        parent = child;
    }
    match (parent, last) {
        (Value::Object(fields), PathStep::Key(key)) => fields.remove(key).is_some(),
        (Value::Array(items), PathStep::Index(index)) if *index < items.len() => {
            // The element is emptied, not removed, so that the indices of its neighbours stay valid in later
            // findings.
            let emptied = Value::Object(serde_json::Map::new());
            std::mem::replace(&mut items[*index], emptied.clone()) != emptied
        }
        _ => false,
    }
}

fn help(problem: &str, level: Level) -> String {
    let mut names = quoted(problem);
    if problem.starts_with("unknown field") || problem.starts_with("unknown variant") {
        let given = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        return help_for_unknown(given, &known, level);
    }
    if problem.contains("duration") {
        return "write a number with its unit, such as \"500ms\", \"2s\" or \"10m\"".to_owned();
    }
    if problem.contains("IP address syntax") {
        return "write an IP address without a port, such as \"10.0.0.5\"".to_owned();
    }
    match problem.rsplit_once("expected ") {
        Some((_, "a boolean")) => "write true or false".to_owned(),
        Some((_, "u16")) => "write a whole number from 0 to 65535".to_owned(),
        Some((_, "u8" | "u32" | "u64" | "i64" | "usize")) => "write a whole number in its range".to_owned(),
        Some((_, expected)) if expected.contains("array of length 2") => {
            "write two names: [\"app1\", \"db1\"]".to_owned()
        }
        Some((_, "a map")) => "write fields in braces: { ... }".to_owned(),
        Some((_, "IP address")) => "write an IP address without a port, such as \"10.0.0.5\"".to_owned(),
        Some((_, "path string")) => "write a path in quotes".to_owned(),
        Some((_, "a string")) => "write a text in quotes".to_owned(),
        Some((_, "a sequence")) => "write a list: [ ... ]".to_owned(),
        Some((_, expected)) if expected.starts_with("struct") => "write an object: { ... }".to_owned(),
        Some((_, expected)) => format!("write {expected}"),
        None => "correct the value".to_owned(),
    }
}

/// Returns the fix for a name that is not one of the known ones: the closest of them, or all.
fn help_for_unknown(given: &str, known: &[&str], level: Level) -> String {
    let closest = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(given, name), *name))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match (closest, level) {
        (Some((_, name)), _) => format!("did you mean `{name}`?"),
        (None, Level::Warning) => "it is ignored; known fields: ".to_owned() + &known.join(", "),
        (None, Level::Error) => "use one of: ".to_owned() + &known.join(", "),
    }
}

/// Cuts the list of expected names that serde appends after the first comma. The recommended fix presents them
/// better.
fn first_words(problem: &str) -> String {
    match problem.split_once(", expected") {
        Some((first, _)) => first.to_owned(),
        None => problem.to_owned(),
    }
}

/// Returns the words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::time::Duration;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        #[serde(with = "humantime_serde")]
        send_every: Duration,
        enabled: bool,
        port: u16,
        inner: Vec<Inner>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        count: u8,
    }

    fn read(text: &str) -> (Sample, Vec<String>) {
        let mut findings = Findings::about("x.json");
        let value = parse(text, Format::Json, &mut findings).unwrap_or(Value::Object(Default::default()));
        let sample = typed(value, Level::Warning, &mut findings);
        (sample, findings.into_vec().iter().map(|finding| format!("{} {finding}", finding.level)).collect())
    }

    #[test]
    fn all_findings_are_reported_and_valid_fields_are_read() {
        let (sample, findings) = read(
            r#"{"send_every":"5 parsecs","enabld":true,"port":70000,"inner":[{"count":1},{"count":"x","zzz":1},7],"enabled":true}"#,
        );
        assert!(sample.enabled);
        assert_eq!(sample.inner[0], Inner { count: 1 });
        insta::assert_snapshot!(findings.join("\n"));
    }

    #[test]
    fn syntax_errors_name_line_and_column() {
        let mut findings = Findings::about("x.toml");
        assert_eq!(parse("a = 1\nb = = 2", Format::Toml, &mut findings), None);
        assert_eq!(parse("{\"a\": }", Format::Json, &mut findings), None);
        assert_eq!(parse("[]", Format::Json, &mut findings), None);
        let texts: Vec<_> = findings.into_vec().iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn uncorrectable_value_ends_with_a_single_finding() {
        let (sample, findings) = read(r#"{"inner":{"not":"a list"}}"#);
        assert_eq!(sample, Sample::default());
        assert_eq!(findings.len(), 1);
    }
}
