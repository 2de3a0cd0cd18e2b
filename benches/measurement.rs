//! Benchmarks of sending and receiving probes, measured alternately with a bare socket in the same run: the ratios
//! are the results that can be compared between runs and machines.
//!
//! Run with `cargo bench --bench measurement -- [send|receive|sign|memory|agent|flood]`; without an argument, all of
//! them run.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and may fail")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;

use peerpair::io::net::recv_batch::Batch;
use peerpair::io::net::udp::Socket;
use peerpair::io::shared::SharedState;
use peerpair::io::time;
use peerpair::listener::{self, Listener};
use peerpair::messages::{ConditionReport, ListenerFact, PacerFact, Register, SenderContext, SenderFact};
use peerpair::pacer::{self, Pacer};
use peerpair::pure::base::time::WallTime;
use peerpair::pure::clock::error_estimate::{ClockQuality, DelayLimits, ErrorEstimate};
use peerpair::pure::judge::condition::Thresholds;
use peerpair::pure::judge::session::{Criteria, SessionPlan};
use peerpair::pure::measure::loss_window::LossLimits;
use peerpair::pure::stamp::flows::Flows;
use peerpair::pure::stamp::key::{Key, KeyChoice, KeyRing};
use peerpair::pure::stamp::packet::Probe;
use peerpair::pure::stamp::session_sender::{SenderPlan, Source};
use peerpair::pure::test::facts::TestFacts;
use peerpair::pure::test::id::TestId;
use peerpair::pure::test::role::Role;
use peerpair::pure::test::spec::Protocol;
use peerpair::pure::test::spec::{Mode, Wire};
use peerpair::sender::{self, Sender};

const TESTS: usize = 100_000;
const EVERY: Duration = Duration::from_secs(1);
/// Time to settle before a measurement: one and a half send intervals, so that every test has sent at least once.
const SETTLE: Duration = Duration::from_millis(1500);
/// Time per turn for which the bare socket receives the probes instead of the listener. With the interval of one
/// second, at most 1.9 s pass between two probes of a test: less than `expect_every`, so that no probe is missing.
const PAUSE: Duration = Duration::from_millis(900);
const MEASURED: Duration = Duration::from_secs(2);
const TURNS: usize = 9;

/// Runs a benchmark on core 1, while its traffic generator stays on core 0: whether a datagram lies in this core's
/// cache would otherwise affect the result more than anything else.
fn on_a_core(run: fn()) {
    let there = move || {
        stay_on(1);
        run();
    };
    std::thread::spawn(there).join().unwrap();
}

fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cores).unwrap();
}

fn main() {
    time::start();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if runs("send") {
        on_a_core(send);
    }
    if runs("receive") {
        on_a_core(receive);
    }
    if runs("sign") {
        sign();
    }
    if wanted == ["memory-of-expectations"] {
        memory_of_expectations();
    }
    if wanted == ["memory-of-senders"] {
        memory_of_senders();
    }
    if runs("memory") {
        println!("memory per test, {TESTS} tests, with what the plan holds of them:");
        // Run every part in a process of its own: memory freed by an earlier part would be reused and not counted.
        for part in ["memory-of-expectations", "memory-of-senders"] {
            Command::new(std::env::current_exe().unwrap()).arg(part).status().unwrap();
        }
    }
    if runs("agent") {
        agent();
    }
    if runs("flood") {
        flood();
    }
}

fn facts(n: usize) -> Arc<TestFacts> {
    let host = format!("host-{n}");
    Arc::new(TestFacts {
        id: TestId::of_set("bench", &host, "here"),
        protocol: Protocol::Udp,
        description: "bench".into(),
        from_host: host,
        from: "127.0.0.1:0".into(),
        to_host: "here".into(),
        to: "127.0.0.1:8620".into(),
        tags: [].into(),
        set: Some("bench".into()),
    })
}

fn limits() -> DelayLimits {
    DelayLimits {
        max_latency: Some(Duration::from_millis(5)),
        clear_latency: Duration::MAX,
        egregious_latency: Duration::from_secs(10),
    }
}

