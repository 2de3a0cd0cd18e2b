//! Messages between actors. A child sends facts to its parent, in one enum for each pair of child and parent, whose `Down`
//! variant reports the end of the child. A parent sends commands to its children.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Message, Recipient};
use tokio::sync::oneshot;

use crate::config::bootstrap::Bootstrap;
use crate::config::document::endpoint::Endpoint;
use crate::config::document::sinks::SinkConfig;
use crate::config::load::{Loaded, Loader};
use crate::config::plan::{AlarmPlan, Names, Plan, TargetPlan};
use crate::config::sink_plan::SinkPlan;
use crate::io::net::transmit::{SenderCell, SourceSockets};
use crate::io::shared::SharedState;
use crate::io::store::Snapshot;
use crate::pure::alarm::change::ConditionChange;
use crate::pure::alarm::inventory::{AlarmInventory, Reporters};
use crate::pure::alarm::key::Kind;
use crate::pure::alarm::notification::{AlarmStatus, Notification};
use crate::pure::alarm::shelving::Silence;
use crate::pure::base::time::WallTime;
use crate::pure::judge::session::SessionPlan;
use crate::pure::notify::log::{Completeness, HoldDown, NotifiedRecord, NotifiedState};
use crate::pure::stamp::session_sender::{SenderPlan, Source};
use crate::pure::status::api::{ApiError, ApiRequest, ApiResponse};
use crate::pure::status::snapshot::{ClockStatus, ListenerStatus, SenderStatus, SinkStatus, StoreStatus, TestStatus};
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;

/// Number that distinguishes a child from its predecessors under the same key.
pub type Generation = u64;

// Facts go from a child to its parent.

/// Fact from a listener to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ListenerFact {
    /// Status of the listener, with the status of its tests if they were asked for.
    Observed(Box<ListenerStatus>, Option<Vec<TestStatus>>),
    /// Goodbye of the receiver of a test that starts here; it arrived at this listener's address.
    ReceiverStops(ReceiverStopping),
    /// End of the listener at this address, by request or by failure.
    Down(std::net::SocketAddr, Generation),
}

/// Fact from a sender to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum SenderFact {
    /// Status of the sender and of its test.
    Observed(Box<SenderStatus>, Box<TestStatus>),
    /// End of the sender of this test, by request or by failure.
    Down(TestId, Generation),
}

/// Fact from a pacer to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum PacerFact {
    /// Panic in the turn of this test, which leaves the other tests of the pacer running.
    Faulted(TestId),
    /// End of the pacer of this source, by request or by failure.
    Down(Source, Generation),
}

/// Fact from the prober to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ProberFact {
    /// Status of all tests of targets.
    Observed(Vec<TestStatus>),
    /// End of the prober, by request or by failure.
    Down(Generation),
}

/// Replaces the targets that the prober probes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetTargets(pub BTreeMap<TestId, Arc<TargetPlan>>);

/// Fact from the watcher to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum WatcherFact {
    /// New plan is in force, with its consequences for the alarms.
    Planned(Box<Planned>),
    /// Status of the watcher and its children.
    Observed(Box<WatcherStatus>),
    /// End of the watcher, by request or by failure.
    Down(Generation),
}

/// Consequences of a plan for the alarms, and the state that outlives the watcher.
#[derive(Debug)]
pub struct Planned {
    /// Sinks that alarms are notified to, and the rules for them.
    pub alarms: AlarmPlan,
    /// Inventory of the alarms that can still be raised and of the tests and listeners that can still report; `None`
    /// before the documents are known.
    pub retain: Option<Retain>,
    /// State that a successor of the watcher continues from.
    pub memory: Option<WatcherState>,
    /// Configuration in force, for the API and the status page; `None` before the documents are known.
    pub in_force: Option<InForce>,
}

/// Configuration in force, from the documents to the plan.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Store's revision of the documents.
    pub revision: u64,
    /// Parsed and checked documents.
    pub loaded: Arc<Loaded>,
    /// Addresses that the names in the documents resolved to.
    pub names: Names,
    /// Plan of this host that follows from the documents and the addresses.
    pub plan: Arc<Plan>,
}

/// Watcher's state of the documents, so that a rebuilt watcher continues with the last good configuration even if the
/// store is away.
#[derive(Clone, Debug)]
pub struct WatcherState {
    /// Documents as they were listed last.
    pub snapshot: Arc<Snapshot>,
    /// Loader, which holds the last good version of each document.
    pub loader: Arc<Loader>,
    /// Addresses that the names in the documents resolved to.
    pub names: Names,
}

/// Watcher's part of the status snapshot.
#[derive(Clone, Debug, Default)]
pub struct WatcherStatus {
    /// Status of the config store.
    pub store: StoreStatus,
    /// Status of every planned listener.
    pub listeners: Vec<ListenerStatus>,
    /// Status of every planned sender; empty unless the tests were asked for.
    pub senders: Arc<Vec<SenderStatus>>,
    /// Status of every test of this host, once for each role; empty unless the tests were asked for.
    pub tests: Arc<Vec<TestStatus>>,
    /// Time at which senders and tests were polled; `None` if they were not.
    pub tests_taken: Option<WallTime>,
    /// Restart counts of the watcher's children, by kind.
    pub restarts: [(&'static str, u64); 4],
}

/// Fact from the alarm actor to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum AlarmFact {
    /// Status of the alarm actor and its sinks.
    Observed(Box<AlarmsStatus>),
    /// End of the alarm actor, by request or by failure.
    Down(Generation),
}

/// Alarm actor's part of the status snapshot.
#[derive(Clone, Debug, Default)]
pub struct AlarmsStatus {
    /// Active alarms, limited to the highest-ranked ones if there are very many.
    pub alarms: Vec<AlarmStatus>,
    /// Number of all active alarms.
    pub raised: usize,
    /// Active alarms of tests that are suppressed, each with the reason.
    pub suppressed: Arc<Vec<(Arc<TestFacts>, Kind, &'static str)>>,
    /// Silences that have not ended.
    pub silences: Vec<Silence>,
    /// Status of each sink.
    pub sinks: Vec<SinkStatus>,
    /// Number of restarts of sinks.
    pub restarts: u64,
}

/// Fact from a sink to the alarm actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum SinkFact {
    /// Status of the sink.
    Observed(Box<SinkStatus>),
    /// Notification log of a sink that no longer notifies its receiver; another sink with the same receiver takes it
    /// over.
    RecordsHandedOver(Box<SinkConfig>, Vec<NotifiedRecord>),
    /// End of the sink of this name, by request or by failure.
    Down(String, Generation),
}

/// Fact from the clock actor to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ClockFact {
    /// Status of the local clock.
    Observed(ClockStatus),
    /// End of the clock actor, by request or by failure.
    Down(Generation),
}

