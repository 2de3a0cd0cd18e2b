//! Notations of numbers in documents: shares, rates, and a number in place of a list.

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Deserializes a share of a whole, written as `"2%"` or `0.02`.
pub fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    struct Share;
    impl Visitor<'_> for Share {
        type Value = f64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a share such as \"2%\" or 0.02")
        }
        fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
            match (0.0..=1.0).contains(&number) {
                true => Ok(number),
                false => Err(E::invalid_value(Unexpected::Float(number), &self)),
            }
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
            match number {
                0 => Ok(0.0),
                1 => Ok(1.0),
                _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
            }
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
            let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
            percent
                .map(|percent| percent / 100.0)
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    struct ParsedShare(f64);
    impl<'de> Deserialize<'de> for ParsedShare {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Share).map(ParsedShare)
        }
    }
    let share: Option<ParsedShare> = Option::deserialize(deserializer)?;
    Ok(share.map(|share| share.0))
}

/// Deserializes a number or a list of numbers, such as `46` or `[0, 46]`.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    struct OneOrMany;
    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number from 0 to 255 or a list of such numbers")
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<Vec<u8>, E> {
            u8::try_from(number)
                .map(|number| vec![number])
                .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<Vec<u8>, E> {
            u8::try_from(number)
                .map(|number| vec![number])
                .map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u8>, A::Error> {
            let mut numbers = Vec::new();
            while let Some(number) = items.next_element()? {
                numbers.push(number);
            }
            Ok(numbers)
        }
    }
    struct ParsedNumbers(Vec<u8>);
    impl<'de> Deserialize<'de> for ParsedNumbers {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(OneOrMany).map(ParsedNumbers)
        }
    }
    let numbers: Option<ParsedNumbers> = Option::deserialize(deserializer)?;
    Ok(numbers.map(|numbers| numbers.0))
}

/// Deserializes a rate in changes per minute, written as `30` or `"30/min"`.
pub fn per_minute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct Rate;
    impl Visitor<'_> for Rate {
        type Value = u32;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number of changes a minute, such as 30 or \"30/min\"")
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
            let number = text.trim().strip_suffix("/min").unwrap_or(text).trim().parse();
            number.map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    struct PerMinute(u32);
    impl<'de> Deserialize<'de> for PerMinute {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Rate).map(PerMinute)
        }
    }
    let number: Option<PerMinute> = Option::deserialize(deserializer)?;
    Ok(number.map(|number| number.0))
}

#[cfg(test)]
mod tests {
    use crate::config::document::settings::{CommonSettings, StampSettings};
    use serde_json::json;

    #[test]
    fn shares_and_number_lists_accept_their_common_notations() {
        let read = |value: serde_json::Value| serde_json::from_value::<CommonSettings>(value);
        let read_stamp = |value: serde_json::Value| serde_json::from_value::<StampSettings>(value);
        for (written, meant) in [(json!("2%"), 0.02), (json!("0.5 %"), 0.005), (json!(0.1), 0.1), (json!(0), 0.0)] {
            let loss = read(json!({"max_loss": written})).unwrap().max_loss.unwrap();
            assert!((loss - meant).abs() < 1e-12, "{written}");
        }
        for wrong in [json!("2"), json!("101%"), json!(2), json!(-0.1), json!("-1%"), json!(true)] {
            assert!(read(json!({"max_loss": wrong})).is_err(), "{wrong}");
        }
        assert_eq!(read_stamp(json!({"dscp": 46})).unwrap().dscp, Some(vec![46]));
        assert_eq!(read_stamp(json!({"dscp": [0, 46]})).unwrap().dscp, Some(vec![0, 46]));
        assert!(read_stamp(json!({"dscp": 256})).is_err() && read_stamp(json!({"dscp": [-1]})).is_err());
    }
}
