//! What actors say to each other: facts go up in the past tense, commands go down as imperatives.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::{Message, Recipient};
use tokio::sync::oneshot;

use crate::config::bootstrap::Bootstrap;
use crate::config::endpoint::Endpoint;
use crate::config::load::{Loaded, Loader};
use crate::config::plan::{AlarmPlan, Names, Plan};
use crate::config::receivers::SinkPlan;
use crate::config::sinks::SinkConfig;
use crate::io::gauges::Gauges;
use crate::io::outgoing::{Line, Outlet};
use crate::io::store::Snapshot;
use crate::pure::alarm::{ConditionChange, Kind, Subject};
use crate::pure::expectation::Expected;
use crate::pure::ledger::{Damping, Knowledge, ToldRecord, ToldState};
use crate::pure::notification::{Notification, Standing};
use crate::pure::order::{Answer, Refusal, Request};
use crate::pure::possible::Possible;
use crate::pure::sending::{SenderPlan, Source};
use crate::pure::shelf::Silence;
use crate::pure::status::{ClockStatus, ListenerStatus, SenderStatus, SinkStatus, StoreStatus, TestStatus};
use crate::pure::test::{TestFacts, TestId};
use crate::pure::time::WallTime;

/// Tells a child from its predecessor of the same name.
pub type Generation = u64;

// Facts, upwards.

/// From a listener to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ListenerFact {
    /// A condition went down or came up.
    Changed(ConditionChange),
    /// How it stands, and its tests if it was asked for them.
    Observed(Box<ListenerStatus>, Option<Vec<TestStatus>>),
    /// The receiver of a test that starts here stops on purpose; its last word came to this address.
    ReceiverStops(Farewell),
    /// It is gone, asked or not.
    Down(std::net::SocketAddr, Generation),
}

/// From a sender to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum SenderFact {
    /// A condition went down or came up.
    Changed(ConditionChange),
    /// How it stands.
    Observed(Box<SenderStatus>, Box<TestStatus>),
    /// It is gone, asked or not.
    Down(TestId, Generation),
}

/// From a pacer to the watcher.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum PacerFact {
    /// A condition of one of its tests went down or came up.
    Changed(ConditionChange),
    /// The turn of this test failed by a fault of its own.
    Faulted(TestId),
    /// It is gone, asked or not.
    Down(Source, Generation),
}

/// From the watcher to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum WatcherFact {
    /// A condition went down or came up, here or below.
    Changed(ConditionChange),
    /// Another plan is in force.
    Planned(Box<Planned>),
    /// How it and its children stand.
    Observed(Box<WatcherStatus>),
    /// It is gone, asked or not.
    Down(Generation),
}

/// What a plan means for the alarms.
#[derive(Debug)]
pub struct Planned {
    /// Whom to tell.
    pub alarms: AlarmPlan,
    /// The alarms that can still be, and the tests and listeners that can still report; nothing
    /// before the documents are known.
    pub retain: Option<Retain>,
    /// What a successor of the watcher has to know.
    pub memory: Option<Memory>,
    /// What is carried out, for people who ask; nothing before the documents are known.
    pub in_force: Option<InForce>,
}

/// What is carried out.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The store's revision.
    pub revision: u64,
    /// What its documents say.
    pub loaded: Arc<Loaded>,
    /// What their names resolved to.
    pub names: Names,
    /// What follows from that.
    pub plan: Arc<Plan>,
}

/// What a watcher knows of the documents, so that a rebuilt one goes on with the last good config
/// even if the store is away.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The documents as they were listed last.
    pub snapshot: Arc<Snapshot>,
    /// The last good version of each.
    pub loader: Arc<Loader>,
    /// What their names resolved to.
    pub names: Names,
}

