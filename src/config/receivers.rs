//! Whom this host tells of its alarms, and how each of them wants to be told.

use std::time::Duration;

use super::central::AlarmSettings;
use super::sinks::{SinkConfig, SinkKind, SnmpMode, SnmpProfile};
use crate::pure::ledger::{Assurance, Detail, FirstUp, Manner, Parting, Scope, StormSettings};

/// One receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkPlan {
    /// As configured.
    pub config: SinkConfig,
    /// How it is told, and what.
    pub manner: Manner,
    /// What becomes of what it was told beyond that.
    pub parting: Parting,
}

/// What the alarm settings say of telling.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    /// When plain traps are sent again.
    pub trap_repeat: Vec<Duration>,
    /// What stands is told again this often; zero: never.
    pub renotify: Duration,
    /// When there is a storm.
    pub storm: StormSettings,
}

/// A lost raise is made good within a minute, a lost repeat within five.
const TRAP_REPEAT: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];
/// Nobody forgets within a shift what still stands.
const RENOTIFY: Duration = Duration::from_secs(4 * 3600);
const STORM: StormSettings = StormSettings {
    storm_on: 20,
    storm_calm: 30,
    summary_interval: Duration::from_secs(60),
    storm_hold_max: Duration::from_secs(600),
};
/// As Prometheus does: an Alertmanager forgets after five minutes.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
const CLEARED_FOR: Duration = Duration::from_secs(300);
/// Alarms in one request.
const ALARMS_IN_A_REQUEST: usize = 100;
/// Alarms in one mail.
const ALARMS_IN_A_MAIL: usize = 500;

impl Telling {
    /// Of these settings.
    pub fn of(alarm: &AlarmSettings) -> Self {
        Telling {
            trap_repeat: alarm.trap_repeat.clone().unwrap_or_else(|| TRAP_REPEAT.to_vec()),
            renotify: alarm.renotify.unwrap_or(RENOTIFY),
            storm: StormSettings {
                storm_on: alarm.storm_on.unwrap_or(STORM.storm_on),
                storm_calm: alarm.storm_calm.unwrap_or(STORM.storm_calm),
                summary_interval: alarm.summary_interval.unwrap_or(STORM.summary_interval),
                storm_hold_max: alarm.storm_hold_max.unwrap_or(STORM.storm_hold_max),
            },
        }
    }
}

impl Default for Telling {
    fn default() -> Self {
        Telling::of(&AlarmSettings::default())
    }
}

impl SinkPlan {
    /// How a receiver of this kind is told.
    pub fn new(config: SinkConfig, scope: Scope, parting: Parting, telling: &Telling) -> Self {
        let assurance = match (config.kind, config.mode) {
            // That a stream took a line does not say that its reader did.
            (SinkKind::Snmp, SnmpMode::Trap) | (SinkKind::Syslog, _) => {
                Assurance::Repeated(telling.trap_repeat.clone())
            }
            // A new log does not know what stood in the old one.
            (SinkKind::Log, _) => Assurance::Repeated(Vec::new()),
            (SinkKind::Alertmanager, _) => Assurance::Refreshed { every: REFRESH_EVERY, cleared_for: CLEARED_FOR },
            (SinkKind::Snmp | SinkKind::Webhook | SinkKind::Email | SinkKind::Exec, _) => Assurance::Acknowledged,
        };
        let batch = match config.kind {
            SinkKind::Alertmanager => ALARMS_IN_A_REQUEST,
            SinkKind::Email => ALARMS_IN_A_MAIL,
            SinkKind::Log | SinkKind::Snmp | SinkKind::Webhook | SinkKind::Syslog | SinkKind::Exec => 1,
        };
        // The original has no notification that speaks of more than one test.
        let legacy = config.kind == SinkKind::Snmp && config.profile == SnmpProfile::Legacy;
        // A log is read backwards, and an Alertmanager reminds by itself.
        let reminds = !matches!(config.kind, SinkKind::Log | SinkKind::Alertmanager) && !telling.renotify.is_zero();
        let (rate, burst) = config.pace();
        let manner = Manner {
            rate,
            burst,
            batch,
            scope,
            first_up: if config.kind == SinkKind::Log { FirstUp::Told } else { FirstUp::Silent },
            detail: if legacy { Detail::EachAlone } else { Detail::Summed },
            assurance,
            renotify: reminds.then_some(telling.renotify),
            storm: if legacy { StormSettings { storm_on: 0, ..telling.storm } } else { telling.storm },
        };
        SinkPlan { config, manner, parting }
    }
}

/// The sink that is there if no other sink writes to the log.
const OWN_LOG: &str = "log";

/// The documents' sinks hear of everything. The bootstrap's do where the documents name none;
/// where they do, they hear of the configuration's faults only.
pub fn choose(documents: &[SinkConfig], bootstrap: &[SinkConfig], telling: &Telling) -> Vec<SinkPlan> {
    let scope = if documents.is_empty() { Scope::All } else { Scope::Config };
    let named = documents.iter().map(|config| SinkPlan::new(config.clone(), Scope::All, Parting::Clear, telling));
    let first = bootstrap
        .iter()
        .filter(|sink| documents.iter().all(|document| document.name != sink.name))
        .map(|config| SinkPlan::new(config.clone(), scope, parting(config, documents), telling));
    // Whoever looks at this host looks into its log.
    let own = SinkConfig { name: OWN_LOG.to_owned(), ..SinkConfig::default() };
    let configured = documents.iter().chain(bootstrap).any(|sink| sink.kind == SinkKind::Log || sink.name == OWN_LOG);
    let own = SinkPlan::new(own, Scope::All, Parting::Clear, telling);
    named.chain(first).chain((!configured).then_some(own)).collect()
}

/// What becomes of what a sink has told when `others` tell instead.
pub fn parting<'a>(sink: &SinkConfig, others: impl IntoIterator<Item = &'a SinkConfig>) -> Parting {
    match others.into_iter().any(|other| other.tells_the_same_as(sink)) {
        true => Parting::HandOver,
        false => Parting::Clear,
    }
}
