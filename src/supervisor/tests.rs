use super::*;
use std::path::PathBuf;

use crate::config::bootstrap::Overrides;
use crate::config::bootstrap::StoreKind;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(20);

/// Message that makes a child panic in its handler, as a fault of its own would.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
struct Fail;

impl Handler<Fail> for Watcher {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in the watcher, made by a test");
    }
}

impl Handler<Fail> for Alarm {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in the alarm actor, made by a test");
    }
}

impl Handler<Fail> for Clock {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in the clock, made by a test");
    }
}

/// Forwards the message to all children that have such a handler.
impl Handler<Fail> for Supervisor {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        self.watcher.send(Fail);
        self.alarm.send(Fail);
        self.clock.send(Fail);
        // The old status is discarded, so that it cannot pass for one observed after the restart.
        self.alarm_status = AlarmsStatus::default();
    }
}

#[derive(Message)]
#[rtype(result = "watch::Receiver<Arc<Status>>")]
struct Subscribe;

impl Handler<Subscribe> for Supervisor {
    type Result = MessageResult<Subscribe>;
    fn handle(&mut self, _: Subscribe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.published.subscribe())
    }
}

async fn until(status: &mut watch::Receiver<Arc<Status>>, expected: impl Fn(&Status) -> bool) -> Arc<Status> {
    let found = tokio::time::timeout(DEADLINE, status.wait_for(|status| expected(status))).await;
    found.expect("in time").expect("a supervisor").clone()
}

fn alarm_status(status: &Status) -> Vec<String> {
    status.alarms.iter().map(|alarm| alarm.notification.key.to_string()).collect()
}

/// Runs one test that no host sends and one bad document, which gives two alarms to find again after the restart.
#[actix::test]
async fn alarms_are_restored_after_all_children_fail() {
    let directory = tempfile::tempdir().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap();
    drop(socket);
    let document = format!(
        r#"{{"id":"5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d","from_host":"b","to_host":"a","to":"{to}",
            "send_every":"20ms","expect_every":"50ms","startup_grace":"0s"}}"#
    );
    std::fs::create_dir_all(directory.path().join("tests/a")).unwrap();
    std::fs::write(directory.path().join("tests/a/x.json"), document).unwrap();
    std::fs::write(directory.path().join("tests/a/y.json"), "{").unwrap();
    let mut bootstrap =
        Bootstrap { host: "a".into(), state_dir: directory.path().join("state"), ..Bootstrap::default() };
    bootstrap.store.kind = StoreKind::Dir;
    bootstrap.store.path = directory.path().to_owned();
    bootstrap.web.listen = String::new();
    let source = BootstrapFile { path: PathBuf::new(), overrides: Overrides::default() };
    let supervisor = Supervisor::new(source, bootstrap).0.start();
    let mut status = supervisor.send(Subscribe).await.unwrap();

    let expected =
        ["connection test 5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d".to_owned(), "config document tests/a/y".to_owned()];
    until(&mut status, |status| alarm_status(status) == expected).await;
    let failed = Instant::now();
    supervisor.do_send(Fail);
    let restarted = |status: &Status| ["watcher", "alarm", "clock"].iter().all(|child| status.restarts[child] == 1);
    until(&mut status, |status| restarted(status) && alarm_status(status) == expected).await;
    assert!(failed.elapsed() >= Duration::from_millis(500), "without a back-off");
}
