//! Mail receiver: sends one mail for all messages that are pending at once, threaded by alarm.
//!
//! The main type is [`Email`], which keeps the connection settings until a delivery fails.

use std::fmt::Write as _;

use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tracing::warn;

use super::http::alarms;
use crate::config::document::endpoint::EndpointHost;
use crate::config::document::sinks::{SinkConfig, Transport};
use crate::io::error_chain::error_chain;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Identity, Outcome, blocking};
use crate::io::secret;
use crate::pure::alarm::notification::Notification;
use crate::pure::notify::log::Outbound;

type Mailer = AsyncSmtpTransport<Tokio1Executor>;

/// Mail receiver: a mail server and the recipients.
pub struct Email {
    config: SinkConfig,
    identity: Identity,
    mailer: Option<Mailer>,
}

impl Email {
    pub(super) fn new(config: &SinkConfig, identity: &Identity) -> Self {
        Email { config: config.clone(), identity: identity.clone(), mailer: None }
    }

    pub(super) async fn deliver(&mut self, batch: Vec<Outbound>) -> Delivered {
        let within = self.config.response_timeout();
        // The mail library's own timeout covers connecting only.
        let sent = timeout(within, self.send(&batch)).await;
        let outcome = sent.unwrap_or_else(|_| Outcome::unreachable(DeliveryError::TimedOut(within)));
        if matches!(outcome, Outcome::Unreachable(_)) {
            // The next delivery reads the password and certificates again.
            self.mailer = None;
        }
        Delivered::all(batch, &outcome)
    }

    async fn send(&mut self, batch: &[Outbound]) -> Outcome {
        let alarms: Vec<&Notification> = alarms(batch).collect();
        if alarms.is_empty() {
            return Outcome::Nothing;
        }
        if self.mailer.is_none() {
            let (config, agent) = (self.config.clone(), self.identity.agent.to_string());
            match blocking(move || mailer(&config, &agent)).await {
                Ok(mailer) => self.mailer = Some(mailer),
                Err(error) => return Outcome::unreachable(error),
            }
        }
        let Some(mailer) = &self.mailer else { return Outcome::Unreachable("no mailer".to_owned()) };
        let whole = match self.message(&alarms, &self.config.to) {
            Ok(message) => mailer.send(message).await,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let refusal = match whole {
            Ok(_) => return Outcome::Delivered,
            Err(error) if !error.is_permanent() => return Outcome::Unreachable(with_way_out(error_chain(&error))),
            Err(error) => error_chain(&error),
        };
        // A single rejected address causes the whole mail to be rejected: send one mail to each recipient.
        let mut reached = 0;
        for address in &self.config.to {
            let Ok(message) = self.message(&alarms, std::slice::from_ref(address)) else { continue };
            match mailer.send(message).await {
                Ok(_) => reached += 1,
                Err(error) => warn!(address, problem = error_chain(&error), "mail was rejected"),
            }
        }
        if reached > 0 { Outcome::Delivered } else { Outcome::Refused(refusal) }
    }

    fn message(&self, alarms: &[&Notification], to: &[String]) -> Result<Message, DeliveryError> {
        let agent = &self.identity.agent;
        let mailbox = |address: &String| -> Result<Mailbox, DeliveryError> {
            address.parse().map_err(|error: AddressError| DeliveryError::Unusable(address.clone(), error.to_string()))
        };
        let from = mailbox(&self.config.from)?;
        let thread = format!("<{}@peerpair.{}>", thread(alarms, agent), host_part(agent));
        let id = format!("<{:032x}@peerpair.{}>", fastrand::u128(..), host_part(agent));
        let mut message = Message::builder()
            .from(from)
            .subject(subject(alarms, agent))
            .message_id(Some(id))
            .in_reply_to(thread.clone())
            .references(thread)
            // Prevents automatic replies, such as vacation notices (RFC 3834 section 5).
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN);
        for address in to {
            message = message.to(mailbox(address)?);
        }
        message.body(body(alarms, &self.identity)).map_err(|error| DeliveryError::Encode(error.to_string()))
    }
}

