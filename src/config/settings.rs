//! Settings of a test that test documents, sets and the fleet's defaults have in common.
//!
//! The settings are flat fields of each document, because serde cannot flatten a shared struct and still report
//! unknown fields. They are listed once in `with_test_settings!`, and the document types are defined from that list.

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Passes the list of settings on to the macro `$define`, which defines a type with them.
macro_rules! with_test_settings {
    ($define:ident! { $($document:tt)* }) => {
        $define! {
            $($document)*
            settings {
                /// Interval between two probes of the sender. Defaults to half of `expect_every`.
                #[serde(with = "crate::config::duration::optional")]
                send_every: Option<std::time::Duration>,
                /// Timeout of the receiver: at least a probe is expected within each such period. Defaults to twice
                /// `send_every`.
                #[serde(with = "crate::config::duration::optional")]
                expect_every: Option<std::time::Duration>,
                /// Limit of the one-way delay. A longer delay raises an alarm.
                #[serde(with = "crate::config::duration::optional")]
                max_latency: Option<std::time::Duration>,
                /// Limit of the one-way delay for clearing. A raised latency alarm clears only at delays within it.
                /// Defaults to `max_latency`.
                #[serde(with = "crate::config::duration::optional")]
                clear_latency: Option<std::time::Duration>,
                /// Limit of the delay above its own baseline. A larger increase raises an alarm. Synchronized clocks
                /// are not required.
                #[serde(with = "crate::config::duration::optional")]
                max_latency_above_baseline: Option<std::time::Duration>,
                /// Limit of the round-trip delay in mode `two_way`. A longer one raises an alarm. Defaults to twice
                /// `max_latency`.
                #[serde(with = "crate::config::duration::optional")]
                max_round_trip: Option<std::time::Duration>,
                /// Limit of the share of lost probes, written as `"2%"` or `0.02`. A larger share raises an alarm.
                #[serde(deserialize_with = "crate::config::settings::share")]
                max_loss: Option<f64>,
                /// Length of the window in which loss and delay variation are judged.
                #[serde(with = "crate::config::duration::optional")]
                loss_window: Option<std::time::Duration>,
                /// Limit of the delay variation between consecutive probes (RFC 3393). An alarm is raised when more
                /// than 5 % of the probes exceed it within `loss_window`.
                #[serde(with = "crate::config::duration::optional")]
                max_jitter: Option<std::time::Duration>,
                /// Direction of measurement: one-way, or two-way with answers from the reflector.
                mode: Option<crate::pure::test::Mode>,
                /// Number of source ports to send from. Different ports exercise different equal-cost paths, which
                /// are then judged separately.
                flows: Option<u8>,
                /// Differentiated services code points of the probes. A probe is sent in each interval for every
                /// combination of port, code point and size.
                #[serde(deserialize_with = "crate::config::settings::one_or_many")]
                dscp: Option<Vec<u8>>,
                /// UDP payload size in octets of additional large probes, which must not be fragmented.
                size: Option<u16>,
                /// Network interface that probes leave by, regardless of the routing table.
                from_interface: Option<String>,
                /// Signs probes with the fleet's `active_key` and rejects unsigned probes.
                keyed: Option<bool>,
                /// Ids of keys to use instead of `active_key`. The first one signs; all are accepted.
                #[serde(deserialize_with = "crate::config::settings::one_or_many")]
                key: Option<Vec<u8>>,
                /// Packet format of the probes: STAMP (RFC 8762) or the JSON of the original program.
                wire: Option<crate::pure::test::Wire>,
            }
            alarm {
                raise_after: Option<u32>,
                raise_out_of: Option<u32>,
                clear_after: Option<u32>,
                clear_out_of: Option<u32>,
                #[serde(with = "crate::config::duration::optional")]
                startup_grace: Option<std::time::Duration>,
                #[serde(with = "crate::config::duration::optional")]
                max_pause: Option<std::time::Duration>,
                #[serde(with = "crate::config::duration::optional")]
                hold_down: Option<std::time::Duration>,
                #[serde(with = "crate::config::duration::optional")]
                hold_down_max: Option<std::time::Duration>,
                flap_high: Option<u32>,
                flap_low: Option<u32>,
                #[serde(with = "crate::config::duration::optional")]
                flap_window: Option<std::time::Duration>,
            }
        }
    };
}

