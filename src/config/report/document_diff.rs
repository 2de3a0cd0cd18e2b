//! Compares two documents or two plans field by field. [`differences`] returns the parts that were created, changed
//! or removed, with secrets masked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Difference between the old and the new version of a part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Kind of the change: creation, modification or removal.
    pub change: DocumentChange,
    /// Name of the part that differs.
    pub what: String,
    /// Fields with different values. Empty when the part was created or removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// Kinds of changes between two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentChange {
    /// The part exists on the new side only.
    Create,
    /// The part exists on both sides, with different contents.
    Change,
    /// The part exists on the old side only.
    Remove,
}

impl fmt::Display for DocumentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DocumentChange::Create => "create",
            DocumentChange::Change => "change",
            DocumentChange::Remove => "remove",
        })
    }
}

/// Field whose value differs. `None` on a side means that the field is absent there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// Path of the field within its part, such as `from.groups[0]`.
    pub field: String,
    /// Value of the field on the old side, with secrets masked.
    pub before: Option<Value>,
    /// Value of the field on the new side, with secrets masked.
    pub after: Option<Value>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), ToString::to_string);
        write!(f, "{}: {} → {}", self.field, shown(&self.before), shown(&self.after))
    }
}

/// Returns the changes that lead from `before` to `after`. Parts are matched by their names.
pub fn differences(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<Difference> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let difference = |name: &String| {
        let (change, fields) = match (before.get(name), after.get(name)) {
            (None, _) => (DocumentChange::Create, Vec::new()),
            (_, None) => (DocumentChange::Remove, Vec::new()),
            (Some(before), Some(after)) => {
                let mut fields = Vec::new();
                compare("", Some(before), Some(after), &mut fields);
                if fields.is_empty() {
                    return None;
                }
                (DocumentChange::Change, fields)
            }
        };
        Some(Difference { change, what: name.clone(), fields })
    };
    names.into_iter().filter_map(difference).collect()
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<FieldChange>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            names.into_iter().for_each(|name| compare(&below(name), old.get(name), new.get(name), found));
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (n, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}[{n}]"), Some(old), Some(new), found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            let shown = |value: Option<&Value>| value.map(|value| without_secrets(path, value));
            found.push(FieldChange { field: path.to_owned(), before: shown(before), after: shown(after) });
        }
    }
}

/// Returns the value with embedded secrets, such as an SNMP community, replaced by `***`.
fn without_secrets(name: &str, value: &Value) -> Value {
    const SECRETS: [&str; 4] = ["community", "password", "secret", "token"];
    let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let names_a_place = last.ends_with("_file") || last.ends_with("_env");
    match value {
        Value::String(_) if !names_a_place && SECRETS.iter().any(|secret| last.contains(secret)) => {
            Value::String("***".to_owned())
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), without_secrets(name, value))).collect()
        }
        Value::Array(items) => items.iter().map(|item| without_secrets(name, item)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Writes the differences as human-readable lines.
pub fn write_differences(f: &mut impl fmt::Write, differences: &[Difference]) -> fmt::Result {
    for difference in differences {
        writeln!(f, "  {:6}  {}", difference.change, difference.what)?;
        for field in &difference.fields {
            writeln!(f, "          {field}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_masked_in_differences() {
        let document = |sinks: Value| BTreeMap::from([("config".to_owned(), json!({"sinks": sinks}))]);
        let sink = |word: &str| json!({"name": "noc", "community": word, "auth_password_file": "/etc/x"});
        for (before, after) in [
            (json!([sink("hidden")]), json!([sink("hiding")])),
            (json!([sink("hidden")]), json!([sink("hidden"), sink("hiding")])),
        ] {
            let mut text = String::new();
            write_differences(&mut text, &differences(&document(before), &document(after))).unwrap();
            assert!(text.contains("***") && !text.contains("hid"), "{text}");
        }
    }

    #[test]
    fn differences_list_every_field_that_differs() {
        let before = BTreeMap::from([
            ("a".to_owned(), json!({"x": 1, "list": [1, {"y": 2}]})),
            ("b".to_owned(), json!({})),
            ("same".to_owned(), json!({"x": [1]})),
        ]);
        let after = BTreeMap::from([
            ("a".to_owned(), json!({"list": [1, {"y": 3}], "z": "new"})),
            ("c".to_owned(), json!({})),
            ("same".to_owned(), json!({"x": [1]})),
        ]);
        let mut text = String::new();
        write_differences(&mut text, &differences(&before, &after)).unwrap();
        insta::assert_snapshot!(text);
    }
}
