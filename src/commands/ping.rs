//! Command `peerpair ping`: sends STAMP probes to a host and prints the round trip and one-way delays of each. `Run`
//! owns the sockets and counters of one invocation. The exit code is 0 if at least one probe was answered.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{OutputFormat, Ping};
use crate::config::report::wording::counted;
use crate::exit::{EXIT_FAILURE, EXIT_GOOD};
use crate::io::adjtimex::clock_quality;
use crate::io::net::dns::resolve;
use crate::io::net::recv_batch::{Batch, Datagram};
use crate::io::net::udp::{Envelope, Readiness, Socket, describe_send_error};
use crate::io::{keys, time};
use crate::pure::base::time::{Moment, WallTime};
use crate::pure::clock::error_estimate::{ClockQuality, ErrorEstimate};
use crate::pure::measure::histogram::DelayHistogram;
use crate::pure::stamp::flows::{CodePoints, Flow, Flows};
use crate::pure::stamp::key::Key;
use crate::pure::stamp::packet::{PROBE_LEN, Probe, SIGNED_LEN, flag};
use crate::pure::stamp::session_reflector::{Delays, Reply};
use crate::pure::test::id::TestId;

/// Port of STAMP and TWAMP Light (RFC 8762 section 4.1).
const STAMP_PORT: u16 = 862;
/// Interval of polling the sockets' error queues, which do not wake the task.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sends probes, prints each answer as it arrives, and prints a summary at the end.
pub fn ping(arguments: &Ping) -> anyhow::Result<i32> {
    time::start();
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        let destination = destination(&arguments.target).await?;
        let mut run = PingRun::new(arguments, destination)?;
        run.all().await?;
        run.sum_up()?;
        Ok(if run.received > 0 { EXIT_GOOD } else { EXIT_FAILURE })
    })
}

/// Resolves a target: `HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address.
async fn destination(target: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = target.parse() {
        return Ok(address);
    }
    if let Ok(addr) = target.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(addr, STAMP_PORT));
    }
    let (name, port) = match target.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().with_context(|| format!("`{port}` is not a port"))?),
        None => (target, STAMP_PORT),
    };
    let resolved = resolve([name.to_owned()].into()).await.remove(name);
    let addresses = resolved.context("not resolved")?.map_err(anyhow::Error::msg).with_context(|| name.to_owned())?;
    let addr = addresses.iter().min().with_context(|| format!("{name} has no address"))?;
    Ok(SocketAddr::new(*addr, port))
}

struct PingRun<'a> {
    arguments: &'a Ping,
    destination: SocketAddr,
    sockets: Vec<Arc<Socket>>,
    flows: Flows,
    key: Option<Key>,
    clock: ClockQuality,
    test_id: TestId,
    epoch: u64,
    sent: Vec<Sent>,
    received: u64,
    duplicates: u64,
    strangers: u64,
    round_trip: DelayHistogram,
    forward: DelayHistogram,
    backward: DelayHistogram,
    /// Greatest uncertainty of the one-way delays so far, from the error of both clocks.
    uncertainty: Duration,
}

struct Sent {
    at: WallTime,
    flow: usize,
    answered: bool,
}

impl<'a> PingRun<'a> {
    fn new(arguments: &'a Ping, destination: SocketAddr) -> anyhow::Result<Self> {
        let any = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse::<SocketAddr>()?;
        let from = match arguments.from {
            Some(addr) => SocketAddr::new(addr, 0),
            None => any,
        };
        let open = || Socket::open(from, None).map(Arc::new).with_context(|| format!("bind {from}"));
        let key = arguments.key.as_ref().map(|path| keys::read_key_file(arguments.key_id, path));
        Ok(PingRun {
            sockets: (0..arguments.flows).map(|_| open()).collect::<anyhow::Result<_>>()?,
            flows: Flows { ports: arguments.flows, dscp: CodePoints::of(&[arguments.dscp]), size: None },
            key: key.transpose().map_err(anyhow::Error::msg)?,
            clock: clock_quality(),
            test_id: TestId::random(fastrand::u128(..)),
            epoch: time::now().wall.unix_micros(),
            sent: Vec::new(),
            received: 0,
            duplicates: 0,
            strangers: 0,
            round_trip: DelayHistogram::default(),
            forward: DelayHistogram::default(),
            backward: DelayHistogram::default(),
            uncertainty: Duration::ZERO,
            arguments,
            destination,
        })
    }

