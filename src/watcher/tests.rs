use super::*;
use crate::messages::WatcherStatus;
use crate::pure::alarm::change::{ConditionChange, Verdict};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(20);

/// Message that makes a child panic in its handler, as a fault of its own would.
#[derive(Message)]
#[rtype(result = "()")]
struct Fail;

impl Handler<Fail> for Listener {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in a listener, made by a test");
    }
}

impl Handler<Fail> for Pacer {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in a pacer, made by a test");
    }
}

impl Handler<Fail> for Sender {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in a sender, made by a test");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct FailChildren;

impl Handler<FailChildren> for Watcher {
    type Result = ();
    fn handle(&mut self, _: FailChildren, _: &mut Self::Context) {
        self.listeners.iter().for_each(|listener| listener.do_send(Fail));
        self.pacers.iter().for_each(|pacer| pacer.do_send(Fail));
        self.senders.iter().for_each(|sender| sender.do_send(Fail));
    }
}

/// Message of a watcher, or of one of its children.
enum Sent {
    Fact(WatcherFact),
    Report(ConditionChange),
}

/// Actor that collects these messages in place of the supervisor.
struct Parent(UnboundedSender<Sent>);

impl Actor for Parent {
    type Context = Context<Self>;
}

impl Handler<WatcherFact> for Parent {
    type Result = ();
    fn handle(&mut self, fact: WatcherFact, _: &mut Self::Context) {
        let _test_is_over = self.0.send(Sent::Fact(fact));
    }
}

impl Handler<ConditionReport> for Parent {
    type Result = ();
    fn handle(&mut self, ConditionReport(change): ConditionReport, _: &mut Self::Context) {
        let _test_is_over = self.0.send(Sent::Report(change));
    }
}

struct Run {
    watcher: Addr<Watcher>,
    sent: UnboundedReceiver<Sent>,
    _directory: tempfile::TempDir,
}

/// Starts a watcher with one test whose sender and receiver are the same host.
fn run(expect_every: &str) -> Run {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap();
    drop(socket);
    run_to(to, expect_every)
}

/// Starts a watcher with one test of its own host to this address.
fn run_to(to: SocketAddr, expect_every: &str) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let document = format!(
        r#"{{"id":"5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d","from_host":"a","from":"127.0.0.1:0","to_host":"a","to":"{to}",
            "send_every":"20ms","expect_every":"{expect_every}"}}"#
    );
    std::fs::create_dir_all(directory.path().join("tests/a")).unwrap();
    std::fs::write(directory.path().join("tests/a/x.json"), document).unwrap();
    let mut bootstrap = Bootstrap { host: "a".into(), ..Bootstrap::default() };
    bootstrap.store.kind = crate::config::bootstrap::StoreKind::Dir;
    bootstrap.store.path = directory.path().to_owned();
    let (sender, sent) = unbounded_channel();
    let parent = Parent(sender).start();
    let args = Args {
        bootstrap: Arc::new(bootstrap),
        shared: SharedState::new(),
        parent: parent.clone().recipient(),
        reports: parent.recipient(),
        generation: 1,
        memory: None,
    };
    let watcher = Watcher::new(args).start();
    Run { watcher, sent, _directory: directory }
}

impl Run {
    async fn next(&mut self) -> Sent {
        timeout(DEADLINE, self.sent.recv()).await.expect("a message in time").expect("a watcher")
    }

    /// Polls the children until their status is as expected.
    async fn until(&mut self, expected: impl Fn(&WatcherStatus) -> bool) -> WatcherStatus {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "the children never stood as expected");
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.watcher.do_send(Observe::Fully);
            loop {
                match self.next().await {
                    Sent::Fact(WatcherFact::Observed(status)) if expected(&status) => return *status,
                    Sent::Fact(WatcherFact::Observed(_)) => break,
                    Sent::Report(_) | Sent::Fact(WatcherFact::Planned(_) | WatcherFact::Down(_)) => {}
                }
            }
        }
    }
}

fn received(status: &WatcherStatus) -> u64 {
    status.tests.iter().filter_map(|test| test.counters).map(|counters| counters.received).sum()
}

