//! SNMP receiver: sends traps and informs by SNMPv2c or SNMPv3.
//!
//! The main type is [`Snmp`]. Informs are sent until they are acknowledged; traps are sent once.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::config::document::secret::{Secret, SecretSource};
use crate::config::document::sinks::{SinkConfig, SnmpMode, SnmpVersion};
use crate::io::receiver::datagrams::Datagrams;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Identity, Outcome, blocking};
use crate::io::receiver::snmp::render::{Acknowledgement, Renderer, community_answer, community_message};
use crate::io::receiver::snmp::usm::{
    self, EngineClock, Purpose, SHORTEST_PASSWORD, User, UserKeys, UsmError, UsmReport,
};
use crate::io::secret;
use crate::io::state::engine_boots::Engine;
use crate::io::time;
use crate::pure::notify::log::Outbound;

/// Size of the receive buffer in octets, larger than any UDP payload.
const LONGEST: usize = 65_535;

/// SNMP receiver with its socket, its credentials and the message ids in use.
pub struct Snmp {
    config: SinkConfig,
    renderer: Renderer,
    engine: Engine,
    agent: String,
    machine: Arc<str>,
    security: Option<Security>,
    datagrams: Datagrams,
    /// Last message id that was used. It starts at a random value, so that an attacker cannot guess it.
    next_id: i32,
    /// Salt of the next message, unique for each message; it starts at a random value, so that a restart does not
    /// reuse salts.
    next_salt: u64,
}

/// Credentials that secure messages: a community (SNMPv2c) or a user (SNMPv3).
enum Security {
    Community(Secret),
    Usm {
        user: User,
        /// Keys of the user at the authoritative engine: this agent's for traps, or the receiver's for informs, then
        /// with the receiver's clock and the time at which it was read.
        keys: Option<(UserKeys, Option<(EngineClock, Instant)>)>,
    },
}

/// Result of waiting for the acknowledgement of an inform.
enum InformResult {
    Acknowledged(Acknowledgement),
    /// The receiver's engine id or clock differs from the expected one and has been updated: send the inform again.
    Resynchronized,
    Nothing(Option<UsmError>),
}