    async fn all(&mut self) -> anyhow::Result<()> {
        let readiness: Vec<Readiness> =
            self.sockets.iter().map(|socket| Readiness::of(socket.clone())).collect::<Result<_, _>>()?;
        let mut interrupted = Box::pin(tokio::signal::ctrl_c());
        if matches!(self.arguments.format, OutputFormat::Text) {
            let octets = self.size();
            let flows = counted(self.flows.count(), "flow");
            print(&format!("ping {}: {octets} octets of UDP payload, {flows}", self.destination))?;
        }
        let begun = time::now().moment;
        for turn in 0..self.arguments.count {
            let due = begun + self.arguments.interval.saturating_mul(turn);
            if !self.take_until(due, &readiness, &mut interrupted).await? {
                return Ok(());
            }
            for flow in 0..self.flows.count() {
                self.send(flow)?;
            }
        }
        let deadline = time::now().moment + self.arguments.timeout;
        self.take_until(deadline, &readiness, &mut interrupted).await?;
        Ok(())
    }

    fn size(&self) -> usize {
        match (self.arguments.size, &self.key) {
            (Some(size), _) => usize::from(size),
            (None, Some(_)) => SIGNED_LEN,
            (None, None) => PROBE_LEN,
        }
    }

    fn send(&mut self, index: usize) -> anyhow::Result<()> {
        let flow = self.flows.get(index);
        let at = time::now().wall;
        let probe = Probe {
            sequence: u32::try_from(self.sent.len())?,
            sent: at,
            error_estimate: ErrorEstimate::encode(self.clock),
            ssid: Probe::ssid_of(self.test_id),
            flags: flag::REFLECT,
            flow: u8::try_from(index)?,
            key_id: 0,
            test_id: self.test_id,
            epoch: self.epoch,
            send_every: self.arguments.interval,
            unsent: 0,
            clock_error: u32::try_from(self.clock.error.as_nanos()).unwrap_or(u32::MAX),
            previous_lateness: 0,
        };
        let mut octets = vec![0; self.size()];
        let len = probe.write(&mut octets, self.key.as_ref());
        let envelope = Envelope { destination: self.destination, source: None, dscp: flow.dscp };
        self.sent.push(Sent { at, flow: index, answered: false });
        if let Err(error) = self.sockets[usize::from(flow.port)].send(&octets[..len], &envelope) {
            self.print_problem(self.sent.len() - 1, &describe_send_error(&error, self.destination))?;
        }
        Ok(())
    }