fn expected(n: usize, criteria: &Arc<Criteria>) -> SessionPlan {
    SessionPlan { test: facts(n), from_address: None, any_of: None, criteria: criteria.clone() }
}

fn criteria(keys: Option<KeyChoice>) -> Criteria {
    Criteria {
        role: Role::Receiver,
        mode: Mode::OneWay,
        expect_every: EVERY * 2,
        has_timeout: true,
        thresholds: Thresholds::in_a_row(3, 3),
        limits: limits(),
        max_each_way: None,
        max_above_baseline: None,
        loss: LossLimits { max_loss_ppm: None, max_jitter: None, loss_window: Duration::from_secs(60) },
        flows: Flows::default(),
        keys,
        startup_grace: Duration::from_secs(30),
        max_pause: Duration::from_secs(300),
    }
}

fn plan(n: usize, destination: SocketAddr, keys: Option<KeyChoice>) -> Arc<SenderPlan> {
    Arc::new(SenderPlan {
        test: facts(n),
        source: Source { address: "127.0.0.1:0".parse().unwrap(), interface: None },
        source_address: None,
        destination,
        send_every: EVERY,
        thresholds: Thresholds::in_a_row(3, 3),
        max_pause: Duration::ZERO,
        startup_grace: Duration::from_secs(30),
        wire: Wire::Stamp,
        flows: Flows::default(),
        keys,
        answers: None,
    })
}

fn shared() -> SharedState {
    let shared = SharedState::new();
    shared.set_clock(ClockQuality { synchronized: true, error: Duration::from_micros(100) });
    shared.set_keys(Arc::new(KeyRing::new([Key::new(1, [7; 32])], Some(1))));
    shared
}

/// Stand-in for the watcher: receives the facts of listeners, senders and pacers, and discards them.
struct Parent;

impl Actor for Parent {
    type Context = Context<Self>;
}

impl Handler<ConditionReport> for Parent {
    type Result = ();
    fn handle(&mut self, _: ConditionReport, _: &mut Self::Context) {}
}

impl Handler<ListenerFact> for Parent {
    type Result = ();
    fn handle(&mut self, _: ListenerFact, _: &mut Self::Context) {}
}

impl Handler<SenderFact> for Parent {
    type Result = ();
    fn handle(&mut self, _: SenderFact, _: &mut Self::Context) {}
}

impl Handler<PacerFact> for Parent {
    type Result = ();
    fn handle(&mut self, _: PacerFact, _: &mut Self::Context) {}
}

/// Returns the CPU time, user and system, that this thread has used so far.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let both = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(both).unwrap())
}

fn per(cpu: Duration, count: u64) -> f64 {
    cpu.as_nanos() as f64 / count.max(1) as f64
}

/// Opens a socket that is never read: the kernel drops what is sent to it once its buffer is full.
fn hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn bare_send(count: u64) -> f64 {
    let (_hole, to) = hole();
    let socket = Socket::open("127.0.0.1:0".parse().unwrap(), None).unwrap();
    let (octets, to) = ([1; 108], SockaddrStorage::from(to));
    let before = cpu();
    for _ in 0..count {
        sendto(socket.as_raw_fd(), &octets, &to, MsgFlags::empty()).unwrap();
    }
    per(cpu() - before, count)
}

/// Costs per probe in nanoseconds of the bare socket (`floor`) and of the agent's own code (`own`), measured in
/// turns.
#[derive(Default)]
struct Turns {
    floor: Vec<f64>,
    own: Vec<f64>,
}

impl Turns {
    /// Returns the least, the median and the greatest ratio of own cost to floor. Each ratio compares two adjacent
    /// measurements, because the load by other programs on the machine varies.
    fn ratio(&self) -> (f64, f64, f64) {
        let mut ratios: Vec<f64> = self.floor.iter().zip(&self.own).map(|(floor, own)| own / floor).collect();
        ratios.sort_by(f64::total_cmp);
        (ratios[0], median(&ratios), ratios[ratios.len() - 1])
    }

