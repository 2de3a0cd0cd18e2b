//! The quickstart example, run as a new user would run it: its output must show within seconds which tests are up,
//! which are down, and why.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{http, spawn, tcp_port, udp_port, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn quickstart_shows_tests_up_and_down_with_their_reasons() {
    // Run a copy of the example, so that its state directory and ports belong to this test alone.
    let directory = tempfile::tempdir().unwrap();
    let port = tcp_port();
    let text = std::fs::read_to_string(format!("{ROOT}/config-examples/quickstart.toml")).unwrap();
    let text =
        text.replace("127.0.0.1:8650\"", &format!("127.0.0.1:{port}\"")).replace("../target/quickstart-state", "state");
    let config = directory.path().join("quickstart.toml");
    std::fs::write(&config, text).unwrap();
    let tests = "quickstart/tests/quickstart";
    std::fs::create_dir_all(directory.path().join(tests)).unwrap();
    let receiver = udp_port("127.0.0.3");
    for document in ["quickstart/config.json".to_owned()]
        .into_iter()
        .chain(["healthy.json", "silent.toml", "unheard.json"].map(|name| format!("{tests}/{name}")))
    {
        let text = std::fs::read_to_string(format!("{ROOT}/config-examples/{document}")).unwrap();
        std::fs::write(directory.path().join(document), text.replace(":8620", &format!(":{receiver}"))).unwrap();
    }
    let log = directory.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let _agent = spawn(&mut command, "peerpair");

    let expected = ["test up", "no probe since the test began here", "port unreachable, nothing listens there"];
    let begun = Instant::now();
    wait_for("the console to tell", || {
        let log = std::fs::read_to_string(&log).unwrap();
        expected.iter().all(|text| log.contains(text)).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "the newcomer waited for {:?}", begun.elapsed());
    let expected = [
        "<h1>quickstart</h1>",
        "from a host that never sends",
        "no probe since the test began here",
        "loopback, healthy",
    ];
    wait_for("the page to show it", || {
        let (status, page) = http(port, "GET", "/", "").ok()?;
        (status == 200 && expected.iter().all(|text| page.contains(text))).then_some(())
    });
}

#[test]
fn check_config_has_no_findings_for_the_quickstart() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command
        .args(["check-config", "--deny-warnings", "--config"])
        .arg(format!("{ROOT}/config-examples/quickstart.toml"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}
