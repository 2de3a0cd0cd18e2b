//! SNMPv3 engine of this agent (RFC 3414): its identity on this machine, and the count of its starts.
//!
//! The main type is [`Engine`], which keeps `snmpEngineBoots` in the state directory.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::file::{StateFile, load_list};
use crate::io::error_chain::error_chain;
use crate::io::receiver::snmp::usm::EngineClock;
use crate::io::time;
use crate::pure::base::time::{Now, WallTime};

/// Time from the Unix epoch to 2020-01-01. The boots counter is at least the number of minutes since then, so that an
/// agent that lost its state starts above its previous value: receivers silently drop messages whose engine boots are
/// lower than the last ones they saw.
const COUNTED_FROM: Duration = Duration::from_secs(1_577_836_800);
/// Largest value of `snmpEngineBoots` (RFC 3414 section 2.2.2).
const MAX_BOOTS: u32 = i32::MAX as u32;

/// File of the machine id, as systemd and others write it.
const MACHINE_ID: &str = "/etc/machine-id";

/// Returns an id that distinguishes this machine from others of the same name: its machine id, or, without one (as in
/// a container), a random id that is kept in the state directory.
pub fn machine(state_dir: &Path) -> String {
    machine_in(state_dir, Path::new(MACHINE_ID))
}

fn machine_in(state_dir: &Path, machine_id: &Path) -> String {
    known_machine_in(state_dir, machine_id).unwrap_or_else(|| {
        let made = format!("{:032x}", fastrand::u128(..));
        match machine_file(state_dir).save(&[&made]) {
            Ok(()) => made,
            // The host's name alone is used where no random id can be stored.
            Err(_) => String::new(),
        }
    })
}

/// Returns the id that [`machine`] would return if it already exists; unlike [`machine`], never creates one.
pub fn known_machine(state_dir: &Path) -> Option<String> {
    known_machine_in(state_dir, Path::new(MACHINE_ID))
}

fn known_machine_in(state_dir: &Path, machine_id: &Path) -> Option<String> {
    let id = fs::read_to_string(machine_id).unwrap_or_default().trim().to_owned();
    if !id.is_empty() && id != "uninitialized" {
        return Some(id);
    }
    let loss = "SNMPv3 receivers that know the engine id take no traps";
    load_list::<String>(&machine_file(state_dir), "machine id", loss).into_iter().next()
}

fn machine_file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir, "machine", "")
}

/// Handle to this agent's SNMPv3 engine; counts the agent's starts on disk when its clock is first read.
#[derive(Clone, Debug)]
pub struct Engine {
    file: StateFile,
    role: EngineRole,
    boots: Arc<OnceLock<u32>>,
}

/// Process on whose behalf messages are sent as this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineRole {
    /// The agent itself: each start of the process increments engine boots.
    Agent,
    /// A command that runs beside the agent. Its engine time must be neither behind nor ahead of the agent's, because
    /// a receiver drops messages older than the newest it has seen.
    Guest,
}

/// State as stored on disk. `at` is the start of the agent on the monotonic clock, which is never set and starts at
/// zero with each boot of the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredBoots {
    boots: u32,
    at: Duration,
    machine_start: String,
}

/// Returns the kernel's boot id, which differs for each boot of the machine.
fn machine_start() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn since_machine_start() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

impl Engine {
    /// Creates the engine of the agent named `agent`; reads nothing from disk yet.
    pub fn new(state_dir: &Path, agent: &str, role: EngineRole) -> Self {
        Engine { file: StateFile::new(state_dir, "engine", agent), role, boots: Arc::default() }
    }