    fn print(&self, what: &str) {
        let (least, ratio, most) = self.ratio();
        let own = median(&self.own);
        let share = own * TESTS as f64 / EVERY.as_nanos() as f64 * 100.0;
        println!(
            "  {what:20} {own:5.0} ns, bare {:4.0}: x {ratio:.2} ({least:.2} to {most:.2}), {share:.1} % of a core",
            median(&self.floor)
        );
    }
}

fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Measures all senders and their pacer on this thread; returns the CPU time per probe, and the time that the senders
/// took to start.
fn paced_send(keys: Option<KeyChoice>) -> (Turns, Duration) {
    let (_hole, to) = hole();
    System::new().block_on(async {
        let parent = Parent.start();
        let sockets: Arc<[Arc<Socket>]> =
            [Arc::new(Socket::open("127.0.0.1:0".parse().unwrap(), None).unwrap())].into();
        let plans: Vec<_> = (0..TESTS).map(|n| plan(n, to, keys.clone())).collect();
        let begun = Instant::now();
        let _senders = senders(plans, &sockets, &parent);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let started = begun.elapsed();
        tokio::time::sleep(SETTLE * 2).await;
        let mut turns = Turns::default();
        for _ in 0..TURNS {
            turns.floor.push(bare_send(300_000));
            tokio::time::sleep(SETTLE).await;
            let (before, began) = (cpu(), Instant::now());
            tokio::time::sleep(MEASURED).await;
            let (used, took) = (cpu() - before, began.elapsed());
            let probes = (TESTS as f64 * took.as_secs_f64() / EVERY.as_secs_f64()) as u64;
            turns.own.push(per(used, probes));
        }
        (turns, started)
    })
}

/// Starts one sender actor for each of the plans, enrolled with a pacer that they share.
fn senders(
    plans: impl IntoIterator<Item = Arc<SenderPlan>>,
    sockets: &Arc<[Arc<Socket>]>,
    parent: &Addr<Parent>,
) -> Vec<Addr<Sender>> {
    let pacer = Pacer::new(pacer::Args {
        source: plan(0, sockets[0].local(), None).source.clone(),
        sockets: sockets.clone(),
        reads: false,
        shared: shared(),
        parent: parent.clone().recipient(),
        reports: parent.clone().recipient(),
        generation: 1,
    })
    .start();
    let context = Arc::new(SenderContext {
        sockets: sockets.clone(),
        pacer: pacer.recipient::<Register>(),
        shared: shared(),
        parent: parent.clone().recipient(),
        reports: parent.clone().recipient(),
    });
    let begin = |plan| sender::Args { plan, context: context.clone(), generation: 1 };
    plans.into_iter().map(|plan| Sender::new(begin(plan)).start()).collect()
}

fn send() {
    println!("send, CPU per probe, {TESTS} tests at 1/s, one sender actor each, beside a bare sendto:");
    let (plain, started) = paced_send(None);
    plain.print("senders and pacer");
    paced_send(Some(KeyChoice::Fleet)).0.print("the same, signed");
    println!("  {TESTS} senders started in {:.2} s", started.as_secs_f64());
}

fn probe(test_id: TestId, sequence: u32) -> Probe {
    Probe {
        sequence,
        sent: time::now().wall,
        error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
        ssid: 1,
        flags: 0,
        flow: 0,
        key_id: 0,
        test_id,
        epoch: 1,
        send_every: EVERY,
        unsent: 0,
        clock_error: 1000,
        previous_lateness: 0,
    }
}