/// Defines a document type with its own fields and the shared settings.
macro_rules! define_document {
    (
        $(#[$meta:meta])* pub struct $name:ident {
            $($(#[$own_meta:meta])* pub $own:ident: $own_type:ty = $default:expr,)*
        }
        settings { $($(#[$setting_meta:meta])* $setting:ident: $setting_type:ty,)* }
        alarm { $($(#[$alarm_meta:meta])* $alarm:ident: $alarm_type:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$own_meta])* pub $own: $own_type,)*
            $($(#[$setting_meta])* pub $setting: $setting_type,)*
            $(
                /// Overrides the field of [`AlarmSettings`](crate::config::central::AlarmSettings) that has the same
                /// name.
                $(#[$alarm_meta])*
                pub $alarm: $alarm_type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($own: $default,)* $($setting: None,)* $($alarm: None,)* }
            }
        }

        impl $name {
            /// Returns the settings by which tests are run and judged.
            pub fn settings(&self) -> crate::config::central::TestDefaults {
                crate::config::central::TestDefaults { $($setting: self.$setting.clone(),)* }
            }

            /// Returns the alarm settings of this document, without those of other levels.
            pub fn alarm(&self) -> crate::config::central::AlarmSettings {
                crate::config::central::AlarmSettings { $($alarm: self.$alarm.clone(),)* ..Default::default() }
            }

            /// Returns the document with its settings and alarm settings replaced.
            #[must_use]
            pub fn with(
                self,
                settings: crate::config::central::TestDefaults,
                alarm: crate::config::central::AlarmSettings,
            ) -> Self {
                $name { $($setting: settings.$setting,)* $($alarm: alarm.$alarm,)* ..self }
            }
        }
    };
}

/// Defines a type that contains the shared settings only.
macro_rules! define_defaults {
    (
        $(#[$meta:meta])* pub struct $name:ident;
        settings { $($(#[$setting_meta:meta])* $setting:ident: $setting_type:ty,)* }
        alarm { $($alarm:tt)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$setting_meta])* pub $setting: $setting_type,)* }

        impl $name {
            /// Returns these settings, with unset ones taken from `above`.
            #[must_use]
            pub fn or(self, above: &$name) -> $name {
                $name { $($setting: self.$setting.or_else(|| above.$setting.clone()),)* }
            }
        }
    };
}

pub(super) use {define_defaults, define_document, with_test_settings};

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
    struct Wanted(f64);
    impl<'de> Deserialize<'de> for Wanted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Share).map(Wanted)
        }
    }
    let share: Option<Wanted> = Option::deserialize(deserializer)?;
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
    struct Wanted(Vec<u8>);
    impl<'de> Deserialize<'de> for Wanted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(OneOrMany).map(Wanted)
        }
    }
    let numbers: Option<Wanted> = Option::deserialize(deserializer)?;
    Ok(numbers.map(|numbers| numbers.0))
}

#[cfg(test)]
mod tests {
    use crate::config::central::TestDefaults;
    use serde_json::json;

    #[test]
    fn shares_and_number_lists_accept_their_common_notations() {
        let read = |value: serde_json::Value| serde_json::from_value::<TestDefaults>(value);
        for (written, meant) in [(json!("2%"), 0.02), (json!("0.5 %"), 0.005), (json!(0.1), 0.1), (json!(0), 0.0)] {
            let loss = read(json!({"max_loss": written})).unwrap().max_loss.unwrap();
            assert!((loss - meant).abs() < 1e-12, "{written}");
        }
        for wrong in [json!("2"), json!("101%"), json!(2), json!(-0.1), json!("-1%"), json!(true)] {
            assert!(read(json!({"max_loss": wrong})).is_err(), "{wrong}");
        }
        assert_eq!(read(json!({"dscp": 46})).unwrap().dscp, Some(vec![46]));
        assert_eq!(read(json!({"dscp": [0, 46]})).unwrap().dscp, Some(vec![0, 46]));
        assert!(read(json!({"dscp": 256})).is_err() && read(json!({"dscp": [-1]})).is_err());
    }
}