/// Adds help to a certificate error: the mail library refuses a CA certificate as the server's own, even if `ca_file`
/// names it.
fn with_way_out(problem: String) -> String {
    match problem.contains("CaUsedAsEndEntity") {
        true => format!(
            "{problem}: the mail server presents a CA certificate as its own; issue one with \
                basicConstraints=CA:FALSE, and name that in ca_file"
        ),
        false => problem,
    }
}

#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }
    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }
    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn mailer(config: &SinkConfig, agent: &str) -> Result<Mailer, DeliveryError> {
    let target = config.endpoint()?;
    let host = match &target.host {
        EndpointHost::Name(name) => name.clone(),
        EndpointHost::Ip(addr) => addr.to_string(),
        EndpointHost::Any => return Err(DeliveryError::NotConfigured("mail server")),
    };
    let hello = ClientId::Domain(host_part(agent));
    let mut builder = Mailer::builder_dangerous(&host).port(target.port).hello_name(hello);
    let parameters = || -> Result<TlsParameters, DeliveryError> {
        let mut parameters = TlsParameters::builder(host.clone());
        if let Some(path) = &config.ca_file {
            let failed = |error: &dyn std::fmt::Display| {
                DeliveryError::Unusable(format!("ca_file {}", path.display()), error.to_string())
            };
            let pem = std::fs::read(path).map_err(|error| failed(&error))?;
            let certificate = Certificate::from_pem(&pem).map_err(|error| failed(&error))?;
            parameters = parameters.add_root_certificate(certificate);
        }
        parameters.build_rustls().map_err(|error| DeliveryError::Library(error_chain(&error)))
    };
    builder = builder.tls(match config.transport() {
        Transport::Tls => Tls::Wrapper(parameters()?),
        Transport::Starttls => Tls::Required(parameters()?),
        Transport::Tcp | Transport::Udp => Tls::None,
    });
    if let Some(password) = config.password() {
        let password = secret::read(password)?;
        builder = builder.credentials(Credentials::new(config.user.clone(), password.reveal().to_owned()));
    }
    Ok(builder.build())
}

fn subject(alarms: &[&Notification], agent: &str) -> String {
    let text = match alarms {
        [alarm] => alarm.headline(),
        many => {
            let raised = many.iter().filter(|alarm| alarm.is_raised()).count();
            format!("{} alarms: {raised} raised, {} cleared", many.len(), many.len() - raised)
        }
    };
    format!("[peerpair {agent}] {text}").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn body(alarms: &[&Notification], identity: &Identity) -> String {
    let mut text = String::new();
    for alarm in alarms {
        let _always = writeln!(text, "{}", alarm.headline());
        let _always = writeln!(text, "  {}", alarm.text());
        let _always = writeln!(text, "  {} since {}, {}", alarm.state.as_str(), alarm.since, alarm.severity.as_str());
        if let Some(test) = &alarm.test {
            let _always = writeln!(text, "  {}, test {}", test.path(), test.id);
        }
        if alarm.suppressed > 0 {
            let _always = writeln!(text, "  {} changes in between were not notified", alarm.suppressed);
        }
        text.push('\n');
    }
    let _always = writeln!(text, "-- \npeerpair on {} {}", identity.agent, identity.page);
    text
}

/// Returns the id of a mail thread: mails about one alarm share a thread, and mails about several alarms share
/// another.
fn thread(alarms: &[&Notification], agent: &str) -> String {
    let about = match alarms {
        [alarm] => alarm.key.to_string(),
        _ => "many".to_owned(),
    };
    Sha256::digest(format!("{agent} {about}")).iter().take(16).map(|octet| format!("{octet:02x}")).collect()
}

/// Returns the characters of the agent's name that a message id permits, or `host` if none remain.
fn host_part(agent: &str) -> String {
    let plain: String = agent.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    if plain.is_empty() { "host".to_owned() } else { plain }
}