impl Snmp {
    pub(in crate::io::receiver) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        Snmp {
            renderer: Renderer {
                profile: config.profile,
                agent: identity.agent.to_string(),
                config_server: identity.config_server.to_string(),
            },
            engine: identity.engine.clone(),
            agent: identity.agent.to_string(),
            machine: identity.machine.clone(),
            security: None,
            datagrams: Datagrams::new(config.endpoint(), config.source),
            next_id: fastrand::i32(0..=i32::MAX),
            next_salt: fastrand::u64(..),
            config: config.clone(),
        }
    }

    pub(in crate::io::receiver) async fn deliver(&mut self, batch: Vec<Outbound>) -> Delivered {
        let delivered = match self.config.mode {
            SnmpMode::Trap => {
                let outcome = self.send_traps(&batch).await.unwrap_or_else(Outcome::unreachable);
                Delivered::all(batch, &outcome)
            }
            SnmpMode::Inform => self.send_informs(batch).await,
        };
        if delivered.outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Unreachable(_))) {
            // The receiver's address, passwords or engine may have changed: set all of them up again.
            self.datagrams.disconnect();
            self.security = None;
        }
        delivered
    }

    async fn send_traps(&mut self, batch: &[Outbound]) -> Result<Outcome, DeliveryError> {
        self.prepare().await?;
        let mut datagrams = Vec::new();
        for due in batch {
            let id = self.next_id();
            datagrams.extend(self.message(due, id)?);
        }
        if datagrams.is_empty() {
            return Ok(Outcome::Nothing);
        }
        self.datagrams.send(&datagrams).await?;
        Ok(Outcome::Delivered)
    }

    async fn send_informs(&mut self, batch: Vec<Outbound>) -> Delivered {
        let mut delivered = Delivered::default();
        let mut has_failed = false;
        for due in batch {
            let outcome = match has_failed {
                true => Outcome::NotTried,
                false => self.send_inform(&due).await.unwrap_or_else(Outcome::unreachable),
            };
            has_failed |= matches!(outcome, Outcome::Unreachable(_));
            delivered.outcomes.push((due, outcome));
        }
        delivered
    }

    /// Sends an inform until it is acknowledged, at most `retries` times more than once.
    async fn send_inform(&mut self, due: &Outbound) -> Result<Outcome, DeliveryError> {
        self.prepare().await?;
        let mut complaint = None;
        let mut ids = Vec::new();
        let mut resynchronized = 0;
        let mut tries = 0;
        while tries <= self.config.retries {
            let id = self.next_id();
            ids.push(id);
            let Some(datagram) = self.message(due, id)? else { return Ok(Outcome::Nothing) };
            self.datagrams.socket().await?.send(&datagram).await?;
            match self.wait_for_response(&ids).await? {
                InformResult::Acknowledged(Acknowledgement::Good) => return Ok(Outcome::Delivered),
                InformResult::Acknowledged(Acknowledgement::Refused(status)) => {
                    return Ok(Outcome::Refused(format!("the receiver answers the inform with error-status {status}")));
                }
                // A receiver that keeps restarting reports another clock each time, so that resynchronizations are
                // limited too.
                InformResult::Resynchronized if resynchronized < self.config.retries => resynchronized += 1,
                InformResult::Resynchronized => tries += 1,
                InformResult::Nothing(heard) => {
                    complaint = heard.or(complaint);
                    tries += 1;
                }
            }
        }
        Err(DeliveryError::Unacknowledged(self.unanswered(complaint)))
    }

    fn unanswered(&self, complaint: Option<UsmError>) -> String {
        let within = humantime::format_duration(self.config.response_timeout());
        let times = self.config.retries + 1;
        let silence = format!("no acknowledgement, {times} times within {within}");
        let private = self.config.privacy_protocol.is_some();
        match (complaint, self.config.version) {
            (Some(complaint), _) => format!("the receiver reports that {complaint}"),
            (None, SnmpVersion::V2c) => format!("{silence}: it is unreachable, or it does not accept this community"),
            // The receiver answered the discovery, but does not answer messages that it cannot decrypt or that the
            // user may not send.
            (None, SnmpVersion::V3) if private => {
                format!(
                    "{silence}: check the privacy password and protocol, and the access rights of this user at \
                the receiver"
                )
            }
            (None, SnmpVersion::V3) => format!("{silence}: check the access rights of this user at the receiver"),
        }
    }

    /// Waits for an acknowledgement or report for any of the given message ids.
    async fn wait_for_response(&mut self, ids: &[i32]) -> Result<InformResult, DeliveryError> {
        let deadline = Instant::now() + self.config.response_timeout();
        let mut complaint = None;
        let mut buffer = vec![0; LONGEST];
        loop {
            let socket = self.datagrams.socket().await?;
            let length = match timeout_at(deadline, socket.recv(&mut buffer)).await {
                Err(_) => return Ok(InformResult::Nothing(complaint)),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(length)) => length,
            };
            let datagram = &buffer[..length];
            match &mut self.security {
                Some(Security::Community(community)) => {
                    let answer = ids.iter().find_map(|id| community_answer(datagram, community, *id));
                    if let Some(answer) = answer {
                        return Ok(InformResult::Acknowledged(answer));
                    }
                }
                Some(Security::Usm { keys: Some((keys, clock)), .. }) => {
                    let reply = ids.iter().find_map(|id| usm::reply(datagram, Some(keys), *id).ok());
                    match reply {
                        Some(usm::UsmReply::Acknowledged(answer)) => return Ok(InformResult::Acknowledged(answer)),
                        Some(usm::UsmReply::Reported(report)) => {
                            if report.complaint == UsmError::NotInTimeWindow && report.signed {
                                *clock = Some((report.clock, Instant::now()));
                                return Ok(InformResult::Resynchronized);
                            }
                            if report.complaint == UsmError::UnknownEngineId {
                                self.security = None;
                                self.prepare().await?;
                                return Ok(InformResult::Resynchronized);
                            }
                            // A report that is not authenticated may be forged, so that waiting for the
                            // acknowledgement continues.
                            complaint = Some(report.complaint);
                        }
                        None => {}
                    }
                }
                Some(Security::Usm { keys: None, .. }) | None => return Ok(InformResult::Nothing(None)),
            }
        }
    }

    /// Reads the passwords, discovers the receiver's engine if informs are sent, and derives the keys. Returns at once
    /// if that is done already.
    async fn prepare(&mut self) -> Result<(), DeliveryError> {
        if self.security.is_none() {
            let config = self.config.clone();
            self.security = Some(match self.config.version {
                SnmpVersion::V2c => Security::Community(self.config.community.clone()),
                SnmpVersion::V3 => Security::Usm { user: blocking(move || read_user(&config)).await?, keys: None },
            });
        }
        let Some(Security::Usm { user, keys: None }) = &self.security else { return Ok(()) };
        let user = user.clone();
        let (engine_id, clock) = match self.config.mode {
            SnmpMode::Trap => (self.config.engine_id(&self.agent, &self.machine), None),
            SnmpMode::Inform => {
                let report = self.discover().await?;
                (report.engine_id, Some((report.clock, Instant::now())))
            }
        };
        // Deriving the keys takes milliseconds of hashing.
        let engine = self.engine.clone();
        let made = blocking(move || {
            // The first call of `clock` reads and writes the disk.
            engine.clock();
            Ok::<_, DeliveryError>(UserKeys::new(&user, &engine_id))
        });
        let made = made.await?;
        if let Some(Security::Usm { keys, .. }) = &mut self.security {
            *keys = Some((made, clock));
        }
        Ok(())
    }

    /// Requests the receiver's engine id and clock (RFC 3414 section 4).
    async fn discover(&mut self) -> Result<UsmReport, DeliveryError> {
        let (within, tries) = (self.config.response_timeout(), self.config.retries + 1);
        let mut buffer = vec![0; LONGEST];
        for _ in 0..tries {
            let id = self.next_id();
            let socket = self.datagrams.socket().await?;
            socket.send(&usm::discovery(id)).await?;
            let deadline = Instant::now() + within;
            while let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await {
                let length = received?;
                if let Ok(usm::UsmReply::Reported(report)) = usm::reply(&buffer[..length], None, id)
                    && !report.engine_id.is_empty()
                {
                    return Ok(report);
                }
            }
        }
        let within = humantime::format_duration(within);
        let problem = format!("no response to the engine id discovery, {tries} times within {within}");
        Err(DeliveryError::Unacknowledged(problem))
    }

    /// Encodes the datagram for `due`; returns `None` if the profile has no notification for it.
    fn message(&mut self, due: &Outbound, id: i32) -> Result<Option<Vec<u8>>, DeliveryError> {
        let Some(varbinds) = self.renderer.varbinds(due, time::now().moment) else { return Ok(None) };
        let salt = self.next_salt;
        self.next_salt = salt.wrapping_add(1);
        match &self.security {
            Some(Security::Community(community)) => community_message(self.config.mode, community, id, &varbinds)
                .map(Some)
                .map_err(|error| DeliveryError::Encode(error.to_string())),
            Some(Security::Usm { keys: Some((keys, receiver)), .. }) => {
                let (purpose, clock) = match receiver {
                    None => (Purpose::Trap, self.engine.clock()),
                    Some((clock, read)) => {
                        let since = u32::try_from(read.elapsed().as_secs()).unwrap_or(u32::MAX);
                        (Purpose::Inform, EngineClock { time: clock.time.saturating_add(since), ..*clock })
                    }
                };
                Ok(Some(usm::notification(purpose, keys, clock, id, &varbinds, salt)))
            }
            Some(Security::Usm { keys: None, .. }) | None => Err(DeliveryError::NotConfigured("keys")),
        }
    }

    fn next_id(&mut self) -> i32 {
        self.next_id = self.next_id.wrapping_add(1) & i32::MAX;
        self.next_id
    }
}

fn read_user(config: &SinkConfig) -> Result<User, DeliveryError> {
    let read = |source: Option<SecretSource<'_>>, what: &'static str| {
        let password = secret::read(source.ok_or(DeliveryError::NotConfigured(what))?)?;
        match password.reveal().len() {
            0..SHORTEST_PASSWORD => Err(DeliveryError::ShortPassword(what, SHORTEST_PASSWORD)),
            _ => Ok(password),
        }
    };
    let auth = match config.auth_protocol {
        Some(protocol) => Some((protocol, read(config.auth_password(), "auth password")?)),
        None => None,
    };
    let privacy = match config.privacy_protocol {
        Some(protocol) => Some((protocol, read(config.privacy_password(), "privacy password")?)),
        None => None,
    };
    Ok(User { name: config.user.clone(), auth, privacy })
}
