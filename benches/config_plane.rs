//! Benchmarks of the config plane: the time until a change to one test among many takes effect, and the return of a
//! fleet's watchers after a restart of etcd. They need `etcd` (Debian package etcd-server).
//!
//! Run both with `cargo bench --bench config_plane`; append `-- change` or `-- watchers` to select one of them.

#![expect(clippy::print_stdout, reason = "what was measured is printed")]

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use peerpair::config::bootstrap::StoreConfig;
use peerpair::io::store::{ReadScope, Store, StoreEvent, reflect};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Number of tests that the store holds for the one measured host `b`.
const TESTS: u32 = 20_000;
/// Number of document changes whose time until the first probe is measured; odd, so that the median is one of them.
const CHANGES: usize = 31;
/// Number of watchers that follow the one etcd at the same time, each for a host of its own.
const WATCHERS: usize = 1_000;
/// Time for which etcd stays stopped before it is restarted.
const AWAY: Duration = Duration::from_secs(5);
/// Upper limit of every wait in this benchmark; a healthy run never reaches it.
const DEADLINE: Duration = Duration::from_secs(120);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Etcd {
    directory: tempfile::TempDir,
    port: u16,
    peer_port: u16,
    process: Option<Child>,
    client: reqwest::Client,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    async fn start() -> Outcome<Etcd> {
        let port = || Ok::<_, std::io::Error>(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let provider = rustls::crypto::ring::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?;
        let directory = tempfile::tempdir()?;
        let mut etcd = Etcd { directory, port: port()?, peer_port: port()?, process: None, client };
        etcd.restart().await?;
        Ok(etcd)
    }

    async fn restart(&mut self) -> Outcome<()> {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(command.spawn().map_err(|error| format!("etcd: {error}; apt-get install etcd-server"))?);
        let begun = Instant::now();
        loop {
            let health = self.client.get(format!("{client}/health")).send().await;
            if health.is_ok_and(|health| health.status().is_success()) {
                return Ok(());
            }
            if begun.elapsed() > DEADLINE {
                return Err("etcd does not come".into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ignored = process.kill();
            let _status = process.wait();
        }
    }

    async fn put(&self, documents: &[(String, String)]) -> Outcome<()> {
        for chunk in documents.chunks(100) {
            let puts: Vec<_> = chunk
                .iter()
                .map(|(key, value)| {
                    let key = BASE64.encode(format!("/peerpair/{key}"));
                    json!({"request_put": {"key": key, "value": BASE64.encode(value)}})
                })
                .collect();
            let url = format!("http://127.0.0.1:{}/v3/kv/txn", self.port);
            let body = json!({"success": puts}).to_string();
            self.client.post(url).body(body).send().await?.error_for_status()?;
        }
        Ok(())
    }

    fn resident(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| resident(&process.id().to_string()))
    }
}

/// Returns the resident memory of a process in kilobytes, read from `/proc/<process>/status`.
fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let cell = status.lines().find(|cell| cell.starts_with("VmRSS:")).unwrap_or_default();
    cell.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0)
}

fn test(n: u32, to: &str, send_every: &str) -> String {
    json!({
        "id": format!("00000000-0000-4000-8000-{n:012x}"), "description": format!("test {n}"),
        "from_host": "b", "from": "127.0.0.1:0", "to_host": "a", "to": to, "send_every": send_every,
    })
    .to_string()
}

