//! Deserializes durations in the notation of humantime, such as `1h 30m`. Values above one year are rejected, so that
//! later arithmetic cannot overflow.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IntoDeserializer};

/// Upper bound for every duration in a document: a leap year.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Upper bound on digits in a number. The humantime crate itself overflows on much longer numbers.
const LONGEST_NUMBER: usize = 9;
const LONGEST_TEXT: usize = 64;

/// Deserializes a mandatory duration. For use with `#[serde(with = "duration")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = Text::deserialize(deserializer)?.0;
    parse(&text)
}

fn parse<E: Error>(text: &str) -> Result<Duration, E> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > LONGEST_TEXT || digits > LONGEST_NUMBER {
        return Err(E::custom("a duration of more than a year"));
    }
    let text: serde::de::value::StrDeserializer<'_, E> = text.into_deserializer();
    let duration: Duration = humantime_serde::deserialize(text)?;
    if duration > LONGEST {
        return Err(E::custom("a duration of more than a year"));
    }
    Ok(duration)
}

/// Text in place of a duration. Any other type gives an error that mentions a duration.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Deserializes an optional duration. For use with `#[serde(with = "duration::optional")]`.
pub mod optional {
    use serde::{Serialize as _, Serializer};

    use super::{Deserialize, Deserializer, Duration, Text, parse};

    /// Returns `None` for an omitted or null field.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text: Option<Text> = Option::deserialize(deserializer)?;
        text.map(|text| parse(&text.0)).transpose()
    }

    /// Writes the duration in the notation that documents use.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(|duration| humantime::format_duration(duration).to_string()).serialize(serializer)
    }
}

/// Deserializes an optional list of durations. For use with `#[serde(with = "duration::list")]`.
pub mod list {
    use serde::{Serialize as _, Serializer};

    use super::{Deserialize, Deserializer, Duration, Text, parse};

    /// Returns `None` for an omitted or null field.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Duration>>, D::Error> {
        let texts: Option<Vec<Text>> = Option::deserialize(deserializer)?;
        texts.map(|texts| texts.iter().map(|text| parse(&text.0)).collect()).transpose()
    }

    /// Writes the durations in the notation that documents use.
    pub fn serialize<S: Serializer>(durations: &Option<Vec<Duration>>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |duration: &Duration| humantime::format_duration(*duration).to_string();
        durations.as_ref().map(|durations| durations.iter().map(text).collect::<Vec<_>>()).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Duration, String> {
        parse::<serde::de::value::Error>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn durations_up_to_a_year_are_accepted() {
        assert_eq!(read("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(read("1h 30m"), Ok(Duration::from_secs(5400)));
        for text in ["2 years", "300000000000 years", "18446744073709551615s 1000ms", "999999999 years 999999999 years"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in "[0-9a-z ]{0,80}") {
            let _ = read(&text);
        }
    }
}