    /// Returns engine boots and engine time. The first call reads and writes the disk.
    pub fn clock(&self) -> EngineClock {
        let now = time::now();
        if self.role == EngineRole::Guest
            && let Some(begun) = self.kept()
        {
            // After a boot of the machine, the agent's engine time is unknown: use the next boots value, which sorts
            // later.
            let since = match begun.machine_start == machine_start() {
                true => since_machine_start().saturating_sub(begun.at),
                false => since_machine_start(),
            };
            let later = u32::from(begun.machine_start != machine_start());
            return EngineClock { boots: begun.boots + later, time: within_bounds(since.as_secs()) };
        }
        let boots = *self.boots.get_or_init(|| self.begin(now));
        EngineClock { boots, time: within_bounds(now.moment.after_start().as_secs()) }
    }

    fn kept(&self) -> Option<StoredBoots> {
        let loss = "SNMPv3 receivers may drop traps silently";
        load_list(&self.file, "engine boots", loss).into_iter().next()
    }

    fn begin(&self, now: Now) -> u32 {
        let boots = next_boots(self.kept().map(|begun| begun.boots), now.wall);
        // Engine time counts from the start of the process, not from this call.
        let at = since_machine_start().saturating_sub(now.moment.after_start());
        if let Err(error) = self.file.save(&vec![StoredBoots { boots, at, machine_start: machine_start() }]) {
            let loss = "SNMPv3 receivers may drop traps silently after the next start";
            warn!(problem = error_chain(&error), loss, "engine boots cannot be kept");
        }
        boots
    }
}

fn within_bounds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(MAX_BOOTS).min(MAX_BOOTS)
}

fn next_boots(kept: Option<u32>, now: WallTime) -> u32 {
    let minutes = now.unix_nanos() / 60_000_000_000;
    let floor = minutes.saturating_sub(COUNTED_FROM.as_secs() / 60);
    let floor = u32::try_from(floor).unwrap_or(MAX_BOOTS);
    kept.map_or(1, |kept| kept.saturating_add(1)).max(floor).min(MAX_BOOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Containers often have no machine id, and share their host's name.
    #[test]
    fn machine_without_an_id_gets_one_that_is_kept_in_its_state_directory() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let machine_id = one.path().join("machine-id");
        assert_eq!(known_machine_in(one.path(), &machine_id), None);
        let made = machine_in(one.path(), &machine_id);
        assert_eq!(made.len(), 32);
        assert_eq!(known_machine_in(one.path(), &machine_id), Some(made.clone()));
        assert_eq!(machine_in(one.path(), &machine_id), made);
        assert_ne!(machine_in(other.path(), &machine_id), made);
        // An image that has not been set up yet, then a machine that has.
        fs::write(&machine_id, "uninitialized\n").unwrap();
        assert_eq!(machine_in(one.path(), &machine_id), made);
        fs::write(&machine_id, "0123456789abcdef\n").unwrap();
        assert_eq!(machine_in(one.path(), &machine_id), "0123456789abcdef");
    }

    #[test]
    fn engine_boots_never_decrease_when_the_wall_clock_is_set_back() {
        let at = |minutes: u64| WallTime::from_unix_nanos((1_577_836_800 + minutes * 60) * 1_000_000_000);
        assert_eq!(next_boots(None, at(0)), 1);
        assert_eq!(next_boots(None, at(3_600_000)), 3_600_000);
        assert_eq!(next_boots(Some(3_600_000), at(3_600_000)), 3_600_001);
        // The wall clock was set back, or is off by a century.
        assert_eq!(next_boots(Some(3_600_000), at(5)), 3_600_001);
        assert_eq!(next_boots(Some(MAX_BOOTS), at(5)), MAX_BOOTS);
    }

    #[test]
    fn agent_start_increments_engine_boots_and_guest_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let boots = |role| {
            let engine = Engine::new(directory.path(), "a", role);
            (engine.clock().boots, engine.clock().boots)
        };
        let (first, guest, second) = (boots(EngineRole::Agent), boots(EngineRole::Guest), boots(EngineRole::Agent));
        assert_eq!(first.0, first.1);
        assert_eq!(guest, first);
        assert!(second.0 > first.0);
    }
}