/// Fact from the web actor to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum WebFact {
    /// Status page is being served.
    Serving(Generation),
    /// Client has requested the tests, so that they are polled for a while.
    TestsRequested,
    /// Request of an API client, with the channel for the answer.
    ApiRequested(ApiRequest, oneshot::Sender<Result<ApiResponse, ApiError>>),
    /// End of the web actor: by request, or with the problem that caused it.
    Down(Generation, Option<String>),
}

// Commands go from a parent to its children.

/// Command to a listener: expect this test, which is new or has changed parameters.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetTest(pub SessionPlan);

/// Command to a listener: stop expecting this test.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RemoveTest(pub TestId, pub Handover);

/// Consequence of the end of a receive session for the alarms of its test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// Listener reports no clear: another listener continues the test, or the whole test was removed.
    Moved,
    /// Listener clears the alarms that it raised as receiver: this host is only the sender of the test from now on.
    Ended,
}

/// Command to a sender: send by this plan from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Send {
    /// Plan of the test, such as its interval, destination and key.
    pub plan: Arc<SenderPlan>,
    /// Sockets and actors that the sender works with.
    pub context: Arc<SenderContext>,
}

/// Sender context: the sockets, actors and shared state that all senders of one source use.
pub struct SenderContext {
    /// Source sockets, one for each port of the source.
    pub sockets: SourceSockets,
    /// Pacer, which sends the probes of enrolled tests when they are due.
    pub pacer: Recipient<Register>,
    /// Shared state that other actors write, such as the clock error and the keys.
    pub shared: SharedState,
    /// Watcher, which receives the senders' facts.
    pub parent: Recipient<SenderFact>,
    /// Supervisor, which passes reports to the alarm actor.
    pub reports: Recipient<ConditionReport>,
}

/// Command to a sender: the receiver of its test stops on purpose.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct ReceiverStopping {
    /// Test whose receiver stops.
    pub test_id: TestId,
    /// Address that the goodbye came from.
    pub from: std::net::SocketAddr,
    /// Id of the key that signed the goodbye, if it is one of the fleet's keys.
    pub signed_with: Option<u8>,
    /// Wall-clock time at which the goodbye was sent, by the receiver's clock.
    pub sent: WallTime,
}

/// Command to a pacer: send the probes of this test from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Register(pub Arc<SenderCell>);

/// Command to the watcher: the bootstrap file was read again and has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BootstrapChanged(pub Arc<Bootstrap>);

/// Command to the clock actor: settings that come from the documents.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ConfigureClock {
    /// Time server that is asked for a second opinion on the local clock.
    pub ntp_server: Option<Endpoint>,
    /// True if any test on this host judges delays by the local clock.
    pub is_needed: bool,
}

/// Report of a condition that went down or came up, from the actor that judges it to the supervisor, and from there to
/// the alarm actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ConditionReport(pub ConditionChange);

/// Command to the alarm actor: notify these sinks from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ConfigureSinks(pub AlarmPlan);

/// Command to the alarm actor and its sinks: limit alarms and reporters to this inventory.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Retain {
    /// Inventory of the alarms that can be raised.
    pub possible: AlarmInventory,
    /// Subjects that can report conditions.
    pub reporters: Arc<Reporters>,
    /// Completeness of the inventory: an alarm missing from a partial one may still exist.
    pub completeness: Completeness,
}

/// Command to the alarm actor: answer a request of an API client.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ApiCall(pub ApiRequest, pub oneshot::Sender<Result<ApiResponse, ApiError>>);

/// Command to a sink: an alarm has changed to this status, with the hold-down that applies to it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct UpdateAlarm(pub AlarmStatus, pub HoldDown);

/// Command to a sink: take over the notification log of another sink with the same receiver.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AdoptRecords(pub Vec<NotifiedRecord>, pub HoldDown);

/// Command to a sink: return the notified state of each alarm.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<(Arc<Notification>, NotifiedState)>")]
pub struct QueryNotified;

/// Command to a sink: notify every active alarm again; returns the number of alarms.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct Resync;

/// Command to a sink: follow this plan from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reconfigure(pub SinkPlan);

/// Command to any child: report every decided condition again, for example to a rebuilt alarm actor.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct ReportConditions;

/// Command to any child: report the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum Observe {
    /// Status without the tests, of which there may be very many.
    Briefly,
    /// Status with each test, because a client is looking at them.
    Fully,
}

/// Command to any child: stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum Stop {
    /// Agent continues: this child is no longer needed, or is about to be rebuilt.
    Silent,
    /// Agent stops on purpose: send goodbyes to the peers, and flush pending notifications.
    Announced,
}