/// The watcher's part of the snapshot.
#[derive(Clone, Debug, Default)]
pub struct WatcherStatus {
    /// The store.
    pub store: StoreStatus,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Its senders.
    pub senders: Arc<Vec<SenderStatus>>,
    /// The tests of both.
    pub tests: Arc<Vec<TestStatus>>,
    /// When these two were taken, if they were.
    pub tests_taken: Option<WallTime>,
    /// Restarts of listeners, pacers and senders.
    pub restarts: [(&'static str, u64); 3],
}

/// From the alarm actor to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum AlarmFact {
    /// How it and its sinks stand.
    Observed(Box<AlarmStatus>),
    /// It is gone, asked or not.
    Down(Generation),
}

/// The alarm actor's part of the snapshot.
#[derive(Clone, Debug, Default)]
pub struct AlarmStatus {
    /// Alarms that stand, the worst of them.
    pub alarms: Vec<Standing>,
    /// How many stand.
    pub raised: usize,
    /// Alarms of tests that stand and are not told themselves, and why.
    pub suppressed: Arc<Vec<(Arc<TestFacts>, Kind, &'static str)>>,
    /// Silences that have not ended.
    pub silences: Vec<Silence>,
    /// Its sinks.
    pub sinks: Vec<SinkStatus>,
    /// Restarts of sinks.
    pub restarts: u64,
}

/// From a sink to the alarm actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum SinkFact {
    /// How it stands.
    Observed(Box<SinkStatus>),
    /// This sink is not to tell any more what its receiver was told; another one of the same
    /// receiver has to know it.
    HandedOver(Box<SinkConfig>, Vec<ToldRecord>),
    /// It is gone, asked or not.
    Down(String, Generation),
}

/// From the clock actor to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ClockFact {
    /// The local clock's condition changed.
    Changed(ConditionChange),
    /// How the clock stands.
    Observed(ClockStatus),
    /// It is gone, asked or not.
    Down(Generation),
}

/// From the web actor to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum WebFact {
    /// The status page is served.
    Serving(Generation),
    /// Somebody looks at the tests.
    Looked,
    /// Somebody asks.
    Asked(Request, oneshot::Sender<Result<Answer, Refusal>>),
    /// It is gone, asked or not, or because of this.
    Down(Generation, Option<String>),
}

// Commands, downwards.

/// To a listener: expect this test, new or with other parameters.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Expect(pub Expected);

/// To a listener: this test no longer ends here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Forget(pub TestId, pub Whole);

/// What becomes of what was said of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Another listener goes on with it, or it is gone as a whole.
    GoesOn,
    /// This host only sends it from now on: what was said of it as its receiver is over.
    Retired,
}

/// To a sender: send like this from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Send {
    /// What.
    pub plan: Arc<SenderPlan>,
    /// From where, and with whom.
    pub station: Arc<Station>,
}

/// What all senders of a source work with.
pub struct Station {
    /// The sockets.
    pub outlet: Outlet,
    /// Who sends when it is time.
    pub pacer: Recipient<Enrol>,
    /// Readings of others.
    pub gauges: Gauges,
    /// The watcher.
    pub parent: Recipient<SenderFact>,
}

/// To a sender: its test's receiver stops on purpose.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Farewell {
    /// The test.
    pub test_id: TestId,
    /// The address that this came from.
    pub from: std::net::SocketAddr,
    /// The key that it is signed with, if that is one of the fleet's.
    pub signed_with: Option<u8>,
    /// When it was sent, by the receiver's clock.
    pub sent: WallTime,
}

/// To a pacer: this test has its turns from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Enrol(pub Arc<Line>);

/// To the watcher: the bootstrap file says this now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Rebase(pub Arc<Bootstrap>);

/// To the clock actor: what the documents say of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Consult {
    /// Whom to ask for a second opinion.
    pub ntp_server: Option<Endpoint>,
    /// Whether any test here judges delays by the clock.
    pub is_needed: bool,
}

/// To the alarm actor: take in a changed condition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeIn(pub ConditionChange);

/// To the alarm actor: tell these receivers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Tell(pub AlarmPlan);

/// To the alarm actor and its sinks: only these alarms and reporters can still be.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Retain {
    /// The alarms.
    pub possible: Possible,
    /// Who can report.
    pub reporters: Arc<BTreeSet<Subject>>,
    /// Whether that is all.
    pub knowledge: Knowledge,
}

/// To the alarm actor: somebody asks.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Carry(pub Request, pub oneshot::Sender<Result<Answer, Refusal>>);

/// To a sink: this alarm is in this state now.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Learn(pub Standing, pub Damping);

/// To a sink: your receiver was told this by another.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeOver(pub Vec<ToldRecord>, pub Damping);

/// To a sink: say what your receiver knows of each alarm.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<(Arc<Notification>, ToldState)>")]
pub struct Account;

/// To a sink: tell all that stands once more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct Resync;

/// To a sink: tell in this manner from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Adopt(pub SinkPlan);

/// To anyone below: say every decided condition anew.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Report;

/// To anyone below: say how you stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum Observe {
    /// Without the tests: there may be very many.
    Briefly,
    /// With each test: somebody is looking.
    Fully,
}

/// To anyone below: end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum Stop {
    /// The agent goes on: this child is not needed, or is about to be built anew.
    Quietly,
    /// The agent stops on purpose: say goodbye to the peers, and flush.
    WithGoodbye,
}