#[actix::test]
async fn failed_children_are_rebuilt_after_back_off_and_resume() {
    let mut run = run("10s");
    run.until(|status| received(status) > 3).await;
    for n in 1..=2u64 {
        let failed = Instant::now();
        run.watcher.do_send(FailChildren);
        let restarts = [("listener", n), ("pacer", n), ("sender", n), ("prober", 0)];
        let status = run.until(|status| status.restarts == restarts).await;
        // The failed children are still shown during their back-off.
        assert_eq!((status.listeners.len(), status.senders.len(), status.tests.len()), (1, 1, 2));
        // Failures are counted at once; the rebuild follows after at least half a second, and a full second the second
        // time.
        while run.watcher.send(Alive).await.unwrap() != (1, 1) {
            assert!(failed.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(failed.elapsed() >= Duration::from_millis(500) * n as u32);
        // A rebuilt listener starts with empty counters, so its probes arrived after the fault.
        run.until(|status| status.tests.len() == 2 && (1..1000).contains(&received(status))).await;
    }
}

/// Message that returns the numbers of running listeners and senders.
#[derive(Message)]
#[rtype(result = "(usize, usize)")]
struct Alive;

impl Handler<Alive> for Watcher {
    type Result = MessageResult<Alive>;
    fn handle(&mut self, _: Alive, _: &mut Self::Context) -> Self::Result {
        MessageResult((self.listeners.iter().count(), self.senders.iter().count()))
    }
}

/// `ReportConditions` makes the watcher report every decided condition again, for an alarm actor that was rebuilt.
#[actix::test]
async fn decided_conditions_are_reported_again_on_request() {
    let mut run = run("10s");
    run.until(|status| received(status) > 3).await;
    run.watcher.do_send(ReportConditions);
    let (mut planned, mut kinds) = (false, BTreeSet::new());
    while kinds.len() < 2 || !planned {
        match run.next().await {
            Sent::Report(change) => {
                assert_eq!(change.verdict, Verdict::Cleared);
                kinds.insert(change.key.kind);
            }
            Sent::Fact(WatcherFact::Planned(_)) => planned = true,
            Sent::Fact(WatcherFact::Observed(_) | WatcherFact::Down(_)) => {}
        }
    }
}

/// Message that stands for the answer of the name service.
#[derive(Message)]
#[rtype(result = "Vec<SocketAddr>")]
struct Answer(Names);

impl Handler<Answer> for Watcher {
    type Result = Vec<SocketAddr>;
    fn handle(&mut self, Answer(names): Answer, ctx: &mut Self::Context) -> Self::Result {
        self.on_resolved(names, ctx);
        self.running.listeners.keys().copied().collect()
    }
}

/// A new address of a name moves the listener; a failed resolution leaves it where it is.
#[actix::test]
async fn listener_moves_when_its_name_resolves_to_a_new_address() {
    let mut run = run("10s");
    run.until(|status| received(status) > 3).await;
    let path = run._directory.path().join("tests/a/x.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let to = text.split(r#""to":""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    std::fs::write(&path, text.replace(&to, "localhost:26999").replace("127.0.0.1:0", "")).unwrap();
    run.until(|status| status.listeners.iter().any(|listener| listener.names == ["localhost:26999"])).await;
    let named = |addr: &str| Names::from([("localhost".to_owned(), Ok(vec![addr.parse().unwrap()]))]);
    let moved = run.watcher.send(Answer(named("127.0.0.77"))).await.unwrap();
    assert_eq!(moved, ["127.0.0.77:26999".parse::<SocketAddr>().unwrap()]);
    let away = Names::from([("localhost".to_owned(), Err(crate::config::plan::ResolveError::NoAddress))]);
    assert_eq!(run.watcher.send(Answer(away)).await.unwrap(), moved);
    assert_eq!(run.watcher.send(Answer(named("127.0.0.78"))).await.unwrap()[0].ip().to_string(), "127.0.0.78");
}

/// Message that lets the present faults have lasted for long enough.
#[derive(Message)]
#[rtype(result = "()")]
struct EndPatience;

impl Handler<EndPatience> for Watcher {
    type Result = ();
    fn handle(&mut self, _: EndPatience, _: &mut Self::Context) {
        self.faults = Faults::default();
        let none_yet = self.faults.on_faults(self.find_faults(), |_| Duration::from_nanos(1), time::now());
        assert_eq!(none_yet, []);
    }
}

/// Nothing else happens in the agent while it waits for an address to appear on its host.
#[actix::test]
async fn lasting_fault_is_reported_at_the_next_observation() {
    let mut run = run_to("192.0.2.1:8620".parse().unwrap(), "10s");
    run.until(|status| status.listeners.iter().any(|listener| listener.error.is_some())).await;
    run.watcher.do_send(EndPatience);
    run.watcher.do_send(Observe::Fully);
    let is_about_listener = |sent: &Sent| match sent {
        Sent::Report(change) => {
            matches!((change.key.kind, &change.key.subject), (Kind::Config, Subject::Listener(_)))
        }
        Sent::Fact(WatcherFact::Observed(_)) => panic!("the observation reported no fault"),
        Sent::Fact(WatcherFact::Planned(_) | WatcherFact::Down(_)) => false,
    };
    while !is_about_listener(&run.next().await) {}
}