    /// Receives answers until the deadline or until every probe is answered; returns false if the user interrupts.
    async fn take_until(
        &mut self,
        deadline: Moment,
        readiness: &[Readiness],
        interrupted: &mut (impl Future<Output = std::io::Result<()>> + Unpin),
    ) -> anyhow::Result<bool> {
        loop {
            self.receive()?;
            let last_turn = self.sent.len() >= self.flows.count() * self.arguments.count as usize;
            if last_turn && self.sent.iter().all(|sent| sent.answered) {
                return Ok(true);
            }
            let ready = futures_util::future::select_all(readiness.iter().map(|ready| Box::pin(ready.readable())));
            let now = time::now().moment;
            if now >= deadline {
                return Ok(true);
            }
            // ICMP errors in the error queue do not wake the task, so the queue is polled.
            let look = deadline.min(now + LOOK_EVERY);
            tokio::select! {
                () = tokio::time::sleep_until(time::instant(look)) => {}
                _ = &mut *interrupted => return Ok(false),
                (ready, _, _) = ready => ready?,
            }
        }
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        for (port, socket) in self.sockets.clone().into_iter().enumerate() {
            let mut taken = Vec::new();
            while batch.receive(socket.as_fd())? > 0 {
                let copied = |datagram: Datagram<'_>| {
                    (datagram.octets.to_vec(), datagram.source, datagram.received, datagram.ttl)
                };
                taken.extend(batch.datagrams().map(copied));
            }
            for (octets, source, received, ttl) in taken {
                let back = received.unwrap_or(time::now().wall);
                self.on_answer(&octets, source, back, ttl)?;
            }
            for error in socket.take_path_errors() {
                let last = self.sent.iter().rposition(|sent| usize::from(self.flows.get(sent.flow).port) == port);
                self.print_problem(last.unwrap_or(0), &error.cause)?;
            }
        }
        Ok(())
    }

    fn on_answer(&mut self, octets: &[u8], source: SocketAddr, back: WallTime, ttl: Option<u8>) -> anyhow::Result<()> {
        let reply = Reply::decode(octets).filter(|_| source == self.destination);
        let number = reply.map_or(usize::MAX, |reply| reply.sequence as usize);
        let asked = |reply: &Reply| self.sent.get(number).is_some_and(|sent| sent.at.to_ntp() == reply.sent.to_ntp());
        let Some(reply) = reply.filter(asked) else {
            self.strangers += 1;
            return Ok(());
        };
        if let Some(key) = self.key.as_ref().filter(|key| !Reply::is_signed(octets, key)) {
            return self.print_problem(number, &format!("answered, but not signed with key {}", key.id()));
        }
        let sent = &mut self.sent[number];
        if std::mem::replace(&mut sent.answered, true) {
            self.duplicates += 1;
            return self.print_problem(number, "answered twice");
        }
        self.received += 1;
        let delays = reply.delays(back, self.clock);
        self.round_trip.record(delays.round_trip.nanos);
        self.forward.record(delays.forward.nanos);
        self.backward.record(delays.backward.nanos);
        self.uncertainty = self.uncertainty.max(delays.forward.uncertainty);
        self.print_answer(number, &delays, ttl)
    }

    fn print_answer(&self, number: usize, delays: &Delays, ttl: Option<u8>) -> anyhow::Result<()> {
        let flow = self.flows.get(self.sent[number].flow);
        let uncertainty = delays.forward.uncertainty;
        match self.arguments.format {
            OutputFormat::Json => print(
                &json!({
                    "sequence": number,
                    "flow": flow.port,
                    "round_trip": delays.round_trip.seconds(),
                    "forward": delays.forward.seconds(),
                    "backward": delays.backward.seconds(),
                    "uncertainty": uncertainty.as_secs_f64(),
                    "ttl": ttl,
                })
                .to_string(),
            ),
            OutputFormat::Text => {
                let (there, back) = (millis(delays.forward.nanos), millis(delays.backward.nanos));
                let directions = match uncertainty < Duration::from_secs(1) {
                    true => format!("there {there}, back {back} (± {})", millis_of(uncertainty)),
                    false => "the clocks are too uncertain for one-way delays".to_owned(),
                };
                let ttl = ttl.map(|ttl| format!(", ttl {ttl}")).unwrap_or_default();
                print(&format!(
                    "{}round trip {}, {directions}{ttl}",
                    self.name(number, flow),
                    millis(delays.round_trip.nanos)
                ))
            }
        }
    }

    fn print_problem(&self, number: usize, problem: &str) -> anyhow::Result<()> {
        let flow = self.flows.get(self.sent.get(number).map_or(0, |sent| sent.flow));
        match self.arguments.format {
            OutputFormat::Json => {
                print(&json!({"sequence": number, "flow": flow.port, "problem": problem}).to_string())
            }
            OutputFormat::Text => print(&format!("{}{problem}", self.name(number, flow))),
        }
    }

    fn name(&self, number: usize, flow: Flow) -> String {
        match self.flows.count() {
            1 => format!("{number}: "),
            _ => format!("{number} flow {}: ", flow.port),
        }
    }

    fn sum_up(&self) -> anyhow::Result<()> {
        let sent = self.sent.len();
        let lost = sent - usize::try_from(self.received)?;
        let dead: Vec<u8> = (0..self.flows.count())
            .filter(|flow| self.sent.iter().filter(|sent| sent.flow == *flow).all(|sent| !sent.answered))
            .map(|flow| self.flows.get(flow).port)
            .collect();
        let share = if sent == 0 { 0.0 } else { lost as f64 / sent as f64 };
        let known = self.uncertainty < Duration::from_secs(1);
        match self.arguments.format {
            OutputFormat::Json => print(
                &json!({
                    "sent": sent, "received": self.received, "lost": lost, "loss": share,
                    "duplicates": self.duplicates, "strangers": self.strangers, "dead_flows": dead,
                    "round_trip": spread(&self.round_trip),
                    "forward": spread(&self.forward), "backward": spread(&self.backward),
                    "uncertainty": self.uncertainty.as_secs_f64(),
                })
                .to_string(),
            ),
            OutputFormat::Text => {
                print(&format!(
                    "\n{sent} sent, {} answered, {:.1} % lost, {} answered twice",
                    self.received,
                    share * 100.0,
                    self.duplicates
                ))?;
                if self.flows.count() > 1 {
                    print(&format!("{} of {} flows dead{}", dead.len(), self.flows.count(), list(&dead)))?;
                }
                let all = [
                    ("round trip", &self.round_trip, true),
                    ("there", &self.forward, known),
                    ("back", &self.backward, known),
                ];
                for (name, spread, _) in all.into_iter().filter(|(_, spread, known)| *known && spread.count() > 0) {
                    let at = |share| millis(spread.quantile(share).unwrap_or(0));
                    let (min, max) = spread.range().unwrap_or_default();
                    print(&format!(
                        "{name}: min {}, p50 {}, p95 {}, p99 {}, max {}",
                        millis(min),
                        at(0.5),
                        at(0.95),
                        at(0.99),
                        millis(max)
                    ))?;
                }
                Ok(())
            }
        }
    }
}

fn list(ports: &[u8]) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    if ports.is_empty() { String::new() } else { format!(": {}", ports.join(", ")) }
}

fn spread(spread: &DelayHistogram) -> Value {
    let Some((min, max)) = spread.range() else { return Value::Null };
    let at = |share| spread.quantile(share).unwrap_or(0) as f64 / 1e9;
    json!({"min": min as f64 / 1e9, "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": max as f64 / 1e9})
}

fn millis(nanos: i64) -> String {
    format!("{:.3} ms", nanos as f64 / 1e6)
}

fn millis_of(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}