/// Measures the time from the write of one changed test, among many, to its first probe at the new destination.
async fn change() -> Outcome<()> {
    let etcd = Etcd::start().await?;
    let (sockets, sink) =
        ([UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?], UdpSocket::bind("127.0.0.1:0")?);
    let prefetch_hint = sink.local_addr()?.to_string();
    let key = |n: u32| format!("tests/b/{n:06}");
    let mut documents: Vec<_> = (1..TESTS).map(|n| (key(n), test(n, &prefetch_hint, "60s"))).collect();
    documents.push((key(0), test(0, &sockets[0].local_addr()?.to_string(), "10ms")));
    etcd.put(&documents).await?;
    let directory = tempfile::tempdir()?;
    let text = format!(
        "host = \"b\"\nstate_dir = \"state\"\n[store]\nendpoints = [\"http://127.0.0.1:{}\"]\n[web]\nlisten = \"\"\n[log]\nlevel = \"debug\"\n",
        etcd.port
    );
    std::fs::write(directory.path().join("peerpair.toml"), text)?;
    let log = directory.path().join("log");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_peerpair"))
        .args(["run", "--config"])
        .arg(directory.path().join("peerpair.toml"))
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let arrived = |socket: &UdpSocket| -> std::io::Result<()> {
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.recv(&mut [0; 2048]).map(|_| ())
    };
    arrived(&sockets[0])?;
    let mut times = Vec::new();
    for n in 1..=CHANGES {
        // Let the agent finish the work that follows the previous change.
        sleep(Duration::from_millis(1500)).await;
        let socket = &sockets[n % 2];
        socket.set_nonblocking(true)?;
        while socket.recv(&mut [0; 2048]).is_ok() {}
        socket.set_nonblocking(false)?;
        let begun = Instant::now();
        etcd.put(&[(key(0), test(0, &socket.local_addr()?.to_string(), "10ms"))]).await?;
        arrived(socket)?;
        times.push(begun.elapsed());
    }
    times.sort();
    let (resident, text) = (resident(&agent.id().to_string()), std::fs::read_to_string(log)?);
    agent.kill()?;
    agent.wait()?;
    let touched = text.lines().filter(|cell| cell.contains("plan changed changes=1")).count();
    println!("one test changed among {TESTS}, from its write to its first probe (every 10 ms) at its new place:");
    println!("  fastest {:?}, median {:?}, slowest {:?}", times[0], times[CHANGES / 2], times[CHANGES - 1]);
    println!("  {touched} of {CHANGES} changes touched one test and nothing else; agent {} MB", resident >> 10);
    Ok(())
}

/// Measures how quickly watchers receive events again after etcd was killed and restarted, and the memory per
/// watcher.
async fn watchers() -> Outcome<()> {
    let mut etcd = Etcd::start().await?;
    let documents = (0..WATCHERS as u32).map(|n| (format!("tests/h{n}/x"), test(n, "127.0.0.1:9", "1s")));
    etcd.put(&documents.collect::<Vec<_>>()).await?;
    let before = (etcd.resident(), resident("self"));
    let (events, mut received) = mpsc::unbounded_channel();
    for n in 0..WATCHERS {
        let endpoints = vec![format!("http://127.0.0.1:{}", etcd.port)];
        let config = StoreConfig { endpoints, ..StoreConfig::default() };
        let store = Store::new(&config, ReadScope::Host(format!("h{n}")))?;
        let (sender, mut own) = mpsc::channel(4);
        tokio::task::spawn_local(reflect(store, sender));
        let events = events.clone();
        tokio::spawn(async move {
            while let Some(event) = own.recv().await {
                if events.send((n, event)).is_err() {
                    return;
                }
            }
        });
    }
    let begun = Instant::now();
    let mut listed = 0;
    while listed < WATCHERS {
        let (_, event) = timeout(DEADLINE, received.recv()).await?.ok_or("no watcher is left")?;
        listed += usize::from(matches!(event, StoreEvent::Listed(_)));
    }
    println!("{WATCHERS} watchers listed after {:?}", begun.elapsed());
    sleep(Duration::from_secs(2)).await;
    let after = (etcd.resident(), resident("self"));
    let each = |before: u64, after: u64| after.saturating_sub(before) / WATCHERS as u64;
    println!("memory per watcher: etcd {} kB, client {} kB", each(before.0, after.0), each(before.1, after.1));

    etcd.kill();
    sleep(AWAY).await;
    etcd.restart().await?;
    let back = Instant::now();
    let mut returned = vec![None; WATCHERS];
    while returned.iter().any(Option::is_none) {
        let (n, event) = timeout(DEADLINE, received.recv()).await?.ok_or("no watcher is left")?;
        if !matches!(event, StoreEvent::Lost(_)) {
            returned[n].get_or_insert(back.elapsed());
        }
    }
    let mut times: Vec<Duration> = returned.into_iter().flatten().collect();
    times.sort();
    println!(
        "back after etcd was away for {AWAY:?}: median {:?}, last {:?}; watchers in each 200 ms:",
        times[WATCHERS / 2],
        times[WATCHERS - 1]
    );
    let slots = times[WATCHERS - 1].as_millis() as usize / 200 + 1;
    let in_slot = |slot: usize| times.iter().filter(|time| time.as_millis() as usize / 200 == slot).count();
    println!("  {:?}", (0..slots).map(in_slot).collect::<Vec<_>>());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|argument| argument == name);
    if wants("change") {
        change().await?;
    }
    if wants("watchers") {
        tokio::task::LocalSet::new().run_until(watchers()).await?;
    }
    Ok(())
}