/// Traffic generator: sends probes of all tests in turn, at a fixed rate, from a thread of its own, to one of two
/// addresses.
struct Traffic {
    /// Index of the address that receives the probes now, or `NOBODY` to end the thread.
    to: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const NOBODY: usize = usize::MAX;

impl Traffic {
    /// Starts the thread. With `scattered`, the probes' timestamps lie ten microseconds to one second in the past,
    /// distributed logarithmically: the widest range of delays that a network can produce.
    fn start(to: [SocketAddr; 2], rate: f64, key: Option<Key>, scattered: bool) -> Self {
        let ids: Vec<TestId> = (0..TESTS).map(|n| facts(n).id).collect();
        let wanted = Arc::new(AtomicUsize::new(0));
        let chosen = wanted.clone();
        let thread = std::thread::spawn(move || {
            stay_on(0);
            let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
            let (mut begun, mut sent, mut octets) = (Instant::now(), 0u64, [0; 128]);
            let (mut before, mut places) = (0, [0u64; 2]);
            loop {
                let place = chosen.load(Ordering::Relaxed);
                if place == NOBODY {
                    return;
                }
                if std::mem::replace(&mut before, place) != place {
                    (begun, sent) = (Instant::now(), 0);
                }
                let due = (begun.elapsed().as_secs_f64() * rate) as u64;
                while sent < due {
                    // Number the probes to every address separately, so that both addresses receive consecutive
                    // sequence numbers.
                    let n = places[place];
                    let mut probe = probe(ids[n as usize % TESTS], (n / TESTS as u64) as u32);
                    if scattered {
                        let delay = 1e4 * 1e5f64.powf(fastrand::f64());
                        probe.sent = WallTime::from_unix_nanos(probe.sent.unix_nanos() - delay as u64);
                    }
                    let room = if key.is_some() { 128 } else { 108 };
                    let len = probe.write(&mut octets[..room], key.as_ref());
                    let _ = socket.send_to(&octets[..len], to[place]);
                    places[place] += 1;
                    sent += 1;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Traffic { to: wanted, thread: Some(thread) }
    }

    fn send_to(&self, place: usize) {
        self.to.store(place, Ordering::Relaxed);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.send_to(NOBODY);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Receives datagrams in batches with the control messages that a listener requests, and polls as often as a busy
/// listener.
fn bare_receive(socket: &Socket, batch: &mut Batch, during: Duration) -> f64 {
    let (begun, before, mut count) = (Instant::now(), cpu(), 0u64);
    while begun.elapsed() < during {
        std::thread::sleep(Duration::from_millis(4));
        while let Ok(some @ 1..) = batch.receive(socket.as_fd()) {
            count += some as u64;
        }
    }
    per(cpu() - before, count)
}

fn listener(socket: Arc<Socket>, criteria: Criteria, parent: &Addr<Parent>) -> Addr<Listener> {
    let criteria = Arc::new(criteria);
    let args = listener::Args {
        address: socket.local(),
        socket,
        names: Vec::new(),
        expected: (0..TESTS).map(|n| expected(n, &criteria)).collect(),
        shared: shared(),
        parent: parent.clone().recipient(),
        reports: parent.clone().recipient(),
        generation: 1,
    };
    Listener::new(args).start()
}

fn listened(keys: Option<KeyChoice>) -> Turns {
    const OWN: usize = 0;
    const BARE: usize = 1;
    let key = keys.as_ref().map(|_| Key::new(1, [7; 32]));
    System::new().block_on(async {
        let parent = Parent.start();
        let open = || Arc::new(Socket::open("127.0.0.1:0".parse().unwrap(), None).unwrap());
        let (socket, bare) = (open(), open());
        let _listener = listener(socket.clone(), criteria(keys), &parent);
        let rate = TESTS as f64 / EVERY.as_secs_f64();
        let source = Traffic::start([socket.local(), bare.local()], rate, key, false);
        tokio::time::sleep(SETTLE * 2).await;
        let (mut turns, mut batch) = (Turns::default(), Batch::default());
        for _ in 0..TURNS {
            source.send_to(BARE);
            turns.floor.push(bare_receive(&bare, &mut batch, PAUSE));
            source.send_to(OWN);
            tokio::time::sleep(SETTLE).await;
            let (before, began) = (cpu(), Instant::now());
            tokio::time::sleep(MEASURED).await;
            let (used, took) = (cpu() - before, began.elapsed());
            turns.own.push(per(used, (rate * took.as_secs_f64()) as u64));
        }
        turns
    })
}

fn receive() {
    println!("receive, CPU per probe, {TESTS} tests at 1/s, beside a bare recvmmsg:");
    listened(None).print("listener");
    listened(Some(KeyChoice::Fleet)).print("the same, signed");
}

/// Measures the cost that a signature adds to encoding and to verifying one probe, without any input or output.
fn sign() {
    const ROUNDS: u64 = 2_000_000;
    let key = Key::new(1, [7; 32]);
    let mut octets = [0; 128];
    let timed = |mut each: Box<dyn FnMut(u32) -> bool>| {
        let before = cpu();
        let all = (0..ROUNDS as u32).filter(|n| each(std::hint::black_box(*n))).count();
        std::hint::black_box(all);
        per(cpu() - before, ROUNDS)
    };
    let probe = probe(facts(0).id, 0);
    let signed_len = probe.write(&mut octets, Some(&key));
    let (written, signing) = (probe.clone(), key.clone());
    let mut room = octets;
    let write = |key: Option<Key>| {
        let mut probe = written.clone();
        timed(Box::new(move |n| {
            probe.sequence = n;
            probe.write(&mut room, key.as_ref()) > 0
        }))
    };
    let (plain, signed) = (write(None), write(Some(signing)));
    let check = timed(Box::new(move |_| Probe::is_signed(std::hint::black_box(&octets[..signed_len]), &key)));
    println!(
        "signature: writing a probe takes {plain:.0} ns, signed {signed:.0} ns (+ {:.0}); checking one {check:.0} ns",
        signed - plain
    );
}

/// Returns the resident memory of this process in octets, for pages of 4096 octets.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Prints the memory per receive session, with histograms as large as a network can make them at one probe per
/// second.
fn memory_of_expectations() {
    System::new().block_on(async {
        let parent = Parent.start();
        let socket = Arc::new(Socket::open("127.0.0.1:0".parse().unwrap(), None).unwrap());
        let to = socket.local();
        let _source = Traffic::start([to, to], TESTS as f64, None, true);
        let before = resident();
        // Without a latency limit, no latency alarm is raised, whose text would be counted too.
        let patient = Criteria { limits: DelayLimits { max_latency: None, ..limits() }, ..criteria(None) };
        let _listener = listener(socket, patient, &parent);
        // After 370 s, at least one slice of every statistics interval has ended and is archived.
        tokio::time::sleep(Duration::from_secs(370)).await;
        println!("  expectation          {:6} octets", (resident() - before) / TESTS);
    });
}

fn memory_of_senders() {
    let (_hole, to) = hole();
    System::new().block_on(async {
        let parent = Parent.start();
        let sockets: Arc<[Arc<Socket>]> =
            [Arc::new(Socket::open("127.0.0.1:0".parse().unwrap(), None).unwrap())].into();
        let before = resident();
        let senders = senders((0..TESTS).map(|n| plan(n, to, None)), &sockets, &parent);
        tokio::time::sleep(Duration::from_secs(3)).await;
        println!("  sender               {:6} octets", (resident() - before) / senders.len());
    });
}

/// Agent process that is killed when this value is dropped.
struct Running {
    child: Child,
    /// Time at which the agent had read its documents.
    connected: Instant,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a whole agent with N tests that it sends to itself, and waits until its store is connected.
fn run_agent(tests: usize) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let documents = directory.path().join("documents/tests/a");
    std::fs::create_dir_all(&documents).unwrap();
    for n in 0..tests {
        let id = facts(n).id;
        let text = format!(
            r#"{{"id":"{id}","description":"{n}","from_host":"a","from":"127.0.0.1:0","to_host":"a","to":"127.0.0.1:28620","send_every":"1s"}}"#
        );
        std::fs::write(documents.join(format!("{n}.json")), text).unwrap();
    }
    let bootstrap = "host = \"a\"\nstate_dir = \"state\"\n[store]\nkind = \"dir\"\npath = \"documents\"\n[web]\nlisten = \"127.0.0.1:28650\"\n";
    std::fs::write(directory.path().join("peerpair.toml"), bootstrap).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command.args(["run", "--config"]).arg(directory.path().join("peerpair.toml"));
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    lines.find(|cell| cell.contains("store connected")).expect("an agent that reads its documents");
    let connected = Instant::now();
    std::thread::spawn(|| lines.for_each(drop));
    Running { child, connected, _directory: directory }
}

/// Returns the CPU time that another process has used so far, and its resident memory in octets.
fn usage_of(child: &Child) -> (Duration, usize) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (Duration::from_millis(ticks * 10), fields[21].parse::<usize>().unwrap() * 4096)
}

/// Measures the CPU time and memory of a whole agent: sending, receiving, the alarm engine, and the clock check each
/// second.
fn agent() {
    for (tests, wait, during) in [(100, 30, 60), (20_000, 30, 20), (TESTS, 60, 20)] {
        let running = run_agent(tests);
        let begun = running.connected;
        let up = || {
            let found = UdpSocket::bind("127.0.0.1:28620").is_err();
            found.then_some(())
        };
        while up().is_none() {
            std::thread::sleep(Duration::from_millis(10));
            assert!(begun.elapsed() < Duration::from_secs(60), "never came up");
        }
        let started = begun.elapsed();
        std::thread::sleep(Duration::from_secs(wait));
        let (before, _) = usage_of(&running.child);
        std::thread::sleep(Duration::from_secs(during));
        let (after, resident) = usage_of(&running.child);
        let probes = tests as u64 * during;
        println!(
            "whole agent, {tests} tests to itself at 1/s: {:.1} us of CPU per probe, {:.1} % of a core, {} MB ({} octets a test, both ends), bound {:.2} s after its documents came",
            per(after - before, probes) / 1e3,
            (after - before).as_secs_f64() / during as f64 * 100.0,
            resident >> 20,
            resident / tests,
            started.as_secs_f64()
        );
        drop(running);
    }
}

/// Measures how late a timeout is detected while two threads flood the listener with datagrams that are not probes.
fn flood() {
    const SILENT_AFTER: Duration = Duration::from_millis(1500);
    static DOWN: AtomicU64 = AtomicU64::new(0);
    struct Watching(Instant);
    impl Actor for Watching {
        type Context = Context<Self>;
    }
    impl Handler<ListenerFact> for Watching {
        type Result = ();
        fn handle(&mut self, _: ListenerFact, _: &mut Self::Context) {}
    }
    impl Handler<ConditionReport> for Watching {
        type Result = ();
        fn handle(&mut self, ConditionReport(change): ConditionReport, _: &mut Self::Context) {
            if matches!(change.verdict, peerpair::pure::alarm::change::Verdict::Violated(_)) && change.test.is_some() {
                let _first =
                    DOWN.compare_exchange(0, self.0.elapsed().as_millis() as u64, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
    let taken = System::new().block_on(async {
        let socket = Arc::new(Socket::open("127.0.0.1:0".parse().unwrap(), None).unwrap());
        let to = socket.local();
        let begun = Instant::now();
        let watching = Watching(begun).start();
        let quick =
            Criteria { expect_every: Duration::from_millis(500), startup_grace: Duration::ZERO, ..criteria(None) };
        let args = listener::Args {
            address: to,
            socket: socket.clone(),
            names: Vec::new(),
            expected: vec![expected(0, &Arc::new(quick))],
            shared: shared(),
            parent: watching.clone().recipient(),
            reports: watching.recipient(),
            generation: 1,
        };
        let _listener = Listener::new(args).start();
        let stop = Arc::new(AtomicBool::new(false));
        let floods: Vec<_> = (0..2)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let socket = UdpSocket::bind("127.0.0.3:0").unwrap();
                    let mut sent = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        let _ = socket.send_to(b"not a probe, whatever it is", to);
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(6)).await;
        stop.store(true, Ordering::Relaxed);
        let sent: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
        sent as f64 / begun.elapsed().as_secs_f64()
    });
    let down = DOWN.load(Ordering::Relaxed);
    println!(
        "flood of {:.0} datagrams a second: a test that is due after {} ms went down after {down} ms",
        taken,
        SILENT_AFTER.as_millis()
    );
}
